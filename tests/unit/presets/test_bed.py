"""Plans with a bed and with parts: what is found out first, what follows from it, and what documents may not say."""

from collections.abc import Mapping

import pytest

from presets.compile import compile as compile_plan
from presets.facts import MediaFacts
from presets.formats import layout_for
from presets.intent import Intent
from presets.operations.duck import Duck
from presets.operations.mix import Mix
from presets.parse import InvalidDocument, parse_preset
from presets.plan import Plan, Purpose, StepResult
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.unit.presets.samples import BINARY, audio, golden, intent, measured, media, passes
from tests.unit.presets.test_parse import PRESET

_VOICE = media(audio(rate=16_000, channels=1, duration_s=60.0), format_name="ogg")
_MUSIC = media(audio(rate=44_100, duration_s=20.0), format_name="wav")
_LONG_MUSIC = media(audio(rate=44_100, duration_s=600.0), format_name="wav")
_INPUTS = (("voice", "file:///m/v.ogg"), ("music", "file:///m/m.wav"))

_INSPECTED = {"inspect.0.0": StepResult(60.0, None), "inspect.1.0": StepResult(20.0, None)}
_SPOKEN = {"measure.speech.16000.2ch": measured(-24.0, -5.0, 60.0)}
_SHORT = {"measure.bed.48000.2ch": measured(-12.0, -1.0, 20.0)}


def _over_music(results: Mapping[str, StepResult], music: MediaFacts = _MUSIC, **params: str) -> Plan:
    return compile_plan(_intent(**params), [_VOICE, music], BINARY, results)


def _intent(**params: str) -> Intent:
    return intent("voice_over_music", inputs=_INPUTS, params=params)


def test_the_voice_is_measured_before_the_bed_is_decided_upon() -> None:
    """Its length and loudness say how long the bed must be and when it goes down; the rest is provisional till then."""
    plan = _over_music(_INSPECTED)
    step = plan.next(_INSPECTED)
    assert step is not None
    assert step.id == "measure.speech.16000.2ch"
    assert all(i.provisional for i in plan.invocations if i.id not in {*_INSPECTED, step.id})


def test_a_bed_that_is_too_short_is_rendered_once_to_be_repeated() -> None:
    """The whole way, once the voice, the bed and what it is made into are known."""
    results = {**_INSPECTED, **_SPOKEN, **_SHORT, "render.bed.48000.2ch": StepResult(18.0, None)}
    results |= {"measure.bed.48000.2ch.2": measured(-12.0, -1.0, 63.0), "measure.48000.2ch": measured(-20, -6, 63.0)}
    plan = _over_music(results)
    golden("voice_over_music", plan)
    assert passes(plan, Purpose.RENDER) == ["render.bed.48000.2ch"]
    step = plan.next(results)
    assert step is not None
    assert step.id == "encode.aac_192.1"


def test_of_a_long_bed_no_more_is_measured_than_is_used() -> None:
    """Ten minutes under one: its loudness is that of the part which is heard."""
    plan = _over_music({**_INSPECTED, "inspect.1.0": StepResult(600.0, None), **_SPOKEN}, _LONG_MUSIC)
    (measure,) = [i for i in plan.invocations if i.id.startswith("measure.bed") and not i.provisional]
    assert measure.media_s == 63
    assert "end_sample=3024000" in " ".join(measure.argv)
    assert passes(plan, Purpose.RENDER) == []


def test_without_music_nothing_is_fitted_or_ducked() -> None:
    """The voice alone: brought to its loudness, as long as it is."""
    made = intent("voice_over_music", inputs=_INPUTS[:1])
    plan = compile_plan(made, [_VOICE], BINARY, {"inspect.0.0": StepResult(60.0, None), **_SPOKEN})
    words = " ".join(" ".join(i.argv) for i in plan.invocations)
    assert "aeval" not in words
    assert "amix" not in words


def test_an_empty_voice_is_refused_where_a_bed_must_be_as_long() -> None:
    """No plan that never ends comes of it."""
    empty = {"measure.speech.16000.2ch": StepResult(None, None)}
    with pytest.raises(MediaFailure, match="not one sample") as caught:
        _over_music({**_INSPECTED, **empty})
    assert caught.value.reason is Reason.UNSUPPORTED_COMBINATION


def test_the_threshold_of_a_whisper_is_no_zero() -> None:
    """Powers of quiet voices are below a millionth: the threshold is written in decibels."""
    plan = _over_music({**_INSPECTED, "measure.speech.16000.2ch": measured(-60.0, -45.0, 60.0), **_SHORT})
    assert any(r"pow(10\,-7.8)" in word for i in plan.invocations for word in i.argv)


