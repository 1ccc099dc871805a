"""What a task needs and what an agent has proved, in one vocabulary.

A capability is a string ``kind:name`` as FFmpeg names it: ``encoder:aac``, ``filter:ebur128``, ``muxer:mp4``,
``hwaccel:cuda``. Those that need a device, or files besides the executable, are proved by use, never by a listing.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any, Self

MEBIBYTE = 1 << 20


def encoder(name: str) -> str:
    """The capability of encoding with FFmpeg's encoder ``name``."""
    return f"encoder:{name}"


def media_filter(name: str) -> str:
    """The capability of filtering with FFmpeg's filter ``name``."""
    return f"filter:{name}"


def binary(digest: str) -> str:
    """The capability of being the FFmpeg with this SHA-256, hexadecimal: what a replay prefers."""
    return f"binary:{digest}"


def _is_binary(capability: str) -> bool:
    return capability.startswith(binary(""))


def muxer(name: str) -> str:
    """The capability of writing FFmpeg's output format ``name``."""
    return f"muxer:{name}"


def hwaccel(name: str) -> str:
    """The capability of decoding on a device by FFmpeg's ``-hwaccel name``."""
    return f"hwaccel:{name}"


def tried(name: str) -> str:
    """The capability that a trial of ``name`` proves: an encoder's, unless the name says another kind."""
    return name if ":" in name else encoder(name)


@dataclass(frozen=True, slots=True)
class Binary:
    """One FFmpeg executable of an agent and what it has proved; ``start_ms`` is what starting it costs."""

    path: str
    version: str
    digest: str
    capabilities: frozenset[str]
    start_ms: float

    @property
    def major_version(self) -> int:
        """The leading number of the version, 0 where there is none (a git snapshot)."""
        match = re.match(r"n?(\d+)(?:\.|$)", self.version)
        return int(match.group(1)) if match else 0


@dataclass(frozen=True, slots=True)
class Resources:
    """What a task occupies while it runs: CPU cores, bytes of memory, bytes of scratch disk.

    ``encoder_sessions`` (one for each rendition) and ``gpu_memory_bytes`` are taken on one GPU.
    """

    cores: int = 1
    memory_bytes: int = 256 * MEBIBYTE
    scratch_bytes: int = 0
    encoder_sessions: int = 0
    gpu_memory_bytes: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is needed."""
        return self.encoder_sessions > 0 or self.gpu_memory_bytes > 0

    def rounded_up(self) -> "Resources":
        """Each amount rounded up to a power of two, so that few distinct classes exist."""
        return Resources(*(_power_of_two(n) for n in astuple(self)))


#: How long a replay waits for an agent with the FFmpeg of the replayed job, in seconds.
SAME_BINARY_S = 30.0


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to do a task: of every set in ``needs`` an agent must have at least one capability.

    ``open_after_s``: seconds a task waits before this alternative may be chosen; less where no agent could do it by one
    that opens before.
    """

    needs: tuple[frozenset[str], ...]
    resources: Resources = field(default_factory=Resources)
    open_after_s: float = 0.0

    def class_key(self) -> str:
        """Canonical form of needs and rounded resources: equal keys can be served by the same agents."""
        rounded = self.resources.rounded_up()
        return json.dumps(
            [
                sorted({tuple(sorted(any_of)) for any_of in self.needs}),
                astuple(rounded),
            ],
            separators=(",", ":"),
        )


@dataclass(frozen=True, slots=True)
class Requirements:
    """The alternatives of a task, preferred ones first."""

    alternatives: tuple[Alternative, ...]

    def class_key(self) -> str:
        """Canonical form of all alternatives and their delays."""
        return json.dumps([[a.class_key(), float(a.open_after_s)] for a in self.alternatives], separators=(",", ":"))

    def after_gpu_failure(self) -> Self:
        """What to ask for after a GPU was used up or failed; the same where nothing does without one.

        First, ways without a GPU open at once, so that another GPU that is free still comes before them; where they
        were open already, they come first.
        """
        opened = tuple(way if way.resources.on_gpu else replace(way, open_after_s=0.0) for way in self.alternatives)
        if opened != self.alternatives:
            return type(self)(opened)
        return type(self)(tuple(sorted(opened, key=lambda way: way.resources.on_gpu)))

    def again(self, binary_digest: str, threads: int) -> Self:
        """What to ask for to do the same once more: those ways with that many threads, first on that FFmpeg.

        Another FFmpeg is taken after :data:`SAME_BINARY_S` seconds, or at once where no agent has that one.
        """
        plain: dict[object, Alternative] = {}
        for way in self.alternatives:  # which may be those of a replay themselves
            needs = tuple(any_of for any_of in way.needs if not any(map(_is_binary, any_of)))
            plain.setdefault((needs, way.resources), replace(way, needs=needs))
        ways = tuple(way for way in plain.values() if way.resources.cores == threads) or tuple(plain.values())
        same = tuple(replace(way, needs=(*way.needs, frozenset({binary(binary_digest)}))) for way in ways)
        later = tuple(replace(way, open_after_s=way.open_after_s + SAME_BINARY_S) for way in ways)
        return type(self)((*same, *later))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "alternatives": [
                {
                    "needs": [sorted(any_of) for any_of in alternative.needs],
                    "resources": asdict(alternative.resources),
                    "open_after_s": alternative.open_after_s,
                }
                for alternative in self.alternatives
            ]
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(
            tuple(
                Alternative(
                    needs=tuple(frozenset(any_of) for any_of in alternative["needs"]),
                    resources=Resources(**alternative["resources"]),
                    open_after_s=float(alternative["open_after_s"]),
                )
                for alternative in document["alternatives"]
            )
        )


def missing(alternative: Alternative, capabilities: frozenset[str]) -> tuple[frozenset[str], ...]:
    """The needs of which ``capabilities`` has none; empty when the alternative is feasible."""
    return tuple(any_of for any_of in alternative.needs if not any_of & capabilities)


def choose_binary(binaries: Iterable[Binary], alternative: Alternative) -> Binary | None:
    """The feasible binary of the newest major version, of those the one that starts fastest; None if none is."""
    feasible = [binary for binary in binaries if not missing(alternative, binary.capabilities)]
    return min(feasible, key=lambda b: (-b.major_version, b.start_ms, b.path), default=None)


def _power_of_two(amount: int) -> int:
    return 1 << (amount - 1).bit_length() if amount > 0 else 0
