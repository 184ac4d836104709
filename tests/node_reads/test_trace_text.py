"""What a terminal shows of a run, letter for letter."""
# ruff: noqa: E501

import pytest

from stepwell.model import journal, message
from stepwell.model.ids import EventKey, RunId, step_id, ulid
from stepwell.node.reads.trace_text import Role, duration_text, lines, render
from tests.node_reads.story import NOON, Story, done, errored, event_asked, invoke, planned, sleep, wait


def shown(story: Story, after: int = 0) -> str:
    return render(story.trace(), story.now + after)


def test_a_run_of_many_kinds_of_steps() -> None:
    story = Story()
    story.reply(done("charge the card", {"n": 1}), took=240)
    story.reply(errored("send", "TimeoutError", "mail is slow")).due().reply(done("send"), took=1200)
    story.reply(sleep("rest", 90_000)).fire("rest")
    story.reply(wait("payment", "shop/paid", 3_600_000, "async.data.n == 1")).later(5000)
    story.tell(message.EventMatched(step_id("payment"), b"{}", "01EVENT"))
    story.reply(planned("left"), planned("right"))
    story.reply(done("right"), to="right", took=20).reply(done("left"), to="left", took=30)
    story.reply(invoke("ask", "shop-child", 5000))
    story.fire("ask").raised("Oops", "stumbled").due().returned(5)

    assert (
        shown(story)
        == """\
✔ COMPLETED  shop-bill  run 01KJWBG7G00000000000000007
  created 2026-03-04 12:00:00.000 UTC · queued 3 ms · took 1 m 44 s · 7 steps · 11 requests

✔ Run                     +3 ms  1 m 44 s
├─ ✔ charge the card      +3 ms    240 ms
├─ ✔ send               +246 ms     2.2 s  2 attempts
│  ├─ ✖ Attempt 0       +246 ms     10 ms  TimeoutError: mail is slow
│  └─ ✔ Attempt 1        +1.3 s     1.2 s
├─ ✔ rest                +2.5 s  1 m 30 s  sleep until 2026-03-04 12:01:32.472 UTC
├─ ✔ payment          +1 m 32 s     5.0 s  wait for 'shop/paid' if async.data.n == 1 · found event 01EVENT
├─ ✔ left             +1 m 38 s     30 ms
├─ ✔ right            +1 m 38 s     20 ms
├─ ✖ ask              +1 m 38 s     5.0 s  invoke shop-child · timed out  InngestInvokeTimeoutError: Timed out waiting for invoked function to complete
└─ ✔ Finalization     +1 m 43 s     1.0 s  2 attempts
   ├─ ✖ Attempt 0     +1 m 43 s     10 ms  Oops: stumbled
   └─ ✔ Attempt 1     +1 m 44 s     10 ms

Requests
   1      +3 ms  240 ms  function    request  answered 206  http://shop  ran charge the card
   2    +246 ms   10 ms  function    request  answered 206  http://shop  ran send
   3     +1.3 s   1.2 s  function    request  answered 206  http://shop  attempt 1 · step retry · ran send
   4     +2.5 s   10 ms  function    request  answered 206  http://shop
   5  +1 m 32 s   10 ms  function    request  answered 206  http://shop
   6  +1 m 37 s   10 ms  function    request  answered 206  http://shop
   7  +1 m 38 s   30 ms  step left   request  answered 206  http://shop
   8  +1 m 38 s   20 ms  step right  request  answered 206  http://shop
   9  +1 m 38 s   10 ms  function    request  answered 206  http://shop
  10  +1 m 43 s   10 ms  function    request  failed 500    http://shop  Oops: stumbled
  11  +1 m 44 s   10 ms  function    request  answered 200  http://shop  attempt 1 · retry
"""
    )


