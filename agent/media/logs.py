"""Reading logs while they grow, and keeping secrets out of them."""

import re
from pathlib import Path

#: The largest piece of a log that is handed out at once, in bytes.
CHUNK_BYTES = 64 * 1024

_REDACTED = rb"\1***"

_SECRETS = (
    # user:password@ of a URL
    # (a scheme of bounded length that begins a word: looking for one at every letter would be quadratic)
    re.compile(rb"((?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,31}://)[^\s/?#@\"']{1,1024}@"),
    # Query parameters that sign a URL or carry a token: AWS (both signature versions), CloudFront, Google, Azure.
    re.compile(
        rb"([?&;](?:X-Amz-[A-Za-z-]+|X-Goog-[A-Za-z-]+|AWSAccessKeyId|GoogleAccessId|Signature|Key-Pair-Id|Policy|sig"
        rb"|(?:[A-Za-z0-9_-]{1,32}[_-])?(?:token|secret|password|key))=)[^&;\s\"'<>]+",
        re.IGNORECASE,
    ),
    re.compile(rb"(\bAuthorization:\s*)[^\r\n]+", re.IGNORECASE),
)


def redact(data: bytes) -> bytes:
    """``data`` with credentials in URLs, signatures of presigned URLs and authorization headers blanked out."""
    for secret in _SECRETS:
        data = secret.sub(_REDACTED, data)
    return data


class Tail:
    """Reads a growing file from ``offset`` (bytes) on, a piece at a time."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset

    def read(self, *, final: bool = False) -> bytes:
        """The next piece, at most :data:`CHUNK_BYTES`; empty where there is none yet.

        A piece ends with a whole line, unless one line alone is larger than a piece; ``final`` says that the file
        grows no more, so that an unfinished last line is handed out too. A file not yet created is empty.

        :raises OSError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                piece = file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return b""
        if not (final and len(piece) < CHUNK_BYTES):
            # FFmpeg ends its status lines with a carriage return only.
            whole = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
            if whole or len(piece) < CHUNK_BYTES:
                piece = piece[:whole]
        self.offset += len(piece)
        return piece


def last_bytes(path: Path, count: int) -> bytes:
    """The last ``count`` bytes of a file; empty where there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - count))
            return file.read(count)
    except FileNotFoundError:
        return b""
