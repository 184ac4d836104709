"""The expression language: what each form means, what is refused and how, and that nothing runs away."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.engine import expr
from stepwell.engine.expr import EvaluationError, ExpressionError, equality_key

NOON_MS = 1_772_625_600_000
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
VARIABLES: dict[str, Any] = {
    "event": {
        "name": "shop/order.placed",
        "ts": NOON_MS,
        "data": {
            "id": 1,
            "id_double": 1.0,
            "amount": 20,
            "price": 9.5,
            "zero": 0,
            "name": "Ada",
            "empty": "",
            "yes": True,
            "no": False,
            "nothing": None,
            "tags": ["a", "b", "c"],
            "numbers": [1, 2, 3],
            "none": [],
            "user": {"id": "u1", "odd key": 5, "a.b": 6},
            "blank": {},
            "items": [{"sku": "x", "n": 1}, {"sku": "y", "n": 5}],
            "b64": "aGVsbG8=",
            "json": '{"a": [1, 2]}',
            "at": "2026-03-04T12:00:00Z",
            "in": 7,
        },
    },
    "async": {"data": {"id": 1.0, "userId": "u1"}},
}

DIALECT: list[tuple[str, object]] = [
    # literals
    ("1", 1),
    ("-1", -1),
    ("1.5", 1.5),
    (".5", 0.5),
    ("1e3", 1000.0),
    ("0x1F", 31),
    ("7u", 7),
    ("9223372036854775807", 2**63 - 1),
    ("-9223372036854775808", -(2**63)),
    ("true", True),
    ("false", False),
    ("null", None),
    ("'a'", "a"),
    ('"a"', "a"),
    ("'''a'b'''", "a'b"),
    ('"""a"b\nc"""', 'a"b\nc'),
    (r"r'\d'", r"\d"),
    (r'R"\d"', r"\d"),
    (r"'\n\t\'\"\\'", "\n\t'\"\\"),
    (r"'\x41\u00e9\U0001F600\101'", "Aé😀A"),
    ("'é'", "é"),
    ("''", ""),
    ("[1, 'a', [null]]", [1, "a", [None]]),
    ("[1, 2,]", [1, 2]),
    ("[]", []),
    ("{'a': 1, 'b': [2]}", {"a": 1, "b": [2]}),
    ("{'a': 1,}", {"a": 1}),
    ("{}", {}),
    ("1 // the rest is a comment", 1),
    ("// first\n1 +\n2", 3),
    # attributes
    ("event.data.name", "Ada"),
    ('event.data["name"]', "Ada"),
    ('event.data.user["odd key"]', 5),
    ('event["data"]["user"]["a.b"]', 6),
    ("event.data.in", 7),
    ("event.data.tags[0]", "a"),
    ("event.data.tags[1 + 1]", "c"),
    ("event.data.tags[9]", None),
    ("event.data.tags[-1]", None),
    ("event.data.tags.x", None),
    ("event.data.name.x", None),
    ("event.data.name[0]", None),
    ("event.data.missing", None),
    ("event.data.missing.deeper.still", None),
    ("event.data.missing[0].x", None),
    ("unknown.thing", None),
    ("[5, 6][1]", 6),
    ("[5, 6][1.0]", 6),
    ("{'a': {'b': 3}}.a.b", 3),
    ("{1: 'x'}[1]", "x"),
    ("{1: 'x'}[true]", None),
    # equality
    ("event.data.id == 1", True),
    ("event.data.id_double == 1", True),
    ("event.data.id == 1.0", True),
    ("event.data.id == async.data.id", True),
    ("event.data.id == '1'", False),
    ("event.data.id != '1'", True),
    ("event.data.yes == 1", False),
    ("1 == event.data.yes", False),
    ("event.data.no == 0", False),
    ("event.data.yes == true", True),
    ("event.data.id == true", False),
    ("true == 1", False),
    ("event.data.name == 'Ada'", True),
    ("'Ada' == event.data.name", True),
    ("event.data.tags == ['a', 'b', 'c']", True),
    ("event.data.numbers == [1.0, 2.0, 3.0]", True),
    ("[true] == [1]", False),
    ("[[1]] == [[1.0]]", True),
    ("{'a': 1} == {'a': 1.0}", True),
    ("{'a': 1} == {'b': 1}", False),
    ("{'a': true} == {'a': 1}", False),
    ("event.data.user.id == async.data.userId", True),
    ("9007199254740993 == 9007199254740992.0", False),
    # null and missing
    ("null == null", True),
    ("event.data.missing == null", True),
    ("event.data.nothing == null", True),
    ("event.data.missing == event.data.gone", True),
    ("event.data.missing == event.data.nothing", True),
    ("event.data.missing != null", False),
    ("event.data.zero != null", True),
    ("event.data.empty != null", True),
    ("event.data.no == null", False),
    ("event.data.missing == 0", False),
    ("event.data.missing == ''", False),
    ("event.data.missing < 5", True),
    ("event.data.missing <= 5", True),
    ("event.data.missing > 5", False),
    ("event.data.missing >= 5", False),
    ("event.data.missing < -5", True),
    ("event.data.missing > -5", False),
    ("event.data.missing > 'a'", False),
    ("5 > event.data.missing", True),
    ("5 < event.data.missing", False),
    ("event.data.tags[9] < 1", True),
    ("event.data.missing <= event.data.gone", True),
    ("event.data.missing < event.data.nothing", False),
    ("event.data.nothing < 5", True),
    ("event.data.nothing > -5", True),
    ("event.data.nothing >= 0", True),
    ("event.data.nothing < 'a'", True),
    ("null < 1", True),
    ("null >= null", True),
    ("event.data.missing + 5", 5),
    ("5 + event.data.missing", 5),
    ("'a' + event.data.missing", "a"),
    ("event.data.missing + event.data.gone", None),
    ("event.data.missing - 5", -5),
    ("event.data.missing * 5", 0),
    ("size(event.data.missing)", 0),
    ("event.data.missing.size()", 0),
    ("event.data.missing.contains('a')", False),
    ("event.data.name.contains(event.data.missing)", False),
    ("event.data.name.contains(null)", False),
    ("lowercase(event.data.missing)", False),
    ("event.data.missing.matches('a')", False),
    ("int(event.data.missing)", False),
    ("timestamp(event.data.missing)", False),
    ("int(null)", False),
    ("int(null).x", None),
    ("int(null) == false", True),
    ("!event.data.missing", True),
    # ordering
    ("event.data.amount > 10", True),
    ("10 < event.data.amount", True),
    ("event.data.amount > 10.5", True),
    ("event.data.price >= 9", True),
    ("event.data.amount > event.data.price", True),
    ("event.data.amount <= 20.0", True),
    ("'a' < 'b'", True),
    ("'B' < 'a'", True),
    ("false < true", True),
    ("-1 < 0", True),
    # arithmetic and text
    ("1 + 2 * 3", 7),
    ("(1 + 2) * 3", 9),
    ("10 - 2 - 3", 5),
    ("7 / 2", 3),
    ("-7 / 2", -3),
    ("-7 % 2", -1),
    ("7 % -2", 1),
    ("7.0 / 2", 3.5),
    ("7.5 % 2.0", 1.5),
    ("1 + 0.5", 1.5),
    ("-event.data.amount", -20),
    ("- -5", 5),
    ("1.0 / 0.0 > 1e300", True),
    ("'a' + 'b'", "ab"),
    ("'a' + 1", "a1"),
    ("1 + 'a'", "1a"),
    ("'a' + 1.0", "a1"),
    ("'a' + 1.5", "a1.5"),
    ("'a' + true", "atrue"),
    ("event.data.name + '-' + event.data.amount", "Ada-20"),
    ("[1] + [2]", [1, 2]),
    # logic
    ("true && false", False),
    ("true || false", True),
    ("!true", False),
    ("!!'a'", True),
    ("event.data.name && event.data.amount", 20),
    ("event.data.empty && event.data.amount", ""),
    ("event.data.empty || 'default'", "default"),
    ("event.data.missing || event.data.zero || 'last'", "last"),
    ("event.data.zero || event.data.missing", None),
    ("event.data.none && 'lists are true'", "lists are true"),
    ("event.data.blank && 'maps are true'", "maps are true"),
    ("double('NaN') || 'nan is false'", "nan is false"),
    ("true || 1 / 0 == 1", True),
    ("false && 1 / 0 == 1", False),
    ("true || false && false", True),
    ("event.data.yes ? 'y' : 'n'", "y"),
    ("event.data.missing ? 'y' : 'n'", "n"),
    ("event.data.amount > 100 ? 'big' : event.data.amount > 10 ? 'medium' : 'small'", "medium"),
    ("true ? 1 : 1 / 0", 1),
    # membership
    ("'a' in event.data.tags", True),
    ("'z' in event.data.tags", False),
    ("1.0 in event.data.numbers", True),
    ("true in event.data.numbers", False),
    ("event.data.name in ['Ada', 'Bob']", True),
    ("'id' in event.data.user", True),
    ("'zz' in event.data.user", False),
    ("'a' in event.data.missing", False),
    ("[1] in [[1.0]]", True),
    ("!('a' in event.data.tags)", False),
    # macros
    ("has(event.data.name)", True),
    ("has(event.data.nothing)", True),
    ("has(event.data.missing)", False),
    ("has(event.data.missing.deeper)", False),
    ("has(event.data.name.length)", False),
    ("has(event.data['name'])", True),
    ("event.data.numbers.all(n, n > 0)", True),
    ("event.data.numbers.all(n, n > 1)", False),
    ("event.data.none.all(n, false)", True),
    ("event.data.missing.all(n, true)", False),
    ("event.data.items.exists(i, i.sku == 'y')", True),
    ("event.data.items.exists(i, i.sku == 'z')", False),
    ("event.data.missing.exists(i, true)", False),
    ("event.data.numbers.exists_one(n, n == 2)", True),
    ("event.data.numbers.exists_one(n, n > 1)", False),
    ("event.data.numbers.map(n, n * 2)", [2, 4, 6]),
    ("event.data.numbers.map(n, n > 1, n * 2)", [4, 6]),
    ("event.data.items.filter(i, i.n > 2).map(i, i.sku)", ["y"]),
    ("event.data.missing.filter(i, true)", []),
    ("event.data.user.exists(key, key == 'id')", True),
    ("[1, 2].all(x, [3, 4].exists(y, y == x + 2))", True),
    ("[1, 2].map(x, [3].map(x, x))", [[3], [3]]),
    ("event.data.numbers.map(event, event + 1)", [2, 3, 4]),
    ("[[1, 2], [3]].map(l, l.map(x, x + size(l)))", [[3, 4], [4]]),
    # functions
    ("size('abc')", 3),
    ("'abc'.size()", 3),
    ("event.data.tags.size()", 3),
    ("size({'a': 1})", 1),
    ("event.data.name.contains('d')", True),
    ("event.data.name.startsWith('A')", True),
    ("event.data.name.endsWith('A')", False),
    ("event.data.name.matches('^[A-Z]da$')", True),
    ("matches(event.data.name, 'x')", False),
    ("'a.b'.matches('a' + '.b')", True),
    ("int('12')", 12),
    ("int(3.9)", 3),
    ("int(-3.9)", -3),
    ("int(timestamp('1970-01-01T00:01:00Z'))", 60),
    ("double('1.5')", 1.5),
    ("double(1) / 2", 0.5),
    ("string(1)", "1"),
    ("string(1.0)", "1"),
    ("string(1.5)", "1.5"),
    ("string(true)", "true"),
    ("string(timestamp('2026-03-04T13:00:00+01:00'))", "2026-03-04T12:00:00Z"),
    ("string(duration('1h1ms'))", "3600.001s"),
    ("bool('true')", True),
    ("type(1) == int", True),
    ("type(1.5) == double", True),
    ("type('a') == string", True),
    ("type(event.data.missing) == null_type", True),
    ("type(event.data.tags) == list && type(event.data) == map", True),
    ("type(1) == type('1')", False),
    ("dyn(5)", 5),
    ("lowercase('ABC')", "abc"),
    ("uppercase(event.data.name)", "ADA"),
    ("b64decode(event.data.b64)", "hello"),
    ("json_parse(event.data.json).a[1]", 2),
    # time
    ("now() == timestamp('2026-03-04T12:00:00Z')", True),
    ("now_plus('1h') - now() == duration('60m')", True),
    ("now_minus('1d') < now()", True),
    ("date(event.ts) == now()", True),
    ("date('2026-03-04') < date(event.data.at)", True),
    ("date(1772625600) == now()", True),
    ("timestamp(1772625600) == now()", True),
    ("timestamp(event.data.at) + duration('1h') == now_plus('1h')", True),
    ("duration('1h') + duration('30m') == duration('90m')", True),
    ("duration('1h') - duration('30m') < duration('31m')", True),
    ("-duration('1h') < duration('0')", True),
    ("now() == event.data.at", False),
    ("now().getFullYear()", 2026),
    ("now().getMonth()", 2),
    ("now().getDate()", 4),
    ("now().getDayOfMonth()", 3),
    ("now().getDayOfWeek()", 3),
    ("now().getDayOfYear()", 62),
    ("now().getHours()", 12),
    ("now().getHours('America/New_York')", 7),
    ("now().getHours('+05:30')", 17),
    ("now().getMinutes('-05:30')", 30),
    ("now().getSeconds()", 0),
    ("timestamp('2026-01-01T00:00:00.25Z').getMilliseconds()", 250),
    ("duration('90m').getHours()", 1),
    ("duration('90m').getMinutes()", 90),
    ("duration('-90s').getMinutes()", -1),
    ("duration('1.5s').getMilliseconds()", 1500),
    ("now()", NOON),
    ("duration('1h')", timedelta(hours=1)),
]


