"""What an attempt owes, on disk: read back whole, whatever a killed agent left half written."""

import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spool import TRIM_BYTES, Spool
from mediactl.v1 import agent_service_pb2 as pb

STAGED = pb.StageReport(attempt_id="a", records=[pb.RedoRecord(staged_uri="file:///x")])
ENDED = pb.EndReport(attempt_id="a", outcome=pb.OUTCOME_COMPLETED, record_json="{}\n")


def reread(path: Path) -> Spool:
    return Spool(path, "a")


def test_everything_comes_back(tmp_path: Path) -> None:
    """Held, logs without those acknowledged, marks, numbers, reports; then it is added to as before."""
    spool = Spool(tmp_path / "a", "a")
    spool.begin("i", 7)
    spool.log("ffmpeg", 8, b"one\n", {"x.log": 4})
    spool.log("agent", 8, b'{"log":"no head"}\n', {})
    spool.log("ffmpeg", 9, b"two\n", {"x.log": 8, "y.log": 1})
    spool.acknowledge("ffmpeg", 8, all_of_it=False)
    spool.stage(STAGED)
    spool.publish()
    spool.close()
    spool = reread(tmp_path / "a")
    owed = spool.read()
    assert owed is not None
    assert (owed.incarnation, owed.first) == ("i", 7)
    assert [(log.stream, log.sequence, spool.chunk(log).data) for log in owed.logs] == [
        ("agent", 8, b'{"log":"no head"}\n'),
        ("ffmpeg", 9, b"two\n"),
    ]
    assert owed.sequences == {"ffmpeg": 9, "agent": 8}
    assert owed.marks == {"x.log": 8, "y.log": 1}
    assert (owed.staged, owed.publishing, owed.ended) == (STAGED, True, None)
    spool.end(ENDED)
    spool.close()
    again = reread(tmp_path / "a").read()
    assert again is not None
    assert again.ended == ENDED


def test_a_file_without_a_beginning_holds_nothing(tmp_path: Path) -> None:
    """The agent was killed before it took the attempt."""
    (tmp_path / "a").touch()
    assert reread(tmp_path / "a").read() is None


@given(cut=st.integers(0, 400))
def test_what_is_torn_was_never_written(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Wherever the file is cut, whole records before it count, and what is added then is read again."""
    path = tmp_path_factory.mktemp("spool") / "a"
    spool = Spool(path, "a")
    spool.begin("i", 0)
    begun = path.stat().st_size
    for number in range(1, 4):
        spool.log("ffmpeg", number, f"line {number}\n".encode() * 3, {"x": number})
    spool.close()
    os.truncate(path, max(begun, path.stat().st_size - cut))
    spool = reread(path)
    owed = spool.read()
    assert owed is not None
    kept = len(owed.logs)
    assert [log.sequence for log in owed.logs] == list(range(1, kept + 1))
    assert owed.marks == ({"x": kept} if kept else {})
    spool.log("ffmpeg", 9, b"after\n", {})
    spool.close()
    spool = reread(path)
    owed = spool.read()
    assert owed is not None
    assert [spool.chunk(log).data for log in owed.logs][-1] == b"after\n"
    assert len(owed.logs) == kept + 1


def test_a_long_file_is_begun_anew(tmp_path: Path) -> None:
    """Once nothing of the logs is owed its room is given back; what must not be forgotten is not."""
    spool = Spool(tmp_path / "a", "a")
    spool.begin("i", 3)
    spool.stage(STAGED)
    for number in range(20):
        spool.log("ffmpeg", 4 + number, b"x" * (TRIM_BYTES // 16), {"x.log": number})
    spool.acknowledge("ffmpeg", 23, all_of_it=True)
    assert (tmp_path / "a").stat().st_size < 1000
    spool.log("ffmpeg", 24, b"on", {})
    spool.close()
    spool = reread(tmp_path / "a")
    owed = spool.read()
    assert owed is not None
    assert (owed.incarnation, owed.first, owed.sequences, owed.marks) == ("i", 3, {"ffmpeg": 24}, {"x.log": 19})
    assert owed.staged == STAGED
    assert [spool.chunk(log).data for log in owed.logs] == [b"on"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    """What does not fit is refused whole, and the file goes on where it was."""
    spool = Spool(tmp_path / "a", "a")
    spool.begin("i", 0)
    spool.log("ffmpeg", 1, b"one", {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "a").stat().st_size + 30, hard))
        with pytest.raises(OSError, match="large"):
            spool.log("ffmpeg", 2, b"two" * 100, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    spool.log("ffmpeg", 3, b"three", {})
    spool.close()
    owed = reread(tmp_path / "a").read()
    assert owed is not None
    assert [log.sequence for log in owed.logs] == [1, 3]


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"ended":true,"bytes":5}\n\xff\xff\xff\xff\xff',
        b'{"staged":true,"bytes":1}\n\xff',
        b'{"log":"x","sequence":2,"marks":{},"bytes":-5}\n',
        b'{"log":"x","sequence":2,"marks":{},"bytes":"x"}\n',
        b'{"held":1,"first":null,"sequences":[],"marks":7}\n',
    ],
)
def test_what_is_damaged_was_never_written(tmp_path: Path, damaged: bytes) -> None:
    """An agent that could not start because of it would lose everything else as well."""
    spool = Spool(tmp_path / "a", "a")
    spool.begin("i", 7)
    spool.log("x", 1, b"one", {})
    spool.close()
    with (tmp_path / "a").open("ab") as file:
        file.write(damaged)
    owed = reread(tmp_path / "a").read()
    assert owed is not None
    assert (owed.incarnation, owed.first, len(owed.logs)) == ("i", 7, 1)
    assert (owed.staged, owed.publishing, owed.ended) == (None, False, None)
