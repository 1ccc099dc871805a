"""Reasons on the wire."""

import subprocess
import sys
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from mediactl.errors import MediactlError, from_rpc_error, from_status, status_of
from presets.problems import InvalidRequest, MediaFailure, Problem
from presets.reasons import TABLE, Reason


class RpcFailure(grpc.RpcError, grpc.Call):
    """A failed call as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, str | bytes], ...] = ()) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float:
        return 0.0

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: object) -> bool:
        return False


def over_the_wire(status: status_pb2.Status) -> MediactlError:
    """What a client makes of a status that a server aborted with."""
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    return from_rpc_error(RpcFailure(code, status.message, trailing))


@pytest.mark.parametrize("reason", [*Reason])
def test_every_reason_survives_the_wire(reason: Reason) -> None:
    """A reason arrives as itself, with its code and exit code of the table."""
    error = over_the_wire(status_of(MediactlError(reason, "why", metadata={"epoch": "7"})))
    assert error.reason is reason
    assert (error.code, error.exit_code) == (TABLE[reason].code, TABLE[reason].exit_code)
    assert (error.message, error.metadata) == ("why", {"epoch": "7"})


@given(
    st.lists(
        st.builds(
            Problem,
            st.sampled_from(Reason),
            st.text(min_size=1, max_size=20),
            st.text(min_size=1, max_size=20),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_problem_of_an_invalid_request_is_told(problems: list[Problem]) -> None:
    """All problems arrive with their field; the first one's reason is the error's."""
    error = over_the_wire(status_of(InvalidRequest(*problems)))
    assert error.reason is problems[0].reason
    assert error.fields == tuple((problem.field, problem.message) for problem in problems)


def test_violations_carry_their_own_reason() -> None:
    """BadRequest names the reason of each problem, for clients in other languages."""
    status = status_of(
        InvalidRequest(Problem(Reason.ROLE_UNKNOWN, "a", "x"), Problem(Reason.PARAMETER_UNKNOWN, "b", "y"))
    )
    request = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(request)
    assert [one.reason for one in request.field_violations] == ["ROLE_UNKNOWN", "PARAMETER_UNKNOWN"]


def test_media_failures_have_a_status() -> None:
    """What compilation finds in media has its reason on the wire too."""
    error = over_the_wire(status_of(MediaFailure(Reason.INPUT_NO_AUDIO, "there is no audio in it")))
    assert (error.reason, error.message) == (Reason.INPUT_NO_AUDIO, "there is no audio in it")


def test_a_reason_of_a_newer_server_stays_text() -> None:
    """An unknown reason is kept, and the exit code follows the canonical code."""
    status = status_pb2.Status(code=5, message="no such thing")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="TENANT_NOT_FOUND", domain="mediactl"))
    error = over_the_wire(status)
    assert (error.reason, error.code, error.exit_code) == ("TENANT_NOT_FOUND", "NOT_FOUND", 3)


def test_another_domain_is_not_ours() -> None:
    """An ErrorInfo of a proxy between says nothing about our reasons."""
    status = status_pb2.Status(code=14, message="busy")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="INTERNAL", domain="example.org"))
    assert from_status(status) is None
    assert over_the_wire(status).reason is Reason.CONTROLLER_UNREACHABLE


@pytest.mark.parametrize(
    ("code", "reason", "exit_code"),
    [
        (grpc.StatusCode.UNAVAILABLE, Reason.CONTROLLER_UNREACHABLE, 4),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.CONTROLLER_UNREACHABLE, 4),
        (grpc.StatusCode.UNAUTHENTICATED, Reason.UNAUTHENTICATED, 5),
        (grpc.StatusCode.PERMISSION_DENIED, Reason.PERMISSION_DENIED, 5),
        (grpc.StatusCode.UNKNOWN, Reason.INTERNAL, 1),
    ],
)
def test_plain_codes_have_a_meaning(code: grpc.StatusCode, reason: Reason, exit_code: int) -> None:
    """A failure without ErrorInfo is told by its code, and only the first line of gRPC's words is kept."""
    error = from_rpc_error(RpcFailure(code, "failed to connect\nTraceback (most recent call last):"))
    assert (error.reason, error.exit_code) == (reason, exit_code)
    assert "Traceback" not in error.message
    assert error.message


def test_broken_details_are_ignored() -> None:
    """Bytes that are no status do not hide the failure."""
    trailing = (("grpc-status-details-bin", b"\xff\xff\xff"),)
    assert (
        from_rpc_error(RpcFailure(grpc.StatusCode.UNAVAILABLE, "gone", trailing)).reason
        is Reason.CONTROLLER_UNREACHABLE
    )


def test_importing_the_package_is_cheap() -> None:
    """`import mediactl` and its wire messages load neither gRPC nor a client."""
    code = "import sys, mediactl, mediactl.v1.job_pb2, mediactl.places; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_load_on_use() -> None:
    """What the package exports can be imported from it; other names are refused."""
    import mediactl  # noqa: PLC0415 - the package is what is tested

    for name in mediactl.__all__:
        assert getattr(mediactl, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = mediactl.nothing
