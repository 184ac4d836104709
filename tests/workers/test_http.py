"""Calls over HTTP against apps that behave, misbehave, and break off."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from stepwell.gateway.policy import Policy
from stepwell.model.dispatch import Kept, Memo
from stepwell.model.ids import JobId, StepId
from stepwell.model.message import CallLost, Message, Raised, Replied, Returned
from stepwell.model.op import StepDone
from stepwell.model.payload import canonical
from stepwell.wire.inngest.call import Ready
from stepwell.wire.signature import verify
from stepwell.workers.budget import PATIENCE, Budget, Places
from stepwell.workers.http import HttpPerformer
from tests.workers.apps import EVENT, RUN, Answer, Mailbox, Request, Writer, a_dispatch, an_app, http, raw

A = StepId("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8")
STEP = json.dumps([{"op": "StepRun", "id": A, "data": 1}]).encode()
OK = b"HTTP/1.1 200 OK\r\nx-inngest-sdk: x\r\n"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
async def performer(mailbox: Mailbox) -> AsyncIterator[HttpPerformer]:
    performer = HttpPerformer(mailbox, connect_timeout_s=1)
    yield performer
    await performer.close()


async def outcome(performer: HttpPerformer, mailbox: Mailbox, *answers: Answer, **fields: Any) -> Message:
    async with an_app(*answers) as app:
        performer.perform(a_dispatch(app.url, **fields))
        (message,) = await mailbox.wait()
        return message


def error_of(message: Message) -> str:
    assert isinstance(message, (CallLost, Raised))
    assert isinstance(message.error, bytes)
    return str(json.loads(message.error)["message"])


# What is sent


async def test_the_signed_bytes_are_the_sent_bytes(mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox, signing_key="signkey-test-12345678", clock=lambda: 1_700_000_000_000)
    memo = Memo(A, "data", canonical({"ü": 1.0}))
    async with an_app(http(206, STEP)) as app:
        performer.perform(
            a_dispatch(app.url + "?tenant=1", slug="shop-büro", target=A, memos=(memo,), stack=(A,), version=2)
        )
        await mailbox.wait()
        (request,) = app.requests
    await performer.close()
    assert request.method == "POST"
    assert request.target == f"/api/inngest?tenant=1&fnId=shop-b%C3%BCro&stepId={A}"
    assert request.body == canonical(json.loads(request.body))
    assert verify(request.body, request.headers["x-inngest-signature"], ["signkey-test-12345678"], now_s=1700000000)
    assert request.headers["x-run-id"] == RUN
    assert request.headers["x-inngest-server-kind"] == "dev"
    assert len(request.headers["x-request-id"]) == 26
    assert "transfer-encoding" not in request.headers
    assert json.loads(request.body)["steps"] == {A: {"data": {"ü": 1}}}


async def test_a_reply_comes_back_with_its_fence_and_its_measures(performer: HttpPerformer, mailbox: Mailbox) -> None:
    message = await outcome(performer, mailbox, http(206, STEP))
    assert isinstance(message, Replied)
    assert message.ops == (StepDone(step=A, output=b"1"),)
    assert message.version == 2
    assert message.info.status == 206
    assert message.info.started_at > 1_700_000_000_000
    assert message.info.duration_ms > 0
    assert message.info.worker.startswith("http://localhost:")
    assert mailbox.messages[0][:3] == (RUN, "J", 3)
    assert performer.in_flight == 0


async def test_a_connection_is_kept(performer: HttpPerformer, mailbox: Mailbox) -> None:
    async with an_app(http(200, b"1")) as app:
        for number in (1, 2, 3):
            performer.perform(a_dispatch(app.url, job=JobId(str(number))))
            await mailbox.wait(number)
        assert app.connections == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_localhost_is_found_on_either_loopback(host: str, performer: HttpPerformer, mailbox: Mailbox) -> None:
    try:
        async with an_app(http(200, b"1"), host=host) as app:
            performer.perform(a_dispatch(app.url))
            (message,) = await mailbox.wait()
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert isinstance(message, Returned)


async def test_a_large_state_is_left_for_the_api(performer: HttpPerformer, mailbox: Mailbox) -> None:
    async def load() -> tuple[Memo, ...]:
        raise AssertionError("what is not sent is not loaded")

    async with an_app(http(200, b"1")) as app:
        performer.perform(a_dispatch(app.url, memo_bytes=5 << 20, load_memos=load, stack=(A,)))
        await mailbox.wait()
        body = json.loads(app.requests[0].body)
    assert (body["use_api"], body["steps"], body["event"]) == (True, {}, json.loads(EVENT))


async def test_the_text_of_earlier_calls_is_used_again(performer: HttpPerformer, mailbox: Mailbox) -> None:
    memos = tuple(Memo(StepId(f"{number:040x}"), "data", b"%d" % number) for number in range(5))
    kept = Kept()
    async with an_app(http(200, b"1")) as app:
        for number, count in enumerate((2, 4, 3, 5), 1):  # the third was overtaken by the second
            stack = tuple(memo.step for memo in memos[:count])
            call = a_dispatch(app.url, job=JobId(str(number)), memos=memos[:count], stack=stack, kept=kept)
            performer.perform(call)
            await mailbox.wait(number)
            body = json.loads(app.requests[-1].body)
            assert body["steps"] == {memo.step: {"data": int(memo.value)} for memo in memos[:count]}
            assert body["ctx"]["stack"] == {"stack": list(stack), "current": count}
    assert isinstance(kept.made, Ready)
    assert len(kept.made) == 5


async def test_large_results_are_loaded_and_sent(performer: HttpPerformer, mailbox: Mailbox) -> None:
    text = canonical("x" * 1_000_000)

    async def load() -> tuple[Memo, ...]:
        return (Memo(A, "data", text),)

    async with an_app(http(200, b"1")) as app:
        performer.perform(a_dispatch(app.url, memo_bytes=len(text), load_memos=load, stack=(A,)))
        await mailbox.wait()
        assert json.loads(app.requests[0].body)["steps"][A] == {"data": "x" * 1_000_000}
        assert app.requests[0].headers["content-length"] == str(len(app.requests[0].body))


async def test_results_that_cannot_be_loaded_lose_the_call(
    performer: HttpPerformer, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    async def load() -> tuple[Memo, ...]:
        raise OSError("disk")

    message = await outcome(performer, mailbox, http(200, b"1"), memo_bytes=10, load_memos=load)
    assert isinstance(message, CallLost)
    assert message.code == "internal_error"
    assert "recorded results cannot be read: disk" in error_of(message)
    assert "in an error of ours" in caplog.text


# F16: never a success if it was cut


@pytest.mark.parametrize(
    "answer",
    [
        raw(OK + b"Content-Length: 10\r\n\r\n42", then_close=True),
        raw(OK + b"Content-Length: 10\r\n\r\n42", reset=True),
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n42\r\n", then_close=True),
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n42\r\n", reset=True),
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n42\r\n0\r\n\r\n", then_close=True),
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n42xx0\r\n\r\n", then_close=True),
        raw(OK + b"\r\n42", then_close=True),
        raw(OK + b"\r\n", then_close=True),
        raw(OK + b'\r\n{"a":1', then_close=True),
        raw(OK + b"Content-Length: 6\r\n\r\n" + b'{"a":1'),
        raw(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"1" * 500)[:-9], then_close=True),
        raw(OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\xff"),
        raw(b"HTTP/1.1 200 OK\r\nx-inngest-sdk: x\r\nContent-Le", then_close=True),
        raw(b"", then_close=True),
        raw(b"", reset=True),
    ],
)
async def test_f16_an_answer_that_was_cut_is_lost(answer: Answer, performer: HttpPerformer, mailbox: Mailbox) -> None:
    message = await outcome(performer, mailbox, answer)
    assert isinstance(message, CallLost)
    assert not message.at_once
    assert message.code in {"truncated_response", "connection_lost", "invalid_response", "invalid_http"}
    assert performer._requests.taken_bytes == performer._answers.taken_bytes == 0


@pytest.mark.parametrize(
    "answer",
    [
        raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", then_close=True),
        raw(b"HTTP/1.1 OK\r\n\r\n", then_close=True),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", then_close=True),
        raw(b"HTTP/1.1 200 OK\r\nX-Big: " + b"x" * 100_000 + b"\r\n\r\n", then_close=True),
    ],
)
async def test_f64_what_is_not_http_is_lost_and_named(
    answer: Answer, performer: HttpPerformer, mailbox: Mailbox
) -> None:
    message = await outcome(performer, mailbox, answer)
    assert isinstance(message, CallLost)
    assert message.code == "invalid_http"
    assert "is not HTTP" in error_of(message)


async def test_an_idle_connection_that_the_app_closed_is_tried_again_at_once(
    performer: HttpPerformer, mailbox: Mailbox
) -> None:
    async with an_app(http(200, b"1"), raw(b"", reset=True)) as app:
        performer.perform(a_dispatch(app.url))
        await mailbox.wait()
        performer.perform(a_dispatch(app.url, job=JobId("K")))
        message = (await mailbox.wait(2))[1]
    assert isinstance(message, CallLost)
    assert message.at_once


# F64: odd answers


async def test_f64_a_proxys_html_is_raised_and_tried_again(performer: HttpPerformer, mailbox: Mailbox) -> None:
    answer = http(502, b"<html>Bad Gateway</html>", sdk=False, Content_Type="text/html")
    message = await outcome(performer, mailbox, answer)
    assert isinstance(message, Raised)
    assert (message.retry, message.code, message.info.status) == (True, "http_502", 502)
    assert "HTTP 502 Bad Gateway (text/html)" in error_of(message)


async def test_f64_429_with_retry_after_is_tried_again_then(mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox, clock=lambda: 1_780_000_000_000)
    message = await outcome(performer, mailbox, http(429, b"{}", Retry_After="7"))
    await performer.close()
    assert isinstance(message, Raised)
    assert message.retry_at == 1_780_000_007_000


async def test_f64_a_server_that_is_no_sdk_is_named(performer: HttpPerformer, mailbox: Mailbox) -> None:
    message = await outcome(performer, mailbox, http(200, b"hello", sdk=False))
    assert isinstance(message, Raised)
    assert message.code == "not_sdk"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "x-gzip"])
async def test_a_compressed_answer_is_unpacked(encoding: str, performer: HttpPerformer, mailbox: Mailbox) -> None:
    text = canonical({"x": "y" * 200_000})
    packed = zlib.compress(text) if encoding == "deflate" else gzip.compress(text[:9]) + gzip.compress(text[9:])
    message = await outcome(performer, mailbox, http(200, packed, Content_Encoding=encoding))
    assert isinstance(message, Returned)
    assert message.output == text


async def test_another_compression_is_refused_by_name(performer: HttpPerformer, mailbox: Mailbox) -> None:
    message = await outcome(performer, mailbox, http(200, b"1", Content_Encoding="br"))
    assert isinstance(message, CallLost)
    assert "'br'" in error_of(message)


# F76: too large


@pytest.mark.parametrize(
    "answer",
    [
        raw(OK + b"Content-Length: 9000000\r\n\r\n"),
        raw(OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"100000\r\n" + b"1" * 0x100000 + b"\r\n"),
        http(200, gzip.compress(b"1" * 50_000_000), Content_Encoding="gzip"),
    ],
    ids=["announced", "chunked", "gzip bomb"],
)
async def test_f76_an_answer_that_is_too_large_is_not_read(answer: Answer, mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox, max_answer_bytes=1_000_000)
    message = await outcome(performer, mailbox, answer)
    assert isinstance(message, Raised)
    assert (message.retry, message.code) == (False, "output_too_large")
    assert "output_too_large" in error_of(message)
    assert performer._answers.taken_bytes == 0
    await performer.close()


# Redirects


def redirect(status: int, location: str) -> Answer:
    return http(status, b"moved", sdk=False, Location=location)


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_that_keeps_the_method_is_followed_with_everything(
    status: int, performer: HttpPerformer, mailbox: Mailbox
) -> None:
    text = canonical("x" * 300_000)

    async def load() -> tuple[Memo, ...]:
        return (Memo(A, "data", text),)

    async with an_app(redirect(status, "/v2?fnId=other&x=%20"), http(200, b"1")) as app:
        performer.perform(a_dispatch(app.url + "?tenant=1", memo_bytes=len(text), load_memos=load))
        (message,) = await mailbox.wait()
        first, second = app.requests
    assert isinstance(message, Returned)
    assert second.method == "POST"
    assert second.body == first.body
    assert second.headers["x-request-id"] == first.headers["x-request-id"]
    assert second.target == "/v2?fnId=other&x=%20&tenant=1&stepId=step"


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_f64_a_redirect_to_a_get_is_an_error_that_says_where(
    status: int, performer: HttpPerformer, mailbox: Mailbox
) -> None:
    async with an_app(redirect(status, "https://user:secret@new.example/x"), http(200, b"1")) as app:
        performer.perform(a_dispatch(app.url))
        (message,) = await mailbox.wait()
        assert len(app.requests) == 1
    assert isinstance(message, Raised)
    assert (message.retry, message.info.status) == (True, status)
    assert "'https://new.example/x', which would turn it into a GET" in error_of(message)


async def test_a_redirect_loop_ends(performer: HttpPerformer, mailbox: Mailbox) -> None:
    async with an_app(redirect(307, "/again")) as app:
        performer.perform(a_dispatch(app.url))
        (message,) = await mailbox.wait()
        assert len(app.requests) == 61
    assert "more than 60 times" in error_of(message)


@pytest.mark.parametrize("location", ["", "file:///etc/passwd", "ftp://x/", "http://"])
async def test_a_redirect_to_nowhere_is_an_error(location: str, performer: HttpPerformer, mailbox: Mailbox) -> None:
    message = await outcome(performer, mailbox, redirect(307, location))
    assert isinstance(message, (Raised, CallLost))


# Addresses: 0.0.0.0 is this machine too, and refused as long as nobody names it


class Counted(Policy):
    aimed = 0

    def aim(self, host: str, port: int) -> Any:
        self.aimed += 1
        return super().aim(host, port)


def elsewhere(url: str, host: str = "0.0.0.0") -> str:
    return url.replace("localhost", host)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the system says that names mean."""
    known: dict[str, list[str]] = {}

    async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        about = {"hostname": host, "port": port, "family": socket.AF_INET, "proto": 0, "flags": socket.AI_NUMERICHOST}
        return [{**about, "host": address} for address in known[host]]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    return known


