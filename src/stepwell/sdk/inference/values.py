"""Inputs on their way out and outputs on their way in: which app a class means, models as JSON, files as addresses."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from stepwell.model.errors import InvalidInput
from stepwell.model.payload import canonical
from stepwell.sdk.errors import RecordedResultChanged
from stepwell.sdk.types import UNTYPED, decode_result, plain

_STREAMS = (
    collections.abc.AsyncIterator, collections.abc.AsyncGenerator, collections.abc.AsyncIterable,
    collections.abc.Iterator, collections.abc.Generator, collections.abc.Iterable, collections.abc.Awaitable,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """A file that the server keeps. Whoever has `uri` can read it; in an input it stands for that."""

    id: str
    uri: str
    filename: str = ""
    content_type: str = ""
    size: int = 0


def reference_of(app: str | type[Any]) -> str:
    """Which app is meant: a reference as it is, or what the class is called when it is deployed.

    Raises:
        InvalidInput: Something else.
    """
    if isinstance(app, str):
        return app
    if not inspect.isclass(app):
        raise InvalidInput(
            f"expected a reference such as 'acme/embed', or a class that is an app; found {type(app).__name__}",
            field="app",
        )
    name = getattr(app, "name", "")
    if isinstance(name, str) and name:
        return name
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", app.__name__)
    return words.replace("_", "-").strip("-").lower()  # as `stepwell app deploy` names a single file


def output_type(app: str | type[Any], function: str, output: Any) -> Any:
    """How to read an output: what was said, or else what the function of the class is annotated with."""
    if output is not None:
        return output
    method = None if isinstance(app, str) else getattr(app, function or "run", None)
    if method is None:
        return UNTYPED
    inside = {name: value for owner in reversed(app.__mro__) for name, value in vars(owner).items()}  # type: ignore[union-attr]
    try:
        found = typing.get_type_hints(method, localns=inside).get("return", UNTYPED)
    except NameError:
        return UNTYPED  # for instance, one that is there for type checkers only
    if typing.get_origin(found) in _STREAMS:
        found = typing.get_args(found)[0]
    if hasattr(method, "__stepwell_batch__"):
        found = next(iter(typing.get_args(found)), UNTYPED)
    return found


def read_output(value: Any, annotation: Any, task: str) -> Any:
    """An output as its type. Raises `RecordedResultChanged` if it is something else."""
    try:
        return decode_result(canonical(value), annotation)
    except Exception as err:
        # The user's own validators may raise anything.
        raise RecordedResultChanged(
            f"the output of task {task} does not read as what the code expects now ({err})"
        ) from err


def local_files(value: object) -> list[Path]:
    """The files of this machine that an input names by a `Path` or a `File`, each once."""
    found: list[Path] = []

    def note(path: Path) -> str:
        found.append(path)
        return ""

    _sent(value, note)
    return list(dict.fromkeys(found))


def input_text(value: object, addresses: Mapping[Path, str]) -> bytes:
    """An input as JSON, with an address in the place of every file.

    Raises:
        InvalidInput: It has no JSON form.
    """
    try:
        return canonical(plain(_sent(value, addresses.__getitem__)))
    except (TypeError, ValueError) as err:
        raise InvalidInput(f"the input has no form in JSON: {err}", field="input") from err


def _sent(value: Any, address: Callable[[Path], str]) -> Any:
    """`value` with maps in the place of models, and addresses in the place of files."""
    if isinstance(value, Path):
        return address(value)
    if isinstance(value, FileInfo):
        return value.uri
    if type(value).__name__ == "File" and hasattr(value, "to_dict"):
        told = value.to_dict()
        return told.get("uri") or address(Path(told["path"]))
    if hasattr(value, "model_dump") and hasattr(type(value), "model_fields"):
        return _sent(value.model_dump(mode="python"), address)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: _sent(getattr(value, one.name), address) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _sent(one, address) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_sent(one, address) for one in value]
    return value


def log_text(logs: Iterable[Any]) -> str:
    """What a task printed, as one text."""
    return "".join(str(one.get("content") or "") for one in logs if isinstance(one, Mapping))
