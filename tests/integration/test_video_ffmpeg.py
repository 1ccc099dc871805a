"""Pictures through the real FFmpeg, every one that this machine has, judged by ffprobe, pixels, PSNR and hashes."""

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import imageio_ffmpeg
import pytest

from presets.capabilities import Binary
from presets.catalog import Catalog
from presets.compile import compile as compile_plan
from presets.intent import Intent, resolve
from presets.problems import MediaFailure
from presets.reasons import TABLE, Reason
from presets.uris import path_to_uri
from tests.fakes.plans import carry_out, probe
from tests.fakes.synth import cut, synthesise

#: What the colours of `synth:quarters` are, by row.
QUARTERS = [["red", "green"], ["blue", "yellow"]]


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("synthetic")


def _intent(source: Path, profile: str = "h264_mp4", overrides: Mapping[str, str] | None = None) -> Intent:
    return resolve(
        Catalog.shipped(),
        inputs=[("", path_to_uri(str(source)))],
        preset="video_convert",
        params={f"profile.{key}": value for key, value in (overrides or {}).items()},
        outputs=[(profile, "file:///published/film.mp4")],
    )


def _ffmpeg(*arguments: str | Path) -> str:
    """The log of another FFmpeg run: the bundled one, which is no part of what is tested here."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stderr


def _frames(path: Path) -> list[dict[str, str]]:
    """What ffprobe says of every frame of the picture, in order of showing."""
    entries = ["-show_entries", "frame=pts_time,key_frame", "-of", "json", str(path)]
    said = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "v:0", *entries], capture_output=True, text=True, check=True
    )
    found: list[dict[str, str]] = json.loads(said.stdout)["frames"]
    return found


def _times(path: Path) -> list[float]:
    """When each frame is shown, from the first one on."""
    times = [float(frame["pts_time"]) for frame in _frames(path)]
    return [time - times[0] for time in times]


def _colour(path: Path, x: float, y: float) -> str:
    """Of a pixel of the first frame; x and y are shares of width and height."""
    [stream] = probe(path).video
    found = subprocess.run(
        [
            *("ffmpeg", "-v", "error", "-noautorotate", "-i", str(path), "-frames:v", "1"),
            *("-pix_fmt", "rgb24", "-f", "rawvideo", "-"),
        ],
        capture_output=True,
        check=True,
    ).stdout
    at = (int(y * stream.height) * stream.width + int(x * stream.width)) * 3
    red, green, blue = (value > 128 for value in found[at : at + 3])
    named = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (1, 1, 0): "yellow"}
    return named.get((red, green, blue), f"{red} {green} {blue}")


def _psnr(made: Path, source: Path, how: str = "null") -> float:
    """Frame by frame, in dB; ``how`` is the filter that brings the source to the size it should have."""
    graph = f"[0:v:0]setpts=N/25/TB[a];[1:v:0]{how},format=yuv420p,setsar=1,setpts=N/25/TB[b];[a][b]psnr"
    found = re.search(
        r"PSNR .*average:([\d.]+|inf)", _ffmpeg("-i", made, "-i", source, "-lavfi", graph, "-f", "null", "-")
    )
    assert found
    return float(found[1])


@pytest.mark.parametrize(("degrees", "flip"), [(0, False), (90, False), (180, False), (270, False), (90, True)])
def test_a_picture_stored_turned_is_delivered_upright(
    degrees: int, flip: bool, binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """Each colour is in the corner where a player that knows display matrices shows it, in the right shape."""
    source = tmp_path / "turned.mp4"
    flipped = ["-display_hflip"] if flip else []
    _ffmpeg(
        "-display_rotation", str(degrees), *flipped, "-i", synthesise("quarters", synthetic), "-c", "copy", source
    )  # fmt: skip
    expected = QUARTERS
    for _ in range(degrees // 90):  # a quarter turn against the clock
        expected = [[row[column] for row in expected] for column in (1, 0)]
    if flip:  # the matrix flips what it has turned
        expected = [row[::-1] for row in expected]
    done = carry_out(_intent(source), [source], binary, tmp_path / "w")
    [shown] = probe(done.path).video
    assert (shown.width, shown.height) == ((180, 320) if degrees % 180 else (320, 180))
    assert (shown.rotation_deg, shown.pixel_aspect) == (0, 1.0)
    assert [[_colour(done.path, x, y) for x in (0.25, 0.75)] for y in (0.25, 0.75)] == expected


@pytest.mark.parametrize(
    ("name", "size", "how"),
    [
        ("video_with_speech", (192, 108), "null"),
        ("odd_size", (320, 180), "scale=320:180"),
        ("anamorphic", (256, 144), "scale=256:144"),
    ],
)
def test_the_picture_is_the_source_s(
    name: str, size: tuple[int, int], how: str, binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """Frame by frame, with square pixels, even sides and 4:2:0."""
    source = synthesise(name, synthetic)
    done = carry_out(_intent(source), [source], binary, tmp_path / "w")
    [shown] = probe(done.path).video
    assert (shown.width, shown.height, shown.pixel_aspect, shown.pixel_format) == (*size, 1.0, "yuv420p")
    assert _psnr(done.path, source, how) > 32
    assert _times(done.path) == pytest.approx(_times(source), abs=0.0005)


def test_a_larger_picture_is_scaled_down_and_a_smaller_one_left(
    binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """``max_height`` is a bound, never a size."""
    source = synthesise("video_with_speech", synthetic)
    for height, size in (("72", (128, 72)), ("480", (192, 108))):
        done = carry_out(_intent(source, overrides={"max_height": height}), [source], binary, tmp_path / height)
        [shown] = probe(done.path).video
        assert (shown.width, shown.height) == size


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_frames_keep_their_moments_at_a_varying_rate(
    extension: str, binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """None is doubled, dropped or moved; what MKV rounds to a millisecond may be put right by as much."""
    source = tmp_path / f"source.{extension}"
    _ffmpeg("-i", synthesise("varying_rate", synthetic), "-c", "copy", source)
    done = carry_out(_intent(source), [source], binary, tmp_path / "w")
    before, after = _times(source), _times(done.path)
    assert max(b - a for a, b in pairwise(before)) > 1
    assert after == pytest.approx(before, abs=0.0005 if extension == "mp4" else 0.0012)


def test_sound_and_picture_keep_step(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Sound that begins two seconds into the source begins two seconds into the output."""
    source = synthesise("late_audio", synthetic)
    done = carry_out(_intent(source), [source], binary, tmp_path / "w")
    log = _ffmpeg("-i", done.path, "-map", "0:a:0", "-af", "silencedetect=n=-50dB:d=0.5", "-f", "null", "-")
    begins = re.search(r"silence_end: ([\d.]+)", log)
    assert begins
    assert float(begins[1]) == pytest.approx(2, abs=0.05)
    assert len(_frames(done.path)) == 150


