"""What an agent does with a lease, without any media: the order of words and deeds is the real executor's."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.core.ledger import Phase
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.fakes.running import needs

if TYPE_CHECKING:
    from tests.simulation.agents import SimulatedAgent

FAILURES = (
    Reason.INPUT_UNAVAILABLE,
    Reason.OUTPUT_UNWRITABLE,
    Reason.SCRATCH_FULL,
    Reason.ENCODER_SESSION_LIMIT,
    Reason.TIMED_OUT,
)


class Stopped(Exception):
    """The attempt is to end without publishing."""


class Refiled(Exception):
    """It turned out to need something else."""


class Expanded(Exception):
    """It turned out to be several tasks."""


WAIT = -1.0
"""Instead of a pause: until it may publish."""


@dataclass(slots=True)
class Workspace:
    """What of an attempt outlives its agent."""

    lease: pb.Lease
    steps: int = 0
    staged: list[pb.RedoRecord] = field(default_factory=list)
    is_staged: bool = False
    has_published: bool = False


class SimulatedAttempt:
    """Every pause is a moment at which anything else may happen, the agent's death included."""

    def __init__(self, agent: SimulatedAgent, workspace: Workspace) -> None:
        self._agent = agent
        self._workspace = workspace
        self._lease = lease = workspace.lease
        self._id = lease.attempt_id
        self._staged = workspace.staged
        self._leave_staged = False
        self._stop_reason = ""
        self._may_publish = False
        self._waiting = False
        self._stopping = False
        self._closing = False
        self._step = 0
        self._script = self._run()

    def start(self) -> None:
        self._later(self._agent.scheduler.between(0.0, 0.02))

    def stop(self, reason: str, *, leave_staged: bool = False) -> None:
        self._stop_reason = self._stop_reason or reason
        self._leave_staged = self._leave_staged or leave_staged
        held = self._agent.outbox.ledger.get(self._id)
        publishing = held is None or held.phase in (Phase.PUBLISHING, Phase.ENDED)
        if not publishing and not self._closing and not self._stopping:
            self._stopping = True
            self._later(0.0)

    def publish(self) -> None:
        self._may_publish = True
        if self._waiting:
            self._later(0.0)

    def _later(self, delay_s: float) -> None:
        self._step += 1
        step = self._step
        self._agent.scheduler.after(delay_s, self._agent, lambda: self._go_on(step))

    def _go_on(self, step: int) -> None:
        if step != self._step:
            return
        if self._agent.dies_now():
            return
        self._waiting = False
        try:
            if self._stopping and not self._closing:
                self._stopping, self._closing = False, True
                pause = self._script.throw(Stopped())
            else:
                pause = next(self._script)
        except StopIteration:
            self._agent.forget(self._id)
        except Stopped:
            # Before its first step: nobody was there to report it.
            self._agent.end(pb.EndReport(attempt_id=self._id, outcome=pb.OUTCOME_STOPPED))
            self._agent.forget(self._id)
        else:
            if pause == WAIT and not self._may_publish:
                self._waiting = True
            else:
                self._later(pause)
        self._agent.poke()

    def _run(self) -> Generator[float, None, None]:
        report = pb.EndReport(attempt_id=self._id, outcome=pb.OUTCOME_COMPLETED)
        keep_staged = False
        try:
            yield from self._work()
            keep_staged = True
        except Stopped:
            report.outcome = pb.OUTCOME_STOPPED
            if self._stop_reason == Reason.AGENT_STOPPING:
                report.outcome = pb.OUTCOME_FAILED
                report.failure.CopyFrom(job_pb2.Failure(reason=Reason.AGENT_STOPPING, message="the agent was stopped"))
        except MediaFailure as failure:
            report.outcome = pb.OUTCOME_FAILED
            report.failure.CopyFrom(job_pb2.Failure(reason=failure.reason, message=failure.message))
        except Refiled:
            report.outcome = pb.OUTCOME_REFILED
            report.requirements_json = json.dumps(needs(cores=2).to_json())
        except Expanded:
            report.outcome = pb.OUTCOME_EXPANDED
            report.tasks.extend(self._further())
        self._closing = True
        yield self._agent.scheduler.between(0.0, 0.05)
        if not keep_staged and not self._leave_staged:
            for redo in self._staged:
                self._agent.place.discard(redo.artifact.uri, self._id)
        self._say(f"over: {pb.Outcome.Name(report.outcome)}")
        self._agent.end(report)

    def _work(self) -> Iterator[float]:
        agent, lease = self._agent, self._lease
        held = agent.outbox.ledger.get(self._id)
        if held is not None and held.phase is Phase.PUBLISHING:
            self._may_publish = True
        else:
            self._status("starting", Phase.RUNNING)
        if lease.redo:
            self._staged = list(lease.redo)
            self._leave_staged = True
            yield from self._publish()
            return
        if self._workspace.is_staged:
            yield from self._publish_when_allowed()
            return
        scheduler, moods = agent.scheduler, agent.moods
        for number in range(self._workspace.steps, scheduler.dice.randint(1, 3)):
            yield scheduler.between(0.05, moods.longest_step_s)
            self._status(f"step {number}")
            if scheduler.chance(moods.fail):
                reason = scheduler.dice.choice(FAILURES)
                raise MediaFailure(reason, f"it was {reason}")
            self._workspace.steps = number + 1
        if lease.kind == pb.TASK_KIND_PART:
            return
        if scheduler.chance(moods.refile) and '"cores": 2' not in lease.requirements_json:
            raise Refiled
        if lease.kind == pb.TASK_KIND_PLAN:
            if json.loads(lease.intent_json).get("expands"):
                raise Expanded
            return
        for output in json.loads(lease.intent_json)["outputs"][len(self._staged) :]:
            yield scheduler.between(0.0, 0.2)
            uri = output["uri"]
            staged = agent.place.stage(uri, self._id)
            artifact = job_pb2.Artifact(name="o", uri=uri, size_bytes=1, sha256="ab" * 32, profile="p_v1")
            self._staged.append(pb.RedoRecord(artifact=artifact, staged_uri=staged))
        self._workspace.is_staged = True
        yield from self._publish_when_allowed()

    def _publish_when_allowed(self) -> Iterator[float]:
        if not self._may_publish:
            self._status("waiting to publish")
            self._agent.outbox.stage(pb.StageReport(attempt_id=self._id, records=self._staged))
            yield WAIT
        yield from self._publish()

    def _publish(self) -> Iterator[float]:
        agent = self._agent
        self._status("publishing", Phase.PUBLISHING)
        scheduler = agent.scheduler
        # Only its first holder may fail at that: another one can't know what the first one may still do, and a failure
        # that it reported would set a new attempt beside the old one. The protocol has no answer to that yet.
        # The same holds of its own next life.
        if not (self._lease.redo or self._workspace.has_published) and scheduler.chance(agent.moods.fail):
            yield scheduler.between(0.0, 0.2)
            raise MediaFailure(Reason.PUBLISH_FAILED, "the store was away")
        for redo in self._staged:
            yield scheduler.between(0.0, agent.moods.longest_step_s)
            agent.complete(redo.artifact.uri, self._id)
            self._workspace.has_published = True
            self._say(f"published {redo.artifact.uri}")

    def _further(self) -> list[pb.NewTask]:
        parts = [
            pb.NewTask(name=f"part-{number}", kind=pb.TASK_KIND_PART)
            for number in range(self._agent.scheduler.dice.randint(1, 2))
        ]
        last = pb.NewTask(name="last", kind=pb.TASK_KIND_TRANSFORM, after=["main", *(part.name for part in parts)])
        return [*parts, last]

    def _status(self, activity: str, phase: Phase | None = None) -> None:
        self._say(activity)
        self._agent.outbox.status(self._id, progress=0.5, activity=activity, speed=1.0, phase=phase)

    def _say(self, line: str) -> None:
        self._agent.write_log(self._id, line)
