"""Reasons on the wire: exceptions to rich gRPC statuses and back.

The encoding is that of google.rpc: a canonical code, `ErrorInfo{reason, domain, metadata}` and, for an invalid
request, `BadRequest` with one violation for every problem.
"""

from collections.abc import Mapping
from typing import Final, assert_never

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from presets.problems import InvalidRequest, MediaFailure
from presets.reasons import TABLE, Reason

DOMAIN: Final = "mediactl"
_DETAILS_KEY: Final = "grpc-status-details-bin"

# gRPC drops a status of more than 8 KiB at random and one of 16 KiB always, with words of its own.
_MOST_FIELDS_BYTES: Final = 2500
_MOST_MESSAGE_BYTES: Final = 1200
_MOST_TEXT: Final = 1000

# Exit codes for reasons which only a newer server knows: what the canonical code says about them.
_EXIT_CODES: Final = {
    "INVALID_ARGUMENT": 2,
    "FAILED_PRECONDITION": 2,
    "ALREADY_EXISTS": 2,
    "OUT_OF_RANGE": 2,
    "UNIMPLEMENTED": 2,
    "NOT_FOUND": 3,
    "UNAVAILABLE": 4,
    "DEADLINE_EXCEEDED": 4,
    "PERMISSION_DENIED": 5,
    "UNAUTHENTICATED": 5,
}

# What an RPC that carries no ErrorInfo of ours means: it failed before or beside the service.
_TRANSPORT: Final = {
    grpc.StatusCode.UNAVAILABLE: Reason.CONTROLLER_UNREACHABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.CONTROLLER_UNREACHABLE,
    grpc.StatusCode.UNAUTHENTICATED: Reason.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: Reason.PERMISSION_DENIED,
    grpc.StatusCode.CANCELLED: Reason.CANCELLED,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_ARGUMENT,
}

# All that grpc.aio says where a message of a stream could not be written any more, whatever the status.
_WRITE_FAILED: Final = "Internal error from Core"

_NUMBERS: Final[Mapping[str, int]] = {code.name: code.value[0] for code in grpc.StatusCode}
_NAMES: Final[Mapping[int, str]] = {number: name for name, number in _NUMBERS.items()}


class MediactlError(Exception):
    """A request was not fulfilled.

    `reason` is a row of the fixed table, or plain text where a newer server sent one that this version does not
    know. `fields` are (field path, message) pairs, one for each problem of an invalid request. `code` is the
    canonical gRPC code's name. `exit_code` is what a command line ends with.
    """

    def __init__(
        self,
        reason: Reason | str,
        message: str,
        *,
        fields: tuple[tuple[str, str], ...] = (),
        code: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        try:
            self.reason: Reason | str = Reason(reason)
        except ValueError:
            self.reason = str(reason)
        self.message = message
        self.fields = fields
        self.metadata = dict(metadata or {})
        fact = TABLE[self.reason] if isinstance(self.reason, Reason) else None
        self.code = code or (fact.code if fact else "UNKNOWN")
        self.exit_code = fact.exit_code if fact else _EXIT_CODES.get(self.code, 1)


class WaitTimeout(TimeoutError):
    """The caller's patience ended before the job did, or before jobs, whose ids have commas between. They go on."""

    exit_code: Final = 6

    def __init__(self, job_id: str, timeout_s: float) -> None:
        what, goes = ("jobs", "they go") if "," in job_id else ("job", "it goes")
        super().__init__(f"{what} {job_id} had not ended after {timeout_s:g} s; {goes} on")
        self.job_id = job_id
        self.timeout_s = timeout_s


def status_of(error: MediactlError | InvalidRequest | MediaFailure) -> status_pb2.Status:
    """The rich status of an error, for `context.abort_with_status(rpc_status.to_status(status_of(error)))`.

    An InvalidRequest takes the reason of its first problem; each violation carries its own. A status has little room:
    long texts are cut, and of very many problems the first are told with how many more there are.
    """
    metadata: Mapping[str, str] = {}
    fields: tuple[tuple[str, str, str], ...] = ()
    match error:
        case InvalidRequest():
            fields = tuple((_cut(one.field), _cut(one.message), one.reason) for one in error.problems)
            reason: str = error.problems[0].reason
            code = TABLE[error.problems[0].reason].code
            fields, left_out = _first(fields)
            message = "; ".join(f"{field}: {text}" if field else text for field, text, _ in fields)
            if left_out:
                message = f"{_brief(message)}; and {left_out} more"
        case MediaFailure():
            reason, code, message = error.reason, TABLE[error.reason].code, error.message
        case MediactlError():
            reason, code, message, metadata = error.reason, error.code, error.message, error.metadata
            fields, _ = _first(tuple((_cut(field), _cut(text), error.reason) for field, text in error.fields))
        case _:
            assert_never(error)
    status = status_pb2.Status(code=_NUMBERS.get(code, _NUMBERS["UNKNOWN"]), message=_brief(message, room=100))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=str(reason), domain=DOMAIN, metadata=dict(metadata)))
    if fields:
        status.details.add().Pack(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=text, reason=str(why))
                    for field, text, why in fields
                ]
            )
        )
    return status


