"""FFmpeg's video encoders that presets may use: what they make, on what, and how they are asked for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: The longest distance between key frames that is never reached, since they are forced by time: frames.
_NO_LIMIT = 100_000

#: NVENC refuses smaller pictures; the exact number depends on codec and GPU. Pixels, both ways.
_NVENC_LEAST = 146

#: The largest width or height of pictures, in pixels.
_LARGEST = 16_384
_NVENC_LARGEST: Mapping[str, int] = MappingProxyType({"h264": 4096, "hevc": 8192})


@dataclass(frozen=True, slots=True)
class VideoEncoder:
    """One of FFmpeg's encoders.

    ``hardware``: it takes a session on a GPU. ``quality_option`` takes the profile's number of constant quality as it
    is: at the same one libx265 gives the VMAF of libx264 within 0.5; NVENC's scale is meant to be the same, and was not
    compared. ``least`` and ``most`` bound the width and height it takes.
    """

    codec: str
    hardware: bool
    quality_option: str
    fixed: Mapping[str, str]
    least: int = 2
    most: int = _LARGEST

    def takes(self, width: int, height: int) -> bool:
        """Whether it encodes pictures of this size, in pixels."""
        return self.least <= min(width, height) and max(width, height) <= self.most

    def options(self, *, quality: int, threads: int, gpu: int | None) -> dict[str, str]:
        """The encoder's own options, without its name; ``gpu`` is the device it is pinned to."""
        pools = {"x265-params": f"open-gop=0:pools={threads}"} if self.codec == "hevc" and not self.hardware else {}
        return {
            **self.fixed,
            **pools,
            self.quality_option: str(quality),
            "g": str(_NO_LIMIT),
            "flags:v": "+bitexact+cgop",
            **({"gpu": str(gpu)} if self.hardware and gpu is not None else {}),
        }


def _nvenc(codec: str, profile: str) -> VideoEncoder:
    options = {"preset": "p5", "tune": "hq", "rc": "vbr", "b:v": "0", "profile:v": profile, "forced-idr": "1"}
    return VideoEncoder(codec, True, "cq", MappingProxyType(options), _NVENC_LEAST, _NVENC_LARGEST[codec])


def _software(codec: str, profile: str) -> VideoEncoder:
    options = {"preset": "medium", "profile:v": profile}
    return VideoEncoder(codec, False, "crf", MappingProxyType(options))


VIDEO_ENCODERS: Mapping[str, VideoEncoder] = MappingProxyType(
    {
        "libx264": _software("h264", "high"),
        "libx265": _software("hevc", "main"),
        "h264_nvenc": _nvenc("h264", "high"),
        "hevc_nvenc": _nvenc("hevc", "main"),
    }
)

#: The codecs there is an encoder for.
VIDEO_CODECS: tuple[str, ...] = tuple(dict.fromkeys(encoder.codec for encoder in VIDEO_ENCODERS.values()))
