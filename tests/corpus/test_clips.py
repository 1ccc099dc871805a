"""Every real clip through a running box: a verified output or a clear permanent failure, and never a hang."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from presets.reasons import TABLE, Reason
from tests.fakes.cli import Home, living_with_box
from tests.fakes.media_measure import measured

# Media under test give what they are: no other reason than one of these may end a clip.
PERMANENT = {reason for reason in Reason if reason.startswith("INPUT_") and not TABLE[reason].retryable}
SHORT_S = 3.0
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One box for all clips: whatever one of them does, the next must find it usable."""
    with living_with_box(tmp_path_factory.mktemp("corpus")) as home:
        yield home


@pytest.mark.parametrize(
    ("preset", "profile"), [("loudness_podcast_v1", "aac_192_v1"), ("extract_audio_v1", "flac_v1")]
)
def test_a_clip_is_mastered_or_refused(box: Home, corpus_clip: Path, preset: str, profile: str) -> None:
    """COMPLETED with a file that measures as promised, or DEAD with a permanent reason and nothing published."""
    target = box.folder / "out" / corpus_clip.name / preset
    job: dict[str, Any] = box.run(
        *("run", corpus_clip, "--preset", preset, "--profile", profile, "--output", f"{target}/", "-o", "json"),
        code=None,
        within_s=WITHIN_S,
    ).json
    if job["state"] == "JOB_STATE_COMPLETED":
        [artifact] = job["artifacts"]
        [path] = target.iterdir()
        file = measured(path)
        assert abs(file.duration_s - artifact["durationSeconds"]) < 0.1
        if preset == "loudness_podcast_v1" and not file.silent:
            assert file.true_peak_dbtp <= -0.95
            if file.duration_s >= SHORT_S:
                assert abs(file.integrated_lufs - -16) <= 0.5
        outcome = f"{file.integrated_lufs:.2f} LUFS, {file.true_peak_dbtp:.2f} dBTP, {file.duration_s:.1f} s"
    else:
        assert job["state"] == "JOB_STATE_DEAD"
        assert job["failure"]["reason"] in PERMANENT, job["failure"]
        assert job["attemptCount"] == 1
        assert not target.exists()
        outcome = job["failure"]["reason"]
    box.assert_tidy()
    _note(corpus_clip.name, preset, outcome)


def _note(clip: str, preset: str, outcome: str) -> None:
    """A row for the table of outcomes, where MEDIACTL_CORPUS_TABLE names a file for it."""
    table = os.environ.get("MEDIACTL_CORPUS_TABLE")
    if table:
        with Path(table).open("a", encoding="utf-8") as file:
            file.write(f"| {clip} | {preset} | {outcome} |\n")
