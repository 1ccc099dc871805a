"""The cache of inputs before a store that is scripted: what is fetched, what is kept and for how long."""

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.storage import Identity, InputCache, Stores, cache
from agent.storage.stores import StoreKind, StoreTable
from presets.problems import MediaFailure
from presets.reasons import Reason

KIB = 1024
BOOT = "0b6bd7b4-1f4b-4a6e-9a33-5f6c2d1e0a77"
OTHER_BOOT = "11111111-1f4b-4a6e-9a33-5f6c2d1e0a77"


class Scripted:
    """Objects by URI. `before` runs once a fetch has written half; `sha256`: it tells that."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.sha256 = False
        self.tokens = True
        self.before: Callable[[], object] | None = None
        self.begun = asyncio.Event()
        self.go_on: asyncio.Event | None = None
        self.failure: Exception | None = None

    def put(self, name: str, size: int = 10 * KIB) -> str:
        uri = f"archive://bucket/{name}"
        self.objects[uri] = os.urandom(size)
        return uri

    async def identify(self, uri: str) -> Identity:
        content = self.objects[uri]
        digest = hashlib.sha256(content).hexdigest()
        return Identity(len(content), digest[:8] if self.tokens else "", digest if self.sha256 else "")

    async def fetch(self, uri: str, into: Path) -> Identity:
        self.fetched.append(uri)
        content = self.objects[uri]
        path = into.with_name(f"{into.name}.part")
        try:
            await self._write(uri, content, path)
            path.replace(into)
        finally:
            path.unlink(missing_ok=True)
        return Identity(into.stat().st_size, (await self.identify(uri)).token)

    async def _write(self, uri: str, content: bytes, path: Path) -> None:
        with path.open("wb") as part:
            part.write(content[: len(content) // 2])
            part.flush()
            self.begun.set()
            if self.before is not None:
                self.before()
            if self.go_on is not None:
                await self.go_on.wait()
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            part.seek(0)
            part.write(self.objects[uri])


class Agent:
    """A cache of 100 KiB in a folder, a store, and a workspace; the clock moves with every look."""

    def __init__(self, root: Path) -> None:
        self.folder, self.workspace = root / "cache", root / "workspace"
        self.folder.mkdir()
        self.workspace.mkdir()
        self.store = Scripted()
        self._now_ns = 10**18
        self._made = 0
        self.restart()

    def restart(self, *, limit: int = 100 * KIB, boot: str = BOOT) -> None:
        self.cache = InputCache(self.folder, limit, boot=boot, clock_ns=self._clock)
        self.cache.open()

    def _clock(self) -> int:
        self._now_ns += 10**9
        return self._now_ns

    async def read(self, uri: str) -> bool:
        """Fetch it into a workspace of its own, which goes away again; whether it was in the cache."""
        self._made += 1
        into = self.workspace / str(self._made)
        identity, cached = await self.cache.fetch(self.store, uri, into)
        assert into.read_bytes() == self.store.objects[uri]
        assert identity == await self.store.identify(uri)
        into.unlink()
        return cached

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
async def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


async def test_one_version_is_fetched_once(agent: Agent) -> None:
    """Another version is fetched anew; hits, misses and bytes are counted."""
    uri = agent.store.put("a.wav")
    assert [await agent.read(uri) for _ in range(3)] == [False, True, True]
    agent.store.put("a.wav")
    assert [await agent.read(uri) for _ in range(2)] == [False, True]
    assert agent.store.fetched == [uri, uri]
    told = agent.cache
    assert (told.hits, told.misses, told.saved_bytes, told.held_bytes) == (3, 2, 30 * KIB, 20 * KIB)


async def test_places_are_told_apart(agent: Agent) -> None:
    """Escapes are not: they name one object. Two objects of one content are two, and so are two queries of a URL."""
    agent.store.put("a b.wav")
    content = agent.store.objects.pop("archive://bucket/a b.wav")
    for uri in ("archive://bucket/a%20b.wav", "ARCHIVE://bucket/a%20%62.wav", "archive://bucket/c.wav"):
        agent.store.objects[uri] = content
    for uri in ("https://host/x?id=1", "https://host/x?id=2"):
        agent.store.objects[uri] = content
    assert [await agent.read(uri) for uri in agent.store.objects] == [False, True, False, False, False]


async def test_what_was_not_used_for_longest_goes_first(agent: Agent) -> None:
    """The bound holds while something is fetched, too."""
    first, second, third = (agent.store.put(name, 30 * KIB) for name in ("a", "b", "c"))
    for uri in (first, second, third, first):
        await agent.read(uri)
    agent.store.before = lambda: held.append(_bytes(agent.folder))
    held: list[int] = []
    fourth = agent.store.put("d", 35 * KIB)
    await agent.read(fourth)
    assert max(held) <= 100 * KIB
    assert agent.cache.held_bytes == 95 * KIB
    # Each of these was there: had it not been, fetching it would have dropped the next.
    assert [await agent.read(uri) for uri in (first, third, fourth)] == [True, True, True]
    assert not await agent.read(second)


def _bytes(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(folder))


async def test_what_is_coming_is_known(agent: Agent) -> None:
    """As far as it is there: who has reserved room for it has that much less to come."""
    uri = agent.store.put("a", 80 * KIB)
    coming: list[int] = []
    agent.store.before = lambda: coming.append(agent.cache.coming_bytes(agent.workspace))
    await agent.read(uri)
    assert 40 * KIB <= coming[0] < 80 * KIB
    assert agent.cache.coming_bytes(agent.workspace) == 0


async def test_what_is_too_large_goes_past(agent: Agent) -> None:
    """And drops nothing. So does what no change could be seen of."""
    small, large = agent.store.put("a"), agent.store.put("b", 101 * KIB)
    await agent.read(small)
    assert [await agent.read(large) for _ in range(2)] == [False, False]
    assert await agent.read(small)
    agent.store.tokens = False
    assert [await agent.read(small) for _ in range(2)] == [False, False]
    assert (agent.cache.hits, agent.cache.misses, agent.cache.held_bytes) == (1, 5, 10 * KIB)


async def test_a_number_of_files_is_not_exceeded(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small they are."""
    monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
    uris = [agent.store.put(str(number), 10) for number in range(5)]
    for uri in uris:
        await agent.read(uri)
    assert len(agent.files()) == 3
    assert await agent.read(uris[4])


