"""The seam between the gateway and the providers: what every dialect of an AI API can do.

    caller's request -> take_out() -> Dialect.request() -> bytes to send
    bytes received   -> Dialect.reader() -> deltas as they come -> the plain answer, and what it says

The gateway always asks for a stream where the dialect has one, so that deltas can be shown as they come. Whoever asked
gets the plain form all the same: an `Assembler` puts together what the provider would have answered without a stream.

A new dialect is one file: a subclass of `Dialect`, and one of `Assembler` if it streams.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from io import StringIO
from typing import Any, ClassVar

import msgspec

from stepwell.model.ids import Instant
from stepwell.wire.models.credentials import Credentials
from stepwell.wire.models.document import Document, asked_model, paired
from stepwell.wire.models.errors import AnswerMalformed, AnswerTooLarge, StreamCut
from stepwell.wire.models.failure import Failure
from stepwell.wire.models.sse import EventStream

STREAM_OVERHEAD = 256
"""A stream may be that many times as large as the answer that it carries: each event repeats names and ids."""

_EVENT_STREAM = "text/event-stream"
_JSON_BEGINNINGS = b"{["
_BLANK = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of one call, counted alike for every provider.

    Attributes:
        input_tokens: The whole prompt, with what was read from and written to a cache.
        output_tokens: All that was generated, with the reasoning.
        cached_read_tokens: The part of the input that came from a cache.
        cached_write_tokens: The part of the input that was written to a cache.
        cached_write_long_tokens: The part of `cached_write_tokens` kept for an hour, which costs more.
        reasoning_tokens: The part of the output that was reasoning.
        input_audio_tokens, output_audio_tokens: The parts that were sound, which costs more.
        web_searches: Searches that the provider made for the answer, which cost by themselves.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_read_tokens: int = 0
    cached_write_tokens: int = 0
    cached_write_long_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    web_searches: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is JSON text as the model wrote it, so perhaps not valid."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt. What is not text reads as `[image image/png, 12 kB]`."""

    role: str
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What was asked, for people.

    Attributes:
        tools: The names of the tools offered.
        parameters: The settings of the request that are single values (temperature, most tokens), by their own names.
    """

    model: str = ""
    messages: tuple[Message, ...] = ()
    tools: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, for people and for the accounts. Of several choices the texts follow one another.

    Attributes:
        usage: None if the provider told none; nothing is guessed.
        cost_usd: What it cost, if the provider said so: our own apps do.
    """

    model: str = ""
    response_id: str = ""
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reasons: tuple[str, ...] = ()
    usage: Usage | None = None
    cost_usd: float | None = None


class DeltaKind(StrEnum):
    TEXT = "text"
    REASONING = "reasoning"
    REFUSAL = "refusal"
    TOOL_CALL = "tool_call"  # begins: `name` is the tool's
    TOOL_ARGUMENTS = "tool_arguments"


class Delta(msgspec.Struct, frozen=True):
    """A piece of an answer. `index` tells choices, blocks or tool calls of one kind apart."""

    kind: DeltaKind
    text: str = ""
    index: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class ProviderRequest:
    """A POST, ready to be sent: it holds credentials, so it is neither stored nor shown.

    Attributes:
        streamed: A stream is asked for.
    """

    url: str
    headers: dict[str, str]
    body: bytes
    streamed: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """A complete answer: `body` as a plain request would have had it (JSON, except for the dialect `other`)."""

    body: bytes
    answer: Answer


class Budget:
    """What an assembler may keep.

    Raises:
        AnswerTooLarge: By `spend`, when it is used up.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._left = limit_bytes

    def fresh(self) -> Budget:
        """One with the same limit, of which nothing is spent."""
        return Budget(self._limit_bytes)

    def spend(self, size: int) -> None:
        """Keep something of that size; a negative one gives back what is kept no longer."""
        self._left -= size
        if self._left < 0:
            raise AnswerTooLarge("the provider's answer", self._limit_bytes)


class Text:
    """A text that grows by pieces."""

    def __init__(self, budget: Budget, beginning: str = "") -> None:
        self._budget = budget
        self.size = 0
        self._text = StringIO()
        self.add(beginning)

    def add(self, piece: str) -> None:
        self._budget.spend(len(piece))
        self.size += self._text.write(piece)

    def __str__(self) -> str:
        text: str = paired(self._text.getvalue())
        return text


def replace(target: Document, name: str, value: Any, budget: Budget) -> None:
    """Set a member as it was told last; an object's members one by one, so that those not told again stay."""
    known = target.get(name)
    if isinstance(known, dict) and isinstance(value, dict):
        for inner, told in value.items():
            replace(known, inner, told, budget)
    elif value is not None or name not in target:
        if name not in target:
            budget.spend(64 + len(name))
        target[name] = value


