"""The ledger in terms of the wire: what attempts say goes in here, the session takes it from here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from agent.core.ledger import Effect, Held, Ledger, Phase
from agent.media.logs import CHUNK_BYTES, redact
from mediactl.v1 import agent_service_pb2 as pb

_PHASES = {
    Phase.ACCEPTED: pb.PHASE_ACCEPTED,
    Phase.RUNNING: pb.PHASE_RUNNING,
    Phase.STAGED: pb.PHASE_STAGED,
    Phase.PUBLISHING: pb.PHASE_PUBLISHING,
    Phase.ENDED: pb.PHASE_ENDED,
}


class Outbox:
    """Belongs to one event loop. `fresh` is set when there is something new to say. `now_us` numbers chunks of logs."""

    def __init__(self, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._now_us = now_us
        self.ledger: Ledger[pb.LogChunk, pb.StageReport, pb.EndReport] = Ledger()
        self.fresh = asyncio.Event()
        self.urgent = False
        """The status changed in a way that should not wait for the next throttled one."""
        self.empty = asyncio.Event()
        self.empty.set()
        self._unsent: list[pb.SessionRequest] = []
        self._gathered: dict[tuple[str, str], bytearray] = {}
        self._incarnations: dict[str, str] = {}

    def holdings(self) -> list[pb.Holding]:
        return [
            pb.Holding(
                attempt_id=held.attempt_id,
                phase=_PHASES[held.phase],
                progress=held.progress,
                activity=held.activity,
                speed=held.speed,
                incarnation=self._incarnations.get(held.attempt_id, ""),
            )
            for held in self.ledger
        ]

    def lease(self, attempt_id: str, incarnation: str = "") -> Effect:
        effect = self.ledger.lease(attempt_id, self._now_us())
        if effect is Effect.START:
            self._incarnations[attempt_id] = incarnation
        self.empty.clear()
        return effect

    def decline(self, refusal: pb.Decline) -> None:
        """Say that a lease can't be taken. It is owed nothing: the lease is repeated until it is answered."""
        self._say(pb.SessionRequest(decline=refusal))

    def status(
        self, attempt_id: str, *, progress: float, activity: str, speed: float, phase: Phase | None = None
    ) -> None:
        held = self._of(attempt_id)
        if phase is not None and phase is not held.phase:
            held.phase = phase
            self.urgent = True
        held.progress, held.activity, held.speed = progress, activity, speed
        self.fresh.set()

    def log(self, attempt_id: str, stream: str, data: bytes) -> None:
        """Take in a piece of a log. Pieces wait for each other until `flush`: a chunk costs the controller a commit."""
        gathered = self._gathered.setdefault((attempt_id, stream), bytearray())
        gathered.extend(data)
        if len(gathered) >= CHUNK_BYTES:
            self.flush()
        self.fresh.set()

    def flush(self) -> None:
        """Make chunks of what was gathered; credentials are blanked out."""
        gathered, self._gathered = self._gathered, {}
        for (attempt_id, stream), data in gathered.items():
            clean = redact(bytes(data))
            for start in range(0, len(clean), CHUNK_BYTES):
                piece = clean[start : start + CHUNK_BYTES]
                if self.ledger.has_room(attempt_id, len(piece)):
                    self._note_loss(attempt_id, stream)
                self._chunk(attempt_id, stream, piece)

    def _note_loss(self, attempt_id: str, stream: str) -> None:
        lost = self.ledger.take_dropped(attempt_id, stream)
        if lost:
            note = f"[{lost} bytes of log were dropped here: the controller could not take them in time]\n"
            self._chunk(attempt_id, stream, note.encode(), note=True)

    def _chunk(self, attempt_id: str, stream: str, piece: bytes, *, note: bool = False) -> None:
        sequence = self.ledger.log_sequence(attempt_id, stream, len(piece), note=note)
        if sequence is None:
            return
        chunk = pb.LogChunk(attempt_id=attempt_id, stream=stream, sequence=sequence, data=piece)
        self.ledger.owe_log(attempt_id, stream, sequence, len(piece), chunk)
        self._say(pb.SessionRequest(log=chunk))

    def stage(self, report: pb.StageReport) -> None:
        self.flush()
        self.ledger.owe_stage(report.attempt_id, report)
        self._say(pb.SessionRequest(staged=report))

    def end(self, report: pb.EndReport) -> None:
        self.flush()
        for stream in list(self._of(report.attempt_id).dropped):
            self._note_loss(report.attempt_id, stream)
        self.ledger.owe_end(report.attempt_id, report)
        self._say(pb.SessionRequest(ended=report))

    def report_stopped(self, attempt_id: str) -> None:
        """Answer the stop of an attempt of which nothing is here."""
        self.lease(attempt_id)
        self.end(pb.EndReport(attempt_id=attempt_id, outcome=pb.OUTCOME_STOPPED))

    def acknowledge(self, message: pb.Acknowledgement) -> None:
        if message.stream:
            self.ledger.acknowledge_log(message.attempt_id, message.stream, message.sequence)
        else:
            self.ledger.acknowledge_end(message.attempt_id)
            if self.ledger.get(message.attempt_id) is None:
                self._incarnations.pop(message.attempt_id, None)
            if not len(self.ledger):
                self.empty.set()

    def restart(self) -> None:
        """A new session begins: everything owed is to be said again."""
        self.flush()
        self._unsent = [_frame(message) for message in self.ledger.owed()]
        self.fresh.set()

    def take(self) -> Iterable[pb.SessionRequest]:
        """Everything not yet said on this session."""
        taken, self._unsent = self._unsent, []
        return taken

    def _of(self, attempt_id: str) -> Held[pb.LogChunk, pb.StageReport, pb.EndReport]:
        held = self.ledger.get(attempt_id)
        if held is None:
            raise KeyError(attempt_id)
        return held

    def _say(self, frame: pb.SessionRequest) -> None:
        self._unsent.append(frame)
        self.fresh.set()


def _frame(message: pb.LogChunk | pb.StageReport | pb.EndReport) -> pb.SessionRequest:
    match message:
        case pb.LogChunk():
            return pb.SessionRequest(log=message)
        case pb.StageReport():
            return pb.SessionRequest(staged=message)
        case _:
            return pb.SessionRequest(ended=message)
