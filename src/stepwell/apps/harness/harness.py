"""Runs one app, in the app's own environment: `python harness.py FD`.

FD is a socket that this process inherited. Frames come and go on it as `stepwell/wire/app.py` says: load, setup, any
number of calls one after another, unload. This program is no part of the package that it lies in: it imports the
standard library, `msgpack` and the app, and runs on Python 3.10 and later.

    thread "frames"     reads the socket; sets the cancel flag at once, even while the app blocks everything else;
                        ends the process when the socket ends, because then the server is gone
    main thread         imports the app, then an event loop that lives as long as the process: async functions,
                        `on_cancel`
    thread "app"        functions that are not async, always in the same thread

An app is the class `App` of its `inference.py`, or the one class there that inherits from `stepwell.apps.App`. It is
imported as part of a package made up for it, so that relative imports work in a directory of any name. Nothing of it is
expected but its methods: what is a function, how it wants to be called and what it returns is seen from its signature
and from what it gives back. Where stepwell is not installed, `apps/base.py` alone is `stepwell.apps`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import faulthandler
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import logging
import os
import signal
import socket
import struct
import sys
import threading
import traceback
import types
import typing
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack

PROTOCOL = 1
MAX_FRAME_BYTES = 256 * 1024 * 1024
PACKAGE = "stepwell_app"  # the app's directory, under a name that is an identifier
ENTRY = "inference"
BASE = "stepwell.apps"
BASE_FILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "base.py")
NO_FUNCTIONS = frozenset({"setup", "unload", "on_cancel", "snapshot", "restore"})
SOCKETS = frozenset({"socket", "sock"})  # a parameter with such a name is a live stream
SESSIONS = frozenset({"rebuild", "snapshot"})
META = "output_meta"

Frame = dict[str, Any]


class Channel:
    """The socket to the server. `send` may be called by any thread."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._socket.setblocking(True)
        self._sending = threading.Lock()
        os.register_at_fork(after_in_child=self._socket.close)  # or the server would not see this process end

    def receive(self) -> Frame | None:
        """The next frame; None at the end."""
        header = self._exactly(4)
        data = None if header is None else self._exactly(struct.unpack(">I", header)[0])
        return None if data is None else msgpack.unpackb(data, strict_map_key=False)

    def send(self, kind: str, **fields: Any) -> None:
        """
        Raises:
            ValueError: It is too long, or holds something that no frame can.
        """
        try:
            data = msgpack.packb({"type": kind, **fields}, unicode_errors="replace")
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{kind} cannot be sent to the server: {error}") from error
        if len(data) > MAX_FRAME_BYTES:
            raise ValueError(
                f"{kind} is {len(data)} bytes, more than {MAX_FRAME_BYTES}; give large values back as a file"
            )
        with self._sending:
            self._socket.sendall(struct.pack(">I", len(data)) + data)

    def _exactly(self, size: int) -> bytes | None:
        received = bytearray()
        while len(received) < size:
            piece = self._socket.recv(min(size - len(received), 1 << 20))
            if not piece:
                return None
            received += piece
        return bytes(received)


class Metadata(types.SimpleNamespace):
    """What an app is told of where it runs and for whom."""

    def __init__(self, **values: Any) -> None:
        names = ("app_id", "app_version_id", "worker_id", "task_id", "team_id", "user_id")
        super().__init__(**{**dict.fromkeys(names), "gpu_ids": [], "app_variant": "default", **values})

    def get(self, name: str, default: Any = None) -> Any:
        return getattr(self, name, default)

    def update(self, other: Any) -> None:
        self.__dict__.update(other if isinstance(other, dict) else other.model_dump())

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return dict(self.__dict__)

    def log(self, *values: Any, **_: Any) -> None:
        sys.stdout.write(" ".join(map(str, values)) + "\n")


class Context:
    """`self.context` of an app."""

    def __init__(self, metadata: Metadata) -> None:
        self.cancel_requested = False
        self.metadata = metadata


