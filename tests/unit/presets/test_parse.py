"""Documents people write: what is accepted, and where a mistake is and what was expected."""

import pytest

from presets.document import PresetDocument, ProfileDocument
from presets.parse import InvalidDocument, parse, parse_preset, parse_profile

PRESET = """\
name = "voice_and_music"
version = 1
default_profile = "audio_only_master_v1"

[roles]
voice = { media = "audio", default = true }
music = { media = "audio", optional = true }

[parameters]
target_lufs = { type = "number", unit = "LUFS", default = -16, min = -31, max = -9 }
over_peaks = { type = "choice", choices = ["limit", "lower", "fail"], default = "limit" }

[chain.speech]
from = ["voice"]
steps = [{ op = "highpass", hz = 80 },
         { op = "channels", layout = "stereo" }]

[chain.bed]
from = ["music"]
when = { given = "music" }
steps = [{ op = "channels", layout = "stereo" }]

[chain.programme]
from = ["speech", "bed"]
steps = [
  { op = "mix", gains_db = { speech = 0, bed = -6 } },
  { op = "loudness", target_lufs = "$target_lufs", over_peaks = "$over_peaks" },
]

[[check]]
inputs = { voice = "synth:speech" }
parameters = { target_lufs = -20 }
expect = { integrated_lufs = [-20.2, -19.8] }
"""

PROFILE = """\
name = "aac_192"
version = 1
container = "mp4"
extension = "m4a"
[[stream]]
kind = "audio"
codec = "aac"
encoders = ["libfdk_aac", "aac"]
bitrate_kbps = 192
sample_rate_hz = 48000
layouts = ["mono", "stereo"]
[delivery]
ceiling_dbtp = -1.0
max_encodes = 3
"""


