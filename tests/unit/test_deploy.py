"""The units are as closed as they say, and the example settings are ones that the programs take."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from agent.main import serve as serve_agent
from controller.main import serve as serve_controller

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "systemd"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize(("unit", "exposure"), [("controller", 1.5), ("agent", 2.2), ("box", 2.2)])
def test_exposure(unit: str, exposure: float) -> None:
    """`systemd-analyze security` finds no more than this of 10, and knows every directive."""
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={round(exposure * 10)}"]
    done = subprocess.run(
        [*command, f"./mediactl-{unit}.service"], cwd=DEPLOY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1]
    assert done.stderr == ""


@pytest.mark.parametrize(("program", "command"), [("controller", serve_controller), ("agent", serve_agent)])
def test_example_settings(program: str, command: click.Command) -> None:
    """Every line of an example, taken in, is a setting of the program, of the right kind."""
    text = (DEPLOY / f"{program}.toml").read_text(encoding="utf-8")
    settings = tomllib.loads(re.sub(r"^#(?=[a-z-]+ = )", "", text, flags=re.MULTILINE))
    options = {name.removeprefix("--"): option for option in command.params for name in option.opts}
    assert len(settings) >= 5
    for name, value in settings.items():
        assert isinstance(value, list) == options[name].multiple, name
