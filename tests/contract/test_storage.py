"""What every object store must do, whatever is behind it. A further driver is one more entry of DRIVERS."""

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from agent.storage import FileStore, ObjectStore, Staged, placing
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import path_to_uri

CONTENT = b"clean dialogue " * 10_000
OTHER = b"somebody else's"


class Crash(BaseException):
    """The machine stops here."""


class Driver(Protocol):
    """What the tests need to know of a store to look at it from outside."""

    store: ObjectStore

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

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "store"
        self.folder.mkdir()
        self.monkeypatch = monkeypatch
        self.store: ObjectStore = FileStore([self.folder])

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


def refuse(number: int) -> Callable[..., Any]:
    def call(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


class LinklessDriver(FileDriver):
    """Files on a filesystem without hard links (exFAT and the like)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch)
        monkeypatch.setattr(os, "link", refuse(errno.EPERM))


DRIVERS = {"file": FileDriver, "file-without-links": LinklessDriver}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return DRIVERS[request.param](tmp_path, monkeypatch)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A file that an attempt made in its workspace."""
    path = tmp_path / "workspace" / "out" / "master.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


async def refusal(coroutine: Coroutine[Any, Any, object]) -> Reason:
    with pytest.raises(MediaFailure) as caught:
        await coroutine
    assert caught.value.message
    return caught.value.reason


async def complete(driver: Driver, name: str, staged: Staged, *, overwrite: bool = False) -> None:
    await driver.store.complete(
        driver.uri(name), staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=overwrite
    )


async def test_fetch_makes_the_content_readable(driver: Driver, tmp_path: Path) -> None:
    """What is fetched reads as the object; fetching tells its size and a token that stays while it stays."""
    driver.put("in/talk.wav", CONTENT)
    identity = await driver.store.fetch(driver.uri("in/talk.wav"), tmp_path / "0")
    assert content_of(tmp_path / "0") == CONTENT
    assert identity.size == len(CONTENT)
    assert await driver.store.identify(driver.uri("in/talk.wav")) == identity
    assert await driver.store.fetch(driver.uri("in/talk.wav"), tmp_path / "0") == identity


async def test_a_changed_input_is_another_version(driver: Driver, tmp_path: Path) -> None:
    """Replacing an object changes its token, also where its size stays."""
    driver.put("talk.wav", CONTENT)
    before = await driver.store.fetch(driver.uri("talk.wav"), tmp_path / "0")
    driver.put("talk.wav", CONTENT.swapcase())
    after = await driver.store.identify(driver.uri("talk.wav"))
    assert after.size == before.size
    assert after.token != before.token


async def test_inputs_that_are_none(driver: Driver, tmp_path: Path) -> None:
    """What is not there and what is empty have reasons of their own, and nothing is placed."""
    driver.put("empty.wav", b"")
    assert await refusal(driver.store.fetch(driver.uri("gone.wav"), tmp_path / "0")) is Reason.INPUT_NOT_FOUND
    assert await refusal(driver.store.fetch(driver.uri("empty.wav"), tmp_path / "0")) is Reason.INPUT_EMPTY
    assert await refusal(driver.store.identify(driver.uri("gone.wav"))) is Reason.INPUT_NOT_FOUND
    assert names_in(tmp_path) == ["store"]


async def test_targets_are_checked_early(driver: Driver) -> None:
    """An existing target is refused unless it is to be replaced; checking creates nothing."""
    driver.put("there.wav", OTHER)
    await driver.store.check_target(driver.uri("new/folder/free.wav"), overwrite=False)
    await driver.store.check_target(driver.uri("there.wav"), overwrite=True)
    assert await refusal(driver.store.check_target(driver.uri("there.wav"), overwrite=False)) is Reason.OUTPUT_EXISTS
    assert await refusal(driver.store.check_target(driver.uri("a") + "/", overwrite=False)) is Reason.OUTPUT_UNWRITABLE
    assert driver.names() == ["there.wav"]


@pytest.mark.parametrize("overwrite", [False, True])
async def test_publication(driver: Driver, made: Path, overwrite: bool) -> None:
    """Staged content is invisible; completing shows it whole under its name, any number of times."""
    staged = await driver.store.stage(made, driver.uri("a/b/master.wav"), "attempt-1")
    assert (staged.size, staged.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert driver.names() == []
    assert driver.staged() == 1
    for _ in range(3):
        await complete(driver, "a/b/master.wav", staged, overwrite=overwrite)
        assert driver.get("a/b/master.wav") == CONTENT
        assert driver.staged() == 0


@pytest.mark.parametrize("existing", [OTHER, CONTENT], ids=["other", "equal"])
async def test_an_existing_target_stays(driver: Driver, made: Path, existing: bytes) -> None:
    """Without overwriting, a name taken meanwhile is refused, even by equal content; staging stays until discarded."""
    staged = await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    driver.put("master.wav", existing)
    for _ in range(2):
        assert await refusal(complete(driver, "master.wav", staged)) is Reason.OUTPUT_EXISTS
    assert driver.get("master.wav") == existing
    assert driver.staged() == 1
    await driver.store.discard(staged.staged_uri)
    assert driver.staged() == 0


async def test_overwriting_replaces(driver: Driver, made: Path) -> None:
    """With overwriting the old content is there until the new one is."""
    driver.put("master.wav", OTHER)
    staged = await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    assert driver.get("master.wav") == OTHER
    await complete(driver, "master.wav", staged, overwrite=True)
    await complete(driver, "master.wav", staged, overwrite=True)
    assert driver.get("master.wav") == CONTENT


@pytest.mark.parametrize("overwrite", [False, True])
async def test_nothing_left_to_publish(driver: Driver, made: Path, overwrite: bool) -> None:
    """With staging gone, only a target with this very content counts as done."""
    staged = await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    await driver.store.discard(staged.staged_uri)
    assert await refusal(complete(driver, "master.wav", staged, overwrite=overwrite)) is Reason.PUBLISH_FAILED
    driver.put("master.wav", OTHER)
    assert await refusal(complete(driver, "master.wav", staged, overwrite=overwrite)) is Reason.PUBLISH_FAILED
    driver.put("master.wav", CONTENT.swapcase())
    assert await refusal(complete(driver, "master.wav", staged, overwrite=overwrite)) is Reason.PUBLISH_FAILED
    driver.put("master.wav", CONTENT)
    await complete(driver, "master.wav", staged, overwrite=overwrite)


async def test_discarding_is_idempotent(driver: Driver, made: Path) -> None:
    """Discarding twice, or what never was, changes nothing else."""
    driver.put("other.wav", OTHER)
    staged = await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    for _ in range(2):
        await driver.store.discard(staged.staged_uri)
    assert driver.staged() == 0
    assert driver.names() == ["other.wav"]
    assert await refusal(driver.store.discard(driver.uri("other.wav"))) is Reason.PUBLISH_FAILED
    assert driver.get("other.wav") == OTHER


async def test_staging_again_replaces(driver: Driver, made: Path) -> None:
    """An attempt that stages anew after a crash leaves one staged content, the new one."""
    await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    replace(made, OTHER)
    staged = await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    assert driver.staged() == 1
    await complete(driver, "master.wav", staged)
    assert driver.get("master.wav") == OTHER


async def test_attempts_do_not_meet(driver: Driver, made: Path) -> None:
    """Two attempts stage for one target side by side; the first to complete has the name."""
    first = await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    replace(made, OTHER)
    second = await driver.store.stage(made, driver.uri("master.wav"), "attempt-2")
    await complete(driver, "master.wav", second)
    assert await refusal(complete(driver, "master.wav", first)) is Reason.OUTPUT_EXISTS
    assert driver.get("master.wav") == OTHER


async def test_two_agents_complete_at_once(driver: Driver, made: Path) -> None:
    """One publication finished by two agents at the same time succeeds for both."""
    staged = await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    await asyncio.gather(*(complete(driver, "master.wav", staged) for _ in range(8)))
    assert driver.get("master.wav") == CONTENT
    assert driver.staged() == 0


async def test_two_attempts_race_for_a_name(driver: Driver, made: Path) -> None:
    """Of several attempts that complete at once without overwriting exactly one gets the name."""
    copies = [made.with_name(str(number)) for number in range(6)]
    for copy in copies:
        copy.write_bytes(CONTENT)
    staged = [await driver.store.stage(copy, driver.uri("master.wav"), f"a-{copy.name}") for copy in copies]
    ends = await asyncio.gather(*(complete(driver, "master.wav", one) for one in staged), return_exceptions=True)
    assert ends.count(None) == 1
    assert {end.reason for end in ends if isinstance(end, MediaFailure)} == {Reason.OUTPUT_EXISTS}
    assert driver.staged() == len(copies) - 1


@pytest.mark.parametrize(
    "name",
    [
        "x" * 251 + ".wav",
        "ü" * 125 + ".wav",
        "音" * 83 + ".wav",
        "a:'[b],%.wav",
        "-rf .wav",
        "new\nline.wav",
        "100%.wav",
        "#?&.wav",
        ".hidden.wav",
    ],
)
async def test_any_name_can_be_published(driver: Driver, made: Path, name: str) -> None:
    """Names as long as a filesystem takes, and names with any characters, are staged and published as they are."""
    await driver.store.check_target(driver.uri(name), overwrite=False)
    staged = await driver.store.stage(made, driver.uri(name), "0198c1d2-7a7e-7000-8000-000000000000")
    await complete(driver, name, staged)
    assert driver.get(name) == CONTENT
    assert driver.staged() == 0


async def test_long_names_that_begin_alike(driver: Driver, made: Path) -> None:
    """Outputs of one attempt whose long names differ only at their ends are staged apart."""
    names = ["x" * 250 + end for end in ("1.wav", "2.wav")]
    second = made.with_name("second")
    second.write_bytes(OTHER)
    staged = [
        await driver.store.stage(file, driver.uri(name), "a" * 36)
        for file, name in zip((made, second), names, strict=True)
    ]
    for name, one in zip(names, staged, strict=True):
        await complete(driver, name, one)
    assert [driver.get(name) for name in names] == [CONTENT, OTHER]


async def test_crash_while_staging(driver: Driver, made: Path) -> None:
    """Wherever staging is interrupted, nothing is visible, and staging again leaves exactly one staged content."""
    for at in range(100):
        with driver.crashing(at) as crashed, suppress(Crash):
            await driver.store.stage(made, driver.uri(f"{at}/b/master.wav"), "attempt-1")
        assert driver.names() == []
        again = await driver.store.stage(made, driver.uri(f"{at}/b/master.wav"), "attempt-1")
        assert driver.staged() == 1
        await driver.store.discard(again.staged_uri)
        assert driver.staged() == 0
        if not crashed():
            break
    assert 3 < at < 99


@pytest.mark.parametrize("before", [None, OTHER], ids=["new", "replaced"])
async def test_crash_while_completing(driver: Driver, made: Path, before: bytes | None) -> None:
    """Wherever completing is interrupted, the target is as before or whole, and completing again finishes it."""
    for at in range(100):
        name = f"{at}.wav"
        copy = made.with_name("copy")
        copy.write_bytes(CONTENT)
        if before is not None:
            driver.put(name, before)
        staged = await driver.store.stage(copy, driver.uri(name), "attempt-1")
        copy.unlink()
        with driver.crashing(at) as crashed, suppress(Crash):
            await complete(driver, name, staged, overwrite=before is not None)
        assert driver.get(name) in (before, CONTENT)
        await complete(driver, name, staged, overwrite=before is not None)
        assert driver.get(name) == CONTENT
        assert driver.staged() == 0
        if not crashed():
            break
    assert 0 < at < 99


async def test_cancelled_staging_leaves_nothing(driver: Driver, made: Path) -> None:
    """A task cancelled while it stages has removed what it staged by the time the cancellation arrives."""
    with made.open("ab") as file:
        file.truncate(64 * 1024 * 1024)
    for turns in range(6):
        task = asyncio.create_task(driver.store.stage(made, driver.uri("master.wav"), "attempt-1"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert driver.staged() == 0
    assert driver.names() == []
