"""What tests know of each kind of object store, to look at it from outside the store under test."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from obstore.store import AzureStore

from agent.storage import FileStore, ObjectStore, placing
from agent.storage.objects import STAGING, ObstoreStore
from agent.storage.patience import Patience
from agent.storage.s3 import S3Store
from agent.storage.stores import StoreKind, StoreTable
from presets.problems import MediaFailure
from presets.uris import object_uri, path_to_uri
from tests.fakes.blob_server import BlobServer
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.http_faults import Fault, Kind, Plan
from tests.fakes.object_server import ObjectServer

#: Asks again at once, so that faults cost tests little.
HASTY = Patience(tries=4, first_wait_s=0.001, longest_wait_s=0.01, connect_s=5.0, silence_s=20.0)


class Crash(BaseException):
    """The machine stops here."""


class Driver(Protocol):
    """What the tests need to know of a store to look at it from outside."""

    store: ObjectStore

    def another(self) -> ObjectStore:
        """The same store as another agent has it."""
        ...

    def uri(self, name: str) -> str:
        """The URI of an object in the store's test area; ``name`` may contain slashes."""
        ...

    def put(self, name: str, content: bytes) -> None:
        """Creates or replaces an object without the store under test."""
        ...

    def get(self, name: str) -> bytes | None:
        """The visible content of an object; None where there is none."""
        ...

    def names(self) -> list[str]:
        """The names of all visible objects."""
        ...

    def staged(self) -> int:
        """How much staged content there is."""
        ...

    def crashing(self, at: int) -> AbstractContextManager[Callable[[], bool]]:
        """Raises Crash from the store's ``at``-th change of state on; what it gives tells whether it got that far."""
        ...


class FileDriver:
    """Files below a temporary folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool) -> None:
        """Without ``links``, on a filesystem that has no hard links (exFAT and the like)."""
        self.folder = folder / "store"
        self.folder.mkdir()
        self.monkeypatch = monkeypatch
        self.store: ObjectStore = self.another()
        if not links:
            monkeypatch.setattr(os, "link", _refuse(errno.EPERM))

    def another(self) -> ObjectStore:
        return FileStore([self.folder])

    def uri(self, name: str) -> str:
        return path_to_uri(str(self.folder / name))

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def get(self, name: str) -> bytes | None:
        path = self.folder / name
        return path.read_bytes() if path.exists() else None

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def names(self) -> list[str]:
        return sorted(str(p.relative_to(self.folder)) for p in self._files() if not p.name.startswith("."))

    def staged(self) -> int:
        return sum(path.name.endswith(".mediactl") for path in self._files())

    @contextmanager
    def crashing(self, at: int) -> Iterator[Callable[[], bool]]:
        """Stops before the ``at``-th system call that changes something; later ones, of clean-ups, stop as well."""
        calls = 0

        def watched(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > at:
                    raise Crash
                return original(*args, **kwargs)

            return call

        with self.monkeypatch.context() as patch:
            for name in ("link", "unlink", "replace", "mkdir", "write", "fsync"):
                patch.setattr(os, name, watched(getattr(os, name)))
            patch.setattr(placing, "_rename_noreplace", watched(placing._rename_noreplace))
            yield lambda: calls > at


def _refuse(number: int) -> Callable[..., Any]:
    def call(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


class S3Driver:
    """A bucket of an S3 server, which the store under test reaches through ``proxy``."""

    def __init__(
        self, server: ObjectServer, proxy: FaultProxy, folder: Path, *, patience: Patience = HASTY, name: str = "s3"
    ) -> None:
        self.server = server
        self.proxy = proxy
        self.bucket = server.make_bucket()
        credentials = folder / "credentials"
        credentials.write_text(
            f"[default]\naws_access_key_id={server.access_key}\naws_secret_access_key={server.secret_key}\n"
        )
        self._table = StoreTable(
            kind=StoreKind.S3,
            endpoint=proxy.endpoint,
            region=server.region,
            path_style=True,
            credentials_file=credentials,
        )
        self._name, self._patience = name, patience
        self.store: ObjectStore = self.another()

    def close(self) -> None:
        self.server.remove_bucket(self.bucket)

    def another(self) -> ObjectStore:
        # Nobody else is at work in the bucket, so what has no mark is forsaken.
        return S3Store(self._name, self._table, patience=self._patience, unmarked_s=0.0)

    def uri(self, name: str) -> str:
        return object_uri(self._name, f"{self.bucket}/{name}")

    def put(self, name: str, content: bytes) -> None:
        self.server.put(self.bucket, name, content)

    def get(self, name: str) -> bytes | None:
        try:
            return self.server.read(self.bucket, name)
        except self.server.client.exceptions.NoSuchKey:
            return None

    def names(self) -> list[str]:
        return self.server.keys(self.bucket)

    def staged(self) -> int:
        return len(self.server.uploads(self.bucket))

    def crashing(self, at: int) -> AbstractContextManager[Callable[[], bool]]:
        return _cut_off(self.proxy, at)


class AzureDriver:
    """A container of a blob server, which the store under test reaches through ``proxy``."""

    def __init__(self, server: BlobServer, proxy: FaultProxy, folder: Path) -> None:
        self.proxy = proxy
        self.container = server.make_container()
        key = folder / "key"
        key.write_text(server.account_key)
        self._table = StoreTable(
            kind=StoreKind.AZ,
            endpoint=f"{proxy.endpoint}/{server.account}",
            account=server.account,
            credentials_file=key,
        )
        self._direct = AzureStore(
            self.container,
            config={
                "endpoint": f"http://{server.address}/{server.account}",
                "account_name": server.account,
                "account_key": server.account_key,
            },
            client_options={"allow_http": True},
        )
        self.store: ObjectStore = self.another()

    def another(self) -> ObjectStore:
        return ObstoreStore("az", self._table, patience=HASTY)

    def uri(self, name: str) -> str:
        return object_uri("az", f"{self.container}/{name}")

    def put(self, name: str, content: bytes) -> None:
        self._direct.put(name, content)

    def get(self, name: str) -> bytes | None:
        try:
            return bytes(self._direct.get(name).bytes())
        except FileNotFoundError:
            return None

    def _keys(self) -> list[str]:
        return sorted(meta["path"] for meta in self._direct.list().collect())

    def names(self) -> list[str]:
        return [key for key in self._keys() if STAGING not in key.split("/")]

    def staged(self) -> int:
        return len(self._keys()) - len(self.names())

    def crashing(self, at: int) -> AbstractContextManager[Callable[[], bool]]:
        return _cut_off(self.proxy, at)


@contextmanager
def _cut_off(proxy: FaultProxy, at: int) -> Iterator[Callable[[], bool]]:
    """Nothing reaches the server any more after ``at`` / 2 requests; where ``at`` is odd, one does, unanswered."""
    whole, unanswered = divmod(at, 2)
    faults = [Fault(whole + 1, Kind.CUT_AFTER)] if unanswered else []
    proxy.restart(Plan([*faults, Fault(whole + 1 + unanswered, Kind.CUT_BEFORE, on=True)]))
    crashed = False
    try:
        yield lambda: crashed
    except MediaFailure as failure:
        if not proxy.befell:
            raise
        raise Crash from failure
    finally:
        crashed = bool(proxy.befell)
        proxy.restart(Plan())
