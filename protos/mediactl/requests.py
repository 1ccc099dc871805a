"""What the blocking and the asyncio client share: building requests, and outlasting a controller that is away."""

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Generic, Protocol, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from mediactl.errors import MediactlError
from mediactl.v1 import fleet_service_pb2, job_pb2, job_service_pb2
from presets.reasons import Reason

Json = Mapping[str, object]
SpecLike = job_pb2.JobSpec | Json
FilterLike = job_pb2.JobFilter | Json

ENDED: Final = frozenset({job_pb2.JOB_STATE_COMPLETED, job_pb2.JOB_STATE_DEAD, job_pb2.JOB_STATE_CANCELLED})

# A stream that lasted so long without a message was there: connecting takes less.
ESTABLISHED_S: Final = 10.0

_GONE: Final = frozenset(
    {
        Reason.CONTROLLER_UNREACHABLE,
        Reason.CONTROLLER_STOPPING,
        Reason.STORE_UNAVAILABLE,
        Reason.DEPOSIT_ELSEWHERE,
    }
)

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Message)
_Asked = TypeVar("_Asked", covariant=True)
_Answered = TypeVar("_Answered", contravariant=True)


class Following(Protocol[_Asked, _Answered]):
    """A stream as a series of requests, each going on where the one before broke off."""

    def request(self) -> _Asked:
        """What to ask for now."""

    def fresh(self, message: _Answered, /) -> bool:
        """Takes note of a message; False for one that was there before."""


def from_json(value: _M | Json, into: type[_M], *, field: str) -> _M:
    """A message as it is, or read from its protobuf JSON form.

    Raises MediactlError INVALID_ARGUMENT, naming `field`.
    """
    if isinstance(value, into):
        return value
    message = into()
    try:
        # Through text: ParseDict takes over tuples and other objects that JSON has no word for.
        json_format.Parse(json.dumps(value), message)
    except (json_format.ParseError, TypeError, ValueError) as error:
        why = str(error).strip()
        raise MediactlError(
            Reason.INVALID_ARGUMENT, f"{field}: not a {into.__name__}: {why}", fields=((field, why),)
        ) from None
    return message


def submission(specs: Iterable[SpecLike], request_id: str | None) -> job_service_pb2.SubmitJobsRequest:
    """A submission that may be repeated: without an id of the caller's it gets a random one (RFC 4122)."""
    return job_service_pb2.SubmitJobsRequest(
        jobs=[from_json(spec, job_pb2.JobSpec, field=f"jobs[{i}]") for i, spec in enumerate(specs)],
        request_id=request_id or str(uuid.uuid4()),
    )


def retrying(where: FilterLike, request_id: str | None) -> job_service_pb2.RetryJobsRequest:
    """A retry that may be repeated, as `submission`."""
    return job_service_pb2.RetryJobsRequest(filter=selection(where), request_id=request_id or str(uuid.uuid4()))


def replaying(
    job_id: str, request_id: str | None, output_uri: str, overwrite: bool
) -> job_service_pb2.ReplayJobRequest:
    """A replay that may be repeated, as `submission`."""
    return job_service_pb2.ReplayJobRequest(
        job_id=job_id, request_id=request_id or str(uuid.uuid4()), output_uri=output_uri, overwrite=overwrite
    )


def draining(agent_id: str, deadline_s: float | None) -> fleet_service_pb2.DrainAgentRequest:
    """A drain, with a deadline in seconds from now or none."""
    request = fleet_service_pb2.DrainAgentRequest(agent_id=agent_id)
    if deadline_s is not None:
        request.deadline.FromMilliseconds(round(deadline_s * 1000))
    return request


def signing(job_id: str, lifetime_s: int) -> job_service_pb2.SignArtifactsRequest:
    """For URLs that work so many seconds."""
    request = job_service_pb2.SignArtifactsRequest(job_id=job_id)
    request.lifetime.seconds = lifetime_s
    return request


def unsigned(answer: job_service_pb2.SignArtifactsResponse) -> bool:
    """Whether another controller, with other agents, may know more URLs."""
    return any(one.failure.reason == Reason.NO_CAPABLE_AGENT for one in answer.artifacts)


def signed_by_either(
    first: job_service_pb2.SignArtifactsResponse, second: job_service_pb2.SignArtifactsResponse
) -> job_service_pb2.SignArtifactsResponse:
    """The artifacts of the first answer, those that its controller had no agent for as the second one has them."""
    others = {one.uri: one for one in second.artifacts}
    return job_service_pb2.SignArtifactsResponse(
        artifacts=[
            others.get(one.uri, one) if one.failure.reason == Reason.NO_CAPABLE_AGENT else one
            for one in first.artifacts
        ]
    )


def selection(where: FilterLike | None) -> job_pb2.JobFilter | None:
    """A filter, or none."""
    return None if where is None else from_json(where, job_pb2.JobFilter, field="filter")


def gone(error: MediactlError) -> bool:
    """Whether no controller did anything about it, so that it may be repeated, here or elsewhere."""
    return error.reason in _GONE


