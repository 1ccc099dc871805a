"""What can go wrong with an HTTP request to an object store, and plans that say at which requests it does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    CUT_BEFORE = "cut before the request is forwarded"
    CUT_IN_REQUEST = "cut in the middle of the request's body"
    CUT_AFTER = "cut when the server has done it, before its answer"
    CUT_IN_ANSWER = "cut in the middle of the answer's body"
    SILENT = "no answer at all"
    SLOW = "an answer that trickles"
    ERROR = "500 InternalError"
    SLOW_DOWN = "503 SlowDown"
    CONFLICT = "409 ConditionalRequestConflict"
    TRUNCATED = "an answer that ends early, its length right"
    WRONG_LENGTH = "an answer that is short and says so"
    WRONG_BYTES = "an answer with one byte changed"
    STALE = "an answer from before the last write"
    REDIRECT = "307 to a place that has something else"


@dataclass(frozen=True, slots=True)
class Fault:
    """Befalls request number `at` (from 1), and with `on` each one after it as well."""

    at: int
    kind: Kind
    on: bool = False

    def __str__(self) -> str:
        return f"request {self.at}{' and on' if self.on else ''}: {self.kind}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of a run; where several befall one request, the first of them does."""

    faults: Sequence[Fault] = ()

    @classmethod
    def drawn(cls, seed: int, *, requests: int, faults: int) -> Plan:
        """`faults` kinds at different ones of the first `requests` requests: a function of its arguments alone."""
        dice = random.Random(f"http {seed}")  # noqa: S311 - no secret
        places = sorted(dice.sample(range(1, requests + 1), faults))
        return cls(tuple(Fault(at, dice.choice(list(Kind))) for at in places))

    def fault_at(self, number: int) -> Kind | None:
        return next(
            (fault.kind for fault in self.faults if fault.at == number or (fault.on and fault.at < number)), None
        )

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults)) or "no fault"
