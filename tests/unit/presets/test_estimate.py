"""How much a plan is said to write, before it runs."""

from dataclasses import replace

import pytest

from presets.compile import compile as compile_plan
from presets.estimate import Estimate, estimate
from presets.facts import MediaFacts
from presets.intent import Intent
from presets.plan import StepResult
from tests.unit.presets.samples import BINARY, GPU_BINARY, audio, intent, measured, media, picture, video

HOUR_S = 3600
ASIDE = 16 << 20


def estimated(made: Intent, facts: MediaFacts) -> Estimate:
    return estimate(made, [facts], compile_plan(made, [facts], GPU_BINARY if facts.video else BINARY, {}))


def hours(count: float, channels: int = 2) -> MediaFacts:
    return replace(media(audio(duration_s=count * HOUR_S, channels=channels)), duration_s=count * HOUR_S)


def test_an_encode_is_as_large_as_its_profile_says() -> None:
    """Rates of samples, channels and bits for what loses nothing, bit rates for the rest, a little more each time."""
    made = intent("convert", profiles=("audio_only_master", "mp3_192", "flac"))
    found = estimated(made, hours(1))
    pcm = 48_000 * 2 * 3 * HOUR_S
    assert found.encodes["audio_only_master"] == pcm
    assert 192_000 / 8 * HOUR_S < found.encodes["mp3_192"] < 192_000 / 8 * HOUR_S * 1.2
    assert pcm <= found.encodes["flac"] <= pcm * 1.05


def test_what_the_preset_delivers_counts_not_what_comes_in() -> None:
    """Dialogue is mono whatever it was."""
    mono = estimated(intent("dialogue_clean", profiles=("audio_only_master",)), hours(1))
    assert mono.encodes == {"audio_only_master": 48_000 * 3 * HOUR_S}


def test_a_corrected_loudness_takes_two_encodes_and_measurements() -> None:
    """The first try lies there still while the second is made; each pass leaves its measurement."""
    plain = estimated(intent("convert", profiles=("audio_only_master",)), hours(1))
    levelled = estimated(intent("loudness_podcast", profiles=("audio_only_master",)), hours(1))
    encode = plain.encodes["audio_only_master"]
    assert levelled.encodes == plain.encodes
    assert plain.total_bytes == ASIDE + encode + 2 * plain.measurement_bytes
    assert levelled.total_bytes == ASIDE + 2 * encode + (3 + 3) * levelled.measurement_bytes
    # Ten blocks of text a second: what FFmpeg wrote of an hour of stereo was 9.7 MB.
    assert 9_700_000 <= levelled.measurement_bytes <= 12_000_000


@pytest.mark.parametrize(
    ("facts", "at_least_s"),
    [
        (MediaFacts("webm", None, 0.0, 100_000_000, None, (audio(duration_s=None),)), 8000),
        (MediaFacts("webm", None, 0.0, 100_000_000, 80_000, (audio(duration_s=None),)), 10_000),
        (MediaFacts("webm", None, 0.0, 100_000_000, None, (audio(duration_s=None), video())), 800),
    ],
)
def test_an_unstated_duration_is_guessed_from_the_size(facts: MediaFacts, at_least_s: int) -> None:
    """Rather too long than too short, and less where there are pictures in it."""
    found = estimated(intent("extract_audio", profiles=("audio_only_master",)), facts)
    duration_s = found.encodes["audio_only_master"] / (48_000 * 2 * 3)
    assert at_least_s <= duration_s < 1.1 * at_least_s


def test_what_is_out_of_hand_is_far_beyond_the_estimate() -> None:
    """Each kind of step by what it writes; every step of a plan has a bound, corrections too."""
    made = intent("loudness_podcast", profiles=("aac_192", "audio_only_master"))
    facts = hours(1)
    found = estimate(made, [facts], compile_plan(made, [facts], GPU_BINARY if facts.video else BINARY, {}))
    results = {"measure.48000.2ch": measured(-27.91, -7.45, HOUR_S)}
    results["measure.limited_programme.48000.2ch"] = measured(-16, -1, HOUR_S)
    for name in ("aac_192", "audio_only_master"):
        results |= {f"encode.{name}.1": StepResult(HOUR_S, None), f"verify.{name}.1": measured(-16.9, -0.3, HOUR_S)}
    plan = compile_plan(made, [facts], BINARY, results)
    assert any(step.id == "encode.aac_192.2" for step in plan.invocations)
    for step in plan.invocations:
        expected = found.measurement_bytes
        if step.id.startswith("encode."):
            expected = found.encodes[step.id.split(".")[1]]
        assert found.bound(step) == 4 * expected + (64 << 20)


def test_a_picture_is_as_large_as_its_quality() -> None:
    """By its pixels, frames and quality: six steps better is twice as large."""
    found = {
        quality: estimated(
            intent("video_convert", profiles=("h264_mp4",), params={"profile.quality": str(quality)}), media(picture())
        )
        for quality in (23, 17)
    }
    usual, better = (found[quality].encodes["h264_mp4"] for quality in (23, 17))
    assert better == pytest.approx(2 * usual, rel=0.01)
    assert 1_000_000 < usual < found[23].total_bytes
