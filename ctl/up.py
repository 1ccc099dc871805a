"""`mediactl up`: the single box. One controller and one agent as child processes that live and die with it."""

import asyncio
import ctypes
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

import click

from ctl import box, vigil
from ctl.settings import Settings
from ctl.times import Duration
from ctl.tree import command
from mediactl.notify import Notifier
from mediactl.places import box_socket

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_STOP_DEADLINE_S: Final = 15.0
_YIELD_DEADLINE_S: Final = 5.0
_POLL_S: Final = 0.02


# The machine's own files say where its services listen and connect; the box is told by flags alone.
_NO_FILE: Final = ("--config", os.devnull)


class _Taken(Exception):
    """Another process is the box of this data directory."""


@command("up")
@click.option("--listen", metavar="ADDR", help="Also listen here, e.g. 0.0.0.0:7420 with TLS files, for agents.")
@click.option(
    "--drain-timeout",
    type=Duration(),
    default=0.0,
    metavar="D",
    help="How long work in hand may take to end after Ctrl-C or SIGTERM, e.g. 4m; what does not is begun anew at the "
    "next start. Default: no time. Ctrl-C once more ends it at once.",
)
@click.option("--embedded", is_flag=True, hidden=True, help="End when no client is connected and no job is alive.")
def up(settings: Settings, listen: str | None, drain_timeout: float, embedded: bool) -> int:
    """Run a single box in the foreground: a controller and one agent, nothing else needed.

    Other commands of the same user find it by its socket. Ctrl-C stops the agent, which hands back what is not done
    within --drain-timeout, then the controller; jobs stay in the data directory and go on at the next start.

    \b
    Examples:
      mediactl up
      mediactl up --data-dir /srv/mediactl --listen 0.0.0.0:7420 --tls-cert c.pem --tls-key k.pem --token-file t
    """
    data_dir = settings.data_dir
    box.make_data_dir(data_dir)
    try:
        with _lock(data_dir, wait_s=_YIELD_DEADLINE_S if embedded else 0.0):
            return asyncio.run(_serve(settings, listen, drain_timeout, embedded))
    except _Taken as taken:
        if embedded and box.answers(data_dir):
            return 0
        raise click.UsageError(
            f"a box is already running with the data directory {data_dir}{taken}; commands use it as it is"
        ) from None


@contextmanager
def _lock(data_dir: Path, *, wait_s: float) -> Iterator[None]:
    deadline = time.monotonic() + wait_s
    with box.lock_file(data_dir).open("a+", encoding="ascii") as file:
        while not _try_lock(file):
            # Waiting is for the box that is just ending; one that answers is not.
            if time.monotonic() >= deadline or (wait_s and box.answers(data_dir)):
                file.seek(0)
                pid = file.read().strip()
                raise _Taken(f" (process {pid})" if pid else "")
            time.sleep(_POLL_S)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _serve(settings: Settings, listen: str | None, drain_s: float, embedded: bool) -> int:
    notifier = Notifier()
    stop, leave = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def hurry() -> None:
        if agent.returncode is None:
            agent.send_signal(signal.SIGTERM)

    def restart() -> None:
        leave.set()
        stop.set()

    loop.add_signal_handler(signal.SIGUSR1, restart)
    with ExitStack() as stack:
        ears = stack.enter_context(vigil.ears(notifier, "controller", "agent"))
        told = [ear.environment() for ear in ears] or [{}, {}]
        controller = await _child(controller_command(settings, listen, embedded), told[0])
        agent = await _child(agent_command(settings, drain_s, embedded), told[1])
        keeping = asyncio.create_task(vigil.keep(notifier, ears, controller, agent))
        # Who watches the box has set it a time to end, within which the agent finishes what it can.
        deadline_s = None if ears else _STOP_DEADLINE_S + drain_s
        try:
            return await _supervise(settings, controller, agent, stop, embedded)
        finally:
            notifier.stopping("stopping")
            keeping.cancel()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.add_signal_handler(number, hurry)
            # SIGUSR1 is passed on: the agent leaves its encodes running, for the next one to adopt.
            await _end(agent, signal.SIGUSR1 if leave.is_set() else signal.SIGTERM, deadline_s)
            await _end(controller, signal.SIGTERM, deadline_s)


