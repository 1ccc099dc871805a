"""The single box: found, started, shared, ended. Its programs are stand-ins; processes and sockets are real."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ctl import box
from tests.fakes import box_programs

JOB = ("a.wav", "--preset", "quick", "--output", "out/", "-o", "json")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits until something is so, at most 20 s."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


class Box:
    """A data directory, and command lines that use it."""

    def __init__(self, data_dir: Path, environment: dict[str, str]) -> None:
        self.data_dir = data_dir
        self.environment = environment

    def start(self, *arguments: str, **extra: str) -> "subprocess.Popen[str]":
        """A command line in the background."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ctl.main", *arguments, "--data-dir", str(self.data_dir)],
            env={**self.environment, **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        """A command line."""
        with self.start(*arguments, **extra) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def journal(self) -> list[str]:
        """What the programs wrote, without process ids."""
        return [line.rsplit(" ", 1)[0] for line in self._lines()]

    def pids(self) -> set[int]:
        """Processes that the programs were."""
        return {int(line.rsplit(" ", 1)[1]) for line in self._lines()}

    def _lines(self) -> list[str]:
        try:
            return (self.data_dir / "journal").read_text().splitlines()
        except FileNotFoundError:
            return []

    def gone(self) -> bool:
        """Whether nothing of it lives."""
        return not [one for one in psutil.process_iter() if self._is_ours(one)]

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            names = any(str(self.data_dir) in word for word in process.cmdline())
            return names and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@pytest.fixture
def single(tmp_path: Path, home: Path) -> Iterator[Box]:
    programs = tmp_path / "programs"
    box_programs.install(programs)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MEDIACTL_")},
        "PYTHONPATH": os.pathsep.join([str(programs), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HOME": str(home),
    }
    one = Box(tmp_path / "data", environment)
    yield one
    wait_for(one.gone, "every process of the box has ended")


def test_run_starts_a_box_that_ends_by_itself(single: Box) -> None:
    """Nothing was running; afterwards nothing is, and the data directory is its owner's alone."""
    ended = single.call("run", *JOB)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["state"] == "JOB_STATE_COMPLETED"
    assert ended.stderr == ""
    wait_for(single.gone, "the box has ended")
    assert sorted(single.journal()) == ["agent down", "agent up", "controller down", "controller up"]
    assert single.data_dir.stat().st_mode & 0o777 == 0o700
    assert single.call("run", *JOB).returncode == 0


def test_two_runs_share_a_box(single: Box) -> None:
    """Started at the same moment, one of them starts the box and both use it."""
    both = [single.start("run", *JOB) for _ in range(2)]
    for process in both:
        with process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(out)["state"] == "JOB_STATE_COMPLETED"
    assert single.journal().count("controller up") == 1


def test_a_long_data_directory_works(single: Box) -> None:
    """The socket's path may be longer than a socket's address."""
    single.data_dir = single.data_dir / ("long" * 30)
    assert single.call("run", *JOB).returncode == 0


def test_a_box_that_dies_at_once_is_told(single: Box) -> None:
    """Exit code 4, with the end of the box's log."""
    ended = single.call("run", *JOB, FAKE_CONTROLLER="broken")
    assert ended.returncode == 4
    assert "the disk is on fire" in ended.stderr
    assert "the controller ended (exit code 1)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_up_serves_until_it_is_stopped(single: Box) -> None:
    """Other commands use it; it stays; Ctrl-C stops the agent before the controller."""
    up = single.start("up")
    assert up.stderr is not None
    assert "the box is up" in up.stderr.readline()
    assert single.call("run", *JOB).returncode == 0
    assert json.loads(single.call("jobs", "list", "-o", "json").stdout)["jobs"]
    wait_for(lambda: "agent up" in single.journal(), "the agent is up")
    with up:
        up.send_signal(signal.SIGINT)
        assert up.wait(20) == 0
    assert single.journal().count("controller up") == 1
    assert [line for line in single.journal() if line.endswith("down")] == ["agent down", "controller down"]


def test_the_agent_may_finish_what_it_has(single: Box) -> None:
    """For so long; who interrupts once more does not want to wait for it."""
    with single.start("up", "--drain-timeout", "10m", FAKE_AGENT="busy") as up:
        wait_for(lambda: "agent up" in single.journal(), "the agent is up")
        up.send_signal(signal.SIGINT)
        wait_for(lambda: "agent finishing within 600.0" in single.journal(), "the agent is told to end")
        assert up.poll() is None
        up.send_signal(signal.SIGINT)
        assert up.wait(20) == 0
    assert [line for line in single.journal() if line.endswith("down")] == ["agent down", "controller down"]


def test_a_second_up_is_refused(single: Box) -> None:
    """One box for a data directory; the second says which process is the first."""
    with single.start("up") as up:
        wait_for(lambda: box.answers(single.data_dir), "the box answers")
        second = single.call("up")
        assert second.returncode == 2
        assert f"already running with the data directory {single.data_dir} (process {up.pid})" in second.stderr
        up.terminate()
        assert up.wait(20) == 0


def test_a_dead_agent_ends_the_box(single: Box) -> None:
    """Nothing is restarted silently: the box says what happened, stops the controller and ends with 1."""
    ended = single.call("up", FAKE_AGENT="broken")
    assert ended.returncode == 1
    assert "the agent ended (exit code 3); the box stops" in ended.stderr


def test_children_die_with_a_killed_box(single: Box) -> None:
    """kill -9 of the box leaves neither controller nor agent behind."""
    with single.start("up") as up:
        wait_for(lambda: len(single.pids()) == 2 and box.answers(single.data_dir), "both children are up")
        up.kill()
        up.wait(20)
    wait_for(single.gone, "the children have ended")


def test_a_stale_socket_is_no_box(single: Box) -> None:
    """After a crash the socket's file is still there; a new box takes its place."""
    with single.start("up") as up:
        wait_for(lambda: box.answers(single.data_dir), "the box answers")
        for process in psutil.Process(up.pid).children():
            process.kill()
        assert up.wait(20) == 1
    assert (single.data_dir / "mediactl.sock").exists()
    assert not box.answers(single.data_dir)
    assert single.call("run", *JOB).returncode == 0


def test_interrupting_run_leaves_nothing(single: Box) -> None:
    """Ctrl-C on a run that started its box: the job is cancelled, and soon no process is left."""
    run = single.start("run", "a.wav", "--preset", "slow", "--output", "out/", "-o", "json")
    with run:
        wait_for(lambda: box.answers(single.data_dir), "the box answers")
        wait_for(lambda: '"jobs": []' not in single.call("jobs", "list", "-o", "json").stdout, "a job is there")
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=20)
    assert (run.returncode, out) == (130, "")
    assert "cancelling" in err
    assert single.gone()


def test_interrupting_a_watch(single: Box) -> None:
    """A command without an end of its own ends at Ctrl-C with 130, and the box goes with it."""
    with single.start("jobs", "watch") as watch:
        wait_for(lambda: box.answers(single.data_dir), "the box answers")
        # Until the first bytes of its stream nothing tells that the command has come so far; any moment must do.
        watch.send_signal(signal.SIGINT)
        out, err = watch.communicate(timeout=20)
    assert (watch.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_a_large_log_starts_afresh(single: Box) -> None:
    """The embedded box's log does not grow for ever."""
    single.data_dir.mkdir()
    log = box.log_file(single.data_dir)
    with log.open("wb") as file:
        file.truncate(box.LOG_LIMIT_BYTES + 1)
    assert single.call("agents", "list").returncode == 0
    assert log.stat().st_size < 10_000


def test_doctor_starts_nothing(single: Box) -> None:
    """It tells what detection found, and whether a box runs; 1 where nothing can be processed."""
    told = single.call("doctor")
    assert told.returncode == 0, told.stderr
    assert "✓ ffmpeg: 5.1.9" in told.stdout
    assert "is not running" in told.stdout
    assert not single.data_dir.exists()
    lame = single.call("doctor", FAKE_AGENT="broken")
    assert lame.returncode == 1
    assert "✗ ffmpeg: absent\n    apt install" in lame.stdout
    data = json.loads(single.call("doctor", "-o", "json").stdout)
    assert data["box"]["running"] is False
    assert data["capabilities"]["binaries"][0]["version"] == "5.1.9"


def test_a_folder_named_like_a_program_is_not_run(single: Box, tmp_path: Path) -> None:
    """`agent/` in the working directory is the user's, not ours."""
    (tmp_path / "work/agent").mkdir()
    (tmp_path / "work/agent/__init__.py").write_text("raise SystemExit('wrong agent')")
    assert single.call("doctor").returncode == 0
