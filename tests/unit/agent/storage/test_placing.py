"""Giving a file its final name on filesystems that can do little."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.storage import placing


def refuse(number: int) -> Callable[..., Any]:
    def call(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


@pytest.fixture(params=["links", "rename", "claim"])
def staged(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A staged file where the filesystem has hard links, only RENAME_NOREPLACE, or neither."""
    if request.param != "links":
        monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    if request.param == "claim":
        monkeypatch.setattr(placing, "_rename_noreplace", refuse(errno.EINVAL))
    path = tmp_path / ".final.a1.mediactl"
    path.write_bytes(b"new")
    return path


def test_free_name(staged: Path, tmp_path: Path) -> None:
    """A free name is taken, and the old one is gone."""
    placing.place(staged, tmp_path / "final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert (tmp_path / "final").read_bytes() == b"new"


@pytest.mark.parametrize("existing", [b"old", b"", b"new"])
def test_taken_name(staged: Path, tmp_path: Path, existing: bytes) -> None:
    """A name that anything bears, even an empty or equal file, is never replaced."""
    (tmp_path / "final").write_bytes(existing)
    with pytest.raises(FileExistsError):
        placing.place(staged, tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == existing
    assert staged.exists()


@pytest.mark.parametrize("kind", ["directory", "dangling link"])
def test_name_taken_by_no_file(staged: Path, tmp_path: Path, kind: str) -> None:
    """Directories and symbolic links that lead nowhere keep their names too."""
    final = tmp_path / "final"
    if kind == "directory":
        final.mkdir()
    else:
        final.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        placing.place(staged, final)
    assert staged.exists()


def test_staged_is_gone(staged: Path, tmp_path: Path) -> None:
    """Without anything staged nothing is placed, and no reservation stays."""
    staged.unlink()
    with pytest.raises(FileNotFoundError):
        placing.place(staged, tmp_path / "final")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_link_is_finished(tmp_path: Path) -> None:
    """A crash between giving the new name and taking the old one is mended by trying again."""
    staged = tmp_path / ".final.a1.mediactl"
    staged.write_bytes(b"new")
    os.link(staged, tmp_path / "final")
    placing.place(staged, tmp_path / "final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_interrupted_claim_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reservation left by a crash is recognised as one's own; another attempt's is not."""
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    monkeypatch.setattr(placing, "_rename_noreplace", refuse(errno.EINVAL))
    mine, others = tmp_path / ".final.a1.mediactl", tmp_path / ".final.a2.mediactl"
    for path in (mine, others):
        path.write_bytes(b"new")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            placing.place(mine, tmp_path / "final")
    with pytest.raises(FileExistsError):
        placing.place(others, tmp_path / "final")
    placing.place(mine, tmp_path / "final")
    assert (tmp_path / "final").read_bytes() == b"new"
    assert not mine.exists()


def test_unexpected_fault_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device error is not taken for a missing ability."""
    staged = tmp_path / ".final.a1.mediactl"
    staged.write_bytes(b"new")
    monkeypatch.setattr(os, "link", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        placing.place(staged, tmp_path / "final")
    assert staged.exists()