class Assembler(ABC):
    """Puts the plain answer together from the events of a stream."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    @abstractmethod
    def feed(self, name: str, data: bytes) -> list[Delta]:
        """Take one event.

        Args:
            name: Of the event; empty where the dialect gives none.

        Raises:
            AnswerError: The event is malformed or too much, or reports an error.
        """

    @property
    @abstractmethod
    def ended(self) -> bool:
        """The dialect's mark of the end was seen: nothing can follow."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Nothing is missing, should the stream end now."""

    @abstractmethod
    def document(self) -> Document:
        """The plain answer, as far as it is known now."""


class Dialect(ABC):
    """One AI API. Instances have no state."""

    name: ClassVar[str]  # the `format` of an op
    provider: ClassVar[str]  # whose prices apply when the address tells nothing
    raw: ClassVar[bool] = False  # answers are passed on unread, whatever they are

    # the request

    def request(
        self, url: str, *, headers: Mapping[str, str], body: bytes, credentials: Credentials, stream: bool = True
    ) -> ProviderRequest:
        """What to send.

        Args:
            url, headers: As `take_out` returned them.
            body: The caller's JSON object.
            credentials: What `take_out` took out; the caller's own authentication header wins over its `auth_key`.
            stream: Ask for a stream if this dialect and this request can have one. If not, the plain form is asked
                for even if the caller wanted a stream: the result of a step is one value.

        Raises:
            ValueError: `body` is not a JSON object, or the credentials are those of another request.
        """
        url, own = credentials.put_back(url, headers)
        members = _members(body)
        streamed = stream and self._can_stream(url, members)
        lowered = {name.lower() for name in own}
        sent = {"Content-Type": "application/json"} if "content-type" not in lowered else {}
        sent["Accept"] = f"{_EVENT_STREAM}, application/json" if streamed else "application/json"
        if credentials.auth_key and not self._authenticated(url, lowered):
            sent |= self.authentication(credentials.auth_key)
        sent |= self._own_headers(lowered)
        sent = {name: value for name, value in sent.items() if name.lower() not in lowered} | own
        url, members = self._form(url, members, streamed)
        changed = b"{" + b",".join(b"%b:%b" % (msgspec.json.encode(k), v) for k, v in members.items()) + b"}"
        return ProviderRequest(url, sent, changed, streamed)

    @abstractmethod
    def prompt(self, url: str, body: bytes) -> Prompt:
        """What the request asks, for the trace. Never raises: what cannot be read is left out."""

    def model(self, url: str, body: bytes) -> str:
        """The model that the request asks for, as `prompt` has it, without the rest."""
        return asked_model(body)

    # the answer

    def reader(self, content_type: str, *, limit_bytes: int) -> AnswerReader:
        """Read an answer of status 2xx.

        Args:
            content_type: The answer's own; what it leaves open, the first bytes decide.
            limit_bytes: The most that the plain answer may have; a stream may have `STREAM_OVERHEAD` times as much.
        """
        return AnswerReader(self, content_type, limit_bytes)

    @abstractmethod
    def assembler(self, budget: Budget) -> Assembler:
        """For one stream."""

    @abstractmethod
    def answer(self, document: Document) -> Answer:
        """What a plain answer says. Never raises: what cannot be read is left out."""

    @abstractmethod
    def failure(self, status: int, headers: Mapping[str, str], body: bytes, *, now_ms: Instant) -> Failure:
        """Read an answer whose status is not 2xx.

        Args:
            body: As much of it as was read; what it says that cannot be understood is shown as it is, shortened.
        """

    # what a dialect says of itself

    def _can_stream(self, url: str, members: Mapping[str, msgspec.Raw]) -> bool:
        """Whether the answer to this request can come as a stream and be put together again."""
        return True

    @abstractmethod
    def _form(self, url: str, members: dict[str, msgspec.Raw], streamed: bool) -> tuple[str, dict[str, msgspec.Raw]]:
        """The URL and the members of the body that ask for a stream, or for none."""

    def _authenticated(self, url: str, header_names: set[str]) -> bool:
        """Whether the caller's own headers or URL hold an authentication."""
        return bool(header_names & {"authorization", "x-api-key", "api-key", "x-goog-api-key"})

    def authentication(self, auth_key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {auth_key}"}

    def _own_headers(self, header_names: set[str]) -> dict[str, str]:
        """Headers that the API wants, and that the caller may leave out."""
        return {}


class AnswerReader:
    """One answer, out of chunks of bytes that were cut anywhere."""

    def __init__(self, dialect: Dialect, content_type: str, limit_bytes: int) -> None:
        self._dialect = dialect
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._plain = bytearray()
        self._events: EventStream | None = None
        self._assembler: Assembler | None = None
        kind = content_type.partition(";")[0].strip().lower()
        self._decided = dialect.raw or kind == "application/json"
        if kind == _EVENT_STREAM and not dialect.raw:
            self._begin_stream()

    @property
    def done(self) -> bool:
        """The end was seen: nothing that may still come counts."""
        return self._assembler is not None and self._assembler.ended

    def feed(self, chunk: bytes) -> list[Delta]:
        """Take the next bytes, after any content encoding was undone.

        Returns:
            What they add to the answer; always empty for an answer that is not a stream.

        Raises:
            AnswerError: The answer is too large or malformed, or reports an error.
        """
        self._bytes += len(chunk)
        if not self._decided:
            self._plain += chunk
            beginning = bytes(self._plain).lstrip(_BLANK)[:1]
            if not beginning:
                self._check_plain()
                return []
            self._decided = True
            chunk = bytes(self._plain)
            self._plain.clear()
            if beginning not in _JSON_BEGINNINGS:
                self._begin_stream()
        if self._events is None or self._assembler is None:
            self._plain += chunk
            self._check_plain()
            return []
        if self._bytes > self._limit_bytes * STREAM_OVERHEAD:
            raise AnswerTooLarge("the provider's stream", self._limit_bytes * STREAM_OVERHEAD)
        return self._take(self._events.feed(chunk))

    def finish(self) -> Answered:
        """The bytes have ended: the whole answer.

        Raises:
            StreamCut: The stream ended before the answer did.
            AnswerError: The answer is too large or malformed, or reports an error.
        """
        if self._events is None or self._assembler is None:
            return self._answered_plainly(bytes(self._plain))
        try:
            self._take(self._events.close())
            stray = bytes(self._events.stray)
            if not self._assembler.complete and stray.lstrip(_BLANK)[:1] in _JSON_BEGINNINGS:
                self._take([("", stray)])  # an error written into the stream without its form
        except AnswerMalformed as err:
            raise StreamCut(f"the provider's stream ended in the middle of an event ({self._bytes} bytes)") from err
        if not self._assembler.complete:
            raise StreamCut(f"the provider's stream ended after {self._bytes} bytes, before its answer was complete")
        document = self._assembler.document()
        try:
            body = msgspec.json.encode(document)
        except UnicodeEncodeError:  # halves of UTF-16 pairs
            document = paired(document)
            body = msgspec.json.encode(document)
        return Answered(body, self._dialect.answer(document))

    def answer_so_far(self) -> Answer:
        """What is known of an answer that will not be completed; its usage may be only a part."""
        if self._assembler is not None:
            return self._dialect.answer(paired(self._assembler.document()))
        return Answer()

    def _begin_stream(self) -> None:
        self._decided = True
        self._events = EventStream(self._limit_bytes + 65536)
        self._assembler = self._dialect.assembler(Budget(self._limit_bytes))

    def _take(self, events: list[Any]) -> list[Delta]:
        assert self._assembler is not None
        deltas: list[Delta] = []
        for name, data in events:
            if self._assembler.ended:
                break
            if data and not data.isspace():
                deltas += self._assembler.feed(name, data)
        for at, each in enumerate(deltas):
            if not each.text.isascii():
                deltas[at] = msgspec.structs.replace(each, text=paired(each.text))
        return deltas

    def _check_plain(self) -> None:
        if len(self._plain) > self._limit_bytes:
            raise AnswerTooLarge("the provider's answer", self._limit_bytes)

    def _answered_plainly(self, body: bytes) -> Answered:
        if self._dialect.raw:
            return Answered(body, Answer())
        document = event_document(body, "the provider's answer")
        if (whole := paired(document)) != document:
            document, body = whole, msgspec.json.encode(whole)
        return Answered(body, self._dialect.answer(document))


def event_document(data: bytes, what: str) -> Document:
    """The JSON object in `data`.

    Raises:
        AnswerMalformed: It is none; the message shows the beginning.
    """
    try:
        try:
            document = msgspec.json.decode(data)
        except msgspec.DecodeError:
            if b"\\ud" not in data.lower():
                raise
            document = json.loads(data)  # takes halves of UTF-16 pairs, which may find each other later
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as err:
        shown = data[:120].decode("utf-8", "replace")
        raise AnswerMalformed(f"{what} is not JSON ({err}); it begins with {shown!r}") from err
    if not isinstance(document, dict):
        raise AnswerMalformed(f"{what} is not a JSON object; it begins with {data[:120].decode('utf-8', 'replace')!r}")
    return document


def _members(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise ValueError(f"the body of the request must be a JSON object: {err}") from err
