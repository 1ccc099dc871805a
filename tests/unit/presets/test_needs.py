"""What jobs ask of an agent."""

import pytest

from presets.capabilities import Alternative
from presets.catalog import Catalog
from presets.intent import Intent
from presets.needs import PROCESSOR_OPENS_S, encoder_for, requirements, usable_encoders
from presets.problems import MediaFailure
from tests.unit.presets.samples import BINARY, GPU_BINARY, intent

MIB = 1 << 20


def _video(*profiles: str, **params: str) -> Intent:
    overrides = {f"profile.{key}": value for key, value in params.items()}
    return intent("video_convert", profiles=profiles or ("h264_mp4",), params=overrides)


def _encoders(alternative: Alternative) -> set[frozenset[str]]:
    return {any_of for any_of in alternative.needs if any(name.startswith("encoder:") for name in any_of)}


AAC = frozenset({"encoder:aac", "encoder:libfdk_aac"})
NVENC, X264 = frozenset({"encoder:h264_nvenc"}), frozenset({"encoder:libx264"})


def test_audio_has_one_way_to_be_done() -> None:
    """Any of a profile's encoders will do; every filter of every step is needed, and no GPU."""
    (alternative,) = requirements(intent("dialogue_clean", profiles=("aac_192", "flac"))).alternatives
    assert AAC in alternative.needs
    for single in ("encoder:flac", "filter:highpass", "filter:alimiter", "filter:ebur128", "muxer:mp4", "muxer:flac"):
        assert frozenset({single}) in alternative.needs
    assert not any("scale" in name for any_of in alternative.needs for name in any_of)
    assert (alternative.resources.cores, alternative.resources.encoder_sessions) == (1, 0)


def test_a_gpu_is_preferred_and_the_processor_opens_later() -> None:
    """NVENC at once, libx264 after half a minute; each to the last with one core, which every box has."""
    alternatives = requirements(_video()).alternatives
    shown = [
        (_encoders(a), a.resources.cores, a.resources.encoder_sessions, a.open_after_s) for a in alternatives
    ]  # fmt: skip
    assert shown == [
        ({AAC, NVENC}, 2, 1, 0),
        ({AAC, NVENC}, 1, 1, 0),
        ({AAC, X264}, 4, 0, PROCESSOR_OPENS_S),
        ({AAC, X264}, 2, 0, PROCESSOR_OPENS_S),
        ({AAC, X264}, 1, 0, PROCESSOR_OPENS_S),
    ]
    assert all(frozenset({"filter:scale"}) in a.needs for a in alternatives)
    on_gpu, on_processor = alternatives[0].resources, alternatives[2].resources
    assert 256 * MIB < on_gpu.gpu_memory_bytes < 512 * MIB
    assert on_processor.gpu_memory_bytes == 0
    assert 600 * MIB < on_processor.memory_bytes < 1024 * MIB


def test_one_who_requires_a_gpu_gets_nothing_else() -> None:
    """However long it waits."""
    alternatives = requirements(_video("h264_nvenc_mp4")).alternatives
    assert {frozenset(_encoders(a)) for a in alternatives} == {frozenset({AAC, NVENC})}
    required = requirements(_video(hardware="require")).alternatives
    assert [a.resources.encoder_sessions for a in required] == [1, 1]


def test_one_who_wants_no_gpu_need_not_wait_for_one() -> None:
    """The processor is open from the beginning."""
    alternatives = requirements(_video(hardware="never")).alternatives
    assert [(a.resources.cores, a.open_after_s, a.resources.encoder_sessions) for a in alternatives] == [
        (4, 0, 0),
        (2, 0, 0),
        (1, 0, 0),
    ]


def test_every_picture_takes_a_session() -> None:
    """Two renditions are two sessions and the memory of both; an audio file beside them is none."""
    first = requirements(_video("h264_mp4", "hevc_mp4", "aac_192")).alternatives[0]
    assert first.resources.encoder_sessions == 2
    assert _encoders(first) == {AAC, NVENC, frozenset({"encoder:hevc_nvenc"})}
    one = requirements(_video("hevc_mp4")).alternatives[0]
    assert first.resources.gpu_memory_bytes > one.resources.gpu_memory_bytes


def test_a_job_of_which_one_picture_needs_a_gpu_needs_it_altogether() -> None:
    """No way without a session remains."""
    alternatives = requirements(_video("h264_mp4", "h264_nvenc_mp4")).alternatives
    assert {a.resources.encoder_sessions for a in alternatives} == {2}


def test_larger_pictures_ask_for_more_memory() -> None:
    """By the profile's bound, and where it has none as for 4K."""
    asked = {
        height: requirements(_video(hardware="never", max_height=height)).alternatives[0].resources.memory_bytes
        for height in ("720", "1080", "2160")
    }
    assert asked["720"] < asked["1080"] < asked["2160"]


def test_the_grant_decides_which_encoders_may_be_used() -> None:
    """That a binary has NVENC is not enough, and with a GPU granted the processor does not encode."""
    spec = Catalog.shipped().profile("h264_mp4").document.video
    assert spec is not None
    assert usable_encoders(spec, hardware=True) == ("h264_nvenc",)
    assert usable_encoders(spec, hardware=False) == ("libx264",)
    required = Catalog.shipped().profile("h264_nvenc_mp4").document.video
    assert required is not None
    assert usable_encoders(required, hardware=False) == usable_encoders(required, hardware=True) == ("h264_nvenc",)
    assert encoder_for("p", ("h264_nvenc", "libx264"), GPU_BINARY) == "h264_nvenc"
    with pytest.raises(MediaFailure, match=r"p needs one of the encoders h264_nvenc, and FFmpeg 9\.0\.2 has none"):
        encoder_for("p", ("h264_nvenc",), BINARY)
