"""Steps that ask first how loud a voice is and what noise is in its pauses: plans as far as answers have come."""

from collections.abc import Mapping

import pytest

from presets.compile import compile as compile_plan
from presets.plan import Plan, StepResult, Survey
from tests.unit.presets.samples import BINARY, audio, golden, intent, measured, media

_PARAMS = {"gate_db": "8", "deess_db": "4", "compression_ratio": "2"}
#: What is listened to for hum: ten harmonics of either mains, one of both, and six frequencies between.
_LISTENED = sorted({*range(50, 501, 50), *range(60, 601, 60), 110, 135, 165, 190, 215, 265})
_FLAT = Survey(levels_db=(-60.0,) * len(_LISTENED))
_HISS = Survey(levels_db=tuple(-70.0 + band for band in range(15)))
_HUM = Survey(levels_db=tuple(-30.0 if hz % 50 == 0 else -60.0 for hz in _LISTENED))


def _planned(results: Mapping[str, StepResult], params: Mapping[str, str] | None = None) -> Plan:
    made = intent("dialogue_clean", profiles=("audio_only_master",), params=params or {})
    return compile_plan(made, [media(audio(channels=1))], BINARY, results)


def _answered(*surveys: Survey, params: Mapping[str, str] | None = None, seconds: float = 60.0) -> Plan:
    """The plan once the surveys have been answered in their order, and a file has been rendered."""
    results: dict[str, StepResult] = {}
    answers = list(surveys)
    while (step := _planned(results, params).next(results)) is not None:
        if step.purpose == "survey" and answers:
            results[step.id] = StepResult(seconds, None, survey=answers.pop(0))
        elif step.purpose == "render":
            results[step.id] = StepResult(seconds, None)
        else:
            break
    assert not answers
    return _planned(results, params)


def _choice(plan: Plan, step: str) -> str:
    return next(d.choice for d in plan.decisions if d.subject == f"speech: {step}")


def test_nothing_is_known_of_a_recording_before_it_is_surveyed() -> None:
    """One survey can be run; all behind it waits."""
    plan = _planned({})
    assert [step.id for step in plan.invocations if not step.provisional] == ["survey.speech.48000.1ch"]
    assert all("{" in " ".join(step.argv) for step in plan.invocations if step.provisional and step.purpose != "verify")
    assert _choice(plan, "dehum") == "shown at 50 Hz and its harmonics"


def test_what_was_heard_sets_every_step() -> None:
    """Hum, then noise by its bands, then thresholds from the loudness, all of them from one survey and one pause."""
    plan = _answered(Survey(-23.0, (4.0, 5.0), -50.0), _FLAT, _HISS, params=_PARAMS)
    golden("dialogue_cleaned", plan)


def test_hum_is_taken_out_where_it_stands_out() -> None:
    """At 50 Hz and its harmonics, all of which were heard."""
    plan = _answered(Survey(-23.0, (4.0, 5.0), -50.0), _HUM, _HISS)
    assert _choice(plan, "dehum") == "hum taken out at 50, 100, 150, 200, 250, 300, 350, 400, 450, 500 Hz"
    argv = " ".join(next(step for step in plan.invocations if step.purpose == "render").argv)
    assert argv.count("bandreject") == 10


@pytest.mark.parametrize(
    ("surveyed", "because"),
    [
        (Survey(), "nothing is loud enough to have noise beneath it"),
        (Survey(-23.0), "too short to have a pause"),
        (Survey(-23.0, (4.0, 5.0), -90.0), "67 LU below the programme"),
        (Survey(-23.0, (4.0, 5.0), -26.0), "there is no pause"),
    ],
)
def test_noise_is_left_where_there_is_none_or_no_telling(surveyed: Survey, because: str) -> None:
    """Nothing is rendered then, and the plan says why."""
    answers = (surveyed,) if surveyed.pause_s is None else (surveyed, _FLAT)
    plan = _answered(*answers)
    assert _choice(plan, "denoise") == "left as it is"
    assert any(because in d.because for d in plan.decisions if d.subject == "speech: denoise")
    assert all(step.purpose != "render" for step in plan.invocations)


def test_a_pause_of_which_nothing_is_heard_changes_nothing() -> None:
    """As where headers and decoder disagree about how long a recording is."""
    plan = _answered(Survey(-23.0, (4.0, 5.0), -50.0), Survey(), Survey())
    assert (_choice(plan, "dehum"), _choice(plan, "denoise")) == ("left as it is", "left as it is")


def test_steps_that_are_switched_off_ask_nothing() -> None:
    """Hum alone is listened for; then the loudness is measured as ever."""
    plan = _answered(Survey(-23.0, (4.0, 5.0), -50.0), _FLAT, params={"denoise_db": "0", "deess_db": "0"})
    ids = [step.id for step in plan.invocations]
    assert ids[:3] == ["survey.speech.48000.1ch", "survey.speech.48000.1ch.2", "measure.48000.1ch"]


def test_titles_are_kept_although_the_sound_is_in_a_rendered_file() -> None:
    """The encode opens the input too, behind the file, for its metadata."""
    results = {
        "survey.speech.48000.1ch": StepResult(60.0, None, survey=Survey(-23.0, (4.0, 5.0), -50.0)),
        "survey.speech.48000.1ch.2": StepResult(60.0, None, survey=_FLAT),
        "survey.speech.48000.1ch.3": StepResult(60.0, None, survey=_HISS),
        "render.speech.48000.1ch": StepResult(60.0, None),
        "measure.48000.1ch": measured(-23, -10),
    }
    encode = next(step for step in _planned(results).invocations if step.purpose == "encode")
    opened = [path for option, path in zip(encode.argv, encode.argv[1:], strict=False) if option == "-i"]
    assert opened == ["work/render.speech.48000.1ch.wav", "in/0"]
    assert encode.argv[encode.argv.index("-map_metadata:g") + 1] == "1:g"
