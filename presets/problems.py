"""The two ways in which presets refuse: a request that is wrong, and media that cannot be processed."""

import os
from dataclasses import dataclass

from presets.reasons import Reason


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request; ``field`` is its path there, such as ``inputs[1].role``."""

    reason: Reason
    field: str
    message: str


class InvalidRequest(Exception):
    """A request is wrong in every way listed in ``problems``; none of it was carried out."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(f"{p.field}: {p.message}" for p in problems))
        self.problems: tuple[Problem, ...] = problems


class MediaFailure(Exception):
    """The media themselves cannot be processed as asked, which no retry mends unless the reason's row says so."""

    def __init__(self, reason: Reason, message: str) -> None:
        # The name of a file may be no text, and then neither a log nor a message on the wire would take it.
        self.message = os.fsencode(message).decode(errors="replace")
        super().__init__(f"{reason}: {self.message}")
        self.reason = reason
