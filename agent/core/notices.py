"""What the host says is about to happen to it, and what the agent makes of that. Pure.

Times are seconds since the epoch. A notice is heeded from `LEAD_S` before its time: an event that is announced a week
ahead costs no week of work. What still runs `MARGIN_S` before it is handed back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LEAD_S = 3600.0
"""What is begun later would hardly be done in time."""
MARGIN_S = 30.0
"""To end FFmpeg, report it and clean up. A spot interruption is announced 120 s ahead."""

_OVER = frozenset({"completed", "canceled", "cancelled"})
_MOST = 200


@dataclass(frozen=True, slots=True)
class Notice:
    """`at_s` None: at an unknown time, if at all. `over_s`: when it counts no more, whatever the host says."""

    what: str
    at_s: float | None = None
    over_s: float | None = None

    @property
    def told(self) -> str:
        """In words, with its time."""
        if self.at_s is None:
            return self.what
        return f"{self.what} at {datetime.fromtimestamp(self.at_s, UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"


@dataclass(frozen=True, slots=True)
class Stance:
    """`reason`: why nothing new is taken; empty: it is. `hand_back`: what runs must be given to others now."""

    reason: str = ""
    hand_back: bool = False


def stance(notices: Iterable[Notice], now_s: float) -> Stance:
    """What to do about these notices."""
    near = [
        notice
        for notice in notices
        if (notice.over_s is None or now_s < notice.over_s) and (notice.at_s is None or notice.at_s - now_s <= LEAD_S)
    ]
    return Stance(
        reason="; ".join(notice.told for notice in near),
        hand_back=any(notice.at_s is not None and notice.at_s - now_s <= MARGIN_S for notice in near),
    )


def spot_interruption(text: str) -> list[Notice]:
    """From `spot/instance-action`: `{"action": "terminate", "time": "2026-05-01T06:00:00Z"}`. Raises ValueError."""
    document = _object(json.loads(text))
    return [Notice(f"EC2 spot interruption ({_words(document, 'action')})", _rfc3339(_words(document, "time")))]


def scheduled_events(text: str) -> list[Notice]:
    """From `events/maintenance/scheduled`, a list; those that were completed or cancelled are left out.

    Raises ValueError.
    """
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError("a list is expected")
    notices = []
    for document in map(_object, found):
        if _words(document, "State", "active").lower() in _OVER:
            continue
        ends = _words(document, "NotAfter", "")
        notices.append(
            Notice(
                f"EC2 scheduled event {_words(document, 'Code')} ({_words(document, 'Description', 'no description')})",
                parsedate_to_datetime(_words(document, "NotBefore")).timestamp(),
                parsedate_to_datetime(ends).timestamp() if ends else None,
            )
        )
    return notices


def rebalance_recommendation(text: str) -> list[Notice]:
    """From `events/recommendations/rebalance`: `{"noticeTime": "2026-05-01T06:00:00Z"}`. Raises ValueError."""
    _rfc3339(_words(_object(json.loads(text)), "noticeTime"))
    return [Notice("EC2 rebalance recommendation: a spot interruption is likely")]


def _object(document: object) -> dict[object, object]:
    if not isinstance(document, dict):
        raise ValueError("an object is expected")
    return document


def _words(document: dict[object, object], key: str, default: str | None = None) -> str:
    value = document.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"text is expected as {key}")
    return "".join(char for char in value if char.isprintable())[:_MOST]


def _rfc3339(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
