"""Finding FFmpeg binaries and reading what they were built with."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.detect import ffmpeg, ffprobe

Imitation = Callable[..., str]


def test_probe(imitation: Imitation) -> None:
    """Version, digest, start time and capabilities; what only a trial can prove is left out and named apart."""
    path = imitation()
    built = ffmpeg.probe(path)
    binary = built.binary
    assert (binary.path, binary.version) == (path, "5.1.9")
    assert binary.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert binary.start_milliseconds > 0
    assert list(binary.capabilities) == [
        f"binary:{binary.sha256}",
        "decoder:h264",
        "encoder:aac",
        "encoder:libx264",
        "filter:abench",
        "filter:amix",
        "filter:ebur128",
        "muxer:alsa",
        "muxer:mp4",
        "muxer:wav",
    ]
    assert built.unproved == {"h264_nvenc", "hevc_nvenc", "hwaccel:cuda", "filter:libvmaf"}


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("9.0.2-static https://johnvansickle.com/ffmpeg/", "9.0.2"),
        ("n7.1", "7.1"),
        ("N-118193-g5f38c82536", "N-118193-g5f38c82536"),
        ("2026-01-01-git-abc", "2026-01-01-git-abc"),
    ],
)
def test_versions(imitation: Imitation, said: str, version: str) -> None:
    """Releases are told by their number, snapshots by their whole name."""
    assert ffmpeg.probe(imitation(version=said)).binary.version == version


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("#!/bin/sh\necho 'something else'", "is not FFmpeg"),
        ("#!/bin/sh\necho '[error] libavcodec.so.59: cannot open' >&2; exit 127", "libavcodec.so.59"),
        ("#!/nonexistent/interpreter", "cannot be started"),
    ],
)
def test_binary_that_does_not_run(tmp_path: Path, text: str | None, words: str) -> None:
    """A file that is absent, something else or broken is refused with the reason."""
    path = tmp_path / "ffmpeg"
    if text is not None:
        path.write_text(text)
        path.chmod(0o755)
    with pytest.raises(ffmpeg.CannotProbe, match=words):
        ffmpeg.probe(str(path))


def test_find_lists_a_file_once(imitation: Imitation, tmp_path: Path) -> None:
    """Configured binaries come first; a link to one already listed is no second one."""
    configured, on_path = imitation("configured"), imitation("path")
    link = tmp_path / "link"
    link.symlink_to(configured)
    found = ffmpeg.find([configured, str(link), "/nonexistent/ffmpeg"], path=str(Path(on_path).parent), bundled=False)
    assert found == [configured, "/nonexistent/ffmpeg", on_path]
    assert ffmpeg.find(path=str(tmp_path), bundled=False) == []


def test_find_ffprobe(imitation: Imitation, tmp_path: Path) -> None:
    """The ffprobe beside an FFmpeg is preferred to the one on PATH; a file that cannot be run is none."""
    beside = Path(imitation("one")).with_name("ffprobe")
    on_path = tmp_path / "bin" / "ffprobe"
    on_path.parent.mkdir()
    for path in (beside, on_path):
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    known = [str(beside.with_name("ffmpeg"))]
    assert ffprobe.find(known, path=str(on_path.parent)) == str(beside)
    beside.chmod(0o644)
    assert ffprobe.find(known, path=str(on_path.parent)) == str(on_path)
    assert ffprobe.find([], path=str(tmp_path)) == ""
