"""The ledger in terms of the wire: what attempts say goes in here, the session takes it from here.

Everything that must reach the controller is on disk before it is sent, and stays there until it is acknowledged. Logs
are bounded, per attempt and altogether: beyond that the newest pieces are dropped first and the gap is noted in the
log. Reports are never dropped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from agent.core.ledger import Effect, Held, Ledger, Phase
from agent.media.logs import CHUNK_BYTES, redact
from agent.spool import Spool, Stored
from mediactl.v1 import agent_service_pb2 as pb

log = structlog.get_logger()

_PHASES = {
    Phase.ACCEPTED: pb.PHASE_ACCEPTED,
    Phase.RUNNING: pb.PHASE_RUNNING,
    Phase.STAGED: pb.PHASE_STAGED,
    Phase.PUBLISHING: pb.PHASE_PUBLISHING,
    Phase.ENDED: pb.PHASE_ENDED,
}

Reliable = Stored | pb.StageReport | pb.EndReport


@dataclass(slots=True)
class _Gathered:
    """Pieces of one stream that wait for each other, and how far that has come in each of their sources."""

    data: bytearray = field(default_factory=bytearray)
    marks: dict[str, int] = field(default_factory=dict)


class Outbox:
    """Belongs to one event loop. `fresh` is set when there is something new to say. `now_us` numbers chunks of logs.

    Without a folder nothing of it survives this process.
    """

    def __init__(self, folder: Path | None = None, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._folder = folder
        self._now_us = now_us
        self.ledger: Ledger[Stored, pb.StageReport, pb.EndReport] = Ledger()
        self.fresh = asyncio.Event()
        self.urgent = False
        """The status changed in a way that should not wait for the next throttled one."""
        self.empty = asyncio.Event()
        self.empty.set()
        self._unsent: list[Reliable | pb.Decline | pb.Recall] = []
        self._asked: dict[str, pb.Recall] = {}
        self.recalls = False
        """The controller answers Recall."""
        self._gathered: dict[tuple[str, str], _Gathered] = {}
        self._incarnations: dict[str, str] = {}
        self._spools: dict[str, Spool] = {}
        self._marks: dict[str, dict[str, int]] = {}

    def load(self) -> list[str]:
        """Hold again what a former life of the agent held; the attempts. Raises OSError."""
        if self._folder is None:
            return []
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._folder.iterdir()):
            if path.is_symlink() or not path.is_file():
                log.warning("the outbox holds something that is not the agent's", path=str(path))
                continue
            spool = Spool(path, path.name)
            owed = None if path.name.startswith(".") else spool.read()
            if owed is None:
                # It was killed before it took the attempt, or while it wrote a file anew.
                spool.remove()
                continue
            self._spools[path.name] = spool
            self._incarnations[path.name] = owed.incarnation
            self._marks[path.name] = owed.marks
            self.ledger.take_up(
                path.name,
                first=owed.first,
                sequences=owed.sequences,
                logs={(log.stream, log.sequence): (log, log.size) for log in owed.logs},
                staged=owed.staged,
                publishing=owed.publishing,
                ended=owed.ended,
            )
            self.empty.clear()
        return [held.attempt_id for held in self.ledger]

    def marks(self, attempt_id: str) -> Mapping[str, int]:
        """How far each source of the logs had been taken in, in bytes, when the attempt was held again."""
        return self._marks.get(attempt_id, {})

    def forget(self, attempt_id: str) -> None:
        """Hold it no longer, though the controller did not say so: nothing of it is here."""
        self.ledger.forget(attempt_id)
        self._let_go(attempt_id)

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

    def lease(self, attempt_id: str, incarnation: str = "", *, to_publish: bool = False) -> Effect:
        """Raises OSError where that can't be written down."""
        if not self.ledger.is_new(attempt_id, to_publish=to_publish):
            return Effect.NOTHING
        first = self._now_us()
        spool = Spool(self._folder / attempt_id if self._folder else None, attempt_id)
        spool.begin(incarnation, first)
        self._spools[attempt_id] = spool
        self._incarnations[attempt_id] = incarnation
        self.empty.clear()
        return self.ledger.lease(attempt_id, first, to_publish=to_publish)

    def decline(self, refusal: pb.Decline) -> None:
        """Say that a lease can't be taken. It is owed nothing: the lease is repeated until it is answered."""
        self._say(refusal)

    def ask(self, question: pb.Recall) -> None:
        """Ask on this and every later session, until it is answered or withdrawn."""
        self._asked[question.attempt_id] = question
        self._say(question)

    def withdraw(self, attempt_id: str) -> None:
        """Ask no more."""
        self._asked.pop(attempt_id, None)

    def status(
        self, attempt_id: str, *, progress: float, activity: str, speed: float, phase: Phase | None = None
    ) -> None:
        held = self._of(attempt_id)
        if phase is not None and phase is not held.phase:
            held.phase = phase
            self.urgent = True
        held.progress, held.activity, held.speed = progress, activity, speed
        self.fresh.set()

    def log(self, attempt_id: str, stream: str, data: bytes, marks: Mapping[str, int] | None = None) -> None:
        """Take in a piece of a log, and with it how far its source was taken in.

        Pieces wait for each other until `flush`: a chunk costs the controller a commit.
        """
        gathered = self._gathered.setdefault((attempt_id, stream), _Gathered())
        gathered.data.extend(data)
        gathered.marks.update(marks or {})
        if len(gathered.data) >= CHUNK_BYTES:
            self.flush()
        self.fresh.set()

    def flush(self) -> None:
        """Make chunks of what was gathered; credentials are blanked out."""
        gathered, self._gathered = self._gathered, {}
        for (attempt_id, stream), pieces in gathered.items():
            clean = redact(bytes(pieces.data))
            for start in range(0, len(clean), CHUNK_BYTES):
                piece = clean[start : start + CHUNK_BYTES]
                last = start + CHUNK_BYTES >= len(clean)
                if self.ledger.has_room(attempt_id, len(piece)):
                    self._note_loss(attempt_id, stream)
                self._chunk(attempt_id, stream, piece, pieces.marks if last else {})

    def _note_loss(self, attempt_id: str, stream: str) -> None:
        lost = self.ledger.take_dropped(attempt_id, stream)
        if lost:
            note = f"[{lost} bytes of log were dropped here: the controller could not take them in time]\n"
            self._chunk(attempt_id, stream, note.encode(), {}, note=True)

    def _chunk(self, attempt_id: str, stream: str, piece: bytes, marks: dict[str, int], *, note: bool = False) -> None:
        sequence = self.ledger.log_sequence(attempt_id, stream, len(piece), note=note)
        if sequence is None:
            return
        try:
            stored = self._spools[attempt_id].log(stream, sequence, piece, marks)
        except OSError as error:
            self.ledger.drop(attempt_id, stream, len(piece))
            log.warning("a piece of a log could not be kept", attempt=attempt_id, error=str(error))
            return
        self.ledger.owe_log(attempt_id, stream, sequence, len(piece), stored)
        self._say(stored)

    def stage(self, report: pb.StageReport) -> None:
        self.flush()
        self._written(report.attempt_id, lambda spool: spool.stage(report))
        self.ledger.owe_stage(report.attempt_id, report)
        self._say(report)

    def publish(self, attempt_id: str) -> Effect:
        """The controller permits an attempt to publish."""
        effect = self.ledger.publish(attempt_id)
        if effect is Effect.PUBLISH:
            self._written(attempt_id, Spool.publish)
        return effect

    def conclude(self, report: pb.EndReport) -> None:
        """Write down how an attempt ended, before its workspace goes; `end` says it."""
        self.flush()
        for stream in list(self._of(report.attempt_id).dropped):
            self._note_loss(report.attempt_id, stream)
        self._written(report.attempt_id, lambda spool: spool.end(report))

    def end(self, report: pb.EndReport) -> None:
        """Say how an attempt ended, which `conclude` wrote down."""
        self.ledger.owe_end(report.attempt_id, report)
        self._say(report)

    def report_stopped(self, attempt_id: str) -> None:
        """Answer the stop of an attempt of which nothing is here."""
        self.lease(attempt_id)
        report = pb.EndReport(attempt_id=attempt_id, outcome=pb.OUTCOME_STOPPED, staging_left=True)
        self.conclude(report)
        self.end(report)

    def acknowledge(self, message: pb.Acknowledgement) -> None:
        attempt_id = message.attempt_id
        held = self.ledger.get(attempt_id)
        if held is None:
            return
        if message.stream:
            self.ledger.acknowledge_log(attempt_id, message.stream, message.sequence)
            self._written(
                attempt_id,
                lambda spool: spool.acknowledge(message.stream, message.sequence, all_of_it=not held.logs),
            )
        else:
            self.ledger.acknowledge_end(attempt_id)
            if self.ledger.get(attempt_id) is None:
                self._let_go(attempt_id)

    def restart(self) -> None:
        """A new session begins: everything owed is to be said again."""
        self.ledger.begin_session()
        self.flush()
        self._unsent = [*self.ledger.owed(), *self._asked.values()]
        self.fresh.set()

    def take(self) -> Iterator[pb.SessionRequest]:
        """Everything not yet said on this session, read from disk as it is taken."""
        taken, self._unsent = self._unsent, []
        for item in taken:
            match item:
                case Stored():
                    held = self.ledger.get(item.attempt_id)
                    # It may have been acknowledged, and its place used again, while earlier ones were sent.
                    if held is not None and (item.stream, item.sequence) in held.logs:
                        yield pb.SessionRequest(log=self.chunk(item))
                case pb.StageReport():
                    yield pb.SessionRequest(staged=item)
                case pb.EndReport():
                    yield pb.SessionRequest(ended=item)
                case pb.Decline():
                    yield pb.SessionRequest(decline=item)
                case pb.Recall():
                    if self.recalls:
                        yield pb.SessionRequest(recall=item)

    def chunk(self, stored: Stored) -> pb.LogChunk:
        """A chunk that is owed, from disk."""
        return self._spools[stored.attempt_id].chunk(stored)

    def close(self) -> None:
        """Keep what was flushed for the next life of the agent."""
        for spool in self._spools.values():
            spool.close()
        self._spools.clear()

    def _written(self, attempt_id: str, write: Callable[[Spool], None]) -> None:
        try:
            write(self._spools[attempt_id])
        except OSError as error:
            # It is still said. What is lost is that it could be said by another life of the agent.
            log.warning("the outbox cannot be written", attempt=attempt_id, error=str(error))

    def _let_go(self, attempt_id: str) -> None:
        self._incarnations.pop(attempt_id, None)
        self._marks.pop(attempt_id, None)
        if (spool := self._spools.pop(attempt_id, None)) is not None:
            spool.remove()
        if not len(self.ledger):
            self.empty.set()

    def _of(self, attempt_id: str) -> Held[Stored, pb.StageReport, pb.EndReport]:
        held = self.ledger.get(attempt_id)
        if held is None:
            raise KeyError(attempt_id)
        return held

    def _say(self, item: Reliable | pb.Decline | pb.Recall) -> None:
        self._unsent.append(item)
        self.fresh.set()
