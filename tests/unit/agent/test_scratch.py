"""Room on the scratch disk, on a disk whose free bytes are given."""

import os
from pathlib import Path

import pytest

from agent.scratch import Scratch
from agent.storage import InputCache
from agent.workspace import Workspace
from presets.problems import MediaFailure
from presets.reasons import Reason

MIB = 1 << 20


class Disk:
    """A clock and a number of free bytes, which what is written in the folder takes away."""

    def __init__(self, root: Path, free: int, cache: InputCache | None = None) -> None:
        self.root = root
        self.free = free
        self.now_s = 100.0
        self.scratch = Scratch(root, lambda: self.now_s, kept_bytes=0, free=lambda _: self.free, cache=cache)

    def write(self, attempt: str, size: int, name: str = "x") -> None:
        """The attempt writes, and the disk knows."""
        workspace = Workspace(self.root, attempt)
        workspace.create()
        with (workspace.outputs / name).open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), size)
        self.free -= size
        self.now_s += 1.0


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path, 100 * MIB)


def test_what_is_reserved_is_not_free(disk: Disk) -> None:
    """Until the attempt is over."""
    disk.scratch.reserve("a", 10 * MIB, 30 * MIB)
    assert disk.scratch.free_bytes == 60 * MIB
    disk.scratch.reserve("b", 60 * MIB)
    assert disk.scratch.free_bytes == 0
    disk.scratch.release("a")
    assert disk.scratch.free_bytes == 40 * MIB
    disk.scratch.release("never known")


def test_what_does_not_fit_is_refused_with_figures(disk: Disk) -> None:
    """Before anything is fetched; what others have reserved is told apart from what is used."""
    disk.scratch.reserve("a", 30 * MIB)
    with pytest.raises(MediaFailure) as refused:
        disk.scratch.reserve("b", 20 * MIB, 51 * MIB)
    assert refused.value.reason is Reason.SCRATCH_FULL
    needs = "needs 20 MiB for the inputs and about 51 MiB for what it writes"
    assert needs in refused.value.message
    assert "where 100 MiB can be used, of which 30 MiB are reserved for other tasks" in refused.value.message
    assert disk.scratch.free_bytes == 70 * MIB
    disk.scratch.reserve("b", 20 * MIB, 50 * MIB)


def test_a_second_reservation_replaces_the_first(disk: Disk) -> None:
    """What is learnt by probing comes on top; refused, the first one stays."""
    disk.scratch.reserve("a", 40 * MIB)
    disk.scratch.reserve("a", 40 * MIB, 60 * MIB)
    assert disk.scratch.free_bytes == 0
    with pytest.raises(MediaFailure):
        disk.scratch.reserve("a", 40 * MIB, 61 * MIB)
    assert disk.scratch.free_bytes == 0


def test_what_is_written_is_counted_once(disk: Disk) -> None:
    """The disk knows of it, so that it counts as used rather than as reserved."""
    disk.scratch.reserve("a", 0, 40 * MIB)
    disk.write("a", 30 * MIB)
    assert disk.free == 70 * MIB
    assert 59 * MIB < disk.scratch.free_bytes <= 60 * MIB + 64 * 1024
    # More than it had reserved takes from what is free, and nothing else.
    disk.write("a", 20 * MIB)
    assert disk.scratch.free_bytes == 50 * MIB
    # What has been written needs no room any more.
    disk.scratch.reserve("a", 0, 100 * MIB)
    assert disk.scratch.free_bytes < MIB


def test_room_is_what_is_left_of_a_reservation_and_what_nobody_has(disk: Disk) -> None:
    """It shrinks with what is written, whoever writes it."""
    disk.scratch.reserve("a", 0, 40 * MIB)
    disk.scratch.reserve("b", 0, 20 * MIB)
    assert disk.scratch.room("a") == 80 * MIB
    disk.write("a", 30 * MIB)
    assert 49 * MIB < disk.scratch.room("a") <= 50 * MIB + 64 * 1024
    disk.free -= 45 * MIB
    assert disk.scratch.room("a") < 11 * MIB
    assert disk.scratch.room("unknown") == 0


def test_linked_inputs_take_no_room(disk: Disk, tmp_path: Path) -> None:
    """A link is not what it leads to."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 5 * MIB)
    workspace = Workspace(disk.root, "a")
    workspace.create()
    (workspace.inputs / "0").symlink_to(large)
    disk.scratch.reserve("a", 0, 10 * MIB)
    assert disk.scratch.free_bytes < 91 * MIB


def test_a_reserve_is_kept(tmp_path: Path) -> None:
    """Nobody is given what is to stay free."""
    scratch = Scratch(tmp_path, lambda: 0.0, kept_bytes=100 * MIB, free=lambda _: 150 * MIB)
    assert scratch.free_bytes == 50 * MIB
    with pytest.raises(MediaFailure, match="50 MiB can be used"):
        scratch.reserve("a", 51 * MIB)


class Kept(InputCache):
    """A cache of which only figures are known; what it drops becomes free on the disk."""

    def __init__(self, root: Path, spare: int) -> None:
        super().__init__(root, spare, boot="")
        self.disk = Disk(root, 40 * MIB, self)
        self.spare, self.coming = spare, 0

    def spare_bytes(self, folder: Path) -> int:
        return self.spare

    def coming_bytes(self, folder: Path) -> int:
        return self.coming

    def make_room(self, wanted_bytes: int, folder: Path) -> int:
        freed = max(0, min(wanted_bytes, self.spare))
        self.spare -= freed
        self.disk.free += freed
        return freed


def test_what_is_cached_gives_way(tmp_path: Path) -> None:
    """It counts as free until somebody needs the room; then as much of it goes as is needed."""
    cache = Kept(tmp_path, 50 * MIB)
    scratch = cache.disk.scratch
    assert scratch.free_bytes == 90 * MIB
    scratch.reserve("a", 0, 30 * MIB)
    assert (cache.spare, scratch.free_bytes) == (50 * MIB, 60 * MIB)
    scratch.reserve("b", 0, 45 * MIB)
    assert (cache.spare, cache.disk.free, scratch.free_bytes) == (15 * MIB, 75 * MIB, 15 * MIB)
    with pytest.raises(MediaFailure):
        scratch.reserve("c", 16 * MIB)


def test_what_is_being_fetched_into_the_cache_is_counted_once(tmp_path: Path) -> None:
    """An attempt has reserved it."""
    cache = Kept(tmp_path, 0)
    scratch = cache.disk.scratch
    scratch.reserve("a", 30 * MIB)
    cache.coming, cache.disk.free = 20 * MIB, 20 * MIB
    assert scratch.free_bytes == 10 * MIB
    with pytest.raises(MediaFailure):
        scratch.reserve("b", 11 * MIB)
    scratch.reserve("b", 10 * MIB)


def test_a_running_attempt_finds_free_what_is_cached(tmp_path: Path) -> None:
    """Before it has written all the room that there is."""
    cache = Kept(tmp_path, 500 * MIB)
    assert cache.disk.scratch.room("a") == 540 * MIB
    assert (cache.spare, cache.disk.free) == (284 * MIB, 256 * MIB)
