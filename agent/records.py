"""What the executor knows, as the messages that report it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from google.protobuf import json_format

from agent.media.usage import Usage
from agent.storage import Identity, Staged
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import job_pb2
from presets.analysis import Analysis
from presets.capabilities import Binary
from presets.facts import AudioStream, MediaFacts, VideoStream
from presets.plan import Expectation, Loudness, OutputReport, Plan, StepResult
from presets.problems import MediaFailure
from presets.reasons import TABLE
from presets.uris import shown

if TYPE_CHECKING:
    from presets.intent import Intent, OutputRef


def plan_message(plan: Plan, binary: Binary, threads: int) -> job_pb2.Plan:
    return job_pb2.Plan(
        steps=[
            job_pb2.PlanStep(id=step.id, purpose=step.title, arguments=step.argv, provisional=step.provisional)
            for step in plan.invocations
        ],
        decisions=[
            job_pb2.Decision(subject=made.subject, choice=made.choice, because=made.because) for made in plan.decisions
        ],
        binary_path=binary.path,
        binary_version=binary.version,
        binary_sha256=binary.digest,
        threads=threads,
    )


def usage_message(used: Usage, run_s: float, results: Mapping[str, StepResult]) -> pb.Usage:
    media_s = max((result.out_time_s or 0.0 for result in results.values()), default=0.0)
    message = pb.Usage(**asdict(used), media_seconds=media_s)
    message.run_time.FromMicroseconds(int(run_s * 1e6))
    return message


def failure_message(failure: MediaFailure, log_tail: str) -> job_pb2.Failure:
    facts = TABLE[failure.reason]
    return job_pb2.Failure(
        reason=failure.reason,
        message=failure.message,
        retryable=facts.retryable or facts.infrastructure,
        log_tail=log_tail,
    )


def record(identities: Sequence[Identity], facts: Sequence[MediaFacts], results: Mapping[str, StepResult]) -> str:
    """JSON of what an attempt learnt, enough to compile the same plan again."""
    return json.dumps(
        {
            "inputs": [
                {"size": identity.size, "token": identity.token, "facts": fact.to_json()}
                for identity, fact in zip(identities, facts, strict=False)
            ],
            "results": {step: result.to_json() for step, result in results.items()},
        }
    )


def explanation(lease: pb.Lease, report: pb.EndReport) -> dict[str, bytes]:
    """What explains a failed attempt to a person, by file name."""
    documents = {
        "failure.json": {
            "attempt": lease.attempt_id,
            "job": lease.job_id,
            "task": lease.task_id,
            "reason": report.failure.reason,
            "message": report.failure.message,
            "retryable": report.failure.retryable,
            "intent": _without_queries(_document(lease.intent_json)),
            "presets_and_profiles": dict(lease.documents),
            "cores": lease.cores,
            "usage": json_format.MessageToDict(report.usage, always_print_fields_with_no_presence=True),
        },
        "plan.json": json_format.MessageToDict(report.plan, always_print_fields_with_no_presence=True),
        "probe.json": _document(report.record_json),
    }
    return {name: json.dumps(content, indent=1).encode() for name, content in documents.items()}


def _without_queries(intent: object) -> object:
    """Signatures are no part of an explanation."""
    if isinstance(intent, dict):
        for item in intent.get("inputs", []):
            item["uri"] = shown(item["uri"])
    return intent


def _document(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        # Which may be why it failed.
        return text


def redo_record(
    output: OutputRef,
    expectation: Expectation,
    report: OutputReport | None,
    facts: MediaFacts | None,
    staged: Staged,
    intent: Intent,
) -> pb.RedoRecord:
    """`facts` is what ffprobe sees in the output; None for a document, which is no media."""
    artifact = job_pb2.Artifact(
        name=output.name,
        uri=output.uri,
        size_bytes=staged.size,
        sha256=staged.sha256,
        profile=output.profile.full_name,
        duration_seconds=round(_duration_s(expectation, facts), 6),
        container=expectation.container if facts is None else facts.format_name,
    )
    if facts is not None:
        artifact.streams.extend([*map(_picture, facts.video), *map(_sound, facts.audio)])
    if report is not None and report.after is not None:
        artifact.loudness.CopyFrom(
            job_pb2.LoudnessReport(
                before=_loudness(report.before),
                after=_loudness(report.after),
                gain_db=report.gain_db,
                limited_db=report.limited_by_db or 0.0,
                encodes=report.encodes,
                target_lufs=report.target_lufs,
                missed_by_lu=report.missed_by_lu,
            )
        )
    if report is not None and report.analysis is not None:
        artifact.analysis.CopyFrom(_analysis(report.analysis))
    return pb.RedoRecord(artifact=artifact, staged_uri=staged.staged_uri, overwrite=intent.overwrite)


def _analysis(found: Analysis) -> job_pb2.SoundAnalysis:
    phase = found.phase
    return job_pb2.SoundAnalysis(
        max_momentary_lufs=found.max_momentary_lufs,
        max_short_term_lufs=found.max_short_term_lufs,
        noise_floor_dbfs=found.noise_floor_dbfs,
        full_scale_samples=sum(channel.full_scale_samples for channel in found.channels),
        hard_clipped_at_dbfs=found.hard_clipped_at_dbfs,
        silence_count=found.silence_count,
        silence_seconds=found.silence_s,
        correlation=None if phase is None else phase.correlation,
        worst_correlation=None if phase is None else phase.worst_correlation,
        dc_offset=max((channel.dc_offset for channel in found.channels), key=abs, default=0.0),
        silent_channels=[number for number, channel in enumerate(found.channels, 1) if channel.is_silent],
    )


def _duration_s(expectation: Expectation, facts: MediaFacts | None) -> float:
    """Decoding shows the end of sound exactly, and of a picture only when its last frame begins."""
    told, seen = None if facts is None else facts.duration_s, expectation.decoded_s
    return (told or seen if expectation.picture is not None else seen or told) or 0.0


def _loudness(measured: Loudness | None) -> job_pb2.Loudness | None:
    if measured is None:
        return None
    return job_pb2.Loudness(
        integrated_lufs=measured.integrated_lufs,
        true_peak_dbtp=measured.true_peak_dbtp,
        range_lu=measured.range_lu,
    )


def _picture(stream: VideoStream) -> str:
    rate = "" if stream.fps is None else f" {round(stream.fps, 3):g} fps"
    return f"{stream.codec} {stream.width}x{stream.height}{rate}"


def _sound(stream: AudioStream) -> str:
    return f"{stream.codec} {stream.sample_rate_hz} Hz {stream.layout or f'{stream.channels} channels'}"
