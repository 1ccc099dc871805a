"""Requests: what is resolved, and everything that can be wrong with one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.catalog import Catalog
from presets.intent import Intent, resolve
from presets.problems import InvalidRequest
from presets.reasons import Reason
from presets.uris import UnsupportedScheme, join, object_uri, path_to_uri, place, same_place, shown, stem, uri_to_path
from tests.unit.presets.samples import intent
from tests.unit.presets.test_parse import PRESET

LIBRARY = Catalog.shipped().with_documents([PRESET], [])
TALK = "file:///media/talk.wav"


def _problems(**changed: object) -> set[tuple[Reason, str]]:
    request: dict[str, object] = {
        "inputs": [("", TALK)],
        "preset": "loudness_podcast",
        "params": {},
        "outputs": [("", "file:///out/")],
        **changed,
    }
    with pytest.raises(InvalidRequest) as caught:
        resolve(LIBRARY, **request)  # type: ignore[arg-type]  # the tests vary single arguments
    assert all(problem.message for problem in caught.value.problems)
    return {(problem.reason, problem.field) for problem in caught.value.problems}


def test_a_request_is_filled_in() -> None:
    """Role, version, parameters and profile that the caller left out become explicit."""
    made = resolve(
        LIBRARY,
        inputs=[("", TALK)],
        preset="loudness_podcast",
        params={"target_lufs": "-19.5"},
        outputs=[("", "file:///out/"), ("mp3_192", "file:///out/x.mp3")],
    )
    assert (made.preset.full_name, made.inputs[0].role) == ("loudness_podcast_v1", "programme")
    assert dict(made.parameters) == {"target_lufs": -19.5, "over_peaks": "limit", "mono_offset_lu": 0.0}
    assert [(o.profile.full_name, o.uri, o.name) for o in made.outputs] == [
        ("aac_192_v1", "file:///out/talk.aac_192.m4a", "aac_192"),
        ("mp3_192_v1", "file:///out/x.mp3", "mp3_192"),
    ]


def test_names_for_a_prefix_come_from_the_default_role_whatever_the_order() -> None:
    """A job of several inputs is named after its main one, escapes and all."""
    made = resolve(
        LIBRARY,
        inputs=[("music", "file:///m/bed.wav"), ("voice", "file:///m/a%20b%25%23.take.1.wav")],
        preset="voice_and_music",
        params={},
        outputs=[("flac", "file:///out/")],
    )
    assert made.outputs[0].uri == "file:///out/a%20b%25%23.take.1.flac.flac"


def test_one_profile_twice_gets_two_names() -> None:
    """Names are unique in a job, for the workspace and for reports."""
    made = resolve(
        LIBRARY,
        inputs=[("", TALK)],
        preset="convert",
        params={},
        outputs=[("flac", "file:///out/a.flac"), ("flac", "file:///out/b.flac")],
    )
    assert [output.name for output in made.outputs] == ["flac", "flac-2"]


@pytest.mark.parametrize(
    ("changed", "reason", "field"),
    [
        ({"inputs": []}, Reason.ROLE_MISSING, "inputs"),
        ({"inputs": [("", TALK), ("voice", TALK)]}, Reason.ROLE_UNKNOWN, "inputs[1].role"),
        ({"inputs": [("", TALK), ("programme", "file:///b.wav")]}, Reason.ROLE_REPEATED, "inputs[1].role"),
        ({"inputs": [("", "talk.wav")]}, Reason.INPUT_UNSUPPORTED_SCHEME, "inputs[0].uri"),
        ({"inputs": [("", "/media/talk.wav")]}, Reason.INPUT_UNSUPPORTED_SCHEME, "inputs[0].uri"),
        ({"inputs": [("", "C:\\talk.wav")]}, Reason.INPUT_UNSUPPORTED_SCHEME, "inputs[0].uri"),
        ({"inputs": [("", "data:audio/wav;base64,AA")]}, Reason.INPUT_UNSUPPORTED_SCHEME, "inputs[0].uri"),
        ({"inputs": [("", "s3:/bucket/talk.wav")]}, Reason.INPUT_UNSUPPORTED_SCHEME, "inputs[0].uri"),
        ({"inputs": [("", "my_store://bucket/talk.wav")]}, Reason.INPUT_UNSUPPORTED_SCHEME, "inputs[0].uri"),
        ({"inputs": [("", "s3://bucket/folder/")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"inputs": [("", "s3://AK:secret@bucket/talk.wav")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"inputs": [("", "s3://bucket/talk.wav?x=1")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"inputs": [("", "https://me:secret@host/talk.wav")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"inputs": [("", "https:///talk.wav")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"outputs": [("", "https://host/out/")]}, Reason.INPUT_UNSUPPORTED_SCHEME, "outputs[0].uri"),
        (
            {"inputs": [("", "s3://b/%61.wav")], "outputs": [("", "s3://b/a.wav")]},
            Reason.OUTPUT_COLLISION,
            "outputs[0].uri",
        ),
        ({"inputs": [("", "file://elsewhere/talk.wav")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"inputs": [("", "file:talk.wav")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"inputs": [("", "file:///talk.wav?x=1")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"inputs": [("", "file:///a%00b.wav")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"inputs": [("", "file:///media/")]}, Reason.INVALID_ARGUMENT, "inputs[0].uri"),
        ({"preset": "loudnes_podcast"}, Reason.PRESET_NOT_FOUND, "preset"),
        ({"params": {"target": "-16"}}, Reason.PARAMETER_UNKNOWN, "params.target"),
        ({"params": {"target_lufs": "-8"}}, Reason.PARAMETER_OUT_OF_RANGE, "params.target_lufs"),
        ({"params": {"target_lufs": "loud"}}, Reason.PARAMETER_OUT_OF_RANGE, "params.target_lufs"),
        ({"params": {"target_lufs": "nan"}}, Reason.PARAMETER_OUT_OF_RANGE, "params.target_lufs"),
        ({"params": {"over_peaks": "Limit"}}, Reason.PARAMETER_OUT_OF_RANGE, "params.over_peaks"),
        ({"params": {"profile.bitrate": "128"}}, Reason.PARAMETER_UNKNOWN, "params.profile.bitrate"),
        ({"params": {"profile.bitrate_kbps": "9999"}}, Reason.PARAMETER_OUT_OF_RANGE, "params.profile.bitrate_kbps"),
        ({"params": {"profile.bitrate_kbps": "lots"}}, Reason.PARAMETER_OUT_OF_RANGE, "params.profile.bitrate_kbps"),
        ({"params": {"profile.max_encodes": "0"}}, Reason.PARAMETER_OUT_OF_RANGE, "params.profile.max_encodes"),
        ({"outputs": []}, Reason.INVALID_ARGUMENT, "outputs"),
        ({"outputs": [("acc_192", "file:///out/")]}, Reason.PROFILE_NOT_FOUND, "outputs[0].profile"),
        ({"outputs": [("", "out/")]}, Reason.INPUT_UNSUPPORTED_SCHEME, "outputs[0].uri"),
        ({"outputs": [("", "file:///media/talk.wav")]}, Reason.OUTPUT_COLLISION, "outputs[0].uri"),
        ({"outputs": [("", "file:///media/./x/..//talk.wav")]}, Reason.OUTPUT_COLLISION, "outputs[0].uri"),
        ({"outputs": [("", "file:///o/"), ("aac_192", "file:///o/")]}, Reason.OUTPUT_COLLISION, "outputs[1].uri"),
        ({"outputs": [("flac", "file:///o/%61"), ("", "file:///o/a")]}, Reason.OUTPUT_COLLISION, "outputs[1].uri"),
        ({"preset": "voice_and_music", "inputs": [("music", TALK)]}, Reason.ROLE_MISSING, "inputs"),
    ],
)
def test_each_mistake_has_its_reason_and_field(changed: dict[str, object], reason: Reason, field: str) -> None:
    """Fields are paths in the job as it was submitted, and nothing else is complained of."""
    assert _problems(**changed) == {(reason, field)}


def test_all_mistakes_are_told_at_once() -> None:
    """Input, preset parameter and output are wrong in one request, and one answer says so."""
    found = _problems(inputs=[("nobody", "talk.wav")], params={"loud": "1", "target_lufs": "0"}, outputs=[("x", "y")])
    assert {field for _, field in found} == {
        *("inputs[0].uri", "inputs[0].role", "inputs", "params.loud", "params.target_lufs"),
        *("outputs[0].uri", "outputs[0].profile"),
    }


def test_a_value_between_the_ends_that_a_step_refuses_is_refused_at_submission() -> None:
    """Both ends of a range fit the step, but only the ends do."""
    text = PRESET.replace("hz = 80", 'hz = 80, slope_db = "$slope"').replace(
        "[parameters]", '[parameters]\nslope = { type = "integer", default = 12, min = 12, max = 24 }'
    )
    catalog = Catalog.shipped().with_documents([text], [])

    def make(slope: str) -> Intent:
        request = {"inputs": [("", TALK)], "params": {"slope": slope}, "outputs": [("", "file:///o/")]}
        return resolve(catalog, preset="voice_and_music", **request)  # type: ignore[arg-type]  # values of one dict

    assert make("24").parameters["slope"] == 24
    with pytest.raises(InvalidRequest) as caught:
        make("18")
    assert caught.value.problems[0].reason is Reason.PARAMETER_OUT_OF_RANGE


def test_overrides_change_the_profile_and_its_digest() -> None:
    """``profile.KEY`` reaches every output's profile; the full name stays."""
    plain, changed = intent(), intent(params={"profile.bitrate_kbps": "128", "profile.ceiling_dbtp": "-2"})
    profile = changed.outputs[0].profile
    assert profile.document.audio is not None
    assert profile.document.audio.bitrate_kbps == 128
    assert profile.document.delivery.ceiling_dbtp == -2
    assert profile.full_name == "aac_192_v1"
    assert profile.digest != plain.outputs[0].profile.digest


