"""The one table of reasons: what went wrong, whether another try can mend it, and how it leaves the program.

The string of a reason is what callers see everywhere: in ``failure.reason`` of a job, in ``ErrorInfo.reason`` of an
RPC, in the documentation. A new reason is one member of :class:`Reason` and one row of :data:`TABLE`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto
from types import MappingProxyType


class Reason(StrEnum):
    """Why a request was refused or a task failed."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:
        return name

    # what the input is
    INPUT_NOT_FOUND = auto()
    INPUT_UNAVAILABLE = auto()
    INPUT_EMPTY = auto()
    INPUT_CORRUPT = auto()
    INPUT_TRUNCATED = auto()
    INPUT_NO_AUDIO = auto()
    INPUT_NO_VIDEO = auto()
    INPUT_CHANGED = auto()
    INPUT_UNSUPPORTED_SCHEME = auto()
    # what the request says
    INVALID_ARGUMENT = auto()
    PRESET_NOT_FOUND = auto()
    PROFILE_NOT_FOUND = auto()
    PRESET_CONFLICT = auto()
    PARAMETER_UNKNOWN = auto()
    PARAMETER_OUT_OF_RANGE = auto()
    ROLE_UNKNOWN = auto()
    ROLE_MISSING = auto()
    ROLE_REPEATED = auto()
    OUTPUT_COLLISION = auto()
    UNSUPPORTED_COMBINATION = auto()
    REQUEST_ID_REUSED = auto()
    PAGE_TOKEN_INVALID = auto()
    # what the output is
    OUTPUT_EXISTS = auto()
    OUTPUT_UNWRITABLE = auto()
    OUTPUT_INVALID = auto()
    LOUDNESS_UNREACHABLE = auto()
    PUBLISH_FAILED = auto()
    PUBLISH_REFUSED = auto()
    # how the work went
    FFMPEG_FAILED = auto()
    MEMORY_EXCEEDED = auto()
    ENCODER_SESSION_LIMIT = auto()
    GPU_UNAVAILABLE = auto()
    SCRATCH_FULL = auto()
    STALLED = auto()
    TIMED_OUT = auto()
    AGENT_LOST = auto()
    AGENT_STOPPING = auto()
    DEPENDENCY_FAILED = auto()
    NO_CAPABLE_AGENT = auto()
    CANCELLED = auto()
    INTERNAL = auto()
    # what the fleet says
    JOB_NOT_FOUND = auto()
    JOB_ENDED = auto()
    JOB_NOT_DEAD = auto()
    JOB_NOT_STARTED = auto()
    AGENT_NOT_FOUND = auto()
    AGENT_ID_CONFLICT = auto()
    AGENT_NOT_LOST = auto()
    ATTEMPT_NOT_FOUND = auto()
    REMAINS_NOT_FOUND = auto()
    REMAINS_UNAVAILABLE = auto()
    DEPOSIT_NOT_FOUND = auto()
    DEPOSIT_ELSEWHERE = auto()
    DEPOSITS_OFF = auto()
    QUOTA_EXCEEDED = auto()
    UPLOAD_CORRUPT = auto()
    ARTIFACT_UNAVAILABLE = auto()
    EPOCH_SUPERSEDED = auto()
    CONTROLLER_UNREACHABLE = auto()
    CONTROLLER_STOPPING = auto()
    STORE_UNAVAILABLE = auto()
    UNAUTHENTICATED = auto()
    PERMISSION_DENIED = auto()


@dataclass(frozen=True, slots=True)
class Fact:
    """One row of the table.

    ``code`` is the canonical gRPC status name. ``retryable``: another try of the same task may succeed, and uses one
    of the caller's attempts. ``infrastructure``: retried elsewhere without using the caller's attempts.
    ``exit_code`` is the command line's exit status.
    """

    situation: str
    code: str
    retryable: bool = False
    infrastructure: bool = False
    exit_code: int = 1


def _retry(situation: str, code: str, exit_code: int = 1) -> Fact:
    return Fact(situation, code, retryable=True, exit_code=exit_code)


def _elsewhere(situation: str, code: str) -> Fact:
    return Fact(situation, code, retryable=True, infrastructure=True)


