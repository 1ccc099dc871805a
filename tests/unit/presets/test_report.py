"""Reports in plans: what is measured, when the document is there, and where it is published."""

import json
from dataclasses import replace

import pytest

from presets.analysis import Analysis, Channel
from presets.compile import compile as compile_plan
from presets.estimate import estimate
from presets.facts import AudioStream
from presets.needs import requirements
from presets.parse import InvalidDocument, parse_profile
from presets.plan import Loudness, Plan, Purpose, StepResult
from presets.problems import InvalidRequest
from presets.verify import check_document
from tests.unit.presets.samples import BINARY, audio, golden, intent, measured, media, passes

CHANNEL = Channel(-1.5, -2.0, -20.0, 0.0, 0)
FOUND = StepResult(
    60.0,
    Loudness(-20.0, -1.5, 3.0),
    analysis=Analysis(-15.0, -18.0, (CHANNEL, CHANNEL), 0, None, -70.0, None, 1, 2.0, ((3.0, 5.0),)),
)


def _plan(results: dict[str, StepResult], *profiles: str, preset: str = "loudness_podcast", **params: str) -> Plan:
    asked = intent(preset, profiles=profiles, params=params)
    return compile_plan(asked, [media()], BINARY, results)


def test_a_report_alone_measures_once_and_is_a_document() -> None:
    """No encoder, no muxer; the text appears with the measurement."""
    plan = _plan({}, "report", preset="audio_analyze")
    golden("report", plan)
    assert plan.documents == {}
    done = {"analyze.report.programme": FOUND}
    plan = _plan(done, "report", preset="audio_analyze")
    assert plan.finished(done)
    [(path, text)] = plan.documents.items()
    [expected] = plan.outputs
    assert (expected.path, expected.container, expected.decoded_s) == (path, "report", 60.0)
    assert check_document(text) == ()
    told = json.loads(text)
    assert told["schema"] == "mediactl.report/1"
    assert told["programme"]["integratedLufs"] == -20
    assert told["programme"]["peakToLoudnessRatioLu"] == 18.5
    assert told["programme"]["channels"][0]["crestFactorDb"] == 18
    needed = {
        name
        for need in requirements(intent("audio_analyze", profiles=("report",))).alternatives[0].needs
        for name in need
    }
    assert not any(name.startswith(("encoder:", "muxer:")) for name in needed)
    assert {"filter:astats", "filter:silencedetect"} <= needed


def test_files_are_measured_once_it_is_known_which_encode_is_delivered() -> None:
    """Until then the step is provisional; then it is of the file that is published, also where that is the second."""
    results = {"measure.48000.2ch": measured(-20, -6), "analyze.report.programme": FOUND}
    plan = _plan(results, "aac_192", "report")
    assert [i.provisional for i in plan.invocations if i.id == "analyze.report.aac_192"] == [True]
    assert [made.name for made in plan.outputs] == [made.name for made in plan.measured] == ["aac_192", "report"]
    results |= {"encode.aac_192.1": StepResult(60.0, None), "verify.aac_192.1": measured(-16.6, -1.5)}
    results |= {"encode.aac_192.2": StepResult(60.0, None), "verify.aac_192.2": measured(-16.0, -1.2)}
    plan = _plan(results, "aac_192", "report")
    [step] = [i for i in plan.invocations if i.id == "analyze.report.aac_192"]
    assert (step.provisional, step.title) == (False, "analyse aac_192")
    assert "out/aac_192.2.m4a" in step.argv
    assert plan.documents == {}
    results["analyze.report.aac_192"] = replace(FOUND, loudness=Loudness(-16.0, -1.2, 3.0))
    plan = _plan(results, "aac_192", "report")
    assert plan.finished(results)
    [output] = json.loads(plan.documents["out/report.json"])["outputs"]
    assert (output["name"], output["encodes"], output["file"]["integratedLufs"]) == ("aac_192", 2, -16)


def test_a_layout_without_a_name_is_measured_as_it_is() -> None:
    """Six channels are reported as six, under numbers."""
    six = AudioStream(0, "flac", 60.0, None, True, 44_100, 6, "hexagonal", 24)
    found = replace(FOUND, analysis=replace(FOUND.analysis, channels=(CHANNEL,) * 6))  # type: ignore[type-var]
    plan = compile_plan(
        intent("audio_analyze", profiles=("report",)), [media(six)], BINARY, {"analyze.report.programme": found}
    )
    told = json.loads(plan.documents["out/report.json"])["programme"]
    assert (told["sampleRateHz"], told["channelCount"], told["layout"]) == (44_100, 6, None)
    assert [channel["name"] for channel in told["channels"]] == ["1", "2", "3", "4", "5", "6"]
    assert not any("pan" in argument for argument in plan.invocations[0].argv)


def test_room_is_kept_for_both_files_of_a_measurement() -> None:
    """Ten hours of stereo: less than half a gigabyte, and a bound above what is honestly written."""
    ten_hours = replace(media(audio(0, duration_s=36_000.0)), duration_s=36_000.0)
    asked = intent("audio_analyze", profiles=("report",))
    plan = compile_plan(asked, [ten_hours], BINARY, {})
    room = estimate(asked, [ten_hours], plan)
    [step] = plan.invocations
    assert step.purpose is Purpose.ANALYZE
    assert 36_000 * 5000 < room.total_bytes < 500e6
    assert room.bound(step) > room.total_bytes


def test_what_counts_as_silence_is_the_profile_s() -> None:
    """A caller sets it as any other key of a profile; a file of sound has no such key, nor a report a bit rate."""
    plan = _plan({}, "report", preset="audio_analyze", **{"profile.below_dbfs": "-50", "profile.at_least_s": "2"})
    assert "silencedetect=n=-50dB:d=2" in " ".join(plan.invocations[0].argv)
    for profile, key in (("aac_192", "below_dbfs"), ("report", "bitrate_kbps"), ("report", "ceiling_dbtp")):
        with pytest.raises(InvalidRequest, match=f"{profile}_v1 has no .* '{key}' belongs to"):
            _plan({}, profile, preset="convert", **{f"profile.{key}": "-50"})
    both = _plan(
        {}, "aac_192", "report", preset="convert", **{"profile.bitrate_kbps": "128", "profile.below_dbfs": "-40"}
    )
    assert passes(both, Purpose.ANALYZE) == ["analyze.report.programme", "analyze.report.aac_192"]


def test_a_report_has_no_streams_and_a_file_has_one() -> None:
    """The mistake is pointed at."""
    head = 'name = "x"\nversion = 1\nextension = "json"\ncontainer = '
    stream = '[[stream]]\nkind = "audio"\ncodec = "flac"\nencoders = ["flac"]\nlayouts = ["mono"]\n'
    assert parse_profile(f'{head}"report"\n').reports
    with pytest.raises(InvalidDocument, match="a report has no streams"):
        parse_profile(f'{head}"report"\n{stream}')
    with pytest.raises(InvalidDocument, match="at least one stream is needed"):
        parse_profile(f'{head}"wav"\n')


def test_a_document_that_does_not_parse_is_not_published() -> None:
    """A report cut short is no report."""
    assert check_document('{"schema": ') != ()
