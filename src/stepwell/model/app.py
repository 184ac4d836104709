"""An app: an inference program with `setup()` and functions, kept by the server and run in processes of its own.

An app has versions, which never change. One of them is current: it is meant when a reference names none.

    namespace/name                    the app
    namespace/name@k3f9a2             a version, by its short id
    namespace/name@k3f9a2:upscale     one of its functions
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from stepwell.model.errors import InvalidInput
from stepwell.model.event import DEV_ENV
from stepwell.model.ids import Instant, derived_uuid

DEFAULT_FUNCTION = "run"
DEFAULT_VARIANT = "default"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9-]{1,64}")
_FUNCTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class Resources(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one worker of an app needs. Sizes in bytes; 0 asks for nothing in particular."""

    gpus: int = 0
    vram_bytes: int = 0
    gpu_type: str = ""  # `nvidia`, `amd` ...; empty or `any`: whichever there is
    ram_bytes: int = 0


class Scaling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many workers of one kind there are: `least` are kept warm, more come when tasks wait, up to `most`, and
    one that has had nothing to do for `idle_ms` goes. None: the server's own setting."""

    least: int = 0
    most: int | None = None
    idle_ms: int | None = None


class Needed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A secret or a credential that the processes of an app get as an environment variable."""

    key: str
    description: str = ""
    optional: bool = False


class AppFunction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One function of an app. Schemas are JSON schemas."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    capabilities: tuple[str, ...] = ()  # `llm`: takes and gives what a language model does; `embeddings` likewise
    kind: str = "run"
    batch_size: int = 0  # above 0 it takes so many inputs at a time
    batch_wait_ms: float = 0.0


class Variant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Another way to run the same code: more memory, a GPU, other variables."""

    resources: Resources | None = None
    env: dict[str, str] = {}


class AppVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One version of an app, as it was imported. It never changes."""

    namespace: str
    name: str
    version: str  # short id, unique for the app
    checksum: str  # of the package: sha-256 of its files, hexadecimal; names the folder that holds them
    env: str = DEV_ENV
    created_at: Instant = 0
    kernel: str = "python"  # `python-3.11`, `node-22`; without a number: any
    description: str = ""
    category: str = "other"
    images: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    variables: dict[str, str] = {}  # of the process environment
    resources: Resources = Resources()
    variants: dict[str, Variant] = {}
    scaling: Scaling = Scaling()
    secrets: tuple[Needed, ...] = ()
    integrations: tuple[Needed, ...] = ()
    functions: dict[str, AppFunction] = {}
    default_function: str = DEFAULT_FUNCTION
    setup_schema: dict[str, Any] = {}
    session: str = ""  # what becomes of a session whose worker is lost: `rebuild`, `snapshot`; empty: it is lost too

    @property
    def app(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def app_id(self) -> str:
        """The id of the app that this is a version of."""
        return derived_uuid("app", self.env, self.app)

    @property
    def reference(self) -> str:
        """Also the slug of the function whose runs are the tasks of this version."""
        return f"{self.namespace}/{self.name}@{self.version}"

    @property
    def id(self) -> str:
        return derived_uuid("app version", self.env, self.reference)


class App(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An app by its name. `versions` are short ids, newest first; `current` is one of them."""

    namespace: str
    name: str
    current: str
    versions: tuple[str, ...] = ()
    env: str = DEV_ENV
    created_at: Instant = 0
    updated_at: Instant = 0
    status: str = "active"  # or `maintenance`, `deprecated`, `retired`
    status_message: str = ""

    @property
    def reference(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def id(self) -> str:
        return derived_uuid("app", self.env, self.reference)


class Reference(msgspec.Struct, frozen=True):
    """Which app, and which of its versions and functions, somebody means. Empty parts are not said."""

    namespace: str
    name: str
    version: str = ""
    function: str = ""

    @property
    def app(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def read_reference(text: str) -> Reference:
    """Read `[app/][namespace/]name[@version][:function]`.

    Raises:
        InvalidInput: It cannot be read; the message says what is wrong with which part.
    """
    rest, function = text, ""
    if rest.rfind(":") > rest.rfind("@"):
        rest, _, function = rest.rpartition(":")
        if not _FUNCTION.fullmatch(function):
            raise InvalidInput(f"app {text[:200]!r}: {function[:100]!r} is no name of a function", field="app")
    rest, _, version = rest.partition("@")
    if version == "latest":
        version = ""
    elif version and not _VERSION.fullmatch(version):
        raise InvalidInput(f"app {text[:200]!r}: {version[:100]!r} is no version", field="app")
    parts = rest.split("/")
    if len(parts) == 3 and parts[0] == "app":
        del parts[0]
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise InvalidInput(f"app {text[:200]!r} is not written namespace/name[@version][:function]", field="app")
    return Reference(parts[0] if len(parts) == 2 else "", parts[-1], version, function)
