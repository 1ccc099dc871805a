"""What the tests of running programs share."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop


@pytest.fixture(params=["asyncio", "uvloop"])
def run_in_loop(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine to its end, on each kind of event loop that the agent may use."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(coroutine)

    return run


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Coroutine[Any, Any, None]]:
    """Waits until a condition holds; fails where it does not within 20 s."""

    async def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        for _ in iter(lambda: bool(condition()), True):
            assert time.monotonic() < deadline, "what was waited for did not come about"
            await asyncio.sleep(0.005)

    return wait


@pytest.fixture
def number_in() -> Callable[[Path], int]:
    """Reads the number that a script wrote into a file: 0 as long as it has not."""

    def read(file: Path) -> int:
        text = file.read_text() if file.exists() else ""
        return int(text) if text.endswith("\n") else 0

    return read


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Whether a process exists and is more than a zombie."""

    def look(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    return look


@pytest.fixture
def let_go_on(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Lets a script in the temporary folder that waits by ``read line < go`` go on, once for each call."""
    os.mkfifo(tmp_path / "go")
    # Held open at both ends, so that no line is lost between two readers and nobody waits for one.
    go = os.open(tmp_path / "go", os.O_RDWR)

    def write() -> None:
        os.write(go, b"\n")

    yield write
    os.close(go)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Makes an executable shell script of the given text; returns its path."""

    def make(text: str) -> str:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make
