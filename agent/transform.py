"""What a task of kind transform (or plan) does at the agent: fetch → probe → compile → run → verify → stage → publish.

Every step of it is journalled and begins by looking whether a former life of the agent did it already.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Awaitable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeVar

from agent import manifest
from agent.core.progress import Meter
from agent.journal import Journal
from agent.logbook import Logbook
from agent.means import Means
from agent.media.failure import failure_of
from agent.media.guards import Bounds
from agent.media.probe import probe
from agent.media.runner import LOG_NAME, Relay, run
from agent.media.usage import Usage
from agent.records import redo_record
from agent.storage import Identity
from agent.storage.content import content_of
from agent.workspace import Workspace
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.capabilities import Binary, Requirements, choose_binary
from presets.compile import compile as compile_plan
from presets.estimate import Estimate, estimate
from presets.facts import MediaFacts
from presets.intent import MANIFEST, InputRef, Intent, OutputRef
from presets.plan import Expectation, Invocation, OutputReport, Plan, StepResult
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.recipe import recipe
from presets.uris import shown
from presets.verify import check, check_document

T = TypeVar("T")

COMMAND_LOG = "command.log"
LOG_TAIL_BYTES = 4096


class Observer(Protocol):
    """Who wants to know how it goes."""

    def status(self, activity: str, *, speed: float = 0.0) -> None:
        """What it is doing now, and at how many media seconds a second (0: unknown)."""
        ...

    def say(self, line: str) -> None:
        """A line for the log."""
        ...

    async def recall(self, recipe: str) -> Sequence[job_pb2.Artifact]:
        """What was made before by a recipe, as far as anybody knows."""
        ...


class Transform:
    """One attempt's work. The attributes are what it has found out so far, however it ends.

    Methods raise MediaFailure, or OSError for what the agent's own machine refuses.
    """

    def __init__(
        self,
        lease: pb.Lease,
        means: Means,
        workspace: Workspace,
        journal: Journal,
        logbook: Logbook,
        meter: Meter,
        observer: Observer,
        stop: asyncio.Event,
    ) -> None:
        self._lease = lease
        self._means = means
        self._workspace = workspace
        self._journal = journal
        self._logbook = logbook
        self._meter = meter
        self._observer = observer
        self._stop = stop
        self._probes: dict[str, asyncio.Task[MediaFacts]] = {}
        self.intent = Intent.from_json(json.loads(lease.intent_json), lease.documents)
        self._manifest_uri = manifest.uri(self.intent, lease.job_id)
        self.binary: Binary | None = None
        self.plan: Plan | None = None
        self.identities: list[Identity] = []
        self.facts: list[MediaFacts] = []
        self.results: dict[str, StepResult] = {}
        self.staged: list[pb.RedoRecord] = list(lease.redo)
        self.reused: Sequence[job_pb2.Artifact] = ()
        self.usage = Usage()
        self.log_tail = ""

    async def make(self) -> None:
        """Up to outputs that are verified and staged, or up to the plan where only that is asked for."""
        if len(self._journal.staged) == len(self.intent.outputs) + (self._manifest_uri is not None):
            self._recall()
            return
        binary = self._choose_binary()
        await self._fetch()
        plans = self._lease.kind == pb.TASK_KIND_PLAN
        if self.intent.reuse and not plans and not self._journal.steps:
            self.reused = await self._made_before(binary)
            if self.reused:
                return
            await self._check_targets()
        plan = self._compile(binary)
        if plans:
            return
        expected = estimate(self.intent, self.facts, plan)
        fetched = sum(
            identity.size
            for identity, item in zip(self.identities, self.intent.inputs, strict=True)
            if not self._means.stores.is_local(item.uri)
        )
        await asyncio.to_thread(self._means.room.reserve, self._lease.attempt_id, fetched, expected.total_bytes)
        with closing(Relay()) as relay:
            plan = await self._run_steps(plan, binary, expected, relay)
        await self._stage(plan, binary)

    async def publish(self) -> None:
        """Make visible what is staged. May be repeated."""
        for redo in self.staged:
            artifact = redo.artifact
            await self._means.stores.store_for(artifact.uri).complete(
                artifact.uri,
                redo.staged_uri,
                sha256=artifact.sha256,
                size=artifact.size_bytes,
                overwrite=redo.overwrite,
            )
            self._observer.say(f"published {artifact.uri} ({artifact.size_bytes} bytes, sha256 {artifact.sha256})")

    async def discard(self) -> bool:
        """Remove what is staged, as far as that goes; whether nothing is left."""
        gone = True
        for redo in self.staged:
            try:
                await self._means.stores.store_for(redo.artifact.uri).discard(redo.staged_uri)
            except (MediaFailure, OSError):
                gone = False
        return gone

    async def end_probes(self) -> None:
        """End what runs beside the steps."""
        for probing in self._probes.values():
            probing.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)

    def _recall(self) -> None:
        """All is staged and verified, and perhaps published since: neither inputs, outputs nor FFmpeg need be what they
        were. To make it anew would be to publish something else than the controller was told."""
        self.staged = list(self._journal.staged)
        self.identities = [identity for identity, _ in self._journal.inputs]
        self.facts = [facts for _, facts in self._journal.inputs]
        for step, (result, used) in self._journal.steps.items():
            self.results[step] = result
            self.usage = self.usage.followed_by(used)
        for binary in self._means.binaries:
            if binary.digest == self._journal.binary:
                self.binary = binary
                self._compile(binary)

    def _choose_binary(self) -> Binary:
        [alternative] = Requirements.from_json(json.loads(self._lease.requirements_json)).alternatives
        same = [binary for binary in self._means.binaries if binary.digest == self._journal.binary]
        binary = choose_binary(same or self._means.binaries, alternative)
        if binary is None:
            raise MediaFailure(Reason.NO_CAPABLE_AGENT, "no FFmpeg of this agent has all that the task needs")
        self.binary = binary
        if self._journal.binary == binary.digest:
            return binary
        if self._journal.binary:
            self._observer.say("the ffmpeg that it was begun with is not here any more: beginning anew")
        self._journal.begin(binary.digest)
        self._observer.say(f"using ffmpeg {binary.version} at {binary.path}")
        return binary

    async def _fetch(self) -> None:
        stores = self._means.stores
        if self._journal.inputs:
            self.identities = [identity for identity, _ in self._journal.inputs]
            self.facts = [facts for _, facts in self._journal.inputs]
            return
        if self._lease.kind != pb.TASK_KIND_PLAN and not self.intent.reuse:
            await self._check_targets()
        room = sum([await stores.fetched_bytes(item.uri, self._workspace.inputs) for item in self.intent.inputs])
        if room:
            await asyncio.to_thread(self._means.room.reserve, self._lease.attempt_id, room)
        for index, item in enumerate(self.intent.inputs):
            self._observer.status(f"fetching {shown(item.uri)}")
            identity, cached = await stores.fetch(item.uri, self._workspace.inputs / str(index))
            self.identities.append(identity)
            self._require_pinned(index, item.uri, identity)
            where = ", from the cache" if cached else ""
            self._observer.say(f"in/{index} is {shown(item.uri)} ({identity.size} bytes{where})")
        self._observer.status("probing")
        self.facts = [await self._probe_input(i, item) for i, item in enumerate(self.intent.inputs)]
        self._journal.fetched(list(zip(self.identities, self.facts, strict=True)))

    async def _check_targets(self) -> None:
        for output in self.intent.outputs:
            await self._means.stores.store_for(output.uri).check_target(output.uri, overwrite=self.intent.overwrite)

    async def _made_before(self, binary: Binary) -> Sequence[job_pb2.Artifact]:
        """What an earlier job made of the same, if all of it is still there."""
        self._observer.status("looking for what was made before")
        contents = [
            (await asyncio.to_thread(content_of, self._workspace.inputs / str(index))).sha256
            for index in range(len(self.intent.inputs))
        ]
        made = await self._observer.recall(recipe(self.intent, contents, binary))
        for artifact in made:
            store = self._means.stores.store_for(artifact.uri)
            if not await store.bears(artifact.uri, sha256=artifact.sha256, size=artifact.size_bytes):
                self._observer.say(f"{artifact.uri} is not what job {artifact.made_by_job} made: making it anew")
                return ()
        if made:
            self._observer.say(f"the same was made before, by job {made[0].made_by_job}: making nothing")
        return made

    def _require_pinned(self, index: int, uri: str, identity: Identity) -> None:
        """A replay is of the same inputs or of none."""
        if not self._lease.pinned_inputs_json:
            return
        pinned = json.loads(self._lease.pinned_inputs_json)[index]
        if (identity.size, identity.token) != (pinned["size"], pinned["token"]):
            raise MediaFailure(Reason.INPUT_CHANGED, f"{shown(uri)} is not what it was when the replayed job read it")

    async def _probe_input(self, index: int, item: InputRef) -> MediaFacts:
        media = self.intent.preset.document.roles[item.role].media
        try:
            return await probe(self._means.ffprobe, Path("in", str(index)), cwd=self._workspace.path, media=media)
        except MediaFailure as failure:
            raise MediaFailure(failure.reason, f"{shown(item.uri)}: {failure.message}") from None

    def _compile(self, binary: Binary) -> Plan:
        lease = self._lease
        self.plan = compile_plan(
            self.intent,
            self.facts,
            binary,
            self.results,
            threads=lease.cores,
            verbose=lease.verbose,
            gpu=lease.gpu if lease.HasField("gpu") else None,
        )
        return self.plan

    def _write_documents(self, plan: Plan) -> None:
        """What later steps read, and reports as soon as everything in them is known."""
        for path, text in plan.documents.items():
            (self._workspace.path / path).write_text(text)

    async def _run_steps(self, plan: Plan, binary: Binary, expected: Estimate, relay: Relay) -> Plan:
        results = self.results
        await asyncio.to_thread(self._write_documents, plan)
        while (step := plan.next(results)) is not None:
            left = sum(other.weight for other in plan.invocations if other.id not in results)
            self._meter.begin(step.weight, left)
            if step.id in self._journal.steps:
                result, used = self._journal.steps[step.id]
                self._begin_probes(step)
            else:
                result, used = await self._run_step(
                    step, len(results) + 1, binary, Bounds.of(step, expected.bound(step)), relay
                )
                self._journal.did(step.id, result, used)
            self.usage = self.usage.followed_by(used)
            results[step.id] = result
            self._meter.end()
            plan = self._compile(binary)
            await asyncio.to_thread(self._write_documents, plan)
        if not plan.finished(results):
            raise MediaFailure(Reason.INTERNAL, "the plan neither ends nor goes on")
        for index, item in enumerate(self.intent.inputs):
            now = await self._means.stores.store_for(item.uri).identify(item.uri)
            if now != self.identities[index]:
                raise MediaFailure(Reason.INPUT_CHANGED, f"{shown(item.uri)} was changed while it was being processed")
        for decision in plan.decisions:
            self._observer.say(f"{decision.subject}: {decision.choice}, because {decision.because}")
        return plan

    async def _run_step(
        self, step: Invocation, number: int, binary: Binary, bounds: Bounds, relay: Relay
    ) -> tuple[StepResult, Usage]:
        activity = step.title
        self._observer.status(activity)

        def begun(folder: Path) -> None:
            command = folder / COMMAND_LOG
            if not command.exists():
                command.write_text(f"$ ffmpeg {shlex.join(step.argv)}\n")
            self._logbook.follow(command)
            self._logbook.follow(folder / LOG_NAME)

        def progress(out_time_s: float, speed: float) -> None:
            if step.media_s:
                self._meter.at(out_time_s / step.media_s)
            self._observer.status(activity, speed=speed)

        self._begin_probes(step)
        lease, confinement = self._lease, self._means.confinement
        prefix = await asyncio.to_thread(confinement.prefix, lease.attempt_id, lease.cores, lease.memory_bytes)
        ran = await run(
            [*prefix, binary.path, *step.argv],
            step,
            workspace=self._workspace.path,
            directory=self._workspace.steps / f"{number:02d}-{step.id}",
            on_begin=begun,
            on_progress=progress,
            stop=self._stop,
            bounds=bounds,
            relay=relay,
            room=lambda: self._means.room.room(lease.attempt_id),
        )
        self._logbook.ship(final=True)
        self.log_tail = ran.stderr_tail[-LOG_TAIL_BYTES:]
        if not ran.succeeded:
            self.usage = self.usage.followed_by(ran.used)
            raise failure_of(ran, step, confinement.memory(lease.attempt_id, lease.memory_bytes))
        return ran.result, ran.used

    def _begin_probes(self, verification: Invocation) -> None:
        """Probe an output beside the pass that decodes it: starting ffprobe takes as long as a short encode."""
        for expectation in self.plan.outputs if self.plan is not None else ():
            if expectation.verified_by == verification.id:
                self._probes[expectation.path] = asyncio.create_task(
                    probe(self._means.ffprobe, Path(expectation.path), cwd=self._workspace.path)
                )

    async def _stage(self, plan: Plan, binary: Binary) -> None:
        reports = {report.name: report for report in plan.measured}
        self._observer.status("verifying")
        documents = plan.documents
        probed = [None if made.path in documents else await self._probes[made.path] for made in plan.outputs]
        wrong = [
            f"{made.name}: {problem}"
            for made, facts in zip(plan.outputs, probed, strict=True)
            for problem in (
                check_document(documents[made.path]) if facts is None else check(made, facts, made.decoded_s)
            )
        ]
        if wrong:
            raise MediaFailure(Reason.OUTPUT_INVALID, "; ".join(wrong))
        for output, expectation, facts in zip(self.intent.outputs, plan.outputs, probed, strict=True):
            known = next((redo for redo in self._journal.staged if redo.artifact.name == output.name), None)
            if known is not None:
                self.staged.append(known)
                continue
            self._observer.status(f"staging {output.uri}")
            await to_its_end(self._stage_one(output, expectation, reports.get(output.name), facts))
        if self._manifest_uri is not None:
            await to_its_end(self._stage_manifest(plan, binary, self._manifest_uri))

    async def _stage_one(
        self,
        output: OutputRef,
        expectation: Expectation,
        report: OutputReport | None,
        facts: MediaFacts | None,
    ) -> None:
        store = self._means.stores.store_for(output.uri)
        staged = await store.stage(self._workspace.path / expectation.path, output.uri, self._lease.attempt_id)
        self._has_staged(redo_record(output, expectation, report, facts, staged, self.intent))

    async def _stage_manifest(self, plan: Plan, binary: Binary, uri: str) -> None:
        inputs = list(zip(self.identities, self.facts, strict=True))
        made = [redo.artifact for redo in self.staged]
        path = self._workspace.outputs / MANIFEST
        text = manifest.text(self._lease, self.intent, plan, binary, inputs, made)
        await asyncio.to_thread(path.write_text, text, encoding="utf-8")
        staged = await self._means.stores.store_for(uri).stage(path, uri, self._lease.attempt_id)
        self._has_staged(manifest.redo_record(uri, staged))

    def _has_staged(self, redo: pb.RedoRecord) -> None:
        self.staged.append(redo)
        self._journal.has_staged(redo)


async def to_its_end(work: Awaitable[T]) -> T:
    """Await what must not be left half done; a cancellation takes effect afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
