"""What is kept of failed attempts: what of a workspace, for how long, how much, and how it is handed out."""

import errno
import io
import os
import shutil
import socket
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from agent import remains as module
from agent.remains import CUT, PIECE_BYTES, NothingKept, Remains

SECRET = b"https://bucket.example/in.wav?X-Amz-Signature=0123456789abcdef&x=1"
BLANKED = b"https://bucket.example/in.wav?X-Amz-Signature=***&x=1"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "remains"


@pytest.fixture
def remains(folder: Path, clock: Clock) -> Remains:
    return Remains(folder, keep_s=100.0, keep_bytes=10_000, most_file_bytes=1000, clock=clock)


def workspace(folder: Path, *, output: bytes = b"half a file", log: bytes = b"said\n") -> Path:
    """As an attempt leaves it that failed in its first step."""
    place = folder / "mediactl-w"
    for name in ("in", "out", "steps/01-encode"):
        (place / name).mkdir(parents=True)
    (place / "in" / "0").symlink_to(folder / "original.wav")
    (folder / "original.wav").write_bytes(b"the only recording")
    (place / "in" / "1").write_bytes(b"a copy of another input")
    (place / "out" / "speech.wav").write_bytes(output)
    (place / "steps" / "01-encode" / "stderr.log").write_bytes(log)
    (place / "journal.jsonl").write_bytes(b"{}\n")
    (place / "lease.pb").write_bytes(b"\x0a\x07" + SECRET)
    return place


def unpacked(remains: Remains, attempt_id: str) -> dict[str, bytes]:
    archive = b"".join(remains.pieces(attempt_id))
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        members = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        return {name.removeprefix(f"{attempt_id}/"): file.read() for name, file in members.items() if file is not None}


