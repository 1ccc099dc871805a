"""Lanes: tasks that the same agents can run and that count as the same, first in first out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from controller.core.fitting import beneath


@dataclass(frozen=True, slots=True)
class LaneFacts:
    """What makes a lane; `require`, `reach` and `limit_keys` are canonical JSON text."""

    tenant: str
    queue: str
    priority: int
    class_key: str
    require: str
    reach: str
    limit_keys: str

    @property
    def key(self) -> str:
        """Digest of all of it. It begins with nothing that sorts: lanes are told apart, not ordered, by it."""
        whole = "\n".join(
            (self.tenant, self.queue, str(self.priority), self.class_key, self.require, self.reach, self.limit_keys)
        )
        return hashlib.sha256(whole.encode()).hexdigest()[:24]

    @property
    def feasibility_key(self) -> str:
        """Equal for lanes that the same agents can serve."""
        return f"{self.class_key}\n{self.require}\n{self.reach}"


def reach(paths: Sequence[str], roots: Collection[str]) -> str:
    """For every path the declared media roots that hold it, as canonical JSON.

    Paths held by the same roots are reached by the same agents, so few lanes exist however many folders there are.
    """
    holding = {tuple(sorted(root for root in roots if beneath(path, (root,)))) for path in paths}
    return json.dumps(sorted(holding), separators=(",", ":"))
