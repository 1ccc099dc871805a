"""Why the agent takes no new work for now. Pure."""

from __future__ import annotations


class Reluctance:
    """One reason in words for each source of them (the disk, a notice of the host, its own stopping).

    With none the agent is willing. What it holds goes on in any case.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def set(self, source: str, reason: str) -> bool:
        """Say why `source` wants no new work; empty: it has nothing against it any more. Whether that is news."""
        before = self._reasons.get(source, "")
        if reason:
            self._reasons[source] = reason
        else:
            self._reasons.pop(source, None)
        return before != reason

    @property
    def reason(self) -> str:
        """All reasons; empty: willing."""
        return "; ".join(self._reasons.values())
