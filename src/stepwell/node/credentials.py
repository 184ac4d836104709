"""The named credentials that this node knows, in memory and sealed; the store has the truth.

They change rarely and are needed for every request that names one, so they are read when the node starts, when another
node says that something changed, and with every heartbeat. A value is opened when a request needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from stepwell.model.credential import CannotOpen, Credential, CredentialRefused, NoSecretKey, Opened
from stepwell.model.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from stepwell.model.credential import Cipher
    from stepwell.store.base import Store

MOST = 1_000
"""Named credentials of an environment."""


class Credentials:
    """Keeps named credentials.

    Args:
        cipher: None if the server has no key to seal them with: then none can be kept or used.
    """

    def __init__(self, store: Store, cipher: Cipher | None) -> None:
        self._store = store
        self._cipher = cipher
        self._known: dict[tuple[str, str], Credential] = {}
        self._changes = 0

    @property
    def key(self) -> str:
        """The name of the key that seals; empty if there is none."""
        return self._cipher.key if self._cipher is not None else ""

    async def refresh(self) -> None:
        """Know what is stored now. Raises `StoreUnavailable`."""
        changes = self._changes
        found = await self._store.credentials()
        if changes == self._changes:  # else something was changed here while we read
            self._known = {(one.env, one.name): one for one in found}

    def _changed(self, env: str, name: str, credential: Credential | None) -> None:
        """What is stored now under a name, by our doing."""
        self._changes += 1
        self._known.pop((env, name), None)
        if credential is not None:
            self._known[env, name] = credential

    async def all(self, env: str) -> list[Credential]:
        """Those of an environment, by name."""
        await self.refresh()
        return [one for (its_env, _), one in sorted(self._known.items()) if its_env == env]

    def key_of(self, credential: Credential) -> str:
        """The name of the key that a credential is sealed with; empty if this server has no keys."""
        return self._cipher.key_of(credential.sealed) if self._cipher is not None else ""

    def usable(self, credential: Credential) -> bool:
        """Whether this server can open a credential."""
        try:
            self._open(credential)
        except (CannotOpen, NoSecretKey):
            return False
        return True

    async def put(self, credential: Credential, value: str) -> Credential:
        """Keep a credential, in the place of the one with its name; `sealed` and `created_at` are filled in.

        Raises:
            NoSecretKey: The server has no key.
            InvalidInput: There are too many already.
        """
        if self._cipher is None:
            raise NoSecretKey
        await self.refresh()
        place = credential.env, credential.name
        old = self._known.get(place)
        if old is None and sum(env == credential.env for env, _ in self._known) >= MOST:
            raise InvalidInput(f"there are {MOST} credentials, the limit; remove some", field="name")
        credential = replace(
            credential,
            sealed=self._cipher.seal(value.encode(), credential.bound),
            created_at=old.created_at if old is not None else credential.changed_at,
        )
        await self._store.put_credential(credential)
        self._changed(*place, credential)
        return credential

    async def remove(self, env: str, name: str) -> None:
        """Forget a credential. Raises `NotFound`."""
        removed = await self._store.remove_credential(env, name)
        self._changed(env, name, None)
        if not removed:
            raise NotFound(f"no credential {name!r}")

    async def rotate(self) -> int:
        """Seal every value anew with the current key. Returns how many had another one.

        Raises:
            NoSecretKey: The server has no key.
            CannotOpen: One of them was sealed with a key that this server has not got; the others are sealed anew.
        """
        if self._cipher is None:
            raise NoSecretKey
        await self.refresh()
        changed = 0
        failed: CannotOpen | None = None
        for place, old in sorted(self._known.items()):
            if self._cipher.key_of(old.sealed) == self._cipher.key:
                continue
            try:
                text = self._cipher.open(old.sealed, old.bound)
            except CannotOpen as err:
                failed = CannotOpen(f"the credential {old.name!r}: {err}")
                continue
            new = replace(old, sealed=self._cipher.seal(text, old.bound))
            if await self._store.put_credential(new, over=old):
                self._changed(*place, new)
            changed += 1  # if not by us, by whoever set it meanwhile
        if failed is not None:
            raise failed
        return changed

    async def opened(self, env: str, name: str) -> Opened:
        """A credential with its value, for a request.

        Raises:
            CredentialRefused: There is none of that name, or it cannot be opened; says what to do.
            StoreUnavailable: It is not known here, and the store could not be asked.
        """
        credential = self._known.get((env, name))
        if credential is None:
            await self.refresh()  # it may have been set on another node a moment ago
            credential = self._known.get((env, name))
        if credential is None:
            raise CredentialRefused(
                f"the server keeps no credential {name!r}; make it with `stepwell credential set {name} --host ...`"
            )
        try:
            return Opened(credential, self._open(credential))
        except (CannotOpen, NoSecretKey) as err:
            raise CredentialRefused(f"the credential {name!r} cannot be used: {err}") from err

    def _open(self, credential: Credential) -> str:
        if self._cipher is None:
            raise NoSecretKey
        return self._cipher.open(credential.sealed, credential.bound).decode()
