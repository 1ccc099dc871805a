"""The controller's side of one agent's stream, without I/O: frames in, what to do in the store; answers in, frames out.

Whoever drives it (the servicer over gRPC, the simulation over a link of its own) applies the items in their order and
hands the answers back; nothing here waits, reads a clock or rolls a die of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence

from google.protobuf import json_format

from controller import frames
from controller.core.fitting import Offer
from controller.offers import offer_of
from controller.store.attempts import Answer, Decline, End, Item, Log, Recall, Speaker, Stage, Start
from controller.store.fleet import Reconciled, Register
from controller.store.leases import Leased
from controller.store.tables import AgentId, AttemptId
from mediactl.v1 import agent_service_pb2 as pb
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

BUNDLES = "bundles"
"""The feature of taking several frames as one."""
REMAINS = "remains"
"""The agent's feature of answering Collect."""
SIGN = "sign"
"""The agent's feature of answering Sign."""
SWEEP = "sweep"
"""The agent's feature of answering Sweep."""
RECALL = "recall"
"""The feature of answering Recall."""
FEATURES = (BUNDLES, RECALL)
MOST_IN_BUNDLE = 256
BUNDLE_BYTES = 1 << 20

_KINDS = {
    "transform": pb.TASK_KIND_TRANSFORM,
    "plan": pb.TASK_KIND_PLAN,
    "part": pb.TASK_KIND_PART,
}
_BEGUN = (pb.PHASE_RUNNING, pb.PHASE_STAGED, pb.PHASE_PUBLISHING)


def revision_of(hello: pb.Hello) -> str:
    """Digest of all that placement depends on."""
    placed = pb.Hello(labels=hello.labels, capabilities=hello.capabilities)
    return hashlib.sha256(placed.SerializeToString(deterministic=True)).hexdigest()[:16]


def lease_frame(leased: Leased, incarnation: str) -> pb.SessionResponse:
    """A lease as it goes over the wire."""
    frame = pb.SessionResponse(
        lease=pb.Lease(
            attempt_id=leased.attempt_id,
            task_id=leased.task_id,
            job_id=leased.job_id,
            kind=_KINDS[leased.task_kind],
            intent_json=leased.intent,
            documents=leased.texts,
            requirements_json=leased.requirements,
            capability_revision=leased.revision,
            cores=leased.cores,
            memory_bytes=leased.memory_bytes,
            scratch_bytes=leased.scratch_bytes,
            gpu=leased.gpu,
            encoder_sessions=leased.encoder_sessions,
            verbose=leased.verbose,
            incarnation=incarnation,
            pinned_inputs_json=leased.pinned_inputs,
        )
    )
    if leased.redo is not None:
        frame.lease.redo.extend(pb.StageReport.FromString(leased.redo).records)
    return frame