async def test_two_at_once_fetch_once(agent: Agent) -> None:
    """The second waits for the first; who wants something else does not."""
    uri, other = agent.store.put("a"), agent.store.put("b")
    agent.store.go_on = asyncio.Event()
    reading = [asyncio.create_task(agent.read(uri)) for _ in range(5)]
    await agent.store.begun.wait()
    agent.store.begun.clear()
    elsewhere = asyncio.create_task(agent.read(other))
    await agent.store.begun.wait()
    agent.store.go_on.set()
    assert sorted(await asyncio.gather(*reading, elsewhere)) == [False, False, True, True, True, True]
    assert sorted(agent.store.fetched) == [uri, other]


async def test_what_does_not_fit_beside_what_is_coming_goes_past(agent: Agent) -> None:
    """The bound holds for what is being fetched together, too."""
    first, second = agent.store.put("a", 60 * KIB), agent.store.put("b", 60 * KIB)
    agent.store.go_on = asyncio.Event()
    reading = asyncio.create_task(agent.read(first))
    await agent.store.begun.wait()
    agent.store.begun.clear()
    past = asyncio.create_task(agent.read(second))
    await agent.store.begun.wait()
    agent.store.go_on.set()
    assert not any(await asyncio.gather(reading, past))
    assert agent.cache.held_bytes == 60 * KIB
    assert await agent.read(first)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_who_waited_goes_on_itself(agent: Agent, cancelled: bool) -> None:
    """Where the first is cancelled or fails; nothing is left of its fetch."""
    uri = agent.store.put("a")
    agent.store.go_on = asyncio.Event()
    first = asyncio.create_task(agent.read(uri))
    await agent.store.begun.wait()
    second = asyncio.create_task(agent.read(uri))
    agent.store.failure = None if cancelled else MediaFailure(Reason.INPUT_UNAVAILABLE, "the link is down")
    if cancelled:
        first.cancel()
    agent.store.go_on.set()
    with pytest.raises(asyncio.CancelledError if cancelled else MediaFailure):
        await first
    assert await second is False
    assert agent.store.fetched == [uri, uri]
    assert not [name for name in agent.files() if name.startswith(".")]
    assert await agent.read(uri)


