"""Judging finished outputs."""

from dataclasses import replace

import pytest

from presets.facts import MediaFacts
from presets.plan import Expectation, ExpectedStream
from presets.verify import check
from tests.unit.presets.samples import audio, media, video

EXPECTED = Expectation(
    name="aac_192",
    path="out/aac_192.m4a",
    uri="file:///o",
    container="mp4",
    streams=(ExpectedStream("aac", 48_000, 2),),
    duration_s=60.0,
    verified_by="verify.aac_192.1",
    decoded_s=60.02,
)
GOOD = media(audio(codec="aac"), format_name="mov,mp4,m4a,3gp,3g2,mj2")


def test_what_was_planned_passes() -> None:
    """Within a tenth of a second and with the planned stream nothing is wrong."""
    assert check(EXPECTED, GOOD, EXPECTED.decoded_s) == ()


@pytest.mark.parametrize(
    ("facts", "decoded_s", "said"),
    [
        (replace(GOOD, format_name="wav"), 60.0, "container"),
        (media(audio(codec="mp3"), format_name="mp4"), 60.0, "codec is mp3, not aac"),
        (media(audio(codec="aac", rate=44_100), format_name="mp4"), 60.0, "sample rate is 44100, not 48000"),
        (media(audio(codec="aac", channels=1), format_name="mp4"), 60.0, "channel count is 1, not 2"),
        (media(audio(codec="aac"), video(), format_name="mp4"), 60.0, "2 streams with 1 of audio"),
        (media(video(0), format_name="mp4"), 60.0, "0 of audio"),
        (GOOD, 59.85, "decodes to 59.850 s, not 60.000 s"),
        (GOOD, None, "nothing of it could be decoded"),
        (replace(GOOD, duration_s=61.0), 60.0, "declares 61.000 s"),
    ],
)
def test_each_difference_is_said(facts: MediaFacts, decoded_s: float | None, said: str) -> None:
    """A wrong container, stream, property or duration keeps an output from being published."""
    assert any(said in problem for problem in check(EXPECTED, facts, decoded_s))
