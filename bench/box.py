"""A single box of its own for a benchmark, and the statistics that every benchmark prints."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mediactl import Client, MediactlError

START_S = 30.0


@contextmanager
def running_box(data_dir: Path) -> Iterator[Client]:
    """`mediactl up` on a fresh data directory, with its agent registered."""
    command = [sys.executable, "-P", "-m", "ctl.main", "up", "--data-dir", str(data_dir)]
    with (
        (data_dir.parent / "box.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=os.environ) as box,
    ):
        try:
            with Client(f"unix:{data_dir / 'mediactl.sock'}") as client:
                _wait_for_agent(client)
                yield client
        finally:
            box.send_signal(signal.SIGTERM)
            box.wait(20)


def _wait_for_agent(client: Client) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            if list(client.agents()):
                return
        except MediactlError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise TimeoutError("no agent registered")
        time.sleep(0.05)


def spread(values: Sequence[float]) -> str:
    """`median (min … max)` in milliseconds."""
    scaled = sorted(1000 * value for value in values)
    return f"{statistics.median(scaled):7.1f} ms ({scaled[0]:.1f} … {scaled[-1]:.1f})"
