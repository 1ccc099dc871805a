"""Stores that obstore reaches, with its store in memory in the place of Google's and Azure's."""

import asyncio
import hashlib
from collections.abc import Awaitable
from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from agent.storage.objects import ObstoreStore, open_bucket
from agent.storage.patience import Patience
from agent.storage.stores import StoreKind, StoreTable
from presets.problems import MediaFailure
from presets.reasons import Reason

CONTENT = b"clean dialogue " * 10_000
OTHER = b"somebody else's"
TARGET = "gs://bucket/a b/master.wav".replace(" ", "%20")
PATIENCE = Patience(tries=2, first_wait_s=0.0, longest_wait_s=0.0)


class Buckets:
    """One store in memory for each bucket."""

    def __init__(self) -> None:
        self.made: dict[str, MemoryStore] = {}

    def open(self, bucket: str, _retries: int) -> MemoryStore:
        return self.made.setdefault(bucket, MemoryStore())

    def names(self) -> list[str]:
        return sorted(meta["path"] for bucket in self.made.values() for meta in obstore.list(bucket).collect())

    def put(self, name: str, content: bytes) -> None:
        obstore.put(self.open("bucket", 0), name, content)

    def get(self, name: str) -> bytes:
        return bytes(obstore.get(self.open("bucket", 0), name).bytes())


@pytest.fixture
def buckets() -> Buckets:
    return Buckets()


@pytest.fixture
def store(buckets: Buckets) -> ObstoreStore:
    return ObstoreStore("gs", StoreTable(StoreKind.GS), patience=PATIENCE, opened=buckets.open)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "master.wav"
    path.write_bytes(CONTENT)
    return path


async def refusal(work: Awaitable[object]) -> Reason:
    with pytest.raises(MediaFailure) as caught:
        await work
    assert caught.value.message
    return caught.value.reason


