"""What can go wrong with a store, and what the caller of a job is told of it: the one place where that is decided.

Drivers turn their libraries' exceptions into a :class:`Fault`. Its words never hold what a library or server said
besides its code: a signature or a credential might be in it.
"""

from enum import Enum, auto
from typing import assert_never

from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import shown


class Kind(Enum):
    """What went wrong."""

    MISSING = auto()  # no such object
    NO_BUCKET = auto()  # nor the bucket for it
    DENIED = auto()  # the store does not let us
    EXISTS = auto()  # something else has the name
    GONE = auto()  # what was staged is not there any more
    CHANGED = auto()  # it is another version than the one asked for
    BUSY = auto()  # it may work in a moment: overload, an error of the server, a broken connection
    REFUSED = auto()  # the store will never do this, such as a name that it cannot hold


class Fault(Exception):
    """A store did not do what it was asked."""

    def __init__(self, kind: Kind, words: str) -> None:
        super().__init__(f"{kind.name}: {words}")
        self.kind = kind
        self.words = words


def unreadable(uri: str, store: str, fault: Fault) -> MediaFailure:
    """Of an input, for the caller of the job."""
    reason, told = Reason.INPUT_UNAVAILABLE, fault.words
    match fault.kind:
        case Kind.MISSING | Kind.GONE:
            reason, told = Reason.INPUT_NOT_FOUND, "there is no such object"
        case Kind.NO_BUCKET:
            reason, told = Reason.INPUT_NOT_FOUND, "there is no such bucket"
        case Kind.DENIED:
            told = f"the store {store!r} does not let this agent read it ({fault.words}); {_CHECK}"
        case Kind.CHANGED:
            reason, told = Reason.INPUT_CHANGED, "it was changed while it was being read"
        case Kind.BUSY | Kind.REFUSED | Kind.EXISTS:
            pass
        case _:
            assert_never(fault.kind)
    return MediaFailure(reason, f"{shown(uri)}: {told}")


def unpublished(uri: str, store: str, fault: Fault) -> MediaFailure:
    """Of an output, for the caller of the job."""
    reason, told = Reason.PUBLISH_FAILED, fault.words
    match fault.kind:
        case Kind.NO_BUCKET:
            reason, told = Reason.OUTPUT_UNWRITABLE, f"the store {store!r} has no such bucket"
        case Kind.DENIED:
            reason = Reason.OUTPUT_UNWRITABLE
            told = f"the store {store!r} does not let this agent write it ({fault.words}); {_CHECK}"
        case Kind.REFUSED:
            reason = Reason.OUTPUT_UNWRITABLE
        case Kind.EXISTS:
            reason, told = Reason.OUTPUT_EXISTS, "it exists; ask for overwriting to replace it"
        case Kind.MISSING | Kind.GONE | Kind.CHANGED | Kind.BUSY:
            pass
        case _:
            assert_never(fault.kind)
    return MediaFailure(reason, f"{shown(uri)}: {told}")


def unsigned(uri: str, store: str, fault: Fault) -> MediaFailure:
    """Of an artifact for which a URL was asked, for who asked."""
    told = fault.words
    if fault.kind is Kind.DENIED:
        told = f"this agent cannot sign for the store {store!r} ({fault.words}); {_CHECK}"
    return MediaFailure(Reason.ARTIFACT_UNAVAILABLE, f"{shown(uri)}: {told}")


_CHECK = "check the credentials that the agent has for that store, and what they are allowed"