class Exchange:
    """One stream. `register` first, then `welcome` with what it found, then `hear` and `answer`."""

    def __init__(self, hello: pb.Hello, roll: Callable[[], float]) -> None:
        self.hello = hello
        self.revision = revision_of(hello)
        self.bundles = BUNDLES in hello.features
        self.keeps_remains = REMAINS in hello.features
        self.signs = SIGN in hello.features
        self.sweeps = SWEEP in hello.features
        self.status = pb.AgentStatus(holdings=hello.holdings)
        self.incarnation = ""
        self.speaker = Speaker(AgentId(hello.agent_id), 0)
        self._quarantined: frozenset[str] = frozenset()
        self._roll = roll
        self._begun: set[str] = set()
        self._scratch: int | None = None
        self._offer: Offer | None = None

    def register(self) -> Register:
        """What to do in the store before anything else."""
        hello = self.hello
        return Register(
            agent_id=AgentId(hello.agent_id),
            instance_id=hello.instance_id,
            name=hello.name,
            version=hello.version,
            labels=json.dumps(dict(hello.labels)),
            capabilities=json_format.MessageToJson(hello.capabilities, indent=None),
            media_roots=json.dumps(sorted([*hello.capabilities.media_roots, *hello.capabilities.stores])),
            revision=self.revision,
            held={holding.attempt_id: holding.incarnation for holding in hello.holdings},
            jitter=self._roll(),
        )

    def welcome(self, found: Reconciled, heartbeat_s: float) -> list[pb.SessionResponse]:
        """The first frames."""
        self.speaker = Speaker(self.speaker.agent_id, found.epoch)
        self.incarnation = found.incarnation
        self._quarantined = frozenset(found.quarantined)
        welcome = pb.Welcome(
            epoch=found.epoch, incarnation=found.incarnation, quarantined=found.quarantined, features=FEATURES
        )
        welcome.heartbeat_interval.FromMilliseconds(int(heartbeat_s * 1000))
        return [
            pb.SessionResponse(welcome=welcome),
            *(pb.SessionResponse(stop=stop) for stop in found.stops),
            *(self.lease(leased) for leased in found.leases),
        ]

    def lease(self, leased: Leased) -> pb.SessionResponse:
        """A lease for this agent. It names the agent's own revision, or that of before where it has changed since."""
        frame = lease_frame(leased, self.incarnation)
        if leased.revision == self.revision:
            frame.lease.capability_revision = self.hello.capabilities.revision
        return frame

    def offer(self) -> Offer:
        """What the agent has altogether."""
        if self._offer is None:
            hello = self.hello
            self._offer = offer_of(
                hello.agent_id,
                hello.name,
                hello.labels,
                hello.capabilities,
                revision=self.revision,
                scratch_free=self._scratch,
            )
        return self._offer

    @property
    def objection(self) -> str:
        """Why the agent takes no new work, as it said last; empty: it takes some."""
        return (self.status.drain_reason or "it says so") if self.status.draining else ""

    def held(self) -> frozenset[str]:
        """What the agent holds, as it said last."""
        return frozenset(holding.attempt_id for holding in self.status.holdings)

    def hear(self, frame: pb.SessionRequest) -> list[Item]:
        """What a frame asks the store for, in order. Raises InvalidRequest."""
        frames.check(frame)
        match frame.WhichOneof("frame"):
            case "bundle":
                if any(inner.HasField("bundle") for inner in frame.bundle.frames):
                    raise _wrong("a bundle holds no other bundle")
                return [item for inner in frame.bundle.frames for item in self.hear(inner)]
            case "status":
                self.status = frame.status
                self._begun &= {holding.attempt_id for holding in frame.status.holdings}
                if frame.status.scratch_free_bytes != self._scratch:
                    self._scratch, self._offer = frame.status.scratch_free_bytes, None
                return [
                    item
                    for holding in frame.status.holdings
                    if holding.phase in _BEGUN
                    for item in self._begin(holding.attempt_id)
                ]
            case "log":
                return [Log(frame.log)]
            case "staged" if frame.staged.attempt_id in self._quarantined:
                # Any answer would let it publish, or make it throw away what it staged.
                return []
            case "staged":
                # Staging says that it had begun.
                self._begun.add(frame.staged.attempt_id)
                return [Stage(frame.staged)]
            case "ended":
                self._begun.discard(frame.ended.attempt_id)
                return [End(frame.ended, self._roll())]
            case "decline":
                return [Decline(AttemptId(frame.decline.attempt_id), frame.decline.message)]
            case "recall":
                return [Recall(AttemptId(frame.recall.attempt_id), frame.recall.recipe)]
            case "remains" | "signed" | "swept":
                # Too large for the database, or nothing for it: whoever drives this sees to it.
                return []
            case _:
                raise _wrong("one hello a stream, then other frames")

    def _begin(self, attempt_id: str) -> list[Item]:
        if attempt_id in self._begun:
            return []
        self._begun.add(attempt_id)
        return [Start(AttemptId(attempt_id))]

    def answer(self, item: Item, answer: Answer) -> pb.SessionResponse | None:
        """What to say once an item is durable."""
        match item:
            case Log(chunk=chunk):
                acknowledged = pb.Acknowledgement(
                    attempt_id=chunk.attempt_id, stream=chunk.stream, sequence=chunk.sequence
                )
                return pb.SessionResponse(acknowledgement=acknowledged)
            case End(report=report):
                return pb.SessionResponse(acknowledgement=pb.Acknowledgement(attempt_id=report.attempt_id))
            case Stage(report=report) if answer:
                return pb.SessionResponse(publish=pb.Publish(attempt_id=report.attempt_id))
            case Stage(report=report):
                refused = pb.Stop(attempt_id=report.attempt_id, reason=Reason.PUBLISH_REFUSED)
                return pb.SessionResponse(stop=refused)
            case Recall(attempt_id=attempt_id):
                recalled = pb.Recalled(attempt_id=attempt_id)
                for artifact in answer if isinstance(answer, tuple) else ():
                    recalled.artifacts.add().ParseFromString(artifact)
                return pb.SessionResponse(recalled=recalled)
            case _:
                return None

    def bundled(self, frames: Sequence[pb.SessionResponse]) -> Iterable[pb.SessionResponse]:
        """The same frames in as few messages as the agent understands. A welcome is in none: it comes first, alone."""
        alone = 1 if frames and frames[0].HasField("welcome") else 0
        yield from frames[:alone]
        rest = frames[alone:]
        if not self.bundles or len(rest) == 1:
            yield from rest
            return
        bundle, size = pb.ResponseBundle(), 0
        for frame in rest:
            bundle.frames.append(frame)
            size += frame.ByteSize()
            if len(bundle.frames) >= MOST_IN_BUNDLE or size >= BUNDLE_BYTES:
                yield pb.SessionResponse(bundle=bundle)
                bundle, size = pb.ResponseBundle(), 0
        if bundle.frames:
            yield pb.SessionResponse(bundle=bundle)


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest(Problem(Reason.INVALID_ARGUMENT, "frame", message))