async def test_a_fetch_that_failed_takes_no_room(agent: Agent) -> None:
    """What is as large as the cache fits into it all the same."""
    agent.store.failure = MediaFailure(Reason.INPUT_UNAVAILABLE, "the link is down")
    with pytest.raises(MediaFailure):
        await agent.read(agent.store.put("a"))
    assert agent.files() == []
    whole = agent.store.put("b", 100 * KIB)
    assert [await agent.read(whole) for _ in range(2)] == [False, True]


async def test_another_life_goes_on(agent: Agent) -> None:
    """With what is whole, in the order of use; a fetch that a crash cut short leaves nothing; others' files stay."""
    uris = [agent.store.put(name, 30 * KIB) for name in ("a", "b", "c")]
    for uri in (*uris, uris[0]):
        await agent.read(uri)
    leftover = agent.folder / f".{BOOT}.{'0' * 64}"
    leftover.write_bytes(bytes(KIB))
    leftover.with_name(f"{leftover.name}.part").write_bytes(bytes(KIB))
    (agent.folder / "notes.txt").write_text("mine")
    agent.restart()
    assert len(agent.files()) == 4
    assert agent.cache.held_bytes == 90 * KIB
    agent.restart(limit=65 * KIB)
    assert [await agent.read(uri) for uri in (uris[2], uris[0])] == [True, True]
    agent.restart(limit=0)
    assert agent.files() == ["notes.txt"]


async def test_another_boot_begins_anew(agent: Agent) -> None:
    """What the machine had not yet written to its disk would be missing from a file of the right size."""
    uri = agent.store.put("a")
    await agent.read(uri)
    agent.restart(boot=OTHER_BOOT)
    assert agent.files() == []
    assert not await agent.read(uri)


@pytest.mark.parametrize("restarted", [False, True])
async def test_damage_is_a_miss(agent: Agent, restarted: bool) -> None:
    """Another length always; another content of the same length if this life had the file whole, or the store tells
    the SHA-256."""
    uri = agent.store.put("a")
    for damage in (lambda path: os.truncate(path, KIB), lambda path: path.write_bytes(bytes(10 * KIB)), os.unlink):
        await agent.read(uri)
        [name] = agent.files()
        path = agent.folder / name
        path.chmod(0o600)
        damage(path)
        if restarted:
            agent.store.sha256 = True
            agent.restart()
        assert not await agent.read(uri)
        assert await agent.read(uri)


async def test_what_is_checked_is_checked_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier life left, at its first use; what was fetched in this one, never again."""
    agent.store.sha256 = True
    uri = agent.store.put("a")
    await agent.read(uri)
    agent.restart()
    digested: list[Path] = []
    digest = cache._sha256

    def counted(path: Path, abandoned: threading.Event) -> str:
        digested.append(path)
        return digest(path, abandoned)

    monkeypatch.setattr(cache, "_sha256", counted)
    assert [await agent.read(uri) for _ in range(3)] == [True, True, True]
    assert len(digested) == 1


async def test_a_change_in_the_middle_is_given_and_not_kept(agent: Agent) -> None:
    """It has another name than what was looked for."""
    uri = agent.store.put("a")
    agent.store.before = lambda: agent.store.put("a")
    assert not await agent.read(uri)
    assert agent.files() == []
    agent.store.before = None
    assert [await agent.read(uri) for _ in range(2)] == [False, True]


async def test_a_workspace_has_a_link_of_its_own(agent: Agent) -> None:
    """Read only, and there until the workspace goes, whatever becomes of the cache's."""
    uri = agent.store.put("a")
    into = agent.workspace / "0"
    await agent.cache.fetch(agent.store, uri, into)
    assert into.stat().st_mode & 0o777 == 0o400
    assert into.stat().st_nlink == 2
    assert agent.cache.spare_bytes(agent.workspace) == 0
    assert agent.cache.make_room(KIB, agent.workspace) == 0
    agent.restart(limit=KIB)
    assert agent.files() == []
    assert into.read_bytes() == agent.store.objects[uri]