@pytest.mark.parametrize(("text", "expected"), DIALECT, ids=[text for text, _ in DIALECT])
def test_the_dialect(text: str, expected: object) -> None:
    found = expr.compile(text).evaluate(VARIABLES, NOON_MS)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("", 0, "the expression is empty"),
        ("   // nothing", 0, "the expression is empty"),
        ("event.data.id === 1", 14, 'write "=="'),
        ("a !== 1", 2, 'write "!="'),
        ("a = 1", 2, 'write "==" to compare'),
        ("a & b", 2, 'write "&&"'),
        ("a | b", 2, 'write "||"'),
        ("a and b", 2, 'write "&&"'),
        ("not a", 0, 'write "!"'),
        ("a b", 2, 'found "b" at character 3: expected an operator or the end'),
        ("a ==", 4, "found the end"),
        ("(a", 2, 'expected ")" to close the parenthesis'),
        ("[1 2]", 3, 'expected "]" or "," here'),
        ("{'a' 1}", 5, 'expected ":"'),
        ("a ? b", 5, 'expected ":"'),
        ("a.", 2, 'expected a name after "."'),
        ("a.1", 1, "expected an operator"),
        ("'open", 0, "does not end"),
        ("'a\nb'", 0, "does not end"),
        ('"""open"', 0, "does not end"),
        (r"'\q'", 1, "escape"),
        (r"'\ud800'", 1, "no Unicode character"),
        ("b'a'", 0, "before a quote"),
        ("a # b", 2, "'#'"),
        ("é == 1", 0, 'event.data["name"]'),
        ("1abc", 1, "after a number"),
        ("1e999", 0, "too large"),
        ("9223372036854775808", 0, "64 bits"),
        ("1" * 5000, 4096, "4096"),
        ("1" * 100, 0, "64 bits"),
        ("toLowerCase(a)", 0, 'did you mean "lowercase"?'),
        ("a.startswith('x')", 2, 'did you mean "startsWith"?'),
        ("__import__('os')", 0, "unknown function"),
        ("lowercase()", 0, "called as lowercase(value)".replace("value", "text")),
        ("a.lowercase()", 2, "called as lowercase(text)"),
        ("contains('a', 'b')", 0, 'called as text.contains("part")'),
        ("has(a)", 0, "has(event.data.id)"),
        ("a.all(1, true)", 2, "items.all(x, x.price > 10)"),
        ("a.map(x)", 2, "needs a name and an expression"),
        ("a.matches('(')", 10, "bad regular expression"),
        (r"a.matches('(a)\\1')", 10, "bad regular expression"),
        ("Foo{a: 1}", 3, 'found "{"'),
    ],
)
def test_an_error_names_the_place_and_the_way_out(text: str, position: int, words: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        expr.compile(text)
    assert caught.value.position == position
    assert words in str(caught.value)
    assert f"at character {position + 1}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", "zero"),
        ("1 % 0", "zero"),
        ("'a' < 1", "cannot order a text and a number by <"),
        ("[1] < [2]", "cannot order a list and a list"),
        ("[1] > null", "cannot order"),
        ("9223372036854775807 + 1", "64 bits"),
        ("true + 1", 'cannot use "+" on a boolean and a number'),
        ("'a' - 'b'", 'cannot use "-" on a text and a text'),
        ("now() + now()", "cannot add two timestamps"),
        ("now() + 1", 'cannot use "+"'),
        ("timestamp('9999-12-31T00:00:00Z') + duration('1d')", "years 1 to 9999"),
        ("1 in 5", 'the right side of "in" is a number'),
        ("(5).all(x, true)", "cannot loop over a number"),
        ("size(5)", "size needs"),
        ("event.data.amount.contains('2')", "contains needs a text and got a number; convert it with string()"),
        ("int('x')", "no whole number"),
        ("int(true)", "cannot convert a boolean"),
        ("double('1x')", "no number"),
        ("int(1e300)", "64 bits"),
        ("timestamp('soon')", "timestamp() cannot convert"),
        ("duration('soon')", "'soon' is not a duration"),
        ("b64decode('***')", "base64"),
        ("b64decode('é')", "base64"),
        ("json_parse('{')", "not JSON"),
        ("now().getHours('Mars/Olympus')", "no time zone"),
        ("now().getHours('../../etc/passwd')", "no time zone"),
        ("event.ts.getHours()", "convert it with timestamp() or date()"),
        ("{'a': 1, 'a': 2}", "same key twice"),
        ("{true: 1}", "key of a map"),
        ("'a' + [1]", "cannot turn a list into text"),
        ("'a'.matches('(' + '')", "RE2 does not take"),
    ],
)
def test_what_has_no_value_says_why(text: str, words: str) -> None:
    program = expr.compile(text)
    with pytest.raises(EvaluationError) as caught:
        program.evaluate(VARIABLES, NOON_MS)
    assert words in str(caught.value)


