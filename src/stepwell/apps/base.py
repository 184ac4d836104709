"""What an app is written with: `from stepwell.apps import App, File, batched`.

    class Embed(App):
        class Input(BaseModel):
            texts: list[str]

        class Output(BaseModel):
            vectors: list[list[float]]

        async def setup(self) -> None:  # once per warm process
            self.model = load()

        async def run(self, input: Input) -> Output:
            return self.Output(vectors=self.model.encode(input.texts))

This file needs the standard library, pydantic and Python 3.10, nothing of ours: in the environment of an app, where
stepwell is not installed, it is all of `stepwell.apps`. Nothing in it talks to a server, so an app is tested by making
one: `Embed.run_locally(Embed.Input(texts=["hello"]))`.

Elsewhere: what is read of a class without running it (`declared.py`), how it is called (`harness/harness.py`).
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import functools
import hashlib
import inspect
import logging
import mimetypes
import os
import shutil
import tempfile
import typing
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypedDict, TypeVar, overload

try:
    import pydantic
    from pydantic_core import core_schema
except ImportError as _error:
    raise ImportError("stepwell.apps needs pydantic to check inputs and outputs: `pip install pydantic`") from _error

__all__ = ["App", "Context", "Embeddings", "File", "LanguageModel", "batched"]

_I = TypeVar("_I")
_O = TypeVar("_O")
_I_contra = TypeVar("_I_contra", contravariant=True)
_O_co = TypeVar("_O_co", covariant=True)
_A = TypeVar("_A")


class Context:
    """`self.context` of an app: of the call that it makes now.

    Attributes:
        cancel_requested: Its task is cancelled; return soon, and the process stays warm.
        metadata: `app_id`, `app_version_id`, `worker_id`, `task_id`, `gpu_ids` and more; nothing outside a server.
    """

    def __init__(self) -> None:
        self.cancel_requested = False
        self.metadata: Any = None


class _Gpu(TypedDict, total=False):
    count: int
    vram: str | int
    type: Literal["any", "nvidia", "amd", "apple", "intel", "none"]


class _Resources(TypedDict, total=False):
    gpu: _Gpu
    ram: str | int


class _Scaling(TypedDict, total=False):
    min: int
    max: int
    idle: int


class _Async(Protocol[_I_contra, _O_co]):
    def run(self, input: _I_contra, /) -> Coroutine[Any, Any, _O_co]: ...


class _AsyncStream(Protocol[_I_contra, _O_co]):
    def run(self, input: _I_contra, /) -> AsyncIterator[_O_co]: ...


class _Stream(Protocol[_I_contra, _O_co]):
    def run(self, input: _I_contra, /) -> Iterator[_O_co]: ...


class _Plain(Protocol[_I_contra, _O_co]):
    def run(self, input: _I_contra, /) -> _O_co: ...


class App:
    """Base of an app. Its functions are the public methods that take a pydantic model and return or yield one.

    `run` is the one that is meant when none is named. Methods are `async` or not; one that yields streams, and each
    value is the whole output so far. Besides there may be

        setup(self, setup: Setup)    once per process and setup value, before any call
        on_cancel(self)              while a call runs whose task is cancelled
        unload(self)                 before the process ends
        snapshot(self), restore(self, state)    with `session = "snapshot"`: the state of a session, and back

    The class attributes are read without running the code: write them as plain values. `inf.yml` beside the code
    goes before them.
    """

    name: ClassVar[str] = ""
    """`namespace/name` or `name`; empty: made of the name of the class, `TextTools` is `text-tools`."""
    requirements: ClassVar[Sequence[str]] = ()
    """What is to be installed for it, as in `requirements.txt`; pydantic is there anyway."""
    resources: ClassVar[_Resources] = {}
    """What one process needs: `{"gpu": {"vram": "24GB"}, "ram": "8GB"}`."""
    scaling: ClassVar[_Scaling] = {}
    """How many processes: `min` kept warm, `max`, and `idle` seconds after which one with nothing to do goes."""
    secrets: ClassVar[Sequence[str]] = ()
    """Variables of the server's `--app-secret` that it gets."""
    session: ClassVar[Literal["", "rebuild", "snapshot"]] = ""
    """What becomes of a session whose process is lost: its calls are made again, its last snapshot is restored, or
    (empty) it is lost, too."""

    context: Context = Context()
    logger: logging.Logger = logging.getLogger("app")

    @overload
    @classmethod
    def run_locally(cls: type[_Async[_I, _O]], input: _I, *, setup: object = None) -> _O: ...
    @overload
    @classmethod
    def run_locally(cls: type[_AsyncStream[_I, _O]], input: _I, *, setup: object = None) -> _O: ...
    @overload
    @classmethod
    def run_locally(cls: type[_Stream[_I, _O]], input: _I, *, setup: object = None) -> _O: ...
    @overload
    @classmethod
    def run_locally(cls: type[_Plain[_I, _O]], input: _I, *, setup: object = None) -> _O: ...
    @classmethod
    def run_locally(cls: Any, input: Any, *, setup: object = None) -> Any:
        """Set one up in this process, call its `run`, unload it. Of a function that yields, the last value.

        Args:
            setup: For its `setup`; None: what that has as defaults.

        Raises:
            RuntimeError: An event loop runs here. Make an instance and await its methods instead.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(_run_locally(cls(), input, setup))
        raise RuntimeError(
            f"run_locally() is for code without an event loop; here: `app = {cls.__name__}()`, then await its methods"
        )


async def _run_locally(app: Any, input: Any, setup: object) -> Any:
    method = getattr(app, "setup", None)
    if method is not None:
        await _settled(method(*_setup_arguments(method, setup)))
    try:
        returned = app.run(input)
        if hasattr(returned, "__aiter__"):
            outputs = [output async for output in returned]
        elif inspect.isgenerator(returned):
            outputs = list(returned)
        else:
            return await _settled(returned)
        return outputs[-1] if outputs else None
    finally:
        unload = getattr(app, "unload", None)
        if unload is not None:
            await _settled(unload())


async def _settled(returned: Any) -> Any:
    return await returned if inspect.isawaitable(returned) else returned


def _setup_arguments(method: Callable[..., Any], setup: object) -> list[Any]:
    """What a `setup` is called with: nothing if it takes nothing; its model with defaults in place of None."""
    wanted = [name for name in inspect.signature(method).parameters if name != "metadata"]
    if not wanted:
        return []
    app = type(getattr(method, "__self__", None))
    inside = {name: value for owner in reversed(app.__mro__) for name, value in vars(owner).items()}
    hint = typing.get_type_hints(method, localns=inside).get(wanted[0])
    if inspect.isclass(hint) and issubclass(hint, pydantic.BaseModel) and not isinstance(setup, hint):
        return [hint.model_validate({} if setup is None else setup)]
    return [setup]


# Several at a time


class _Batched(Protocol):
    @overload
    def __call__(
        self, function: Callable[[_A, list[_I]], Coroutine[Any, Any, Sequence[_O]]], /
    ) -> Callable[[_A, _I], Coroutine[Any, Any, _O]]: ...
    @overload
    def __call__(self, function: Callable[[_A, list[_I]], Sequence[_O]], /) -> Callable[[_A, _I], _O]: ...


def batched(*, max_size: int = 32, max_wait: float = 0.01) -> _Batched:
    """A function that takes several inputs at a time; callers give one, and get the output to it.

        @batched(max_size=16)
        async def run(self, inputs: list[Input]) -> list[Output]: ...

    Args:
        max_size: How many at most.
        max_wait: Seconds that one waits for others.

    Its outputs are in the order of the inputs; an exception among them fails the call of that input alone.
    """
    if max_size < 1 or max_wait < 0:
        raise ValueError(f"max_size is 1 or more and max_wait 0 or more, not {max_size} and {max_wait}")

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def together(self: Any, given: Any) -> Any:
            if isinstance(given, list):
                return function(self, given)
            returned = function(self, [given])
            return _only(returned) if inspect.isawaitable(returned) else _single(returned)

        @functools.wraps(function)
        async def together_async(self: Any, given: Any) -> Any:
            return await together(self, given)

        wrapper: Any = together_async if inspect.iscoroutinefunction(function) else together
        wrapper.__stepwell_batch__ = (max_size, max_wait)
        return wrapper

    return decorate


async def _only(returned: Awaitable[Sequence[Any]]) -> Any:
    return _single(await returned)


def _single(outputs: Sequence[Any]) -> Any:
    (output,) = outputs
    if isinstance(output, BaseException):
        raise output
    return output


# Files


class File:
    """A file in an input or an output.

    In an input it is fetched when its content is first asked for; `await file.fetch()` does that in a thread. In an
    output, the server keeps it: `File("out.png")`, or `File.of(png_bytes, "out.png")`.

    Args:
        source: A path, an address (http, https) or a `data:` URI.
        content_type: As `image/png`; empty: what the name says.
        filename: Empty: the end of the path or address.
        size: Bytes, if that is known.
    """

    def __init__(
        self, source: str | os.PathLike[str] = "", *, path: str | os.PathLike[str] = "", uri: str = "",
        content_type: str = "", filename: str = "", size: int | None = None,
    ) -> None:  # fmt: skip
        text = os.fspath(source)
        if text.startswith(("http://", "https://", "data:")):
            uri = uri or text
        else:
            path = path or text
        if not path and not uri:
            raise ValueError("a file needs a path, an address (http, https) or a data: URI")
        self.uri = uri
        self._path = os.fspath(path)
        self.filename = filename or self._name()
        guessed = uri[5:].partition(",")[0].partition(";")[0] if uri.startswith("data:") else ""
        self.content_type = content_type or guessed or mimetypes.guess_type(self.filename)[0] or ""
        self._size = size

    @classmethod
    def of(cls, content: bytes, filename: str, *, content_type: str = "") -> File:
        """A file with this content, which lasts as long as the process."""
        folder = tempfile.mkdtemp(dir=_own_folder())
        path = os.path.join(folder, os.path.basename(filename) or "file")
        Path(path).write_bytes(content)
        return cls(path, content_type=content_type, filename=filename)

    @property
    def path(self) -> str:
        """Where it is on this machine. Fetches it, and blocks meanwhile, if that was not done yet.

        Raises:
            OSError: It cannot be fetched.
        """
        if not self._path:
            self._path = _fetched(self.uri, self.filename)
        return self._path

    @property
    def size(self) -> int | None:
        """Bytes; None of a file that is elsewhere and does not say."""
        if self._size is None and self._path and os.path.isfile(self._path):
            self._size = os.path.getsize(self._path)
        return self._size

    async def fetch(self) -> Path:
        """Where it is on this machine; fetched in a thread if that was not done yet. Raises `OSError`."""
        return Path(await asyncio.to_thread(lambda: self.path))

    def read_bytes(self) -> bytes:
        """Its content. Raises `OSError`."""
        return Path(self.path).read_bytes()

    def read_text(self, encoding: str = "utf-8") -> str:
        """Its content as text. Raises `OSError`, `UnicodeDecodeError`."""
        return self.read_bytes().decode(encoding)

    def to_dict(self) -> dict[str, Any]:
        """As it goes over the wire; nothing is fetched for that."""
        known = {
            "path": self._path, "uri": self.uri, "content_type": self.content_type, "size": self.size,
            "filename": self.filename,
        }  # fmt: skip
        return {name: value for name, value in known.items() if value not in ("", None)}

    def __repr__(self) -> str:
        return f"File({self._path or self.uri[:100]!r})"

    def _name(self) -> str:
        if self._path:
            return os.path.basename(self._path)
        if self.uri.startswith("data:"):
            return "file" + (mimetypes.guess_extension(self.uri[5:].partition(",")[0].partition(";")[0]) or "")
        return os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(self.uri).path)) or "file"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validated,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda file: file.to_dict(), when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "format": "file"}

    @classmethod
    def _validated(cls, value: Any) -> File:
        """Whoever calls an app names no path on its machine: only code that makes a `File` or a `Path` does."""
        if isinstance(value, cls):
            return value
        if isinstance(value, os.PathLike):
            return cls(value)
        if isinstance(value, str):
            value = {"uri": value}
        uri = value.get("uri") if isinstance(value, Mapping) else None
        if not isinstance(uri, str) or not uri.startswith(("http://", "https://", "data:")):
            raise ValueError("a file is an address (http, https), a data: URI, or a map with such a `uri`")
        told = {name: value[name] for name in ("content_type", "filename") if isinstance(value.get(name), str)}
        size = value.get("size")
        return cls(uri=uri, size=size if isinstance(size, int) else None, **told)


@functools.cache
def _own_folder() -> str:
    """A folder of this process, which nobody else may look into and which goes with it."""
    folder = tempfile.mkdtemp(prefix="stepwell-files-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _fetched(uri: str, filename: str) -> str:
    """The path of what is at an address: fetched once for all calls of a process."""
    folder = Path(os.environ.get("FILE_CACHE_DIR") or _own_folder()) / hashlib.sha256(uri.encode()).hexdigest()[:32]
    name = filename.replace("/", "_").replace("\0", "_").lstrip(".").encode("utf-8", "replace")[-200:]
    target = folder / (name.decode("utf-8", "ignore") or "file")
    if target.is_file():
        return str(target)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=folder, prefix=".part-")
    try:
        with os.fdopen(descriptor, "wb") as out:
            if uri.startswith("data:"):
                out.write(_of_data_uri(uri))
            elif uri.startswith(("http://", "https://")):
                request = urllib.request.Request(uri, headers={"User-Agent": "stepwell-app"})
                try:
                    with urllib.request.urlopen(request, timeout=120) as answer:
                        while piece := answer.read(1 << 20):
                            out.write(piece)
                except urllib.error.URLError as error:
                    host = urllib.parse.urlsplit(uri).netloc.rpartition("@")[2]
                    raise OSError(
                        f"the file {name.decode('utf-8', 'ignore')!r} of {host} cannot be fetched: {error}"
                    ) from None
            else:
                raise OSError(f"{uri[:100]!r} cannot be fetched: an address begins with http:// or https://")
        os.replace(part, target)
    except BaseException:
        os.unlink(part)
        raise
    return str(target)


def _of_data_uri(uri: str) -> bytes:
    head, comma, data = uri.partition(",")
    if not comma:
        raise OSError("a data: URI has a comma before its data; this one has none")
    try:
        return (
            base64.b64decode(data, validate=False) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(data)
        )
    except ValueError as error:
        raise OSError(f"a data: URI cannot be read: {error}") from error


# What other endpoints know how to call


class LanguageModel(App):
    """An app that is a language model: it also answers at the server's OpenAI-compatible endpoint.

    class Small(LanguageModel):
        async def run(self, input: LanguageModel.Input) -> AsyncIterator[LanguageModel.Output]:
            text = ""
            async for piece in self.model.generate(input.text):
                text += piece
                yield self.Output(response=text)  # the whole text so far
    """

    class Message(pydantic.BaseModel):
        """What was said before."""

        role: Literal["user", "assistant", "system", "tool"] = "user"
        text: str = ""
        reasoning: str | None = None
        reasoning_state: Any = None
        images: list[File] = []
        files: list[File] = []
        tool_calls: list[dict[str, Any]] | None = None
        tool_call_id: str | None = None

    class Input(pydantic.BaseModel):
        """One question. Have one of your own that inherits from this to add settings."""

        __stepwell_capabilities__: ClassVar[tuple[str, ...]] = ("llm",)

        system_prompt: str = ""
        context: list[LanguageModel.Message] = []
        role: Literal["user", "assistant", "system", "tool"] = "user"
        text: str = ""
        images: list[File] = []
        files: list[File] = []
        tool_call_id: str | None = None
        tools: list[dict[str, Any]] | None = None
        tool_choice: dict[str, Any] | None = None
        response_format: dict[str, Any] | None = None
        temperature: float = 0.7
        top_p: float = 0.95
        max_tokens: int | None = None
        seed: int | None = None
        stop: list[str] | None = None
        reasoning_effort: Literal["none", "low", "medium", "high"] = "none"

    class Usage(pydantic.BaseModel):
        """Counts of tokens; `stop_reason` is `stop`, `length` or `tool_calls`."""

        prompt_tokens: int = 0
        completion_tokens: int = 0
        total_tokens: int = 0
        cached_tokens: int = 0
        reasoning_tokens: int = 0
        stop_reason: str = ""

    class Output(pydantic.BaseModel):
        """The answer so far, or the whole of it."""

        response: str = ""
        reasoning: str | None = None
        reasoning_state: Any = None
        tool_calls: list[dict[str, Any]] | None = None
        images: list[File] = []
        usage: LanguageModel.Usage | None = None


class Embeddings(App):
    """An app that turns texts into vectors: it also answers at the server's OpenAI-compatible endpoint."""

    class Input(pydantic.BaseModel):
        """Texts, in the order of which the vectors are."""

        __stepwell_capabilities__: ClassVar[tuple[str, ...]] = ("embeddings",)

        texts: list[str]
        dimensions: int | None = None

    class Output(pydantic.BaseModel):
        """One vector to each text; `tokens` in all, if they were counted."""

        vectors: list[list[float]]
        tokens: int = 0


LanguageModel.Input.model_rebuild()
LanguageModel.Output.model_rebuild()
