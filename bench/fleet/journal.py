"""What simulated agents did, as lines of JSON in a file: for checks from outside, and across the death of the process.

Each line is one of

    {"what": "leased" | "published" | "ended" | "acknowledged" | "stopped", "agent": …, "attempt": …, "at": …}

with `job` where it was leased, `outputs` ([[URI, SHA-256], …]) where it was published, `outcome` where it ended and
`reason` where it was stopped. `at` is seconds of the machine's monotonic clock.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from bench.fleet.agent import SimulatedAgent
from bench.fleet.hooks import Hooks
from mediactl.v1 import agent_service_pb2 as pb


def journalling(file: IO[str]) -> Hooks:
    """Hooks that write each line as it happens. Open the file with `buffering=1`: a line is whole or absent then,
    whenever the process is killed."""

    def note(what: str, agent: SimulatedAgent, attempt_id: str, **more: object) -> None:
        entry = {"what": what, "agent": agent.agent_id, "attempt": attempt_id, "at": time.monotonic()} | more
        file.write(json.dumps(entry) + "\n")

    def published(agent: SimulatedAgent, attempt_id: str, records: Sequence[pb.RedoRecord]) -> None:
        outputs = [[record.artifact.uri, record.artifact.sha256] for record in records]
        note("published", agent, attempt_id, outputs=outputs)

    return Hooks(
        leased=lambda agent, lease: note("leased", agent, lease.attempt_id, job=lease.job_id),
        published=published,
        ended=lambda agent, report: note(
            "ended", agent, report.attempt_id, outcome=pb.Outcome.Name(report.outcome).removeprefix("OUTCOME_")
        ),
        acknowledged=lambda agent, attempt_id: note("acknowledged", agent, attempt_id),
        stopped=lambda agent, stop: note("stopped", agent, stop.attempt_id, reason=stop.reason),
    )


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All lines so far; a last one that isn't whole is left out."""
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
