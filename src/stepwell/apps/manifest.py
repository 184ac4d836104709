"""The manifest of an app: the file `inf.yml` in its directory says what it is called, what it runs on, what it needs.

Every value is read as the text that it is written as, and then as what its key asks for. So `kernel: 3.10` is 3.10 and
no number, and the country `NO` in `env` is no boolean. Only `metadata`, whose keys are free, has numbers, booleans and
nulls of its own, as in YAML 1.2. What is wrong is an error that names the key; a key that we do not know is a warning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from stepwell.apps.declared import ENTRY, read_declared
from stepwell.model.app import DEFAULT_FUNCTION, Needed, Resources, Scaling, Variant, read_reference
from stepwell.model.errors import InvalidInput

FILE = "inf.yml"
MAX_BYTES = 1 << 20
MAX_VALUES = 50_000

_KERNEL = re.compile(r"(?:(python|node)-?)?(\d+(?:\.\d+)?)?", re.IGNORECASE)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?)?", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "": False}
_BOOLEANS |= {"false": False, "no": False, "off": False, "0": False}
_GPU_TYPES = ("any", "nvidia", "amd", "apple", "intel", "none")
_NULLS = ("", "~", "null")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")  # longer ones are floats, or do not fit into JSON
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,2})?")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What `inf.yml` says. `warnings` are sentences for whoever imports the app."""

    name: str
    namespace: str = ""  # empty: that of whoever imports it
    description: str = ""
    category: str = "other"
    kernel: str = "python"  # `python-3.11`, `node-22`; without a number: any
    resources: Resources = Resources()
    variables: dict[str, str] = {}
    images: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    secrets: tuple[Needed, ...] = ()
    integrations: tuple[Needed, ...] = ()
    functions: dict[str, str] = {}  # name: description
    default_function: str = DEFAULT_FUNCTION
    variants: dict[str, Variant] = {}
    scaling: Scaling = Scaling()
    warnings: tuple[str, ...] = ()

    @property
    def node(self) -> bool:
        """Written in JavaScript."""
        return self.kernel.startswith("node")


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of the app in a directory. What it does not say, the code may (`declared.py`).

    Raises:
        InvalidInput: There is none, or it cannot be read; the message says which key expects what.
    """
    file = directory / FILE
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as err:
        if not directory.is_dir():
            raise InvalidInput(f"there is no directory {directory}", field=FILE) from err
        raise InvalidInput(
            f"{directory} is no app: it has no {FILE}; write one that says at least `name: my-app`", field=FILE
        ) from err
    except OSError as err:
        raise InvalidInput(f"{file} cannot be read: {err.strerror}", field=FILE) from err
    return parse_manifest(raw, read_declared(directory / ENTRY).values)


def parse_manifest(raw: bytes, declared: Mapping[str, Any] | None = None) -> Manifest:
    """Read the text of a manifest.

    Args:
        declared: What the code says where the manifest says nothing.

    Raises:
        InvalidInput: As for `read_manifest`.
    """
    if len(raw) > MAX_BYTES:
        raise InvalidInput(f"{FILE} is larger than {MAX_BYTES:,} bytes", field=FILE)
    written = _read_yaml(raw)
    if declared and (isinstance(written, dict) or written in (None, "")):
        written = _texts(declared) | (written or {})
    root = _Value(written, "")
    warnings: list[str] = []
    root.warn_about_others(_KEYS, warnings)
    name, namespace = root.text("name"), root.text("namespace")
    if not name:
        raise root.at("name").expected("the name of the app, such as `upscale`")
    try:
        read_reference(f"{namespace or 'me'}/{name}")
    except InvalidInput as err:
        raise root.at("name").expected("letters, digits, `.`, `_` and `-` in namespace and name") from err
    secrets = root.at("secrets").needed(_VARIABLE, warnings)
    integrations = root.at("integrations").needed(None, warnings)
    more_secrets, more_integrations = _credentials(root.at("credentials"), warnings)
    default_function = root.text("default_function") or DEFAULT_FUNCTION
    if not _FUNCTION.fullmatch(default_function):
        raise root.at("default_function").expected("the name of a function")
    if root.at("sandbox").fields():
        warnings.append(f"{FILE}: sandbox: is not applied; apps run as processes of the server's user")
    return Manifest(
        name=name,
        namespace=namespace,
        description=root.text("description"),
        category=root.text("category") or "other",
        kernel=_kernel(root.at("kernel")),
        resources=_resources(root.at("resources"), warnings),
        variables=_variables(root.at("env")),
        images=root.at("images").texts(),
        metadata=root.at("metadata").fields(),
        secrets=_once(secrets, more_secrets),
        integrations=_once(integrations, more_integrations),
        functions=_functions(root.at("functions"), warnings),
        default_function=default_function,
        variants=_variants(root.at("variants"), warnings),
        scaling=_scaling(root.at("scaling"), warnings),
        warnings=tuple(warnings),
    )


_KEYS = frozenset(
    "namespace name description category kernel resources env images metadata secrets integrations functions"
    " default_function credentials sandbox variants scaling".split()
)


def _kernel(value: _Value) -> str:
    found = _KERNEL.fullmatch(value.as_text())
    if found is None:
        raise value.expected("`python`, `python-3.11`, `3.11`, `node-22` or nothing")
    language, version = (found[1] or "python").lower(), found[2]
    if version and language == "python" and "." not in version and version != "3":
        raise value.expected("a version such as `python-3.11`")
    return f"{language}-{version}" if version and version != "3" else language


def _resources(value: _Value, warnings: list[str]) -> Resources:
    value.warn_about_others({"gpu", "ram"}, warnings)
    gpu = value.at("gpu")
    gpu.warn_about_others({"count", "vram", "type"}, warnings)
    kind = gpu.text("type").lower()
    if kind and kind not in _GPU_TYPES:
        warnings.append(f"{FILE}: {gpu.at('type').path}: {kind!r} is none of {', '.join(_GPU_TYPES)}")
    vram = gpu.at("vram").as_size()
    count = gpu.at("count").as_integer()
    if count is None:
        count = 1 if vram else 0
    if count == 0 or kind == "none":
        return Resources(ram_bytes=value.at("ram").as_size())
    gpu_type = "" if kind == "any" else kind
    return Resources(gpus=count, vram_bytes=vram, gpu_type=gpu_type, ram_bytes=value.at("ram").as_size())


def _variables(value: _Value) -> dict[str, str]:
    variables = value.texts()
    for name in variables:
        if not _VARIABLE.fullmatch(name):
            raise value.at(name).expected("the name of a variable: letters, digits and `_`")
    return variables


def _functions(value: _Value, warnings: list[str]) -> dict[str, str]:
    functions: dict[str, str] = {}
    for name, one in value.named():
        if not _FUNCTION.fullmatch(name):
            raise one.expected("the name of a function")
        if isinstance(one.value, str):
            functions[name] = one.value
        else:
            one.warn_about_others({"name", "description"}, warnings)
            functions[name] = one.text("description")
    return functions


def _variants(value: _Value, warnings: list[str]) -> dict[str, Variant]:
    variants: dict[str, Variant] = {}
    for name, one in value.named():
        one.warn_about_others({"name", "resources", "env"}, warnings)
        resources = _resources(one.at("resources"), warnings) if "resources" in one.fields() else None
        variants[name] = Variant(resources=resources, env=_variables(one.at("env")))
    return variants


def _scaling(value: _Value, warnings: list[str]) -> Scaling:
    """How many workers: `min` kept warm, `max`, and `idle`, the seconds after which one with nothing to do goes."""
    value.warn_about_others({"min", "max", "idle"}, warnings)
    least, most, idle = (value.at(key).as_integer() for key in ("min", "max", "idle"))
    if most is not None and most < max(least or 0, 1):
        raise value.at("max").expected(f"at least {max(least or 0, 1)}")
    return Scaling(least=least or 0, most=most, idle_ms=None if idle is None else idle * 1000)


def _credentials(value: _Value, warnings: list[str]) -> tuple[tuple[Needed, ...], tuple[Needed, ...]]:
    """The newer form of `integrations`: services by name, each with the secrets or the capabilities that are asked."""
    secrets: list[Needed] = []
    integrations: list[Needed] = []
    for slug, one in value.named():
        if isinstance(one.value, str):
            integrations.append(Needed(key=slug, description=one.value))
            continue
        optional, description = one.at("optional").as_boolean(), one.text("description")
        named = one.at("secrets").needed(_VARIABLE, warnings)
        secrets += [
            Needed(key=needed.key, description=needed.description or description, optional=needed.optional or optional)
            for needed in named
        ]
        keys = [f"{slug}.{capability}" for capability in one.at("capabilities").as_texts()]
        if not named:
            integrations += [Needed(key=key, description=description, optional=optional) for key in keys or [slug]]
    return tuple(secrets), tuple(integrations)


def _once(first: tuple[Needed, ...], more: tuple[Needed, ...]) -> tuple[Needed, ...]:
    return tuple({needed.key: needed for needed in (*more, *first)}.values())


class _Value:
    """A value of the manifest and where it stands, such as `resources.gpu.vram`. What is absent is None."""

    def __init__(self, value: Any, path: str) -> None:
        self.value = value
        self.path = path

    def at(self, key: str) -> _Value:
        return _Value(self.fields().get(key), f"{self.path}.{key}" if self.path else key)

    def text(self, key: str) -> str:
        return self.at(key).as_text()

    def expected(self, what: str) -> InvalidInput:
        shown = "nothing" if self.value in (None, "") else repr(self.value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        key = self.path or "the whole file"
        return InvalidInput(f"{FILE}: {key}: expected {what}; found {shown}", field=self.path or FILE)

    def warn_about_others(self, known: set[str] | frozenset[str], warnings: list[str]) -> None:
        for key in self.fields():
            if key not in known:
                warnings.append(f"{FILE}: {self.at(key).path}: is not known and counts for nothing")

    def fields(self) -> dict[str, Any]:
        if self.value in (None, ""):
            return {}
        if not isinstance(self.value, dict):
            raise self.expected("a map of keys and values")
        return self.value

    def texts(self) -> dict[str, str]:
        return {key: self.at(key).as_text() for key in self.fields()}

    def entries(self) -> list[_Value]:
        if self.value in (None, ""):
            return []
        if not isinstance(self.value, list):
            raise self.expected("a list")
        return [_Value(one, f"{self.path}[{index}]") for index, one in enumerate(self.value)]

    def named(self) -> list[tuple[str, _Value]]:
        """A map, or a list whose entries have a `name`, `slug` or `key` or are names themselves."""
        if isinstance(self.value, dict):
            return [(key, self.at(key)) for key in self.value]
        found: list[tuple[str, _Value]] = []
        for one in self.entries():
            if isinstance(one.value, str):
                found.append((one.value, _Value("", one.path)))
                continue
            name = next((name for key in ("name", "slug", "key") if (name := one.text(key))), "")
            if not name:
                raise one.expected("an entry with `name`")
            found.append((name, one))
        return found

    def needed(self, form: re.Pattern[str] | None, warnings: list[str]) -> tuple[Needed, ...]:
        found: list[Needed] = []
        for one in self.entries():
            if isinstance(one.value, str):
                key, needed = one, Needed(key=one.value)
            else:
                one.warn_about_others({"key", "description", "optional"}, warnings)
                key, optional = one.at("key"), one.at("optional").as_boolean()
                needed = Needed(key=key.as_text(), description=one.text("description"), optional=optional)
            if not needed.key or (form is not None and not form.fullmatch(needed.key)):
                raise key.expected("the name of a variable: letters, digits and `_`" if form else "a name")
            found.append(needed)
        return tuple(found)

    def as_text(self) -> str:
        if self.value is None:
            return ""
        if not isinstance(self.value, str):
            raise self.expected("a text")
        return self.value.strip()

    def as_texts(self) -> list[str]:
        return [one.as_text() for one in self.entries()]

    def as_boolean(self) -> bool:
        try:
            return _BOOLEANS[self.as_text().lower()]
        except KeyError:
            raise self.expected("true or false") from None

    def as_integer(self) -> int | None:
        text = self.as_text()
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise self.expected("a whole number")
        return int(text)

    def as_size(self) -> int:
        """Bytes. A number below 1,000 counts GB, below 10⁹ MB, else bytes; or it has its unit behind it.

        GB are 10⁹ bytes: a card sold with 24 GB has less than 24 GiB, and must do for an app that asks for 24.
        """
        text = self.as_text()
        if not text:
            return 0
        found = _SIZE.fullmatch(text)
        if found is None or len(found[1]) > 20:
            raise self.expected("a size: `24` (GB), `500` to `999999999` (MB from 1000 on) or `24GB`, `16GiB`")
        number = float(found[1])
        if found[2]:
            power: int = (1024 if found[3] else 1000) ** _POWERS[found[2].lower()]
            return round(number * power)
        return round(number * (1_000_000_000 if number < 1000 else 1_000_000 if number < 1_000_000_000 else 1))


def _read_yaml(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8-sig")
        return _plain(yaml.compose(text, Loader=yaml.BaseLoader), [MAX_VALUES], typed=False, root=True)
    except UnicodeDecodeError as err:
        raise InvalidInput(f"{FILE}: is not UTF-8", field=FILE) from err
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise InvalidInput(f"{FILE}: {where}{err.problem or err.context}", field=FILE) from err
    except (yaml.YAMLError, RecursionError) as err:
        told = "is nested too deep" if isinstance(err, RecursionError) else str(err)
        raise InvalidInput(f"{FILE}: {told}", field=FILE) from err


def _texts(value: Any) -> Any:
    """A value of Python as the text that it would be written as."""
    if isinstance(value, Mapping):
        return {str(key): _texts(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(one) for one in value]
    return "" if value is None else str(value)


def _plain(node: Any, left: list[int], *, typed: bool, root: bool = False) -> Any:
    """A node as maps, lists and texts. `left` counts down, since aliases may say a large value very often."""
    left[0] -= 1
    if left[0] < 0:
        raise InvalidInput(f"{FILE}: has more than {MAX_VALUES:,} values", field=FILE)
    if node is None:
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_plain(one, left, typed=typed) for one in node.value]
    if isinstance(node, yaml.MappingNode):
        fields: dict[str, Any] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise InvalidInput(f"{FILE}: line {key_node.start_mark.line + 1}: a key is a text", field=FILE)
            key = _text(key_node)
            if key in fields:
                raise InvalidInput(f"{FILE}: line {key_node.start_mark.line + 1}: {key!r} is there twice", field=FILE)
            fields[key] = _plain(value, left, typed=typed or (root and key == "metadata"))
        return fields
    text = _text(node)
    if node.style is not None:  # quoted, or a block
        return text
    return _scalar(text) if typed else "" if text in _NULLS else text


def _scalar(text: str) -> Any:
    if text in _NULLS:
        return None
    if text in ("true", "false"):
        return text == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _text(node: Any) -> str:
    text = str(node.value)
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise InvalidInput(f"{FILE}: line {node.start_mark.line + 1}: holds half a character", field=FILE)
    return text
