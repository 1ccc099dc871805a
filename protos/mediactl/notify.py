"""What a program tells systemd that starts it as Type=notify: ready, how it fares, still alive, stopping.

Elsewhere, where nothing listens, nothing is told.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping

# Not structlog: it takes longer to import than a command line may take to start the box.
log = logging.getLogger(__name__)

STATUS_S = 1.0
"""How often it is told at the least, for a status to be true when it is read."""


class Notifier:
    """Takes its variables out of the environment, so that children neither speak for this process nor are watched."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ, pid: int | None = None) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog_s(environ, os.getpid() if pid is None else pid)
        """Within how many seconds a sign of life is due; none where that is not watched."""
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            environ.pop(name, None)
        self._told: dict[str, str] = {}

    def busy(self, status: str) -> None:
        """What it is at before it is ready."""
        self._tell(STATUS=status)

    def stopping(self, status: str) -> None:
        """It was told to end, and does."""
        self._tell(STOPPING="1", STATUS=status)

    async def watch(self, status: Callable[[], str], alive: Callable[[], Awaitable[None]] | None = None) -> None:
        """Say READY, then give signs of life until cancelled, at least at twice the rate that is asked for.

        Before each one `alive` is awaited. While it does not return, raises, or this event loop stands still, none is
        given, and systemd starts the program anew.
        """
        pause_s = min(STATUS_S, self.watchdog_s / 2) if self.watchdog_s else STATUS_S
        self._tell(READY="1", STATUS=status())
        while self._address:
            try:
                if alive is not None:
                    await alive()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is no sign of life
                log.error("no sign of life: %s", error)
            else:
                self._tell(STATUS=status(), WATCHDOG="1")
            await asyncio.sleep(pause_s)

    def _tell(self, **variables: str) -> None:
        if not self._address:
            return
        news = {name: value for name, value in variables.items() if name == "WATCHDOG" or self._told.get(name) != value}
        self._told.update(news)
        # A leading @ stands for the null byte of an abstract name.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        lines = "\n".join(f"{name}={value.replace(chr(10), ' ')}" for name, value in news.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # systemd may be busy: it must not hold up what it watches, and the next sign is soon due.
                sender.setblocking(False)
                sender.sendto(lines.encode(), address)
        except OSError as error:
            self._told.clear()
            log.warning("systemd does not hear: %s", error)


def _watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    usec = environ.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(usec) / 1e6 or None
