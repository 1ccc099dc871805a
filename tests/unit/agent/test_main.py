"""What the agent's command line makes of its options."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent import main
from agent.settings import Settings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings of every agent that would have been served; none finds itself on EC2."""
    served: list[Settings] = []

    async def serve(settings: Settings) -> None:
        served.append(settings)

    monkeypatch.setattr(main, "serve_agent", serve)
    monkeypatch.setattr(main, "on_ec2", lambda: False)
    return served


def _serve(folder: Path, *arguments: str) -> Result:
    nothing = folder / "empty.toml"
    nothing.touch()
    arguments = ("serve", "--data-dir", str(folder / "agent"), "--config", str(nothing), *arguments)
    return CliRunner().invoke(main.main, arguments)


def test_nobody_is_asked_for_notices_but_on_ec2(
    served: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The firmware decides, unless somebody says where, or that it is not wanted."""
    assert _serve(tmp_path).exit_code == 0
    assert _serve(tmp_path, "--metadata-url", "http://127.0.0.1:1338", "--heed-rebalance").exit_code == 0
    monkeypatch.setattr(main, "on_ec2", lambda: True)
    assert _serve(tmp_path).exit_code == 0
    assert _serve(tmp_path, "--metadata-url", "none", "--metadata-interval", "1").exit_code == 0
    assert [one.metadata_url for one in served] == ["", "http://127.0.0.1:1338", "http://169.254.169.254", ""]
    assert [one.heed_rebalance for one in served] == [False, True, False, False]
    assert [one.metadata_interval_s for one in served] == [5.0, 5.0, 5.0, 1.0]


def test_a_cache_of_inputs_has_a_size_and_a_place(served: list[Settings], tmp_path: Path) -> None:
    """10 GiB below the data directory; a folder that another agent has is refused."""
    elsewhere = tmp_path / "elsewhere"
    for arguments in ((), ("--cache-size", "500MB", "--cache-dir", str(elsewhere)), ("--cache-size", "0")):
        assert _serve(tmp_path, *arguments).exit_code == 0
    assert [one.cache_bytes for one in served] == [10 << 30, 500_000_000, 0]
    assert [one.input_cache for one in served[:2]] == [tmp_path / "agent" / "cache", elsewhere]
    folder = os.open(elsewhere, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    refused = _serve(tmp_path, "--cache-dir", str(elsewhere))
    os.close(folder)
    assert refused.exit_code == 1
    assert f"another agent works on {elsewhere}: choose another --cache-dir" in refused.output


def test_a_reserve_is_a_size(served: list[Settings], tmp_path: Path) -> None:
    """Without one it is a share of the volume."""
    for arguments in ((), ("--scratch-reserve", "5GiB"), ("--scratch-reserve", "0")):
        assert _serve(tmp_path, *arguments).exit_code == 0
    assert [one.scratch_reserve for one in served] == [None, 5 << 30, 0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--metadata-url", "169.254.169.254"), "a URL such as http://169.254.169.254, or none, is expected"),
        (("--metadata-interval", "0"), "0.1<=x<=60"),
        (("--scratch-reserve", "half"), "expected a size such as"),
    ],
)
def test_what_is_none_is_refused(served: list[Settings], tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    """As usage errors, before anything is done."""
    refused = _serve(tmp_path, *arguments)
    assert refused.exit_code == 2
    assert told in " ".join(refused.output.split())
    assert served == []


def test_scratch_is_one_agents_alone(served: list[Settings], tmp_path: Path) -> None:
    """Two agents would each remove the other's workspaces."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    descriptor = os.open(scratch, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        refused = _serve(tmp_path, "--scratch-dir", str(scratch))
    finally:
        os.close(descriptor)
    assert refused.exit_code == 1
    assert f"another agent works on {scratch}: choose another --scratch-dir" in refused.output
    assert not served
    assert _serve(tmp_path, "--scratch-dir", str(scratch)).exit_code == 0


def test_what_only_work_needs_is_not_loaded() -> None:
    """An agent that serves but has nothing to do holds neither the compiler nor NVIDIA's binding in memory."""
    code = "import agent.main, sys; print(*sorted({'ffmpeg', 'pydantic', 'pynvml', 'rich'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == []
