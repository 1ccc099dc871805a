"""Reading logs while they grow, and what is blanked out of them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.media.logs import CHUNK_BYTES, Tail, last_bytes, redact


@pytest.mark.parametrize(
    ("line", "secrets"),
    [
        (
            b"https://b.s3.amazonaws.com/k?X-Amz-Algorithm=A4&X-Amz-Credential=AKIA%2F1&X-Amz-Signature=deadbeef&x=1",
            [b"AKIA", b"deadbeef"],
        ),
        (b"https://b.s3.amazonaws.com/k?AWSAccessKeyId=AKIA&Expires=9&Signature=de%2Fad", [b"AKIA", b"de%2Fad"]),
        (b"'https://h/k?token=t0p&b=2'", [b"t0p"]),
        (b"https://h/k?a=1&access_token=t0p", [b"t0p"]),
        (b"https://acc.blob.core.windows.net/c/b?sv=2022&sig=aGk%3D", [b"aGk"]),
        (b"https://storage.googleapis.com/b/o?X-Goog-Signature=12ab&X-Goog-Expires=10", [b"12ab"]),
        (b"opening rtmp://user:pa55@host/app", [b"user", b"pa55"]),
        (b"ftp://user:p%40ss@host/x", [b"p%40ss"]),
        (b"Authorization: Bearer abc.def\r\nHost: h", [b"abc.def"]),
    ],
)
def test_secrets_are_blanked(line: bytes, secrets: list[bytes]) -> None:
    """Credentials in URLs, signatures and tokens disappear; that there was something stays visible."""
    redacted = redact(line)
    assert not [secret for secret in secrets if secret in redacted]
    assert b"***" in redacted


@pytest.mark.parametrize(
    "line",
    [
        b"  Duration: 00:00:15.02, start: 0.000000, bitrate: 64 kb/s",
        b"https://host/path/file.mp4?start=10&end=20",
        b"contact: someone@example.org, file://localhost/srv/a@b.wav",
        b"[aac @ 0x5581] Input contains (near) NaN/+-Inf",
        b"frame=  100 fps= 25 q=28.0 size=     256kB time=00:00:04.00",
    ],
)
def test_harmless_lines_stay(line: bytes) -> None:
    """What holds no secret is left as it is, so that logs stay of use."""
    assert redact(line) == line


@given(st.binary(max_size=300))
def test_redacting_twice_changes_nothing_more(data: bytes) -> None:
    """Whatever comes in, what is redacted stays redacted."""
    assert redact(redact(data)) == redact(data)


def test_pieces_end_with_whole_lines(tmp_path: Path) -> None:
    """A line is handed out once it is complete; carriage returns end lines too."""
    log = tmp_path / "log"
    tail = Tail(log)
    assert tail.read() == b""
    log.write_bytes(b"one\ntw")
    assert tail.read() == b"one\n"
    assert tail.read() == b""
    with log.open("ab") as file:
        file.write(b"o\rthree")
    assert tail.read() == b"two\r"
    assert tail.read(final=True) == b"three"
    assert tail.read(final=True) == b""
    assert tail.offset == log.stat().st_size


def test_a_tail_continues_where_another_ended(tmp_path: Path) -> None:
    """An offset is all that is needed to go on after a restart."""
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\n")
    assert Tail(log, offset=4).read() == b"two\n"


@given(st.lists(st.binary(max_size=200), max_size=40), st.integers(1, 3))
def test_pieces_put_together_are_the_file(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], big: int
) -> None:
    """Nothing is lost, repeated or larger than a piece, also with a line longer than a piece."""
    log = tmp_path_factory.mktemp("tail") / "log"
    content = b"\n".join([*lines, b"x" * (CHUNK_BYTES * big + 1), *lines])
    log.write_bytes(content)
    tail, pieces = Tail(log), []
    while piece := tail.read(final=True):
        pieces.append(piece)
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= CHUNK_BYTES


def test_last_bytes(tmp_path: Path) -> None:
    """The end of a file, all of a short one, nothing of an absent one."""
    log = tmp_path / "log"
    assert last_bytes(log, 4) == b""
    log.write_bytes(b"0123456789")
    assert last_bytes(log, 4) == b"6789"
    assert last_bytes(log, 40) == b"0123456789"


def test_redacting_takes_linear_time() -> None:
    """A long word is looked at once; looking again at each of its letters would outlast the test's time limit."""
    word = b"a" * 2**20
    assert redact(word) == word