def _first(fields: tuple[tuple[str, str, str], ...]) -> tuple[tuple[tuple[str, str, str], ...], int]:
    """As many as there is room for, and how many that leaves out."""
    size = 0
    for number, field in enumerate(fields):
        size += sum(len(text.encode(errors="replace")) for text in field)
        if size > _MOST_FIELDS_BYTES and number:
            return fields[:number], len(fields) - number
    return fields, 0


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT // 2]} … {text[-_MOST_TEXT // 2 :]}"


def _brief(text: str, room: int = 0) -> str:
    # A message travels with three bytes for every one that isn't plain ASCII.
    most = _MOST_MESSAGE_BYTES + room
    short = text[:most]
    while (size := len(short) + 2 * sum(not " " <= c <= "~" for c in short) * 2) > most:
        short = short[: len(short) * most // size]
    return text if short == text else f"{short} …"


def from_rpc_error(error: grpc.RpcError) -> MediactlError:
    """What a failed call means, by its ErrorInfo where the server sent one, by its code where not."""
    status = _rich_status(error)
    if status is not None:
        known = from_status(status)
        if known is not None:
            return known
    code = _code(error)
    if code is grpc.StatusCode.INTERNAL and _details(error) == _WRITE_FAILED:
        broken = "the controller ended the call, or the connection broke, while something was sent"
        return MediactlError(Reason.CONTROLLER_UNREACHABLE, broken, code=code.name)
    reason = _TRANSPORT.get(code, Reason.INTERNAL)
    return MediactlError(reason, _transport_message(code, _details(error)), code=code.name)


def from_status(status: status_pb2.Status) -> MediactlError | None:
    """Reads a rich status back; None where it carries no ErrorInfo of this domain."""
    info = error_details_pb2.ErrorInfo()
    request = error_details_pb2.BadRequest()
    found = False
    for detail in status.details:
        if detail.Unpack(info):
            found = info.domain == DOMAIN
        else:
            detail.Unpack(request)
    if not found:
        return None
    return MediactlError(
        info.reason,
        status.message,
        fields=tuple((violation.field, violation.description) for violation in request.field_violations),
        code=_NAMES.get(status.code, "UNKNOWN"),
        metadata=info.metadata,
    )


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    metadata = error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    for key, value in metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _code(error: grpc.RpcError) -> grpc.StatusCode:
    code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _details(error: grpc.RpcError) -> str:
    details = error.details() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    return details or ""


def _transport_message(code: grpc.StatusCode, details: str) -> str:
    # gRPC core may append its own trace of the connection; the first line is what a person can use.
    line = details.strip().splitlines()[0] if details.strip() else code.name
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return f"the controller can't be reached: {line}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return "the controller did not answer in time"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"the controller does not know this call; is it an older version? ({line})"
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return f"a message is too large: {line}"
        case _:
            return line
