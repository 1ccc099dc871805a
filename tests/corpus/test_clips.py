"""Every real clip through the whole path: a verified output, or a clear permanent failure, and an agent as before.

All jobs are submitted at once to one box; each test judges what became of one clip. With MEDIACTL_CORPUS_TABLE set, the
outcomes are written to the file it names, as a Markdown table.
"""

import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from mediactl.v1 import job_pb2
from presets.reasons import TABLE, Reason
from tests.fakes.cli import Home, living_with_box, until
from tests.fakes.clips import DEFECTIVE
from tests.fakes.media_measure import Measured, audio_streams, measured
from tests.fakes.synth import synthesise

ROUTES = (("loudness_podcast_v1", "aac_192_v1"), ("extract_audio_v1", "flac_v1"))
#: Shorter programmes may lie within one gating block or two, and say little.
LEAST_PROGRAMME_S = 3.0
WITHIN_S = 240.0

pytestmark = pytest.mark.timeout(WITHIN_S + 60)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one clip by one route."""

    clip: Path
    preset: str
    job: job_pb2.Job

    @property
    def completed(self) -> bool:
        return self.job.state == job_pb2.JOB_STATE_COMPLETED

    @property
    def published(self) -> Path:
        [artifact] = self.job.artifacts
        return Path(unquote(urlsplit(artifact.uri).path))

    @property
    def seconds(self) -> float:
        """From the start of the first attempt to the end."""
        return self.job.end_time.ToMicroseconds() / 1e6 - self.job.start_time.ToMicroseconds() / 1e6


@pytest.fixture(scope="module")
def corpus_box(media_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with living_with_box(tmp_path_factory.mktemp("corpus")) as home:
        yield home


@pytest.fixture(scope="module")
def outcomes(corpus_box: Home, media_corpus: Path) -> Mapping[tuple[str, str], Outcome]:
    """All clips by all routes, once every job has ended; by name of the clip and of the preset."""
    clips = sorted(path for path in media_corpus.iterdir() if path.is_file() and path.name != "README.md")
    asked = [(clip, preset, profile) for clip in clips for preset, profile in ROUTES]
    with corpus_box.client() as client:
        jobs = client.submit_all(
            [
                {
                    "inputs": [{"uri": clip.as_uri()}],
                    "preset": preset,
                    "outputs": [{"profile": profile, "uri": f"{corpus_box.folder.as_uri()}/{preset}/{clip.name}/"}],
                }
                for clip, preset, profile in asked
            ]
        )
        for _ in client.watch({"ids": [job.id for job in jobs]}, timeout_s=WITHIN_S):
            pass
        found = {
            (clip.name, preset): Outcome(clip, preset, client.get(job.id))
            for (clip, preset, _), job in zip(asked, jobs, strict=True)
        }
    table = os.environ.get("MEDIACTL_CORPUS_TABLE")
    if table:
        Path(table).write_text(_table([*found.values()]), encoding="utf-8")
    return found


# By both routes.
_source = cache(measured)


@cache
def _heard(path: Path) -> Measured | None:
    """What decodes of the first audio track; None where there is none."""
    try:
        return measured(path) if audio_streams(path) else None
    except subprocess.CalledProcessError:
        return None


def _table(outcomes: list[Outcome]) -> str:
    rows = ["| clip | preset | outcome | LUFS | dBTP | s |", "|---|---|---|---|---|---|"]
    for one in outcomes:
        before = _heard(one.clip)
        after = _heard(one.published) if one.completed else None
        word = job_pb2.JobState.Name(one.job.state).removeprefix("JOB_STATE_")
        told = word if one.completed else f"{word}: {one.job.failure.reason}: {one.job.failure.message}"
        rows.append(
            f"| {one.clip.name} | {one.preset} | {told.replace('|', '/').splitlines()[0]} "
            f"| {_change(before, after, 'integrated_lufs')} | {_change(before, after, 'true_peak_dbtp')} "
            f"| {one.seconds:.1f} |"
        )
    return "\n".join(rows) + "\n"


def _change(before: Measured | None, after: Measured | None, name: str) -> str:
    def value(of: Measured | None) -> str:
        level = getattr(of, name) if of is not None else math.nan
        return "" if math.isnan(level) else "silence" if level < -99 else f"{level:.1f}"

    return f"{value(before)} → {value(after)}" if after is not None else value(before)


@pytest.mark.parametrize("preset", [preset for preset, _ in ROUTES])
def test_a_clip(outcomes: Mapping[tuple[str, str], Outcome], corpus_clip: Path, preset: str) -> None:
    """Either one output of the right loudness and length, or DEAD after one attempt with a reason no retry can mend."""
    outcome = outcomes[corpus_clip.name, preset]
    job = outcome.job
    state = job_pb2.JobState.Name(job.state)
    assert state in {"JOB_STATE_COMPLETED", "JOB_STATE_DEAD"}
    assert job.attempt_count == 1
    assert outcome.completed == (corpus_clip.name not in DEFECTIVE)
    if not outcome.completed:
        assert job.failure.reason == DEFECTIVE[corpus_clip.name]
        fact = TABLE[Reason(job.failure.reason)]
        assert not fact.retryable
        assert not fact.infrastructure
        assert job.failure.reason.startswith("INPUT_")
        assert job.failure.message
        assert not job.artifacts
        return
    path = outcome.published
    assert [*path.parent.iterdir()] == [path]
    after = measured(path)
    before = _source(corpus_clip)
    # Sound that begins after the picture stays in step with it: the gap becomes silence.
    assert after.duration_s == pytest.approx(before.late_s + before.duration_s, abs=0.1)
    if preset == "extract_audio_v1":
        if before.channels <= 2:
            assert after.silent == before.silent
            assert before.silent or after.integrated_lufs == pytest.approx(before.integrated_lufs, abs=0.5)
        return
    assert after.true_peak_dbtp <= -0.95
    if after.duration_s >= LEAST_PROGRAMME_S and not before.silent:
        assert after.integrated_lufs == pytest.approx(-16, abs=0.5)


def test_clips_that_must_come_through(outcomes: Mapping[tuple[str, str], Outcome]) -> None:
    """Those without a defect in their sound complete by both routes."""
    sound = {
        "alac.mka",
        "bbb-540p60-vp8.webm",
        "chapters.mp4",
        "friday-cc0.mp4",
        "long-1080p30-362s.mp4",
        "music-sugar-plum.ogg",
        "pcm-f64.wav",
        "speech-2.ogg",
        "speech-austen.ogg",
        "subs-pgs.mkv",
        "subs-srt.mkv",
    }
    dead = {key: one.job.failure.reason for key, one in outcomes.items() if key[0] in sound and not one.completed}
    assert dead == {}


def test_the_agent_is_as_before(outcomes: Mapping[tuple[str, str], Outcome], corpus_box: Home) -> None:
    """After all of them nothing is left behind, and a recording is processed as ever."""
    until(lambda: not (corpus_box.encoders() or corpus_box.workspaces()), "the agent has cleaned up", within_s=5)
    corpus_box.assert_tidy()
    source = synthesise("speech", corpus_box.folder)
    job = corpus_box.job("run", source, "--preset", "loudness_podcast", "--output", f"{corpus_box.folder}/after/")
    assert job["state"] == "JOB_STATE_COMPLETED"
    assert corpus_box.job("agents", "list")["agents"][0]["state"] == "AGENT_STATE_READY"
