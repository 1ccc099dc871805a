"""Reading ffprobe's JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.facts import MediaFacts, OtherStream, from_ffprobe
from presets.problems import MediaFailure
from presets.reasons import Reason

PROBED: dict[str, Any] = {
    "format": {"format_name": "matroska,webm", "duration": "61.5", "start_time": "-0.007", "size": "1000"},
    "streams": [
        {"index": 0, "codec_type": "video", "codec_name": "h264", "width": 1920, "height": 1080,
         "avg_frame_rate": "30000/1001"},
        {"index": 1, "codec_type": "audio", "codec_name": "flac", "sample_rate": "48000", "channels": 6,
         "channel_layout": "5.1(side)", "bits_per_raw_sample": "24", "bit_rate": "N/A",
         "disposition": {"default": 1}, "tags": {"language": "deu", "DURATION": "00:01:01.500000000"}},
        {"index": 2, "codec_type": "video", "codec_name": "mjpeg", "disposition": {"attached_pic": 1}},
        {"index": 3, "codec_type": "subtitle", "codec_name": "subrip", "tags": {"language": "eng"}},
    ],
}  # fmt: skip


def test_streams_are_told_apart() -> None:
    """Audio, video, cover pictures and the rest keep their indices; a cover picture is no video."""
    facts = from_ffprobe(PROBED)
    assert [s.index for s in facts.audio] == [1]
    assert [s.index for s in facts.video] == [0]
    assert isinstance(facts.streams[3], OtherStream)
    track = facts.audio[0]
    assert (track.sample_rate_hz, track.channels, track.layout, track.bits) == (48_000, 6, "5.1(side)", 24)
    assert (track.language, track.default, track.duration_s, track.bit_rate) == ("deu", True, 61.5, None)
    assert facts.video[0].fps == pytest.approx(29.97, abs=0.001)
    assert (facts.duration_s, facts.start_s, facts.size_bytes) == (61.5, -0.007, 1000)


def test_a_picture_is_described() -> None:
    """Shape of pixels, rotation, rates, fields and colours, as far as the file tells them."""
    raw = {
        "index": 0, "codec_type": "video", "codec_name": "hevc", "width": 720, "height": 576, "pix_fmt": "yuv420p10le",
        "sample_aspect_ratio": "64:45", "r_frame_rate": "25/1", "avg_frame_rate": "24990/1000", "time_base": "1/12800",
        "field_order": "tt", "color_space": "bt2020nc", "color_transfer": "arib-std-b67",
        "side_data_list": [{"side_data_type": "DOVI", "dv_profile": 8}, {"rotation": -90}, "x"],
    }  # fmt: skip
    [seen] = from_ffprobe({"format": {"format_name": "mov"}, "streams": [raw]}).video
    assert seen.pixel_aspect == pytest.approx(64 / 45)
    assert (seen.rotation_deg, seen.dolby_vision) == (-90, 8)
    assert (seen.base_fps, seen.time_base, seen.constant_rate) == ("25/1", "1/12800", True)
    assert (seen.field_order, seen.color_space, seen.color_transfer) == ("tt", "bt2020nc", "arib-std-b67")
    bare = {"codec_type": "video", "sample_aspect_ratio": "0:1", "field_order": "unknown", "r_frame_rate": "0/0"}
    [seen] = from_ffprobe({"format": {"format_name": "mov"}, "streams": [bare]}).video
    assert (seen.pixel_aspect, seen.rotation_deg, seen.field_order, seen.base_fps) == (1.0, 0, None, None)
    assert not seen.constant_rate


@pytest.mark.parametrize(
    ("mean", "base", "constant"),
    [("30/1", "30/1", True), ("2997/100", "30000/1001", True), ("277/10", "30/1", False), ("1000/1", "1000/1", False)],
)
def test_a_rate_is_constant_where_mean_and_base_agree(mean: str, base: str, constant: bool) -> None:
    """A base rate of hundreds is the unit of some timestamps."""
    raw = {"codec_type": "video", "avg_frame_rate": mean, "r_frame_rate": base}
    [seen] = from_ffprobe({"format": {"format_name": "mov"}, "streams": [raw]}).video
    assert seen.constant_rate is constant


def test_facts_survive_json() -> None:
    """What is stored with an attempt is what was probed."""
    facts = from_ffprobe(PROBED)
    assert MediaFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize("document", [{}, {"format": {}}, {"format": {"format_name": "wav"}, "streams": []}])
def test_what_is_no_media_is_corrupt(document: dict[str, Any]) -> None:
    """A document without a format or without streams is refused for good."""
    with pytest.raises(MediaFailure) as caught:
        from_ffprobe(document)
    assert caught.value.reason is Reason.INPUT_CORRUPT


_VALUES = st.none() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(["N/A", "0/0", "1/0", "inf"])
_STREAMS = st.fixed_dictionaries(
    {"codec_type": st.sampled_from(["audio", "video", "data", "", None])},
    optional=dict.fromkeys(
        (
            *("codec_name", "duration", "sample_rate", "channels", "channel_layout", "width", "avg_frame_rate"),
            *("sample_aspect_ratio", "r_frame_rate", "time_base", "side_data_list", "pix_fmt", "field_order"),
        ),
        _VALUES,
    ),
)


@given(st.lists(_STREAMS, min_size=1, max_size=4), st.dictionaries(st.sampled_from(["duration", "size"]), _VALUES))
def test_no_header_however_broken_breaks_the_reader(streams: list[Any], container: dict[str, Any]) -> None:
    """Values of any kind are read as absent where they make no sense."""
    facts = from_ffprobe({"format": {"format_name": "mpegts", **container}, "streams": streams})
    assert len(facts.streams) == len(streams)
    assert all(stream.sample_rate_hz >= 0 for stream in facts.audio)
