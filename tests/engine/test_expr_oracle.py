"""Where the dialect is plain CEL, it gives what Google's implementation gives."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.engine import expr

cel = pytest.importorskip("cel_expr_python.cel", reason="the oracle is installed for development only")

EVENT: dict[str, Any] = {
    "data": {"i": 7, "j": -3, "d": 2.5, "s": "hello", "t": "", "b": True, "l": [1, 2, 3], "w": ["a", "hello"],
             "m": {"k": "v"}},
}  # fmt: skip
ENVIRONMENT = cel.NewEnv(variables={"event": cel.Type.DYN})

small = st.integers(-20, 20).map(str)
texts = st.text(alphabet="ahelo\n'\"\\é", max_size=4).map(json.dumps)
Texts = st.SearchStrategy[str]


def _integers(inner: Texts) -> Texts:
    nonzero = st.integers(1, 9).map(str) | st.just("-2")
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
        st.builds("({} {} {})".format, inner, st.sampled_from("/%"), nonzero),
        st.builds("-({})".format, inner),
        st.builds("({} > 0 ? {} : {})".format, inner, inner, inner),
        st.builds("[{}, {}].map(x, x + {})[1]".format, inner, inner, inner),
        st.builds("int(string({}))".format, inner),
        st.builds("duration(string({}) + 's').getMinutes()".format, small),
    )


def _doubles(inner: Texts) -> Texts:
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner),
        st.builds("-({})".format, inner),
        st.builds("double({})".format, integers),
    )


def _strings(inner: Texts) -> Texts:
    return st.one_of(
        st.builds("({} + {})".format, inner, inner),
        st.builds("string({})".format, integers),
        st.builds("string({} == 1)".format, integers),
        st.builds("({} == {} ? {} : {})".format, inner, inner, inner, inner),
    )


def _booleans(inner: Texts) -> Texts:
    return st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||", "==", "!="]), inner),
        st.builds("!({})".format, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
        st.builds("[{}, {}].{}(x, x == {})".format, integers, integers, st.sampled_from(MACROS), integers),
        st.builds("event.data.l.filter(x, x > {}) == [{}]".format, integers, integers),
        st.builds("event.data.w.{}(x, x == {} || {})".format, st.sampled_from(MACROS), strings, inner),
    )


MACROS = ["all", "exists", "exists_one"]
COMPARE = st.sampled_from("== != < <= > >=".split())
integers = st.recursive(
    small | st.sampled_from(["event.data.i", "event.data.j", "size(event.data.s)", "event.data.l[1]"]),
    _integers,
    max_leaves=6,
)
doubles = st.recursive(st.sampled_from(["event.data.d", "1.5", "-0.25", "1e3", "0.0"]), _doubles, max_leaves=5)
strings = st.recursive(
    texts | st.sampled_from(["event.data.s", "event.data.t", "event.data['s']"]), _strings, max_leaves=5
)
booleans = st.recursive(
    st.one_of(
        st.sampled_from(["true", "false", "event.data.b", "has(event.data.zz)", "has(event.data.i)"]),
        st.builds("{} {} {}".format, integers, COMPARE, integers),
        st.builds("{} {} {}".format, doubles, COMPARE, doubles),
        st.builds("{} {} {}".format, strings, COMPARE, strings),
        st.builds("({}).{}({})".format, strings, st.sampled_from(["contains", "startsWith", "endsWith"]), strings),
        st.builds("({}).matches({})".format, strings, st.sampled_from(["'h.l+'", "'^$'", "'[aeiou]{2}'", "r'\\d'"])),
        st.builds("{} in event.data.l".format, integers),
        st.builds("{} in event.data.m".format, strings),
        st.builds("type({}) == int".format, st.sampled_from(["1", "1.0", "'a'", "event.data.i"])),
        st.builds("timestamp('2026-01-31T10:00:00Z') + duration('{}s') {} timestamp('2026-01-31T10:00:05Z')".format,
                  small, COMPARE),
    ).map("({})".format),
    _booleans,
    max_leaves=8,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=2500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(integers, doubles, strings, booleans))
def test_a_strict_expression_means_what_cel_means(text: str) -> None:
    ours: object
    try:
        ours = expr.compile(text).evaluate({"event": EVENT})
    except expr.ExpressionError as err:
        assert "deeper" in str(err) or "4096" in str(err), (text, err)  # noqa: PT017
        return
    except expr.EvaluationError as err:
        ours = err
    theirs = ENVIRONMENT.compile(text, disable_check=True).eval(data={"event": EVENT})
    if theirs.type().name() == "*error*" or theirs.type() == cel.Type.ERROR:
        assert isinstance(ours, expr.EvaluationError), (text, ours, theirs.plain_value())
    else:
        found = theirs.plain_value()
        assert repr(ours) == repr(found) or ours == found, (text, ours, found)
        assert type(ours) is type(found), (text, ours, found)


@pytest.mark.parametrize(
    "text",
    [
        f"timestamp('2026-05-06T07:08:09.123Z').get{part}()"
        for part in ("FullYear Month Date DayOfMonth DayOfWeek DayOfYear Hours Minutes Seconds Milliseconds".split())
    ]
    + [
        "timestamp('2026-05-06T23:08:09Z').getDate('Asia/Tokyo')",
        "timestamp('2026-05-06T23:08:09Z').getHours('-02:30')",
        "string(timestamp('2026-05-06T23:08:09+02:00'))",
        "string(duration('1h30m'))",
        "duration('-90s').getMinutes()",
        "duration('36h').getHours()",
        "int(timestamp('2026-05-06T23:08:09Z'))",
        "timestamp('2026-05-06T00:00:00Z') - timestamp('2026-05-05T00:00:00Z') == duration('24h')",
        "string(1e21)",
        "string(1e-7)",
        "string(-0.5)",
        r"'\a\b\f\n\r\t\v\\\?\"\'\`\x41\u00e9\U0001F600\377'",
        r"r'\n' + R'\\'",
        "'''a\n'b'''",
        "{'a': {'b': [1, 2]}}.a.b[1]",
        "{1: 'x', 2: 'y'}[2]",
        "1 + 2 * 3 - 4 / 2 % 3",
        "true || false && false ? 'a' : 'b'",
        "-7 / 2 == -3 && -7 % 2 == -1",
        "[1, 2, 3].map(x, x > 1, x * x)",
        "[[1, 2], [3]].map(x, x.map(y, y + size(x)))",
        "1 < 2 == true",
        "!true == false",
        "-1 .exists".replace(" .exists", " + -1"),
    ],
)
def test_chosen_expressions_mean_what_cel_means(text: str) -> None:
    found = ENVIRONMENT.compile(text).eval(data={"event": EVENT}).plain_value()
    assert expr.compile(text).evaluate({"event": EVENT}) == found
