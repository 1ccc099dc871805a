"""Stride scheduling (Waldspurger and Weihl, 1995) on two levels: tenants among each other, queues within a tenant.

Everyone has a *pass*: the core-seconds charged so far, divided by the weight. Whoever has the smallest is served next
and charged, so over time core-seconds stand in the ratio of the weights. The *virtual time* of a level is the pass at
which it last served: who was idle enters again there and so gets no credit for the time it asked for nothing. Who
waits but can't be served at the moment keeps its pass, and with it its claim.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

ShareKey = tuple[str, str]
"""(tenant, queue). (tenant, "") is the tenant itself, ("", "") the whole."""

WHOLE: ShareKey = ("", "")


@dataclass(slots=True)
class Standing:
    """Where one share stands; mutable because a round works on its own copy.

    `passed` and `virtual_time` (that among the shares beneath it) are core-seconds divided by weight; `active`:
    it had waiting tasks when it was last looked at.
    """

    weight: float = 1.0
    passed: float = 0.0
    virtual_time: float = 0.0
    active: bool = False


class Shares:
    """The standings of a round. Those that are not given begin with weight 1, as if they had been idle until now.

    Raises ValueError where a weight is not above 0.
    """

    def __init__(self, standings: Mapping[ShareKey, Standing]) -> None:
        if unfit := [key for key, standing in standings.items() if not standing.weight > 0]:
            raise ValueError(f"a weight above 0 is required: {sorted(unfit)}")
        self._given = standings
        self._standings = {key: replace(standing) for key, standing in standings.items()}

    def enter(self, waiting: Collection[ShareKey]) -> None:
        """Say which (tenant, queue) have waiting tasks, all of them: the others are idle from now on."""
        present = {WHOLE, *waiting, *((tenant, "") for tenant, _ in waiting)}
        for key, standing in self._standings.items():
            if key not in present:
                standing.active = False
        # Tenants before their queues, for order's sake: neither's entry depends on the other's.
        for key in sorted(present):
            self._enter(key)

    def rank(self, key: ShareKey) -> tuple[float, float]:
        """The tenant's pass and the queue's: the smallest is served next."""
        return self._at((key[0], "")).passed, self._at(key).passed

    def charge(self, key: ShareKey, core_seconds: float) -> None:
        """Serve a share: virtual times advance to the passes at which it was served, which then rise."""
        tenant, queue = self._at((key[0], "")), self._at(key)
        whole = self._at(WHOLE)
        whole.virtual_time = max(whole.virtual_time, tenant.passed)
        tenant.virtual_time = max(tenant.virtual_time, queue.passed)
        tenant.passed += core_seconds / tenant.weight
        queue.passed += core_seconds / queue.weight

    def changed(self) -> dict[ShareKey, Standing]:
        """The standings that differ from those given, new ones included."""
        return {key: standing for key, standing in self._standings.items() if standing != self._given.get(key)}

    def _at(self, key: ShareKey) -> Standing:
        standing = self._standings.get(key)
        return self._enter(key) if standing is None else standing

    def _enter(self, key: ShareKey) -> Standing:
        standing = self._standings.setdefault(key, Standing())
        if not standing.active:
            standing.active = True
            if key != WHOLE:
                parent = WHOLE if key[1] == "" else (key[0], "")
                standing.passed = max(standing.passed, self._at(parent).virtual_time)
        return standing


def correction(charged: float, used: float, weight: float) -> float:
    """What to add to `passed` when a task has ended that was charged `charged` core-seconds and used `used`.

    Negative where too much was charged; a lease that was handed back used 0 and is refunded whole.
    """
    return (used - charged) / weight