@dataclasses.dataclass
class Function:
    """How a function is called, and what is said of it."""

    name: str
    input: Any = None  # a pydantic model; None: it gets what was sent
    output: Any = None
    metadata: str = ""  # the parameter that gets the metadata
    batch: tuple[int, float] | None = None  # it takes a list: how many at most, and how long one waits for others
    live: bool = False
    fetches: bool = False  # its input has files, which are fetched while it is validated
    description: dict[str, Any] = dataclasses.field(default_factory=dict)


# What an app is: its class, its functions, their schemas


def imported(directory: str) -> type:
    """The class `App` of the app in `directory`, which becomes the working directory and the first place to import
    from."""
    if not os.path.isfile(os.path.join(directory, ENTRY + ".py")):
        raise ImportError(f"{directory} has no {ENTRY}.py")
    os.chdir(directory)
    own = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [directory, *(place for place in sys.path if os.path.abspath(place) not in (own, directory))]
    as_package(directory)
    offer_base()
    return app_in(importlib.import_module(f"{PACKAGE}.{ENTRY}"))


def app_in(module: types.ModuleType) -> type:
    base = getattr(sys.modules.get(BASE), "App", None)
    named_so = getattr(module, "App", None)
    if inspect.isclass(named_so) and named_so is not base:
        return named_so
    inheriting = {
        one: None
        for one in vars(module).values()
        if base is not None and inspect.isclass(one) and issubclass(one, base) and one.__module__ == module.__name__
        if not one.__name__.startswith("_")
    }
    found = [one for one in inheriting if not any(issubclass(other, one) for other in inheriting if other is not one)]
    if len(found) > 1:
        names = ", ".join(one.__name__ for one in found)
        raise ImportError(f"{ENTRY}.py has several apps: {names}; call one of them App, or begin other names with _")
    if not found:
        raise ImportError(f"{ENTRY}.py has no class named App, and none that inherits from stepwell.apps.App")
    return found[0]