def test_a_match_must_be_true_or_false() -> None:
    assert expr.compile("event.data.id == 1").matches(VARIABLES) is True
    assert expr.compile("event.data.id == 2").matches(VARIABLES) is False
    with pytest.raises(EvaluationError, match="gave a number where true or false is needed"):
        expr.compile("event.data.id").matches(VARIABLES)
    with pytest.raises(EvaluationError, match="gave missing or null"):
        expr.compile("event.data.missing").matches(VARIABLES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("async.data.userId == event.data.user.id", None),
        ("async.data.nope == event.data.user.id", "async.data.nope is missing or null"),
        ("async.data.userId == 5", "async.data.userId is a text, the right side is a number, and unlike types"),
        ("async.data.id == 1 && async.data.userId == 'u2'", "condition 2 of 2 is false"),
        ("async.data.userId > 5", "cannot order a text and a number"),
        ("async.data.userId", "gave a text"),
        ("async.data.tags.exists(t, true)", "the condition is false"),
    ],
)
def test_a_person_can_ask_why_an_event_did_not_match(text: str, words: str | None) -> None:
    found = expr.compile(text).explain(VARIABLES)
    assert (found is None) if words is None else (found is not None and words in found)


def test_a_program_tells_whether_it_calls_anything_and_what_it_reads() -> None:
    assert not expr.compile("async.data.id == event.data.id && !(async.data.n in [1, 2]) || true").uses_calls
    for text in ("has(a.b)", "size(a) == 1", "a.all(x, x)", "a.contains('b')", "now() > a", "true || size(a) == 1"):
        assert expr.compile(text).uses_calls, text
    program = expr.compile("async.data.a == evnt.data.a && [1].exists(x, x == event.y) && type(1) == int")
    assert program.variables == {"async", "evnt", "event"}