async def test_reading(store: ObstoreStore, buckets: Buckets, tmp_path: Path) -> None:
    """An object is fetched whole, with a token that changes when it does."""
    buckets.put("talk.wav", CONTENT)
    before = await store.fetch("gs://bucket/talk.wav", tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == CONTENT
    assert before.size == len(CONTENT)
    assert await store.identify("gs://bucket/talk.wav") == before
    buckets.put("talk.wav", CONTENT.swapcase())
    assert (await store.identify("gs://bucket/talk.wav")).token != before.token
    buckets.put("empty.wav", b"")
    assert await refusal(store.fetch("gs://bucket/empty.wav", tmp_path / "1")) is Reason.INPUT_EMPTY
    assert await refusal(store.fetch("gs://bucket/gone.wav", tmp_path / "1")) is Reason.INPUT_NOT_FOUND


@pytest.mark.parametrize("overwrite", [False, True])
async def test_publishing(store: ObstoreStore, buckets: Buckets, made: Path, overwrite: bool) -> None:
    """Staged beside the target under the attempt's name, then copied to it, whole and with what it is; repeatable."""
    await store.check_target(TARGET, overwrite=overwrite)
    staged = await store.stage(made, TARGET, "attempt-1")
    assert (staged.size, staged.sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert buckets.names() == ["a b/.mediactl/attempt-1/master.wav"]
    for _ in range(3):
        await store.complete(TARGET, staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=overwrite)
        assert buckets.names() == ["a b/master.wav"]
        assert buckets.get("a b/master.wav") == CONTENT
    told = obstore.get(buckets.made["bucket"], "a b/master.wav").attributes
    assert told["Content-Type"] == "audio/wav"
    assert told["mediactl_sha256"] == staged.sha256


async def test_another_has_the_name(store: ObstoreStore, buckets: Buckets, made: Path) -> None:
    """Without overwriting what is there stays, equal or not; with it, it is replaced."""
    staged = await store.stage(made, TARGET, "attempt-1")
    for content in (OTHER, CONTENT):
        buckets.put("a b/master.wav", content)
        assert await refusal(store.check_target(TARGET, overwrite=False)) is Reason.OUTPUT_EXISTS
        work = store.complete(TARGET, staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=False)
        assert await refusal(work) is Reason.OUTPUT_EXISTS
        assert buckets.get("a b/master.wav") == content
    await store.complete(TARGET, staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=True)
    assert buckets.get("a b/master.wav") == CONTENT


async def test_a_crash_before_the_staging_was_removed(store: ObstoreStore, buckets: Buckets, made: Path) -> None:
    """A copy that was made and not tidied up after is finished, not refused as somebody else's."""
    staged = await store.stage(made, TARGET, "attempt-1")
    obstore.copy(buckets.made["bucket"], "a b/.mediactl/attempt-1/master.wav", "a b/master.wav")
    await store.complete(TARGET, staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=False)
    assert buckets.names() == ["a b/master.wav"]


async def test_two_attempts_race(store: ObstoreStore, buckets: Buckets, made: Path) -> None:
    """Exactly one of several has the name; the others' staging stays until it is discarded, or swept."""
    staged = [await store.stage(made, TARGET, f"attempt-{number}") for number in range(4)]
    ends = await asyncio.gather(
        *(store.complete(TARGET, s.staged_uri, sha256=s.sha256, size=s.size, overwrite=False) for s in staged),
        return_exceptions=True,
    )
    assert ends.count(None) == 1
    assert {end.reason for end in ends if isinstance(end, MediaFailure)} == {Reason.OUTPUT_EXISTS}
    assert len(buckets.names()) == 4
    swept = [await store.sweep(TARGET, f"attempt-{number}") for _ in range(2) for number in range(4)]
    assert swept == [end is not None for end in ends] + [False] * 4
    assert buckets.names() == ["a b/master.wav"]


async def test_nothing_to_publish(store: ObstoreStore, buckets: Buckets, made: Path) -> None:
    """With staging gone or altered only a target with this content counts as done."""
    staged = await store.stage(made, TARGET, "attempt-1")

    async def complete() -> None:
        await store.complete(TARGET, staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=False)

    buckets.put("a b/.mediactl/attempt-1/master.wav", OTHER)
    assert await refusal(complete()) is Reason.PUBLISH_FAILED
    for _ in range(2):
        await store.discard(staged.staged_uri)
    assert buckets.names() == []
    assert await refusal(complete()) is Reason.PUBLISH_FAILED
    buckets.put("a b/master.wav", CONTENT.swapcase())
    assert await refusal(complete()) is Reason.PUBLISH_FAILED
    buckets.put("a b/master.wav", CONTENT)
    await complete()


async def test_only_staged_content_is_discarded(store: ObstoreStore, buckets: Buckets) -> None:
    """No other object can be removed."""
    buckets.put("a b/master.wav", OTHER)
    assert await refusal(store.discard(TARGET)) is Reason.PUBLISH_FAILED
    assert buckets.names() == ["a b/master.wav"]


@pytest.mark.parametrize(
    "uri", ["gs://bucket/a//b.wav", "gs://bucket/../b.wav", "gs://bucket/a/./b", "gs://bucket/a%0Ab", "gs://bucket/x/"]
)
async def test_names_that_would_become_others(store: ObstoreStore, buckets: Buckets, made: Path, uri: str) -> None:
    """What the library would rewrite or refuse is refused, in both directions."""
    assert await refusal(store.identify(uri)) is Reason.INPUT_UNAVAILABLE
    assert await refusal(store.check_target(uri, overwrite=True)) is Reason.OUTPUT_UNWRITABLE
    assert await refusal(store.stage(made, uri, "attempt-1")) is Reason.OUTPUT_UNWRITABLE
    assert buckets.names() == []


async def test_a_bucket_of_its_own(buckets: Buckets, made: Path) -> None:
    """With a bucket, URIs are keys in it, staged ones too."""
    table = StoreTable(StoreKind.AZ, bucket="bucket")
    store = ObstoreStore("archive", table, patience=PATIENCE, opened=buckets.open)
    staged = await store.stage(made, "archive://master.wav", "attempt-1")
    assert buckets.names() == [".mediactl/attempt-1/master.wav"]
    await store.complete(
        "archive://master.wav", staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=False
    )
    assert buckets.get("master.wav") == CONTENT


async def test_credentials_that_are_wrong_are_not_told(tmp_path: Path, made: Path) -> None:
    """A file that is no key is denied in words that hold nothing of it."""
    key = tmp_path / "key"
    key.write_text("secret-of-the-account")
    table = StoreTable(StoreKind.GS, credentials_file=key)
    with pytest.raises(MediaFailure) as caught:
        await ObstoreStore("archive", table, patience=PATIENCE).check_target("archive://b/k", overwrite=True)
    assert caught.value.reason is Reason.OUTPUT_UNWRITABLE
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("kind", [StoreKind.GS, StoreKind.AZ])
async def test_the_real_ones_are_made(kind: StoreKind, tmp_path: Path) -> None:
    """Every setting that a table can have is one that the library knows; a server that is not there is unavailable."""
    key = tmp_path / "key"
    key.write_text("c2VjcmV0")
    account = "studio" if kind is StoreKind.AZ else None
    if kind is StoreKind.GS:
        key.write_text('{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}')
    table = StoreTable(kind, endpoint="http://127.0.0.1:1", account=account, credentials_file=key)
    open_bucket(table, "bucket", PATIENCE, 0)
    found = await refusal(ObstoreStore("archive", table, patience=PATIENCE).identify("archive://bucket/k"))
    assert found is Reason.INPUT_UNAVAILABLE