@pytest.fixture
async def guarded(mailbox: Mailbox) -> AsyncIterator[HttpPerformer]:
    """A performer that may call this machine and public addresses."""
    performer = HttpPerformer(mailbox, connect_timeout_s=1, addresses=Policy(loopback=True))
    yield performer
    await performer.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "shop.internal", "SHOP.internal."])
async def test_s20_an_address_that_nobody_allowed_is_not_called(
    host: str, guarded: HttpPerformer, mailbox: Mailbox, names: dict[str, list[str]]
) -> None:
    names["shop.internal"] = names["shop.internal."] = ["0.0.0.0"]
    async with an_app(http(200, b"1")) as app:
        guarded.perform(a_dispatch(elsewhere(app.url, host)))
        (message,) = await mailbox.wait()
        assert app.connections == 0
    assert isinstance(message, Raised)
    assert (message.retry, message.code, message.info.status) == (False, "address_refused", 0)
    assert "0.0.0.0" in error_of(message)
    assert f"--allow-address {host.lower()}:" in error_of(message)


async def test_s20_a_redirect_leads_nowhere_else(guarded: HttpPerformer, mailbox: Mailbox) -> None:
    async with an_app(http(200, b"1")) as inside, an_app(redirect(307, elsewhere(inside.url))) as app:
        guarded.perform(a_dispatch(app.url))
        (message,) = await mailbox.wait()
        assert (len(app.requests), inside.connections) == (1, 0)
    assert isinstance(message, Raised)
    assert (message.retry, message.code) == (False, "address_refused")


