"""A seeded nemesis for real processes.

    with World(home, shape, database=postgres) as world:
        with world.load(seed) as load:
            world.suffer(plan(seed, shape, lasts_s=10.0))
        world.settle(load)

Equal seeds make equal plans; what they hit is up to the processes. Every fault ends, and at the end all is well again.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Self, assert_never

from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from tests.fakes.cli import Home, until
from tests.fakes.fault_plans import HOW, OF_DATABASE, Fault, Kind, Shape, plan
from tests.fakes.outside import check_files, check_history, check_logs, check_publications
from tests.fakes.postgres import Postgres, through
from tests.fakes.programs import UP_S, AgentProgram, ControllerProgram, FleetProgram, Link, Program, reserved_port
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


@dataclass
class Load:
    """What a caller asked for and saw while the nemesis was at work."""

    acknowledged: list[str] = field(default_factory=list)
    watched: list[job_pb2.Event] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)
    watcher: Client | None = None


class World:
    """Controllers on one database, fleets of simulated agents, and a proxy between each two that talk.

    With a `recording`, each fleet is one real agent, and every job converts that.
    """

    def __init__(
        self, home: Home, shape: Shape, *, database: Postgres | None = None, recording: Path | None = None
    ) -> None:
        self.shape = shape
        self.controllers: list[ControllerProgram] = []
        self.fleets: list[FleetProgram | AgentProgram] = []
        self._outputs = home.folder / "published"
        self._input = home.folder / "input.wav"
        self._recording = recording
        if recording:
            self._outputs.mkdir()
            self._input.write_bytes(recording.read_bytes())
        self._home = home
        self._postgres = database
        self._links: dict[tuple[int, int], Link] = {}
        self._database_links: list[Link] = []
        self._stack = ExitStack()

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
            with self.client() as client:
                wanted = self.shape.fleets * (1 if self._recording else self.shape.agents)
                until(lambda: len(client.agents()) == wanted, "every agent is registered", within_s=UP_S)
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

    def _fleet(self, stack: ExitStack, number: int) -> FleetProgram | AgentProgram:
        addresses = []
        for index, controller in enumerate(self.controllers):
            proxy = stack.enter_context(proxy_thread(controller.address))
            self._links[index, number] = Link(proxy)
            addresses.append(proxy.address)
        if self._recording:
            return AgentProgram(self._home, f"agent{number}", addresses)
        return FleetProgram(self._home, f"fleet{number}-", addresses, "--agents", self.shape.agents, "--seed", number)

    # Faults

    def suffer(self, faults: tuple[Fault, ...]) -> None:
        """Do as planned; returns when the last fault has ended."""
        timeline = [(fault.at_s, self._begin, fault) for fault in faults]
        timeline += [(fault.at_s + fault.lasts_s, self._end, fault) for fault in faults]
        begun = time.monotonic()
        idle = threading.Event()
        for at_s, act, fault in sorted(timeline, key=itemgetter(0)):
            # The schedule itself: nothing is waited for.
            idle.wait(max(0.0, begun + at_s - time.monotonic()))
            act(fault)

    def _begin(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL_CONTROLLER | Kind.KILL_FLEET:
                self._program(fault).kill()
            case Kind.PAUSE_CONTROLLER | Kind.PAUSE_FLEET | Kind.PAUSE_FLEET_PAST_LOST:
                self._program(fault).suspend()
            case Kind.CUT | Kind.FREEZE | Kind.DELAY | Kind.CUT_DATABASE | Kind.FREEZE_DATABASE:
                self._link(fault).harm(HOW.get(fault.kind, "delay"))
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
                self._link(fault).heal(HOW.get(fault.kind, "delay"))
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
        if fault.kind in OF_DATABASE:
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
        until(lambda: self._supervised() and not threads[0].is_alive(), "all is acknowledged", within_s=SETTLE_S)
        self._check(load)

    def _supervised(self) -> bool:
        """Starts controllers that have gone, as any supervisor does: they do where their database was away."""
        for controller in self.controllers:
            controller.start()
        return True

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
                size = dice.choice((1, 1, 2) if self._recording else (1, 1, 3, 8, 20))
                specs = [self._spec(next(numbers)) for _ in range(size)]
                # As a caller does who wasn't answered: the same again.
                jobs = self._insisting(partial(client.submit_all, specs, request_id=f"{seed}-{call}"))
                load.acknowledged += [job.id for job in jobs]
                if dice.random() < 0.3:
                    victim = dice.choice(load.acknowledged[-30:])
                    with suppress(MediactlError):
                        client.cancel(victim)
                if load.enough.wait(dice.uniform(0.05, 0.4)):
                    return

    def _spec(self, number: int) -> job_pb2.JobSpec:
        asked = spec(number)
        if self._recording:
            asked.inputs[0].uri = self._input.as_uri()
            asked.outputs[0].uri = (self._outputs / f"{number}.flac").as_uri()
            asked.outputs[0].profile = "flac"
        return asked

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
            if self._recording:
                check_files(jobs, self._outputs)
            else:
                check_publications(jobs, journal)
            check_logs(client, journal)
        if load.watcher:
            load.watcher.close()
        return jobs

    def _until_ended(self, client: Client) -> None:
        def left() -> bool:
            self._supervised()
            with suppress(MediactlError):
                return not client.list_page({"states": [*map(job_pb2.JobState.Name, _UNENDED)]}, page_size=1).jobs
            return False

        until(left, "every job has ended", within_s=SETTLE_S)

    def journal(self) -> list[dict[str, object]]:
        """What all agents noted in all their lives."""
        return [entry for fleet in self.fleets if isinstance(fleet, FleetProgram) for entry in fleet.journal()]


def spec(number: int, **labels: str) -> job_pb2.JobSpec:
    """A small job that simulated agents can take; attempts enough for any number of lost agents."""
    return job_pb2.JobSpec(
        inputs=[job_pb2.Input(uri=f"file:///media/in/{number % 7}.wav")],
        preset="convert",
        outputs=[job_pb2.Output(uri=f"file:///media/out/{number}.m4a")],
        labels=labels,
        max_attempts=20,
    )


def suffered(
    folder: Path,
    shape: Shape,
    seed: int,
    lasts_s: float,
    *,
    database: Postgres | None = None,
    recording: Path | None = None,
) -> Counter[str]:
    """A world that a nemesis is let loose on, and all that must hold of it afterwards. Returns how often what happened:
    states of jobs and of attempts."""
    faults = plan(seed, shape, lasts_s=lasts_s)
    print(f"seed {seed}, {shape}:", *faults, sep="\n  ")  # noqa: T201 - pytest shows it where the test fails
    with World(Home(folder), shape, database=database, recording=recording) as world:
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
