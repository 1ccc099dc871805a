"""What came of a replay: the same bytes, or what was different."""

from collections.abc import Iterator
from itertools import zip_longest

from mediactl.v1 import job_pb2


def outcome(replay: job_pb2.Job, original: job_pb2.Job) -> str:
    """In words: whether the artifacts are bit-identical, and else what of FFmpeg differed. Empty until both have ended
    with artifacts."""
    pairs = list(zip_longest(replay.artifacts, original.artifacts))
    if not replay.artifacts or not original.artifacts:
        return ""
    if all(new and old and new.sha256 == old.sha256 for new, old in pairs):
        return "bit-identical"
    return "; ".join(["the bytes differ", *_differences(replay, original)])


def _differences(replay: job_pb2.Job, original: job_pb2.Job) -> Iterator[str]:
    new, old = _plan(replay), _plan(original)
    if new is None or old is None:
        yield "it is not known any more what was run"
        return
    if new.binary_sha256 != old.binary_sha256:
        yield f"{_ffmpeg(new)}, not {_ffmpeg(old).removeprefix('FFmpeg ')}"
    if new.threads != old.threads:
        yield f"{new.threads} threads, not {old.threads}"
    if [list(step.arguments) for step in new.steps] != [list(step.arguments) for step in old.steps]:
        yield "FFmpeg got other arguments (`jobs get -o json` of both shows them)"
    if new.binary_sha256 == old.binary_sha256 and new.threads == old.threads:
        yield "encoders on a GPU, and some with several threads, never promise the same bytes"


def _plan(job: job_pb2.Job) -> job_pb2.Plan | None:
    plans = [attempt.plan for attempt in job.attempts if attempt.HasField("plan")]
    return plans[-1] if plans else None


def _ffmpeg(plan: job_pb2.Plan) -> str:
    return f"FFmpeg {plan.binary_version} ({plan.binary_sha256[:12]})"