def test_equal_texts_share_one_program() -> None:
    assert expr.compile("event.shared == 1") is expr.compile("event.shared == 1")


def test_evaluation_leaves_the_variables_alone() -> None:
    before = json.dumps(VARIABLES)
    expr.compile("event.data.tags + ['d'] == event.data.numbers.map(n, n)").evaluate(VARIABLES)
    assert json.dumps(VARIABLES) == before


# ---- the fence


def test_three_thousand_parentheses_are_refused_cleanly() -> None:
    for text in ("(" * 3000, "(" * 2000 + "1" + ")" * 2000, "[" * 3000, "!" * 3000, "-" * 3000, "a." * 1500 + "a",
                 "1" + "+1" * 1500, "a?" * 1500, "f(" * 1500, "{1:" * 1000, "a" + "[0]" * 1000):  # fmt: skip
        with pytest.raises(ExpressionError):
            expr.compile(text)
    assert expr.compile("(" * 45 + "1" + ")" * 45).evaluate({}) == 1


def test_ten_kilobytes_are_refused() -> None:
    with pytest.raises(ExpressionError, match="10240 characters"):
        expr.compile("a" * 10240)


def test_a_long_list_of_alternatives_is_wide_and_not_deep() -> None:
    text = " || ".join(f"event.data.id == {number}" for number in range(160))
    assert expr.compile(text).matches({"event": {"data": {"id": 159}}})
    assert not expr.compile(text).matches({"event": {"data": {"id": 160}}})


