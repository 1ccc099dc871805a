"""FFmpeg's names of layouts, and what profiles may ask of codecs."""

import pytest

from presets.catalog import Catalog
from presets.formats import CODECS, LAYOUTS, layout_of, stated_layout
from presets.problems import InvalidRequest


@pytest.mark.parametrize(
    ("stated", "channels", "name"),
    [
        ("5.1(side)", 6, "5.1"),
        ("5.1", 6, "5.1"),
        ("quad(side)", 4, "quad"),
        ("downmix", 2, "stereo"),
        ("1 channels (FL)", 1, "mono"),
        (None, 1, "mono"),
        (None, 2, "stereo"),
        (None, 4, "4.0"),
        (None, 6, "5.1"),
        (None, 17, None),
        # Not the same loudspeakers as the layout of that name without brackets.
        ("3.0(back)", 3, None),
        ("7.1(wide)", 8, None),
        ("hexagonal", 6, None),
        ("5.1", 8, None),
    ],
)
def test_a_layout_is_named_by_its_loudspeakers(stated: str | None, channels: int, name: str | None) -> None:
    """Surrounds at the sides or at the back are the same; a layout that was not stated is FFmpeg's for the count."""
    assert layout_of(stated, channels) == name


def test_what_was_not_stated_is_what_ffmpeg_takes_it_for() -> None:
    """Its defaults for one to eight channels."""
    guessed = [stated_layout(None, count) for count in range(1, 9)]
    assert guessed == ["mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1"]
    assert stated_layout("5.1(side)", 6) == "5.1(side)"


def test_codecs_take_layouts_there_are() -> None:
    """Every codec takes mono and stereo."""
    for codec in CODECS.values():
        assert {"mono", "stereo"} <= codec.layouts <= set(LAYOUTS)


@pytest.mark.parametrize(
    ("profile", "overrides", "said"),
    [
        ("mp3_vbr", {"vbr_quality": 10}, "mp3 takes from 0 to 9"),
        ("mp3_vbr", {"bitrate_kbps": 192}, "vbr_quality stands in its place"),
        ("aac_192", {"vbr_quality": 2}, "aac has none: say bitrate_kbps"),
        ("flac", {"vbr_quality": 2}, "flac has none"),
        ("ac3_192", {"bitrate_kbps": 1000}, "ac3 takes from 32 to 640 kbit/s"),
        ("ac3_192", {"sample_rate_hz": 96_000}, "ac3 needs a sample rate of 32000, 44100, 48000"),
        # Its files would say 48000 all the same.
        ("opus_96", {"sample_rate_hz": 24_000}, "opus needs a sample rate of 48000"),
        ("wav_16", {"bits": 24}, "pcm_s16le takes 16 bits"),
    ],
)
def test_an_override_that_a_codec_does_not_take_is_refused(profile: str, overrides: dict[str, int], said: str) -> None:
    """In words that say what it takes."""
    with pytest.raises(InvalidRequest, match=said):
        Catalog.shipped().profile(profile).overridden(overrides)


def test_overrides_reach_what_has_no_profile_of_its_own() -> None:
    """Rates, depths and bit rates between the shipped names."""
    shipped = Catalog.shipped()
    made = shipped.profile("wav_16").overridden({"sample_rate_hz": 48_000}).document.audio
    assert made is not None
    assert (made.sample_rate_hz, made.bits) == (48_000, 16)
    made = shipped.profile("alac").overridden({"bits": 16, "sample_rate_hz": 44_100}).document.audio
    assert made is not None
    assert (made.sample_rate_hz, made.bits) == (44_100, 16)
    made = shipped.profile("aac_192").overridden({"bitrate_kbps": 96, "sample_rate_hz": 44_100}).document.audio
    assert made is not None
    assert made.bitrate_kbps == 96
