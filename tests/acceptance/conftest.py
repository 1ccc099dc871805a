"""What the tests from outside share: homes, one running box for each worker, and recordings."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.cli import STAGED, TRACEBACK, Home, living_in, living_with_box, until
from tests.fakes.synth import synthesise

_HEEDING_PERMISSIONS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test beside this file."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.acceptance)


@dataclass(frozen=True, slots=True)
class Recordings:
    """Synthetic inputs, made when they are first asked for."""

    folder: Path

    def synth(self, name: str) -> Path:
        """One of tests.fakes.synth."""
        return synthesise(name, self.folder)

    def levelled(self, name: str, *, gain_db: float) -> Path:
        """The synthetic speech as a 16 bit WAV file, this much louder; clipped where it does not fit."""
        path = self.folder / f"{name}.wav"
        return self._made(path, "-i", str(self.synth("speech")), "-af", f"volume={gain_db}dB", "-c:a", "pcm_s16le")

    def hours(self) -> Path:
        """Two hours of a quiet tone in a few megabytes: no step on it ends within a test."""
        return self._tone("hours.flac", 7200)

    def minutes(self) -> Path:
        """Ten minutes of it: a step takes long enough to be met at work, and a job is done in seconds."""
        return self._tone("minutes.flac", 600)

    def _tone(self, name: str, seconds: int) -> Path:
        tone = f"sine=f=300:r=8000:d={seconds},volume=0.5"
        return self._made(self.folder / name, "-f", "lavfi", "-i", tone, "-c:a", "flac", "-compression_level", "0")

    def _made(self, path: Path, *arguments: str) -> Path:
        if not path.exists():
            command = ["ffmpeg", "-hide_banner", "-nostdin", "-v", "error", "-y", *arguments, str(path)]
            subprocess.run(command, check=True, timeout=60)
        return path


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    if shutil.which("ffmpeg") is None or shutil.which("ffprobe") is None:
        pytest.skip("no ffmpeg and ffprobe on PATH")
    return Recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture
def new_home(tmp_path: Path, recordings: Recordings) -> Iterator[Home]:
    """A home with nothing in it. At the end of the test no process of it may be left."""
    with living_in(tmp_path / "user") as home:
        yield home


@pytest.fixture
def home(new_home: Home) -> Home:
    """One whose box has run before."""
    new_home.use()
    return new_home


@pytest.fixture(scope="session")
def _running_box(tmp_path_factory: pytest.TempPathFactory, recordings: Recordings) -> Iterator[Home]:
    with living_with_box(tmp_path_factory.mktemp("box")) as home:
        yield home


@pytest.fixture
def box(_running_box: Home, tmp_path: Path) -> Iterator[Home]:
    """A home with a running box, shared by the tests of a worker. Each must leave the agent tidy and able to work."""
    yield _running_box
    until(lambda: not (_running_box.encoders() or _running_box.workspaces()), "the agent has cleaned up", within_s=5)
    _running_box.assert_tidy()
    assert not [*tmp_path.rglob(STAGED)]
    for said in (_running_box.folder / "said").iterdir():
        assert TRACEBACK not in said.read_text("utf-8", "replace")


@pytest.fixture
def plain_home(tmp_path: Path, recordings: Recordings) -> Iterator[Home]:
    """A home of somebody whom file permissions concern; root lays down its power over them for it."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        prefix = _HEEDING_PERMISSIONS
        closed = tmp_path / "closed"
        closed.touch(0)
        if (
            shutil.which("setpriv") is None
            or subprocess.run([*prefix, "cat", str(closed)], check=False).returncode == 0
        ):
            pytest.skip("root here, and setpriv does not take away its power over file permissions")
    with living_in(tmp_path / "user", prefix=prefix) as home:
        home.use()
        yield home