def test_the_deepest_text_that_is_allowed_compiles_and_runs() -> None:
    nested = "event.a ? " * 40 + "1" + " : 2" * 40
    assert expr.compile(nested).evaluate({"event": {"a": True}}) == 1
    loops = "[1]" + ".all(x, [1].all(x, [1].all(x, [1].all(x, [1].all(x, [1].all(x, [1].all(x, [1]"
    assert expr.compile(loops + ".all(x, x > 0)" + ")" * 7).matches({}) is True
    with pytest.raises(ExpressionError, match="nested loops"):
        expr.compile("[1].all(x, " * 9 + "true" + ")" * 9)


@pytest.mark.parametrize(
    "text",
    [
        "l.all(a, l.all(b, l.all(c, a + b + c >= 0)))",
        "l.map(a, l.map(b, l.map(c, 1)))",
        "l.filter(a, l.filter(b, l.filter(c, true) == []) == []) == [1]",
        "l.map(a, l.map(b, s.contains('zzz')))",
        "l.map(a, l.map(b, b in l))",
        "l.map(a, l.map(b, l == l))",
        "l.map(a, l.map(b, lowercase(s)))",
        "l.all(a, l.all(b, s == same))",
        "l.all(a, l.all(b, s <= same))",
        "l.all(a, l.all(b, same.startsWith(s)))",
        "l.all(a, l.all(b, {s: 1}[same] == 1))",
        "l.all(a, l.all(b, same in {s: 1}))",
        "l.all(a, l.all(b, now_plus('1h') > now()))",
        "l.all(a, l.all(b, timestamp('2026-01-01').getHours('Asia/Tokyo') >= 0))",
        "l.map(a, l.map(b, s.matches('(x+x+)+y')))",
        "s.matches('(a?){500}(a){500}')",
        r"s.matches('(?i)(?:\\w{1,100}){1,9}q')",
        "l.map(a, p + a).all(q, s.matches(q))",
        "s.matches('(.*a){20}b')",
        "[json_parse(j)].all(x, l.all(y, x == json_parse(j)))",
        "[[1]]" + ".map(a, [a, a])" * 30,
        "[['aaaaaaaaaaaaaaaa']].map(a, a + a)" + ".map(a, a + a)" * 20,
        "['aaaaaaaaaaaaaaaa']" + ".map(a, a + a)" * 20,
        "['aaaaaaaaaaaaaaaa']" + ".map(a, a + a)" * 12 + ".map(a, l.map(b, l.map(c, a)))",
    ],
)
def test_what_runs_away_is_stopped(text: str) -> None:
    variables = {
        "l": list(range(200)),
        "s": "xa" * 50_000,
        "same": "".join(["xa"] * 50_000),
        "p": "x{1,90}y{1,90}(ab?)*",
        "j": json.dumps([1] * 5000),
    }
    with pytest.raises(EvaluationError, match=r"costs too much|more than 100000|too large"):
        expr.compile(text).evaluate(variables)


