"""mediactl as people run it: real processes in a home of their own, which no other test and no user shares."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.v1 import job_pb2, job_service_pb2
from tests.fakes import used

_T = TypeVar("_T")

TRACEBACK: Final = "Traceback (most recent call last)"
#: Names of outputs that are staged and not yet published.
STAGED: Final = ".*.mediactl"
ENDED: Final = frozenset({"JOB_STATE_COMPLETED", "JOB_STATE_DEAD", "JOB_STATE_CANCELLED"})
_POLL_S: Final = 0.02
#: Looking takes no more than a fifth of a core, which whatever is waited for needs as well.
_REST: Final = 4.0


def until(condition: Callable[[], _T], what: str, *, within_s: float = 20.0) -> _T:
    """The first true value of `condition`; fails the test where there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        begun = time.thread_time()
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(max(_POLL_S, _REST * (time.thread_time() - begun)))


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[Any]:
        """Standard output as one JSON document a line."""
        return [json.loads(line) for line in self.stdout.splitlines()]


@dataclass(frozen=True, slots=True)
class Running:
    """A command that was started. Its output goes to files, so that it never waits for a reader."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def ended(self, *, within_s: float = 60.0) -> Ran:
        """Waits for its end."""
        self.process.wait(within_s)
        return _judged(self.process.returncode, self.out.read_bytes(), self.err.read_bytes())

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends SIGINT to the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def lines(self) -> list[str]:
        """Complete lines of its standard output so far."""
        return self.out.read_text("utf-8", "replace").rpartition("\n")[0].splitlines()


def _judged(code: int, out: bytes, err: bytes) -> Ran:
    ran = Ran(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
    assert TRACEBACK not in ran.stdout + ran.stderr, ran
    return ran


class Home:
    """A home folder with the single box's data in it, and every process that runs on its behalf.

    `prefix` goes before each command, for instance to run it as another user.
    """

    def __init__(self, folder: Path, *, prefix: Sequence[str] = ()) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.socket = self.data_dir / "mediactl.sock"
        self.log = self.data_dir / "box.log"
        self.scratch = self.data_dir / "agent" / "scratch"
        self._prefix = [*prefix]
        self._outputs = folder / "said"
        self._started: list[subprocess.Popen[bytes]] = []
        for made in (folder / "home", self._outputs):
            made.mkdir(parents=True, exist_ok=True)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MEDIACTL_", "XDG_"))
        } | {
            "HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "home" / "config"),
            "XDG_DATA_HOME": str(folder / "home" / "share"),
            "MEDIACTL_DATA_DIR": str(self.data_dir),
        }

    def run(
        self,
        *arguments: object,
        code: int | None = 0,
        stdin: str = "",
        cwd: Path | None = None,
        within_s: float = 90.0,
        module: str = "ctl.main",
    ) -> Ran:
        """Runs `mediactl` to its end and expects this exit code, or any where it is None."""
        done = subprocess.run(
            self._command(module, arguments),
            input=stdin.encode(),
            capture_output=True,
            cwd=cwd or self.folder,
            env=self.environment,
            timeout=within_s,
            check=False,
        )
        ran = _judged(done.returncode, done.stdout, done.stderr)
        assert code is None or ran.code == code, ran
        return ran

    def start(
        self,
        *arguments: object,
        cwd: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        module: str = "ctl.main",
    ) -> Running:
        """Starts `mediactl`, or another program of ours, in a process group of its own."""
        out, err = (self._outputs / f"{len(self._started)}.{name}" for name in ("out", "err"))
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = subprocess.Popen(
                self._command(module, arguments),
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                cwd=cwd or self.folder,
                env=self.environment | dict(environment),
                start_new_session=True,
            )
        self._started.append(process)
        return Running(process, out, err)

    def _command(self, module: str, arguments: Sequence[object]) -> list[str]:
        return [*self._prefix, sys.executable, "-P", "-m", module, *map(str, arguments)]

    def client(self) -> Client:
        """The Python client of the box that runs here."""
        return Client(f"unix:{self.socket}", credentials=Credentials())

    def job(self, *arguments: object, code: int | None = 0) -> Any:
        """The job that `mediactl ARGUMENTS -o json` prints."""
        ran = self.run(*arguments, "-o", "json", code=code)
        assert ran.stdout, ran
        return ran.json

    def use(self) -> None:
        """As if the box had run here before: its database is migrated, and its agent knows the machine."""
        self.controller_ran(self.data_dir)
        self.agent_ran(self.data_dir / "agent")

    def controller_ran(self, data_dir: Path) -> None:
        """As if a controller had run with this data directory."""
        data_dir.mkdir(mode=0o700, exist_ok=True)
        used.have_tables(data_dir)

    def agent_ran(self, data_dir: Path) -> None:
        """As if an agent had run with this data directory."""
        for made in (data_dir.parent, data_dir):
            made.mkdir(mode=0o700, exist_ok=True)
        used.know_ffmpegs(data_dir)

    def up(self, *arguments: object) -> Running:
        """A box in the foreground that answers, its agent included."""
        self.use()
        box = self.start("up", *arguments)
        until(lambda: box.process.poll() is not None or self.socket.exists(), "the box listens")
        with self.client() as client:
            until(lambda: box.process.poll() is not None or client.agents(), "the agent registers")
        assert box.process.poll() is None, box.ended()
        return box

    def processes(self, *having: str) -> dict[int, str]:
        """Living processes of this home, by what they were started with or where they work: pid to command line.

        Only those with all of `having` in the command line.
        """
        mark = os.fsencode(self.folder) + b"/"
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            command, environment = _read(entry / "cmdline"), _read(entry / "environ")
            with suppress(OSError):
                environment += b"\0" + os.fsencode((entry / "cwd").readlink()) + b"/"
            if command and (mark in command or mark in environment):
                line = command.decode("utf-8", "replace").replace("\0", " ")
                if all(text in line for text in having):
                    found[int(entry.name)] = line
        return found

    def encoders(self) -> dict[int, str]:
        """Processes that work in the scratch folder: FFmpeg and what starts it."""
        return {pid: line for pid, line in self.processes().items() if _where(pid).startswith(f"{self.scratch}/")}

    def box_pid(self) -> int:
        """Of the process that is the box."""
        return int((self.data_dir / "box.lock").read_text())

    def workspaces(self) -> list[Path]:
        """What is in the scratch folder."""
        return sorted(self.scratch.iterdir()) if self.scratch.is_dir() else []

    def staged(self) -> list[Path]:
        """Outputs that were staged and neither published nor removed, anywhere in this home."""
        return sorted(self.folder.rglob(STAGED))

    def assert_tidy(self) -> None:
        """Nothing is left of any attempt: no process, no workspace, nothing staged."""
        assert not self.encoders()
        assert not self.workspaces()
        assert not self.staged()

    def kill(self) -> None:
        """Power cut: every process of this home is killed at once."""
        while found := self.processes():
            for pid in found:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_POLL_S)
        for process in self._started:
            process.wait()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _where(pid: int) -> str:
    try:
        return f"{Path(f'/proc/{pid}/cwd').readlink()}/"
    except OSError:
        return ""


@contextmanager
def living_in(folder: Path, *, prefix: Sequence[str] = ()) -> Iterator[Home]:
    """A home whose processes must all have ended, or be just about to, when the block ends in peace."""
    home = Home(folder, prefix=prefix)
    try:
        yield home
        until(lambda: not home.processes(), "every process has ended", within_s=10)
        home.assert_tidy()
        assert TRACEBACK not in (home.log.read_text("utf-8", "replace") if home.log.exists() else "")
    finally:
        home.kill()


@contextmanager
def living_with_box(folder: Path) -> Iterator[Home]:
    """A home with `mediactl up` running in it."""
    with living_in(folder) as home:
        box = home.up()
        try:
            yield home
        finally:
            box.process.terminate()
            ended = box.ended()
        assert ended.code == 0, ended


def reached(
    client: Client,
    job_id: str,
    wanted: Callable[[job_service_pb2.WatchJobsResponse], bool],
    *,
    within_s: float = 30.0,
) -> job_service_pb2.WatchJobsResponse:
    """The first update of a job that is wanted; fails the test where none comes in time."""
    for update in client.watch({"ids": [job_id]}, timeout_s=within_s):
        if wanted(update):
            return update
    raise AssertionError(f"job {job_id} never came to it; it is {job_pb2.JobState.Name(client.get(job_id).state)}")


def under_way(update: job_service_pb2.WatchJobsResponse) -> bool:
    """FFmpeg has processed a part of the media."""
    return 0 < update.progress.fraction < 1


def only_job(home: Home, *, within_s: float = 20.0) -> str:
    """Id of the one job of a home, once it was submitted by a command that runs in it."""

    def found() -> str:
        if not home.socket.exists():
            return ""
        with home.client() as client:
            jobs = client.list_page().jobs
        assert len(jobs) <= 1
        return jobs[0].id if jobs else ""

    return until(found, "a job was submitted", within_s=within_s)
