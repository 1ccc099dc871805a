"""A controller around the real exchange and store: sessions, group commit, leasing and sweeps in virtual time.

What awaits in the real one is an event of its own here, so that anything may come between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from controller.core.fitting import Offer
from controller.core.liveness import Health, Timers, health, may_expire
from controller.core.matching import Feasibility, Rules
from controller.exchange import Exchange
from controller.store import queries, topics
from controller.store.attempts import Decline, EpochSuperseded, Item, Report
from controller.store.cancelling import EnforceStops, ExpireJobs, JobEnded
from controller.store.draining import AgentUnknown, DrainAgent, HandBackOverdue
from controller.store.engine import StoreUnavailable
from controller.store.fleet import AgentIdConflict, ExpireAgents, Reconciled, Seen, Sign
from controller.store.interventions import FallDue
from controller.store.leases import Leased, leases_of
from controller.store.leasing import GrantLeases
from controller.store.tables import AgentId
from controller.store.writer import Command
from mediactl.v1 import agent_service_pb2 as pb
from tests.simulation.base import RolledBack
from tests.simulation.history import check_grant, check_willing
from tests.simulation.links import Stream
from tests.simulation.scheduler import NOBODY, Process, Scheduler

if TYPE_CHECKING:
    from tests.simulation.world import World

TIMERS = Timers(heartbeat_s=2.0, unreachable_s=6.0, lost_s=15.0)
SWEEP_S = 3.0
DECLINE_PAUSE_S = 1.0
REFUSALS = (AgentIdConflict, AgentUnknown, EpochSuperseded, JobEnded, StoreUnavailable)
"""What commands may raise; anything else is a defect."""

WAITING = (
    "SELECT 1 FROM tasks WHERE state = 'PENDING' LIMIT 1",
    "SELECT 1 FROM tasks JOIN attempts ON attempts.id = attempt_id"
    " WHERE tasks.state = 'PUBLISHING' AND holder = '' LIMIT 1",
)
"""What granting is for."""
TIMED = (
    "SELECT 1 FROM tasks WHERE state IN ('FAILED', 'SCHEDULED') LIMIT 1",
    "SELECT 1 FROM attempts WHERE holder <> '' AND stop_us IS NOT NULL LIMIT 1",
    "SELECT 1 FROM jobs WHERE expires_us IS NOT NULL LIMIT 1",
    "SELECT 1 FROM agents WHERE drain_deadline_us IS NOT NULL LIMIT 1",
)
"""What only time makes due, whether it is due yet or not."""

Reply = Callable[[Any], None]


class Line:
    """One stream as its controller sees it."""

    def __init__(self, stream: Stream, heard_us: int) -> None:
        self.stream = stream
        self.heard_us = heard_us
        self.paused_until_us = 0
        self.ended = False
        self.over = False
        self.items: list[Item] = []
        self.outgoing: list[pb.SessionResponse] = []
        self.told = 0
        self._exchange: Exchange | None = None

    @property
    def exchange(self) -> Exchange:
        assert self._exchange is not None, "no hello came yet"
        return self._exchange

    @exchange.setter
    def exchange(self, exchange: Exchange) -> None:
        self._exchange = exchange

    @property
    def registered(self) -> bool:
        return self._exchange is not None and self._exchange.speaker.epoch > 0


class SimulatedController(Process):
    """`kill` takes all but the database. `dies_in` commits it dies by itself, before the commit or after it."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(name)
        self.world = world
        self.scheduler: Scheduler = world.scheduler
        self.up = False
        self.dies_in = 0
        self.dies_before = False
        self._queue: list[tuple[Command[Any], Reply]] = []
        self.lines: dict[str, Line] = {}

    def start(self) -> None:
        """Begin a new life, unless it lives."""
        if self.up:
            return
        self.scheduler.say(self.name, "starts")
        self.up = True
        self.dies_in = 0
        self._queue = []
        self._committing = False
        self.lines = {}
        self._streams: list[Stream] = []
        self._feasibility = Feasibility()
        self._dispatching = self._again = False
        self._awake_since_s = self._last_sweep_s = self.scheduler.now_s
        self.scheduler.after(self.scheduler.between(0.0, SWEEP_S), self, self._sweep)

    def kill(self) -> None:
        """As `kill -9`."""
        self.scheduler.say(self.name, "is killed")
        self.up = False
        self.end_life()
        for stream in self._streams:
            if stream.open:
                stream.cut(0.5)
        if not any(controller.up for controller in self.world.controllers):
            self.world.base.restart()

    # The store

    def execute(self, command: Command[Any], reply: Reply = lambda result: None) -> None:
        """Put a command in line. The reply is its result or its exception, after the commit."""
        self._queue.append((command, reply))
        if not self._committing:
            self._committing = True
            self.scheduler.after(self.scheduler.between(0.0, 0.005), self, self._commit)

    def _commit(self) -> None:
        batch, self._queue = self._queue, []
        before = after = False
        if self.dies_in > 0:
            self.dies_in -= 1
            before, after = self.dies_in == 0 and self.dies_before, self.dies_in == 0 and not self.dies_before
        away = self.scheduler.now_us < self.world.database_away_until_us
        commands = [command for command, _ in batch]
        try:
            follow_up = self._follow_up()
            results, changed = self.world.base.transact(commands, follow_up=follow_up, roll_back=before or away)
            if follow_up is not None and len(results) > len(commands):
                commands.append(follow_up)
        except RolledBack:
            results, changed = [StoreUnavailable()] * len(commands), set()
        if before or after:
            self.scheduler.say(self.name, f"dies {'before' if before else 'after'} a commit")
            self._check(commands, results)
            self.kill()
            self.scheduler.after(self.scheduler.between(0.1, 20.0), NOBODY, self.start)
            return
        self._check(commands, results)
        self.scheduler.after(self.scheduler.between(0.0, 0.002), self, partial(self._reply, batch, results, changed))

    def _check(self, commands: list[Command[Any]], results: list[Any]) -> None:
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, Exception) and not isinstance(result, REFUSALS):
                self.world.journal.wrong(f"{type(command).__name__} raised {result!r}")
            if isinstance(command, GrantLeases) and isinstance(result, list):
                granted = {leased.agent_id for leased in result if leased.redo is None}
                if granted:
                    with self.world.base.snapshot() as connection:
                        check_grant(connection, granted, self.world.cores, self.world.journal)
                        # In one transaction with a grant, a drain may come after it.
                        if not any(isinstance(other, DrainAgent) for other in commands):
                            check_willing(connection, {leased.agent_id for leased in result}, self.world.journal)

    def _reply(self, batch: list[tuple[Command[Any], Reply]], results: list[Any], changed: set[str]) -> None:
        self._committing = bool(self._queue)
        if self._committing:
            self.scheduler.after(self.scheduler.between(0.0, 0.005), self, self._commit)
        # What was granted with it is sent before anybody goes on who waited for an answer.
        self._send_leases(results[len(batch)] if len(results) > len(batch) else [])
        for (_, reply), result in zip(batch, results, strict=False):
            reply(result)
        for controller in self.world.controllers:
            # To others it is a hint that may be lost.
            if controller is self or (controller.up and self.scheduler.chance(0.7)):
                controller.hint(changed)

    def hint(self, changed: set[str]) -> None:
        """Something changed."""
        if topics.DISPATCH in changed:
            self._dispatch()
        for agent_id, line in self.lines.items():
            if topics.agent(agent_id) in changed:
                self._tell_in(line, 0.0)

    # Streams

    def accept(self, stream: Stream) -> None:
        line = Line(stream, self.scheduler.now_us)
        self._streams = [other for other in self._streams if other.open]
        self._streams.append(stream)
        stream.up.hear = partial(self._hear, line)
        stream.up.over = partial(self._over, line)

    def _hear(self, line: Line, frame: pb.SessionRequest) -> None:
        if frame.HasField("hello"):
            line.exchange = Exchange(frame.hello, self.scheduler.dice.random)
            self.execute(line.exchange.register(), partial(self._registered, line))
            return
        if line.over or not line.registered:
            return
        line.heard_us = self.scheduler.now_us
        items = line.exchange.hear(frame)
        if items:
            if not line.items:
                self.scheduler.after(0.0, self, partial(self._hand_over, line))
            line.items += items

    def _hand_over(self, line: Line) -> None:
        items, line.items = tuple(line.items), []
        if any(isinstance(item, Decline) for item in items):
            line.paused_until_us = self.scheduler.now_us + int(DECLINE_PAUSE_S * 1e6)
        self.execute(Report(line.exchange.speaker, items), partial(self._answer, line, items))

    def _answer(self, line: Line, items: tuple[Item, ...], result: Any) -> None:
        if isinstance(result, Exception):
            self._close(line, result)
            return
        frames = [
            frame
            for item, answer in zip(items, result, strict=True)
            if (frame := line.exchange.answer(item, answer)) is not None
        ]
        self._send(line, frames)

    def _registered(self, line: Line, result: Any) -> None:
        if not isinstance(result, Reconciled):
            self._close(line, result)
            return
        agent_id = line.exchange.hello.agent_id
        self.scheduler.say(
            self.name,
            f"welcomes {agent_id}, epoch {result.epoch}: {len(result.leases)} leases, {len(result.stops)} stops",
        )
        line.heard_us = self.scheduler.now_us
        self._send(line, line.exchange.welcome(result, TIMERS.heartbeat_s))
        before = self.lines.get(agent_id)
        self.lines[agent_id] = line
        if before is not None:
            self._close(before, EpochSuperseded())
        if line.ended:
            self._close(line, None)
            return
        self._dispatch()
        self._tell_in(line, 0.0)

    def _send(self, line: Line, frames: list[pb.SessionResponse]) -> None:
        if not frames or line.over:
            return
        if not line.outgoing:
            self.scheduler.after(0.0, self, partial(self._flush, line))
        line.outgoing += frames

    def _flush(self, line: Line) -> None:
        frames, line.outgoing = line.outgoing, []
        for frame in line.exchange.bundled(frames) if frames else ():
            line.stream.down.send(frame)

    def _over(self, line: Line) -> None:
        line.ended = True
        if line.registered:
            self._close(line, None)

    def _close(self, line: Line, why: Any) -> None:
        if line.over:
            return
        self._flush(line)
        line.over = True
        line.stream.hang_up()
        agent_id = line.exchange.hello.agent_id
        self.scheduler.say(self.name, f"ends a stream of {agent_id}{f': {why!r}' if why is not None else ''}")
        if self.lines.get(agent_id) is line:
            del self.lines[agent_id]

    # Telling agents

    def _tell_in(self, line: Line, delay_s: float) -> None:
        line.told += 1
        self.scheduler.after(delay_s, self, partial(self._tell, line, line.told))

    def _tell(self, line: Line, number: int) -> None:
        if line.over or number != line.told:
            return
        if self.scheduler.now_us < self.world.database_away_until_us:
            self._close(line, StoreUnavailable())
            return
        agent_id = line.exchange.speaker.agent_id
        if not self.world.base.any("SELECT 1 FROM attempts WHERE holder <> '' LIMIT 1"):
            self._tell_in(line, 2 * TIMERS.heartbeat_s)
            return
        with self.world.base.snapshot() as connection:
            stops = queries.stops_for(connection, agent_id)
            unconfirmed = queries.unconfirmed(
                connection, agent_id, int(2e6 * TIMERS.heartbeat_s), self.world.base.database
            )
            held = line.exchange.held()
            missing = [attempt for attempt in unconfirmed if attempt not in held]
            leases = leases_of(connection, self.world.base.database, agent_id, *missing) if missing else []
        frames = [pb.SessionResponse(stop=pb.Stop(attempt_id=row.id, reason=row.stop_reason)) for row in stops]
        frames += [line.exchange.lease(leased) for leased in leases]
        # What was read may be out of date when it is said.
        self.scheduler.after(self.scheduler.between(0.0, 0.01), self, partial(self._send, line, frames))
        self._tell_in(line, 2 * TIMERS.heartbeat_s)

    # Leasing

    def _offers(self) -> tuple[Offer, ...]:
        now_us = self.scheduler.now_us
        return tuple(
            line.exchange.offer()
            for line in self.lines.values()
            if not line.exchange.status.draining
            and now_us >= line.paused_until_us
            and health((now_us - line.heard_us) / 1e6, TIMERS) is Health.READY
        )

    def _dispatch(self) -> None:
        if self._dispatching:
            self._again = True
            return
        offers = self._offers()
        if offers and self.world.base.any(*WAITING):
            self._dispatching, self._again = True, False
            self.execute(GrantLeases(offers, Rules(), self._feasibility), self._granted)

    def _follow_up(self) -> GrantLeases | None:
        """A controller that has the database for itself grants in the transaction that brought the change."""
        offers = self._offers() if len(self.world.controllers) == 1 else ()
        return GrantLeases(offers, Rules(), self._feasibility) if offers else None

    def _granted(self, result: Any) -> None:
        self._dispatching = False
        self._send_leases(result)
        if self._again:
            self._dispatch()

    def _send_leases(self, result: Any) -> None:
        leases: list[Leased] = result if isinstance(result, list) else []
        for leased in leases:
            self.scheduler.say(self.name, f"grants {leased.attempt_id} to {leased.agent_id}")
            line = self.lines.get(leased.agent_id)
            if line is not None:
                self._send(line, [line.exchange.lease(leased)])

    # Sweeping

    def _sweep(self) -> None:
        now_s = self.scheduler.now_s
        self.scheduler.after(SWEEP_S, self, self._sweep)
        if now_s - self._last_sweep_s > max(TIMERS.unreachable_s, 4 * SWEEP_S):
            self._awake_since_s = now_s
        silences = [(line, self.scheduler.now_us - line.heard_us) for line in self.lines.values()]
        signs = tuple(
            Sign(AgentId(line.exchange.hello.agent_id), line.exchange.speaker.epoch, silent_us, line.exchange.objection)
            for line, silent_us in silences
            if silent_us < TIMERS.unreachable_s * 1e6
        )
        if signs:
            self.execute(Seen(signs, resolution_us=2_000_000), self._superseded)
        if self.world.base.any(*TIMED):
            self.execute(FallDue())
            self.execute(HandBackOverdue())
            self.execute(EnforceStops())
            self.execute(ExpireJobs(), partial(self._swept, now_s))
        else:
            self._swept(now_s, None)
        self._dispatch()

    def _superseded(self, result: Any) -> None:
        for agent_id, epoch in result if isinstance(result, list) else ():
            line = self.lines.get(agent_id)
            if line is not None and line.exchange.speaker.epoch == epoch:
                self._close(line, EpochSuperseded())

    def _swept(self, began_s: float, result: Any) -> None:
        if isinstance(result, Exception) or self.scheduler.now_us < self.world.database_away_until_us:
            return
        if may_expire(began_s - self._awake_since_s, TIMERS):
            silent_us = int(TIMERS.lost_s * 1e6)
            self.execute(ExpireAgents(silent_us, self.scheduler.dice.random()), self._expired)
        self._last_sweep_s = began_s

    def _expired(self, result: Any) -> None:
        for agent_id in result if isinstance(result, list) else ():
            self.scheduler.say(self.name, f"calls {agent_id} lost")
            if (line := self.lines.get(agent_id)) is not None:
                self._close(line, EpochSuperseded())