async def test_where_links_do_not_reach_it_is_copied(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another filesystem."""

    def refuse(_: Path, __: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    uri = agent.store.put("a")
    assert [await agent.read(uri) for _ in range(2)] == [False, True]


async def test_a_cache_that_ails_fails_nobody(agent: Agent) -> None:
    """What its disk refuses goes past it."""
    uri = agent.store.put("a")
    agent.folder.rmdir()
    assert [await agent.read(uri) for _ in range(2)] == [False, False]
    agent.folder.mkdir()
    assert [await agent.read(uri) for _ in range(2)] == [False, True]


async def test_it_gives_way(agent: Agent) -> None:
    """The longest unused first and no more than is wanted; what is about to be used counts as used."""
    uris = [agent.store.put(name, 30 * KIB) for name in ("a", "b", "c")]
    for uri in uris:
        await agent.read(uri)
    assert agent.cache.spare_bytes(agent.workspace) == 90 * KIB
    assert agent.cache.links(uris[0], await agent.store.identify(uris[0]), agent.workspace)
    assert agent.cache.make_room(31 * KIB, agent.workspace) == 60 * KIB
    assert [agent.cache.links(uri, await agent.store.identify(uri), agent.workspace) for uri in uris] == [
        True,
        False,
        False,
    ]


async def test_another_volume_is_not_helped(agent: Agent) -> None:
    """Room that is made here is none there, and a copy takes room."""
    uri = agent.store.put("a")
    await agent.read(uri)
    for elsewhere in (Path("/proc"), agent.workspace / "gone"):
        assert agent.cache.make_room(KIB, elsewhere) == 0
        assert agent.cache.spare_bytes(elsewhere) == 0
        assert not agent.cache.links(uri, await agent.store.identify(uri), elsewhere)


async def test_what_is_kept_takes_no_room_again(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an attempt must reserve for an input is its size, or nothing where it will be linked."""
    stores = Stores([], {"archive": StoreTable(StoreKind.S3)}, cache=agent.cache)
    monkeypatch.setattr(stores, "_make", lambda *_: agent.store)
    uri = agent.store.put("a")
    assert await stores.fetched_bytes(uri, agent.workspace) == 10 * KIB
    assert [(await stores.fetch(uri, agent.workspace / "0"))[1] for _ in range(2)] == [False, True]
    assert await stores.fetched_bytes(uri, agent.workspace) == 0
    assert await stores.fetched_bytes(uri, Path("/proc")) == 10 * KIB


async def test_off_it_is_not_there(agent: Agent) -> None:
    """Nothing is kept or counted."""
    agent.restart(limit=0)
    uri = agent.store.put("a")
    assert [await agent.read(uri) for _ in range(2)] == [False, False]
    assert agent.files() == []
    assert (agent.cache.hits, agent.cache.misses) == (0, 0)


async def test_local_files_are_only_linked(agent: Agent, tmp_path: Path) -> None:
    """As without a cache; and they take no room."""
    recording = tmp_path / "talk.wav"
    recording.write_bytes(b"talk")
    stores = Stores([tmp_path], {"archive": StoreTable(StoreKind.S3)}, cache=agent.cache)
    _, cached = await stores.fetch(recording.as_uri(), agent.workspace / "0")
    assert (cached, (agent.workspace / "0").readlink()) == (False, recording)
    assert await stores.fetched_bytes(recording.as_uri(), agent.workspace) == 0
    assert (agent.cache.hits, agent.cache.misses, agent.files()) == (0, 0, [])
