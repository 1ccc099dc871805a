"""The scratch directory of one attempt."""

import json
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PREFIX = "mediactl-"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where one attempt works: ``in/`` and ``out/`` for media, ``steps/`` for logs, a journal, the lease.

    Everything is below ``root/mediactl-{attempt_id}``. ``root`` belongs to one agent alone: sweeping removes what
    other agents keep there.
    """

    root: Path
    attempt_id: str

    def __post_init__(self) -> None:
        if not self.attempt_id or "/" in self.attempt_id or "\0" in self.attempt_id:
            raise ValueError(f"attempt id {self.attempt_id!r} cannot be part of a file name")

    @property
    def path(self) -> Path:
        """The directory itself."""
        return self.root / f"{_PREFIX}{self.attempt_id}"

    @property
    def inputs(self) -> Path:
        """Inputs, named by their position."""
        return self.path / "in"

    @property
    def outputs(self) -> Path:
        """Outputs and what is written on the way to them."""
        return self.path / "out"

    @property
    def steps(self) -> Path:
        """A directory for each step with its progress and log."""
        return self.path / "steps"

    @property
    def intermediates(self) -> Path:
        """What steps write for later ones."""
        return self.path / "work"

    @property
    def journal(self) -> Path:
        """What the attempt has learnt and done so far, a JSON line for each."""
        return self.path / "journal.jsonl"

    @property
    def lease(self) -> Path:
        """The lease, as it came; the workspace of an attempt that may be taken up again has it."""
        return self.path / "lease.pb"

    def create(self) -> None:
        """Creates the directories, readable for the agent alone. One that exists already is taken up again.

        :raises OSError: no space or no permission.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for directory in (self.path, self.inputs, self.outputs, self.intermediates, self.steps):
            directory.mkdir(mode=0o700, exist_ok=True)

    def record(self, entry: Mapping[str, object]) -> None:
        """Appends an entry to the journal. Blocks; a killed agent finds it again, a machine that stopped may not.

        :raises OSError: no space.
        """
        line = json.dumps(entry, separators=(",", ":")) + "\n"
        with self.journal.open("ab+") as file:
            file.seek(0)
            # A line torn by a crash would swallow the one appended to it.
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode())

    def entries(self) -> list[dict[str, Any]]:
        """What was recorded, in order; a last line torn by a crash counts as not written.

        :raises ValueError: the journal is damaged before its last line.
        """
        try:
            *lines, _torn = self.journal.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        entries = [json.loads(line) for line in lines]
        if not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{self.journal}: an entry that is no object")
        return entries

    def forget_steps(self) -> None:
        """Removes what steps left: their folders and outputs.

        :raises OSError: something resists.
        """
        for folder in (self.steps, self.intermediates, self.outputs):
            _remove(folder)
            folder.mkdir(mode=0o700)

    def remove(self) -> None:
        """Removes everything, also what denies it; where there is nothing, nothing is done.

        Links are removed, not what they lead to.

        :raises OSError: something resists, such as a mount.
        """
        _remove(self.path)


def workspaces(root: Path) -> list[Workspace]:
    """All that are below ``root``, whoever left them there; whatever is not named as a workspace is none."""
    if not root.is_dir():
        return []
    return [
        Workspace(root, folder.name.removeprefix(_PREFIX))
        for folder in sorted(root.glob(f"{_PREFIX}?*"))
        if folder.is_dir() and not folder.is_symlink()
    ]


def free_bytes(folder: Path) -> int:
    """Bytes the agent may still write on the volume of ``folder``, or of its nearest parent that exists."""
    volume = _volume(folder)
    return volume.f_bavail * volume.f_frsize


def volume_bytes(folder: Path) -> int:
    """Bytes of that volume altogether."""
    volume = _volume(folder)
    return volume.f_blocks * volume.f_frsize


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder that may be changing; links are not followed, what is gone counts nothing."""
    total = 0
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return 0
    for entry in entries:
        with suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                total += folder_bytes(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                total += entry.stat(follow_symlinks=False).st_size
    return total


def _volume(folder: Path) -> os.statvfs_result:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.statvfs(folder)


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except PermissionError:
        _open_up(directory)
        shutil.rmtree(directory)


def _open_up(directory: Path) -> None:
    directory.chmod(stat.S_IRWXU)
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            _open_up(Path(entry.path))