async def test_s20_what_the_operator_named_is_called(mailbox: Mailbox, names: dict[str, list[str]]) -> None:
    names["shop.internal"] = ["0.0.0.0"]
    async with an_app(http(200, b"1")) as app:
        url = elsewhere(app.url, "shop.internal")
        performer = HttpPerformer(mailbox, addresses=Policy(urls=[url]))
        performer.perform(a_dispatch(url))
        (message,) = await mailbox.wait()
        await performer.close()
    assert isinstance(message, Returned)


async def test_s20_a_name_with_one_address_that_may_be_called_is_called(
    guarded: HttpPerformer, mailbox: Mailbox, names: dict[str, list[str]]
) -> None:
    names["shop.internal"] = ["10.0.0.1", "127.0.0.1"]
    async with an_app(http(200, b"1")) as app:
        url = elsewhere(app.url, "shop.internal")
        guarded.perform(a_dispatch(url))
        (message,) = await mailbox.wait()
        assert isinstance(message, Returned)
        assert await guarded.refusal([url]) == ""
    await guarded.close()


async def test_s20_one_that_is_down_is_tried_again_though_another_address_is_refused(
    guarded: HttpPerformer, mailbox: Mailbox, names: dict[str, list[str]]
) -> None:
    names["shop.internal"] = ["127.0.0.1", "10.0.0.1"]
    async with an_app(http(200)) as app:
        pass
    guarded.perform(a_dispatch(elsewhere(app.url, "shop.internal")))
    (message,) = await mailbox.wait()
    assert isinstance(message, CallLost)
    assert message.code == "http_unreachable"


