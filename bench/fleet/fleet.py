"""Many simulated agents in one event loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from bench.fleet.agent import SimulatedAgent
from bench.fleet.deeds import Script, mixed
from bench.fleet.hooks import Hooks, Tally
from bench.fleet.machine import Machine

POLL_S = 0.005
CONNECTING = 50
"""Agents that introduce themselves at once: a controller takes them one after the other anyway."""


class SimulatedFleet:
    """Agents `{prefix}1` to `{prefix}N`, connected within an `async with`. They share one tally; `script` or else the
    rates say what they do. Equal seeds roll equal dice, though the order of leases is the controller's."""

    def __init__(
        self,
        controllers: Sequence[str],
        agents: int,
        *,
        machine: Machine | None = None,
        script: Script | None = None,
        work_s: float = 0.0,
        fail_rate: float = 0.0,
        decline_rate: float = 0.0,
        hooks: Hooks | None = None,
        seed: int = 0,
        prefix: str = "sim-",
    ) -> None:
        self.tally = Tally()
        self.agents = [
            SimulatedAgent(
                agent_id,
                # Spread over the controllers.
                [*controllers[index % len(controllers) :], *controllers[: index % len(controllers)]],
                machine=machine,
                script=script
                or mixed(
                    random.Random(f"{seed} {agent_id} script"),  # noqa: S311 - no secret
                    work_s=work_s,
                    fail_rate=fail_rate,
                    decline_rate=decline_rate,
                ),
                hooks=hooks,
                tally=self.tally,
                seed=seed,
            )
            for index, agent_id in enumerate(f"{prefix}{number + 1}" for number in range(agents))
        ]
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._starting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._starting = asyncio.create_task(self._start_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._starting is not None:
            self._starting.cancel()
        for agent in self.agents:
            self._cancel(agent)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def start(self, agent: SimulatedAgent) -> None:
        """Run an agent that doesn't run."""
        task = self._tasks.get(agent.agent_id)
        if task is None or task.done():
            self._tasks[agent.agent_id] = asyncio.create_task(agent.run())

    async def halt(self, agent: SimulatedAgent) -> None:
        """Take an agent off the net; `start` brings it back with all that it holds."""
        task = self._tasks.get(agent.agent_id)
        self._cancel(agent)
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, wanted: Callable[[Tally], bool], *, timeout_s: float) -> None:
        """Raises TimeoutError where the tally isn't as wanted in time, or what ended an agent."""
        deadline = time.monotonic() + timeout_s
        while not wanted(self.tally):
            for task in self._tasks.values():
                if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                    raise error
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout_s} s: {self.tally}")
            await asyncio.sleep(POLL_S)

    async def until_connected(self, *, timeout_s: float = 30.0) -> None:
        """All agents. Raises TimeoutError."""
        await self.until(lambda tally: tally.connected == len(self.agents), timeout_s=timeout_s)

    async def _start_all(self) -> None:
        for start in range(0, len(self.agents), CONNECTING):
            group = self.agents[start : start + CONNECTING]
            for agent in group:
                self.start(agent)
            await asyncio.gather(*(agent.connected.wait() for agent in group))

    def _cancel(self, agent: SimulatedAgent) -> None:
        if task := self._tasks.get(agent.agent_id):
            task.cancel()
