"""What detection found, as findings for a person: what works, what is missing, what for, and how to get it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mediactl.v1 import fleet_service_pb2

_LOW_SCRATCH_BYTES = 10 * 1024**3
_STATIC = "pip install 'mediactl[static-ffmpeg]'"
_FULL = f"apt-get install ffmpeg, or {_STATIC}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the machine: whether it is well, in words, and what to do where it is not (else empty)."""

    subject: str
    ok: bool
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Part:
    """Something that an FFmpeg binary may have been built with."""

    capability: str
    needed_for: str
    remedy: str
    instead: str = ""  # a capability that does as well


_PARTS = (
    _Part("encoder:libfdk_aac", "AAC audio", f"{_FULL} (their own AAC encoder does as well)", instead="encoder:aac"),
    _Part("encoder:libmp3lame", "MP3 audio", _FULL),
    _Part("encoder:libopus", "Opus audio", _FULL),
    _Part("encoder:flac", "FLAC audio", _FULL),
    _Part("encoder:libx264", "H.264 video without a GPU", _FULL),
    _Part("encoder:libx265", "H.265 video without a GPU", _FULL),
    _Part("encoder:libsvtav1", "AV1 video without a GPU", _FULL),
    _Part("filter:libvmaf", "measuring picture quality (VMAF)", _STATIC),
)


def missing_advice(capabilities: fleet_service_pb2.Capabilities) -> list[Finding]:
    """Findings on what :func:`agent.detect.detect` found, the indispensable first."""
    return [
        _machine(capabilities),
        *_ffmpeg(capabilities),
        _ffprobe(capabilities),
        *(_part(part, capabilities) for part in _PARTS),
        _nvenc(capabilities),
        _scratch(capabilities),
        *_media_roots(capabilities),
    ]


def _machine(capabilities: fleet_service_pb2.Capabilities) -> Finding:
    detail = (
        f"{capabilities.platform}, {capabilities.cores} cores, {_gibibytes(capabilities.memory_bytes)} memory, "
        f"up to {capabilities.max_tasks} tasks at once"
    )
    return Finding("machine", True, detail, "")


def _ffmpeg(capabilities: fleet_service_pb2.Capabilities) -> Iterator[Finding]:
    running = [binary for binary in capabilities.binaries if binary.version]
    if running:
        detail = ", ".join(f"{b.version} ({b.path}, starts in {b.start_milliseconds:.0f} ms)" for b in running)
        yield Finding("ffmpeg", True, detail, "")
    else:
        yield Finding("ffmpeg", False, "not found; nothing can be processed without it", _FULL)
    for binary in capabilities.binaries:
        if not binary.version:
            said = "; ".join(trial.message for trial in binary.trials)
            yield Finding("ffmpeg", False, said, f"repair {binary.path}, or take it out of the agent's settings")


def _ffprobe(capabilities: fleet_service_pb2.Capabilities) -> Finding:
    if capabilities.ffprobe_path:
        return Finding("ffprobe", True, capabilities.ffprobe_path, "")
    return Finding("ffprobe", False, "not found; inputs cannot be examined without it", "apt-get install ffmpeg")


def _part(part: _Part, capabilities: fleet_service_pb2.Capabilities) -> Finding:
    name = part.capability.partition(":")[2]
    if found := _having(part.capability, capabilities):
        return Finding(name, True, f"{part.needed_for}: in {found}", "")
    if part.instead and (found := _having(part.instead, capabilities)):
        instead = part.instead.partition(":")[2]
        return Finding(name, True, f"{part.needed_for}: not there, which is fine; {instead} of {found} is used", "")
    return Finding(name, False, f"not there; needed for {part.needed_for}", part.remedy)


def _having(capability: str, capabilities: fleet_service_pb2.Capabilities) -> str:
    return ", ".join(f"ffmpeg {b.version}" for b in capabilities.binaries if b.version and capability in b.capabilities)


def _nvenc(capabilities: fleet_service_pb2.Capabilities) -> Finding:
    trials = [(binary, trial) for binary in capabilities.binaries if binary.version for trial in binary.trials]
    proved = [
        f"{trial.encoder} on {trial.device} with ffmpeg {binary.version}" for binary, trial in trials if trial.works
    ]
    if proved:
        return Finding("nvenc", True, f"proved by trial encodes: {', '.join(proved)}", "")
    words = "encoding video on an NVIDIA GPU does not work"
    if not capabilities.gpus:
        reasons = [capabilities.gpu_message, *dict.fromkeys(trial.message for _, trial in trials)]
        remedy = "where this machine has an NVIDIA GPU: apt-get install nvidia-driver, then reboot; else nothing"
        return Finding("nvenc", False, f"{words}: {'; '.join(filter(None, reasons))}", remedy)
    if not trials:
        return Finding("nvenc", False, f"{words}: no FFmpeg here was built with NVENC", _FULL)
    said = "; ".join(f"{t.encoder} on {t.device}, ffmpeg {b.version}: {t.message}" for b, t in trials)
    remedy = "see what FFmpeg says: a newer driver, or a GPU that has encoders (A100, H100 and their like have none)"
    return Finding("nvenc", False, f"{words}: {said}", remedy)


def _scratch(capabilities: fleet_service_pb2.Capabilities) -> Finding:
    disk = next((disk for disk in capabilities.disks if disk.purpose == "scratch"), None)
    if disk is None:
        return Finding(
            "scratch space", False, "the scratch folder cannot be looked at", "choose one the agent may write to"
        )
    detail = f"{_gibibytes(disk.free_bytes)} free of {_gibibytes(disk.total_bytes)} at {disk.path}"
    if disk.free_bytes < _LOW_SCRATCH_BYTES:
        remedy = (
            f"free some, or choose a scratch folder on a volume with at least {_gibibytes(_LOW_SCRATCH_BYTES)} free"
        )
        return Finding("scratch space", False, f"low: {detail}", remedy)
    return Finding("scratch space", True, detail, "")


def _media_roots(capabilities: fleet_service_pb2.Capabilities) -> Iterator[Finding]:
    if not capabilities.media_roots:
        detail = "none: no file: URI can be read or written"
        yield Finding("media roots", False, detail, "name the folders that jobs may use in the agent's settings")
    for root in capabilities.media_roots:
        if any(disk.purpose == "media" and Path(disk.path) == Path(root) for disk in capabilities.disks):
            yield Finding("media roots", True, root, "")
        else:
            yield Finding("media roots", False, f"{root} cannot be looked at", "create or mount it, or take it out")


def _gibibytes(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"