async def test_a_kept_connection_is_checked_once(mailbox: Mailbox) -> None:
    addresses = Counted(loopback=True)
    performer = HttpPerformer(mailbox, addresses=addresses)
    async with an_app(http(200, b"1")) as app:
        for count in (1, 2, 3):
            performer.perform(a_dispatch(app.url))
            await mailbox.wait(count)
        assert app.connections == addresses.aimed == 1
        await performer.close()


async def test_s20_a_registration_asks_what_its_names_mean(
    guarded: HttpPerformer, performer: HttpPerformer, names: dict[str, list[str]]
) -> None:
    names.update(
        {"shop.internal": ["10.1.2.3", "10.1.2.4"], "shop.example": ["93.184.216.34"], "10.0.0.5": ["10.0.0.5"]}
    )
    assert (
        await guarded.refusal(["http://localhost:3000/x", "https://shop.example/x", "http://unknown.example/x"]) == ""
    )
    assert await guarded.refusal(["https://shop.example/x", "https://user:secret@shop.internal/x"]) == (
        "shop.internal is 10.1.2.3, which is not a public address (private); whoever runs the server can allow it: "
        "--allow-address shop.internal:443"
    )
    assert "--allow-address 10.0.0.5:80" in await guarded.refusal(["http://10.0.0.5/x"])
    assert await performer.refusal(["http://10.0.0.5/x"]) == ""


