"""What callers are told of a store's faults."""

import pytest

from agent.storage.faults import Fault, Kind, unpublished, unreadable
from presets.reasons import TABLE, Reason

URI = "https://host/talk.wav?X-Amz-Signature=secret"


@pytest.mark.parametrize(
    ("kind", "reading", "publishing"),
    [
        (Kind.MISSING, Reason.INPUT_NOT_FOUND, Reason.PUBLISH_FAILED),
        (Kind.NO_BUCKET, Reason.INPUT_NOT_FOUND, Reason.OUTPUT_UNWRITABLE),
        (Kind.DENIED, Reason.INPUT_UNAVAILABLE, Reason.OUTPUT_UNWRITABLE),
        (Kind.EXISTS, Reason.INPUT_UNAVAILABLE, Reason.OUTPUT_EXISTS),
        (Kind.GONE, Reason.INPUT_NOT_FOUND, Reason.PUBLISH_FAILED),
        (Kind.CHANGED, Reason.INPUT_CHANGED, Reason.PUBLISH_FAILED),
        (Kind.BUSY, Reason.INPUT_UNAVAILABLE, Reason.PUBLISH_FAILED),
        (Kind.REFUSED, Reason.INPUT_UNAVAILABLE, Reason.OUTPUT_UNWRITABLE),
    ],
)
def test_each_kind_in_both_directions(kind: Kind, reading: Reason, publishing: Reason) -> None:
    """Each kind has a reason for an input and one for an output; both name the object and nothing of its signature."""
    for failure, reason in (
        (unreadable(URI, "archive", Fault(kind, "so it is")), reading),
        (unpublished(URI, "archive", Fault(kind, "so it is")), publishing),
    ):
        assert failure.reason is reason
        assert failure.message.startswith("https://host/talk.wav?…: ")
        assert "secret" not in failure.message


def test_what_may_pass_is_tried_again() -> None:
    """A store that is busy costs a try, in either direction."""
    busy = Fault(Kind.BUSY, "so it is")
    assert TABLE[unreadable(URI, "archive", busy).reason].retryable
    assert TABLE[unpublished(URI, "archive", busy).reason].retryable


def test_denial_says_what_to_check() -> None:
    """Who is denied is told which store it is and what to look at."""
    for failure in (
        unreadable(URI, "archive", Fault(Kind.DENIED, "AccessDenied")),
        unpublished(URI, "archive", Fault(Kind.DENIED, "AccessDenied")),
    ):
        assert "'archive'" in failure.message
        assert "AccessDenied" in failure.message
        assert "check the credentials" in failure.message
