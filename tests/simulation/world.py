"""One simulation: a fleet, its controllers, their database, people and misfortune, all from one seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from structlog.testing import capture_logs

from controller.store.limits import SetLimit
from controller.store.tables import events, jobs
from tests.fakes.running import fast_folder
from tests.simulation.agents import Moods, SimulatedAgent
from tests.simulation.base import Base, seeded_ids
from tests.simulation.callers import Callers
from tests.simulation.controllers import SimulatedController
from tests.simulation.history import Journal, check_end
from tests.simulation.links import Weather
from tests.simulation.nemesis import CHAOS_S, Nemesis
from tests.simulation.places import Place
from tests.simulation.scheduler import Scheduler

ALWAYS_PLAYED = 1_000
PIECE = 125
"""Seeds in one test."""
SETTLES_WITHIN_S = 900.0
"""Once nothing goes wrong any more."""
LOOK_EVERY_S = 5.0
IMPATIENT_S = 150.0
"""As long as that where nothing but that it does not settle is to be learnt."""
QUIET_S = 10.0
"""How long things are watched after everything has ended: a stale publication would come late."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a seed. `problems` is empty where all is well."""

    seed: int
    problems: tuple[str, ...]
    trace: str
    steps: int
    commits: int
    states: tuple[str, ...]

    def told(self) -> str:
        """For the message of a failing test."""
        problems = "\n".join(f"  * {problem}" for problem in self.problems)
        return (
            f"seed {self.seed} fails (again: python -m tests.simulation {self.seed}):\n{problems}\n"
            f"the last steps:\n{self.trace}"
        )


class World:
    """Everything there is."""

    def __init__(self, seed: int, folder: Path, *, whole_trace: bool = False) -> None:
        self.folder = folder
        """What agents keep on disk."""
        self.scheduler = Scheduler(seed, whole_trace=whole_trace)
        dice, between = self.scheduler.dice, self.scheduler.between
        self.weather = Weather()
        self.moods = Moods(longest_step_s=between(0.1, 4.0))
        if self.scheduler.chance(0.85):
            self.weather = Weather(slow=between(0.0, 0.15), twice=between(0.0, 0.1), late=between(0.0, 0.8))
            self.moods = Moods(between(0.0, 0.15), between(0.0, 0.1), between(0.0, 0.1), between(0.1, 4.0))
        self.database_away_until_us = 0
        self.place = Place()
        self.journal = Journal()
        self.base = Base(self.scheduler)
        self.controllers: list[SimulatedController] = []
        self.controllers += [SimulatedController(self, f"controller-{n}") for n in range(dice.choice((1, 1, 2)))]
        self.agents = [
            SimulatedAgent(self, f"agent-{n}", cores=dice.randint(2, 3), bundles=self.scheduler.chance(0.7))
            for n in range(dice.randint(1, 3))
        ]
        self.clones: list[SimulatedAgent] = []
        self.cores = {agent.name: agent.cores for agent in self.agents}
        if self.scheduler.chance(0.3):
            self.base.transact([SetLimit("global", dice.randint(1, 3))])
        self.callers = Callers(self, jobs=dice.randint(1, 4), interventions=dice.choice((0, 0, 1, 2, 4)))
        self.nemesis = Nemesis(self)
        self._watched = 0

    def run(self, patience_s: float = SETTLES_WITHIN_S) -> None:
        """From the beginning to the end of everything, or of patience."""
        for controller in self.controllers:
            controller.start()
        for agent in self.agents:
            agent.start()
        until_s = 0.0
        while until_s < CHAOS_S:
            until_s += LOOK_EVERY_S
            self.scheduler.run(until_s)
            self._watch()
        self.scheduler.say("world", "nothing goes wrong any more")
        self.nemesis.stop()
        last_s = until_s + patience_s
        settled = False
        while until_s < last_s and not settled:
            # Nothing may stay paused for ever, and a late request to hold may come at any time.
            if self.base.any("SELECT 1 FROM jobs WHERE held AND ended_us IS NULL LIMIT 1"):
                self.callers.release_all()
            if self.base.any("SELECT 1 FROM agents WHERE draining LIMIT 1"):
                self.callers.resume_all()
            until_s += LOOK_EVERY_S
            self.scheduler.run(until_s)
            settled = self._settled()
        self.scheduler.run(until_s + QUIET_S)
        self._watch()

    def _settled(self) -> bool:
        here = all(controller.up for controller in self.controllers) and all(agent.idle for agent in self.agents)
        if self.callers.unanswered or not here:
            return False
        return not self.base.any("SELECT 1 FROM jobs WHERE state NOT IN ('COMPLETED', 'DEAD', 'CANCELLED') LIMIT 1")

    def _watch(self) -> None:
        with self.base.snapshot() as connection:
            rows = list(
                connection.execute(select(events).where(events.c.cursor > self._watched).order_by(events.c.cursor))
            )
        if rows:
            self._watched = rows[-1].cursor
            self.journal.watched(rows)

    def problems(self) -> list[str]:
        """What is wrong at the end."""
        found = [f"{request} was never answered" for request in sorted(self.callers.unanswered)]
        found += [
            f"{agent.name} still owes reports of {', '.join(held.attempt_id for held in agent.outbox.ledger)}"
            for agent in self.agents
            if len(agent.outbox.ledger)
        ]
        with self.base.snapshot() as connection:
            return found + check_end(connection, self.journal, self.place)


def simulate(seed: int, *, whole_trace: bool = False, patient: bool = True) -> Outcome:
    """Play one seed. The same seed gives the same trace, whatever ran before."""
    with fast_folder() as folder:
        world = World(seed, folder, whole_trace=whole_trace)
        with capture_logs() as logged, seeded_ids(world.scheduler.dice):
            world.run(SETTLES_WITHIN_S if patient else IMPATIENT_S)
        for agent in (*world.agents, *world.clones):
            if agent.up:
                agent.outbox.close()
    for entry in logged:
        # That something went wrong is visible elsewhere; what was mended silently is not.
        world.journal.wrong(f"logged: {entry['event']} {entry.get('kind', '')}")
    with world.base.snapshot() as connection:
        states = tuple(connection.scalars(select(jobs.c.state).order_by(jobs.c.seq)))
    return Outcome(
        seed=seed,
        problems=tuple(world.problems()),
        trace=world.scheduler.told(),
        steps=world.scheduler.steps,
        commits=world.base.commits,
        states=states,
    )


def play(seeds: Iterable[int]) -> None:
    """Fails with the story of the first seed that fails."""
    for seed in seeds:
        outcome = simulate(seed)
        assert not outcome.problems, outcome.told()