class Rota(Generic[_T]):
    """What stands in for one another, and whose turn it is; usable from several threads."""

    def __init__(self, members: Iterable[_T]) -> None:
        self.members = tuple(members)
        self._turn = 0

    def __len__(self) -> int:
        return len(self.members)

    def current(self) -> tuple[int, _T]:
        """The one in use, and its number for `pass_on`."""
        turn = self._turn
        return turn, self.members[turn]

    def pass_on(self, failed: int) -> None:
        """The next one's turn, unless somebody else has passed it on from there already."""
        # Two threads may both see their number here; both then write the same.
        if self._turn == failed:
            self._turn = (failed + 1) % len(self.members)


class Outage:
    """Decides whether what got no answer is tried again, and after which pause.

    What never got anything is tried five times at each controller. What was alive is taken up again for
    `patience_s` seconds from the moment it broke. There are pauses, growing ones, only after all controllers failed.
    """

    _ROUNDS: Final = 5
    _FIRST_PAUSE_S: Final = 0.1
    _LONGEST_PAUSE_S: Final = 2.0

    def __init__(self, patience_s: float, controllers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience_s = patience_s
        self._controllers = controllers
        self._clock = clock
        self._lived = False
        self._failures = 0
        self._broke_at: float | None = None
        self._pause_s = self._FIRST_PAUSE_S

    def alive(self) -> None:
        """There was an answer."""
        self._lived = True
        self._failures = 0
        self._broke_at = None
        self._pause_s = self._FIRST_PAUSE_S

    def pause_s(self, error: MediactlError) -> float:
        """Seconds to wait before the next try, at the next controller; raises where there is no point."""
        if not gone(error):
            raise error
        if self._broke_at is None:
            self._broke_at = self._clock()
        self._failures += 1
        rounds, rest = divmod(self._failures, self._controllers)
        over = self._clock() - self._broke_at >= self._patience_s if self._lived else rounds == self._ROUNDS
        # A call's time is spent where one controller has hung for all of it: each of the others gets one chance.
        # And where none of them has what is asked for, waiting changes nothing.
        if over or (rounds and (error.code == "DEADLINE_EXCEEDED" or error.reason == Reason.DEPOSIT_ELSEWHERE)):
            raise self._summary(error)
        if rest:
            return 0.0
        pause, self._pause_s = self._pause_s, min(self._pause_s * 2, self._LONGEST_PAUSE_S)
        return pause

    def _summary(self, error: MediactlError) -> MediactlError:
        if self._controllers == 1:
            return error
        text = f"none of the {self._controllers} controllers answers; the last one: {error.message}"
        return MediactlError(error.reason, text, code=error.code)


class Watching:
    """A watch as a series of requests: each goes on after the last event that arrived."""

    def __init__(self, where: FilterLike | None, after: int, until_ended: bool) -> None:
        self._where = selection(where)
        self._after = after
        self._until_ended = until_ended

    def request(self) -> job_service_pb2.WatchJobsRequest:
        """What to ask for now."""
        return job_service_pb2.WatchJobsRequest(
            filter=self._where, after_sequence=self._after, until_ended=self._until_ended
        )

    def fresh(self, update: job_service_pb2.WatchJobsResponse) -> bool:
        """Takes note of an update; False for an event that was there before."""
        if update.WhichOneof("update") != "event":
            return True
        if update.event.cursor <= self._after:
            return False
        self._after = update.event.cursor
        return True


class LogReading:
    """A log as a series of requests; pieces seen before are left out, as a log is always sent from its start."""

    def __init__(self, job_id: str, follow: bool, attempt_id: str) -> None:
        self._request = job_service_pb2.StreamLogsRequest(job_id=job_id, follow=follow, attempt_id=attempt_id)
        self._seen: dict[tuple[str, str], int] = {}

    def request(self) -> job_service_pb2.StreamLogsRequest:
        """What to ask for now."""
        return self._request

    def fresh(self, piece: job_service_pb2.StreamLogsResponse) -> bool:
        """Takes note of a piece; False for one that was there before."""
        key = (piece.attempt_id, piece.stream)
        if piece.sequence <= self._seen.get(key, 0):
            return False
        self._seen[key] = piece.sequence
        return True


class RemainsReading:
    """An archive as a series of requests: each goes on behind what arrived."""

    def __init__(self, job_id: str, attempt_id: str) -> None:
        self._request = job_service_pb2.FetchRemainsRequest(job_id=job_id, attempt_id=attempt_id)

    def request(self) -> job_service_pb2.FetchRemainsRequest:
        """What to ask for now."""
        return self._request

    def fresh(self, piece: job_service_pb2.FetchRemainsResponse) -> bool:
        """Takes note of a piece, and of the attempt that was chosen: another one's archive is no continuation."""
        if piece.attempt_id:
            self._request.attempt_id = piece.attempt_id
        self._request.offset += len(piece.data)
        return True
