"""The agent's end of a supervisor: start one, find one again, wait, stop. See :mod:`agent.media.supervisor`."""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent.media import supervisor
from agent.media.environment import child_environment
from agent.media.logs import last_bytes
from agent.media.usage import Usage, read_usage

#: Of the log of one command; see ``log_bytes`` of the protocol.
LOG_BYTES = 64 * 1024 * 1024

#: A supervisor that does not answer for so long hangs and is killed. It has nothing to do that takes long, but where
#: the machine has no time for it.
ANSWER_S = 15.0

_PEER = struct.Struct("3i")
_STARTER_LOG = "starter.log"
_LOCKED_POLL_S = 0.02
_LOCKED_S = 30.0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a supervised command ended: ``code`` is minus the signal's number where a signal ended it.

    ``used`` is of its tree, but the bytes are what the command itself moved. ``stopped_by`` is ``stop``, ``wall_time``,
    ``signal`` or empty.
    """

    code: int
    used: Usage
    stopped_by: str


class Lost(Exception):
    """The supervisor was killed before it could say how its command ended; nothing of the command lives."""


class CannotStart(OSError):
    """No supervisor, or no command under it, could be started; the message says why."""


class Supervised:
    """A command with a supervisor, which this object is connected to. Dropping it changes nothing for the command."""

    def __init__(
        self, folder: Path, pid: int, command: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._folder = folder
        self._pid = pid
        self._command = command
        self._reader = reader
        self._writer = writer
        self._stayed = False
        self._gone = asyncio.get_running_loop().create_task(self._until_gone())

    @classmethod
    async def start(
        cls,
        folder: Path,
        argv: Sequence[str],
        *,
        cwd: Path,
        wall_s: float | None = None,
        after: "Supervised | None" = None,
    ) -> "Supervised | None":
        """Starts ``argv`` in ``cwd`` under a supervisor that works in ``folder``, which must be new.

        The supervisor of the command ``after`` which this one comes takes it, if it has stayed, as to start another one
        takes longer than many a command; it is let go of otherwise.

        None: it has ended already, and :func:`status` says how. Should this be cancelled, the command may run.

        :raises CannotStart: with the reason.
        """
        _prepare(folder, argv, cwd, wall_s)
        if after is not None and (process := await after._followed_by(folder)) is not None:
            return process
        code = await _started(folder)
        if code != 0:
            why = last_bytes(folder / _STARTER_LOG, 1024).decode(errors="replace").strip().rpartition("\n")[2]
            raise CannotStart(code, why or f"the supervisor could not be started (exit code {code})")
        return await cls.find(folder)

    @classmethod
    async def find(cls, folder: Path) -> Self | None:
        """The supervisor that works in ``folder``; None where there is none (any more)."""
        deadline = asyncio.get_running_loop().time() + _LOCKED_S
        while _locked(folder):
            with contextlib.suppress(OSError):
                return cls(folder, *await _connect(folder))
            # It holds the lock and does not listen: it is beginning, or ending.
            if asyncio.get_running_loop().time() > deadline:
                raise CannotStart(errno.ETIMEDOUT, f"the supervisor in {folder} holds its lock and does not answer")
            await asyncio.sleep(_LOCKED_POLL_S)
        return None

    def usage(self) -> Usage:
        """What the command has used so far."""
        return read_usage(self._command)

    async def wait(self) -> Exit:
        """Waits until the command and its whole tree have ended.

        :raises Lost: the supervisor was killed.
        """
        await asyncio.shield(self._gone)
        return await asyncio.to_thread(status, self._folder)

    async def stop(self, grace_s: float) -> Exit:
        """Ends the tree, by TERM and after ``grace_s`` seconds by KILL; returns when nothing of it is left.

        :raises Lost: as :meth:`wait`.
        """
        with contextlib.suppress(OSError):
            self._writer.write(b"stop %f\n" % grace_s)
            await self._writer.drain()
        try:
            async with asyncio.timeout(grace_s + ANSWER_S):
                return await self.wait()
        except TimeoutError:
            # It hangs, or somebody stopped it. The kernel ends its command with it.
            os.kill(self._pid, signal.SIGKILL)
        return await self.wait()

    def stay(self) -> None:
        """Have the supervisor wait some seconds for another command when this one has ended.

        It ends with the connection: start another command after this one, or let go.
        """
        self._writer.write(b"stay\n")

    def let_go(self) -> None:
        """Close the connection; the command goes on."""
        self._gone.cancel()
        self._writer.close()

    async def _followed_by(self, folder: Path) -> Self | None:
        name = os.fsencode(folder)
        if not self._stayed or self._reader.at_eof() or b"\n" in name:
            self.let_go()
            return None
        try:
            self._writer.write(b"next %s\n" % name)
            pid, command = await _greeted(self._reader, self._pid)
        except OSError:
            # It may have begun before it died.
            self.let_go()
            await asyncio.to_thread(_end_leftovers, folder)
            return None
        return type(self)(folder, pid, command, self._reader, self._writer)

    async def _until_gone(self) -> None:
        with contextlib.suppress(OSError):
            while line := await self._reader.readline():
                if line == b"done\n":
                    self._stayed = True
                    return
        # The lock goes last: without it the files are final.
        while _locked(self._folder):  # noqa: ASYNC110 - the kernel tells nobody that a lock is free
            await asyncio.sleep(_LOCKED_POLL_S / 10)
        self._writer.close()


async def end_steps(folder: Path) -> None:
    """Ends whatever still runs under supervisors in the folders below ``folder``; returns when nothing does."""
    for step in await asyncio.to_thread(_folders, folder):
        process = await Supervised.find(step)
        with contextlib.suppress(Lost):
            if process is not None:
                await process.stop(0)
            else:
                await asyncio.to_thread(status, step)


def _folders(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{supervisor.REQUEST}"))


def _prepare(folder: Path, argv: Sequence[str], cwd: Path, wall_s: float | None) -> None:
    folder.mkdir(mode=0o700, parents=True)
    words = [str(supervisor.PROTOCOL), secrets.token_hex(16), str(cwd), "" if wall_s is None else str(wall_s)]
    words += [
        str(LOG_BYTES),
        str(len(argv)),
        *argv,
        *(f"{name}={value}" for name, value in child_environment().items()),
    ]
    (folder / supervisor.REQUEST).write_bytes(b"".join(os.fsencode(word) + b"\0" for word in words))


def status(folder: Path) -> Exit:
    """How the command of ``folder``, where no supervisor is any more, ended. Blocks.

    :raises Lost: the supervisor was killed, or never began; nothing of its command lives when this is raised.
    """
    path = folder / supervisor.STATUS
    if not path.exists():
        _call_lost(folder)
    try:
        said = json.loads(path.read_bytes())
        return Exit(
            code=said["exit_code"],
            used=Usage(said["cpu_seconds"], said["peak_memory_bytes"], said["bytes_read"], said["bytes_written"]),
            stopped_by=said["stopped_by"],
        )
    except (ValueError, TypeError, KeyError):
        # Called lost, by someone who may have been killed before he ended what was left; or damaged.
        _end_leftovers(folder)
        raise Lost from None


def _call_lost(folder: Path) -> None:
    path = folder / supervisor.STATUS
    with (folder / supervisor.LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            supervisor.write_status(str(path), '{"lost": true}')


def _end_leftovers(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError, IndexError):
        supervisor.end_tree(supervisor.read_request(str(folder))[1])


async def _started(folder: Path) -> int:
    """Exit code of the starter, which ends as soon as the command runs."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    with (folder / _STARTER_LOG).open("wb") as log:
        # -I -S: nothing of the environment and no site packages, which the supervisor must not depend on.
        popen = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [sys.executable, "-I", "-S", supervisor.__file__, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=child_environment(),
            cwd="/",
            start_new_session=True,
        )
    pidfd = os.pidfd_open(popen.pid)

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(pidfd, end)
    try:
        await asyncio.shield(ended)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        # Cancelled meanwhile: it ends within milliseconds.
        popen.wait()
    return popen.returncode


async def _connect(folder: Path) -> tuple[int, int, asyncio.StreamReader, asyncio.StreamWriter]:
    # Through the folder's descriptor, as a socket's address holds no more than 107 bytes.
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{descriptor}/{supervisor.SOCKET}")
    finally:
        os.close(descriptor)
    # Who listens is known to the kernel.
    listener = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    try:
        return *await _greeted(reader, _PEER.unpack(listener)[0]), reader, writer
    except OSError:
        writer.close()
        raise


async def _greeted(reader: asyncio.StreamReader, supervisor_pid: int) -> tuple[int, int]:
    """Process ids of the supervisor and of its command. Raises ConnectionResetError where it ends instead."""
    greeting = b""
    try:
        async with asyncio.timeout(ANSWER_S):
            greeting = await reader.readline()
    except TimeoutError:
        # It has its lock, or was just asked, and does not answer: it hangs.
        os.kill(supervisor_pid, signal.SIGKILL)
    if not greeting:
        raise ConnectionResetError
    said = json.loads(greeting)
    return said["pid"], said["command"]


def _locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / supervisor.LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
