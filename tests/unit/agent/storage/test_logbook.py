"""Logs of an attempt: handed on once, from where they were left."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.logbook import Logbook


class Taken:
    """What was handed on, and the marks that came with it."""

    def __init__(self) -> None:
        self.said: dict[str, bytes] = {}
        self.marks: dict[str, int] = {}

    def __call__(self, stream: str, data: bytes, marks: Mapping[str, int]) -> None:
        self.said[stream] = self.said.get(stream, b"") + data
        self.marks |= marks


def test_lines_and_files(tmp_path: Path) -> None:
    """The agent's own lines at once; FFmpeg's by whole lines, the last one when it is known to be the last."""
    taken = Taken()
    book = Logbook(tmp_path, {}, taken)
    book.say("begun")
    assert taken.said == {"agent": b"begun\n"}
    step = tmp_path / "steps" / "01-x"
    step.mkdir(parents=True)
    book.follow(step / "stderr.log")
    book.ship()
    (step / "stderr.log").write_bytes(b"one\ntw")
    book.ship()
    assert taken.said["ffmpeg"] == b"one\n"
    book.ship(final=True)
    assert taken.said["ffmpeg"] == b"one\ntw"
    assert taken.marks == {"agent.log": 6, "steps/01-x/stderr.log": 6}


@given(
    left=st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=6),
    cut=st.integers(0, 6),
)
def test_a_restart_says_nothing_twice(tmp_path_factory: pytest.TempPathFactory, left: list[bytes], cut: int) -> None:
    """Wherever a life ends, the next one hands on exactly the rest, in order, also of what is still being written."""
    folder = tmp_path_factory.mktemp("workspace")
    log = folder / "steps" / "01-x" / "stderr.log"
    log.parent.mkdir(parents=True)
    first, second = Taken(), Taken()
    book = Logbook(folder, {}, first)
    book.follow(log)
    with log.open("ab", buffering=0) as file:
        for piece in left[:cut]:
            file.write(piece)
            book.ship()
        for piece in left[cut:]:
            file.write(piece)
        again = Logbook(folder, first.marks, second)
        again.catch_up()
        again.follow(log)
        file.write(b"more\n")
        again.ship(final=True)
    assert first.said.get("ffmpeg", b"") + second.said["ffmpeg"] == b"".join(left) + b"more\n"


def test_without_room_a_line_is_still_told(tmp_path: Path) -> None:
    """The workspace may be gone or full; the controller hears it all the same."""
    taken = Taken()
    Logbook(tmp_path / "gone", {}, taken).say("disk full")
    assert taken.said == {"agent": b"disk full\n"}


def test_a_line_that_is_no_text_is_still_told(tmp_path: Path) -> None:
    """A name of a file may be in it."""
    taken = Taken()
    Logbook(tmp_path, {}, taken).say("caf\udce9")
    assert taken.said == {"agent": b"caf?\n"}
