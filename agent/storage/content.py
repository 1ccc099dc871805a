"""What a file holds, as stores compare it."""

import hashlib
from pathlib import Path
from typing import NamedTuple


class Content(NamedTuple):
    """Size in bytes, and SHA-256 in lower-case hexadecimal."""

    size: int
    sha256: str


def content_of(path: Path) -> Content:
    """Reads the whole file. Blocks; raises OSError."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Content(file.tell(), digest)
