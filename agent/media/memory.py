"""How much memory a task may occupy, given how much it was granted. Pure."""

from dataclasses import dataclass
from typing import Self

MEBIBYTE = 1 << 20

#: Above the grant there is room before anything is killed or refused: a grant is an estimate of the resident set, and
#: no honest task is to die of its being close.
HEADROOM_BYTES = 256 * MEBIBYTE
#: A control group also counts caches of files and what the kernel holds for the task.
GROUP_FACTOR = 1.25
#: RLIMIT_DATA counts what can be written to, touched or not: stacks of 8 MiB for each thread, the arenas of malloc.
#: Measured with FFmpeg 5.1 and 9.0: up to 37 % more than the resident set (x264, 4K, 42 threads), and 40 MiB at least.
RLIMIT_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """What a task is held to: ``granted_bytes`` by its lease, ``limit_bytes`` in force, ``means`` in words.

    ``kills`` is how many of its processes the kernel killed for it so far; None where the kernel does not tell.
    """

    granted_bytes: int
    limit_bytes: int
    means: str
    kills: int | None

    @classmethod
    def of_group(cls, granted_bytes: int, kills: int = 0) -> Self:
        """By a control group: what goes beyond is killed."""
        return cls(granted_bytes, int(granted_bytes * GROUP_FACTOR) + HEADROOM_BYTES, "control group", kills)

    @classmethod
    def of_rlimit(cls, granted_bytes: int) -> Self:
        """By an rlimit: what goes beyond is refused, which few programs take well."""
        return cls(granted_bytes, int(granted_bytes * RLIMIT_FACTOR) + HEADROOM_BYTES, "rlimit", None)
