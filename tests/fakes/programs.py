"""Controllers and agents as programs that die, stand still and return, behind links that break."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.fleet import read_journal
from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.errors import MediactlError
from tests.fakes.cli import Home, Ran, Running, until
from tests.fakes.proxy import ThreadedProxy

UP_S = 60.0
"""Other tests share the cores."""


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback that nobody else is given within the block, whether or not somebody listens on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


class Program:
    """One that can be started again and again with the same arguments."""

    def __init__(self, home: Home, module: str, arguments: Sequence[object]) -> None:
        self._home = home
        self._module = module
        self._arguments = [*arguments]
        self._running: Running | None = None

    @property
    def alive(self) -> bool:
        return self._running is not None and self._running.process.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._running, "it was never started"
        return self._running.process

    def start(self) -> None:
        """Has no effect where it runs."""
        if not self.alive:
            self._running = self._home.start(*self._arguments, module=self._module)

    def kill(self) -> None:
        """SIGKILL; it is gone on return."""
        if self.alive:
            self.process.kill()
            self.process.wait()

    def suspend(self) -> None:
        """SIGSTOP to it and what it started."""
        if self.alive:
            os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Ends `suspend`."""
        with suppress(ProcessLookupError):
            if self.alive:
                os.killpg(self.process.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM; `ended` tells how it went."""
        self.process.terminate()

    def ended(self) -> Ran:
        """Waits for its end in order."""
        assert self._running, "it was never started"
        return self._running.ended()

    def said(self) -> str:
        """Its standard error so far."""
        return self._running.err.read_text("utf-8", "replace") if self._running else ""


class ControllerProgram(Program):
    """`mediactl-controller serve`, on the same data and the same port every time."""

    def __init__(self, home: Home, port: int, data_dir: Path, *flags: object) -> None:
        self.address = f"127.0.0.1:{port}"
        self.data_dir = data_dir
        arguments = ("serve", "--data-dir", data_dir, "--listen", self.address, "--no-log-transitions", *flags)
        super().__init__(home, "controller.main", arguments)

    def client(self) -> Client:
        """Of this controller alone."""
        return Client(self.address, credentials=Credentials())

    def up(self) -> None:
        """Start it and wait until it answers."""
        self.start()
        with self.client() as client:

            def answers() -> bool:
                with suppress(MediactlError):
                    return bool(client.presets())
                return not self.alive

            until(answers, "the controller answers", within_s=UP_S)
        assert self.alive, self.said()


class FleetProgram(Program):
    """`tests.fakes.shaky_fleet`: agents `{prefix}1` to `{prefix}N`, and the journal of all their lives."""

    def __init__(self, home: Home, prefix: str, controllers: Sequence[str], *flags: object) -> None:
        self.prefix = prefix
        self._journal = home.folder / f"{prefix}journal"
        self._journal.touch()
        ways = [argument for address in controllers for argument in ("--controller", address)]
        arguments = ("--prefix", prefix, "--journal", self._journal, *ways, *flags)
        super().__init__(home, "tests.fakes.shaky_fleet", arguments)

    def journal(self) -> list[dict[str, object]]:
        """What happened so far."""
        return read_journal(self._journal)


class AgentProgram(Program):
    """`mediactl-agent serve`, with FFmpeg. Its media root is the home."""

    def __init__(self, home: Home, name: str, controllers: Sequence[str], *flags: object) -> None:
        home.agent_ran(home.folder / name)
        arguments = ("--data-dir", home.folder / name, "--name", name, "--media-root", home.folder, *flags)
        super().__init__(home, "agent.main", ("serve", "--controller", ",".join(controllers), *arguments))


class Link:
    """A link that is broken for overlapping reasons: whole again when the last of them is gone."""

    def __init__(self, proxy: ThreadedProxy) -> None:
        self.proxy = proxy
        self._reasons: dict[str, int] = {}

    def harm(self, how: str) -> None:
        """`cut`, `freeze` or `delay`."""
        self._reasons[how] = self._reasons.get(how, 0) + 1
        self._apply(how, broken=True)

    def heal(self, how: str) -> None:
        """Ends one `harm`."""
        self._reasons[how] -= 1
        if not self._reasons[how]:
            self._apply(how, broken=False)

    def _apply(self, how: str, *, broken: bool) -> None:
        actions: dict[tuple[str, bool], Callable[[], None]] = {
            ("cut", True): self.proxy.cut,
            ("cut", False): self.proxy.mend,
            ("freeze", True): self.proxy.freeze,
            ("freeze", False): self.proxy.thaw,
            ("delay", True): lambda: setattr(self.proxy, "delay_s", 0.08),
            ("delay", False): lambda: setattr(self.proxy, "delay_s", 0.0),
        }
        actions[how, broken]()
