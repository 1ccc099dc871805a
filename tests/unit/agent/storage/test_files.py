"""What is special about files: links, permissions, roots, modes, full disks."""

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.storage import FileStore, Stores, files
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import path_to_uri

CONTENT = b"media" * 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    return tmp_path / "media"


@pytest.fixture
def store(root: Path) -> FileStore:
    return FileStore([root])


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def uri(path: Path) -> str:
    return path_to_uri(str(path))


def status_of(path: Path) -> os.stat_result:
    return path.lstat()


def target_of(link: Path) -> Path:
    return link.readlink()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_setgid(folder: Path) -> None:
    folder.chmod(0o2770)


def remove(path: Path) -> None:
    path.unlink()


def only_file_in(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


async def refusal(coroutine: Coroutine[Any, Any, object]) -> MediaFailure:
    with pytest.raises(MediaFailure) as caught:
        await coroutine
    return caught.value


async def test_special_files_are_no_inputs(store: FileStore, root: Path, tmp_path: Path) -> None:
    """A FIFO does not block, and it, a directory and a device are called what they are."""
    fifo = root / "fifo"
    os.mkfifo(fifo)
    failure = await refusal(store.fetch(uri(fifo), tmp_path / "0"))
    assert (failure.reason, "FIFO" in failure.message) == (Reason.INPUT_UNAVAILABLE, True)
    failure = await refusal(store.fetch(uri(root), tmp_path / "0"))
    assert (failure.reason, "directory" in failure.message) == (Reason.INPUT_UNAVAILABLE, True)
    failure = await refusal(FileStore([Path("/")]).fetch("file:///dev/zero", tmp_path / "0"))
    assert (failure.reason, "character device" in failure.message) == (Reason.INPUT_UNAVAILABLE, True)


async def test_unreadable_input(store: FileStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file the agent may not read is INPUT_UNAVAILABLE, with the system's words."""

    def denied(*_args: Any, **_kwargs: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (root / "secret.wav").write_bytes(CONTENT)
    # Nothing is denied to root, as whom tests may run.
    monkeypatch.setattr(os, "open", denied)
    failure = await refusal(store.fetch(uri(root / "secret.wav"), tmp_path / "0"))
    assert failure.reason is Reason.INPUT_UNAVAILABLE
    assert "Permission denied" in failure.message


@pytest.mark.parametrize("path", ["../outside.wav", "link.wav", "folder/outside.wav", "missing/../../outside.wav"])
async def test_inputs_outside_the_roots(store: FileStore, root: Path, tmp_path: Path, path: str) -> None:
    """Neither dots nor symbolic links lead out of the media roots, which the refusal names."""
    (tmp_path / "outside.wav").write_bytes(CONTENT)
    (root / "link.wav").symlink_to(tmp_path / "outside.wav")
    (root / "folder").symlink_to(tmp_path)
    failure = await refusal(store.fetch(uri(root / path), tmp_path / "0"))
    assert failure.reason is Reason.INPUT_UNAVAILABLE
    assert str(root) in failure.message


async def test_links_within_the_roots(store: FileStore, root: Path, tmp_path: Path) -> None:
    """A symbolic link that stays inside is followed, once and for all."""
    (root / "real.wav").write_bytes(CONTENT)
    (root / "link.wav").symlink_to("real.wav")
    await store.fetch(uri(root / "link.wav"), tmp_path / "0")
    assert target_of(tmp_path / "0") == root / "real.wav"


async def test_loop_of_links(store: FileStore, root: Path, tmp_path: Path) -> None:
    """A symbolic link to itself is unavailable, not an internal error."""
    (root / "loop").symlink_to("loop")
    failure = await refusal(store.fetch(uri(root / "loop"), tmp_path / "0"))
    assert failure.reason is Reason.INPUT_UNAVAILABLE
    failure = await refusal(store.check_target(uri(root / "loop" / "x.wav"), overwrite=False))
    assert failure.reason is Reason.OUTPUT_UNWRITABLE


async def test_path_through_a_file(store: FileStore, root: Path, tmp_path: Path) -> None:
    """A path that treats a file as a folder names nothing to read and nothing that can be written."""
    (root / "file").write_bytes(CONTENT)
    failure = await refusal(store.fetch(uri(root / "file" / "x.wav"), tmp_path / "0"))
    assert failure.reason is Reason.INPUT_NOT_FOUND
    failure = await refusal(store.check_target(uri(root / "file" / "x.wav"), overwrite=False))
    assert failure.reason is Reason.OUTPUT_UNWRITABLE


@pytest.mark.parametrize("name", ["x" * 256, "ü" * 128])
async def test_name_that_is_too_long(store: FileStore, root: Path, name: str) -> None:
    """A name no filesystem takes is refused before anything is run."""
    failure = await refusal(store.check_target(uri(root / name), overwrite=False))
    assert failure.reason is Reason.OUTPUT_UNWRITABLE


async def test_targets_that_cannot_be_written(store: FileStore, root: Path, tmp_path: Path) -> None:
    """Folders, special files and places outside the roots are no targets, overwriting or not."""
    os.mkfifo(root / "fifo")
    (root / "out").symlink_to(tmp_path)
    for overwrite in (False, True):
        for target in (root, root / "fifo", root / "out" / "x.wav", tmp_path / "x.wav", Path("/")):
            failure = await refusal(store.check_target(uri(target), overwrite=overwrite))
            assert failure.reason is Reason.OUTPUT_UNWRITABLE, target


async def test_folder_that_denies_writing(store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder the agent may not write to is named; nearer ones need not exist yet."""
    monkeypatch.setattr(os, "access", lambda *_args, **_kwargs: False)
    failure = await refusal(store.check_target(uri(root / "a" / "b" / "x.wav"), overwrite=False))
    assert failure.reason is Reason.OUTPUT_UNWRITABLE
    assert str(root) in failure.message


async def test_overwriting_a_link_leaves_what_it_leads_to(store: FileStore, root: Path, made: Path) -> None:
    """A target that is a symbolic link is replaced itself, so that publishing writes nowhere else."""
    (root / "kept.wav").write_bytes(b"kept")
    (root / "link.wav").symlink_to("kept.wav")
    staged = await store.stage(made, uri(root / "link.wav"), "a1")
    await store.complete(
        uri(root / "link.wav"), staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=True
    )
    assert stat.S_ISREG(status_of(root / "link.wav").st_mode)
    assert status_of(root / "kept.wav").st_size == 4


async def test_same_filesystem_needs_no_copy(store: FileStore, root: Path, made: Path) -> None:
    """What the workspace holds on the same filesystem is linked: no second copy of a large file is written."""
    staged = await store.stage(made, uri(root / "x.wav"), "a1")
    assert status_of(only_file_in(root)).st_ino == status_of(made).st_ino
    assert staged.staged_uri == uri(root / ".x.wav.a1.mediactl")


@pytest.mark.parametrize("obstacle", ["setgid", "second name", "other device", "refused"])
async def test_copies_where_a_link_would_not_do(
    store: FileStore, root: Path, made: Path, umask: int, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    """A file is copied where a link is impossible or would miss what the folder gives new files; mode by umask."""
    made = hindered(made, root, obstacle, monkeypatch)
    try:
        staged = await store.stage(made, uri(root / "x.wav"), "a1")
    finally:
        remove(made)
    status = status_of(only_file_in(root))
    assert stat.S_IMODE(status.st_mode) == 0o666 & ~umask
    assert (status.st_size, staged.size) == (len(CONTENT), len(CONTENT))


def hindered(made: Path, root: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts an obstacle in the way of linking ``made`` into ``root``; returns where it is afterwards."""

    def refused(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    made.chmod(0o600)
    match obstacle:
        case "setgid":
            make_setgid(root)
        case "second name":
            os.link(made, made.with_name("second"))
        case "refused":
            monkeypatch.setattr(os, "link", refused)
        case _:
            shared = Path("/dev/shm")
            if shared.stat().st_dev == root.stat().st_dev:
                pytest.skip("/dev/shm is on the same device as the temporary folder")
            made = shared / f"mediactl-test-{os.getpid()}"
            made.write_bytes(CONTENT)
    return made


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, Reason.PUBLISH_FAILED),
        (errno.EDQUOT, Reason.PUBLISH_FAILED),
        (errno.EIO, Reason.PUBLISH_FAILED),
        (errno.EROFS, Reason.OUTPUT_UNWRITABLE),
        (errno.EACCES, Reason.OUTPUT_UNWRITABLE),
    ],
)
async def test_faults_while_staging(
    store: FileStore, root: Path, made: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: Reason
) -> None:
    """A full or faulty volume may be better next time, a forbidden one will not; nothing half-written stays."""

    def fault(*_args: Any, **_kwargs: Any) -> int:
        raise OSError(number, os.strerror(number))

    make_setgid(root)  # so that it copies
    monkeypatch.setattr(os, "write", fault)
    failure = await refusal(store.stage(made, uri(root / "x.wav"), "a1"))
    assert failure.reason is reason
    assert os.strerror(number) in failure.message
    assert names_in(root) == []


async def test_cancelled_when_all_was_done(
    store: FileStore, root: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation that comes as staging has just succeeded takes the staged file away again."""
    reached, cancelled = threading.Event(), threading.Event()

    def last_step(_folder: Path) -> None:
        reached.set()
        assert cancelled.wait(20)

    monkeypatch.setattr(files, "sync_folder", last_step)
    task = asyncio.create_task(store.stage(made, uri(root / "x.wav"), "a1"))
    assert await asyncio.to_thread(reached.wait, 20)
    task.cancel()
    asyncio.get_running_loop().call_soon(cancelled.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert names_in(root) == []


async def test_altered_staging_is_not_published(store: FileStore, root: Path, made: Path) -> None:
    """Staged content of another size than recorded is not made visible."""
    staged = await store.stage(made, uri(root / "x.wav"), "a1")
    os.truncate(only_file_in(root), 10)
    failure = await refusal(
        store.complete(uri(root / "x.wav"), staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=True)
    )
    assert failure.reason is Reason.PUBLISH_FAILED
    assert "altered" in failure.message


@pytest.mark.parametrize("attempt_id", ["", "../up", "a/b"])
async def test_attempt_ids_that_are_no_names(store: FileStore, root: Path, made: Path, attempt_id: str) -> None:
    """An attempt id cannot lead out of the target's folder."""
    with pytest.raises(ValueError, match="attempt id"):
        await store.stage(made, uri(root / "x.wav"), attempt_id)


async def test_no_roots_reach_nothing(tmp_path: Path, made: Path) -> None:
    """Without media roots every file is refused, and the refusal says that there are none."""
    failure = await refusal(FileStore([]).fetch(uri(made), tmp_path / "0"))
    assert failure.reason is Reason.INPUT_UNAVAILABLE
    assert "none" in failure.message


def test_schemes(root: Path) -> None:
    """file: URIs have a store in any spelling of the scheme; others are refused with what is supported."""
    stores = Stores([root])
    assert isinstance(stores.store_for("FILE:///x"), FileStore)
    for other in ("s3://bucket/key", "/plain/path", "https://host/x", ""):
        with pytest.raises(MediaFailure) as caught:
            stores.store_for(other)
        assert caught.value.reason is Reason.INPUT_UNSUPPORTED_SCHEME


@pytest.mark.parametrize("bad", ["file://host/x.wav", "file:///x?y", "file:///a%00b", "file:relative"])
async def test_uris_that_name_no_file(bad: str, tmp_path: Path) -> None:
    """A file: URI that names no path of this machine is refused in words, in either direction."""
    store = FileStore([Path("/")])
    assert (await refusal(store.fetch(bad, tmp_path / "0"))).reason is Reason.INPUT_UNAVAILABLE
    assert (await refusal(store.check_target(bad, overwrite=False))).reason is Reason.OUTPUT_UNWRITABLE


@pytest.mark.parametrize("name", ["x", "x" * 255, "音" * 85, "\udcff" * 255])
def test_staged_names_fit(name: str) -> None:
    """Staged names are hidden, marked, and never longer than a filesystem takes."""
    staged = files._staged_name(name, "a" * 36)
    assert len(os.fsencode(staged)) <= 255
    assert staged.startswith(".")
    assert staged.endswith(f".{'a' * 36}.mediactl")
