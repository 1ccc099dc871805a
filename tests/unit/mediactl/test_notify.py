"""What systemd is told, when, and above all when not."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mediactl.notify import Notifier


class Listener:
    """In systemd's place."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(address)

    def heard(self) -> list[dict[str, str]]:
        """Every message since the last time."""
        messages = []
        with suppress(BlockingIOError):
            while True:
                lines = self.socket.recv(4096).decode().splitlines()
                messages.append(dict(line.split("=", 1) for line in lines))
        return messages

    async def next(self) -> dict[str, str]:
        """The next message, awaited."""
        message = await asyncio.get_running_loop().sock_recv(self.socket, 4096)
        return dict(line.split("=", 1) for line in message.decode().splitlines())


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(str(tmp_path / "notify"))
    yield listener
    listener.socket.close()


def environment(listener: Listener, **others: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": listener.socket.getsockname(), **others}


def test_the_variables_are_not_for_children(systemd: Listener) -> None:
    """They are gone from the environment once read: a child that spoke would speak for its parent."""
    environ = environment(systemd, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()), PATH="/bin")
    assert Notifier(environ).watchdog_s == 3.0
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}],
)
def test_no_watchdog(variables: dict[str, str]) -> None:
    """Without a time, with nonsense, or meant for another process, there is none."""
    assert Notifier(variables, pid=42).watchdog_s is None


def test_an_abstract_socket() -> None:
    """A name that begins with @ is in no folder."""
    listener = Listener(f"\0mediactl-test-{os.getpid()}")
    try:
        Notifier({"NOTIFY_SOCKET": f"@mediactl-test-{os.getpid()}"}).busy("at it")
        assert listener.heard() == [{"STATUS": "at it"}]
    finally:
        listener.socket.close()


def test_nobody_listens(tmp_path: Path) -> None:
    """Started by hand, or with systemd gone: it works on."""
    Notifier({}).busy("at it")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "absent")}).stopping("stopping")


async def test_ready_then_signs_of_life(systemd: Listener) -> None:
    """READY comes once, a status when it is news and in one line, a sign of life every time."""
    statuses = iter(["one", "one", "two\nlines", "two\nlines"])
    notifier = Notifier(environment(systemd, WATCHDOG_USEC="20000"))
    watching = asyncio.create_task(notifier.watch(lambda: next(statuses, "the end")))
    assert [await systemd.next() for _ in range(4)] == [
        {"READY": "1", "STATUS": "one"},
        {"WATCHDOG": "1"},
        {"STATUS": "two lines", "WATCHDOG": "1"},
        {"WATCHDOG": "1"},
    ]
    watching.cancel()
    notifier.stopping("stopping")
    assert systemd.heard()[-1] == {"STOPPING": "1", "STATUS": "stopping"}


async def test_what_does_not_answer_gives_no_sign(systemd: Listener) -> None:
    """While `alive` waits nothing is said; once it answers, it goes on."""
    answers = asyncio.Event()

    async def alive() -> None:
        await answers.wait()

    notifier = Notifier(environment(systemd, WATCHDOG_USEC="20000"))
    watching = asyncio.create_task(notifier.watch(lambda: "serving", alive))
    assert await systemd.next() == {"READY": "1", "STATUS": "serving"}
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            pytest.fail(f"it said {await systemd.next()}")
    answers.set()
    assert await systemd.next() == {"WATCHDOG": "1"}
    watching.cancel()


async def test_what_fails_gives_no_sign_until_it_mends(systemd: Listener) -> None:
    """An error is no sign of life, and does not end the watching."""
    failures = iter([RuntimeError("stuck"), RuntimeError("stuck")])

    async def alive() -> None:
        if (error := next(failures, None)) is not None:
            assert [list(message) for message in systemd.heard()] in ([["READY", "STATUS"]], [])
            raise error

    notifier = Notifier(environment(systemd, WATCHDOG_USEC="20000"))
    watching = asyncio.create_task(notifier.watch(lambda: "serving", alive))
    assert await systemd.next() == {"WATCHDOG": "1"}
    assert next(failures, None) is None
    watching.cancel()
