"""The installer, into a folder: what it puts where, what an upgrade keeps, what it leaves behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.systemd.machine import CHECKOUT

PREFIX = "opt/mediactl"
CONFIG = "etc/mediactl/agent.toml"
UNITS = ("mediactl-agent.service", "mediactl-box.service", "mediactl-controller.service")


def install(folder: Path, what: str = "all", **variables: str) -> str:
    """What it says."""
    command = [str(CHECKOUT / "deploy" / "install"), what]
    # Compiling all that nobody is going to import would take most of the time.
    environ = {**os.environ, "DESTDIR": str(folder), "PIP_NO_COMPILE": "1", **variables}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def in_use(release: Path) -> Iterator[None]:
    """A process that was started from a release, as a supervisor is."""
    with subprocess.Popen([f"{release}/bin/python", "600"], executable="/bin/sleep") as process:
        try:
            yield
        finally:
            process.kill()


@pytest.mark.timeout(300)
def test_installed_and_upgraded(tmp_path: Path) -> None:
    """A release of its own that runs; of the former ones stay the last and those in use."""
    releases = tmp_path / PREFIX / "releases"
    for name in ("in-use", "unused", "former"):
        (releases / name / "bin").mkdir(parents=True)
    (tmp_path / PREFIX / "current").symlink_to("releases/former")
    with in_use(releases / "in-use"):
        install(tmp_path)
    current = (tmp_path / PREFIX / "current").resolve()
    assert names(releases) == sorted([current.name, "former", "in-use"])
    assert names(tmp_path / PREFIX) == ["current", "releases"]

    told = subprocess.run([current / "bin/python", "-P", "-m", "ctl.main", "version"], check=True, capture_output=True)
    assert b"0.1.0" in told.stdout
    packages = names(next(current.glob("lib/python3*/site-packages")))
    assert {"grpc", "controller", "agent", "presets", "mediactl"} <= {*packages}
    assert not {"mypy", "pytest", "ruff", "uv", "tests"} & {*packages}
    for program in ("mediactl", "mediactl-controller", "mediactl-agent"):
        script = (current / "bin" / program).read_text(encoding="utf-8")
        # Behind the first line, where the folder that it was staged in made that too long for the kernel.
        assert f" /{PREFIX}/releases/{current.name}/bin/python" in script.replace("#!", " ")
        assert str(tmp_path) not in script
        assert str((tmp_path / "usr/local/bin" / program).readlink()) == f"/{PREFIX}/current/bin/{program}"


def test_settings_are_the_administrators(tmp_path: Path) -> None:
    """Examples are put where there is nothing; what is there is never written over, and outlives uninstalling."""
    install(tmp_path, "files")
    settings = tmp_path / CONFIG
    assert names(settings.parent) == ["agent.env", "agent.toml", "controller.env", "controller.toml"]
    settings.write_text("mine", encoding="utf-8")
    install(tmp_path, "files")
    assert settings.read_text(encoding="utf-8") == "mine"
    assert names(tmp_path / "usr/local/lib/systemd/system") == [*UNITS]
    assert "/etc/mediactl" in install(tmp_path, "uninstall")
    assert settings.read_text(encoding="utf-8") == "mine"
    assert not [*(tmp_path / "usr").rglob("*mediactl*")]


def test_another_prefix(tmp_path: Path) -> None:
    """Units start the programs of the prefix that was asked for."""
    install(tmp_path, "files", PREFIX="/srv/mediactl")
    for name in UNITS:
        unit = (tmp_path / "usr/local/lib/systemd/system" / name).read_text(encoding="utf-8")
        assert "ExecStart=/srv/mediactl/current/bin/mediactl" in unit
        assert "/opt/" not in unit


def test_an_unknown_word(tmp_path: Path) -> None:
    """It does nothing and says what it expects."""
    command = [str(CHECKOUT / "deploy" / "install"), "everything"]
    done = subprocess.run(
        command, env={**os.environ, "DESTDIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, names(tmp_path)) == (1, [])
    assert "all, files or uninstall is expected, got everything" in done.stderr
