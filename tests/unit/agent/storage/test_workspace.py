"""The scratch directory of an attempt, its journal, and sweeping."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.workspace import Workspace, folder_bytes, free_bytes, workspaces

FIRST = {"step": "measure", "result": {"out_time_s": 10.25}}
SECOND = {"step": "encode", "result": {"out_time_s": None}}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "scratch", "a1")
    made.create()
    return made


def test_create(workspace: Workspace) -> None:
    """Inputs, outputs and steps have directories that only the agent can enter; creating again keeps them."""
    for directory in (workspace.path, workspace.inputs, workspace.outputs, workspace.steps):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (workspace.outputs / "x").write_bytes(b"x")
    workspace.create()
    assert (workspace.outputs / "x").exists()


def test_journal_keeps_entries(workspace: Workspace) -> None:
    """What was recorded is read back in its order, by anyone."""
    assert workspace.entries() == []
    workspace.record(FIRST)
    workspace.record(SECOND)
    assert Workspace(workspace.root, "a1").entries() == [FIRST, SECOND]


@given(cut=st.integers(1, 200))
def test_torn_line_is_as_if_never_written(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """A crash in the middle of the last line costs that entry alone, also once more are recorded."""
    workspace = Workspace(tmp_path_factory.mktemp("scratch"), "a1")
    workspace.create()
    workspace.record(FIRST)
    whole = workspace.journal.stat().st_size
    workspace.record(FIRST)
    content = workspace.journal.read_bytes()
    workspace.journal.write_bytes(content[: max(whole, len(content) - cut)])
    assert workspace.entries() == [FIRST]
    workspace.record(SECOND)
    assert workspace.entries() == [FIRST, SECOND]


def test_damaged_journal_is_told(workspace: Workspace) -> None:
    """Nonsense before the last line is no crash of ours and is not passed over."""
    workspace.record(FIRST)
    workspace.journal.write_bytes(b"nonsense\n" + workspace.journal.read_bytes())
    with pytest.raises(ValueError, match="Expecting value"):
        workspace.entries()


def test_remove(workspace: Workspace, tmp_path: Path) -> None:
    """Everything goes, also what denies it, but not what links lead to; removing again is fine."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"x")
    (workspace.inputs / "0").symlink_to(outside / "kept")
    (workspace.inputs / "1").symlink_to(outside)
    (workspace.outputs / "deep").mkdir()
    (workspace.outputs / "deep" / "x").write_bytes(b"x")
    (workspace.outputs / "deep").chmod(0o500)
    workspace.outputs.chmod(0)
    workspace.remove()
    workspace.remove()
    assert not workspace.path.exists()
    assert (outside / "kept").exists()


def test_workspaces(tmp_path: Path) -> None:
    """Whoever left them there, they are found; foreign files, folders and links are none."""
    for attempt_id in ("a1", "a2"):
        Workspace(tmp_path, attempt_id).create()
    (tmp_path / "someone-else").mkdir()
    (tmp_path / "mediactl-file").write_bytes(b"x")
    (tmp_path / "mediactl-").mkdir()
    (tmp_path / "mediactl-link").symlink_to(tmp_path / "someone-else")
    assert [workspace.attempt_id for workspace in workspaces(tmp_path)] == ["a1", "a2"]
    assert workspaces(tmp_path / "absent") == []


@pytest.mark.parametrize("attempt_id", ["", "a/b", "../x", "a\0b"])
def test_attempt_ids_that_are_no_names(tmp_path: Path, attempt_id: str) -> None:
    """An attempt id cannot lead out of the scratch folder."""
    with pytest.raises(ValueError, match="attempt id"):
        Workspace(tmp_path, attempt_id)


def test_free_bytes(tmp_path: Path) -> None:
    """Free space is that of the volume, whether or not the folder exists yet."""
    assert free_bytes(tmp_path) > 0
    assert free_bytes(tmp_path / "not" / "yet") > 0


def test_bytes_of_a_folder(tmp_path: Path) -> None:
    """Of its files at any depth; links are not followed, and a folder that is not there has none."""
    (tmp_path / "big").write_bytes(bytes(5000))
    folder = tmp_path / "w"
    (folder / "out" / "deep").mkdir(parents=True)
    (folder / "x").write_bytes(bytes(10))
    (folder / "out" / "deep" / "y").write_bytes(bytes(7))
    (folder / "link").symlink_to(tmp_path / "big")
    (folder / "round").symlink_to(tmp_path)
    assert folder_bytes(folder) == 17
    assert folder_bytes(tmp_path / "none") == 0
