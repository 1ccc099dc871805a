"""The programs that a benchmark of the queue runs: a controller, a PostgreSQL, a simulated fleet. Each is a process of
its own, ended by its id."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from bench.fleet import Tally
from mediactl import AsyncClient, MediactlError

START_S = 30.0
STOP_S = 15.0
_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class Setting:
    """Where controllers run: `folder` on a disk, since fsync is part of what is measured; `command` starts one;
    `database` is a URL, or empty for SQLite; `engine` is its name in figures."""

    folder: Path
    command: tuple[str, ...]
    engine: str = "sqlite"
    new_database: Callable[[], str] = lambda: ""


@contextmanager
def settings(folder: Path | None, command: str, engines: Sequence[str]) -> Iterator[list[Setting]]:
    """One for each engine. `folder` is where databases go (default: the system's temporary folder), `command` what
    runs instead of this tree's controller. Raises SystemExit where the folder is in memory."""
    with tempfile.TemporaryDirectory(prefix="mediactl-bench-", dir=folder) as name:
        place = Path(name)
        _on_disk(place)
        plain = Setting(place, tuple(shlex.split(command)) or (sys.executable, "-P", "-m", "controller.main"))
        made = [plain] if "sqlite" in engines else []
        if "postgresql" not in engines:
            yield made
            return
        with postgresql(folder) as new_database:
            yield [*made, replace(plain, engine="postgresql", new_database=new_database)]


@contextmanager
def postgresql(folder: Path | None) -> Iterator[Callable[[], str]]:
    """A durable server in this folder, which its own user must reach; what it gives makes an empty database and returns
    its SQLAlchemy URL. Raises SystemExit where the folder is in memory."""
    from tests.fakes.postgres import Postgres  # noqa: PLC0415 - only where it is wanted

    with Postgres(durable=True, parent=folder) as server:
        _on_disk(server.folder)
        yield server.create_database


def conninfo(url: str) -> str:
    """A SQLAlchemy URL as libpq takes it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


class Process:
    """A running program, by its id."""

    def __init__(self, popen: subprocess.Popen[bytes] | asyncio.subprocess.Process) -> None:
        self.pid = popen.pid
        self._process = psutil.Process(popen.pid)

    def cpu_s(self) -> float:
        """User and system time so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return int(self._process.memory_info().rss)


@dataclass(frozen=True, slots=True)
class Controller:
    """One that serves. `client` is for the benchmark's own questions."""

    address: str
    client: AsyncClient
    process: Process
    engine: str


@asynccontextmanager
async def controller(setting: Setting) -> AsyncIterator[Controller]:
    """On an empty database and a loopback port. Raises SystemExit with its log where it doesn't come up."""
    with (
        tempfile.TemporaryDirectory(prefix="controller-", dir=setting.folder) as name,
        tempfile.NamedTemporaryFile(prefix="controller-", suffix=".log", dir=setting.folder) as log,
    ):
        address, http = _free_addresses()
        command = [*setting.command, "serve", "--data-dir", name, "--listen", address, "--no-log-transitions"]
        if url := await asyncio.to_thread(setting.new_database):
            command += ["--database", url]
        # By the environment, since older controllers have no such option.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MEDIACTL_")}
        environment["MEDIACTL_HTTP"] = http
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
        try:
            async with AsyncClient(address, timeout_s=120.0) as client:
                await _answers(client, process, Path(log.name))
                yield Controller(address, client, Process(process), setting.engine)
        finally:
            await _end(process)


class Fleet:
    """A simulated fleet in a process of its own, and the newest tally that it printed."""

    def __init__(self, process: asyncio.subprocess.Process, output: asyncio.StreamReader) -> None:
        self.tally = Tally()
        self.process = Process(process)
        self._output = output
        self._news = asyncio.Condition()

    async def until(self, wanted: Callable[[Tally], bool], *, timeout_s: float) -> None:
        """Raises TimeoutError, and EOFError where the fleet ended."""
        async with asyncio.timeout(timeout_s), self._news:
            while not wanted(self.tally):
                if self._output.at_eof():
                    raise EOFError("the fleet ended")
                await self._news.wait()

    async def read(self) -> None:
        """Follow what it prints to the end."""
        async for line in self._output:
            async with self._news:
                self.tally = Tally(**json.loads(line))
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()


@asynccontextmanager
async def fleet(addresses: Sequence[str], agents: int, *options: str) -> AsyncIterator[Fleet]:
    """`python -m bench.fleet`, every agent connected; `options` are its further arguments."""
    command = [sys.executable, "-m", "bench.fleet", "--agents", str(agents), "--report-ms", "20", *options]
    for address in addresses:
        command += ["--controller", address]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    if process.stdout is None:
        raise RuntimeError("no pipe")
    running = Fleet(process, process.stdout)
    reading = asyncio.create_task(running.read())
    try:
        await running.until(lambda tally: tally.connected == agents, timeout_s=START_S + agents / 20)
        yield running
    finally:
        await _end(process)
        await reading


def _free_addresses() -> tuple[str, str]:
    """Two of loopback that nobody listens on just now."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}", f"127.0.0.1:{other.getsockname()[1]}"


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _answers(client: AsyncClient, process: asyncio.subprocess.Process, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            await client.agents()
        except MediactlError:
            if process.returncode is not None or time.monotonic() > deadline:
                raise SystemExit(f"the controller did not come up:\n{_tail(log)}") from None
            await asyncio.sleep(0.05)
        else:
            return


def _tail(path: Path) -> str:
    return path.read_bytes()[-4000:].decode(errors="replace")


def _on_disk(path: Path) -> None:
    places = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    if places and max(places, key=lambda part: len(part.mountpoint)).fstype in _IN_MEMORY:
        raise SystemExit(f"{path} is in memory, where fsync costs nothing: choose another --dir")
