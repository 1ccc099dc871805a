"""One attempt from lease to end report: fetch → probe → compile → run → verify → stage → publish → clean up."""

from __future__ import annotations

import asyncio
import errno
import json
import shlex
import time
import traceback
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import structlog

from agent.core.ledger import Phase
from agent.core.progress import CEILING, Meter
from agent.media.failure import failure_of
from agent.media.logs import Tail, redact
from agent.media.probe import probe
from agent.media.runner import LOG_NAME, Ran, run
from agent.outbox import Outbox
from agent.records import explanation, failure_message, plan_message, record, redo_record
from agent.remains import Remains
from agent.storage import Identity, Stores
from agent.workspace import Workspace
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.capabilities import Binary, Requirements, choose_binary
from presets.compile import compile as compile_plan
from presets.facts import MediaFacts
from presets.intent import Intent, OutputRef
from presets.plan import Expectation, Invocation, OutputReport, Plan, StepResult
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.verify import check

log = structlog.get_logger()
T = TypeVar("T")

LOG_POLL_S = 0.2
LOG_TAIL_BYTES = 4096
MOST_SAID_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt of an agent works with."""

    binaries: Sequence[Binary]
    ffprobe: str
    stores: Stores
    scratch: Path
    remains: Remains


@dataclass(slots=True)
class _Known:
    """What the attempt has found out so far; reported however it ends."""

    binary: Binary | None = None
    plan: Plan | None = None
    identities: list[Identity] = field(default_factory=list)
    facts: list[MediaFacts] = field(default_factory=list)
    results: dict[str, StepResult] = field(default_factory=dict)
    staged: list[pb.RedoRecord] = field(default_factory=list)
    probes: dict[str, asyncio.Task[MediaFacts]] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    log_tail: str = ""


class Attempt:
    """Runs as one asyncio task. `stop` and `publish` come from the session."""

    def __init__(self, lease: pb.Lease, means: Means, outbox: Outbox) -> None:
        self._lease = lease
        self._means = means
        self._outbox = outbox
        self._id = lease.attempt_id
        self._workspace = Workspace(means.scratch, lease.attempt_id)
        self._known = _Known()
        self._meter = Meter()
        self._activity = ""
        self._begun = time.monotonic()
        self._stop_reason = ""
        self._leave_staged = False
        self._may_publish = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._said = bytearray()

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run(), name=f"attempt {self._id}")
        return self._task

    def stop(self, reason: str, *, leave_staged: bool = False) -> None:
        """End it without publishing. Has no effect once it publishes."""
        self._stop_reason = self._stop_reason or reason
        self._leave_staged = self._leave_staged or leave_staged
        held = self._outbox.ledger.get(self._id)
        publishing = held is None or held.phase in (Phase.PUBLISHING, Phase.ENDED)
        if self._task is not None and not publishing and not self._closing and not self._stopping.is_set():
            self._stopping.set()
            self._task.cancel()

    def publish(self) -> None:
        """The controller holds the redo records: staged outputs may become visible."""
        self._may_publish.set()

    async def _run(self) -> None:
        failure: MediaFailure | None = None
        stopped = False
        try:
            await self._work()
        except asyncio.CancelledError:
            stopped = True
        except MediaFailure as error:
            failure = error
        except OSError as error:
            failure = _of_the_machine(error)
        except Exception as error:
            self._say(traceback.format_exc())
            log.error("attempt met a defect", attempt=self._id, exc_info=error)
            failure = MediaFailure(Reason.INTERNAL, f"the agent met a defect: {type(error).__name__}: {error}")
        # From here on a stop changes nothing, and must not interrupt.
        self._closing = True
        report = self._report(failure, stopped)
        if failure is not None:
            told = explanation(self._lease, report, bytes(self._said))
            report.kept_bytes = await asyncio.to_thread(self._means.remains.keep, self._workspace.path, self._id, told)
        await self._clean_up(keep_staged=failure is None and not stopped)
        self._outbox.end(report)

    async def _work(self) -> None:
        self._status("starting", phase=Phase.RUNNING)
        intent = Intent.from_json(json.loads(self._lease.intent_json), self._lease.documents)
        if self._lease.redo:
            self._known.staged = list(self._lease.redo)
            self._leave_staged = True
            try:
                await self._publish()
            except (MediaFailure, OSError):
                # The attempt ends with this: whoever held it before must find nothing to publish when it comes back.
                self._leave_staged = False
                raise
            return
        binary = self._choose_binary()
        await self._fetch(intent)
        plan = self._compile(intent, binary)
        if self._lease.kind == pb.TASK_KIND_PLAN:
            return
        plan = await self._run_steps(intent, plan, binary)
        await self._stage(intent, plan)
        self._status("waiting to publish")
        self._outbox.stage(pb.StageReport(attempt_id=self._id, records=self._known.staged))
        await self._may_publish.wait()
        await self._publish()

    def _choose_binary(self) -> Binary:
        [alternative] = Requirements.from_json(json.loads(self._lease.requirements_json)).alternatives
        binary = choose_binary(self._means.binaries, alternative)
        if binary is None:
            raise MediaFailure(Reason.NO_CAPABLE_AGENT, "no FFmpeg of this agent has all that the task needs")
        self._known.binary = binary
        self._say(f"using ffmpeg {binary.version} at {binary.path}")
        return binary

    async def _fetch(self, intent: Intent) -> None:
        stores = self._means.stores
        if self._lease.kind != pb.TASK_KIND_PLAN:
            for output in intent.outputs:
                await stores.store_for(output.uri).check_target(output.uri, overwrite=intent.overwrite)
        self._workspace.create()
        for index, item in enumerate(intent.inputs):
            self._status(f"fetching {item.uri}")
            identity = await stores.store_for(item.uri).fetch(item.uri, self._workspace.inputs / str(index))
            self._known.identities.append(identity)
            self._require_pinned(index, item.uri, identity)
            self._say(f"in/{index} is {item.uri} ({identity.size} bytes)")
        self._status("probing")
        self._known.facts = [await self._probe_input(i, item.uri) for i, item in enumerate(intent.inputs)]

    def _require_pinned(self, index: int, uri: str, identity: Identity) -> None:
        """A replay is of the same inputs or of none."""
        if not self._lease.pinned_inputs_json:
            return
        pinned = json.loads(self._lease.pinned_inputs_json)[index]
        if (identity.size, identity.token) != (pinned["size"], pinned["token"]):
            raise MediaFailure(Reason.INPUT_CHANGED, f"{uri} is not what it was when the replayed job read it")

    async def _probe_input(self, index: int, uri: str) -> MediaFacts:
        try:
            return await probe(self._means.ffprobe, Path("in", str(index)), cwd=self._workspace.path)
        except MediaFailure as failure:
            raise MediaFailure(failure.reason, f"{uri}: {failure.message}") from None

    def _compile(self, intent: Intent, binary: Binary) -> Plan:
        known, lease = self._known, self._lease
        known.plan = compile_plan(
            intent, known.facts, binary, known.results, threads=lease.cores, verbose=lease.verbose
        )
        return known.plan

    async def _run_steps(self, intent: Intent, plan: Plan, binary: Binary) -> Plan:
        results = self._known.results
        number = 0
        journal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        journal.set_result(None)
        try:
            while (step := plan.next(results)) is not None:
                number += 1
                left = sum(other.weight for other in plan.invocations if other.id not in results)
                self._meter.begin(step.weight, left)
                results[step.id] = await self._run_step(step, number, binary)
                self._meter.end()
                # Made durable beside the next step: losing the last entry only repeats a step.
                await journal
                journal = asyncio.ensure_future(asyncio.to_thread(self._workspace.record, step.id, results[step.id]))
                plan = self._compile(intent, binary)
        finally:
            await _to_its_end(journal)
        if not plan.finished(results):
            raise MediaFailure(Reason.INTERNAL, "the plan neither ends nor goes on")
        for index, item in enumerate(intent.inputs):
            now = await self._means.stores.store_for(item.uri).identify(item.uri)
            if now != self._known.identities[index]:
                raise MediaFailure(Reason.INPUT_CHANGED, f"{item.uri} was changed while it was being processed")
        for decision in plan.decisions:
            self._say(f"{decision.subject}: {decision.choice}, because {decision.because}")
        return plan

    async def _run_step(self, step: Invocation, number: int, binary: Binary) -> StepResult:
        directory = self._workspace.steps / f"{number:02d}-{step.id}"
        activity = step.title
        self._status(activity)
        self._outbox.log(self._id, "ffmpeg", f"$ ffmpeg {shlex.join(step.argv)}\n".encode())

        def progress(out_time_s: float, speed: float) -> None:
            if step.media_s:
                self._meter.at(out_time_s / step.media_s)
            self._status(activity, speed=speed)

        self._begin_probes(step)
        shipping = asyncio.create_task(self._ship_log(directory / LOG_NAME))
        try:
            ran = await run(
                binary,
                step,
                workspace=self._workspace.path,
                directory=directory,
                on_progress=progress,
                stop=self._stopping,
            )
        finally:
            shipping.cancel()
            with suppress(asyncio.CancelledError):
                await shipping
        self._account(ran)
        if not ran.succeeded:
            raise failure_of(ran, step)
        return ran.result

    def _begin_probes(self, verification: Invocation) -> None:
        """Probe an output beside the pass that decodes it: starting ffprobe takes as long as a short encode."""
        for expectation in self._known.plan.outputs if self._known.plan is not None else ():
            if expectation.verified_by == verification.id:
                self._known.probes[expectation.path] = asyncio.create_task(
                    probe(self._means.ffprobe, Path(expectation.path), cwd=self._workspace.path)
                )

    async def _ship_log(self, path: Path) -> None:
        tail = Tail(path)
        try:
            while True:
                await asyncio.sleep(LOG_POLL_S)
                while piece := tail.read():
                    self._outbox.log(self._id, "ffmpeg", piece)
        finally:
            while piece := tail.read(final=True):
                self._outbox.log(self._id, "ffmpeg", piece)

    def _account(self, ran: Ran) -> None:
        known = self._known
        known.cpu_seconds += ran.cpu_seconds
        known.peak_memory_bytes = max(known.peak_memory_bytes, ran.peak_memory_bytes)
        known.log_tail = ran.stderr_tail[-LOG_TAIL_BYTES:]

    async def _stage(self, intent: Intent, plan: Plan) -> None:
        reports = {report.name: report for report in plan.measured}
        self._status("verifying")
        probed = [await self._known.probes[expectation.path] for expectation in plan.outputs]
        wrong = [
            f"{expectation.name}: {problem}"
            for expectation, facts in zip(plan.outputs, probed, strict=True)
            for problem in check(expectation, facts, expectation.decoded_s)
        ]
        if wrong:
            raise MediaFailure(Reason.OUTPUT_INVALID, "; ".join(wrong))
        for output, expectation, facts in zip(intent.outputs, plan.outputs, probed, strict=True):
            self._status(f"staging {output.uri}")
            await _to_its_end(self._stage_one(intent, output, expectation, reports.get(output.name), facts))

    async def _stage_one(
        self,
        intent: Intent,
        output: OutputRef,
        expectation: Expectation,
        report: OutputReport | None,
        facts: MediaFacts,
    ) -> None:
        store = self._means.stores.store_for(output.uri)
        staged = await store.stage(self._workspace.path / expectation.path, output.uri, self._id)
        self._known.staged.append(redo_record(output, expectation, report, facts, staged, intent))

    async def _publish(self) -> None:
        self._status("publishing", phase=Phase.PUBLISHING)
        for redo in self._known.staged:
            artifact = redo.artifact
            await self._means.stores.store_for(artifact.uri).complete(
                artifact.uri,
                redo.staged_uri,
                sha256=artifact.sha256,
                size=artifact.size_bytes,
                overwrite=redo.overwrite,
            )
            self._say(f"published {artifact.uri} ({artifact.size_bytes} bytes, sha256 {artifact.sha256})")

    async def _clean_up(self, *, keep_staged: bool) -> None:
        for probing in self._known.probes.values():
            probing.cancel()
        await asyncio.gather(*self._known.probes.values(), return_exceptions=True)
        if not keep_staged and not self._leave_staged:
            for redo in self._known.staged:
                with suppress(MediaFailure, OSError):
                    await self._means.stores.store_for(redo.artifact.uri).discard(redo.staged_uri)
        try:
            await asyncio.to_thread(self._workspace.remove)
        except OSError as error:
            log.warning("workspace left over", attempt=self._id, path=str(self._workspace.path), error=str(error))

    def _report(self, failure: MediaFailure | None, stopped: bool) -> pb.EndReport:
        known = self._known
        report = pb.EndReport(
            attempt_id=self._id,
            record_json=record(known.identities, known.facts, known.results),
            usage=pb.Usage(cpu_seconds=known.cpu_seconds, peak_memory_bytes=known.peak_memory_bytes),
        )
        report.usage.run_time.FromMicroseconds(int((time.monotonic() - self._begun) * 1e6))
        if known.plan is not None and known.binary is not None:
            report.plan.CopyFrom(plan_message(known.plan, known.binary, self._lease.cores))
        if stopped and self._stop_reason == Reason.AGENT_STOPPING:
            report.outcome = pb.OUTCOME_FAILED
            report.failure.CopyFrom(
                job_pb2.Failure(reason=Reason.AGENT_STOPPING, message="the agent was stopped", retryable=True)
            )
        elif stopped:
            report.outcome = pb.OUTCOME_STOPPED
        elif failure is not None:
            report.outcome = pb.OUTCOME_FAILED
            self._say(f"failed: {failure.reason}: {failure.message}")
            report.failure.CopyFrom(failure_message(failure, redact(known.log_tail.encode()).decode()))
        else:
            report.outcome = pb.OUTCOME_COMPLETED
        return report

    def _status(self, activity: str, *, speed: float = 0.0, phase: Phase | None = None) -> None:
        progress = CEILING if phase is Phase.PUBLISHING else self._meter.value
        if activity != self._activity:
            self._activity = activity
            self._say(activity)
        self._outbox.status(self._id, progress=progress, activity=activity, speed=speed, phase=phase)

    def _say(self, line: str) -> None:
        said = f"{time.monotonic() - self._begun:9.3f} s  {line.rstrip()}\n".encode()
        self._outbox.log(self._id, "agent", said)
        if len(self._said) < MOST_SAID_BYTES:
            self._said += said


def _of_the_machine(error: OSError) -> MediaFailure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return MediaFailure(Reason.SCRATCH_FULL, f"the agent's scratch space is full ({error.filename})")
    return MediaFailure(Reason.INTERNAL, f"the agent's machine failed: {error}")


async def _to_its_end(work: Awaitable[T]) -> T:
    """Await what must not be left half done; a cancellation takes effect afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