# Nobody there, too slow, no longer wanted


async def test_f63_nobody_listening_is_a_lost_call(performer: HttpPerformer, mailbox: Mailbox) -> None:
    async with an_app(http(200)) as app:
        pass
    performer.perform(a_dispatch(app.url))
    (message,) = await mailbox.wait()
    assert isinstance(message, CallLost)
    assert (message.code, message.free) == ("http_unreachable", False)
    assert "is it running?" in error_of(message)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://nowhere.invalid/x", "http_unreachable"),
        ("http://[::1/x", "invalid_url"),
        ("gopher://localhost/", "invalid_url"),
        ("/x", "invalid_url"),
    ],
)
async def test_a_url_that_leads_nowhere_is_named(
    url: str, code: str, performer: HttpPerformer, mailbox: Mailbox
) -> None:
    performer.perform(a_dispatch(url))
    (message,) = await mailbox.wait()
    assert isinstance(message, CallLost)
    assert message.code == code


async def test_f64_tls_to_an_app_without_it_is_named(performer: HttpPerformer, mailbox: Mailbox) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        performer.perform(a_dispatch(f"https://localhost:{server.sockets[0].getsockname()[1]}/x"))
        (message,) = await mailbox.wait()
    assert isinstance(message, CallLost)
    assert message.code == "tls_error"