@pytest.mark.parametrize(
    ("preset", "profile", "told"),
    [
        ("loudness_podcast", "h264_mp4", "h264_mp4_v1 has a stream of video, and loudness_podcast_v1 makes none"),
        ("silent_film", "aac_192", "aac_192_v1 has a stream of audio, and silent_film_v1 makes none"),
    ],
)
def test_a_profile_with_a_stream_that_the_preset_does_not_make_is_refused(preset: str, profile: str, told: str) -> None:
    """Before anything is queued; beside a picture, sound may be absent."""
    text = """
name = "silent_film"
version = 1
default_profile = "h264_mp4_v1"
[roles]
film = { media = "video" }
[chain.picture]
media = "video"
from = ["film"]
"""
    catalog = Catalog.shipped().with_documents([text], [])
    request = {"inputs": [("", TALK)], "params": {}}
    with pytest.raises(InvalidRequest) as caught:
        resolve(catalog, preset=preset, outputs=[(profile, "file:///o/")], **request)  # type: ignore[arg-type]  # one dict
    [problem] = caught.value.problems
    assert (problem.reason, problem.field) == (Reason.UNSUPPORTED_COMBINATION, "outputs[0].profile")
    assert problem.message == told
    made = resolve(catalog, preset="silent_film", outputs=[("", "file:///o/")], **request)  # type: ignore[arg-type]
    assert made.outputs[0].uri == "file:///o/talk.h264_mp4.mp4"


