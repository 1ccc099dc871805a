"""Random histories: whatever agents and callers say, in whatever order, the database keeps its invariants."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.store import queries
from controller.store.attempts import EpochSuperseded
from controller.store.cancelling import CancelJob, EnforceStops, ExpireJobs, JobEnded
from controller.store.fleet import AgentIdConflict, ExpireAgents
from controller.store.interventions import FallDue, HoldJobs, ReleaseJobs, RetryJobs
from controller.store.leases import Leased
from controller.store.tables import DEFAULT_TENANT
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.running import Desk, check_invariants, sqlite_desk

AGENTS = ("a", "b", "c")
CORES = 3
REASONS = (
    Reason.FFMPEG_FAILED,
    Reason.INPUT_CORRUPT,
    Reason.AGENT_STOPPING,
    Reason.SCRATCH_FULL,
    Reason.PUBLISH_FAILED,
)

_agent = st.sampled_from(AGENTS)
_number = st.integers(0, 40)
_actions = st.one_of(
    st.tuples(st.just("submit"), st.integers(1, 3), st.integers(1, 2), st.none() | _number),
    st.tuples(st.just("steer"), st.sampled_from([HoldJobs, ReleaseJobs, RetryJobs]), _number),
    st.tuples(st.just("decline"), _number),
    st.tuples(st.just("register"), _agent, st.sets(_number, max_size=3), st.booleans()),
    st.tuples(st.just("grant"), st.sets(_agent)),
    st.tuples(st.just("report"), st.sampled_from(["start", "stage", "end", "stopped"]), _number, st.booleans()),
    st.tuples(st.just("report"), st.sampled_from(["start", "stage", "end", "stopped"]), _number, st.just(True)),
    st.tuples(st.just("fail"), st.sampled_from(REASONS), _number),
    st.tuples(st.just("cancel"), _number),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 3.0, 25.0, 61.0])),
    st.tuples(st.just("sweep")),
)


class _Story:
    """Tells a database what was drawn; numbers stand for jobs and attempts in the order of their making."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._jobs: list[Any] = []
        self._attempts: list[str] = []
        self._leases: list[Leased] = []

    def _attempt(self, number: int) -> str:
        return self._attempts[-1 - number % len(self._attempts)] if self._attempts else "none-1.1-00"

    async def _holder(self, attempt: str) -> str:
        held = await self._desk.store.read(queries.holdings)
        return next((agent for agent, ids in held.items() if attempt in ids), AGENTS[0])

    async def tell(self, action: tuple[Any, ...]) -> None:
        verb, *words = action
        step: Callable[..., Coroutine[Any, Any, None]] = getattr(self, f"_{verb}")
        with suppress(EpochSuperseded, JobEnded, AgentIdConflict):
            await step(*words)

    async def _submit(self, count: int, cores: int, parent: int | None = None) -> None:
        after = (self._jobs[parent % len(self._jobs)],) if parent is not None and self._jobs else ()
        timeout_us = 50_000_000 if count == 2 else None
        self._jobs += await self._desk.submit(count, cores=cores, after=after, timeout_us=timeout_us)

    async def _steer(self, how: type[HoldJobs | ReleaseJobs | RetryJobs], number: int) -> None:
        if self._jobs:
            chosen = (self._jobs[number % len(self._jobs)],)
            if how is RetryJobs:
                await self._desk.do(RetryJobs(DEFAULT_TENANT, chosen, "", ""))
            elif how is HoldJobs:
                await self._desk.do(HoldJobs(DEFAULT_TENANT, chosen, ""))
            else:
                await self._desk.do(ReleaseJobs(DEFAULT_TENANT, chosen, ""))

    async def _decline(self, number: int) -> None:
        attempt = self._attempt(number)
        agent = await self._holder(attempt)
        if agent in self._desk.epochs:
            await self._desk.decline(agent, attempt)

    async def _register(self, agent: str, held: set[int], truthful: bool) -> None:
        claims = {self._attempt(number) for number in held}
        if truthful:
            claims |= set((await self._desk.store.read(queries.holdings)).get(agent, []))
        await self._desk.register(agent, *claims)

    async def _grant(self, agents: set[str]) -> None:
        known = sorted(agents & self._desk.epochs.keys())
        before = await self._desk.store.read(queries.holdings)
        # Two at once: in one batch or in two, they must not spend the same core.
        rounds = await asyncio.gather(*(self._desk.grant(*known, cores=CORES) for _ in range(2)))
        granted = [lease for leases in rounds for lease in leases]
        new = [lease for lease in granted if lease.redo is None]
        assert len({lease.task_id for lease in granted}) == len(granted)
        for agent in known:
            mine = [lease for lease in new if lease.agent_id == agent]
            if mine:
                old = [(await self._desk.attempt(attempt)).cores for attempt in before.get(agent, [])]
                assert len(old) + len(mine) <= CORES
                assert sum(old) + sum(lease.cores for lease in mine) <= CORES
        self._attempts += [lease.attempt_id for lease in new]

    async def _report(self, what: str, number: int, from_holder: bool) -> None:
        attempt = self._attempt(number)
        agent = await self._holder(attempt) if from_holder else AGENTS[number % len(AGENTS)]
        if agent not in self._desk.epochs:
            return
        match what:
            case "start":
                await self._desk.start(agent, attempt)
            case "stage":
                task_before = await self._desk.store.read(queries.holdings)
                granted = await self._desk.stage(agent, attempt)
                assert not granted or attempt in task_before[agent]
            case "end":
                await self._desk.end(agent, attempt)
            case _:
                await self._desk.end(agent, attempt, pb.OUTCOME_STOPPED)

    async def _fail(self, reason: Reason, number: int) -> None:
        attempt = self._attempt(number)
        agent = await self._holder(attempt)
        if agent in self._desk.epochs:
            await self._desk.end(agent, attempt, reason=reason)

    async def _cancel(self, number: int) -> None:
        if self._jobs:
            await self._desk.do(CancelJob(DEFAULT_TENANT, self._jobs[number % len(self._jobs)], ""))

    async def _wait(self, seconds: float) -> None:
        self._desk.wait(seconds)

    async def _sweep(self) -> None:
        await self._desk.do(FallDue())
        await self._desk.do(EnforceStops())
        await self._desk.do(ExpireJobs())
        await self._desk.do(ExpireAgents(60_000_000, jitter=0.5))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_actions, min_size=5, max_size=60))
def test_invariants_hold_in_every_history(actions: list[tuple[Any, ...]]) -> None:
    """Events without gaps that replay to the present, one holder at most, artifacts of COMPLETED jobs only.

    Checked every few steps, and at the end. Every story begins with two agents and jobs, so that something happens.
    """

    async def story() -> None:
        async with sqlite_desk() as desk:
            teller = _Story(desk)
            opening = [
                ("register", "a", set(), True),
                ("register", "b", set(), True),
                ("submit", 3, 1),
                ("grant", {"a"}),
            ]
            for number, action in enumerate([*opening, *actions]):
                await teller.tell(action)
                if number % 5 == 0:
                    await desk.store.read(check_invariants)

    asyncio.run(story())
