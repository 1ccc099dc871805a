"""Imitations of FFmpeg for the tests of detection."""

from collections.abc import Callable
from pathlib import Path

import pytest

_ENCODERS = """Encoders:
 V..... = Video
 ..S... = Slice-level multithreading
 ------
 V....D libx264              libx264 H.264 (codec h264)
 V....D h264_nvenc           NVIDIA NVENC H.264 encoder (codec h264)
 V....D hevc_nvenc           NVIDIA NVENC hevc encoder (codec hevc)
 V..... h264_vaapi           H.264/AVC (VAAPI) (codec h264)
 V..... h264_v4l2m2m         V4L2 mem2mem H.264 encoder wrapper (codec h264)
 V..... h264_qsv             H.264 (Intel Quick Sync Video acceleration) (codec h264)
 A....D aac                  AAC (Advanced Audio Coding)
"""
_DECODERS = """Decoders:
 V..... = Video
 ------
 VFS..D h264                 H.264
 V..... h264_cuvid           Nvidia CUVID H264 decoder (codec h264)
"""
# As FFmpeg 5.1 prints it: without dashes under the legend.
_FILTERS = """Filters:
  T.. = Timeline support
  A = Audio input/output
  | = Source or sink filter
 ... abench            A->A       Benchmark part of a filtergraph.
 T.C ebur128           A->N       EBU R128 scanner.
 ... scale_cuda        V->V       GPU accelerated video resizer
 ..C amix              N->A       Audio mixing.
 ..C libvmaf           VV->V      Calculate the VMAF between two video streams.
"""
_MUXERS = """Formats:
 D.. = Demuxing supported
 .E. = Muxing supported
 ---
  E  mp4             MP4 (MPEG-4 Part 14)
 DE  wav             WAV / WAVE (Waveform Audio)
  Ed alsa            ALSA audio output
"""

_HWACCELS = """Hardware acceleration methods:
vdpau
cuda
vaapi

"""

_SCRIPT = """#!/bin/sh
cd "$(dirname "$0")" || exit 9
echo "$*" >> calls
case "$*" in
-version) echo 'ffmpeg version {version} Copyright (c) 2000-2026 the FFmpeg developers' ;;
*-encoders) cat encoders ;;
*-decoders) cat decoders ;;
*-filters) cat filters ;;
*-muxers) cat muxers ;;
*-hwaccels) cat hwaccels ;;
*"-hwaccel cuda"*) {decoding} ;;
*libvmaf*) {vmaf} ;;
*_nvenc*) {trial} ;;
*) exit 8 ;;
esac
"""

NO_CUDA = "echo '[h264_nvenc @ 0x55] [error] Cannot load libcuda.so.1' >&2; exit 1"


@pytest.fixture
def imitation(tmp_path: Path) -> Callable[..., str]:
    """Makes a program that answers like FFmpeg; ``trial`` is what it does with an NVENC encode, and so on."""

    def make(
        name: str = "one",
        *,
        version: str = "5.1.9-0+deb12u1",
        trial: str = NO_CUDA,
        decoding: str = "exit 0",
        vmaf: str = "exit 0",
    ) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        listings = {
            "encoders": _ENCODERS,
            "decoders": _DECODERS,
            "filters": _FILTERS,
            "muxers": _MUXERS,
            "hwaccels": _HWACCELS,
        }
        for listing, text in listings.items():
            (folder / listing).write_text(text)
        program = folder / "ffmpeg"
        program.write_text(_SCRIPT.format(version=version, trial=trial, decoding=decoding, vmaf=vmaf))
        program.chmod(0o755)
        return str(program)

    return make
