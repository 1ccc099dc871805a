"""The ledger in terms of the wire."""

import os
from pathlib import Path

import pytest

from agent.core import ledger
from agent.core.ledger import Effect, Phase
from agent.media.logs import CHUNK_BYTES
from agent.outbox import Outbox
from mediactl.v1 import agent_service_pb2 as pb


async def test_what_is_said_once_is_said_again_on_a_new_session() -> None:
    """A session takes each frame once; the next one gets all that was not acknowledged, in order."""
    outbox = Outbox(now_us=lambda: 0)
    assert outbox.lease("a") is Effect.START
    outbox.log("a", "ffmpeg", b"one")
    outbox.flush()
    outbox.log("a", "ffmpeg", b"tw")
    outbox.log("a", "ffmpeg", b"o")
    assert [frame.log.data for frame in outbox.take()] == [b"one"]
    outbox.flush()
    assert [frame.log.data for frame in outbox.take()] == [b"two"]
    assert list(outbox.take()) == []
    outbox.acknowledge(pb.Acknowledgement(attempt_id="a", stream="ffmpeg", sequence=1))
    report = pb.EndReport(attempt_id="a", outcome=pb.OUTCOME_COMPLETED)
    outbox.conclude(report)
    outbox.end(report)
    outbox.restart()
    assert [frame.WhichOneof("frame") for frame in outbox.take()] == ["log", "ended"]


async def test_logs_are_cut_and_cleaned() -> None:
    """A long piece goes out in chunks of at most 64 KiB, without credentials."""
    outbox = Outbox(now_us=lambda: 100)
    outbox.lease("a")
    outbox.log("a", "ffmpeg", b"https://user:pass@host/ " + b"x " * (CHUNK_BYTES // 2))
    outbox.flush()
    pieces = [frame.log for frame in outbox.take()]
    assert [piece.sequence for piece in pieces] == [101, 102]
    assert all(len(piece.data) <= CHUNK_BYTES for piece in pieces)
    assert pieces[0].data.startswith(b"https://***host/ x")


async def test_the_stop_of_an_unknown_attempt_is_answered() -> None:
    """It is held as ended until the controller has acknowledged that."""
    outbox = Outbox()
    assert outbox.ledger.stop("gone") is Effect.REPORT_STOPPED
    outbox.report_stopped("gone")
    assert [holding.phase for holding in outbox.holdings()] == [pb.PHASE_ENDED]
    assert [frame.ended.outcome for frame in outbox.take()] == [pb.OUTCOME_STOPPED]
    assert not outbox.empty.is_set()
    outbox.acknowledge(pb.Acknowledgement(attempt_id="gone"))
    assert outbox.empty.is_set()


async def test_a_change_of_phase_is_urgent() -> None:
    """Progress alone can wait; a new phase can't."""
    outbox = Outbox()
    outbox.lease("a")
    urgent = []
    for progress, phase in ((0.1, None), (0.2, Phase.RUNNING)):
        outbox.status("a", progress=progress, activity="encoding", speed=2.0, phase=phase)
        urgent.append(outbox.urgent)
    assert urgent == [False, True]
    [holding] = outbox.holdings()
    assert (holding.phase, holding.progress, holding.activity) == (pb.PHASE_RUNNING, 0.2, "encoding")


async def test_what_is_dropped_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that nobody takes stops growing, and says how much is missing once there is room or at the end."""
    monkeypatch.setattr(ledger, "LOG_BYTES", 2**20)
    outbox = Outbox()
    outbox.lease("a")
    line = b"line of a log\n"
    for _ in range(100):
        outbox.log("a", "ffmpeg", line * 5000)
    report = pb.EndReport(attempt_id="a", outcome=pb.OUTCOME_COMPLETED)
    outbox.conclude(report)
    outbox.end(report)
    *chunks, end = outbox.take()
    notes = [frame.log.data for frame in chunks if b"were dropped" in frame.log.data]
    kept = sum(len(frame.log.data) for frame in chunks) - sum(map(len, notes))
    assert kept <= 2**20
    assert kept + sum(int(note[1:].split()[0]) for note in notes) == 100 * 5000 * len(line)
    assert end.WhichOneof("frame") == "ended"


async def test_another_life_owes_what_this_one_owed(tmp_path: Path) -> None:
    """Logs, reports and the permission to publish are there again; what was acknowledged, or not begun, is not."""
    outbox = Outbox(tmp_path / "outbox", lambda: 100)
    assert outbox.load() == []
    for attempt in ("a", "b", "c"):
        outbox.lease(attempt, "i")
    outbox.log("a", "ffmpeg", b"one\n", {"x": 4})
    outbox.flush()
    outbox.log("a", "ffmpeg", b"https://user:pass@host/\n", {"x": 30})
    outbox.flush()
    outbox.acknowledge(pb.Acknowledgement(attempt_id="a", stream="ffmpeg", sequence=101))
    outbox.stage(pb.StageReport(attempt_id="b"))
    assert outbox.publish("b") is Effect.PUBLISH
    ended = pb.EndReport(attempt_id="c", outcome=pb.OUTCOME_COMPLETED)
    outbox.conclude(ended)
    outbox.log("a", "ffmpeg", b"not yet flushed\n", {"x": 50})
    outbox.close()
    outbox = Outbox(tmp_path / "outbox", lambda: 900)
    assert outbox.load() == ["a", "b", "c"]
    held = {holding.attempt_id: (holding.phase, holding.incarnation) for holding in outbox.holdings()}
    assert held == {"a": (pb.PHASE_ACCEPTED, "i"), "b": (pb.PHASE_PUBLISHING, "i"), "c": (pb.PHASE_ENDED, "i")}
    assert outbox.marks("a") == {"x": 30}
    outbox.restart()
    said = list(outbox.take())
    assert [frame.WhichOneof("frame") for frame in said] == ["log", "ended"]
    assert (said[0].log.sequence, said[0].log.data) == (102, b"https://***host/\n")
    assert said[1].ended == ended
    outbox.log("a", "ffmpeg", b"on\n", {"x": 33})
    outbox.flush()
    assert [frame.log.sequence for frame in outbox.take()] == [103]
    outbox.acknowledge(pb.Acknowledgement(attempt_id="c"))
    outbox.forget("b")
    assert sorted(path.name for path in (tmp_path / "outbox").iterdir()) == ["a"]


async def test_strangers_in_its_folder_are_left_alone(tmp_path: Path) -> None:
    """What is no file is none of its own, and keeps no agent from starting."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    outbox = Outbox(tmp_path)
    assert outbox.load() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "lost+found", "pipe"]
