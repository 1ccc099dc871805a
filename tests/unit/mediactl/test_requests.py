"""Requests, and how streams go on after an interruption."""

import pytest

from mediactl.errors import MediactlError
from mediactl.requests import LogReading, Outage, Rota, Watching, replaying, retrying, selection, submission
from mediactl.v1 import job_pb2, job_service_pb2
from presets.reasons import Reason

GONE = MediactlError(Reason.CONTROLLER_UNREACHABLE, "gone")


def test_specs_may_be_json() -> None:
    """A dict in protobuf JSON form is the message it stands for."""
    spec = {"inputs": [{"uri": "file:///a"}], "params": {"target_lufs": -19}, "maxAttempts": 2}
    request = submission([spec], "r")
    assert request.jobs[0].params["target_lufs"].number_value == -19
    assert request.jobs[0].max_attempts == 2
    assert submission([request.jobs[0]], "r") == request


@pytest.mark.parametrize("spec", [{"prest": "x"}, {"inputs": 3}, {"inputs": object()}, {"priority": "high"}])
def test_what_is_no_spec_is_refused(spec: dict[str, object]) -> None:
    """A wrong field is told with the number of the job."""
    with pytest.raises(MediactlError) as caught:
        submission([{}, spec], None)
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert caught.value.fields[0][0] == "jobs[1]"


def test_submissions_without_an_id_get_one() -> None:
    """Every submission may be repeated; two submissions are not one."""
    assert submission([{}], None).request_id != submission([{}], None).request_id
    assert submission([{}], "mine").request_id == "mine"
    assert retrying({}, None).request_id != retrying({}, None).request_id
    assert retrying({"ids": ["a"]}, "mine").request_id == "mine"
    assert replaying("a", None, "", False).request_id != replaying("a", None, "", False).request_id


def test_filters_may_be_json() -> None:
    """As specs; None stays none."""
    where = selection({"states": ["JOB_STATE_DEAD"], "ids": ["a"]})
    assert where == job_pb2.JobFilter(states=[job_pb2.JOB_STATE_DEAD], ids=["a"])
    assert selection(None) is None


SLOW = MediactlError(Reason.CONTROLLER_UNREACHABLE, "no answer in time", code="DEADLINE_EXCEEDED")


def test_what_never_lived_is_tried_a_few_times() -> None:
    """Nothing listens there: saying so soon beats waiting."""
    outage = Outage(30, clock=lambda: 0.0)
    assert [outage.pause_s(GONE) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]
    with pytest.raises(MediactlError, match="gone"):
        outage.pause_s(GONE)


def test_every_controller_is_asked_before_a_pause() -> None:
    """Pauses are for when none of them answers; the error then says how many were asked."""
    outage = Outage(30, 3, clock=lambda: 0.0)
    assert [outage.pause_s(GONE) for _ in range(14)] == [0, 0, 0.1, 0, 0, 0.2, 0, 0, 0.4, 0, 0, 0.8, 0, 0]
    with pytest.raises(MediactlError, match="none of the 3 controllers answers; the last one: gone"):
        outage.pause_s(GONE)


def test_a_call_that_hung_is_not_made_again_there() -> None:
    """Its time is spent; each other controller gets one chance."""
    with pytest.raises(MediactlError, match="in time"):
        Outage(30).pause_s(SLOW)
    outage = Outage(30, 2)
    assert outage.pause_s(SLOW) == 0
    with pytest.raises(MediactlError, match="none of the 2"):
        outage.pause_s(SLOW)


def test_a_living_stream_is_resumed_with_growing_pauses() -> None:
    """An outage is outlasted up to the patience, counted from the break however long it was quiet before."""
    now = [0.0]
    outage = Outage(10, clock=lambda: now[0])
    outage.alive()
    now[0] = 3600.0
    assert [outage.pause_s(GONE) for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    now[0] = 3609.9
    outage.alive()
    now[0] = 3650.0
    assert outage.pause_s(GONE) == 0.1
    now[0] = 3659.9
    assert outage.pause_s(GONE) == 0.2
    now[0] = 3660.0
    with pytest.raises(MediactlError):
        outage.pause_s(GONE)


def test_the_turn_is_passed_on_once() -> None:
    """Calls that failed at the same controller agree on the next one; after the last comes the first."""
    rota = Rota(["a", "b", "c"])
    first, member = rota.current()
    assert member == "a"
    rota.pass_on(first)
    rota.pass_on(first)
    assert rota.current() == (1, "b")
    rota.pass_on(1)
    rota.pass_on(2)
    assert rota.current() == (0, "a")
    alone = Rota(["a"])
    alone.pass_on(0)
    assert alone.current() == (0, "a")


def test_other_failures_end_a_stream() -> None:
    """Only an absent controller is waited for."""
    outage = Outage(10, clock=lambda: 0.0)
    outage.alive()
    assert outage.pause_s(MediactlError(Reason.CONTROLLER_STOPPING, "stopping")) == 0.1
    assert outage.pause_s(MediactlError(Reason.STORE_UNAVAILABLE, "no database")) == 0.2
    with pytest.raises(MediactlError, match="no such job"):
        outage.pause_s(MediactlError(Reason.JOB_NOT_FOUND, "no such job"))


def test_a_watch_goes_on_after_the_last_event() -> None:
    """The next request asks for what is new; repeated events are dropped, progress is always told."""
    watching = Watching({"ids": ["a"]}, 5, True)

    def event(cursor: int) -> job_service_pb2.WatchJobsResponse:
        return job_service_pb2.WatchJobsResponse(event=job_pb2.Event(cursor=cursor))

    assert not watching.fresh(event(5))
    assert watching.fresh(event(9))
    assert not watching.fresh(event(9))
    assert watching.fresh(job_service_pb2.WatchJobsResponse(progress=job_pb2.Progress()))
    assert watching.request() == job_service_pb2.WatchJobsRequest(
        filter=job_pb2.JobFilter(ids=["a"]), after_sequence=9, until_ended=True
    )


def test_a_log_is_told_once() -> None:
    """Pieces are counted by attempt and stream."""
    reading = LogReading("j", True, "")

    def piece(attempt: str, sequence: int) -> job_service_pb2.StreamLogsResponse:
        return job_service_pb2.StreamLogsResponse(attempt_id=attempt, stream="ffmpeg", sequence=sequence)

    told = [reading.fresh(piece(*one)) for one in (("a", 1), ("a", 2), ("a", 1), ("b", 1), ("a", 3))]
    assert told == [True, True, False, True, True]