class BaseFinder:
    """Finds `stepwell.apps`, and nothing else of stepwell."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name == "stepwell":
            return importlib.machinery.ModuleSpec(name, None, is_package=True)
        return importlib.util.spec_from_file_location(name, BASE_FILE) if name == BASE else None


def offer_base() -> None:
    """Let an app import `stepwell.apps` where stepwell is not installed."""
    if importlib.util.find_spec("stepwell") is None:
        sys.meta_path.append(BaseFinder)


def as_package(directory: str) -> None:
    """Make it known under a name that is an identifier, whatever its own is."""
    start = os.path.join(directory, "__init__.py")
    if not os.path.isfile(start):
        sys.modules[PACKAGE] = types.ModuleType(PACKAGE)
        sys.modules[PACKAGE].__path__ = [directory]
        return
    spec = importlib.util.spec_from_file_location(PACKAGE, start, submodule_search_locations=[directory])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACKAGE])


def functions_of(app: type) -> dict[str, Function]:
    """The public methods that take a pydantic model and return or yield one, in the order of their definition, bases
    first; and `run` in any case."""
    base = sys.modules["pydantic"].BaseModel if is_model(app) else object
    found: dict[str, Function] = {}
    for owner in reversed(app.__mro__):
        for name in vars(owner):
            if name.startswith("_") or name in NO_FUNCTIONS or name in found or hasattr(base, name):
                continue
            method = inspect.getattr_static(app, name)
            if inspect.isfunction(method) and (function := function_of(app, name, method)) is not None:
                found[name] = function
    return found


def function_of(app: type, name: str, method: Any) -> Function | None:
    parameters = parameters_of(method)[1:]
    if not parameters:
        return None
    given, *others = parameters
    hints = hints_of(app, method)
    batch = getattr(method, "__stepwell_batch__", None)
    taken, returned = hints.get(given), yielded(hints.get("return"))
    if batch is not None:
        taken, returned = item_of(taken), item_of(returned)
    outputs = [choice for choice in choices(returned) if is_model(choice) and not is_delta(choice)]
    if not (is_model(taken) and outputs) and name != "run":
        return None
    function = Function(
        name,
        input=taken if is_model(taken) else None,
        output=typing.Union[tuple(outputs)] if outputs else None,  # noqa: UP007
        metadata=next((one for one in others if is_metadata(one, hints)), ""),
        batch=None if batch is None else (int(batch[0]), float(batch[1])),
        live=any(one in SOCKETS for one in others),
    )
    schema = schema_of(function.input)
    function.fetches = '"format": "file"' in json.dumps(schema)
    said = dict(getattr(method, "__inferencesh_function__", None) or {})
    function.description = {
        **said,
        "description": inspect.cleandoc(method.__doc__ or ""),
        "input_schema": schema,
        "output_schema": schema_of(function.output),
        "capabilities": capabilities_of(method, function, outputs),
        "kind": "stream" if function.live else "run",
    }
    if function.batch is not None:
        function.description |= {"batch_size": function.batch[0], "batch_wait_ms": function.batch[1] * 1000}
    return function


def capabilities_of(method: Any, function: Function, outputs: list[Any]) -> list[str]:
    """What it says itself by `__stepwell_capabilities__`, on the function or on its input; `llm` if it takes and gives
    what a language model does."""
    said = (
        *getattr(method, "__stepwell_capabilities__", ()),
        *getattr(function.input, "__stepwell_capabilities__", ()),
    )
    speaks = named(function.input, "LLMInput") and any(named(output, "LLMOutput") for output in outputs)
    return list(dict.fromkeys([*said, *(["llm"] if speaks else [])]))


def schema_of(model: Any) -> dict[str, Any]:
    """The JSON schema of a model or of a union of them; empty if nothing is known of it."""
    if model is None:
        return {}
    pydantic = sys.modules["pydantic"]
    if not is_model(model):
        return dict(pydantic.TypeAdapter(model).json_schema())
    try:
        return dict(model.model_json_schema())
    except (KeyError, OSError, TypeError, StopIteration):  # a base class that orders fields as in a source not found
        return dict(pydantic.BaseModel.model_json_schema.__func__(model))


def parameters_of(method: Any) -> list[str]:
    """The names of what can be given to it by position or by name."""
    return [
        name
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def hints_of(app: type, method: Any) -> dict[str, Any]:
    """Annotations, with those read that are written as text; models within the class are found, too."""
    inside = {name: value for owner in reversed(app.__mro__) for name, value in vars(owner).items()}
    function = inspect.unwrap(method)
    with contextlib.suppress(NameError, TypeError, AttributeError):
        return typing.get_type_hints(function, localns=inside)
    if sys.version_info >= (3, 14):
        import annotationlib

        written = annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    else:
        written = function.__annotations__
    found = {}
    for name, value in written.items():  # one cannot be read, for instance because it is there for type checkers only
        with contextlib.suppress(NameError, TypeError, AttributeError):
            found[name] = eval(value, function.__globals__, inside) if isinstance(value, str) else value
    return found


def yielded(annotation: Any) -> Any:
    """T of a generator, iterator or awaitable of T."""
    origin = typing.get_origin(annotation)
    name = getattr(origin, "__name__", "")
    if name in ("AsyncGenerator", "Generator", "AsyncIterator", "Iterator", "AsyncIterable", "Iterable", "Awaitable"):
        return typing.get_args(annotation)[0]
    return typing.get_args(annotation)[-1] if name == "Coroutine" else annotation


def item_of(annotation: Any) -> Any:
    return next(iter(typing.get_args(annotation)), None)


def choices(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def named(kind: Any, name: str) -> bool:
    return any(owner.__name__ == name for owner in getattr(kind, "__mro__", ()))


def is_model(kind: Any) -> bool:
    base = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return base is not None and inspect.isclass(kind) and issubclass(kind, base)


def is_delta(kind: Any) -> bool:
    return named(kind, "StreamDelta")


def is_metadata(parameter: str, hints: dict[str, Any]) -> bool:
    return parameter == "metadata" or any(named(choice, "Metadata") for choice in choices(hints.get(parameter)))


def setup_model_of(app: type) -> Any:
    """The model of the setup value; None if there is none."""
    method = inspect.getattr_static(app, "setup", None)
    if not inspect.isfunction(method):
        return None
    hints = hints_of(app, method)
    for name in parameters_of(method)[1:]:
        if not is_metadata(name, hints):
            return next((choice for choice in choices(hints.get(name)) if is_model(choice)), None)
    return None


def session_of(app: type) -> str:
    """What the app declares as `session`: a plain attribute, or the default of a field of a pydantic class."""
    field = getattr(app, "model_fields", {}).get("session")
    declared = getattr(app, "session", "") if field is None else field.default
    return declared if isinstance(declared, str) and declared in SESSIONS else ""


# What an app gives back


def plain(value: Any) -> Any:
    """`value` as what JSON can hold."""
    core = sys.modules.get("pydantic_core")
    if core is None:
        return json.loads(json.dumps(value, default=described))
    if is_model(type(value)):
        try:
            return value.model_dump(mode="json")
        except core.PydanticSerializationError:
            pass  # something in it is not annotated, such as a file in a plain list
    return core.to_jsonable_python(value, by_alias=False, fallback=described)


def described(value: Any) -> Any:
    if is_file(value):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"the app gave back a {type(value).__name__}, which JSON cannot hold")


def is_file(value: Any) -> bool:
    kind = type(value)  # asked first, since asking a file for its path may fetch it
    return named(kind, "File") and hasattr(kind, "to_dict") and (hasattr(kind, "path") or hasattr(value, "path"))


def files_in(value: Any, dumped: Any, place: tuple[str | int, ...] = ()) -> Iterator[list[str | int]]:
    """Where in `dumped` the files are that `value` holds. Only what the app made as a file is one: a map with a `path`
    that it was given and passes on is none."""
    if is_file(value):
        if isinstance(dumped, dict):
            yield list(place)
        return
    inside = value
    if is_model(type(value)):
        if named(type(value), "RootModel"):
            yield from files_in(value.root, dumped, place)
            return
        inside = {**value.__dict__, **(value.model_extra or {})}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(inside, dict) and isinstance(dumped, dict):
        for key, one in inside.items():
            if key in dumped:
                yield from files_in(one, dumped[key], (*place, key))
    elif isinstance(inside, (list, tuple)) and isinstance(dumped, list) and len(inside) == len(dumped):
        for position, one in enumerate(inside):
            yield from files_in(one, dumped[position], (*place, position))


def result(value: Any) -> Frame:
    """The fields `value`, `files` and `meta` of what an app gave back."""
    dumped = plain(value)
    meta = dumped.pop(META, None) if isinstance(dumped, dict) else None
    return {"value": dumped, "files": list(files_in(value, dumped)), "meta": meta}


def merged(state: dict[str, Any], delta: Any) -> dict[str, Any]:
    """`state` with `delta` merged into it, as the module that `delta` comes from does it."""
    package = next(owner for owner in type(delta).__mro__ if owner.__name__ == "StreamDelta").__module__.split(".")[0]
    merge = importlib.import_module(f"{package}.delta").merge_delta
    return dict(merge(state, delta))


def failure(error: BaseException, code: str) -> Frame:
    """What is told of an error. The trace begins where the app's code does."""
    message = str(error) or type(error).__name__
    if isinstance(error, SystemExit):
        message = f"the app ended itself (SystemExit: {error.code})"
    if code == "import":
        message = f"the app cannot be imported: {type(error).__name__}: {message}"
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(PACKAGE):
            message += "; name the package that has it in the requirements of the app"
    package = sys.modules.get(PACKAGE)
    inside = "" if package is None else os.path.join(package.__path__[0], "")
    begin = error.__traceback__
    while begin is not None and not begin.tb_frame.f_code.co_filename.startswith(inside):
        begin = begin.tb_next
    if begin is None and code == "app":  # what fails before the app's code runs is told by the error alone
        begin = error.__traceback__
    lines = traceback.format_exception(type(error), error, begin)
    return {"message": message, "code": code, "name": type(error).__name__, "trace": "".join(lines)}


