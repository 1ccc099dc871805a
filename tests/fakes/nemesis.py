"""A seeded nemesis for real processes: which faults, where, when and for how long is decided before the first of them.

    world = World(home, Shape(controllers=2, lost_s=2.0), database=postgres)
    with world, world.load(seed) as load:
        world.suffer(plan(seed, world.shape, lasts_s=10.0))
    world.settle(load)

Equal seeds make equal plans; what they hit is up to the processes. Every fault ends, and at the end all is well again.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self, assert_never

from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from tests.fakes.cli import Home, until
from tests.fakes.outside import check_history, check_logs, check_publications
from tests.fakes.postgres import Postgres, through
from tests.fakes.programs import UP_S, ControllerProgram, FleetProgram, Link, Program, reserved_port
from tests.fakes.proxy import proxy_thread

SETTLE_S = 90.0
PATIENCE_S = 60.0
_UNENDED = (
    job_pb2.JOB_STATE_BLOCKED,
    job_pb2.JOB_STATE_HELD,
    job_pb2.JOB_STATE_PENDING,
    job_pb2.JOB_STATE_PROCESSING,
    job_pb2.JOB_STATE_FAILED,
)


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


_OF_DATABASE = (Kind.KILL_DATABASE, Kind.CUT_DATABASE, Kind.FREEZE_DATABASE)
_HOW = {Kind.CUT: "cut", Kind.CUT_DATABASE: "cut", Kind.FREEZE: "freeze", Kind.FREEZE_DATABASE: "freeze"}


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
    kinds = [kind for kind in Kind if shape.postgres or kind not in _OF_DATABASE]
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


@dataclass
class Load:
    """What a caller asked for and saw while the nemesis was at work."""

    acknowledged: list[str] = field(default_factory=list)
    watched: list[job_pb2.Event] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)
    watcher: Client | None = None


class World:
    """Controllers on one database, fleets of simulated agents, and a proxy between each two that talk."""

    def __init__(self, home: Home, shape: Shape, *, database: Postgres | None = None) -> None:
        self.shape = shape
        self.controllers: list[ControllerProgram] = []
        self.fleets: list[FleetProgram] = []
        self._home = home
        self._postgres = database
        self._links: dict[tuple[int, int], Link] = {}
        self._database_links: list[Link] = []
        self._stack = ExitStack()
        self._down: dict[int, int] = {}

    @property
    def address(self) -> str:
        """For clients: every controller, no proxy between."""
        return ",".join(controller.address for controller in self.controllers)

    def client(self) -> Client:
        """It outlasts what the nemesis does; a call that gets no answer is given up early, and made again."""
        return Client(self.address, credentials=Credentials(), timeout_s=5.0, patience_s=PATIENCE_S)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._home.kill)
            url = stack.enter_context(self._postgres.database()) if self._postgres else ""
            for number in range(self.shape.controllers):
                self.controllers.append(self._controller(stack, number, url))
            for number in range(self.shape.fleets):
                self.fleets.append(self._fleet(stack, number))
            # One after the other: the first one makes the tables.
            for controller in self.controllers:
                controller.up()
            for fleet in self.fleets:
                fleet.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _controller(self, stack: ExitStack, number: int, url: str) -> ControllerProgram:
        flags: list[object] = ["--http", "none", "--lost-after", self.shape.lost_s]
        flags += ["--heartbeat", self.shape.lost_s / 8, "--unreachable-after", self.shape.lost_s / 2]
        if self._postgres:
            proxy = stack.enter_context(proxy_thread(self._postgres.address))
            self._database_links.append(Link(proxy))
            flags += ["--database", through(url, proxy.address)]
        port = stack.enter_context(reserved_port())
        return ControllerProgram(self._home, port, self._home.folder / f"controller-{number}", *flags)

    def _fleet(self, stack: ExitStack, number: int) -> FleetProgram:
        addresses = []
        for index, controller in enumerate(self.controllers):
            proxy = stack.enter_context(proxy_thread(controller.address))
            self._links[index, number] = Link(proxy)
            addresses.append(proxy.address)
        return FleetProgram(self._home, f"fleet{number}-", addresses, "--agents", self.shape.agents, "--seed", number)

    # Faults

    def suffer(self, faults: tuple[Fault, ...]) -> None:
        """Do as planned; returns when the last fault has ended."""
        order = itertools.count()
        timeline: list[tuple[float, int, Callable[[], None]]] = []
        for fault in faults:
            heapq.heappush(timeline, (fault.at_s, next(order), lambda fault=fault: self._begin(fault)))
            heapq.heappush(timeline, (fault.at_s + fault.lasts_s, next(order), lambda fault=fault: self._end(fault)))
        begun = time.monotonic()
        idle = threading.Event()
        while timeline:
            at_s, _, act = heapq.heappop(timeline)
            # The schedule itself: nothing is waited for.
            idle.wait(max(0.0, begun + at_s - time.monotonic()))
            act()

    def _begin(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL_CONTROLLER | Kind.KILL_FLEET:
                self._program(fault).kill()
            case Kind.PAUSE_CONTROLLER | Kind.PAUSE_FLEET | Kind.PAUSE_FLEET_PAST_LOST:
                self._program(fault).suspend()
            case Kind.CUT | Kind.FREEZE | Kind.DELAY | Kind.CUT_DATABASE | Kind.FREEZE_DATABASE:
                self._link(fault).harm(_HOW.get(fault.kind, "delay"))
            case Kind.KILL_DATABASE:
                assert self._postgres
                self._postgres.kill()
            case _:
                assert_never(fault.kind)

    def _end(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL_CONTROLLER | Kind.KILL_FLEET:
                # One that was paused meanwhile by another fault runs, and stays as it is.
                self._program(fault).start()
            case Kind.PAUSE_CONTROLLER | Kind.PAUSE_FLEET | Kind.PAUSE_FLEET_PAST_LOST:
                self._program(fault).resume()
            case Kind.CUT | Kind.FREEZE | Kind.DELAY | Kind.CUT_DATABASE | Kind.FREEZE_DATABASE:
                self._link(fault).heal(_HOW.get(fault.kind, "delay"))
            case Kind.KILL_DATABASE:
                assert self._postgres
                if not self._postgres.running:
                    self._postgres.start()
            case _:
                assert_never(fault.kind)

    def _program(self, fault: Fault) -> Program:
        if fault.kind in (Kind.KILL_CONTROLLER, Kind.PAUSE_CONTROLLER):
            return self.controllers[fault.controller]
        return self.fleets[fault.fleet]

    def _link(self, fault: Fault) -> Link:
        if fault.kind in _OF_DATABASE:
            return self._database_links[fault.controller]
        return self._links[fault.controller, fault.fleet]

    # What goes on meanwhile

    @contextmanager
    def load(self, seed: int) -> Iterator[Load]:
        """Somebody submits and cancels until the block ends, and somebody watches."""
        load = Load()
        load.watcher = self.client()
        threads = [
            threading.Thread(target=self._guarded, args=(load, one), name=one.__name__, daemon=True)
            for one in (lambda: self._submit(load, seed), lambda: self._watch(load))
        ]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            load.enough.set()
            threads[0].join(SETTLE_S)
        assert not threads[0].is_alive(), "a submission was never acknowledged"
        self._check(load)

    def _check(self, load: Load) -> None:
        if load.errors:
            raise load.errors[0]

    def _guarded(self, load: Load, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            load.errors.append(error)

    def _submit(self, load: Load, seed: int) -> None:
        dice = random.Random(f"load {seed}")  # noqa: S311 - no secret
        numbers = itertools.count()
        with self.client() as client:
            for call in itertools.count():
                specs = [spec(next(numbers)) for _ in range(dice.choice((1, 1, 3, 8, 20)))]
                # As a caller does who wasn't answered: the same again.
                jobs = self._insisting(lambda: client.submit_all(specs, request_id=f"{seed}-{call}"))
                load.acknowledged += [job.id for job in jobs]
                if dice.random() < 0.3:
                    victim = dice.choice(load.acknowledged[-30:])
                    with suppress(MediactlError):
                        client.cancel(victim)
                if load.enough.wait(dice.uniform(0.05, 0.4)):
                    return

    def _insisting(self, call: Callable[[], tuple[job_pb2.Job, ...]]) -> tuple[job_pb2.Job, ...]:
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                return call()
            except MediactlError as error:
                if error.exit_code != 4 or time.monotonic() > deadline:
                    raise

    def _watch(self, load: Load) -> None:
        assert load.watcher
        try:
            for update in load.watcher.watch({}, until_ended=False):
                if update.HasField("event"):
                    load.watched.append(update.event)
        except (MediactlError, ValueError):
            if not load.enough.is_set():
                raise

    def settle(self, load: Load) -> list[job_pb2.Job]:
        """Wait until every job has ended, then check everything that must hold. Returns the jobs."""
        self._check(load)
        assert load.acknowledged
        with self.client() as client:
            self._until_ended(client)
            jobs = [client.get(job.id) for job in client.list()]
            count = sum(len(list(client.events(job.id))) for job in jobs)
            until(lambda: len(load.watched) >= count or load.errors, "the watcher has seen all", within_s=UP_S)
            self._check(load)
            # Every fleet has told what it still owed.
            journal = self.journal()
            check_history(client, load.acknowledged, load.watched)
            check_publications(jobs, journal)
            check_logs(client, journal)
        if load.watcher:
            load.watcher.close()
        return jobs

    def _until_ended(self, client: Client) -> None:
        def left() -> bool:
            with suppress(MediactlError):
                return not client.list_page({"states": [*map(job_pb2.JobState.Name, _UNENDED)]}, page_size=1).jobs
            return False

        until(left, "every job has ended", within_s=SETTLE_S)

    def journal(self) -> list[dict[str, object]]:
        """What all agents noted in all their lives."""
        return [entry for fleet in self.fleets for entry in fleet.journal()]


def spec(number: int, **labels: str) -> job_pb2.JobSpec:
    """A small job that simulated agents can take; attempts enough for any number of lost agents."""
    return job_pb2.JobSpec(
        inputs=[job_pb2.Input(uri=f"file:///media/in/{number % 7}.wav")],
        preset="convert",
        outputs=[job_pb2.Output(uri=f"file:///media/out/{number}.m4a")],
        labels=labels,
        max_attempts=20,
    )


def suffered(folder: Path, shape: Shape, seed: int, lasts_s: float, database: Postgres | None = None) -> Counter[str]:
    """A world that a nemesis is let loose on, and all that must hold of it afterwards. Returns how often what happened:
    states of jobs and of attempts."""
    faults = plan(seed, shape, lasts_s=lasts_s)
    print(f"seed {seed}, {shape}:", *faults, sep="\n  ")  # noqa: T201 - pytest shows it where the test fails
    with World(Home(folder), shape, database=database) as world:
        with world.load(seed) as load:
            world.suffer(faults)
        jobs = world.settle(load)
    counted = Counter(job_pb2.JobState.Name(job.state) for job in jobs)
    counted.update(attempt.state for job in jobs for attempt in job.attempts)
    print(dict(counted))  # noqa: T201 - as above
    assert counted["JOB_STATE_COMPLETED"]
    # Nothing failed but agents, and jobs outlast a number of those.
    assert not counted["JOB_STATE_DEAD"]
    return counted
