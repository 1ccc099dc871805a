"""An agent with the real outbox and ledger; its session says and hears what the real one does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agent.core.ledger import Effect
from agent.outbox import Outbox
from mediactl.v1 import agent_service_pb2 as pb
from presets.reasons import Reason
from tests.fakes.agent_peer import capabilities
from tests.simulation.attempts import SimulatedAttempt, Workspace
from tests.simulation.history import Journal
from tests.simulation.links import Stream
from tests.simulation.places import Place
from tests.simulation.scheduler import NOBODY, Process, Scheduler

if TYPE_CHECKING:
    from tests.simulation.world import World

LEAST_STATUS_S = 0.1
ACCEPTED_S = 10.0
BACKOFF_S = (0.2, 4.0)
STOP_S = 5.0
MOST_IN_BUNDLE = 16
BUNDLES = "bundles"


@dataclass(slots=True)
class Moods:
    """How attempts go: chances of each, and how long a step takes at the most."""

    fail: float = 0.0
    refile: float = 0.0
    decline: float = 0.0
    longest_step_s: float = 1.0


class SimulatedAgent(Process):
    """`kill` takes everything that is in memory; its identity, its outbox and what it put into places stay.

    So do its workspaces, unless the machine went down with it.
    """

    def __init__(self, world: World, name: str, *, cores: int, bundles: bool, agent_id: str = "") -> None:
        super().__init__(name)
        self.agent_id = agent_id or name
        self.gone = False
        """It never comes back."""
        self.world = world
        self.cores = cores
        self.scheduler: Scheduler = world.scheduler
        self.place: Place = world.place
        self.moods: Moods = world.moods
        self.journal: Journal = world.journal
        self.up = False
        self.dies_in = 0
        self.unreachable_until_us = 0
        self.disk: dict[str, Workspace] = {}
        self._understands_bundles = bundles
        self._turn = world.scheduler.dice.randint(0, 1)

    def start(self) -> None:
        """Begin a new life, unless it lives."""
        if self.up or self.gone:
            return
        self.scheduler.say(self.name, "starts")
        self.up = True
        self.dies_in = 0
        self.outbox = Outbox(self.world.folder / self.name, self.scheduler.database_us)
        self._attempts: dict[str, SimulatedAttempt] = {}
        self._stream: Stream | None = None
        self._connected = False
        self._stopping = False
        self._failures = 0
        self._lines = 0
        self._speaking = 0
        self._next_speech_us = 0
        self._told_us = 0
        self._take_up()
        self.scheduler.after(0.0, self, self._connect)

    def _take_up(self) -> None:
        for attempt_id in self.outbox.load():
            held = self.outbox.ledger.get(attempt_id)
            if held is not None and held.ended is None:
                if attempt_id in self.disk:
                    self._begin(self.disk[attempt_id])
                else:
                    self.outbox.forget(attempt_id)
        self.disk = {attempt_id: self.disk[attempt_id] for attempt_id in self._attempts}

    def _begin(self, workspace: Workspace) -> None:
        attempt = SimulatedAttempt(self, workspace)
        self._attempts[workspace.lease.attempt_id] = attempt
        attempt.start()

    def kill(self) -> None:
        """As `kill -9`, and its machine's network with it."""
        self.scheduler.say(self.name, "is killed")
        self.up = False
        self.outbox.close()
        if self.scheduler.chance(0.25):
            self.scheduler.say(self.name, "loses its machine")
            self.disk.clear()
        self.end_life()
        if self._stream is not None:
            self._stream.cut(0.5)
            self._stream = None

    def cut(self, most_notice_s: float) -> None:
        """Break its stream, if it has one."""
        if self.up and self._stream is not None and self._stream.open:
            self._stream.cut(most_notice_s)

    def stop(self) -> None:
        """As SIGTERM: hand back what runs, wait a moment for the acknowledgements, end."""
        if self._stopping:
            return
        self.scheduler.say(self.name, "is told to end")
        self._stopping = True
        self.outbox.urgent = True
        self.outbox.fresh.set()
        for attempt in list(self._attempts.values()):
            attempt.stop(Reason.AGENT_STOPPING)
        self.scheduler.after(STOP_S, self, self._leave)
        self.poke()

    def _leave(self) -> None:
        self.kill()
        self.scheduler.after(0.5, NOBODY, self.start)

    def dies_now(self) -> bool:
        """To be asked where a process may die: whether it did."""
        if self.dies_in > 0:
            self.dies_in -= 1
            if self.dies_in == 0:
                self.kill()
                self.scheduler.after(self.scheduler.between(0.1, 20.0), NOBODY, self.start)
                return True
        return False

    @property
    def idle(self) -> bool:
        return self.up and self._connected and not len(self.outbox.ledger)

    # The session

    def _connect(self) -> None:
        if self.scheduler.now_us < self.unreachable_until_us:
            self._connect_again()
            return
        controller = self.world.controllers[self._turn % len(self.world.controllers)]
        if not controller.up:
            self._connect_again()
            return
        stream = Stream(self.scheduler, self.world.weather, self, controller)
        self._stream, self._connected = stream, False
        stream.down.hear = partial(self._hear, stream)
        stream.down.over = partial(self._over, stream)
        controller.accept(stream)
        hello = pb.Hello(
            agent_id=self.agent_id,
            instance_id=f"machine of {self.name}",
            name=f"box-{self.name}",
            version="0",
            capabilities=capabilities(cores=self.cores, max_tasks=self.cores),
            holdings=self.outbox.holdings(),
            features=[BUNDLES] if self._understands_bundles else [],
        )
        self.scheduler.say(self.name, f"says hello to {controller.name}, holding {len(hello.holdings)}")
        stream.up.send(pb.SessionRequest(hello=hello), once=True)
        self.scheduler.after(ACCEPTED_S, self, partial(self._give_up, stream))

    def _give_up(self, stream: Stream) -> None:
        if self._stream is stream and not self._connected:
            stream.give_up()
            self._over(stream)

    def _over(self, stream: Stream) -> None:
        if self._stream is stream:
            self.scheduler.say(self.name, "lost its stream")
            self._stream, self._connected = None, False
            self._speaking += 1
            self._connect_again()

    def _connect_again(self) -> None:
        self._turn += 1
        self._failures += 1
        most = min(BACKOFF_S[1], BACKOFF_S[0] * 2.0 ** min(self._failures, 10))
        self.scheduler.after(most * self.scheduler.between(0.5, 1.0), self, self._connect)

    def _hear(self, stream: Stream, frame: pb.SessionResponse) -> None:
        if self._stream is not stream:
            return
        if not self._connected:
            self._welcomed(stream, frame)
        else:
            self._handle(frame)
        self.poke()

    def _welcomed(self, stream: Stream, frame: pb.SessionResponse) -> None:
        if not frame.HasField("welcome"):
            self.journal.wrong(f"{self.name} was greeted with {frame.WhichOneof('frame')} instead of a welcome")
            stream.give_up()
            self._over(stream)
            return
        self._connected = True
        self._failures = 0
        self._heartbeat_s = frame.welcome.heartbeat_interval.ToMilliseconds() / 1000
        self._bundles = BUNDLES in frame.welcome.features and self._understands_bundles
        self.outbox.restart()
        self._told_us = -1_000_000
        self._next_speech_us = 2**62
        self._speak_in(0.0)

    def poke(self) -> None:
        """Something may have to be said."""
        if self.up and self._connected and self.outbox.fresh.is_set():
            since_s = (self.scheduler.now_us - self._told_us) / 1e6
            self._speak_in(0.0 if self.outbox.urgent else max(0.0, LEAST_STATUS_S - since_s))

    def _speak_in(self, delay_s: float) -> None:
        when_us = self.scheduler.now_us + int(delay_s * 1e6)
        if when_us < self._next_speech_us:
            self._next_speech_us = when_us
            self._speaking += 1
            self.scheduler.at(when_us, self, partial(self._speak, self._speaking))

    def _speak(self, number: int) -> None:
        if number != self._speaking or self._stream is None or not self._connected:
            return
        if self.dies_now():
            return
        outbox = self.outbox
        outbox.fresh.clear()
        outbox.flush()
        frames = list(outbox.take())
        outbox.urgent = False
        frames.append(
            pb.SessionRequest(
                status=pb.AgentStatus(holdings=outbox.holdings(), scratch_free_bytes=8 << 30, draining=self._stopping)
            )
        )
        self._told_us = self.scheduler.now_us
        for frame in self._bundled(frames):
            self._stream.up.send(frame)
        self._next_speech_us = 2**62
        self._speak_in(self._heartbeat_s)

    def _bundled(self, frames: list[pb.SessionRequest]) -> Iterator[pb.SessionRequest]:
        size = MOST_IN_BUNDLE if self._bundles else 1
        for start in range(0, len(frames), size):
            some = frames[start : start + size]
            yield some[0] if len(some) == 1 else pb.SessionRequest(bundle=pb.RequestBundle(frames=some))

    # What it is told

    def _handle(self, frame: pb.SessionResponse) -> None:
        if not self.up or self.dies_now():
            return
        match frame.WhichOneof("frame"):
            case "bundle":
                for inner in frame.bundle.frames:
                    self._handle(inner)
            case "lease":
                self._lease(frame.lease)
            case "stop":
                self._stop(frame.stop)
            case "publish":
                attempt_id = frame.publish.attempt_id
                if self.outbox.publish(attempt_id) is Effect.PUBLISH:
                    self.scheduler.say(self.name, f"may publish {attempt_id}")
                    self._attempts[attempt_id].publish()
                    self.world.nemesis.about_to_publish(self)
            case "acknowledgement":
                self._acknowledged(frame.acknowledgement)
            case _:
                pass

    def _lease(self, lease: pb.Lease) -> None:
        known = self.outbox.ledger.get(lease.attempt_id) is not None
        if self._stopping:
            return
        if not known and self.scheduler.chance(self.moods.decline):
            self.scheduler.say(self.name, f"declines {lease.attempt_id}")
            self.outbox.decline(pb.Decline(attempt_id=lease.attempt_id, message="not now"))
            return
        if self.outbox.lease(lease.attempt_id, lease.incarnation, to_publish=bool(lease.redo)) is Effect.START:
            self.scheduler.say(self.name, f"takes {lease.attempt_id}{' to publish' if lease.redo else ''}")
            self.disk[lease.attempt_id] = Workspace(lease)
            self._begin(self.disk[lease.attempt_id])

    def _stop(self, stop: pb.Stop) -> None:
        match self.outbox.ledger.stop(stop.attempt_id):
            case Effect.STOP:
                self.scheduler.say(self.name, f"must stop {stop.attempt_id}: {stop.reason}")
                self._attempts[stop.attempt_id].stop(stop.reason, leave_staged=stop.leave_staged)
            case Effect.REPORT_STOPPED:
                self.scheduler.say(self.name, f"holds nothing of {stop.attempt_id}")
                self.outbox.report_stopped(stop.attempt_id)
            case _:
                pass

    def _acknowledged(self, message: pb.Acknowledgement) -> None:
        held = self.outbox.ledger.get(message.attempt_id)
        if held is not None and message.stream:
            for (stream, sequence), (stored, _) in held.logs.items():
                if stream == message.stream and sequence <= message.sequence:
                    self.journal.acknowledged_log(self.outbox.chunk(stored))
        elif held is not None and held.ended is not None:
            self.journal.acknowledged_end(held.ended)
        self.outbox.acknowledge(message)

    # What its attempts do

    def write_log(self, attempt_id: str, line: str) -> None:
        self._lines += 1
        self.scheduler.say(self.name, f"{attempt_id}: {line}")
        self.outbox.log(attempt_id, "agent", f"{self.name}/{self.life}/{self._lines} {line}\n".encode())

    def complete(self, uri: str, attempt_id: str) -> None:
        """Raises MediaFailure."""
        self.place.complete(uri, attempt_id, by=self.name, at_us=self.scheduler.database_us())

    def end(self, report: pb.EndReport) -> None:
        self.outbox.conclude(report)
        self.disk.pop(report.attempt_id, None)
        self.outbox.end(report)

    def forget(self, attempt_id: str) -> None:
        del self._attempts[attempt_id]
