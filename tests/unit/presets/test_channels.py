"""The step that mixes channels, without FFmpeg."""

from typing import Any

import pytest

from presets.catalog import Catalog
from presets.compile import compile as compile_plan
from presets.facts import AudioStream
from presets.plan import Plan, StepResult
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.unit.presets.samples import BINARY, audio, intent, measured, media

PRESET = """
name = "mixed"
version = 1
default_profile = "audio_only_master_v1"
[roles]
source = {{ media = "audio" }}
[chain.out]
from = ["source"]
steps = [{{ op = "channels", {step} }}]
"""
STEREO = audio()


def _plan(step: str, stream: AudioStream = STEREO, results: dict[str, StepResult] | None = None) -> Plan:
    catalog = Catalog.shipped().with_documents([PRESET.format(step=step)], [])
    made = intent("mixed", profiles=("",), catalog=catalog)
    return compile_plan(made, [media(stream)], BINARY, results or {})


def _graph(plan: Plan) -> str:
    return " ".join(next(i for i in plan.invocations if i.purpose == "encode").argv)


def test_both_sides_are_measured_before_they_are_mixed_to_one() -> None:
    """Sum and difference, each by an invocation of its own; the encode waits for them."""
    plan = _plan('layout = "mono"')
    assert [i.id for i in plan.invocations if i.purpose == "measure"] == [
        "measure.out.48000.1ch",
        "measure.out.48000.1ch.2",
    ]
    assert plan.invocations[2].provisional


@pytest.mark.parametrize(
    ("sum_", "difference", "inverted"),
    [(-20.0, -40.0, False), (-20.0, -20.0, False), (-20.0, -15.0, False), (-30.0, -20.0, True), (None, -20.0, True)],
)
def test_one_side_is_inverted_where_their_sum_vanishes(sum_: float | None, difference: float, inverted: bool) -> None:
    """From 6 LU on; wide stereo is left as it is. The plan says what was measured."""
    results = {
        "measure.out.48000.1ch": measured(sum_, -3),
        "measure.out.48000.1ch.2": measured(difference, -3),
    }
    plan = _plan('layout = "mono"', results=results)
    assert ("-0.5*c1" in _graph(plan)) is inverted
    assert any("out of phase" in d.because for d in plan.decisions) is inverted


@pytest.mark.parametrize(
    "step", ['layout = "mono", antiphase = "keep"', 'layout = "stereo"', 'layout = "mono", take = "left"']
)
def test_nothing_is_measured_where_nothing_can_vanish(step: str) -> None:
    """Kept as asked, not mixed, or one side alone."""
    assert [i.id for i in _plan(step).invocations if i.purpose == "measure"] == []


@pytest.mark.parametrize(
    ("take", "gains"),
    [("left", "1*c0"), ("right", "1*c1"), ("centre", "1*c2"), ("lfe", "1*c3"), ("6", "1*c5"), ("1", "1*c0")],
)
def test_one_channel_is_taken(take: str, gains: str) -> None:
    """By its place or its number."""
    graph = _graph(_plan(f'layout = "mono", take = "{take}"', audio(channels=6)))
    assert f"pan=args=mono|c0\\\\={gains}[" in graph


@pytest.mark.parametrize(("take", "channels"), [("left", 1), ("centre", 2), ("3", 2), ("lfe", 1)])
def test_a_channel_that_is_not_there_is_refused(take: str, channels: int) -> None:
    """With what there is."""
    with pytest.raises(
        MediaFailure, match=f"channel {take} was asked for, and source has {channels} channel"
    ) as caught:
        _plan(f'layout = "mono", take = "{take}"', audio(channels=channels))
    assert caught.value.reason is Reason.UNSUPPORTED_COMBINATION


def test_a_downmix_and_a_new_rate_are_explained() -> None:
    """From what to what, why, and that it comes before any measurement."""
    made = compile_plan(intent("loudness_podcast"), [media(audio(channels=6, rate=44_100))], BINARY, {})
    said: dict[str, Any] = {d.choice: d.because for d in made.decisions if d.subject == "programme_out: conform"}
    assert "before anything is measured" in said["5.1 mixed down to stereo"]
    assert said["resampled from 44100 to 48000 Hz"] == "the profile's rate"
