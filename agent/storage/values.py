"""What stores answer."""

from dataclasses import dataclass, field


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


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """What anybody can read an object with until ``expires``, in seconds since 1970; for good where that is None."""

    url: str = field(repr=False)
    expires: float | None
