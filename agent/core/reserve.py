"""How much of the scratch volume is left alone, and when it counts as low. Pure; sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.sizes import GIB, in_words

MOST = 10 * GIB
HYSTERESIS = 1.25
"""Of the reserve must be free again before work is taken: a volume at the brink would toggle otherwise."""


def default_reserve(total: int) -> int:
    """5 % of the volume, at least 1 GiB (of a small volume a tenth of it), at the most 10 GiB."""
    return min(MOST, max(total // 20, min(GIB, total // 10)))


@dataclass(slots=True)
class Reserve:
    """Free space that must be there for new work to be taken. `given` None: the default for the volume's size."""

    given: int | None = None
    low: str = ""
    """Why no work is taken: the figures of when it became so. Empty: there is enough."""

    def missing(self, free: int, total: int) -> int:
        """How much more must be free for work to be taken."""
        reserve = self._reserve(total)
        return max(0, int(reserve * HYSTERESIS if self.low else reserve) - free)

    def measure(self, free: int, total: int) -> str:
        """Take a measurement and return `low`."""
        if not self.missing(free, total):
            self.low = ""
        elif not self.low:
            reserve = self._reserve(total)
            self.low = f"scratch is low: {in_words(free)} of {in_words(total)} free, less than {in_words(reserve)}"
        return self.low

    def _reserve(self, total: int) -> int:
        return default_reserve(total) if self.given is None else self.given
