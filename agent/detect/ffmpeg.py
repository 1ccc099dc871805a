"""Which FFmpeg binaries there are, and what each was built with."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from agent.detect import trials
from agent.detect.command import Answer, ask
from agent.media.failure import quote
from mediactl.v1 import fleet_service_pb2
from presets.capabilities import binary as capability_of

#: Names of encoders, decoders and filters that need a device. Being built in proves nothing about the device, so they
#: count only where a trial worked.
_HARDWARE = re.compile(
    r"(^|_)(nvenc|nvdec|cuvid|cuda|npp|qsv|vaapi|amf|v4l2m2m|v4l2request|vulkan|opencl|videotoolbox|mediacodec|mf|omx"
    r"|rkmpp|d3d11va|d3d12va|oh|mmal|libplacebo)(_|$)"
)

#: Kinds of capability; with an `s` they are the options that list them, flags and a name on each line.
_KINDS = ("encoder", "decoder", "filter", "muxer")

_STARTS = 3


@dataclass(frozen=True, slots=True)
class Built:
    """A binary with the capabilities that being built in proves, and those that only a trial does (``unproved``).

    The latter are named as :mod:`agent.detect.trials` does.
    """

    binary: fleet_service_pb2.FfmpegBinary
    unproved: frozenset[str]


class CannotProbe(Exception):
    """A file that should be FFmpeg does not behave as such; the message says how."""


def find(configured: Sequence[str] = (), *, path: str | None = None, bundled: bool = True) -> list[str]:
    """FFmpeg binaries: the configured ones, ``ffmpeg`` on ``path`` (default: PATH), the one of imageio-ffmpeg.

    One file under several names is listed once, by its first name.
    """
    found: dict[str, str] = {}
    for name in (*configured, shutil.which("ffmpeg", path=path), _bundled() if bundled else None):
        if name:
            found.setdefault(os.path.realpath(name), name)
    return list(found.values())


def probe(path: str) -> Built:
    """Version, digest, start time and capabilities of a binary.

    :raises CannotProbe: it is not there, does not start or is not FFmpeg.
    """
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CannotProbe(f"{path} cannot be read: {error.strerror}") from error
    version, start_ms = _start(path)
    listed = {kind: frozenset(names(_list(path, kind))) for kind in _KINDS}
    capabilities = {
        f"{kind}:{name}" for kind, names_ in listed.items() for name in names_ if not _HARDWARE.search(name)
    }
    unproved = listed["encoder"] & set(trials.ENCODERS) | capabilities & {trials.VMAF}
    if "cuda" in _list(path, "hwaccel").split():
        unproved |= {trials.DECODING}
    binary = fleet_service_pb2.FfmpegBinary(
        path=path,
        version=version,
        sha256=digest,
        capabilities=sorted((capabilities - unproved) | {capability_of(digest)}),
        start_milliseconds=start_ms,
    )
    return Built(binary, unproved)


def names(listing: str) -> Iterator[str]:
    """The names in what ``-encoders``, ``-filters`` and the like print."""
    entries = iter(listing.splitlines())
    for line in entries:
        # FFmpeg 5.1 puts no dashes under the legend of -filters, whose lines hold an equals sign.
        if re.fullmatch(r"\s*-+\s*", line):
            break
        if (words := line.split()) and len(words) > 2 and "->" in words[2] and words[1] != "=":
            yield words[1]
            break
    for line in entries:
        words = line.split()
        if len(words) >= 2:
            yield from words[1].split(",")


def _list(path: str, kind: str) -> str:
    return _must(ask([path, "-hide_banner", f"-{kind}s"]), path)


def _start(path: str) -> tuple[str, float]:
    version, best_s = "", float("inf")
    for _ in range(_STARTS):
        started = time.perf_counter()
        banner = _must(ask([path, "-version"]), path)
        best_s = min(best_s, time.perf_counter() - started)
        match = re.match(r"ffmpeg version (\S+)", banner)
        if match is None:
            raise CannotProbe(f"{path} is not FFmpeg: it calls itself {banner[:40]!r}")
        # 5.1.9-0+deb12u1 and 9.0-static are 5.1.9 and 9.0; a git snapshot keeps its name.
        number = re.match(r"n?(\d+(?:\.\d+)+)", match[1])
        version = number[1] if number else match[1]
    return version, round(best_s * 1000, 1)


def _must(answer: Answer, path: str) -> str:
    if answer.code is None:
        raise CannotProbe(answer.stderr)
    if answer.code != 0:
        raise CannotProbe(f"{path} fails with exit code {answer.code}{quote(answer.stderr)}")
    return answer.stdout


def _bundled() -> str | None:
    if find_spec("imageio_ffmpeg") is None:
        return None
    import imageio_ffmpeg  # noqa: PLC0415 - an optional extra

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:  # a platform without a bundled binary
        return None
