"""Stand-ins for the programs that the single box starts, run as `python -m controller.main` and `-m agent.main`.

Each writes its comings and goings as lines into `journal` beside the box's socket, for the tests to read.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from grpc import aio

from mediactl.channel import SERVER_OPTIONS, unix_bind_target
from mediactl.v1 import fleet_service_pb2_grpc, job_service_pb2_grpc
from tests.fakes.controller import FakeController
from tests.fakes.job_service import ENDED


def install(folder: Path) -> None:
    """Writes packages `controller` and `agent` for PYTHONPATH, where they hide the real ones."""
    for name in ("controller", "agent"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
        (folder / name / "main.py").write_text(f"from tests.fakes import box_programs\nbox_programs.{name}()\n")


def _option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def _note(journal: Path, text: str) -> None:
    with journal.open("a") as file:
        file.write(f"{text} {os.getpid()}\n")


class _Counting(aio.ServerInterceptor):
    """Counts calls under way, as `--exit-when-idle` needs to know them."""

    def __init__(self, fake: FakeController) -> None:
        self.open = 0
        self.last = time.monotonic()
        self._fake = fake

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        self.last = time.monotonic()
        return await continuation(details)

    @property
    def idle(self) -> bool:
        """No live job, and no new call for a while. A watch lives as long as its job here."""
        live = any(job.state not in ENDED for job in self._fake.jobs.values())
        return not live and time.monotonic() - self.last > 0.5


async def _serve() -> None:
    socket = Path(_option("--socket"))
    journal = socket.parent / "journal"
    fake = FakeController()
    counting = _Counting(fake)
    server = aio.server(options=SERVER_OPTIONS, interceptors=[counting])
    job_service_pb2_grpc.add_JobServiceServicer_to_server(fake, server)
    fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fake, server)
    server.add_insecure_port(unix_bind_target(socket))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    running = asyncio.create_task(fake.run())
    await server.start()
    _note(journal, "controller up")
    while not stop.is_set() and not ("--exit-when-idle" in sys.argv and counting.idle):
        try:
            await asyncio.wait_for(stop.wait(), 0.05)
        except TimeoutError:
            continue
    running.cancel()
    await server.stop(0)
    _note(journal, "controller down")


def controller() -> None:
    """Serves invented answers; with FAKE_CONTROLLER=broken, dies at once with a word about it."""
    if os.environ.get("FAKE_CONTROLLER") == "broken":
        sys.exit("the disk is on fire")
    asyncio.run(_serve())


def agent() -> None:
    """Waits for SIGTERM; with FAKE_AGENT=busy, for a second one, and with FAKE_AGENT=broken, dies at once. `detect`
    prints what `doctor` expects.
    """
    if sys.argv[1] == "detect":
        able = os.environ.get("FAKE_AGENT") != "broken"
        binaries = [{"path": "/usr/bin/ffmpeg", "version": "5.1.9"}] if able else []
        finding = {"subject": "ffmpeg", "ok": able, "detail": "5.1.9" if able else "absent", "remedy": "apt install"}
        capabilities = {"cores": 2, "binaries": binaries, "ffprobePath": "/usr/bin/ffprobe", "newer": 1}
        sys.stdout.write(json.dumps({"capabilities": capabilities, "findings": [finding]}))
        return
    journal = Path(_option("--data-dir")).parent / "journal"
    if os.environ.get("FAKE_AGENT") == "broken":
        sys.exit(3)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    _note(journal, "agent up")
    signal.sigwait({signal.SIGTERM})
    if os.environ.get("FAKE_AGENT") == "busy":
        _note(journal, f"agent finishing within {_option('--drain-timeout')}")
        signal.sigwait({signal.SIGTERM})
    _note(journal, "agent down")
