"""A log that cannot fill the disk."""

import io
import random

import pytest

from agent.media.capped import CappedLog

CAP = 1000
END = 200


def logged(*pieces: bytes) -> bytes:
    file = io.BytesIO()
    log = CappedLog(file, CAP, end_bytes=END)
    for piece in pieces:
        log.write(piece)
    log.close()
    return file.getvalue()


@pytest.mark.parametrize("size", [0, 1, 799, 800, 801, 999, 1000])
def test_a_log_within_its_cap_is_whole(size: int) -> None:
    """To the last byte, however it came."""
    text = (b"0123456789abcde\n" * 64)[:size]
    assert logged(text) == text
    assert logged(*(text[i : i + 7] for i in range(0, size, 7))) == text


@pytest.mark.parametrize("piece", [1, 13, 64, 5000])
def test_of_a_log_that_outgrows_its_cap_beginning_and_end_stay(piece: int) -> None:
    """The gap is marked with its size, and the end begins with a whole line."""
    text = b"".join(b"line %05d\n" % number for number in range(1000))
    kept = logged(*(text[i : i + piece] for i in range(0, len(text), piece)))
    beginning, _, rest = kept.partition(b"\n[")
    count, _, end = rest.partition(b" bytes of the log are left out here: it outgrew its cap]\n")
    assert text.startswith(beginning)
    assert len(beginning) == CAP - END
    assert text.endswith(end)
    assert end.startswith(b"line ")
    assert END - 11 <= len(end) <= END
    assert int(count) == len(text) - len(beginning) - len(end)
    assert len(kept) <= CAP + 80


def test_nothing_but_one_endless_line() -> None:
    """What has no line to begin with is cut where it must be."""
    mark = b"\n[9000 bytes of the log are left out here: it outgrew its cap]\n"
    assert logged(*(b"x" * 100 for _ in range(100))) == b"x" * (CAP - END) + mark + b"x" * END


def test_memory_is_bounded() -> None:
    """Whatever comes, no more than the end and the newest piece is held."""
    dice = random.Random(7)  # noqa: S311 - no secret
    log = CappedLog(io.BytesIO(), CAP, end_bytes=END)
    for _ in range(2000):
        log.write(b"y" * dice.randrange(1, 50))
        assert log.held <= END + 50