def _refused(situation: str, code: str = "INVALID_ARGUMENT") -> Fact:
    return Fact(situation, code, exit_code=2)


def _not_found(situation: str) -> Fact:
    return Fact(situation, "NOT_FOUND", exit_code=3)


TABLE: Mapping[Reason, Fact] = MappingProxyType(
    {
        Reason.INPUT_NOT_FOUND: Fact("an input does not exist", "NOT_FOUND"),
        Reason.INPUT_UNAVAILABLE: _retry("an input exists but could not be read just now", "FAILED_PRECONDITION"),
        Reason.INPUT_EMPTY: Fact("an input has no bytes", "FAILED_PRECONDITION"),
        Reason.INPUT_CORRUPT: Fact("an input is no media, or cannot be decoded", "FAILED_PRECONDITION"),
        Reason.INPUT_TRUNCATED: Fact("an input ends before its declared duration", "FAILED_PRECONDITION"),
        Reason.INPUT_NO_AUDIO: Fact("audio is needed, an input has none", "FAILED_PRECONDITION"),
        Reason.INPUT_NO_VIDEO: Fact("video is needed, an input has none", "FAILED_PRECONDITION"),
        Reason.INPUT_CHANGED: Fact("an input changed since it was first read", "FAILED_PRECONDITION"),
        Reason.INPUT_UNSUPPORTED_SCHEME: _refused("a URI's scheme is not supported"),
        Reason.INVALID_ARGUMENT: _refused("a field of the request is malformed"),
        Reason.PRESET_NOT_FOUND: _refused("no preset has that name", "NOT_FOUND"),
        Reason.PROFILE_NOT_FOUND: _refused("no profile has that name", "NOT_FOUND"),
        Reason.PRESET_CONFLICT: _refused("another document already has that name and version", "ALREADY_EXISTS"),
        Reason.PARAMETER_UNKNOWN: _refused("the preset or profile has no such parameter"),
        Reason.PARAMETER_OUT_OF_RANGE: _refused("a parameter's value is not allowed"),
        Reason.ROLE_UNKNOWN: _refused("the preset has no such role"),
        Reason.ROLE_MISSING: _refused("a role the preset needs has no input"),
        Reason.ROLE_REPEATED: _refused("a role that takes one input got several"),
        Reason.OUTPUT_COLLISION: _refused("two outputs, or an output and an input, are one file"),
        Reason.UNSUPPORTED_COMBINATION: _refused("the preset, the profile and the input do not fit together"),
        Reason.REQUEST_ID_REUSED: _refused("the request id was used for a different request", "ALREADY_EXISTS"),
        Reason.PAGE_TOKEN_INVALID: _refused("the page token is not one this list gave out"),
        Reason.OUTPUT_EXISTS: Fact("an output exists and overwriting was not asked for", "ALREADY_EXISTS"),
        Reason.OUTPUT_UNWRITABLE: Fact("an output's place cannot be written", "FAILED_PRECONDITION"),
        Reason.OUTPUT_INVALID: _retry("an output failed its verification", "INTERNAL"),
        Reason.LOUDNESS_UNREACHABLE: Fact(
            "the loudness asked for needs more limiting than allowed", "FAILED_PRECONDITION"
        ),
        Reason.PUBLISH_FAILED: _retry("an output could not be published", "ABORTED"),
        Reason.PUBLISH_REFUSED: Fact("the attempt was ended before it could publish", "FAILED_PRECONDITION"),
        Reason.FFMPEG_FAILED: _retry("FFmpeg ended with an error", "INTERNAL"),
        Reason.MEMORY_EXCEEDED: _retry("FFmpeg needed more memory than the task may occupy", "RESOURCE_EXHAUSTED"),
        Reason.ENCODER_SESSION_LIMIT: _elsewhere("the GPU has no encoder session or memory free", "RESOURCE_EXHAUSTED"),
        Reason.GPU_UNAVAILABLE: _elsewhere(
            "the GPU or its driver is missing or does not answer", "FAILED_PRECONDITION"
        ),
        Reason.SCRATCH_FULL: _elsewhere("the agent's scratch disk is full", "RESOURCE_EXHAUSTED"),
        Reason.STALLED: _retry("FFmpeg made no progress", "DEADLINE_EXCEEDED"),
        Reason.TIMED_OUT: _retry("the time allowed was used up", "DEADLINE_EXCEEDED"),
        Reason.AGENT_LOST: _elsewhere("the agent fell silent", "ABORTED"),
        Reason.AGENT_STOPPING: _elsewhere("the agent was stopped", "ABORTED"),
        Reason.DEPENDENCY_FAILED: Fact("a job this one waits for did not complete", "FAILED_PRECONDITION"),
        Reason.NO_CAPABLE_AGENT: Fact("no agent can do this", "FAILED_PRECONDITION"),
        Reason.CANCELLED: Fact("it was cancelled", "CANCELLED"),
        Reason.INTERNAL: _retry("a defect of this program", "INTERNAL"),
        Reason.JOB_NOT_FOUND: _not_found("no job has that id"),
        Reason.JOB_ENDED: _refused("the job has ended already", "FAILED_PRECONDITION"),
        Reason.JOB_NOT_DEAD: _refused("only a DEAD job can be retried", "FAILED_PRECONDITION"),
        Reason.JOB_NOT_STARTED: _refused(
            "the job was never started, so there is nothing to replay", "FAILED_PRECONDITION"
        ),
        Reason.AGENT_NOT_FOUND: _not_found("no agent has that id"),
        Reason.AGENT_ID_CONFLICT: Fact("another live machine uses this agent id", "ALREADY_EXISTS"),
        Reason.AGENT_NOT_LOST: _refused("only a LOST agent can be removed", "FAILED_PRECONDITION"),
        Reason.ATTEMPT_NOT_FOUND: _not_found("no attempt has that id"),
        Reason.REMAINS_NOT_FOUND: _not_found("nothing is kept of such an attempt, or no longer"),
        Reason.REMAINS_UNAVAILABLE: Fact(
            "what an agent kept of an attempt can't be had just now", "FAILED_PRECONDITION", exit_code=6
        ),
        Reason.DEPOSIT_NOT_FOUND: _not_found("the controller's own store holds no such file, or no longer"),
        Reason.DEPOSIT_ELSEWHERE: Fact(
            "another controller has the file in a store of its own", "UNAVAILABLE", exit_code=4
        ),
        Reason.DEPOSITS_OFF: _refused("the controller takes no files into its own store", "FAILED_PRECONDITION"),
        Reason.QUOTA_EXCEEDED: _refused("the controller's own store has no room for a file", "RESOURCE_EXHAUSTED"),
        Reason.UPLOAD_CORRUPT: Fact("what arrived of a file is not what was announced", "DATA_LOSS"),
        Reason.ARTIFACT_UNAVAILABLE: Fact(
            "an artifact can't be had, not here, not just now, or not as it was published", "FAILED_PRECONDITION"
        ),
        Reason.EPOCH_SUPERSEDED: Fact("a newer session of this agent took over", "ABORTED"),
        Reason.CONTROLLER_UNREACHABLE: _retry("no controller answers at the address", "UNAVAILABLE", 4),
        Reason.CONTROLLER_STOPPING: _retry("the controller is shutting down", "UNAVAILABLE", 4),
        Reason.STORE_UNAVAILABLE: _retry("the controller can't reach its database just now", "UNAVAILABLE", 4),
        Reason.UNAUTHENTICATED: Fact("the token is missing or wrong", "UNAUTHENTICATED", exit_code=5),
        Reason.PERMISSION_DENIED: Fact("the caller may not do this", "PERMISSION_DENIED", exit_code=5),
    }
)


def markdown() -> str:
    """The table as a Markdown table, for the documentation."""
    lines = [
        "| reason | situation | gRPC code | retried | exit code |",
        "|---|---|---|---|---|",
    ]
    for reason in Reason:
        fact = TABLE[reason]
        retried = "elsewhere, uses no attempt" if fact.infrastructure else "yes" if fact.retryable else "no"
        lines.append(f"| {reason} | {fact.situation} | {fact.code} | {retried} | {fact.exit_code} |")
    return "\n".join(lines) + "\n"
