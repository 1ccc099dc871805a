"""What one attempt owes the controller, on disk: survives the agent, not the machine.

A file of records, each a JSON line and, where that says so, bytes behind it. It is appended to and never fsynced: a
machine that stops takes the attempt itself along. What a killed agent had half written is cut off when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from mediactl.v1 import agent_service_pb2 as pb

M = TypeVar("M", bound=Message)

TRIM_BYTES = 2**20
"""A file larger than this is begun anew as soon as no log in it is owed any more."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a chunk of log is in the file of its attempt."""

    attempt_id: str
    stream: str
    sequence: int
    offset: int
    size: int


@dataclass(slots=True)
class Owed:
    """What a file held when it was read. `first` and `sequences` number chunks as in the ledger; `marks` are how far
    each source of the logs had been taken in, in bytes."""

    incarnation: str = ""
    first: int = 0
    sequences: dict[str, int] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)
    logs: list[Stored] = field(default_factory=list)
    staged: pb.StageReport | None = None
    publishing: bool = False
    ended: pb.EndReport | None = None


class Spool:
    """The file of one attempt. `path` None: in memory, for whoever needs no restart. Methods raise OSError."""

    def __init__(self, path: Path | None, attempt_id: str) -> None:
        self._path = path
        self._attempt_id = attempt_id
        if path is None:
            self._fd = os.memfd_create("spool", os.MFD_CLOEXEC)
        else:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = 0
        self._owed = Owed()

    def begin(self, incarnation: str, first: int) -> None:
        """The attempt is held from now on."""
        self._owed = Owed(incarnation, first)
        self._append(self._head())

    def read(self) -> Owed | None:
        """What the file holds; None where an attempt was not even begun in it. Once, before anything is added."""
        begun = False
        owed = Owed()
        for head, offset, size in self._records():
            body = os.pread(self._fd, size, offset)
            match head:
                case {"held": str(incarnation), "first": int(first), "sequences": dict(), "marks": dict()}:
                    owed, begun = Owed(incarnation, first, head["sequences"], head["marks"]), True
                case {"log": str(stream), "sequence": int(sequence), "marks": dict(marks)}:
                    owed.logs.append(Stored(self._attempt_id, stream, sequence, offset, size))
                    owed.sequences[stream] = sequence
                    owed.marks |= marks
                case {"acknowledged": stream, "sequence": sequence}:
                    owed.logs = [log for log in owed.logs if log.stream != stream or log.sequence > sequence]
                case {"staged": _}:
                    owed.staged = _message(pb.StageReport, body)
                case {"publishing": _}:
                    owed.publishing = True
                case {"ended": _}:
                    owed.ended = _message(pb.EndReport, body)
                case _:
                    # Of another version of this program: what it cannot say is not owed.
                    pass
        os.ftruncate(self._fd, self._size)
        self._owed = owed
        return owed if begun else None

    def log(self, stream: str, sequence: int, data: bytes, marks: dict[str, int]) -> Stored:
        """Add a chunk; with it, how far its sources were taken in."""
        head = {"log": stream, "sequence": sequence, "marks": marks, "bytes": len(data)}
        offset = self._append(head, data)
        self._owed.sequences[stream] = sequence
        self._owed.marks |= marks
        return Stored(self._attempt_id, stream, sequence, offset, len(data))

    def chunk(self, stored: Stored) -> pb.LogChunk:
        """A chunk that was added."""
        data = os.pread(self._fd, stored.size, stored.offset)
        return pb.LogChunk(attempt_id=stored.attempt_id, stream=stored.stream, sequence=stored.sequence, data=data)

    def acknowledge(self, stream: str, sequence: int, *, all_of_it: bool) -> None:
        """Chunks of a stream up to this one are durable elsewhere. `all_of_it`: no chunk of any stream is owed now."""
        if all_of_it and self._size > TRIM_BYTES:
            self._begin_anew()
        else:
            self._append({"acknowledged": stream, "sequence": sequence})

    def stage(self, report: pb.StageReport) -> None:
        self._owed.staged = report
        self._report("staged", report.SerializeToString())

    def publish(self) -> None:
        """The controller permits it; nothing takes that back."""
        self._owed.publishing = True
        self._append({"publishing": True})

    def end(self, report: pb.EndReport) -> None:
        self._report("ended", report.SerializeToString())

    def remove(self) -> None:
        """The attempt is over and acknowledged."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def _head(self) -> dict[str, Any]:
        owed = self._owed
        return {
            "held": owed.incarnation,
            "first": owed.first,
            "sequences": owed.sequences,
            "marks": owed.marks,
        }

    def _begin_anew(self) -> None:
        if self._path is None:
            return
        records = _record(self._head())
        if self._owed.staged is not None:
            staged = self._owed.staged.SerializeToString()
            records += _record({"staged": True, "bytes": len(staged)}, staged)
        if self._owed.publishing:
            records += _record({"publishing": True})
        draft = self._path.with_name(f".{self._path.name}.new")
        draft.write_bytes(records)
        fresh = os.open(draft, os.O_RDWR | os.O_CLOEXEC)
        draft.replace(self._path)
        os.close(self._fd)
        self._fd, self._size = fresh, len(records)

    def _report(self, kind: str, report: bytes) -> None:
        self._append({kind: True, "bytes": len(report)}, report)

    def _append(self, head: dict[str, Any], body: bytes = b"") -> int:
        """Returns where the body begins. Either all of the record is there afterwards, or none of it."""
        record = _record(head, body)
        written = 0
        try:
            while written < len(record):
                written += os.pwrite(self._fd, record[written:], self._size + written)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(record)
        return self._size - len(body)

    def _records(self) -> Iterator[tuple[dict[str, Any], int, int]]:
        """Head, offset and size of the body of every whole record; `_size` is where the last one ends."""
        length = os.fstat(self._fd).st_size
        while line := os.pread(self._fd, 65536, self._size):
            head, newline, _ = line.partition(b"\n")
            try:
                said = json.loads(head) if newline else None
            except ValueError:
                said = None
            if not isinstance(said, dict):
                return
            offset, size = self._size + len(head) + 1, said.get("bytes", 0)
            if not isinstance(size, int) or size < 0 or offset + size > length:
                return
            self._size = offset + size
            yield said, offset, size


def _message(kind: type[M], body: bytes) -> M | None:
    """None where it is damaged: then it is not owed, as if it had never been written."""
    try:
        return kind.FromString(body)
    except DecodeError:
        return None


def _record(head: dict[str, Any], body: bytes = b"") -> bytes:
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + body