def test_two_loops_over_two_hundred_items_are_still_allowed() -> None:
    variables = {"l": list(range(200)), "m": list(range(200, 400))}
    assert not expr.compile("l.exists(a, m.exists(b, a == b))").matches(variables)


def test_deep_data_is_compared_without_recursion() -> None:
    def deep() -> list[Any]:
        value: list[Any] = []
        for _ in range(20_000):
            value = [value]
        return value

    assert expr.compile("a == b").matches({"a": deep(), "b": deep()})


def test_a_pattern_that_makes_others_backtrack_is_linear() -> None:
    assert not expr.compile("s.matches('^(a+)+$')").matches({"s": "a" * 5000 + "!"})


def test_a_result_that_shares_its_parts_cannot_explode_when_written_out() -> None:
    with pytest.raises(EvaluationError, match="costs too much"):
        expr.compile("[1]" + ".map(a, [a, a, a, a])" * 40).evaluate({})


# ---- nothing but our errors, nothing of the text in the code

names = st.sampled_from(["event", "async", "x", "__class__", "program", "meter", "t1", "c0", "lambda", "import", "int"])
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=True), st.text(max_size=5),
    st.integers(), st.sampled_from(["1h", "2026-01-01", "[1]", "aGk=", "a+", "("]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | names, inner, max_size=4),
    max_leaves=10,
)
literals = st.one_of(
    st.sampled_from(["null", "true", "false", "0", "1", "1.0", "-1", "''", "[]", "{}", "9223372036854775807", "1e308"]),
    st.text(max_size=6).map(lambda text: json.dumps(text).replace("\\ud", "\\u0")),
)