# Running it


class Unfit(Exception):
    """The call does not fit the app."""


class Host:
    """Holds the app and does what the frames ask for, one after another."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = asyncio.new_event_loop()
        self._inbox: asyncio.Queue[Frame] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "app")
        self._kind: type = object
        self._functions: dict[str, Function] = {}
        self._app: Any = None
        self._about: Frame = {}
        self._context = Context(Metadata())
        self._guard = threading.Lock()
        self._pending: dict[str, bool] = {}  # calls that came and have not ended -> is it to be cancelled?
        self._current: tuple[str, ...] = ()
        self._telling: asyncio.Task[None] | None = None

    def run(self) -> int:
        """Serve until `unload`. Returns the exit status."""
        first = self._channel.receive()
        if first is None:
            return 1
        threading.Thread(target=self._read, name="frames", daemon=True).start()
        asyncio.set_event_loop(self._loop)
        try:
            self._load(first)
        except BaseException as error:
            self._send("failed", **failure(error, "import"))
            return 1
        self._loop.run_until_complete(self._serve())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        flush()
        return 0

    def _read(self) -> None:
        """Thread "frames"."""
        while True:
            try:
                frame = self._channel.receive()
            except OSError:
                frame = None
            if frame is None:
                end_everything()
            elif frame["type"] == "cancel":
                self._cancel(frame["call"])
            else:
                calls = frame.get("calls") or [frame[name] for name in ("call",) if name in frame]
                with self._guard:
                    self._pending.update(dict.fromkeys(calls, False))
                self._loop.call_soon_threadsafe(self._inbox.put_nowait, frame)

    def _cancel(self, call: str) -> None:
        """Thread "frames". Calls made at a time share one flag: it is set when the last of them is cancelled."""
        with self._guard:
            if self._pending.get(call, True):
                return  # it has ended, or this was said before
            self._pending[call] = True
            calls = self._current
            if call not in calls or not all(self._pending.get(one, True) for one in calls):
                return
            self._context.cancel_requested = True
        self._loop.call_soon_threadsafe(self._tell_cancel, calls)

    def _tell_cancel(self, calls: tuple[str, ...]) -> None:
        method = getattr(self._app, "on_cancel", None)
        if calls == self._current and callable(method) and self._telling is None:
            self._telling = self._loop.create_task(self._quietly(method, apart=True))

    async def _settle(self) -> None:
        """Let `on_cancel` end before the calls do that it is about."""
        if self._telling is not None:
            await self._telling

    def _load(self, frame: Frame) -> None:
        if frame["type"] != "load" or frame.get("protocol", PROTOCOL) != PROTOCOL:
            raise ImportError(f"the first frame is to be `load` of protocol {PROTOCOL}, not {frame}")
        self._kind = imported(os.path.abspath(frame["directory"]))
        self._functions = functions_of(self._kind)
        self._send(
            "loaded",
            functions={name: function.description for name, function in self._functions.items()},
            setup_schema=schema_of(setup_model_of(self._kind)),
            session=session_of(self._kind),
            cancels=callable(getattr(self._kind, "on_cancel", None)),
        )

    async def _serve(self) -> None:
        while (frame := await self._inbox.get())["type"] != "unload":
            if frame["type"] == "run":
                await self._run(frame)
            elif frame["type"] == "runmany":
                await self._run_many(frame)
            else:
                await self._prepare(frame)
        await self._unload()

    async def _prepare(self, frame: Frame) -> None:
        kind = frame["type"]
        try:
            if kind == "setup":
                await self._setup(frame.get("value"), frame.get("metadata") or {})
                self._send("ready")
            elif kind == "restore":
                await self._call(self._app.restore, msgpack.unpackb(frame["state"], strict_map_key=False))
                self._send("ready")
            elif kind == "snapshot":
                self._send("state", state=msgpack.packb(await self._call(self._app.snapshot)))
            else:
                raise ValueError(f"a frame {kind!r} came, which this harness does not know")
        except BaseException as error:
            self._send("failed", **failure(error, "app" if kind == "snapshot" else "setup"))

    async def _setup(self, value: Any, metadata: Frame) -> None:
        await self._unload()
        self._about, self._context = metadata, Context(Metadata(**metadata))
        app = self._kind()
        base = getattr(sys.modules.get(BASE), "App", None)
        for name, given in (("logger", logger()), ("context", self._context)):
            if not hasattr(app, name) or getattr(app, name) is getattr(
                base, name, app
            ):  # one that it made itself stays
                with contextlib.suppress(AttributeError, TypeError, ValueError):
                    setattr(app, name, given)
        method = getattr(app, "setup", None)
        if callable(method):
            hints, arguments = hints_of(self._kind, method), {}
            names = parameters_of(method)
            taking = [name for name in names if not is_metadata(name, hints)]
            if taking:
                arguments[taking[0]] = await self._checked(setup_model_of(self._kind), value, fetches=True)
            arguments |= {name: self._context.metadata for name in names if name not in taking}
            await self._call(functools.partial(method, **arguments))
        self._app = app

    async def _unload(self) -> None:
        app, self._app = self._app, None
        if callable(method := getattr(app, "unload", None)):
            await self._quietly(method)

    async def _run(self, frame: Frame) -> None:
        call: str = frame["call"]
        last: Frame = {}
        self._begin((call,), frame)
        try:
            async with contextlib.aclosing(self._answers(frame)) as answers:
                async for how, answer in answers:
                    if how == "delta":
                        self._channel.send("delta", call=call, value=answer)
                        continue
                    last = result(answer)
                    if how == "output":
                        self._channel.send("output", call=call, value=last["value"], files=last["files"])
                        if self._pending[call]:  # it is at a place where it can be ended
                            self._tell_cancel((call,))
                            break
            await self._settle()
            self._done(call, last)
        except BaseException as error:
            await self._settle()
            self._failed(call, error)
        self._current = ()

    async def _run_many(self, frame: Frame) -> None:
        self._begin(tuple(frame["calls"]), frame)
        inputs: dict[str, Any] = {}
        for call, value in zip(frame["calls"], frame["inputs"], strict=True):
            try:
                if self._pending[call]:
                    self._done(call, {})
                else:
                    inputs[call] = await self._input(self._function(frame, many=True), value)
            except BaseException as error:
                self._failed(call, error)
        try:
            answers = await self._together(self._function(frame, many=True), list(inputs.values())) if inputs else []
        except BaseException as error:
            await self._settle()
            for call in inputs:
                self._failed(call, error)
        else:
            await self._settle()
            for call, answer in zip(inputs, answers, strict=True):
                try:
                    if isinstance(answer, BaseException):
                        raise answer
                    self._done(call, result(answer))
                except BaseException as error:
                    self._failed(call, error)
        self._current = ()

    def _begin(self, calls: tuple[str, ...], frame: Frame) -> None:
        with self._guard:
            self._current, self._telling = calls, None
            self._context.cancel_requested = all(self._pending[call] for call in calls)
        self._context.metadata = Metadata(**{**self._about, **(frame.get("metadata") or {})})

    def _done(self, call: str, fields: Frame) -> None:
        self._send("done", call=call, **fields, cancelled=self._ended(call))

    def _failed(self, call: str, error: BaseException) -> None:
        if isinstance(error, Unfit):
            fields = failure(error.__cause__ or error, "validation") | {"trace": ""}
        else:
            fields = failure(error, "app")
        self._ended(call)
        self._send("failed", call=call, **fields)

    def _ended(self, call: str) -> bool:
        """Forget it, before its end is told. Was it to be cancelled?"""
        with self._guard:
            return self._pending.pop(call, False)

    def _function(self, frame: Frame, many: bool = False) -> Function:
        name = frame["function"]
        function = self._functions.get(name)
        if function is None:
            raise Unfit(f"the app has no function {name!r}; it has {', '.join(self._functions) or 'none'}")
        if function.live:
            raise Unfit(f"{name!r} takes a socket, and live streams are not offered")
        if many and function.batch is None:
            raise Unfit(f"{name!r} takes one input at a time")
        if self._app is None:
            raise Unfit("the app was not set up")
        return function

    async def _input(self, function: Function, value: Any) -> Any:
        try:
            return await self._checked(function.input, value, function.fetches)
        except Exception as error:
            raise Unfit from error

    async def _checked(self, model: Any, value: Any, fetches: bool) -> Any:
        """`value` as `model`, which may fetch files and then does so in the thread for what is not async."""
        value = {} if value is None else value
        if model is None:
            return value
        if not fetches:
            return model(**value) if isinstance(value, dict) else model.model_validate(value)
        return await self._call(lambda: model(**value) if isinstance(value, dict) else model.model_validate(value))

    async def _answers(self, frame: Frame) -> AsyncGenerator[tuple[str, Any], None]:
        """What the function gives back: `delta`, `output` (there may be more), `result`; nothing if the call is
        cancelled before it begins."""
        call, function = frame["call"], self._function(frame)
        value = None if self._pending[call] else await self._input(function, frame.get("input"))
        if self._pending[call]:
            return
        if function.batch is not None:
            (answer,) = await self._together(function, [value])
            if isinstance(answer, BaseException):
                raise answer
            yield "result", answer
            return
        returned = await self._call(self._bound(function), value)
        if hasattr(returned, "__aiter__"):
            stream = returned
        elif inspect.isgenerator(returned):
            stream = self._pulled(returned)
        else:
            yield "result", returned
            return
        state: Frame = {}
        whole = False
        try:
            async for answer in stream:
                if is_delta(type(answer)):
                    state = state if whole else merged(state, answer)
                    yield "delta", answer.model_dump(mode="json", exclude_unset=True, exclude_none=True)
                else:
                    whole = True
                    yield "output", answer
            if state and not whole:
                yield "result", state
        finally:
            if hasattr(stream, "aclose"):
                await stream.aclose()

    async def _pulled(self, generator: Any) -> AsyncGenerator[Any, None]:
        end = object()
        try:
            while (answer := await self._call(next, generator, end)) is not end:
                yield answer
        finally:
            await self._call(generator.close)

    async def _together(self, function: Function, values: list[Any]) -> list[Any]:
        answers = await self._call(self._bound(function), values)
        if not isinstance(answers, (list, tuple)) or len(answers) != len(values):
            got = len(answers) if isinstance(answers, (list, tuple)) else f"a {type(answers).__name__}"
            raise TypeError(f"{function.name!r} was given {len(values)} inputs and is to return as many, not {got}")
        return list(answers)

    def _bound(self, function: Function) -> Any:
        """The method, with the metadata if it takes them."""
        method = getattr(self._app, function.name)
        if not function.metadata:
            return method
        return functools.partial(method, **{function.metadata: self._context.metadata})

    async def _call(self, method: Any, *given: Any, apart: bool = False) -> Any:
        """Call it where it belongs: what is async on the loop, anything else in the thread "app", or in any other if
        `apart`."""
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            returned = method(*given)
        else:
            returned = await self._loop.run_in_executor(None if apart else self._thread, method, *given)
        return await returned if inspect.isawaitable(returned) else returned

    async def _quietly(self, method: Any, apart: bool = False) -> None:
        try:
            await self._call(method, apart=apart)
        except BaseException:
            traceback.print_exc()

    def _send(self, kind: str, **fields: Any) -> None:
        flush()  # what was printed comes first
        self._channel.send(kind, **fields)


def logger() -> logging.Logger:
    """The logger that apps find as `self.logger`. It writes by itself as long as the app arranges for nothing else."""
    found = logging.getLogger("app")
    if not found.handlers:
        found.setLevel(logging.INFO)
        handler = logging.StreamHandler()
        handler.addFilter(lambda _: not logging.getLogger().handlers)
        found.addHandler(handler)
    return found


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def end_everything() -> None:
    """The server is gone: so do this process and those that it started, if it leads a group of its own."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def main() -> None:
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    sys.exit(Host(Channel(int(sys.argv[1]))).run())


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # a process that the app started by `multiprocessing`, which is to find its functions
    as_package(sys.path[0])
    offer_base()