def kept(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def test_what_explains_is_kept_and_the_inputs_are_not(remains: Remains, tmp_path: Path) -> None:
    """The workspace is gone; logs, documents and outputs are in the archive; the recording is where it was."""
    place = workspace(tmp_path)
    size = remains.keep(place, "a.1", {"failure.json": b"{}", "agent.log": b"tried\n"})
    assert not place.exists()
    assert unpacked(remains, "a.1") == {
        "agent.log": b"tried\n",
        "failure.json": b"{}",
        "journal.jsonl": b"{}\n",
        "out/speech.wav": b"half a file",
        "steps/01-encode/stderr.log": b"said\n",
    }
    assert size == sum(map(len, unpacked(remains, "a.1").values()))
    assert (tmp_path / "original.wav").read_bytes() == b"the only recording"


def test_an_attempt_that_failed_before_it_had_a_workspace(remains: Remains, tmp_path: Path) -> None:
    """Its documents alone are kept."""
    assert remains.keep(tmp_path / "none", "a.1", {"failure.json": b"{}"}) == 2
    assert unpacked(remains, "a.1") == {"failure.json": b"{}"}


def test_links_are_not_followed_and_nothing_but_files_is_kept(remains: Remains, tmp_path: Path) -> None:
    """Neither to files nor to folders, wherever they are; a socket and a FIFO hold nobody up."""
    place = workspace(tmp_path)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"private")
    (place / "out" / "file").symlink_to(secret / "key")
    (place / "steps" / "folder").symlink_to(secret)
    (place / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(place / "steps" / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        # The path of a socket must be short; pytest's folders are not.
        with suppress(OSError):
            listening.bind(str(place / "s"))
        remains.keep(place, "a.1", {})
    assert set(unpacked(remains, "a.1")) == {"journal.jsonl", "out/speech.wav", "steps/01-encode/stderr.log"}
    assert (secret / "key").read_bytes() == b"private"


def test_secrets_are_blanked_out_of_everything_but_outputs(remains: Remains, tmp_path: Path) -> None:
    """In logs of any length, whatever they are called, and in the documents; lines stay whole."""
    log = b"x" * 70_000 + b"\n" + SECRET + b"\nAuthorization: Basic c2VjcmV0\n"
    roomy = Remains(tmp_path / "roomy", keep_bytes=10**6)
    roomy.keep(workspace(tmp_path, log=log), "a.1", {"plan.json": b'["' + SECRET + b'"]'})
    found = unpacked(roomy, "a.1")
    assert found["steps/01-encode/stderr.log"] == (b"x" * 70_000 + b"\n" + BLANKED + b"\nAuthorization: ***\n")
    assert found["plan.json"] == b'["' + BLANKED + b'"]'
    assert kept(tmp_path / "roomy") == ["a.1"]


def test_large_outputs_are_cut_off(remains: Remains, tmp_path: Path) -> None:
    """Behind the bound, under a name that says so; a log of that size is whole."""
    remains.keep(workspace(tmp_path, output=bytes(1001), log=b"l" * 1500), "a.1", {})
    found = unpacked(remains, "a.1")
    assert found[f"out/speech.wav{CUT}"] == bytes(1000)
    assert "out/speech.wav" not in found
    assert len(found["steps/01-encode/stderr.log"]) == 1500


def test_what_is_staged_or_published_is_never_cut(remains: Remains, tmp_path: Path) -> None:
    """A file that bears another name too is somebody's; it is left out instead."""
    place = workspace(tmp_path, output=bytes(5000))
    os.link(place / "out" / "speech.wav", tmp_path / "published.wav")
    remains.keep(place, "a.1", {})
    assert (tmp_path / "published.wav").read_bytes() == bytes(5000)
    assert "out/speech.wav" not in unpacked(remains, "a.1")


def test_the_oldest_go_first_where_the_room_is_used_up(
    remains: Remains, tmp_path: Path, folder: Path, clock: Clock
) -> None:
    """Whatever order names have."""
    for name in ("c", "a", "b"):
        clock.now_s += 1
        remains.keep(tmp_path / name, name, {"log": bytes(4000)})
    assert kept(folder) == ["a", "b"]
    with pytest.raises(NothingKept):
        next(remains.pieces("c"))


def test_what_alone_is_too_much_is_not_kept(remains: Remains, tmp_path: Path, folder: Path) -> None:
    """Nor said to be."""
    assert remains.keep(tmp_path / "w", "a", {"log": bytes(10_001)}) == 0
    assert kept(folder) == []


def test_old_ones_go_at_the_next_sweep(remains: Remains, tmp_path: Path, folder: Path, clock: Clock) -> None:
    """Those are counted by the time of the failure, also after a restart."""
    remains.keep(tmp_path / "w", "old", {"log": b"x"})
    clock.now_s += 60
    remains.keep(tmp_path / "w", "new", {"log": b"x"})
    clock.now_s += 60
    again = Remains(folder, keep_s=100.0, clock=clock)
    again.sweep()
    assert kept(folder) == ["new"]
    assert again.make_room(10**9, folder) == 1


def test_no_more_than_so_many(remains: Remains, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where everything fails at once, however small."""
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    for number in range(5):
        remains.keep(tmp_path / "w", f"a{number}", {"log": b"x"})
    assert kept(folder) == ["a2", "a3", "a4"]


@pytest.mark.parametrize("off", [{"keep_s": 0.0}, {"keep_bytes": 0}], ids=str)
def test_switched_off(off: dict[str, float], tmp_path: Path, folder: Path, remains: Remains) -> None:
    """Nothing is kept, the workspace is left to the caller, and what was kept before goes."""
    remains.keep(tmp_path / "w", "before", {"log": b"x"})
    without = Remains(folder, **off)  # type: ignore[arg-type] # one of the two
    place = workspace(tmp_path)
    assert without.keep(place, "a", {"log": b"x"}) == 0
    assert (place / "out" / "speech.wav").exists()
    without.sweep()
    assert kept(folder) == []
    with pytest.raises(NothingKept, match="never"):
        next(without.pieces("a"))


def test_low_disk_drops_the_oldest(remains: Remains, tmp_path: Path, folder: Path, clock: Clock) -> None:
    """As many as it takes; how much that freed is told."""
    for name in ("c", "b", "a"):
        clock.now_s += 1
        remains.keep(tmp_path / name, name, {"log": bytes(1000)})
    assert remains.make_room(1001, tmp_path) == 2000
    assert kept(folder) == ["a"]
    assert remains.make_room(1, Path("/proc")) == 0, "another volume has nothing of it"
    assert kept(folder) == ["a"]
    assert remains.make_room(5000, tmp_path) == 1000
    assert remains.make_room(1, tmp_path) == 0


def test_keeping_twice_is_keeping_once(remains: Remains, tmp_path: Path) -> None:
    """An agent that was killed before it had reported the end does it again."""
    size = remains.keep(workspace(tmp_path), "a.1", {"log": b"first"})
    assert remains.keep(tmp_path / "mediactl-w", "a.1", {"log": b"second"}) == size
    assert unpacked(remains, "a.1")["log"] == b"first"


class Crash(BaseException):
    """The power goes."""


CHANGES: tuple[tuple[object, str], ...] = (
    (Path, "mkdir"),
    (Path, "write_bytes"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "unlink"),
    (shutil, "rmtree"),
    (os, "truncate"),
    (os, "utime"),
)


def crashing(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], bool]:
    """Stops before the `at`-th change of the disk; what is returned tells whether it came so far."""
    calls = 0

    def stopping(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls >= at:
                raise Crash
            return real(*arguments, **options)

        return call

    for holder, name in CHANGES:
        monkeypatch.setattr(holder, name, stopping(getattr(holder, name)))
    return lambda: calls >= at


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same filesystem", "another filesystem"])
def test_a_crash_at_any_step_keeps_all_or_leaves_the_workspace(
    elsewhere: bool, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the next start either the whole is kept, without inputs or secrets, or the workspace is as it was; once
    the attempt is failed again it is kept, and nothing else is left.
    """
    whole = {"failure.json", "journal.jsonl", f"out/speech.wav{CUT}", "steps/01-encode/stderr.log"}
    at, reached = 0, True
    while reached:
        at += 1
        home = tmp_path / str(at)
        home.mkdir()
        place = workspace(home, output=bytes(1500), log=SECRET + b"\n")
        folder = home / "remains"
        first = Remains(folder, most_file_bytes=1000, clock=clock)
        with monkeypatch.context() as patched:
            if elsewhere:
                _no_renaming_of(patched, place)
            happened = crashing(patched, at)
            with suppress(Crash):
                first.keep(place, "a.1", {"failure.json": SECRET})
            reached = happened()
        again = Remains(folder, most_file_bytes=1000, clock=clock)
        again.sweep()
        if "a.1" not in kept(folder):
            assert (place / "out" / "speech.wav").stat().st_size == 1500
        assert again.keep(place, "a.1", {"failure.json": SECRET}) > 0
        found = unpacked(again, "a.1")
        assert set(found) == whole
        assert found["failure.json"] == BLANKED
        assert found["steps/01-encode/stderr.log"] == BLANKED + b"\n"
        assert kept(folder) == ["a.1"]
    assert at > 8


def _no_renaming_of(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == place:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)


def test_a_full_disk_costs_the_outputs_not_what_explains(
    remains: Remains, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the documents don't fit beside the partial outputs, those go."""
    place = workspace(tmp_path)
    real = Path.write_bytes

    def write(self: Path, content: bytes) -> int:
        if (place / "out").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    assert remains.keep(place, "a.1", {"failure.json": b"{}"}) > 0
    assert set(unpacked(remains, "a.1")) == {"failure.json", "journal.jsonl", "steps/01-encode/stderr.log"}


def test_a_disk_that_fails_keeps_nothing_and_harms_nobody(
    remains: Remains, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure of the attempt is what matters; the workspace is the caller's to remove."""
    place = workspace(tmp_path)

    def write(self: Path, content: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "write_bytes", write)
    assert remains.keep(place, "a.1", {"failure.json": b"{}"}) == 0
    assert kept(folder) == []
    assert place.exists()


def test_pieces_are_small_and_so_is_the_memory(tmp_path: Path) -> None:
    """However large the files are."""
    noise = os.urandom(1 << 20) * 8
    roomy = Remains(tmp_path / "roomy")
    place = workspace(tmp_path, output=noise)
    roomy.keep(place, "a.1", {})
    digest = hash(noise)
    del noise
    tracemalloc.start()
    try:
        sizes = [len(piece) for piece in roomy.pieces("a.1")]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(sizes) <= PIECE_BYTES
    assert min(sizes[:-1]) == PIECE_BYTES
    assert peak < 2 << 20
    assert hash(unpacked(roomy, "a.1")["out/speech.wav"]) == digest


@pytest.mark.parametrize("asked", ["..", "../remains/a.1", ".a.1", "", "/etc", "a.1/out", "b"])
def test_an_id_that_is_none_reaches_no_file(remains: Remains, tmp_path: Path, asked: str) -> None:
    """Whatever the controller asks for: only what is kept here is handed out."""
    remains.keep(workspace(tmp_path), "a.1", {})
    with pytest.raises(NothingKept):
        next(remains.pieces(asked))


def test_what_is_dropped_while_it_is_read_is_no_archive(tmp_path: Path) -> None:
    """The reader hears of it rather than getting a shorter one."""
    roomy = Remains(tmp_path / "roomy")
    roomy.keep(workspace(tmp_path, output=os.urandom(3 * PIECE_BYTES)), "a.1", {})
    reading = roomy.pieces("a.1")
    next(reading)
    roomy.make_room(1, tmp_path)
    with pytest.raises(NothingKept, match="while it was being sent"):
        list(reading)


def test_names_of_any_kind(remains: Remains, tmp_path: Path) -> None:
    """Also those that are no text."""
    place = workspace(tmp_path)
    (place / "out" / os.fsdecode(b"gr\xf6\xdfer \n.wav")).write_bytes(b"x")
    remains.keep(place, "a.1", {})
    assert b"x" in unpacked(remains, "a.1").values()


def test_several_threads(tmp_path: Path) -> None:
    """Attempts fail at once while others are swept and read."""
    roomy = Remains(tmp_path / "roomy")

    def fail(number: int) -> None:
        assert roomy.keep(tmp_path / f"w{number}", f"a{number}", {"log": b"x" * 100}) == 100
        roomy.sweep()
        assert b"".join(roomy.pieces(f"a{number}"))

    threads = [threading.Thread(target=fail, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept(tmp_path / "roomy")) == 8