def _compounds(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from("== != < <= > >= + - * / % && || in".split())
    one = st.sampled_from("size int double string bool type timestamp date duration lowercase uppercase b64decode "
                          "json_parse now_plus now_minus dyn".split())  # fmt: skip
    method = st.sampled_from("contains startsWith endsWith matches getHours".split())
    macro = st.sampled_from("all exists exists_one map filter".split())
    return st.one_of(
        st.builds("({} {} {})".format, inner, binary, inner),
        st.builds("{}({})".format, one, inner),
        st.builds("({}).{}({})".format, inner, method, inner),
        st.builds("({}).{}(x, {})".format, inner, macro, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("{{{}: {}}}".format, inner, inner),
        st.builds("({}).{}".format, inner, names),
        st.builds("({})[{}]".format, inner, inner),
        st.builds("!({})".format, inner),
        st.builds("-({})".format, inner),
        st.builds("has(({}).{})".format, inner, names),
    )


expressions = st.recursive(literals | names | st.builds("{}.{}".format, names, names), _compounds, max_leaves=12)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(expressions, st.dictionaries(names, values), st.integers(-(10**16), 10**16))
def test_an_expression_gives_a_value_or_one_of_our_errors(text: str, variables: dict[str, Any], now: int) -> None:
    try:
        program = expr.compile(text)
    except ExpressionError as err:
        assert 0 <= err.position <= len(text)  # noqa: PT017
        return
    try:
        program.evaluate(variables, now)
    except EvaluationError:
        pass
    program_says = program.explain(variables, now)
    assert program_says is None or program_says


@settings(max_examples=1000, deadline=None)
@given(
    st.one_of(st.text(max_size=80), st.text(alphabet="ab.()[]{}'\"\\\n,:?!=&|<>+-*/%0123456789 eExXrRu_", max_size=60))
)
def test_any_text_compiles_or_is_refused_with_a_place(text: str) -> None:
    try:
        expr.compile(text)
    except ExpressionError as err:
        assert 0 <= err.position <= len(text)  # noqa: PT017


class _Spy(dict[str, Any]):
    """Variables that remember what was read from them."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def __missing__(self, name: str) -> Any:
        self.read.append(name)
        return None


@pytest.mark.parametrize(
    "name",
    ["__builtins__", "__import__", "exec", "open", "variables", "now", "meter", "t1", "c0", "program", "truthy",
     "lambda", "MISSES", "None", "True", "class", "__class__"],
)  # fmt: skip
def test_no_name_of_a_text_reaches_python(name: str) -> None:
    spy = _Spy()
    assert expr.compile(name).evaluate(spy) is None
    assert spy.read == [name]
    assert expr.compile(f"event.{name}.{name}").evaluate({"event": {}}) is None
    assert expr.compile(f"[1].map({name}, {name} + 1)").evaluate({}) == [2]


@pytest.mark.parametrize(
    "text",
    ["().__class__.__bases__", "''.__class__", "[].__class__.__base__.__subclasses__", "1.0.real", "now().year",
     "type(1).name", "int.name", "event.__class__", "'{0.__class__}'.format", "event.data.keys", "[1].append"],
)  # fmt: skip
def test_no_attribute_of_a_python_object_is_reachable(text: str) -> None:
    try:
        assert expr.compile(text).evaluate({"event": {"data": {}}}) is None
    except ExpressionError:
        pass


@given(st.text(max_size=30))
def test_a_literal_arrives_as_it_was_written(text: str) -> None:
    quoted = "".join(f"\\U{ord(letter):08x}" if not 0xD800 <= ord(letter) <= 0xDFFF else letter for letter in text)
    assert expr.compile(f"'{quoted}'").evaluate({}) == text
    assert expr.compile(f"event['{quoted}']").evaluate({"event": {text: 5}}) == 5


# ---- waits and their index


def test_a_wait_fixes_its_event_and_varies_the_candidate() -> None:
    wait = expr.compile("async.data.id == event.data.id && async.data.ok").bind({"data": {"id": 7}})
    assert wait.matches({"data": {"id": 7.0, "ok": True}})
    assert not wait.matches({"data": {"id": 8, "ok": True}})
    assert wait.equality() == ("data.id", "n:7")
    assert equality_key({"data": {"id": 7.0}}, "data.id") == "n:7"
    assert wait.explain({"data": {}}) is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("async.data.userId == 'u1'", ("data.userId", "s:u1")),
        ("'u1' == async.data.userId", ("data.userId", "s:u1")),
        ("async.data.n == event.data.amount", ("data.n", "n:14")),
        ("event.data.amount == async.data.n", ("data.n", "n:14")),
        ("async['data']['n'] == 1.0", ("data.n", "n:1")),
        ("async.data.n == -2", ("data.n", "n:-2")),
        ("async.data.n == 0", ("data.n", "n:0")),
        ("async.data.ok == true", ("data.ok", "b:1")),
        ("async.data.x > 5 && async.data.n == 1", ("data.n", "n:1")),
        ("async.data.x > 5 && (async.data.n == 1 && async.data.y)", ("data.n", "n:1")),
        ("async.data.n == null && async.data.m == 1", ("data.m", "n:1")),
        ("async.data.n == event.data.missing && async.data.m == 1", ("data.m", "n:1")),
        ("async.data.n == event.data.tags && async.data.m == 1", ("data.m", "n:1")),
        ("async.name == event.name", ("name", "s:shop/order.placed")),
        ("async.data.n == 1 || async.data.m == 1", None),
        ("!(async.data.n == 1)", None),
        ("async.data.n != 1", None),
        ("async.data.n == null", None),
        ("async.data.n == event.data.tags", None),
        ("async.data.n == async.data.m", None),
        ("async.data['a.b'] == 1", None),
        ("async.data.l[0] == 1", None),
        ("async == 1", None),
        ("event.data.id == 1", None),
        ("async.data.n == 1 ? true : false", None),
        ("async.data.n == event.data.id + 1", None),
    ],
)
def test_the_index_is_read_off_the_top_level_conjuncts(text: str, expected: tuple[str, str] | None) -> None:
    assert expr.compile(text).equality(VARIABLES["event"]) == expected


def test_keys_of_unlike_values_differ_and_odd_texts_are_hashed() -> None:
    keys = [equality_key({"v": value}, "v") for value in (1, True, "1", "b:1", "n:1", 0, False, "", 1.5, -1, 2**70)]
    assert len(set(keys)) == len(keys)
    assert None not in keys
    for text in ("a\x00b", "\ud800", "x" * 101):
        key = equality_key({"v": text}, "v")
        assert key is not None
        assert key.startswith("h:")
        assert key.isascii()
    assert equality_key({"v": None}, "v") is None
    assert equality_key({"v": [1]}, "v") is None
    assert equality_key({"v": float("nan")}, "v") is None
    assert equality_key({}, "v.w") is None


alike = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.0, -0.0, 1.0, 2.0, 1.5, 2.0**60, float("nan")]),
    st.sampled_from([2**60, 2**60 + 1]), st.sampled_from(["", "a", "1", "b"]), st.lists(st.integers(0, 1), max_size=1),
)  # fmt: skip
fields = st.sampled_from(["a", "b"])
events = st.fixed_dictionaries({"data": st.dictionaries(fields, alike | st.dictionaries(fields, alike)) | alike})
operands = st.one_of(
    st.sampled_from(["null", "true", "false", "0", "1", "1.0", "2", "''", "'a'", "'1'", "1.5", "[1]"]),
    st.builds("{}.data.{}".format, st.sampled_from(["event", "async"]), fields),
    st.builds("{}.data.{}.{}".format, st.sampled_from(["event", "async"]), fields, fields),
    st.builds("{}.data['{}']".format, st.sampled_from(["event", "async"]), fields),
)
conditions = st.recursive(
    st.builds("{} {} {}".format, operands, st.sampled_from(["==", "==", "==", "!=", "<", ">"]), operands),
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "&&", "||"]), inner),
    max_leaves=4,
)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@given(conditions, events, events)
def test_the_index_never_loses_a_match(text: str, event: dict[str, Any], candidate: dict[str, Any]) -> None:
    program = expr.compile(text)
    try:
        matched = program.matches({"event": event, "async": candidate})
    except EvaluationError:
        matched = False
    if matched and (indexed := program.equality(event)):
        path, key = indexed
        assert equality_key(candidate, path) == key


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(alike | values, alike | values)
def test_values_are_equal_exactly_when_their_keys_are(one: object, other: object) -> None:
    keys = equality_key({"v": one}, "v"), equality_key({"v": other}, "v")
    if None not in keys:
        assert (keys[0] == keys[1]) == expr.compile("a == b").evaluate({"a": one, "b": other})
