"""What stores answer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """Which version of an object was there: its size in bytes and a token that changes when its content does."""

    size: int
    token: str


@dataclass(frozen=True, slots=True)
class Staged:
    """Staged content: where, its size in bytes, its SHA-256 in lower-case hexadecimal."""

    staged_uri: str
    size: int
    sha256: str
