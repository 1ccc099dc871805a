"""The user's own box: is it running, and starting the embedded one.

The embedded box is `mediactl up --embedded`, detached from the terminal. It ends by itself when no client is
connected and no job is alive, so whoever found it running may find it gone a moment later, and asks again.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from mediactl.places import box_socket

START_DEADLINE_S: Final = 20.0
LOG_LIMIT_BYTES: Final = 10 * 1024 * 1024
_POLL_S: Final = 0.02
_TAIL_LINES: Final = 12


class BoxError(Exception):
    """The box could not be started; the message says why, with the end of its log."""


def lock_file(data_dir: Path) -> Path:
    """Held by the process that is the box."""
    return data_dir / "box.lock"


def log_file(data_dir: Path) -> Path:
    """What the embedded box says."""
    return data_dir / "box.log"


def answers(data_dir: Path) -> bool:
    """Whether something accepts connections on the box's socket."""
    path = box_socket(data_dir)
    # Through the directory's descriptor, as a socket's address holds no more than 107 bytes.
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(f"/proc/self/fd/{directory}/{path.name}")
            return True
    except OSError:
        return False
    finally:
        os.close(directory)


def make_data_dir(data_dir: Path) -> None:
    """For its owner alone: sockets, jobs and logs are in it."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def module_command(module: str, *arguments: str) -> list[str]:
    """Runs one of our programs by this interpreter. -P: a folder named like a module of ours in the working
    directory must not be imported in its stead."""
    return [sys.executable, "-P", "-m", module, *arguments]


def ensure(data_dir: Path) -> subprocess.Popen[bytes] | None:
    """Sees to a running box; returns the process where it had to be started.

    Raises BoxError, or OSError where the data directory can't be used.
    """
    deadline = time.monotonic() + START_DEADLINE_S
    process: subprocess.Popen[bytes] | None = None
    try:
        while not answers(data_dir):
            if process is None:
                process = _start(data_dir)
            code = process.poll()
            if code == 0:
                # It yielded to another box, which had answered and is gone again.
                process = None
            elif code is not None:
                raise BoxError(_with_tail(f"the embedded box ended with exit code {code}", data_dir))
            if time.monotonic() >= deadline:
                raise BoxError(_with_tail(f"the embedded box did not answer in {START_DEADLINE_S:g} s", data_dir))
            time.sleep(_POLL_S)
    except BaseException:
        if process is not None and process.poll() is None:
            process.terminate()
        raise
    return process


def _start(data_dir: Path) -> subprocess.Popen[bytes]:
    make_data_dir(data_dir)
    path = log_file(data_dir)
    with path.open("ab") as log:
        if log.tell() > LOG_LIMIT_BYTES:
            log.truncate(0)
        return subprocess.Popen(
            module_command("ctl.main", "up", "--embedded", "--data-dir", str(data_dir)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment(),
            start_new_session=True,
        )


def environment() -> dict[str, str]:
    """For the programs of the box, which are told by flags alone: what the user's shell names is meant for this
    command line, and no program may listen or connect elsewhere because of it. Which stores there are is the user's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MEDIACTL_") or name in {"MEDIACTL_DEBUG", "MEDIACTL_STORES"}
    }
    # gRPC's C core would write its own remarks on every client that leaves into the box's log.
    return {"GRPC_VERBOSITY": "NONE", **kept}


def _with_tail(message: str, data_dir: Path) -> str:
    path = log_file(data_dir)
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 8192))
            lines = log.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        lines = []
    return "\n".join([f"{message}; its log ({path}) ends with:", *(f"  {line}" for line in lines)])