def test_overrides_reach_the_stream_they_belong_to() -> None:
    """Bit rates are the sound's, quality and height the picture's; one is needed that has such a stream."""
    params = {"profile.quality": "25", "profile.max_height": "720", "profile.bitrate_kbps": "96"}
    document = intent("video_convert", profiles=("h264_mp4",), params=params).outputs[0].profile.document
    assert document.video is not None
    assert document.audio is not None
    assert (document.video.quality, document.video.max_height, document.audio.bitrate_kbps) == (25, 720, 96)
    both = intent("video_convert", profiles=("h264_mp4", "aac_192"), params={"profile.quality": "25"}).outputs
    assert [dict(output.profile.overrides) for output in both] == [{"quality": 25}, {}]
    assert _problems(params={"profile.quality": "25"}) == {(Reason.PARAMETER_UNKNOWN, "params.profile.quality")}
    assert _problems(preset="video_convert", outputs=[("h264_nvenc_mp4", "file:///o/")], params={
        "profile.hardware": "never"
    }) == {(Reason.PARAMETER_OUT_OF_RANGE, "params.profile.hardware")}  # fmt: skip


def test_an_intent_carries_its_documents() -> None:
    """An agent with another library restores exactly what was resolved."""
    made = intent(profiles=("aac_192", "mp3_192"), params={"target_lufs": "-20", "profile.bitrate_kbps": "96"})
    assert Intent.from_json(json.loads(json.dumps(made.to_json())), made.texts()) == made


_PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@given(_PATHS)
def test_any_path_survives_its_uri(name: str) -> None:
    """Spaces, percent signs, question marks, line ends and all of Unicode."""
    path = "/" + name
    uri = path_to_uri(path)
    assert uri.isascii()
    assert uri_to_path(uri) == path
    assert same_place(uri, uri.replace("file://", "FILE://localhost"))


@given(st.binary(max_size=20).filter(lambda raw: b"\0" not in raw))
def test_names_that_are_no_text_survive_too(raw: bytes) -> None:
    """A file name is bytes; what is no UTF-8 travels as escapes."""
    path = b"/" + raw
    assert uri_to_path(path_to_uri(path.decode("utf-8", "surrogateescape"))).encode("utf-8", "surrogateescape") == path


def test_stems_lose_one_extension() -> None:
    """``take.1.wav`` is ``take.1``, and a dot file keeps its name."""
    assert (stem("file:///a/take.1.wav"), stem("file:///a/.hidden")) == ("take.1", ".hidden")
    with pytest.raises(UnsupportedScheme, match="supported: file:"):
        stem("/plain/a")
    with pytest.raises(ValueError, match="not an absolute path"):
        path_to_uri("a/b")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_object_survives_its_uri(name: str) -> None:
    """Whatever an object's name is, dots and slashes included; only bytes that are no text cannot be in one."""
    uri = object_uri("archive", f"bucket/{name}")
    assert uri.isascii()
    assert place(uri) == ("archive", f"bucket/{name}")
    assert same_place(uri, uri.replace("archive", "ARCHIVE", 1))
    assert not same_place(uri, object_uri("archive", f"bucket/./{name}"))
    assert shown(uri) == uri


def test_objects_are_named_after_their_source() -> None:
    """A prefix in a store takes the stem of what comes from a store, the web or a file, however that is written."""
    assert stem("s3://bucket/a/take%201.b.wav") == "take 1.b"
    assert stem("https://host/a/take%201.wav?sig=a/b.c") == "take 1"
    assert stem("https://host/x%2Fy.wav") == "x_y"
    assert stem("https://host/?id=1") == "host"
    assert join("s3://bucket/out/", "a #1?.wav") == "s3://bucket/out/a%20%231%3F.wav"
    assert join("s3://bucket/", "latin \udce9.wav") == "s3://bucket/latin%20%EF%BF%BD.wav"
    assert str(place("https://host/a.wav?sig=secret")) == "https://host/a.wav"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("https://host/a.wav?X-Amz-Signature=secret", "https://host/a.wav?…"),
        ("https://me:secret@host/a.wav", "https://host/a.wav"),
        ("s3://bucket/a.wav?upload=secret", "s3://bucket/a.wav?…"),
        ("file:///a%3Fb.wav", "file:///a%3Fb.wav"),
        ("no scheme?", "no scheme?"),
    ],
)
def test_what_is_shown_of_a_uri(uri: str, told: str) -> None:
    """Neither a query nor a password."""
    assert shown(uri) == told