async def _supervise(
    settings: Settings,
    controller: asyncio.subprocess.Process,
    agent: asyncio.subprocess.Process,
    stop: asyncio.Event,
    embedded: bool,
) -> int:
    stopped = asyncio.create_task(stop.wait())
    controller_ended = asyncio.create_task(controller.wait())
    agent_ended = asyncio.create_task(agent.wait())
    ends = (stopped, controller_ended, agent_ended)
    greeting = asyncio.create_task(_greet(settings))
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        greeting.cancel()
        for task in ends:
            task.cancel()
    if stopped.done() and not stopped.cancelled():
        return 0
    if controller.returncode is not None:
        if embedded and controller.returncode == 0:
            return 0
        _say(f"the controller ended ({_how(controller.returncode)}); the box stops")
        return 1
    _say(f"the agent ended ({_how(agent.returncode)}); the box stops")
    return 1


async def _greet(settings: Settings) -> None:
    while not box.answers(settings.data_dir):  # noqa: ASYNC110 - nothing tells when a foreign process listens
        await asyncio.sleep(_POLL_S)
    if not settings.quiet:
        _say(f"the box is up: {box_socket(settings.data_dir)}; Ctrl-C stops it")


def controller_command(settings: Settings, listen: str | None, embedded: bool) -> list[str]:
    """How the controller is started."""
    arguments = [
        "serve",
        "--data-dir",
        str(settings.data_dir),
        "--socket",
        str(box_socket(settings.data_dir)),
        *_NO_FILE,
    ]
    if embedded:
        arguments.append("--exit-when-idle")
    if listen:
        arguments += ["--listen", listen]
        for name in ("tls_ca", "tls_cert", "tls_key"):
            path: Path | None = getattr(settings, name)
            if path is not None:
                arguments += [f"--{name.replace('_', '-')}", str(path)]
    return box.module_command("controller.main", *arguments, *_token(settings, embedded))


def agent_command(settings: Settings, drain_s: float, embedded: bool) -> list[str]:
    """How the agent is started."""
    return box.module_command(
        "agent.main",
        "serve",
        "--data-dir",
        str(settings.data_dir / "agent"),
        "--controller",
        f"unix:{box_socket(settings.data_dir)}",
        "--drain-timeout",
        str(drain_s),
        *_NO_FILE,
        *_token(settings, embedded),
        # Who waits for it had better hear what fails than wait for a disk that nobody else clears.
        *(("--scratch-reserve", "0") if embedded else ()),
    )


def _token(settings: Settings, embedded: bool) -> list[str]:
    # Only its user can reach the embedded box, and a later command may have no token to show.
    return ["--token-file", str(settings.token_file)] if settings.token_file and not embedded else []


async def _child(arguments: list[str], told: Mapping[str, str]) -> asyncio.subprocess.Process:
    # A group of its own: Ctrl-C reaches this process alone, which then stops both in their order.
    return await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        env={**box.environment(), **told},
        process_group=0,
        preexec_fn=_dying_with(os.getpid()),
    )


def _dying_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # The parent may have died before the call above: nobody would send the signal then.
        if os.getppid() != parent:
            os._exit(1)

    return prepare


async def _end(child: asyncio.subprocess.Process, number: signal.Signals, deadline_s: float | None) -> None:
    if child.returncode is not None:
        return
    child.send_signal(number)
    try:
        async with asyncio.timeout(deadline_s):
            await child.wait()
    except TimeoutError:
        child.kill()
        await child.wait()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"


def _say(text: str) -> None:
    print(f"mediactl: {text}", file=sys.stderr, flush=True)
