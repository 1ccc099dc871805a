"""What must hold of a queue whatever happened to it, checked by the public API and what agents noted themselves."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from controller.core.states import TRANSITIONS, JobState, TaskState, next_state
from mediactl.client import Client
from mediactl.requests import ENDED
from mediactl.v1 import job_pb2
from tests.fakes.running import _MOVES, _NO_MOVES

_TAKEN = ("leased",)
_PREFIX = "JOB_STATE_"


def check_history(client: Client, acknowledged: Collection[str], watched: Sequence[job_pb2.Event] = ()) -> None:
    """Every acknowledged job, and no other, is in one end; its events are numbered without gap and lead there.

    WatchJobs from the beginning tells the events of ListEvents, no more and no fewer, and `watched`, what somebody saw
    who watched all the while, are the same.
    """
    jobs = {job.id: job for job in client.list()}
    assert len(set(acknowledged)) == len(acknowledged)
    assert jobs.keys() == set(acknowledged)
    told = [update.event for update in client.watch({}) if update.HasField("event")]
    by_job = {job_id: list(client.events(job_id)) for job_id in jobs}
    listed = sorted((event for events in by_job.values() for event in events), key=lambda event: event.cursor)
    _assert_same(told, listed, "WatchJobs from the beginning")
    if watched:
        _assert_same(watched, listed, "whoever watched all the while")
    for job_id, events in by_job.items():
        _check_job(client.get(job_id), events)


def _assert_same(seen: Sequence[job_pb2.Event], listed: Sequence[job_pb2.Event], how: str) -> None:
    cursors = [event.cursor for event in seen]
    assert cursors == sorted(set(cursors)), f"{how}: out of order, or twice"
    missing = {event.cursor for event in listed} - set(cursors)
    assert not missing, f"{how} missed {[event for event in listed if event.cursor in missing]}"
    assert [event.SerializeToString() for event in seen] == [event.SerializeToString() for event in listed], how


def _check_job(job: job_pb2.Job, events: Sequence[job_pb2.Event]) -> None:
    assert job.state in ENDED, job
    assert [event.sequence for event in events] == list(range(1, len(events) + 1)), job.id
    assert events[0].type == "submitted"
    assert events[-1].job_state == job.state
    ends = [
        after.job_state
        for before, after in itertools.pairwise(events)
        if after.job_state in ENDED and before.job_state != after.job_state
    ]
    assert ends == [job.state], (job.id, ends)
    states: dict[str, TaskState] = {}
    for event in events:
        if event.task_id and event.type not in _NO_MOVES:
            states[event.task_id] = _moved(states.get(event.task_id), event.type)
    assert {task.id: task.state for task in job.tasks} == {key: str(state) for key, state in states.items()}
    assert JobState(job_pb2.JobState.Name(job.state).removeprefix(_PREFIX))
    counted = Counter(event.type for event in events)
    assert job.attempt_count == len(job.attempts) == counted["leased"] - counted["declined"]
    assert len({attempt.id for attempt in job.attempts}) == len(job.attempts)
    assert all(attempt.HasField("end_time") for attempt in job.attempts)
    completed = [attempt.state for attempt in job.attempts].count("completed")
    assert completed == (job.state == job_pb2.JOB_STATE_COMPLETED)
    assert bool(job.artifacts) == (job.state == job_pb2.JOB_STATE_COMPLETED)


def _moved(before: TaskState | None, what: str) -> TaskState:
    event = _MOVES[what]
    if before is not None:
        return next_state(before, event)
    # How it began isn't told, but one thing only can follow from it.
    [after] = {after for (_, by), after in TRANSITIONS.items() if by == event}
    return after


Journal = Iterable[Mapping[str, Any]]


def check_publications(jobs: Iterable[job_pb2.Job], journal: Journal) -> None:
    """Outputs of every COMPLETED job became visible, by its last attempt alone; those of others never did."""
    published: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    taken: Counter[str] = Counter()
    for entry in journal:
        taken[str(entry["attempt"])] += entry["what"] in _TAKEN
        if entry["what"] == "published":
            published[str(entry["attempt"]).partition("-")[0]].append(entry)
    for job in jobs:
        entries = published.pop(job.id, [])
        if job.state != job_pb2.JOB_STATE_COMPLETED:
            assert not entries, (job.id, job_pb2.JobState.Name(job.state), entries)
            continue
        last = job.attempts[-1].id
        assert {entry["attempt"] for entry in entries} == {last}, (job.id, last, entries)
        # Once by each agent that held it: finishing what another one began changes nothing.
        assert len(entries) <= taken[last], (job.id, entries)
        outputs = sorted([artifact.uri, artifact.sha256] for artifact in job.artifacts)
        assert all(sorted(entry["outputs"]) == outputs for entry in entries), (job.id, entries)
    assert not published, f"published for jobs that nobody knows: {published}"


def check_files(jobs: Iterable[job_pb2.Job], folder: Path) -> None:
    """What is in `folder` is exactly what COMPLETED jobs say they published there; hidden files aside."""
    promised = {artifact.uri: artifact.sha256 for job in jobs for artifact in job.artifacts}
    there = {
        path.as_uri(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }
    assert there == promised


def check_logs(client: Client, journal: Journal) -> None:
    """Every line whose receipt was acknowledged is in its job's log, once and as it was said."""
    said = {
        (str(entry["attempt"]), str(entry["stream"]), int(entry["sequence"])): str(entry["text"])
        for entry in journal
        if entry["what"] == "log_acknowledged"
    }
    for job_id in sorted({attempt.partition("-")[0] for attempt, _, _ in said}):
        pieces = [((piece.attempt_id, piece.stream, piece.sequence), piece.data) for piece in client.logs(job_id)]
        kept = dict(pieces)
        assert len(kept) == len(pieces), f"{job_id}: a piece of the log was told twice"
        wanted = {key: text.encode() for key, text in said.items() if key[0].partition("-")[0] == job_id}
        lost = {key: (text, kept.get(key)) for key, text in wanted.items() if kept.get(key) != text}
        assert not lost, (f"the log of {job_id} lacks {lost}", pieces, [*client.events(job_id)])


def most_at_once(spans: Iterable[tuple[float, float]]) -> int:
    """The most that were open at one moment; an end and a beginning at the same moment don't overlap."""
    moments = sorted(moment for begun, ended in spans for moment in ((begun, 1), (ended, -1)))
    return max(itertools.accumulate(change for _, change in moments), default=0)
