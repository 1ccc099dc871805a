"""Reading what a signed URL leads to: ranges over HTTP, by the standard library. URLs are in no message."""

import re
import ssl
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse, InvalidURL
from typing import Final
from urllib.error import HTTPError, URLError

SILENCE_S: Final = 15.0
"""Without a byte, the connection counts as broken."""
PIECE_BYTES: Final = 1 << 20

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_CODE: Final = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")
_BROKEN: Final = frozenset({408, 425, 429})
_DENIED: Final = frozenset({401, 403})


class Broken(Exception):
    """The connection, or the server's state of mind: asking again may help."""


class Denied(Exception):
    """The signature is not good, or no longer."""


class Useless(Exception):
    """What was asked for is not there, and won't be."""


def read(url: str, offset: int, size: int) -> Iterator[bytes]:
    """The bytes from `offset` on of what is `size` bytes long, in pieces, as far as they come.

    Raises Broken, Denied, Useless.
    """
    headers = {"Range": f"bytes={offset}-", "Accept-Encoding": "identity", "User-Agent": "mediactl"}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the opener knows no other schemes
        answer = _opener().open(request, timeout=SILENCE_S)
        if not isinstance(answer, HTTPResponse):
            raise Useless("it is no URL of the web")
        with answer:
            skipped = _skipped(answer, offset, size)
            while data := answer.read1(PIECE_BYTES):
                if skipped:
                    data, skipped = data[skipped:], max(0, skipped - len(data))
                if data:
                    yield data
    except HTTPError as error:
        with error:
            raise _refused(error) from None
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise Useless(f"the store's certificate is not valid: {error.reason.verify_message}") from None
        raise Broken(f"the connection to the store failed: {_words(error.reason)}") from None
    except (InvalidURL, ValueError):
        raise Useless("it is no URL of the web") from None
    except (OSError, HTTPException) as error:
        raise Broken(f"the connection to the store broke: {_words(error)}") from None


def _opener() -> urllib.request.OpenerDirector:
    """Of the web only, through the proxies that the environment names; it follows nobody elsewhere."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _skipped(answer: HTTPResponse, offset: int, size: int) -> int:
    """How many bytes come before those that were asked for. Raises Broken, Useless."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise Useless("the store sends it compressed only")
    if answer.status == 200:
        return offset
    told = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if answer.status != 206 or told is None:
        raise Broken(f"the store answered {answer.status} and no range")
    if int(told[3]) != size:
        raise Useless(f"it is not what was published: it has {told[3]} bytes now instead of {size}")
    if int(told[1]) != offset:
        raise Broken("the store sent another range than was asked for")
    return 0


def _refused(error: HTTPError) -> Exception:
    try:
        code = _CODE.search(error.read(4096))
    except (OSError, HTTPException):
        code = None
    words = f"the store answered {error.code}{f' {code[1].decode()}' if code else ''}"
    if error.code in _DENIED:
        return Denied(words)
    if error.code in (404, 410):
        return Useless(f"it is not there any more ({words})")
    if error.code == 416:
        return Useless("it is not what was published: it is shorter now")
    broken = error.code >= 500 or error.code in _BROKEN or 300 <= error.code < 400
    return Broken(words) if broken else Useless(words)


def _words(error: object) -> str:
    # Others' words may hold what was asked for.
    return getattr(error, "strerror", None) or type(error).__name__
