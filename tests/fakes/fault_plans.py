"""Which faults, where, when and for how long: all of it decided by a seed, before the first of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    KILL_CONTROLLER = "kill controller"
    PAUSE_CONTROLLER = "pause controller"
    KILL_FLEET = "kill fleet"
    PAUSE_FLEET = "pause fleet"
    PAUSE_FLEET_PAST_LOST = "pause fleet past LOST"
    CUT = "cut"
    FREEZE = "freeze"
    DELAY = "delay"
    KILL_DATABASE = "kill database"
    CUT_DATABASE = "cut database"
    FREEZE_DATABASE = "freeze database"


OF_DATABASE = (Kind.KILL_DATABASE, Kind.CUT_DATABASE, Kind.FREEZE_DATABASE)
HOW = {Kind.CUT: "cut", Kind.CUT_DATABASE: "cut", Kind.FREEZE: "freeze", Kind.FREEZE_DATABASE: "freeze"}


@dataclass(frozen=True, slots=True)
class Shape:
    """How many of what, and after how many seconds of silence an agent is LOST."""

    controllers: int = 1
    fleets: int = 3
    agents: int = 2
    lost_s: float = 1.6
    postgres: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """`controller` and `fleet` count from 0; what a kind doesn't concern is ignored."""

    at_s: float
    lasts_s: float
    kind: Kind
    controller: int
    fleet: int

    def __str__(self) -> str:
        return (
            f"{self.at_s:6.2f} s, {self.lasts_s:.2f} s: {self.kind} (controller {self.controller} fleet {self.fleet})"
        )


def plan(seed: int, shape: Shape, *, lasts_s: float, every_s: float = 0.8) -> tuple[Fault, ...]:
    """Faults for `lasts_s` seconds, one about `every_s` seconds: a function of its arguments alone."""
    dice = random.Random(f"nemesis {seed}")  # noqa: S311 - no secret
    kinds = [kind for kind in Kind if shape.postgres or kind not in OF_DATABASE]
    faults = []
    # Each kind comes before any comes again.
    deck: list[Kind] = []
    at_s = 0.5
    while at_s < lasts_s:
        deck = deck or dice.sample(kinds, len(kinds))
        kind = deck.pop()
        longest = shape.lost_s * 1.8 if kind is Kind.PAUSE_FLEET_PAST_LOST else 1.5
        shortest = shape.lost_s * 1.3 if kind is Kind.PAUSE_FLEET_PAST_LOST else 0.1
        faults.append(
            Fault(
                round(at_s, 2),
                round(dice.uniform(shortest, longest), 2),
                kind,
                dice.randrange(shape.controllers),
                dice.randrange(shape.fleets),
            )
        )
        at_s += dice.uniform(0.3, 1.7) * every_s
    return tuple(faults)