def test_a_run_that_goes_on_in_memory() -> None:
    story = Story(live=True).report(done("a", started_at=NOON, took=0)).report(errored("flaky")).later(20)
    story.entries.append(journal.Noted(at=story.now, kind="warning", text="a new\nstep", step=step_id("flaky")))

    assert (
        shown(story, 400)
        == """\
● RUNNING  shop-bill  run 01KJWBG7G00000000000000007
  created 2026-03-04 12:00:00.000 UTC · queued 0 ms · running for 420 ms · 2 steps · 1 request

● Run                  +0 ms    420 ms
├─ ✔ a                 +0 ms      0 ms
└─ ● flaky             +0 ms    420 ms  2 attempts
   ├─ ✖ Attempt 0      +0 ms      0 ms  ValueError: bad
   └─ ○ Attempt 1     +1.0 s         –

Requests
  1  +0 ms  420 ms  function  live  running  ran a, flaky

Notes
     +20 ms  warning  a new step (flaky)
"""
    )


def test_a_run_that_waits() -> None:
    story = Story().reply(invoke("ask", "shop-child", 90_000))
    child = {EventKey(event_asked(story, "ask")): RunId(ulid(NOON, 9))}

    assert (
        render(story.trace(children=child), story.now + 60_000)
        == """\
● RUNNING  shop-bill  run 01KJWBG7G00000000000000007
  created 2026-03-04 12:00:00.000 UTC · queued 3 ms · running for 1 m 00 s · 1 step · 1 request

● Run         +3 ms  1 m 00 s
└─ ◷ ask     +13 ms  1 m 00 s  invoke shop-child · run 01KJWBG7G00000000000000009

Requests
  1  +3 ms  10 ms  function  request  answered 206  http://shop
"""
    )


def test_a_run_that_has_not_begun_says_when_it_will() -> None:
    assert (
        shown(Story(start_at=NOON + 3_600_000))
        == """\
○ QUEUED  shop-bill  run 01KJWBG7G00000000000000007
  created 2026-03-04 12:00:00.000 UTC · starts 2026-03-04 13:00:00.000 UTC · 0 steps · 1 request

○ Run  +1 h 00 m         –

Requests
  1  +1 h 00 m  –  function  request  queued
"""
    )


def test_a_cancelled_run_says_why_and_an_invoked_one_by_whom() -> None:
    story = Story(parent=RunId(ulid(NOON, 3))).later(50).tell(message.CancelAsked("not needed", "01EVENT"))
    assert (
        shown(story)
        == """\
⊘ CANCELLED  shop-bill  run 01KJWBG7G00000000000000007
  created 2026-03-04 12:00:00.000 UTC · 0 steps · 1 request
  invoked by run 01KJWBG7G00000000000000003
  cancelled: not needed (event 01EVENT)

⊘ Run      +0 ms         –

Requests
  1  +0 ms  –  function  request  stopped
"""
    )


def test_names_that_would_break_the_screen_are_tamed() -> None:
    text = shown(Story().reply(done("a\x1b[31m\n" + "x" * 100)))
    assert "\x1b" not in text
    assert all(len(line) <= 120 for line in text.splitlines()[:6])


def test_lines_say_what_each_piece_is() -> None:
    found = lines(Story().reply(errored("flaky", retry=False)).trace(), NOON + 99)
    assert "".join("".join(piece.text for piece in line).rstrip() + "\n" for line in found) == shown(
        Story().reply(errored("flaky", retry=False)), 86
    )
    marks = {piece.role for line in found for piece in line if piece.text in ("✖", "●")}
    assert marks == {Role.BAD, Role.BUSY}


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1000, "1.0 s"),
        (59_949, "59.9 s"),
        (59_950, "1 m 00 s"),
        (125_000, "2 m 05 s"),
        (3_599_600, "1 h 00 m"),
        (11_040_000, "3 h 04 m"),
        (86_399_700, "1 d 00 h"),
        (400 * 86_400_000, "400 d 00 h"),
    ],
)
def test_lengths_of_time_are_short_and_plain(milliseconds: int, text: str) -> None:
    assert duration_text(milliseconds) == text
