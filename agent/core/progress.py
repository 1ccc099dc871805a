"""How far an attempt has come, as one number that never falls, though the plan may grow while it runs."""

from __future__ import annotations

CEILING = 0.99
"""The rest is publication: only the controller says that a job is complete."""


class Meter:
    """Each step takes its share of what is left, by weight; so a step that turns up late slows and never turns back."""

    def __init__(self) -> None:
        self.value = 0.0
        self._base = 0.0
        self._span = 0.0

    def begin(self, weight: float, left: float) -> None:
        """A step begins; `left` is the weight of all steps not done yet, this one included."""
        self._base = self.value
        share = min(1.0, weight / left) if left > 0 else 1.0
        self._span = (CEILING - self._base) * share

    def at(self, fraction: float) -> float:
        """This much of the step (0 to 1) is done."""
        self.value = max(self.value, self._base + self._span * min(1.0, max(0.0, fraction)))
        return self.value

    def end(self) -> float:
        """The step is done."""
        return self.at(1.0)
