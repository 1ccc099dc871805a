"""A video in, a film out: what is published, and what is told where that is not possible."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home
from tests.fakes.media_measure import described, measured

#: No agent here has an encoder on a GPU, and none is to be waited for.
ON_PROCESSOR = ("--preset", "video_convert", "-p", "profile.hardware=never")


def test_a_film_keeps_its_picture_and_its_sound(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Streams in a few words, the length to a tenth of a second, the sound's level as it was, and why it is so."""
    source = recordings.synth("video_with_speech")
    job = box.job("run", source, *ON_PROCESSOR, "-p", "profile.max_height=72", "--output", f"{tmp_path}/")
    [artifact] = job["artifacts"]
    assert artifact["streams"] == ["h264 128x72 25 fps", "aac 48000 Hz mono"]
    assert artifact["durationSeconds"] == pytest.approx(12, abs=0.1)
    published = Path(unquote(urlsplit(artifact["uri"]).path))
    assert published.name == "video_with_speech.h264_mp4.mp4"
    assert [one["codec_type"] for one in described(published)["streams"]] == ["video", "audio"]
    assert measured(published).integrated_lufs == pytest.approx(measured(source).integrated_lufs, abs=0.2)
    [attempt] = job["attempts"]
    told = {decision["subject"]: decision for decision in attempt["plan"]["decisions"]}
    assert told["h264_mp4: size"]["choice"] == "128x72"
    assert told["h264_mp4: encoder"]["choice"].startswith("libx264")
    assert told["h264_mp4: encoder"]["because"] == "the profile uses no GPU"


def test_what_would_be_done_is_told_and_not_done(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Nor is a parameter passed over that no profile has a use for."""
    source = recordings.synth("video_with_speech")
    ran = box.run("plan", source, *ON_PROCESSOR, "--profile", "aac_192", "--output", f"{tmp_path}/", code=2)
    assert "aac_192_v1 has no stream of video, which 'hardware' belongs to" in ran.stderr
    plan = box.run("plan", source, *ON_PROCESSOR, "--output", f"{tmp_path}/")
    assert "h264_mp4: timing: 25 fps, as it is (the rate is constant)" in plan.stdout
    assert "-c:v libx264" in plan.stdout
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(("source", "reason"), [("speech", "INPUT_NO_VIDEO"), ("cover_art", "INPUT_NO_VIDEO")])
def test_what_is_no_film_ends_for_good(
    source: str, reason: str, box: Home, recordings: Recordings, tmp_path: Path
) -> None:
    """After one attempt, with nothing published."""
    path = recordings.synth(source)
    job = box.job("run", path, *ON_PROCESSOR, "--output", f"{tmp_path}/", code=1)
    assert (job["failure"]["reason"], job["attemptCount"]) == (reason, 1)
    assert [*tmp_path.iterdir()] == []


def test_a_preset_without_a_picture_cannot_fill_a_film(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """It is refused before it is queued, and the field is told."""
    arguments = ("--preset", "loudness_podcast", "--profile", "h264_mp4", "--output", f"{tmp_path}/")
    ran = box.run("submit", recordings.synth("video_with_speech"), *arguments, code=2)
    assert "h264_mp4_v1 has a stream of video, and loudness_podcast_v1 makes none" in ran.stderr
