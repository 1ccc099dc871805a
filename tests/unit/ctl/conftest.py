"""A home folder of its own for every test, and the command line as a function."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctl.main import invoke
from tests.fakes.controller import FakeController, served


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as data."""
        return json.loads(self.out)


Mediactl = Callable[..., Ended]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings and data of whoever runs the tests are out of reach; the working directory is empty."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "MEDIACTL_CONTROLLER", "MEDIACTL_DATA_DIR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


@pytest.fixture
def mediactl(capfd: pytest.CaptureFixture[str]) -> Mediactl:
    """Runs a command line in this process."""

    def run(*arguments: str) -> Ended:
        capfd.readouterr()
        code = invoke(arguments)
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return run


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeController]:
    """A controller with invented answers, which the environment names."""
    controller = FakeController()
    with served(controller, socket=tmp_path / "m.sock") as address:
        monkeypatch.setenv("MEDIACTL_CONTROLLER", address)
        yield controller