def _complaints(text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(InvalidDocument) as caught:
        parse(text)
    return [(c.line, c.field, c.message) for c in caught.value.complaints]


def test_a_preset_and_a_profile_are_told_apart() -> None:
    """A document with a container or a stream is a profile."""
    assert isinstance(parse(PRESET), PresetDocument)
    assert isinstance(parse(PROFILE), ProfileDocument)
    assert parse_preset(PRESET).full_name == "voice_and_music_v1"
    audio = parse_profile(PROFILE).audio
    assert audio is not None
    assert audio.bitrate_kbps == 192


#: (what is replaced, by what, the line complained of, its field, words of the message)
_PRESET_MISTAKES = [
    ('name = "voice_and_music"', "name = ", 1, "", "not TOML"),
    ('name = "voice_and_music"', 'name = "Voice Over"', 1, "name", "expected text like"),
    ("version = 1", "version = 0", 2, "version", "expected greater than or equal to 1"),
    ("version = 1", 'version = "1"', 2, "version", "expected a valid integer"),
    ("version = 1\n", "", 1, "version", "needed and absent"),
    ("version = 1", "version = 1\nvershun = 2", 3, "vershun", "did you mean version?"),
    ('"audio_only_master_v1"', '"audio_only_master"', 3, "default_profile", "expected text like"),
    ('music = { media = "audio"', 'music = { media = "sound"', 7, "roles.music.media", "expected 'audio'"),
    ("optional = true", "default = true", 7, "roles.music.default", "voice is it already"),
    ('type = "number"', 'type = "float"', 10, "parameters.target_lufs.type", "type must be one of 'number', 'integer'"),
    ('type = "number", ', "", 10, "parameters.target_lufs", "type is needed: number, integer"),
    ("default = -16", 'default = "-16"', 10, "parameters.target_lufs.default", "expected a valid number"),
    ("default = -16", "default = -8", 10, "parameters.target_lufs.default", "a number from -31 to -9 LUFS"),
    ("min = -31", "min = -3", 10, "parameters.target_lufs.min", "must not be above max"),
    ('default = "limit"', 'default = "lmit"', 11, "parameters.over_peaks.default", "one of limit, lower, fail"),
    ('from = ["voice"]', 'from = "voice"', 14, "chain.speech.from", "expected a valid"),
    ('from = ["voice"]', 'from = ["vice"]', 14, "chain.speech.from[0]", "did you mean voice"),
    ('from = ["voice"]', "from = []", 14, "chain.speech.from", "at least 1 item"),
    ('from = ["voice"]', 'from = ["voice", "voice"]', 14, "chain.speech.from[1]", "named twice"),
    ('from = ["voice"]', 'from = ["programme"]', 14, "chain.speech.from", "speech -> programme -> speech"),
    ("hz = 80", "hz = 8", 15, "chain.speech.steps[0].hz", "expected greater than or equal to 10"),
    ("hz = 80", 'hz = "80"', 15, "chain.speech.steps[0].hz", "expected a valid number"),
    ("hz = 80", "hertz = 80", 15, "chain.speech.steps[0].hertz", "highpass has no parameter 'hertz'"),
    (", hz = 80", "", 15, "chain.speech.steps[0].hz", "needed and absent"),
    ('op = "highpass", hz', "hz", 15, "chain.speech.steps[0].op", "a step needs op"),
    ('op = "highpass"', 'op = "hipass"', 15, "chain.speech.steps[0].op", "did you mean highpass or lowpass?"),
    (
        'layout = "stereo" }]\n\n[chain.bed]',
        'layout = "sterio" }]\n\n[chain.bed]',
        16,
        "chain.speech.steps[1].layout",
        "expected 'mono', 'stereo'",
    ),
    (
        'op = "channels", layout = "stereo" }]\n\n[chain.bed]',
        'op = "extract" }]\n\n[chain.bed]',
        16,
        "chain.speech.steps[1].op",
        "extract must be the first",
    ),
    ('given = "music"', 'given = "musik"', 20, "chain.bed.when.given", "did you mean music?"),
    ('given = "music"', 'givn = "music"', 20, "chain.bed.when", 'one of { given = "ROLE" }'),
    ('given = "music"', 'parameter = "over_peaks", is = 3', 20, "chain.bed.when.is", "one of limit, lower, fail"),
    (
        'given = "music"',
        'has = "pictures", role = "music"',
        20,
        "chain.bed.when.has",
        "expected 'audio', 'video' or 'picture'",
    ),
    ('"speech", "bed"]', '"speech"]', 23, "chain.programme", "exactly one chain may be the last"),
    (
        'op = "mix", gains_db = { speech = 0, bed = -6 }',
        'op = "conform"',
        26,
        "chain.programme.steps[0].op",
        "begin with mix",
    ),
    ("bed = -6", "bad = -6", 26, "chain.programme.steps[0]", "'bad' is not in this chain's from"),
    ("bed = -6", "bed = -600", 26, "chain.programme.steps[0].gains_db.bed", "greater than or equal to -90"),
    ('"$target_lufs"', '"$target"', 27, "chain.programme.steps[1].target_lufs", "there is no parameter 'target'"),
    ('"$target_lufs"', '"$over_peaks"', 27, "chain.programme.steps[1].target_lufs", "expected a valid number"),
    ("max = -9", "max = -2", 27, "chain.programme.steps[1].target_lufs", "target_lufs may be -2.0"),
    ('"lower", "fail"]', '"lowr", "fail"]', 27, "chain.programme.steps[1].over_peaks", "over_peaks may be 'lowr'"),
    (
        '{ op = "mix"',
        '{ op = "loudness", target_lufs = -16 },\n  { op = "mix"',
        26,
        "chain.programme.steps[0].op",
        "loudness must be the last step",
    ),
    ('voice = "synth:speech"', 'voise = "synth:speech"', 31, "check[0].inputs.voise", "did you mean voice"),
    ('voice = "synth:speech"', 'music = "synth:speech"', 31, "check[0].inputs", "the role voice needs an input"),
    ('"synth:speech"', '"speech.wav"', 31, "check[0].inputs.voice", "expected text like"),
    ("target_lufs = -20", "target_lufs = -40", 32, "check[0].parameters.target_lufs", "a number from -31 to -9"),
    ("integrated_lufs = [", "lufs = [", 33, "check[0].expect.lufs", "expected 'integrated_lufs'"),
    ("[-20.2, -19.8]", "[-20.2]", 33, "check[0].expect.integrated_lufs", "expected [lowest, highest]"),
    ("[-20.2, -19.8]", "[-19.8, -20.2]", 33, "check[0].expect.integrated_lufs", "expected [lowest, highest]"),
]


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "said"), _PRESET_MISTAKES, ids=[str(n) for n in range(len(_PRESET_MISTAKES))]
)
def test_a_mistake_in_a_preset_is_pointed_at(old: str, new: str, line: int, field: str, said: str) -> None:
    """Line, field and what was expected, also within lists of inline tables."""
    assert PRESET.count(old) >= 1
    found = _complaints(PRESET.replace(old, new, 1))
    assert any(found_line == line and f == field and said in message for found_line, f, message in found), found


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "said"),
    [
        ('container = "mp4"', 'container = "mp5"', 3, "container", "expected one of wav, mp4"),
        ('container = "mp4"', 'container = "wav"', 7, "stream[0].codec", "a wav file cannot hold aac"),
        ('extension = "m4a"', 'extension = "../x"', 4, "extension", "expected text like"),
        ('kind = "audio"', 'kind = "smell"', 6, "stream[0].kind", "kind must be one of 'audio', 'video'"),
        ('codec = "aac"', 'codec = "acc"', 7, "stream[0].codec", "not known"),
        ('"libfdk_aac"', '"lib;rm"', 8, "stream[0].encoders[0]", "expected text like"),
        ("bitrate_kbps = 192", "bitrate_kbps = 9999", 9, "stream[0].bitrate_kbps", "aac takes from 8 to 512 kbit/s"),
        ("bitrate_kbps = 192", "bits = 24", 9, "stream[0].bits", "aac has no bit depth"),
        ("bitrate_kbps = 192\n", "", 5, "stream[0].bitrate_kbps", "aac takes from 8 to 512 kbit/s"),
        ("sample_rate_hz = 48000", "sample_rate_hz = 47999", 10, "stream[0].sample_rate_hz", "aac needs a sample rate"),
        ('"mono", "stereo"', '"mono", "quod"', 11, "stream[0].layouts", "layout 'quod' is not known"),
        ("ceiling_dbtp = -1.0", "ceiling_dbtp = 1.0", 13, "delivery.ceiling_dbtp", "less than or equal to 0"),
        ("max_encodes = 3", "max_encodes = 0", 14, "delivery.max_encodes", "greater than or equal to 1"),
        ("max_encodes = 3", "max_encode = 3", 14, "delivery.max_encode", "not known"),
    ],
)
def test_a_mistake_in_a_profile_is_pointed_at(old: str, new: str, line: int, field: str, said: str) -> None:
    """Codecs, containers and rates that do not fit together are said, with what fits."""
    assert old in PROFILE
    found = _complaints(PROFILE.replace(old, new, 1))
    assert any(found_line == line and f == field and said in message for found_line, f, message in found), found


