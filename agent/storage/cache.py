"""Inputs that the agent keeps, so that several jobs over one download it once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from agent.storage.threads import in_thread
from agent.storage.values import Identity
from presets import uris

log = structlog.get_logger()

MOST_ENTRIES = 4096
"""Each of them is looked at whenever the room on the disk is."""

_OWN = re.compile(r"\.?[0-9a-f-]{36}\.[0-9a-f]{64}(\.part)?")
_CHUNK_BYTES = 1024 * 1024


class Source(Protocol):
    """What the cache needs of a store."""

    async def identify(self, uri: str) -> Identity: ...

    async def fetch(self, uri: str, into: Path) -> Identity: ...


@dataclass(slots=True)
class _Entry:
    """`used_ns` is the file's mtime; another one means that somebody wrote to it. `checked`: its content was."""

    size: int
    used_ns: int
    checked: bool


class InputCache:
    """Files of ``folder``, with ``limit_bytes`` altogether at the most: what was not used for longest goes first.

    A file is one version of one object, read only, linked into the workspaces that use it; dropping it takes it from
    none of them. What a fetch has not brought whole has a hidden name, which :meth:`open` removes; what else is in
    the folder is left alone. Nothing is synced to the disk, so what is there of another ``boot`` is
    not trusted.

    Usable from several threads. A limit of 0: nothing is kept. Nothing that ails the cache itself fails a fetch.
    """

    def __init__(
        self, folder: Path, limit_bytes: int, *, boot: str, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.limit_bytes = limit_bytes
        self.hits = 0
        self.misses = 0
        self.saved_bytes = 0
        self._folder = folder
        self._boot = boot
        self._clock_ns = clock_ns
        self._lock = threading.RLock()
        # In the order of use.
        self._entries: dict[str, _Entry] = {}
        self._coming: dict[str, int] = {}
        # Each lives as long as somebody holds it or waits for it.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def held_bytes(self) -> int:
        """What is kept."""
        with self._lock:
            return sum(entry.size for entry in self._entries.values())

    def open(self) -> None:
        """Takes up what an earlier life left, as far as it is whole and fits; the rest is removed. Blocks.

        :raises OSError: the folder can't be looked at.
        """
        with self._lock:
            found: list[tuple[int, str, int]] = []
            with os.scandir(self._folder) as entries:
                there = list(entries)
            for entry in there:
                if not _OWN.fullmatch(entry.name):
                    continue
                status = entry.stat(follow_symlinks=False)
                if entry.name.startswith(f"{self._boot}.") and stat.S_ISREG(status.st_mode) and status.st_size:
                    found.append((status.st_mtime_ns, entry.name, status.st_size))
                else:
                    Path(entry.path).unlink()
            self._entries = {name: _Entry(size, used_ns, checked=False) for used_ns, name, size in sorted(found)}
            self._bound(0)

    async def fetch(self, store: Source, uri: str, into: Path) -> tuple[Identity, bool]:
        """Makes an input of ``store`` readable at ``into``; tells which version it is and whether it was here.

        Who wants what is just being fetched waits for it, and fetches it where that fails.

        :raises MediaFailure: as of :meth:`ObjectStore.fetch`.
        """
        if not self.limit_bytes:
            return await store.fetch(uri, into), False
        identity = await store.identify(uri)
        name = self._name(uri, identity)
        # Without a token no change would be noticed.
        if not identity.token or identity.size > self.limit_bytes:
            self.misses += 1
            return await store.fetch(uri, into), False
        async with self._turns.setdefault(name, asyncio.Lock()):
            try:
                if await in_thread(lambda abandoned: self._take(name, identity, into, abandoned)):
                    self.hits += 1
                    self.saved_bytes += identity.size
                    return identity, True
                self.misses += 1
                return await self._bring(store, uri, name, identity, into), False
            except OSError as error:
                log.warning("an input goes past the cache", error=str(error))
                return await store.fetch(uri, into), False

    def links(self, uri: str, identity: Identity, folder: Path) -> bool:
        """Whether fetching it takes no room of the volume of ``folder``; it counts as used."""
        with self._lock:
            name = self._name(uri, identity)
            if self._intact(name, identity.size) and self._beside(folder):
                with suppress(OSError):
                    self._touch(name)
                    return True
            return False

    def spare_bytes(self, folder: Path) -> int:
        """How much room :meth:`make_room` could make on the volume of ``folder``. What a workspace uses makes none."""
        with self._lock:
            if not self._entries or not self._beside(folder):
                return 0
            return sum(entry.size for name, entry in self._entries.items() if self._is_spare(name))

    def coming_bytes(self, folder: Path) -> int:
        """What is there already, on the volume of ``folder``, of what is being fetched."""
        with self._lock:
            if not self._coming or not self._beside(folder):
                return 0
            there = 0
            for name in self._coming:
                for hidden in (self._hidden(name), self._hidden(f"{name}.part")):
                    with suppress(OSError):
                        there += hidden.stat().st_blocks * 512
            return there

    def make_room(self, wanted_bytes: int, folder: Path) -> int:
        """Drops what is kept until so many bytes are freed on the volume of ``folder``; returns how many were."""
        with self._lock:
            freed = 0
            if self._entries and self._beside(folder):
                for name in list(self._entries):
                    if freed >= wanted_bytes:
                        break
                    if self._is_spare(name):
                        freed += self._entries[name].size
                        self._drop(name)
            if freed:
                log.info("the input cache makes room", freed_bytes=freed)
            return freed

    # --- one input

    def _name(self, uri: str, identity: Identity) -> str:
        place = uris.place(uri)
        # With all of a URL's query: it may say which object is meant.
        key = "\0".join((place.store, place.path, identity.token, str(identity.size)))
        return f"{self._boot}.{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"

    def _hidden(self, name: str) -> Path:
        return self._folder / f".{name}"

    def _take(self, name: str, identity: Identity, into: Path, abandoned: threading.Event) -> bool:
        """Gives what is here, if it is and has not been damaged.

        :raises OSError: there is no room for a copy.
        """
        with self._lock:
            if not self._intact(name, identity.size):
                self._drop(name)
                return False
            entry = self._entries[name]
            self._touch(name)
        try:
            _give(self._folder / name, into, abandoned)
        except FileNotFoundError:
            return False  # dropped in this moment
        # A download of this life was checked on its way.
        if entry.checked or not identity.sha256:
            return True
        digest = _sha256(into, abandoned)
        if abandoned.is_set():
            return False
        entry.checked = digest == identity.sha256
        if not entry.checked:
            log.warning("a file of the input cache was damaged", name=name)
            into.unlink()
            with self._lock:
                self._drop(name)
        return entry.checked

    async def _bring(self, store: Source, uri: str, name: str, identity: Identity, into: Path) -> Identity:
        hidden = self._hidden(name)
        if not await in_thread(lambda _: self._expect(name, identity.size)):
            return await store.fetch(uri, into)
        try:
            fetched = await store.fetch(uri, hidden)
            await in_thread(lambda abandoned: self._keep(name, fetched == identity, into, abandoned))
            return fetched
        finally:
            with self._lock:
                self._coming.pop(name, None)
            with suppress(OSError):
                hidden.unlink()

    def _expect(self, name: str, size: int) -> bool:
        """Makes way for what is about to come; false where what else is coming leaves no room for it."""
        with self._lock:
            if size + sum(self._coming.values()) > self.limit_bytes:
                return False
            self._bound(size)
            self._coming[name] = size
            return True

    def _keep(self, name: str, expected: bool, into: Path, abandoned: threading.Event) -> None:
        """Gives what was fetched, and keeps it unless it was changed since it was looked for: that has another name."""
        hidden = self._hidden(name)
        hidden.chmod(0o400)
        _give(hidden, into, abandoned)
        if expected:
            with self._lock:
                hidden.replace(self._folder / name)
                self._entries[name] = _Entry(self._coming.pop(name), 0, checked=True)
                self._touch(name)

    # --- what is kept; all of it with the lock held

    def _bound(self, more_bytes: int) -> None:
        too_much = self.held_bytes + sum(self._coming.values()) + more_bytes - self.limit_bytes
        for name in list(self._entries):
            if too_much <= 0 and len(self._entries) < MOST_ENTRIES:
                break
            too_much -= self._entries[name].size
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._entries.pop(name, None)
        (self._folder / name).unlink(missing_ok=True)

    def _touch(self, name: str) -> None:
        """Makes it the one that was used last."""
        now_ns, path = self._clock_ns(), self._folder / name
        os.utime(path, ns=(now_ns, now_ns))
        entry = self._entries.pop(name)
        entry.used_ns = path.stat().st_mtime_ns
        self._entries[name] = entry

    def _intact(self, name: str, size: int) -> bool:
        entry = self._entries.get(name)
        if entry is None:
            return False
        try:
            status = (self._folder / name).lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (size, entry.used_ns)

    def _is_spare(self, name: str) -> bool:
        try:
            return (self._folder / name).lstat().st_nlink == 1
        except OSError:
            return False

    def _beside(self, folder: Path) -> bool:
        try:
            return self._folder.stat().st_dev == folder.stat().st_dev
        except OSError:
            return False


def _give(source: Path, into: Path, abandoned: threading.Event) -> None:
    """Links, or copies to where links do not reach."""
    into.unlink(missing_ok=True)
    try:
        into.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:
        with source.open("rb") as reading, into.open("xb") as writing:
            while (data := reading.read(_CHUNK_BYTES)) and not abandoned.is_set():
                writing.write(data)


def _sha256(path: Path, abandoned: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while (data := file.read(_CHUNK_BYTES)) and not abandoned.is_set():
            digest.update(data)
    return digest.hexdigest()
