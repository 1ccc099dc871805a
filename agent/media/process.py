"""A short-lived child of the agent (ffprobe), which cannot outlive it, and whose end is proved rather than assumed."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from agent.media.environment import child_environment

#: Starts the command given to it so that the kernel kills the command when the agent dies (PR_SET_PDEATHSIG). Done by
#: setpriv (util-linux 2.33 or newer) because a `preexec_fn` forks the whole agent: that stops its event loop for tens
#: of milliseconds, runs gRPC's fork handlers, and CPython calls it unsafe beside threads. The shell then looks
#: whether the agent died before the kernel was told: the parent is another process in that case.
_UNLESS_ORPHANED = 'test "$PPID" = "$1" && shift && exec "$@"'

_GROUP_POLL_S = 0.01


class Process:
    """A running command, leader of a process group of its own."""

    def __init__(self, popen: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._popen = popen
        self._loop = loop
        self._ended: asyncio.Future[int] = loop.create_future()
        self._pidfd = os.pidfd_open(popen.pid)
        loop.add_reader(self._pidfd, self._reap)

    @classmethod
    def start(cls, argv: Sequence[str], *, cwd: Path, stdout: Path, stderr: Path) -> Self:
        """Starts ``argv`` in ``cwd``, standard input empty, both outputs written to new files.

        Call it in the event loop's thread, and run the loop in a thread that lives as long as the agent: the kernel
        watches the starting thread, not the process. A command that cannot be executed ends with code 126 or 127.

        :raises OSError: the files cannot be created or no process can be started.
        """
        loop = asyncio.get_running_loop()
        guarded = ["setpriv", "--pdeathsig", "KILL", "--", "/bin/sh", "-c", _UNLESS_ORPHANED, "sh", str(os.getpid())]
        with stdout.open("wb") as out, stderr.open("wb") as err:
            popen = subprocess.Popen(
                [*guarded, *argv],
                cwd=cwd,
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        try:
            return cls(popen, loop)
        except BaseException:
            popen.kill()
            popen.wait()
            raise

    @property
    def pid(self) -> int:
        """Its process id, which is its process group's too."""
        return self._popen.pid

    async def wait(self) -> int:
        """Waits until all of its group has ended; its exit code, or minus the number of the signal that ended it."""
        return await asyncio.shield(self._ended)

    async def stop(self, grace_s: float = 2.0) -> int:
        """Ends the group, by TERM and after ``grace_s`` seconds by KILL; returns when nothing of it is left."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self.wait()
        except TimeoutError:
            pass
        finally:
            self._signal(signal.SIGKILL)
        return await self.wait()

    @property
    def _reaped(self) -> bool:
        return self._popen.returncode is not None

    def _signal(self, number: signal.Signals) -> None:
        if not self._reaped:
            os.killpg(self.pid, number)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Until it is reaped the leader keeps its id, so this cannot hit a stranger; it ends what the leader left.
        os.killpg(self.pid, signal.SIGKILL)
        self._settle(self._popen.wait())

    def _settle(self, ended: int) -> None:
        if _group_lives(self.pid):
            self._loop.call_later(_GROUP_POLL_S, self._settle, ended)
        elif not self._ended.done():
            self._ended.set_result(ended)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    # Orphans that nobody reaped yet (a container whose first process is no init) answer signals, but are dead.
    return any(_is_live_member(stat, group) for stat in Path("/proc").glob("[0-9]*/stat"))


def _is_live_member(stat: Path, group: int) -> bool:
    try:
        # The name in parentheses may hold anything; state, parent and group follow it.
        state, _, member_of = stat.read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return False
    return int(member_of) == group and state not in {"Z", "X"}
