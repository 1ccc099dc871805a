"""The tasks that wait, as the matcher wants them: lanes by their heads, read no further than it comes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from controller.core.fitting import Candidate
from controller.core.matching import Lane
from controller.store.lanes import known_lanes
from controller.store.work import NONE
from controller.store.writer import Tx
from presets.capabilities import Requirements

PAGE = 128
"""How many tasks of a lane are read in one go."""

_NOTHING: Mapping[str, str] = MappingProxyType({})
_NOBODY: frozenset[str] = frozenset()


def candidate(task: Any, now_us: int) -> Candidate:
    """A tasks row as the matcher wants it."""
    return Candidate(
        task_id=task.id,
        requirements=_requirements(task.requirements),
        require=json.loads(task.require) if task.require != "{}" else _NOTHING,
        paths=tuple(json.loads(task.paths)),
        waited_s=max(0, now_us - task.ready_us) / 1e6,
        avoid=frozenset(json.loads(task.avoid)) if task.avoid != NONE else _NOBODY,
    )


_parsed: dict[str, Requirements] = {}


def _requirements(document: str) -> Requirements:
    # Few different ones exist however long the line is.
    found = _parsed.get(document)
    if found is None:
        if len(_parsed) > 1000:
            _parsed.clear()
        found = _parsed[document] = Requirements.from_json(json.loads(document))
    return found


_HEADS = """
    WITH RECURSIVE line(lane) AS (
        SELECT min(lane) FROM tasks WHERE state = 'PENDING'
        UNION ALL
        SELECT (SELECT min(lane) FROM tasks WHERE state = 'PENDING' AND lane > line.lane)
        FROM line WHERE line.lane IS NOT NULL
    )
    SELECT lane,
        (SELECT ready_us FROM tasks WHERE state = 'PENDING' AND lane = line.lane ORDER BY seq LIMIT 1) AS ready_us
    FROM line WHERE lane IS NOT NULL
"""
"""Every lane that has waiting tasks, with the time since when its head waits: an index probe for each, whatever stands
behind the heads (a "loose index scan")."""

_PAGE = (
    "SELECT tenant, id, job_id, requirements, require, paths, avoid, ready_us, seq FROM tasks"
    " WHERE state = 'PENDING' AND lane = :lane AND seq > :after ORDER BY seq LIMIT :most"
)


@dataclass(slots=True)
class Line:
    """The waiting tasks as lanes; tasks are read when the matcher comes to them."""

    tx: Tx
    job_keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    lane_keys: dict[str, str] = field(default_factory=dict)

    def lanes(self) -> list[Lane]:
        heads = self.tx.rows(_HEADS)
        facts = known_lanes(self.tx, [row.lane for row in heads])
        return [
            Lane(
                key=row.lane,
                class_key=one.class_key,
                feasibility_key=one.feasibility_key,
                share=(one.tenant, one.queue),
                priority=one.priority,
                limit_keys=tuple(json.loads(one.limit_keys)),
                head_waited_s=max(0, self.tx.now_us - row.ready_us) / 1e6,
                tasks=self._tasks(row.lane),
            )
            for row in heads
            if (one := facts.get(row.lane)) is not None
        ]

    def _tasks(self, lane: str) -> Iterator[Candidate]:
        after, most = -1, 4
        while rows := self.tx.rows(_PAGE, lane=lane, after=after, most=most):
            for row in rows:
                self.job_keys[row.id] = (row.tenant, row.job_id)
                self.lane_keys[row.id] = lane
                yield candidate(row, self.tx.now_us)
            if len(rows) < most:
                return
            after, most = rows[-1].seq, PAGE
