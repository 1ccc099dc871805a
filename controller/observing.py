"""What becomes of events beside the database: log lines, metrics, the end of progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from controller.core.states import JOB_ENDS
from controller.metrics import Metrics
from controller.sessions import Sessions
from presets.reasons import Reason

log = structlog.get_logger()

_UNTOLD = ("at_us", "since_us", "type", "ended", "preset", "kind", "used")
_FAILED = ("failed", "given_back", "dead")


class Observer:
    """Hears of the events of every commit of this controller."""

    def __init__(self, metrics: Metrics, sessions: Sessions, *, log_transitions: bool) -> None:
        self._metrics = metrics
        self._sessions = sessions
        self._log = log_transitions

    def observe(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Events of one commit, in their order."""
        for event in events:
            self._measure(event)
            if event["job_state"] in JOB_ENDS or event["type"] == "leased":
                self._sessions.forget_progress(event["job_id"])
        if self._log and events:
            _write(events)

    def _measure(self, event: Mapping[str, Any]) -> None:
        metrics = self._metrics
        match event["type"]:
            case "submitted":
                metrics.submitted(1)
            case "started":
                metrics.started((event["at_us"] - event["since_us"]) / 1e6)
            case "declined":
                metrics.lease_ended("declined")
            case kind if kind in _FAILED and event["attempt_id"]:
                metrics.attempt_failed(event["reason"])
                if event["reason"] == Reason.AGENT_LOST:
                    metrics.lease_ended("expired", event["reason"])
            case _:
                pass
        if event["ended"]:
            metrics.job_ended(event["job_state"], event["reason"])
        if event.get("kind") == "media":
            self._measure_preset(event)

    def _measure_preset(self, event: Mapping[str, Any]) -> None:
        if event["ended"]:
            self._metrics.preset_ended(event["preset"], event["job_state"], event["reason"])
        used = event.get("used")
        if used is not None:
            self._metrics.preset_used(
                event["preset"],
                "" if used["state"] == "completed" else event["reason"],
                run_s=(used.get("run_us") or 0) / 1e6,
                cpu_s=used.get("cpu_seconds") or 0.0,
                media_s=(used.get("media_us") or 0) / 1e6,
            )


def _write(events: Sequence[Mapping[str, Any]]) -> None:
    """A line each; for machines all lines of a commit at once, for a line by itself costs more than the commit."""
    told = [{key: value for key, value in event.items() if value and key not in _UNTOLD} for event in events]
    if sys.stderr.isatty():
        for event, shown in zip(events, told, strict=True):
            log.info(f"job {event['type']}", **shown)
        return
    lines = [
        json.dumps(
            {
                "event": f"job {event['type']}",
                **shown,
                "level": "info",
                "timestamp": datetime.fromtimestamp(event["at_us"] / 1e6, UTC).isoformat().replace("+00:00", "Z"),
            }
        )
        for event, shown in zip(events, told, strict=True)
    ]
    sys.stderr.write("\n".join(lines) + "\n")
