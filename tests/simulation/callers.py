"""People and services: they submit, change their minds, and ask again until they are answered."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from controller.store.cancelling import CancelJob
from controller.store.draining import DrainAgent, ResumeAgent
from controller.store.engine import StoreUnavailable
from controller.store.interventions import HoldJobs, ReleaseJobs, RetryJobs
from controller.store.submission import NewJob, Submit
from controller.store.tables import DEFAULT_TENANT, AgentId, JobId
from controller.store.writer import Command
from tests.fakes.running import new_job
from tests.simulation.controllers import Reply, SimulatedController
from tests.simulation.scheduler import NOBODY, Scheduler

if TYPE_CHECKING:
    from tests.simulation.world import World

PATIENCE_S = 1.0
"""How long a caller waits for an answer before asking again."""
ACTS_BY_S = 25.0


class Callers:
    """Everything that people do in one simulation, planned by its die."""

    def __init__(self, world: World, jobs: int, interventions: int) -> None:
        self._world = world
        self._scheduler: Scheduler = world.scheduler
        self.unanswered: set[str] = set()
        for number in range(jobs):
            self.unanswered.add(f"r{number}")
            when_s = self._scheduler.between(0.0, 15.0)
            self._scheduler.after(when_s, NOBODY, partial(self._submit, number))
        for number in range(interventions):
            when_s = self._scheduler.between(0.5, ACTS_BY_S)
            self._scheduler.after(when_s, NOBODY, partial(self._intervene, number))

    @property
    def jobs(self) -> list[JobId]:
        """Those whose submission was answered."""
        return [JobId(job_id) for ids in self._world.journal.jobs.values() for job_id in ids]

    def release_all(self) -> None:
        """Nothing may stay paused for ever."""
        if self.jobs:
            self._ask("release", ReleaseJobs(DEFAULT_TENANT, tuple(self.jobs), "all"))

    def resume_all(self) -> None:
        """Nor may an agent."""
        for agent in self._world.agents:
            self._ask("resume", ResumeAgent(AgentId(agent.name)))

    def _submit(self, number: int) -> None:
        dice, scheduler = self._scheduler.dice, self._scheduler
        size = dice.choice((1, 1, 1, 2))
        new = tuple(self._new(f"{number}-{index}") for index in range(size))
        request_id = f"r{number}"
        scheduler.say("caller", f"submits {request_id}: {size}")
        command = Submit(DEFAULT_TENANT, new, request_id, f"digest of {request_id}")

        def answered(result: Any) -> None:
            if isinstance(result, list):
                self.unanswered.discard(request_id)
                scheduler.say("caller", f"{request_id} is {', '.join(result)}")
                self._world.journal.submitted(request_id, [str(job_id) for job_id in result])

        self._ask(request_id, command, answered)

    def _new(self, name: str) -> NewJob:
        dice, scheduler = self._scheduler.dice, self._scheduler
        outputs = [{"uri": f"file:///media/out/{name}.{k}"} for k in range(dice.choice((1, 1, 2)))]
        expands = scheduler.chance(0.2)
        plans = not expands and scheduler.chance(0.1)
        facts: dict[str, Any] = {}
        if self.jobs and scheduler.chance(0.3):
            facts["after"] = tuple(sorted(set(dice.choices(self.jobs, k=dice.choice((1, 2))))))
            facts["after_any_end"] = scheduler.chance(0.3)
        now_us = scheduler.database_us()
        if scheduler.chance(0.15):
            facts["timeout_us"] = int(scheduler.between(1.0, 20.0) * 1e6)
        if scheduler.chance(0.1):
            facts["deadline_us"] = now_us + int(scheduler.between(1.0, 40.0) * 1e6)
        if scheduler.chance(0.1):
            facts["not_before_us"] = now_us + int(scheduler.between(0.5, 10.0) * 1e6)
        return new_job(
            cores=dice.choice((1, 1, 2)),
            kind="plan" if plans else "media",
            task_kind="plan" if plans or expands else "transform",
            queue=dice.choice(("a", "b")),
            priority=dice.randint(0, 9),
            max_attempts=dice.randint(1, 4),
            hold=scheduler.chance(0.05),
            intent=json.dumps(
                {
                    "inputs": [{"role": "x", "uri": "file:///media/x.wav"}],
                    "outputs": outputs,
                    "overwrite": False,
                    "expands": expands,
                }
            ),
            **facts,
        )

    def _intervene(self, number: int) -> None:
        if not self.jobs:
            return
        dice = self._scheduler.dice
        chosen = tuple(sorted(set(dice.choices(self.jobs, k=2))))
        what = dice.choice(("cancel", "cancel", "hold", "release", "retry", "retry", "drain", "drain", "resume"))
        agent = AgentId(dice.choice(self._world.agents).name)
        self._scheduler.say("caller", f"{what}s {agent if what in ('drain', 'resume') else ', '.join(chosen)}")
        match what:
            case "drain":
                within_s = dice.choice((None, 0.0, dice.uniform(0.0, 10.0)))
                self._ask(what, DrainAgent(agent, None if within_s is None else int(within_s * 1e6)))
            case "resume":
                self._ask(what, ResumeAgent(agent))
            case "cancel":
                self._ask(what, CancelJob(DEFAULT_TENANT, chosen[0], "not wanted"))
            case "hold":
                self._ask(what, HoldJobs(DEFAULT_TENANT, chosen, "wait"))
            case "release":
                self._ask(what, ReleaseJobs(DEFAULT_TENANT, chosen, "go on"))
            case _:
                self._ask(what, RetryJobs(DEFAULT_TENANT, chosen, f"retry {number}", f"digest of retry {number}"))

    def _ask(self, what: str, command: Command[Any], reply: Reply = lambda result: None) -> None:
        """Ask any controller, and again until there is an answer: every request may be repeated."""
        scheduler = self._scheduler
        heard: list[bool] = []

        def answered(result: Any) -> None:
            if not isinstance(result, StoreUnavailable) and not heard:
                heard.append(True)
                reply(result)

        def ask() -> None:
            if heard:
                return
            up = [controller for controller in self._world.controllers if controller.up]
            if up:
                self._at(scheduler.dice.choice(up), command, answered)
            scheduler.after(PATIENCE_S, NOBODY, ask)

        ask()

    def _at(self, controller: SimulatedController, command: Command[Any], answered: Reply) -> None:
        delay_s = self._scheduler.between(0.0, 0.01)
        self._scheduler.after(delay_s, controller, lambda: controller.execute(command, answered))
