"""What callers may ask for at all, whatever the request: which jobs, how many, under which texts."""

from __future__ import annotations

from collections.abc import Sequence

from controller.store import queries
from controller.store.queries import JOB_ID_LENGTH, MOST_PREFIXES
from controller.store.tables import DEFAULT_TENANT
from mediactl.v1 import job_pb2, job_service_pb2
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

MOST_CHOSEN = 10_000
"""Jobs that one hold, release or retry takes at the most, and ids that a filter may name."""
MOST_PARENTS = 1000
MOST_MESSAGE = 4096
MOST_REQUEST_ID = 256
MOST_OF_A_FILTER = 100
DEFAULT_LIFETIME_S = 3600
MOST_LIFETIME_S = 7 * 86_400
"""Of signed URLs: what S3 and Google allow."""


def chosen(message: job_pb2.JobFilter) -> queries.Filter:
    """Raises InvalidRequest where it asks for what no job can be, or for too much at once."""
    problems = []
    if len(message.ids) > MOST_CHOSEN or _shortened(message.ids) > MOST_PREFIXES:
        told = f"at most {MOST_CHOSEN} ids are expected, at most {MOST_PREFIXES} of them shortened"
        problems.append(_wrong("filter.ids", told))
    elif not all(given.isprintable() for given in message.ids):
        problems.append(_wrong("filter.ids", "ids of jobs are expected"))
    for field, texts in (
        ("preset", [message.preset]),
        ("queue", [message.queue]),
        ("reasons", message.reasons),
        ("labels", [*message.labels, *message.labels.values()]),
    ):
        if len(texts) > MOST_OF_A_FILTER or any(len(text) > 256 or not text.isprintable() for text in texts):
            told = f"at most {MOST_OF_A_FILTER} texts of at most 256 printable characters are expected"
            problems.append(_wrong(f"filter.{field}", told))
    if problems:
        raise InvalidRequest(*problems)
    return queries.Filter(
        tenant=DEFAULT_TENANT,
        ids=tuple(message.ids),
        states=tuple(dict.fromkeys(_state_name(state) for state in message.states)),
        preset=message.preset,
        queue=message.queue,
        labels=dict(message.labels),
        reasons=tuple(message.reasons),
    )


def check(*, request_id: str = "", message: str = "") -> None:
    """Raises InvalidRequest where a caller's text is none that can be kept."""
    if len(request_id) > MOST_REQUEST_ID or not request_id.isprintable():
        raise InvalidRequest(_wrong("request_id", f"at most {MOST_REQUEST_ID} printable characters are expected"))
    if len(message) > MOST_MESSAGE:
        raise InvalidRequest(_wrong("message", f"at most {MOST_MESSAGE} characters are expected, got {len(message)}"))


def check_remains(request: job_service_pb2.FetchRemainsRequest) -> None:
    """Raises InvalidRequest where it names no attempt, or no place in an archive."""
    if not request.attempt_id.isprintable():
        raise InvalidRequest(_wrong("attempt_id", "the id of an attempt is expected"))
    if request.offset < 0:
        raise InvalidRequest(_wrong("offset", f"at least 0 is expected, got {request.offset}"))


def lifetime_s(request: job_service_pb2.SignArtifactsRequest) -> int:
    """Of signed URLs. Raises InvalidRequest where no store signs such."""
    if not request.HasField("lifetime"):
        return DEFAULT_LIFETIME_S
    asked = request.lifetime
    if asked.nanos or not 1 <= asked.seconds <= MOST_LIFETIME_S:
        got = asked.seconds + asked.nanos / 1e9
        told = f"whole seconds from 1 to {MOST_LIFETIME_S} (7 days) are expected, got {got:g}"
        raise InvalidRequest(_wrong("lifetime", told))
    return asked.seconds


def check_parents(specs: Sequence[job_pb2.JobSpec], field: str) -> None:
    """Raises InvalidRequest where looking up what jobs wait for would keep everybody else waiting."""
    problems = []
    for index, spec in enumerate(specs):
        if len(spec.after) > MOST_PARENTS:
            told = f"at most {MOST_PARENTS} jobs are expected, got {len(spec.after)}"
            problems.append(_wrong(field.format(index=index) + "after", told))
    if not problems and _shortened({text for spec in specs for text in spec.after}) > MOST_PREFIXES:
        problems.append(_wrong("jobs", f"`after` with more than {MOST_PREFIXES} shortened ids: give whole ones"))
    if problems:
        raise InvalidRequest(*problems)


def _shortened(ids: Sequence[str] | set[str]) -> int:
    return sum(len(given) != JOB_ID_LENGTH for given in ids)


def _state_name(state: job_pb2.JobState.ValueType) -> str:
    if state not in job_pb2.JobState.values() or state == job_pb2.JOB_STATE_UNSPECIFIED:
        raise InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "filter.states", f"{state} is no state of a job"))
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")


def _wrong(field: str, message: str) -> Problem:
    return Problem(Reason.INVALID_ARGUMENT, field, message)