async def hang(request: Request, writer: Writer) -> None:
    await asyncio.sleep(30)


async def drip(request: Request, writer: Writer) -> None:
    writer.write(OK + b"Content-Length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b" ")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("answer", [hang, drip])
async def test_f11_a_slow_answer_is_given_up(answer: Answer, mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox, timeout_s=0.1)
    message = await outcome(performer, mailbox, answer)
    assert isinstance(message, CallLost)
    assert message.code == "request_duration_too_long"
    assert "within 0.1 s" in error_of(message)
    assert performer._answers.taken_bytes == 0
    await performer.close()


async def test_a_call_past_its_deadline_is_given_up(performer: HttpPerformer, mailbox: Mailbox) -> None:
    message = await outcome(performer, mailbox, hang, deadline=1)
    assert isinstance(message, CallLost)
    assert message.code == "deadline_passed"


async def test_a_stopped_call_is_cancelled_and_says_nothing(performer: HttpPerformer, mailbox: Mailbox) -> None:
    gone = asyncio.Event()

    async def noticing(request: Request, writer: Writer) -> None:
        while not writer.transport.is_closing():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await asyncio.sleep(0.01)
        gone.set()

    async with an_app(noticing) as app:
        performer.perform(a_dispatch(app.url))
        await app.seen()
        performer.stop(JobId("J"), "cancelled")
        async with asyncio.timeout(5):
            await gone.wait()
    assert mailbox.messages == []
    assert performer.in_flight == 0


async def test_closing_stops_what_is_in_flight_and_takes_no_more(mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox)
    async with an_app(hang) as app:
        performer.perform(a_dispatch(app.url))
        await app.seen()
        await performer.close()
        performer.perform(a_dispatch(app.url, job=JobId("K")))
    assert mailbox.messages == []
    assert performer.in_flight == 0


async def test_the_same_job_performed_again_replaces_the_older_call(performer: HttpPerformer, mailbox: Mailbox) -> None:
    async with an_app(hang, http(200, b"1")) as app:
        performer.perform(a_dispatch(app.url))
        await app.seen()
        performer.perform(a_dispatch(app.url, fence=4))
        await mailbox.wait()
    assert [fence for _, _, fence, _ in mailbox.messages] == [4]


# F75: bounded


async def test_calls_of_a_service_queue_and_another_service_is_not_held_up(mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox, calls_per_service=2)
    running = peak = 0

    async def busy(request: Request, writer: Writer) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.05)
        running -= 1
        await http(200, b"1")(request, writer)

    async with an_app(busy) as slow, an_app(http(200, b"2")) as quick:
        for number in range(6):
            performer.perform(a_dispatch(slow.url, job=JobId(str(number))))
        performer.perform(a_dispatch(quick.url, job=JobId("quick"), service="other"))
        await mailbox.wait(7)
    await performer.close()
    assert peak == 2
    assert mailbox.messages[0][1] == "quick"


async def test_who_began_first_goes_first(mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox, calls_per_service=1)
    async with an_app(http(200, b"1")) as app:
        for number, born_at in enumerate((50, 30, 20, 40, 10)):
            performer.perform(a_dispatch(app.url, job=JobId(str(born_at)), started_at=born_at))
            assert performer.in_flight == number + 1
        await mailbox.wait(5)
    await performer.close()
    assert [job for _, job, _, _ in mailbox.messages] == ["50", "10", "20", "30", "40"]  # 50 found a place at once


