"""Page tokens: where the next page begins, bound to the list they were given out for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from google.protobuf.message import Message

from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason


def size(asked: int, *, default: int, most: int = 1000) -> int:
    """Raises InvalidRequest outside 1 to `most`; 0 is the default."""
    if not 0 <= asked <= most:
        raise InvalidRequest(
            Problem(Reason.INVALID_ARGUMENT, "page_size", f"0 (default) to {most} is expected, got {asked}")
        )
    return asked or default


def _bound_to(scope: Message) -> str:
    return hashlib.sha256(scope.SerializeToString(deterministic=True)).hexdigest()[:16]


def token(position: int, scope: Message) -> str:
    """`scope` is what must stay the same from page to page."""
    return base64.urlsafe_b64encode(json.dumps([position, _bound_to(scope)]).encode()).decode()


def position(page_token: str, scope: Message) -> int | None:
    """Where to go on, None for the first page. Raises InvalidRequest PAGE_TOKEN_INVALID."""
    if not page_token:
        return None
    try:
        begin, bound = json.loads(base64.b64decode(page_token.encode(), altchars=b"-_", validate=True))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        bound = begin = None
    if bound != _bound_to(scope) or type(begin) is not int or not 0 <= begin < 2**63:
        raise InvalidRequest(
            Problem(
                Reason.PAGE_TOKEN_INVALID,
                "page_token",
                "not a token of this list; the filter must stay the same from page to page",
            )
        )
    return begin