def test_a_film_without_sound_has_none_afterwards(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """And no silence in its place."""
    source = synthesise("video_only", synthetic)
    done = carry_out(_intent(source), [source], binary, tmp_path / "w")
    facts = probe(done.path)
    assert (len(facts.video), len(facts.streams)) == (1, 1)


def test_a_file_that_does_not_tell_its_duration_comes_through(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """As recorders on the web write it."""
    source = synthesise("no_duration", synthetic)
    assert probe(source).duration_s is None
    done = carry_out(_intent(source), [source], binary, tmp_path / "w")
    assert len(_frames(done.path)) == 48
    assert probe(done.path).duration_s == pytest.approx(2, abs=0.1)


def test_a_still_beside_the_film_is_not_the_film(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Though it is the first stream, and not marked as a cover."""
    source = synthesise("still_before_video", synthetic)
    done = carry_out(_intent(source), [source], binary, tmp_path / "w")
    [shown] = probe(done.path).video
    assert (shown.width, shown.height) == (320, 180)


@pytest.mark.parametrize(
    ("name", "luma"),
    [("full_range", 235), ("rgb", 63)],  # white is 255 in full range; red is 63 by BT.709, 82 by BT.601
)
def test_colours_stay_what_they_are(name: str, luma: int, binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Levels and matrix are those of television, and the file says so."""
    source = synthesise(name, synthetic)
    done = carry_out(_intent(source), [source], binary, tmp_path / "w")
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(done.path), "-frames:v", "1", "-f", "rawvideo", "-"],
        capture_output=True,
        check=True,
    ).stdout
    assert raw[0] == pytest.approx(luma, abs=2)
    entries = ["-show_entries", "stream=color_range,color_space", "-of", "csv=p=0"]
    said = subprocess.run(
        ["ffprobe", "-v", "error", *entries, str(done.path)], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip().split(",")[0] == "tv"
    if name == "rgb":
        assert said.stdout.strip().split(",")[1] == "bt709"


def test_fields_become_frames(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Of a stream that says it is interlaced no combs are left, and a frame is a frame."""
    source = synthesise("interlaced", synthetic)
    assert probe(source).video[0].field_order == "tt"
    done = carry_out(_intent(source), [source], binary, tmp_path / "w")
    assert any(d.subject == "h264_mp4: deinterlacing" for d in done.plan.decisions)
    [shown] = probe(done.path).video
    assert (shown.width, shown.height) == (768, 576)
    assert len(_frames(done.path)) == len(_frames(source))

    def progressive(path: Path) -> float:
        log = _ffmpeg("-i", path, "-map", "0:v:0", "-vf", "idet", "-f", "null", "-")
        # A graph that is thrown away before the first frame reports too.
        *_, found = re.findall(r"Multi frame detection: TFF:\s*(\d+) BFF:\s*(\d+) Progressive:\s*(\d+)", log)
        top, bottom, frames = map(int, found)
        return frames / (top + bottom + frames)

    assert progressive(source) < 0.2
    assert progressive(done.path) > 0.8


def test_key_frames_come_as_often_as_the_profile_says(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Every second here, to seek and to cut at."""
    source = synthesise("video_with_speech", synthetic)
    done = carry_out(_intent(source, overrides={"gop_s": "1"}), [source], binary, tmp_path / "w")
    keys = [float(frame["pts_time"]) for frame in _frames(done.path) if int(frame["key_frame"])]
    assert keys[0] == pytest.approx(0, abs=0.001)
    assert len(keys) >= 12
    assert max(b - a for a, b in pairwise(keys)) <= 1.001


@pytest.mark.parametrize("profile", ["h264_mp4", "hevc_mp4"])
def test_the_same_plan_run_twice_gives_the_same_bytes(
    profile: str, binary: Binary, synthetic: Path, tmp_path: Path
) -> None:
    """On one core: of pictures this small x264 makes something else now and then with two. HEVC is called hvc1."""
    source = synthesise("video_with_speech", synthetic)
    runs = [carry_out(_intent(source, profile), [source], binary, tmp_path / name) for name in ("a", "b")]
    assert len({hashlib.sha256(run.path.read_bytes()).hexdigest() for run in runs}) == 1
    assert (b"hvc1" in runs[0].path.read_bytes()) is (profile == "hevc_mp4")


@pytest.mark.parametrize("profile", ["h264_mp4", "hevc_mp4"])
def test_every_option_for_nvenc_is_one_it_knows(profile: str, binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Options are read before the device is opened: on a machine without one only that is complained of."""
    source = synthesise("varying_rate", synthetic)
    intent = _intent(source, profile)
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "0").symlink_to(source)
    step = compile_plan(intent, [probe(source)], binary, {}, gpu=0).next({})
    assert step is not None
    assert "-gpu" in step.argv
    ran = subprocess.run(
        [binary.path, *step.argv], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    said = [line for line in ran.stderr.splitlines() if "[error]" in line or "[fatal]" in line]
    assert ran.returncode == 0 or re.search(r"Cannot load lib|No capable devices|CUDA_ERROR|driver", said[0]), said


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cover_art", Reason.INPUT_NO_VIDEO),
        ("speech", Reason.INPUT_NO_VIDEO),
    ],
)
def test_what_is_no_film_is_refused(name: str, reason: Reason, binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """A cover picture is none."""
    source = synthesise(name, synthetic)
    with pytest.raises(MediaFailure) as caught:
        carry_out(_intent(source), [source], binary, tmp_path / "w")
    assert caught.value.reason is reason


def test_a_film_cut_short_is_refused(binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Though its index declares all of it, and FFmpeg may end with status 0."""
    source = cut(synthesise("video_with_speech", synthetic), 0.6)
    with pytest.raises(MediaFailure) as caught:
        carry_out(_intent(source), [source], binary, tmp_path / "w")
    assert caught.value.reason is Reason.INPUT_TRUNCATED


@pytest.mark.parametrize("damage", ["zeros", "noise"])
def test_a_film_with_damaged_frames_is_refused(damage: str, binary: Binary, synthetic: Path, tmp_path: Path) -> None:
    """Rather than delivered with grey blocks."""
    whole = bytearray(synthesise("video_with_speech", synthetic).read_bytes())
    first = whole.index(b"mdat") + 4
    if damage == "zeros":
        whole[first:] = bytes(len(whole) - first)
    else:
        for at in range(first + 2000, len(whole), 997):
            whole[at] ^= 0xFF
    source = tmp_path / "damaged.mp4"
    source.write_bytes(whole)
    with pytest.raises(MediaFailure) as caught:
        carry_out(_intent(source), [source], binary, tmp_path / "w")
    assert caught.value.reason is Reason.INPUT_CORRUPT


#: What the corpus's clips without a usable picture end as; every other one gives a verified output.
_FAILURES = {
    **dict.fromkeys(("hdr-hlg10.mp4", "hdr10-in-sdr-container.mp4", "edit-list.mp4"), Reason.UNSUPPORTED_COMBINATION),
    **dict.fromkeys(("alac.mka", "music-sugar-plum.ogg", "pcm-f64.wav"), Reason.INPUT_NO_VIDEO),
    **dict.fromkeys(("speech-2.ogg", "speech-austen.ogg", "truncated-after-moov.m4b"), Reason.INPUT_NO_VIDEO),
    **dict.fromkeys(("DancingScript-Regular.ttf", "friday.vtt", "zero-frame.ts"), Reason.INPUT_CORRUPT),
}


def test_every_clip_gives_a_verified_film_or_a_permanent_failure(
    corpus_clip: Path, binary: Binary, tmp_path: Path
) -> None:
    """No clip hangs or leaves it open what is wrong with it; those that come through keep every frame."""
    if corpus_clip.name.startswith("long-"):
        pytest.skip("six minutes take too long for what they show")
    intent = _intent(corpus_clip, overrides={"max_height": "180"})
    expected = _FAILURES.get(corpus_clip.name)
    if expected is not None:
        with pytest.raises(MediaFailure) as caught:
            carry_out(intent, [corpus_clip], binary, tmp_path / "w")
        assert caught.value.reason is expected
        assert not TABLE[expected].retryable
        return
    done = carry_out(intent, [corpus_clip], binary, tmp_path / "w")
    [shown] = probe(done.path).video
    assert min(shown.width, shown.height) <= 180
    assert (len(probe(done.path).audio) > 0) is (len(probe(corpus_clip).audio) > 0)
    picture = done.plan.outputs[0].picture
    assert picture is not None
    # FFmpeg 9 gives out no frame of an open group that lacks its beginning, FFmpeg 5.1 does.
    lost = 2 if corpus_clip.name == "no-keyframe.ts" else 0
    assert len(_frames(corpus_clip)) - (picture.frames or 0) in {0, lost}