async def test_a_call_in_line_may_be_stopped_or_come_too_late(mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox, calls_per_service=1, clock=lambda: 1000)
    async with an_app(hang, http(200, b"1")) as app:
        performer.perform(a_dispatch(app.url, job=JobId("long")))
        await app.seen()
        performer.perform(a_dispatch(app.url, job=JobId("stopped")))
        performer.perform(a_dispatch(app.url, job=JobId("late"), deadline=1010))
        performer.perform(a_dispatch(app.url, job=JobId("early"), deadline=90_000))
        performer.perform(a_dispatch(app.url, job=JobId("last"), started_at=1))
        performer.stop(JobId("stopped"), "cancelled")
        await mailbox.wait()
        performer.stop(JobId("long"), "cancelled")
        await mailbox.wait(3)
        performer.perform(a_dispatch(app.url, job=JobId("never begun")))
        performer.stop(JobId("never begun"), "cancelled")  # with a place, which must be given back
        performer.perform(a_dispatch(app.url, job=JobId("after")))
        await mailbox.wait(4)
        assert len(app.requests) == 4
    await performer.close()
    assert [job for _, job, _, _ in mailbox.messages] == ["late", "early", "last", "after"]
    late = mailbox.messages[0][3]
    assert isinstance(late, CallLost)
    assert late.code == "deadline_passed"


def test_no_work_waits_for_ever_for_a_place() -> None:
    places = Places[str](1)
    assert places.take()
    assert not places.take()
    places.wait("young", 1000)
    served: list[str | None] = []
    for _ in range(3 * PATIENCE):  # an older run is always there
        places.wait("old", 1)
        served.append(places.leave())
    assert served.count("young") == 1
    assert served.index("young") == PATIENCE - 1


def test_places_remember_nobody_who_has_given_up() -> None:
    places = Places[int](1)
    assert places.take()
    numbers = [places.wait(number, number) for number in range(1000)]
    for number in numbers[:-1]:
        places.give_up(number)
        places.give_up(number)
    assert len(places) == 1
    assert len(places._oldest) < 20
    assert places.leave() == 999
    assert places.leave() is None
    assert places.take()


async def test_f75_large_requests_are_delayed_and_not_failed(mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox, bytes_in_flight=1_000_000)
    text = canonical("x" * 400_000)
    loaded = 0

    async def load() -> tuple[Memo, ...]:
        nonlocal loaded
        loaded += 1
        assert performer._requests.taken_bytes <= 1_000_000
        return (Memo(A, "data", text),)

    async with an_app(http(200, text)) as app:
        for number in range(8):
            performer.perform(a_dispatch(app.url, job=JobId(str(number)), memo_bytes=len(text), load_memos=load))
        messages = await mailbox.wait(8)
    assert loaded == 8
    assert all(isinstance(message, Returned) for message in messages)
    assert performer._requests.taken_bytes == performer._answers.taken_bytes == 0
    await performer.close()


async def test_room_is_free_again_while_the_app_still_works(mailbox: Mailbox) -> None:
    performer = HttpPerformer(mailbox, bytes_in_flight=500_000)
    memo = Memo(A, "data", canonical("x" * 400_000))
    async with an_app(hang) as app:
        for number in range(4):
            performer.perform(a_dispatch(app.url, job=JobId(str(number)), memos=(memo,)))
        await app.seen(4)
    await performer.close()


async def test_a_budget_serves_in_order_and_lets_one_giant_in_alone() -> None:
    budget = Budget(10)
    order: list[str] = []

    async def use(name: str, size: int) -> None:
        async with budget.held(size):
            order.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name, size in (("a", 6), ("giant", 100), ("b", 6), ("c", 4)):
            group.create_task(use(name, size))
    assert order == ["a", "giant", "b", "c"]
    assert budget.taken_bytes == 0


async def test_a_budget_survives_being_given_up_on() -> None:
    budget = Budget(10)
    await budget.take(10)
    waiting = [asyncio.create_task(budget.take(5)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    budget.give(10)
    waiting[1].cancel()  # its turn has come, but it has not run since
    await asyncio.gather(*waiting, return_exceptions=True)
    assert budget.taken_bytes == 5
