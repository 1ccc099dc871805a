"""What goes wrong, and when: drawn before the simulation begins, so that its seed alone decides it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.simulation.agents import SimulatedAgent
from tests.simulation.controllers import TIMERS
from tests.simulation.scheduler import NOBODY, Scheduler

if TYPE_CHECKING:
    from tests.simulation.world import World

FAULTS = (
    "cut",
    "partition",
    "kill agent",
    "agent dies soon",
    "end agent",
    "pause agent",
    "pause agent past lost",
    "kill controller",
    "controller dies soon",
    "pause controller",
    "database away",
    "ambush",
    "clone",
)
AMBUSHES = ("pause agent past lost", "pause agent past lost", "partition", "kill agent", "kill controller", "cut")
"""What may wait for the next agent that is allowed to publish: the moment at which most could be lost."""
CHAOS_S = 30.0


class Nemesis:
    """Chooses kinds of faults for this seed, and times for each. `stop` mends everything."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._scheduler: Scheduler = world.scheduler
        self.active = True
        dice = self._scheduler.dice
        self._ambush = dice.choice(("", *AMBUSHES))
        kinds = dice.sample(FAULTS, dice.randint(1, 5))
        for _ in range(dice.randint(0, 8)):
            kind = dice.choice(kinds)
            self._scheduler.after(self._scheduler.between(0.3, CHAOS_S), NOBODY, partial(self._strike, kind))

    def about_to_publish(self, agent: SimulatedAgent) -> None:
        """An agent was just allowed to."""
        kind, self._ambush = self._ambush, ""
        if kind:
            delay_s = self._scheduler.between(0.0, self._world.moods.longest_step_s)
            self._scheduler.after(delay_s, NOBODY, partial(self._strike, kind, agent))

    def _strike(self, kind: str, victim: SimulatedAgent | None = None) -> None:
        if not self.active:
            return
        scheduler, world, dice = self._scheduler, self._world, self._scheduler.dice
        agent = victim or dice.choice(world.agents)
        controller = dice.choice(world.controllers)
        scheduler.say("nemesis", f"{kind}: {agent.name if 'controller' not in kind else controller.name}")
        match kind:
            case "cut":
                agent.cut(dice.choice((0.2, 2.0, 8.0)))
            case "partition":
                agent.unreachable_until_us = scheduler.now_us + int(scheduler.between(0.5, 25.0) * 1e6)
                agent.cut(dice.choice((0.2, 8.0)))
            case "kill agent" if agent.up:
                agent.kill()
                scheduler.after(scheduler.between(0.1, 25.0), NOBODY, agent.start)
            case "agent dies soon" if agent.up:
                agent.dies_in = dice.randint(1, 25)
            case "end agent" if agent.up:
                agent.stop()
            case "pause agent":
                self._pause(agent, scheduler.between(0.5, TIMERS.unreachable_s * 1.5))
            case "pause agent past lost":
                self._pause(agent, scheduler.between(TIMERS.lost_s, TIMERS.lost_s * 2.5))
            case "kill controller" if controller.up:
                controller.kill()
                scheduler.after(scheduler.between(0.1, 20.0), NOBODY, controller.start)
            case "controller dies soon" if controller.up:
                controller.dies_in = dice.randint(1, 12)
                controller.dies_before = scheduler.chance(0.5)
            case "pause controller" if controller.up:
                scheduler.pause(controller, scheduler.between(0.5, TIMERS.lost_s * 2))
            case "database away":
                world.database_away_until_us = scheduler.now_us + int(scheduler.between(0.2, 20.0) * 1e6)
            case "clone" if all(clone.agent_id != agent.name for clone in world.clones):
                # An image of its disk on another machine: the same agent id, another instance.
                clone = SimulatedAgent(
                    world, f"image-{agent.name}", cores=agent.cores, bundles=True, agent_id=agent.name
                )
                world.clones.append(clone)
                clone.start()
                if scheduler.chance(0.5):
                    self._strike("pause agent past lost", agent)
            case "ambush":
                self._ambush = dice.choice(AMBUSHES)
            case _:
                pass

    def _pause(self, agent: SimulatedAgent, seconds: float) -> None:
        self._scheduler.pause(agent, seconds)
        if self._scheduler.chance(0.5):
            # Its controller's keepalive gives up; the agent learns when it goes on.
            self._scheduler.after(min(seconds / 2, 4.0), NOBODY, partial(agent.cut, 0.5))

    def stop(self) -> None:
        """No further faults, and an end to those that last."""
        self.active = False
        world, now_us = self._world, self._scheduler.now_us
        weather, moods = world.weather, world.moods
        weather.slow = weather.twice = weather.late = 0.0
        moods.fail = moods.refile = moods.decline = 0.0
        world.database_away_until_us = min(world.database_away_until_us, now_us)
        for clone in world.clones:
            clone.gone = True
            if clone.up:
                clone.kill()
        for agent in world.agents:
            agent.unreachable_until_us = min(agent.unreachable_until_us, now_us)
            agent.dies_in = 0
        for controller in world.controllers:
            controller.dies_in = 0
        for process in (*world.agents, *world.controllers):
            self._scheduler.thaw(process)
