"""Plans: golden argument lists, refinement by results, and what no input may bring about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.capabilities import Binary
from presets.catalog import Catalog
from presets.compile import compile as compile_plan
from presets.facts import AudioStream, MediaFacts, OtherStream, VideoStream
from presets.plan import Loudness, Purpose, StepResult
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.unit.presets.samples import BINARY, audio, golden, intent, measured, media, passes, video
from tests.unit.presets.test_parse import PRESET

MIXED = Catalog.shipped().with_documents([PRESET], [])
WITH_MUSIC = (("voice", "file:///m/v.wav"), ("music", "file:///m/m.wav"))
LOUD = """
name = "loud"
version = 1
default_profile = "audio_only_master_v1"
[roles]
programme = { media = "audio", default = true }
[chain.out]
from = ["programme"]
steps = [{ op = "loudness", target_lufs = -16 }]
"""
PROGRAMME = (("", "file:///m/programme.wav"),)
AUSTEN = media(audio(rate=16_000, channels=1, duration_s=13.910063), format_name="ogg")


def test_before_anything_is_measured_the_whole_way_is_shown() -> None:
    """Only the measurement can be run; what follows shows placeholders for what it will find."""
    plan = compile_plan(intent(), [AUSTEN], BINARY, {})
    golden("podcast_planned", plan)
    step = plan.next({})
    assert step is not None
    assert step.id == "measure.48000.1ch"
    assert not plan.finished({})
    assert all("{gain_db}" not in " ".join(i.argv) for i in plan.invocations if not i.provisional)


def test_measurements_make_the_plan_concrete_until_the_file_fits() -> None:
    """Measure, rehearse, encode, verify, correct, encode, verify: each result brings the next step."""
    made = intent()
    results = {"measure.48000.1ch": measured(-27.91, -7.45, 13.91)}
    rehearsal = compile_plan(made, [AUSTEN], BINARY, results).next(results)
    assert rehearsal is not None
    assert rehearsal.id == "measure.limited_programme.48000.1ch"
    results[rehearsal.id] = measured(-16.02, -1.0, 13.91)
    results["encode.aac_192.1"] = StepResult(13.91, None)
    results["verify.aac_192.1"] = measured(-16.5, -0.8, 13.93)
    again = compile_plan(made, [AUSTEN], BINARY, results).next(results)
    assert again is not None
    assert again.id == "measure.limited_programme.48000.1ch.2"
    results[again.id] = measured(-15.5, -1.5, 13.91)
    plan = compile_plan(made, [AUSTEN], BINARY, results)
    golden("podcast_corrected", plan)
    assert [i.id for i in plan.invocations if i.id not in results] == ["encode.aac_192.2", "verify.aac_192.2"]
    assert plan.measured[0].encodes == 1
    results["encode.aac_192.2"] = StepResult(13.91, None)
    results["verify.aac_192.2"] = measured(-16.02, -1.2, 13.93)
    done = compile_plan(made, [AUSTEN], BINARY, results)
    assert done.finished(results)
    assert done.next(results) is None
    report, output = done.measured[0], done.outputs[0]
    assert (report.encodes, output.path, output.verified_by) == (2, "out/aac_192.2.m4a", "verify.aac_192.2")
    assert (output.duration_s, output.decoded_s) == (13.91, 13.93)
    assert report.missed_by_lu == pytest.approx(-0.02)
    assert report.before is not None
    assert report.before.integrated_lufs == -27.91
    assert output.uri == "file:///published/0.out"


def test_an_encode_with_room_is_linear() -> None:
    """A master of a quiet programme: one volume filter and no limiter."""
    results = {"measure.48000.2ch": measured(-30.0, -20.0)}
    plan = compile_plan(intent("loudness_ebu_r128", profiles=("audio_only_master",)), [media()], BINARY, results)
    golden("r128_master", plan)
    graph = " ".join(plan.invocations[1].argv)
    assert "volume=volume=7dB" in graph
    assert "alimiter" not in graph


def test_a_lossless_file_of_a_known_level_is_decoded_and_not_measured() -> None:
    """What gain alone makes of a measured programme is reckoned; that the file is whole is still seen."""
    made = intent("loudness_ebu_r128", profiles=("flac", "aac_192"))
    results = {"measure.48000.2ch": measured(-30.0, -20.0)}
    steps = {i.id: i for i in compile_plan(made, [media()], BINARY, results).invocations}
    assert steps["verify.flac.1"].measure is None
    assert steps["verify.aac_192.1"].measure == "verify.aac_192.1.txt"
    for name in ("flac", "aac_192"):
        results[f"encode.{name}.1"] = StepResult(60.0, None)
    results |= {"verify.flac.1": StepResult(60.0, None), "verify.aac_192.1": measured(-23.05, -12.8)}
    done = compile_plan(made, [media()], BINARY, results)
    assert done.finished(results)
    assert [report.after for report in done.measured] == [Loudness(-23.0, -13.0, 3.0), Loudness(-23.05, -12.8, 3.0)]
    assert any("lossless" in d.because for d in done.decisions if d.subject.startswith("flac: encode"))


def test_a_limited_programme_is_rehearsed_once_for_all_outputs_of_one_format() -> None:
    """Three profiles of one rate and layout, one measurement of what the limiter leaves."""
    made = intent(profiles=("aac_192", "flac", "opus_96"))
    results = {"measure.48000.2ch": measured(-27.91, -7.45)}
    plan = compile_plan(made, [media()], BINARY, results)
    assert passes(plan, Purpose.MEASURE) == ["measure.48000.2ch", "measure.limited_programme.48000.2ch"]


def test_mono_is_brought_lower_where_that_is_asked_for() -> None:
    """Two speakers play one channel 3 LU louder than it measures; a stereo programme is none of that."""
    text = LOUD.replace("target_lufs = -16", "target_lufs = -16, mono_offset_lu = -3")
    for channels, target in ((1, -19), (2, -16)):
        made = intent("loud", catalog=Catalog.shipped().with_documents([text], []), inputs=PROGRAMME)
        plan = compile_plan(made, [media(audio(channels=channels))], BINARY, {})
        assert plan.measured[0].target_lufs == target


def test_loudness_without_a_target_is_measured_and_left() -> None:
    """Before and after are reported, no gain is applied and nothing waits for the measurement."""
    text = LOUD.replace(", target_lufs = -16", "")
    made = intent("loud", catalog=Catalog.shipped().with_documents([text], []), inputs=PROGRAMME)
    results = {"measure.48000.2ch": measured(-27.91, 0.5)}
    plan = compile_plan(made, [media()], BINARY, results)
    assert not any(i.provisional for i in plan.invocations)
    assert not any("volume" in " ".join(i.argv) for i in plan.invocations)
    assert plan.measured[0].before == Loudness(-27.91, 0.5, 3.0)
    assert plan.measured[0].target_lufs is None


def test_extraction_encodes_at_once() -> None:
    """Without a loudness step nothing is provisional and nothing is measured first."""
    facts = media(video(0), audio(1, language="eng"), audio(2, language="deu", channels=6, rate=44_100))
    made = intent("extract_audio", profiles=("flac",), params={"language": "DEU"})
    plan = compile_plan(made, [facts], BINARY, {})
    golden("extract_surround", plan)
    assert passes(plan, Purpose.MEASURE) == []
    assert not any(i.provisional for i in plan.invocations)


def test_a_mix_reads_every_input_to_its_end() -> None:
    """Several inputs are each decoded for themselves, then mixed; tags come from the default role."""
    facts = [media(audio(rate=16_000, channels=1), format_name="wav"), media(audio(rate=44_100), format_name="ogg")]
    made = intent("voice_and_music", catalog=MIXED, inputs=WITH_MUSIC)
    results = {name: StepResult(60.0, None) for name in ("inspect.0.0", "inspect.1.0")}
    results["measure.48000.2ch"] = measured(-20, -10)
    plan = compile_plan(made, facts, BINARY, results)
    golden("voice_and_music", plan)
    argv = next(i for i in plan.invocations if i.id == "encode.aac_192.1").argv
    inputs = [argv[n + 1] for n, word in enumerate(argv) if word == "-i"]
    assert argv[argv.index("-map_metadata:g") + 1] == f"{inputs.index('in/0')}:g"


def test_a_chain_whose_condition_is_false_is_absent() -> None:
    """Without music there is no bed, and a mix of one signal is that signal."""
    made = intent("voice_and_music", catalog=MIXED, inputs=WITH_MUSIC[:1])
    graph = " ".join(compile_plan(made, [media()], BINARY, {}).invocations[0].argv)
    assert "amix" not in graph
    assert "in/1" not in graph


def test_outputs_of_one_format_share_a_measurement_and_others_do_not() -> None:
    """The loudness of a downmix is another one."""
    plan = compile_plan(intent(profiles=("aac_192", "flac", "opus_96")), [media()], BINARY, {})
    assert passes(plan, Purpose.MEASURE) == ["measure.48000.2ch"]
    assert len({i.id for i in plan.invocations}) == len(plan.invocations)


def test_the_stricter_ceiling_wins() -> None:
    """A profile that allows less than the preset does decides."""
    made = intent(params={"profile.ceiling_dbtp": "-3"})
    results = {"measure.48000.2ch": measured(-20, -5), "measure.limited_programme.48000.2ch": measured(-16, -3)}
    plan = compile_plan(made, [media()], BINARY, results)
    assert any("true peaks to -3.15 dBTP, by up to 2.3 dB" in d.choice for d in plan.decisions)


def test_silence_is_encoded_as_it_is_and_the_plan_says_why() -> None:
    """Nothing above the gate: no gain and no limiter."""
    plan = compile_plan(intent(), [media()], BINARY, {"measure.48000.2ch": measured(None, None)})
    assert any(d.choice == "left as it is" and "gate" in d.because for d in plan.decisions)
    assert "volume=" not in " ".join(plan.invocations[1].argv)


def test_a_peak_above_the_profile_s_ceiling_is_said_where_levels_are_not_touched() -> None:
    """Conversion does not limit, and does not hide that it does not."""
    results = {"encode.aac_192.1": StepResult(60.0, None), "verify.aac_192.1": measured(-9, 0.4)}
    plan = compile_plan(intent("convert"), [media()], BINARY, results)
    assert plan.finished(results)
    assert any(d.choice == "left as it is, true peak 0.4 dBTP" for d in plan.decisions)


def test_the_best_audio_is_default_then_widest_then_first() -> None:
    """Commentary does not win over the programme, nor stereo over surround, unless marked as default."""
    tracks = (audio(0), audio(1, channels=6), audio(2, channels=6), audio(3, channels=1, default=True))

    def chosen(*streams: AudioStream) -> str:
        plan = compile_plan(intent("convert"), [media(*streams)], BINARY, {})
        return plan.decisions[0].choice.split(":")[0]

    assert chosen(*tracks) == "audio track 4 of 4"
    assert chosen(*tracks[:3]) == "audio track 2 of 3"
    assert chosen(tracks[0]) == "audio track 1 of 1"


@pytest.mark.parametrize(
    ("facts", "params", "reason"),
    [
        (media(video(0)), {}, Reason.INPUT_NO_AUDIO),
        (media(video(0, attached_pic=True)), {}, Reason.INPUT_NO_AUDIO),
        (media(audio()), {"track": "2"}, Reason.INPUT_NO_AUDIO),
        (media(audio(language="eng")), {"language": "fra"}, Reason.INPUT_NO_AUDIO),
        (media(audio(rate=0)), {}, Reason.INPUT_CORRUPT),
        (media(audio(channels=0)), {}, Reason.INPUT_CORRUPT),
    ],
)
def test_media_without_the_audio_asked_for_are_refused(
    facts: MediaFacts, params: dict[str, str], reason: Reason
) -> None:
    """Before anything is run, with a reason that no retry mends."""
    with pytest.raises(MediaFailure) as caught:
        compile_plan(intent("extract_audio", params=params), [facts], BINARY, {})
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("preset", "step"), [("loudness_podcast", "measure.48000.2ch"), ("convert", "encode.aac_192.1")]
)
@pytest.mark.parametrize(
    ("declared_s", "decoded_s", "format_name", "reason"),
    [
        (60.0, 59.1, "mov,mp4,m4a", None),
        (60.0, 58.7, "mov,mp4,m4a", Reason.INPUT_TRUNCATED),
        (6000.0, 5900.0, "wav", None),
        (6000.0, 5870.0, "wav", Reason.INPUT_TRUNCATED),
        (60.0, None, "wav", Reason.INPUT_TRUNCATED),
        (60.0, 30.0, "mpegts", None),
        (60.0, None, "mpegts", Reason.INPUT_CORRUPT),
    ],
)
def test_a_decode_that_ends_early_proves_a_cut_file_only_where_the_duration_was_declared(
    preset: str, step: str, declared_s: float, decoded_s: float | None, format_name: str, reason: Reason | None
) -> None:
    """More than a second and 2 % less than a header states; an estimate proves nothing."""
    facts = media(audio(duration_s=declared_s), video(), format_name=format_name)
    results = {step: StepResult(decoded_s, measured(-20, -10).loudness)}
    if reason is None:
        assert compile_plan(intent(preset), [facts], BINARY, results).next(results)
        return
    with pytest.raises(MediaFailure) as caught:
        compile_plan(intent(preset), [facts], BINARY, results)
    assert caught.value.reason is reason


def test_an_mp3_whose_bytes_cannot_fill_its_header_s_duration_is_cut() -> None:
    """Its Xing header declares a duration, which for other MP3 files is an estimate from their size."""
    stream = AudioStream(0, "mp3", 12.0, None, False, 44_100, 2, "stereo", None, bit_rate=128_000)
    results = {"encode.aac_192.1": StepResult(7.2, None)}
    for size, cut in ((115_759, True), (192_932, False)):
        facts = MediaFacts("mp3", 12.0, 0.0, size, None, (stream,))
        if cut:
            with pytest.raises(MediaFailure, match=r"declares 12\.0 s of audio and ends after 7\.2 s"):
                compile_plan(intent("convert"), [facts], BINARY, results)
        else:
            compile_plan(intent("convert"), [facts], BINARY, results)


def test_a_binary_without_the_encoder_is_refused() -> None:
    """Capabilities decide, and the message names what would have done."""
    bare = Binary("f", "5.1", "d", frozenset({"encoder:aac"}), 1)
    with pytest.raises(MediaFailure, match="one of the encoders libmp3lame, libshine"):
        compile_plan(intent(profiles=("mp3_192",)), [media()], bare, {})


def test_the_first_encoder_of_the_profile_that_there_is_encodes() -> None:
    """libfdk_aac is preferred where an agent proved it."""
    rich = Binary("f", "9.0", "d", BINARY.capabilities | {"encoder:libfdk_aac"}, 1)
    for binary, encoder in ((BINARY, "aac"), (rich, "libfdk_aac")):
        argv = compile_plan(intent("convert"), [media()], binary, {}).invocations[0].argv
        assert argv[argv.index("-c:a") + 1] == encoder


_TEXT = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=12)
_SECONDS = st.none() | st.floats(0, 1e9)
_STREAMS = (
    st.builds(
        AudioStream,
        index=st.integers(0, 9),
        codec=_TEXT,
        duration_s=_SECONDS,
        language=st.none() | _TEXT,
        default=st.booleans(),
        sample_rate_hz=st.integers(0, 10**9),
        channels=st.integers(0, 64),
        layout=st.none() | _TEXT | st.sampled_from(["stereo", "5.1(side)", "mono"]),
        bits=st.none() | st.integers(0, 64),
        bit_rate=st.none() | st.integers(0, 10**12),
    )
    | st.builds(OtherStream, index=st.integers(0, 9), kind=_TEXT, codec=_TEXT, language=st.none() | _TEXT)
    | st.builds(
        VideoStream,
        index=st.integers(0, 9),
        codec=_TEXT,
        duration_s=_SECONDS,
        language=st.none(),
        default=st.booleans(),
        attached_pic=st.booleans(),
        width=st.integers(0, 9999),
        height=st.integers(0, 9999),
        fps=st.none(),
    )
)
_FACTS = st.builds(
    MediaFacts,
    format_name=st.sampled_from(["mov,mp4,m4a", "ogg", "mp3", "mpegts"]) | _TEXT,
    duration_s=_SECONDS,
    start_s=st.floats(-10, 1e5),
    size_bytes=st.integers(0, 10**12),
    bit_rate=st.none(),
    streams=st.lists(_STREAMS, max_size=4).map(tuple),
)
_LEVEL = st.none() | st.floats(-70, 10)


@given(
    facts=_FACTS,
    preset=st.sampled_from(["loudness_podcast", "dialogue_clean", "extract_audio", "convert"]),
    answers=st.lists(st.tuples(_SECONDS, _LEVEL, _LEVEL), min_size=12, max_size=12),
)
def test_whatever_is_probed_and_measured_ends_in_a_finished_plan_or_a_media_failure(
    facts: MediaFacts, preset: str, answers: list[tuple[float | None, float | None, float | None]]
) -> None:
    """No header and no measurement raises anything else, runs a step twice, or goes on for ever."""
    results: dict[str, StepResult] = {}
    made = intent(preset, profiles=("aac_192", "flac"))
    try:
        plan = compile_plan(made, [facts], BINARY, results)
        for seconds, lufs, dbtp in answers * 2:
            step = plan.next(results)
            if step is None:
                break
            assert "{" not in " ".join(step.argv)
            results[step.id] = measured(lufs, dbtp) if step.measure else StepResult(seconds, None)
            plan = compile_plan(made, [facts], BINARY, results)
        assert plan.finished(results)
        assert plan == compile_plan(made, [facts], BINARY, results)
    except MediaFailure:
        pass


@given(name=_TEXT, codec=_TEXT, language=_TEXT)
def test_no_text_of_a_caller_or_a_file_is_in_an_argument(name: str, codec: str, language: str) -> None:
    """Names, languages and codecs only decide; every argument is one that also stands for other names."""
    stream = audio(codec=f"C{codec}", language=f"L{language}")
    inputs = (("", f"file:///media/{'%20'.join(hex(ord(c)) for c in name)}-{'x' * len(name)}"),)
    plans = [
        compile_plan(
            intent("extract_audio", inputs=given_inputs, params={"language": f"L{language}"}), [facts], BINARY, {}
        )
        for given_inputs, facts in (
            (inputs, media(stream)),
            ((("", "file:///a"),), media(audio(language=f"L{language}"))),
        )
    ]
    assert [i.argv for i in plans[0].invocations] == [i.argv for i in plans[1].invocations]
    for argument in plans[0].invocations[0].argv:
        assert not argument.startswith("/")
