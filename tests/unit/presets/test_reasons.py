"""The table of reasons."""

import grpc

from presets.reasons import TABLE, Reason, markdown


def test_every_reason_has_a_row() -> None:
    """No reason is without a situation, a code and an exit status, and there are no other rows."""
    assert set(TABLE) == set(Reason)
    for fact in TABLE.values():
        assert fact.situation
        assert 1 <= fact.exit_code <= 6


def test_codes_are_grpc_s() -> None:
    """A code is the name of a canonical gRPC status."""
    assert {fact.code for fact in TABLE.values()} <= {code.name for code in grpc.StatusCode}


def test_infrastructure_is_retried() -> None:
    """What the fleet itself caused is always worth another try, and exactly these reasons are its own."""
    own = {reason for reason, fact in TABLE.items() if fact.infrastructure}
    assert own == {
        Reason.ENCODER_SESSION_LIMIT,
        Reason.GPU_UNAVAILABLE,
        Reason.SCRATCH_FULL,
        Reason.AGENT_LOST,
        Reason.AGENT_STOPPING,
    }
    assert all(TABLE[reason].retryable for reason in own)


def test_requests_that_are_wrong_exit_with_two_and_are_never_retried() -> None:
    """An unknown preset or parameter cannot be mended by trying again."""
    for reason in (Reason.PRESET_NOT_FOUND, Reason.PARAMETER_UNKNOWN, Reason.PARAMETER_OUT_OF_RANGE):
        assert (TABLE[reason].exit_code, TABLE[reason].retryable) == (2, False)


def test_the_documentation_lists_all() -> None:
    """The Markdown table has one line for each reason."""
    lines = markdown().splitlines()
    assert len(lines) == 2 + len(Reason)
    assert any(line.startswith("| SCRATCH_FULL | ") and "uses no attempt" in line for line in lines)
