"""Where inputs come from and outputs go: what the agent needs of a store, and the stores by scheme of URI."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, assert_never

from agent.storage.cache import InputCache
from agent.storage.deposits import Deposits, DepositStore
from agent.storage.files import FileStore
from agent.storage.patience import Patience
from agent.storage.stores import StoreKind, StoreTable, reaches
from agent.storage.values import Identity, SignedUrl, Staged
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import CONTROLLER, FILE, WEB, shown

__all__ = ["FileStore", "Identity", "InputCache", "ObjectStore", "SignedUrl", "Staged", "Stores"]


class ObjectStore(Protocol):
    """A place that holds inputs and takes outputs.

    Publication has two steps, so that it can be finished by anyone after any crash: :meth:`stage` makes the content
    durable but invisible, :meth:`complete` makes it visible under its name and may be repeated. Every method raises
    :class:`MediaFailure`; what it says of paths and reasons is meant for the caller of the job.
    """

    async def fetch(self, uri: str, into: Path) -> Identity:
        """Makes the input readable at ``into``, replacing an earlier fetch; tells which version it is.

        :raises MediaFailure: INPUT_NOT_FOUND, INPUT_UNAVAILABLE, INPUT_EMPTY.
        """
        ...

    async def identify(self, uri: str) -> Identity:
        """Which version is there now: another one than fetched means INPUT_CHANGED, for the caller to say.

        :raises MediaFailure: as :meth:`fetch`.
        """
        ...

    async def check_target(self, uri: str, *, overwrite: bool) -> None:
        """Refuses early what could not be published; creates nothing and promises nothing.

        :raises MediaFailure: OUTPUT_EXISTS, OUTPUT_UNWRITABLE.
        """
        ...

    async def stage(self, source: Path, uri: str, attempt_id: str) -> Staged:
        """Brings ``source`` next to its target, durable and invisible. Repeating it replaces what it left before.

        ``source`` must not be written to afterwards.

        :raises MediaFailure: OUTPUT_UNWRITABLE, PUBLISH_FAILED (no space, an error of the device).
        """
        ...

    async def complete(self, final_uri: str, staged_uri: str, *, sha256: str, size: int, overwrite: bool) -> None:
        """Makes staged content visible as ``final_uri``, at once and whole. Idempotent, by any agent, after any crash.

        :raises MediaFailure: OUTPUT_EXISTS where something else has the name and ``overwrite`` is false;
            OUTPUT_UNWRITABLE; PUBLISH_FAILED where neither staging nor target holds the content.
        """
        ...

    async def discard(self, staged_uri: str) -> None:
        """Removes staged content. Idempotent. Folders that staging created stay.

        :raises MediaFailure: PUBLISH_FAILED.
        """
        ...

    async def bears(self, uri: str, *, sha256: str, size: int) -> bool:
        """Whether ``uri`` has this content now. False also where nobody can tell without reading it over a network."""
        ...

    async def sweep(self, uri: str, attempt_id: str) -> bool:
        """Removes whatever an attempt that has ended left staged for ``uri``, known to anybody or not; tells whether
        there was anything. Idempotent.

        :raises MediaFailure: PUBLISH_FAILED: something may be left.
        """
        ...

    async def sign(self, uri: str, lifetime_s: int) -> SignedUrl:
        """A URL that anybody can read the object with for so many seconds, 7 days at the most; asks no server whether
        it is there.

        :raises MediaFailure: ARTIFACT_UNAVAILABLE where the store has no such URLs, or its credentials sign none.
        """
        ...


class Stores:
    """The stores of an agent: folders that ``file:`` URIs may reach, what ``NAME://`` of each table leads to, and the
    controllers' own by way of ``deposits``.
    """

    def __init__(
        self,
        media_roots: Sequence[Path],
        tables: Mapping[str, StoreTable] = MappingProxyType({}),
        *,
        patience: Patience | None = None,
        cache: InputCache | None = None,
        deposits: Deposits | None = None,
    ) -> None:
        self.cache = cache
        self._files = FileStore(media_roots)
        self._tables = tables
        self._patience = patience or Patience()
        self._made: dict[str, ObjectStore] = {}
        if deposits is not None:
            self._made[CONTROLLER] = DepositStore(deposits, patience=self._patience)

    def store_for(self, uri: str) -> ObjectStore:
        """The store that serves ``uri``, one that is to be read or written or is of what is staged.

        :raises MediaFailure: INPUT_UNSUPPORTED_SCHEME.
        """
        scheme = uri.partition(":")[0].lower()
        if scheme == FILE:
            return self._files
        name = WEB[0] if scheme in WEB else scheme
        if name == CONTROLLER and CONTROLLER in self._made:
            return self._made[CONTROLLER]
        table = self._tables.get(name)
        if table is None or not uri[len(scheme) :].startswith("://"):
            known = ", ".join(
                ["file:", *(f"{name}://" for name in self._made if name == CONTROLLER), *reaches(self._tables)]
            )
            raise MediaFailure(Reason.INPUT_UNSUPPORTED_SCHEME, f"{shown(uri)!r}: this agent reads and writes {known}")
        if name not in self._made:
            self._made[name] = self._make(name, table)
        return self._made[name]

    async def fetch(self, uri: str, into: Path) -> tuple[Identity, bool]:
        """As the store that serves ``uri`` does it; also tells whether it was in the cache, which local files never
        are.

        :raises MediaFailure: as of :meth:`store_for` and :meth:`ObjectStore.fetch`.
        """
        store = self.store_for(uri)
        if self.cache is None or store is self._files:
            return await store.fetch(uri, into), False
        return await self.cache.fetch(store, uri, into)

    async def fetched_bytes(self, uri: str, folder: Path) -> int:
        """How much room of the volume of ``folder`` fetching it takes.

        :raises MediaFailure: as :meth:`fetch`.
        """
        store = self.store_for(uri)
        if store is self._files:
            return 0
        identity = await store.identify(uri)
        linked = self.cache is not None and self.cache.links(uri, identity, folder)
        return 0 if linked else identity.size

    def is_local(self, uri: str) -> bool:
        """Whether reading it takes no room on the scratch disk."""
        return self.store_for(uri) is self._files

    def _make(self, name: str, table: StoreTable) -> ObjectStore:
        # Each with its libraries only where it is used: an idle agent is small.
        match table.kind:
            case StoreKind.S3:
                from agent.storage.s3 import S3Store  # noqa: PLC0415

                return S3Store(name, table, patience=self._patience)
            case StoreKind.GS | StoreKind.AZ:
                from agent.storage.objects import ObstoreStore  # noqa: PLC0415

                return ObstoreStore(name, table, patience=self._patience)
            case StoreKind.HTTPS:
                from agent.storage.web import WebStore  # noqa: PLC0415

                return WebStore(name, table, patience=self._patience)
            case _:
                assert_never(table.kind)
