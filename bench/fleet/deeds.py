"""What becomes of an attempt on a simulated agent: decided when it is leased, by a script."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.reasons import TABLE, Reason


@dataclass(frozen=True, slots=True)
class Deed:
    """What an agent does with one attempt.

    `work_s` passes before it stages or ends, `publish_s` between the permission to publish and the end. With a
    `reason` the attempt fails instead of staging; with `outcome` REFILED or EXPANDED, `requirements_json` or `tasks`
    say what is left behind. `decline` hands the lease back with these words.
    """

    work_s: float = 0.0
    publish_s: float = 0.0
    outcome: pb.Outcome.ValueType = pb.OUTCOME_COMPLETED
    reason: Reason | None = None
    requirements_json: str = ""
    tasks: tuple[pb.NewTask, ...] = ()
    decline: str = ""


Script = Callable[[pb.Lease], Deed]
"""Asked once for each attempt."""

_PROMPT = Deed()


def prompt(_: pb.Lease) -> Deed:
    """Completes at once."""
    return _PROMPT


def mixed(dice: random.Random, *, work_s: float = 0.0, fail_rate: float = 0.0, decline_rate: float = 0.0) -> Script:
    """Works between half and one and a half of `work_s` seconds, and fails or declines with these probabilities."""

    def script(_: pb.Lease) -> Deed:
        if decline_rate and dice.random() < decline_rate:
            return Deed(decline="the dice said so")
        lasts_s = work_s * (0.5 + dice.random()) if work_s else 0.0
        if fail_rate and dice.random() < fail_rate:
            return Deed(work_s=lasts_s, reason=Reason.FFMPEG_FAILED)
        return Deed(work_s=lasts_s) if lasts_s else _PROMPT

    return script


def stages(lease: pb.Lease, deed: Deed) -> bool:
    """Whether the attempt has outputs to publish."""
    return lease.kind == pb.TASK_KIND_TRANSFORM and deed.reason is None and deed.outcome == pb.OUTCOME_COMPLETED


def records(lease: pb.Lease) -> list[pb.RedoRecord]:
    """One for each output that the lease asks for, under the attempt's own staged name. Size and checksum are made up
    from that name: the same attempt always has the same ones, another attempt has others."""
    made = []
    intent = json.loads(lease.intent_json)
    for output in intent["outputs"]:
        digest = hashlib.sha256(f"{lease.attempt_id} {output['uri']}".encode()).hexdigest()
        artifact = job_pb2.Artifact(
            name=output["name"],
            uri=output["uri"],
            size_bytes=1000 + int(digest[:5], 16),
            sha256=digest,
            profile=f"{output['name']}_v1",
            duration_seconds=15.0,
            container="mov,mp4,m4a,3gp,3g2,mj2",
            streams=["aac 48000 Hz stereo"],
        )
        made.append(
            pb.RedoRecord(
                artifact=artifact, staged_uri=f"{output['uri']}.{lease.attempt_id}", overwrite=intent["overwrite"]
            )
        )
    return made


def end_report(lease: pb.Lease, deed: Deed, ran_s: float) -> pb.EndReport:
    """What the agent says at the end of an attempt that was not stopped."""
    report = pb.EndReport(attempt_id=lease.attempt_id, outcome=deed.outcome)
    report.usage.run_time.FromMicroseconds(int(ran_s * 1e6))
    if deed.reason is not None:
        report.outcome = pb.OUTCOME_FAILED
        fact = TABLE[deed.reason]
        report.failure.reason, report.failure.message = deed.reason, fact.situation
        report.failure.retryable = fact.retryable or fact.infrastructure
    elif deed.outcome == pb.OUTCOME_REFILED:
        report.requirements_json = deed.requirements_json
    elif deed.outcome == pb.OUTCOME_EXPANDED:
        report.tasks.extend(deed.tasks)
    elif lease.kind == pb.TASK_KIND_PLAN:
        report.plan.CopyFrom(
            job_pb2.Plan(
                steps=[job_pb2.PlanStep(id="encode", purpose="pretend", arguments=["-version"])],
                binary_path="/usr/bin/ffmpeg",
                binary_version="9.0",
                threads=lease.cores,
            )
        )
    return report