def test_all_mistakes_are_told_at_once_in_the_order_of_the_text() -> None:
    """Nobody repairs a document one complaint at a time."""
    text = PRESET.replace("hz = 80", "hz = 8").replace('"music"]', '"musik"]').replace("bed = -6", "bed = -600")
    assert [line for line, _, _ in _complaints(text)] == [7, 15, 19, 26]


def test_several_sources_need_a_step_that_joins_them() -> None:
    """A chain of two sources without steps has nothing that could make one of them."""
    text = PRESET[: PRESET.index("[chain.bed]")].replace('from = ["voice"]', 'from = ["voice", "music"]')
    text = text[: text.index("steps = ")]
    assert any("several sources need a first step" in message for _, _, message in _complaints(text))


def test_an_unfinished_text_is_complained_of_at_its_end() -> None:
    """A bracket that was never closed is noticed on the last line."""
    assert _complaints('name = "x"\nsteps = [\n')[0][0] == 3


def test_a_complaint_reads_as_a_sentence_with_its_place() -> None:
    """What the command line prints."""
    with pytest.raises(InvalidDocument) as caught:
        parse_preset(PRESET.replace("hz = 80", "hz = 8"))
    told = "line 15, column 29: chain.speech.steps[0].hz: expected greater than or equal to 10"
    assert str(caught.value) == told


