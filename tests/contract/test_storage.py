"""What every object store must do, whatever is behind it. A further driver is one more entry of DRIVERS."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.storage import Staged
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.fakes.deposit_driver import deposit_driver
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.object_stores import AzureDriver, Crash, Driver, FileDriver, S3Driver

CONTENT = b"clean dialogue " * 10_000
OTHER = b"somebody else's"
MEBIBYTE = 1 << 20


DRIVERS = ("file", "file-without-links", "s3", "az", "controller")


@pytest.fixture(params=DRIVERS)
async def driver(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Driver]:
    if request.param == "controller":
        async with deposit_driver(tmp_path / "controller") as deposits:
            yield deposits
        return
    if request.param.startswith("file"):
        yield FileDriver(tmp_path, monkeypatch, links=request.param == "file")
        return
    server = request.getfixturevalue("object_server" if request.param == "s3" else "blob_server")
    folder = tmp_path_factory.mktemp("credentials")
    async with FaultProxy(server.address) as proxy:
        if request.param == "az":
            yield AzureDriver(server, proxy, folder)
            return
        with closing(S3Driver(server, proxy, folder)) as s3:
            yield s3


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A file that an attempt made in its workspace."""
    path = tmp_path / "workspace" / "out" / "master.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


def content_of(path: Path) -> bytes:
    return path.read_bytes()


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
    assert not (tmp_path / "0").exists()


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
    assert driver.get("a/b/master.wav") is None
    assert await refusal(driver.store.identify(driver.uri("a/b/master.wav"))) is Reason.INPUT_NOT_FOUND
    assert driver.staged() == 1
    for _ in range(3):
        await complete(driver, "a/b/master.wav", staged, overwrite=overwrite)
        assert driver.get("a/b/master.wav") == CONTENT
        assert driver.staged() == 0


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("parts", [0, 1, 2])
async def test_whatever_the_size(
    driver: Driver, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int, extra: int
) -> None:
    """From one byte on, about the sizes where another part or another range begins: published and fetched whole."""
    # The least that S3 takes; otherwise this needs objects of many megabytes.
    monkeypatch.setattr("agent.storage.s3_uploads.PART_BYTES", 5 * MEBIBYTE)
    monkeypatch.setattr("agent.storage.download.PIECE_BYTES", MEBIBYTE)
    size = max(1, parts * 5 * MEBIBYTE + extra)
    content = random.Random(size).randbytes(size)  # noqa: S311 - no secret
    replace(made, content)
    staged = await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    await complete(driver, "master.wav", staged)
    assert driver.get("master.wav") == content
    identity = await driver.store.fetch(driver.uri("master.wav"), tmp_path / "0")
    assert (identity.size, staged.size) == (size, size)
    assert content_of(tmp_path / "0") == content


async def test_another_agent_goes_on(driver: Driver, made: Path) -> None:
    """What one agent staged another one completes, or discards, and the first may be told to do it again."""
    staged = await driver.store.stage(made, driver.uri("master.wav"), "attempt-1")
    made.unlink()
    other = driver.another()
    for store in (other, driver.store, driver.another()):
        await store.complete(
            driver.uri("master.wav"), staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=False
        )
    assert driver.get("master.wav") == CONTENT
    await other.discard(staged.staged_uri)
    assert driver.get("master.wav") == CONTENT


async def test_sweeping_removes_what_an_attempt_left(driver: Driver, made: Path) -> None:
    """All that one attempt staged for a name and nothing else: no other attempt's, no other name's, no output."""
    for name in ("master.wav", "master.wav.m4a", "master"):
        made.with_name(name).write_bytes(CONTENT)
        await driver.store.stage(made.with_name(name), driver.uri(name), "attempt-1")
    made.with_name("b").write_bytes(OTHER)
    kept = await driver.store.stage(made.with_name("b"), driver.uri("master.wav"), "attempt-2")
    driver.put("there.wav", OTHER)
    for found in (True, False):
        assert await driver.another().sweep(driver.uri("master.wav"), "attempt-1") is found
        assert not await driver.store.sweep(driver.uri("there.wav"), "attempt-1")
        assert not await driver.store.sweep(driver.uri("never.wav"), "attempt-1")
        assert driver.staged() == 3
    await complete(driver, "master.wav", kept)
    await driver.store.sweep(driver.uri("master.wav"), "attempt-2")
    assert [driver.get(name) for name in ("master.wav", "there.wav")] == [OTHER, OTHER]
    for name in ("master.wav.m4a", "master"):
        assert await driver.store.sweep(driver.uri(name), "attempt-1")
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
        "#?&=.wav",
        "a+b c%20d.wav",
        "e\u0301 \u00e9.wav",
        "\U0001f3a7.wav",
        "...",
        "/".join(["d" * 200] * 5) + "/" + "x" * 19,
        ".hidden.wav",
    ],
)
async def test_any_name_can_be_published(driver: Driver, made: Path, tmp_path: Path, name: str) -> None:
    """Names as long as stores take, and names with any characters, are staged, published and read as they are."""
    if isinstance(driver, AzureDriver) and ("\n" in name or len(name) > 960):
        # A library that takes no control characters; and the staged object's longer name has to fit too.
        assert await refusal(driver.store.check_target(driver.uri(name), overwrite=False)) is Reason.OUTPUT_UNWRITABLE
        return
    await driver.store.check_target(driver.uri(name), overwrite=False)
    staged = await driver.store.stage(made, driver.uri(name), "0198c1d2-7a7e-7000-8000-000000000000")
    await complete(driver, name, staged)
    assert driver.get(name) == CONTENT
    assert driver.names() == [name] or name.startswith(".")
    assert driver.staged() == 0
    await driver.store.fetch(driver.uri(name), tmp_path / "0")
    assert content_of(tmp_path / "0") == CONTENT


@pytest.mark.parametrize("name", ["a/../b.wav", "../b.wav", "./b.wav", "a//b.wav", "a\\b.wav", "x" * 1025 + ".wav"])
async def test_names_that_not_every_store_keeps(driver: Driver, made: Path, name: str) -> None:
    """Either there is an object of just this name afterwards or the refusal says that there can be none; whatever
    a store takes for the same is not written over.
    """
    for other in ("b.wav", "a/b.wav"):
        driver.put(other, OTHER)
    refused: Reason | None = None
    try:
        staged = await driver.store.stage(made, driver.uri(name), "attempt-1")
    except MediaFailure as failure:
        refused = failure.reason
    else:
        try:
            await complete(driver, name, staged)
        except MediaFailure as failure:
            refused = failure.reason
        await driver.store.discard(staged.staged_uri)
    assert refused in {Reason.OUTPUT_UNWRITABLE, Reason.OUTPUT_EXISTS} or driver.get(name) == CONTENT
    assert [driver.get(other) for other in ("b.wav", "a/b.wav")] == [OTHER, OTHER]
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
        with suppress(Crash), driver.crashing(at) as crashed:
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
        with suppress(Crash), driver.crashing(at) as crashed:
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
