"""A machine of its own for a test: a real systemd as the first process of new namespaces. Needs root."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.fakes.cli import Ran, until
from tests.fakes.fleet import of_agents

CHECKOUT: Final = Path(__file__).resolve().parents[2]
CGROUPS: Final = Path("/sys/fs/cgroup")
HYBRID: Final = ("unified", "systemd", "memory", "cpu", "cpuacct", "pids")
PATH: Final = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
"""Tools for root are on no user's path."""
UP_S: Final = 30.0
"""Other tests share the cores."""


def obstacle() -> str:
    """Why no machine can be had here; empty: one can."""
    if os.geteuid() != 0:
        return "root is needed for namespaces and mounts"
    for program in ("unshare", "nsenter", "setpriv", "pivot_root", "systemctl", "ip", "bash", "ffmpeg", "ffprobe"):
        if shutil.which(program, path=PATH) is None:
            return f"there is no {program}"
    if not Path("/lib/systemd/systemd").exists():
        return "systemd is not installed"
    if not _hierarchies():
        return "control groups are neither of version 2 nor mounted one hierarchy a controller"
    if not all(os.access(folder, os.W_OK) for folder in _hierarchies()):
        return "control groups can't be written to"
    if not _python():
        return f"there is no Python {sys.version_info[0]}.{sys.version_info[1]} outside of home folders for a service"
    return ""


def _python() -> str:
    """The interpreter of services, which see no home folders: of the version that this environment's packages are."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for path in (os.path.realpath(sys.executable), f"/usr/local/bin/{name}", f"/usr/bin/{name}"):
        if not path.startswith(("/root/", "/home/")) and os.access(path, os.X_OK):
            return path
    return ""


def _hierarchies() -> list[Path]:
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    folders = [CGROUPS / name for name in HYBRID]
    return folders if all((folder / "cgroup.procs").exists() for folder in folders) else []


class Machine:
    """One that runs. Paths are those within it."""

    def __init__(self, init: int) -> None:
        self._init = init
        self.root = Path(f"/proc/{init}/root")
        """Its files, as seen from here."""

    def path(self, name: str) -> Path:
        """A file of it, as seen from here."""
        return self.root / name.lstrip("/")

    def run(self, *command: object, code: int | None = 0, within_s: float = 60.0, user: str = "") -> Ran:
        """Run a command in it, as root unless told otherwise, and expect this exit code, or any where it is None."""
        as_user = [] if not user else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        done = subprocess.run(
            ["nsenter", f"--target={self._init}", "--all", "--wd", "--", *as_user, *map(str, command)],
            env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/tmp"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert code is None or ran.code == code, ran
        return ran

    def systemctl(self, *arguments: str, code: int | None = 0, within_s: float = 60.0) -> str:
        """What it prints."""
        return self.run("systemctl", *arguments, code=code, within_s=within_s).stdout

    def property(self, unit: str, name: str) -> str:
        """Of a unit, as `systemctl show` names it."""
        return self.systemctl("show", "--value", "--property", name, unit).strip()

    def pid(self, unit: str) -> int:
        """Of its main process, within the machine; 0 where there is none."""
        return int(self.property(unit, "MainPID"))

    def kill(self, pid: int, signal_name: str) -> None:
        """Send a signal to a process of the machine."""
        self.run("kill", f"-{signal_name}", pid)

    def active(self, unit: str) -> bool:
        """Whether it is ready and runs."""
        return self.property(unit, "ActiveState") == "active"

    def until_active(self, unit: str, *, but_not: int = 0, within_s: float = UP_S) -> int:
        """Wait until it is ready as another process than `but_not`; its pid."""

        def ready() -> int:
            pid = self.pid(unit)
            return pid if pid and pid != but_not and self.active(unit) else 0

        try:
            return until(ready, f"{unit} is active", within_s=within_s)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.journal(unit)}") from None

    def configure(self, unit: str, name: str, *lines: str) -> None:
        """Give a unit a drop-in of this name as an administrator would; without lines it is taken away."""
        drop_in = self.path(f"/etc/systemd/system/{unit}.d/{name}.conf")
        drop_in.parent.mkdir(exist_ok=True)
        drop_in.unlink(missing_ok=True)
        if lines:
            drop_in.write_text("\n".join(["[Service]", *lines, ""]), encoding="utf-8")
        self.systemctl("daemon-reload")

    def stand_in(self, folder: str, script: str) -> str:
        """Put a program in the place of every FFmpeg, as a line for the agent's unit: the one on PATH and the one that
        a package brings."""
        program = self.path(folder) / "ffmpeg"
        program.parent.mkdir(exist_ok=True)
        program.write_text(script, encoding="utf-8")
        program.chmod(0o755)
        return f"Environment=PATH={folder}:/usr/bin:/bin IMAGEIO_FFMPEG_EXE={folder}/ffmpeg"

    def journal(self, unit: str) -> str:
        """The end of what it said and what systemd said of it."""
        return self.run("journalctl", "--no-pager", "--lines=60", "--unit", unit, code=None).stdout

    def mediactl(self, *arguments: object, code: int | None = 0, within_s: float = 60.0) -> Any:
        """Run a command of ours against the controller in it; its JSON."""
        flags = ("--controller", "127.0.0.1:7420", "-o", "json")
        ran = self.run("mediactl", *flags, *of_agents(*arguments), code=code, within_s=within_s)
        return json.loads(ran.stdout) if ran.stdout else None

    def restart(self, unit: str) -> int:
        """`systemctl restart`; the pid of what runs then."""
        self.systemctl("restart", unit)
        return self.pid(unit)


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """A machine within the block; at its end every process, mount and control group of it is gone."""
    groups = [hierarchy / f"mediactl-test-{os.getpid()}" for hierarchy in _hierarchies()]
    for group in groups:
        group.mkdir(exist_ok=True)
    join = " && ".join(f"echo $$ >{group}/cgroup.procs" for group in groups)
    unshare = "unshare --mount --propagation=private --uts --ipc --net --cgroup --pid --fork --kill-child"
    boot = [str(Path(__file__).parent / "boot"), str(folder), str(CHECKOUT), _python()]
    console = folder.with_suffix(".console")
    with console.open("wb") as output:
        # --pdeathsig: not even a test run that is killed leaves a machine behind.
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "bash", "-c", f'{join} && exec {unshare} "$@"', "boot", *boot],
            env={**os.environ, "PATH": PATH},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        machine = Machine(_init(process, console))
        for hierarchy in _hierarchies():
            # systemd may give controllers only to groups below one without processes of its own, where this one began.
            (hierarchy / "cgroup.procs").write_text(str(process.pid))
        until(
            lambda: machine.systemctl("is-system-running", code=None).strip() in {"running", "degraded"},
            "the machine is up",
            within_s=UP_S,
        )
        yield machine
    finally:
        _end(process)
        for group in groups:
            _remove(group)


def _init(process: subprocess.Popen[bytes], console: Path) -> int:
    """Waits until the first process of the new namespaces is systemd."""

    def found() -> int:
        assert process.poll() is None, console.read_text("utf-8", "replace")
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                    return int(child)
        return 0

    return until(found, "systemd has started", within_s=UP_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            # The end of the first process is that of all others in its namespace, and of their mounts.
            os.kill(int(child), signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()
    process.wait()


def _remove(group: Path) -> None:
    def gone() -> bool:
        for inner in sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True):
            with suppress(OSError):
                inner.rmdir()
        with suppress(OSError):
            group.rmdir()
        return not group.exists()

    until(gone, f"{group} is removed", within_s=10)