def test_chains_that_hear_each_other_are_a_circle() -> None:
    """A bed keyed by what it is mixed into could never be made."""
    text = PRESET.replace(
        'steps = [{ op = "channels", layout = "stereo" }]\n\n[chain.programme]',
        'steps = [{ op = "duck", key = "programme" }]\n\n[chain.programme]',
    )
    assert text != PRESET
    with pytest.raises(InvalidDocument, match="circle"):
        parse_preset(text)


@pytest.mark.parametrize("op", ['{ op = "duck", key = "speach" }', '{ op = "fit", length_of = "speach" }'])
def test_a_chain_that_is_not_there_cannot_be_heard(op: str) -> None:
    """The typing mistake is named, with what was meant."""
    text = PRESET.replace(
        'steps = [{ op = "channels", layout = "stereo" }]\n\n[chain.programme]', f"steps = [{op}]\n\n[chain.programme]"
    )
    with pytest.raises(InvalidDocument, match=r"speach.*did you mean speech"):
        parse_preset(text)


def test_an_offset_of_something_that_is_not_mixed_is_found() -> None:
    """As a gain would be; and a mix with an offset is longer than its sources."""
    mix = Mix(op="mix", gains_db={"a": 1.0}, offsets_s={"b": 2.0, "c": 0.0})
    assert mix.unknown_sources(["a", "c"]) == ("b",)
    assert not mix.keeps_length
    assert Mix(op="mix", offsets_s={"c": 0.0}).keeps_length


def test_a_depth_of_nothing_needs_no_key() -> None:
    """Zero decibels leave the signal, and measure nothing for it."""
    plan = _over_music({**_INSPECTED, **_SPOKEN, **_SHORT}, duck_depth_db="0")
    assert "amultiply" not in " ".join(" ".join(i.argv) for i in plan.invocations)
    assert Duck(op="duck", key="x").hears() == ("x",)


@pytest.mark.parametrize(("channels", "layout"), [(1, "mono"), (2, "stereo"), (3, "2.1"), (7, "6.1"), (16, "7.1")])
def test_channels_without_a_layout_s_name_get_the_narrowest_with_room(channels: int, layout: str) -> None:
    """Three channels are spread over five and one, sixteen are mixed to eight."""
    assert layout_for(channels) == layout


def test_a_join_trusts_headers_of_long_parts_and_measures_short_ones() -> None:
    """An hour of talk is not decoded once more for a crossfade of a second; a jingle of five is."""
    inputs = (("talk", "file:///m/t.ogg"), ("intro", "file:///m/i.wav"))
    facts = [media(audio(duration_s=3600.0), format_name="ogg"), media(audio(duration_s=5.0), format_name="wav")]
    results = {"inspect.0.0": StepResult(3600.0, None), "inspect.1.0": StepResult(5.0, None)}
    results |= {"measure.speech.48000.2ch": measured(-20.0, -5.0, 3600.0)}
    results |= {"measure.opening.48000.2ch": measured(-12.0, -1.0, 5.0)}
    plan = compile_plan(intent("podcast_episode", inputs=inputs), facts, BINARY, results)
    step = plan.next(results)
    assert step is not None
    assert step.id == "measure.opening.48000.2ch.2"
    assert [i.media_s for i in plan.invocations if i.id == "encode.aac_192.1"] == [3604.0]


def test_parts_become_chapters_where_the_profile_takes_them() -> None:
    """Each begins in the middle of its crossfade; the last ends where the episode does."""
    inputs = (("intro", "file:///m/i.wav"), ("talk", "file:///m/t.ogg"), ("outro", "file:///m/o.wav"))
    asked = intent("podcast_episode", inputs=inputs, profiles=("m4a_chapters",))
    facts = [_MUSIC, _VOICE, _MUSIC]
    results: dict[str, StepResult] = {}
    lengths = {"inspect.0.0": 20.0, "inspect.1.0": 60.0, "inspect.2.0": 20.0, "opening": 20.0, "closing": 20.0}
    plan = compile_plan(asked, facts, BINARY, results)
    while (step := plan.next(results)) is not None:
        length_s = lengths.get(step.id, next((s for name, s in lengths.items() if f".{name}." in step.id), 60.0))
        if step.purpose in (Purpose.ENCODE, Purpose.VERIFY) or ".48000." in step.id:
            length_s = 98.0
        results[step.id] = measured(-16.0, -3.0, length_s)
        plan = compile_plan(asked, facts, BINARY, results)
    [text] = [text for path, text in plan.documents.items() if path.endswith("chapters.txt")]
    assert [line for line in text.splitlines() if line.startswith(("START", "title"))] == [
        *("START=0", "title=Intro", "START=19500", "title=Talk", "START=78500", "title=Outro"),
    ]
