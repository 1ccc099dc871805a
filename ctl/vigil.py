"""What the single box does for its children when it is a service: systemd watches the box, the box its children."""

import asyncio
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mediactl.notify import Notifier

_MESSAGE_BYTES: Final = 4096


class Ear:
    """Hears what one child tells in the way of systemd's services (see mediactl.notify)."""

    def __init__(self, name: str, address: Path, patience_s: float) -> None:
        self.name = name
        self.status = "starting"
        self.ready = asyncio.Event()
        self._patience_s = patience_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.bind(str(address))
        self._address = address
        self._heard_at = time.monotonic()

    def environment(self) -> dict[str, str]:
        """What the child needs to be heard."""
        return {"NOTIFY_SOCKET": str(self._address), "WATCHDOG_USEC": str(int(self._patience_s * 1e6))}

    @property
    def overdue(self) -> bool:
        """Whether it was ready once and has been silent for too long."""
        return self.ready.is_set() and time.monotonic() - self._heard_at > self._patience_s

    async def listen(self) -> None:
        """Until cancelled."""
        while True:
            message = await asyncio.get_running_loop().sock_recv(self._socket, _MESSAGE_BYTES)
            told = dict(line.split("=", 1) for line in message.decode("utf-8", "replace").splitlines() if "=" in line)
            self.status = told.get("STATUS", self.status)
            if told.keys() & {"READY", "WATCHDOG"}:
                self._heard_at = time.monotonic()
            if "READY" in told:
                self.ready.set()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def ears(notifier: Notifier, *names: str) -> Iterator[list[Ear]]:
    """One for each child; none where nobody watches the box."""
    if notifier.watchdog_s is None:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="mediactl-") as folder:
        opened = [Ear(name, Path(folder) / name, notifier.watchdog_s) for name in names]
        try:
            yield opened
        finally:
            for ear in opened:
                ear.close()


async def keep(notifier: Notifier, opened: list[Ear], *children: asyncio.subprocess.Process) -> None:
    """Be ready when all are, then tell how they fare, until cancelled. Nothing where nobody watches.

    A child that gives no sign of life is killed. The box ends with any of its children, and is then started anew.
    """

    async def alive() -> None:
        for ear, process in zip(opened, children, strict=True):
            if ear.overdue:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
                raise TimeoutError(f"the {ear.name} gives no sign of life and was killed")

    listening = [asyncio.create_task(ear.listen()) for ear in opened]
    try:
        for ear in opened:
            await ear.ready.wait()
        if opened:
            await notifier.watch(lambda: "; ".join(f"{ear.name}: {ear.status}" for ear in opened), alive)
    finally:
        for task in listening:
            task.cancel()