VIDEO_PROFILE = """name = "small"
version = 1
container = "mp4"
extension = "mp4"
[[stream]]
kind = "video"
codec = "h264"
encoders = ["h264_nvenc", "libx264"]
hardware = "prefer"
quality = 23
max_height = 480
gop_s = 2
[[stream]]
kind = "audio"
codec = "aac"
encoders = ["aac"]
bitrate_kbps = 96
sample_rate_hz = 48000
layouts = ["stereo"]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "said"),
    [
        ('codec = "h264"', 'codec = "aac"', 7, "stream[0].codec", "'aac' is not known; expected one of h264, hevc"),
        ('codec = "h264"', 'codec = "hevc"', 8, "stream[0].encoders[0]", "is not known as an encoder of hevc"),
        ('"libx264"', '"libx265"', 8, "stream[0].encoders[1]", "expected one of h264_nvenc, libx264"),
        ('["h264_nvenc", "libx264"]', '["libx264"]', 9, "stream[0].hardware", '"prefer" needs among the encoders'),
        ('"prefer"', '"always"', 9, "stream[0].hardware", "expected 'prefer', 'require' or 'never'"),
        ("quality = 23", "quality = 60", 10, "stream[0].quality", "less than or equal to 40"),
        ("quality = 23", "bitrate_kbps = 2000", 10, "stream[0].bitrate_kbps", "not known"),
        ("max_height = 480", "max_height = 481", 11, "stream[0].max_height", "multiple of 2"),
        ("gop_s = 2", "gop_s = 0", 12, "stream[0].gop_s", "greater than or equal to 0.1"),
        ('kind = "audio"', "", 13, "stream[1]", "kind is needed: audio or video"),
        ('container = "mp4"', 'container = "ogg"', 7, "stream[0].codec", "an ogg file cannot hold h264"[3:]),
        (VIDEO_PROFILE[VIDEO_PROFILE.index("[[stream]]\nkind = \"audio\"") :],
         VIDEO_PROFILE[VIDEO_PROFILE.index("[[stream]]") : VIDEO_PROFILE.index("[[stream]]\nkind = \"audio\"")],
         14, "stream[1].kind", "there is a stream of video already"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_video_stream_is_pointed_at(old: str, new: str, line: int, field: str, said: str) -> None:
    """Encoders must make the codec, on what ``hardware`` says, and one stream of each kind is possible."""
    assert parse_profile(VIDEO_PROFILE).video is not None
    assert old in VIDEO_PROFILE
    found = _complaints(VIDEO_PROFILE.replace(old, new, 1))
    assert any(found_line == line and f == field and said in message for found_line, f, message in found), found


VIDEO_PRESET = """name = "film"
version = 1
default_profile = "h264_mp4_v1"
[roles]
film = { media = "video" }
voice = { media = "audio", optional = true }
[chain.picture]
media = "video"
from = ["film"]
[chain.sound]
from = ["film", "voice"]
steps = [{ op = "mix" }, { op = "loudness", target_lufs = -23 }]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "said"),
    [
        ('from = ["film"]', 'from = ["voice"]', 9, "chain.picture.from[0]", "the role voice is of audio"),
        ('from = ["film"]', 'from = ["film", "voice"]', 9, "chain.picture.from", "a chain of video takes one source"),
        ('from = ["film"]', 'from = ["sound"]', 9, "chain.picture.from[0]", "sound makes audio, and this chain"),
        ('["film", "voice"]', '["picture", "voice"]', 11, "chain.sound.from[0]", "picture makes video, and this chain"),
        ('from = ["film"]', 'from = ["film"]\nsteps = [{ op = "conform" }]', 10, "chain.picture.steps[0]", "no op"),
        ('media = "video" }', 'media = "video", repeat = true }', 9, "chain.picture.from[0]", "takes several inputs"),
        ('media = "video" }', 'media = "pictures" }', 5, "roles.film.media", "expected 'audio', 'video' or 'picture'"),
        ("[chain.picture]", '[chain.other]\nmedia = "video"\nfrom = ["film"]\n[chain.picture]', 10, "chain.picture",
         "exactly one chain may be the last"),
    ],
)  # fmt: skip
def test_a_chain_takes_and_makes_one_kind(old: str, new: str, line: int, field: str, said: str) -> None:
    """A picture comes from one input of a role of video; its sound goes through a chain of its own."""
    assert parse_preset(VIDEO_PRESET).chain["picture"].media == "video"
    assert old in VIDEO_PRESET
    found = _complaints(VIDEO_PRESET.replace(old, new, 1))
    assert any(found_line == line and f == field and said in message for found_line, f, message in found), found
