"""What detection found, as findings for a person: what works, what is missing, what for, and how to get it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.detect import trials
from mediactl.v1 import fleet_service_pb2
from presets.capabilities import tried

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


#: What to do about a trial that failed, by words of its message.
_GPU_REMEDIES = (
    (trials.BUSY, "nothing: it is tried again in minutes; or end the other programs that use the GPU"),
    ("has no encoder", "nothing: A100, H100 and their like have none; video is encoded on other GPUs or the processor"),
    ("cannot encode this", "nothing: GPUs of this generation lack this encoder"),
    ("too old", f"install the driver that FFmpeg asks for, or an FFmpeg that asks for less: {_FULL}"),
    (
        "not whole",
        "install the driver with its encoding library (libnvidia-encode1); for a container set "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility,video",
    ),
)
_OTHER_GPU_REMEDY = "see what FFmpeg, nvidia-smi and dmesg say; restarting the machine brings back a GPU that was lost"


def missing_advice(capabilities: fleet_service_pb2.Capabilities) -> list[Finding]:
    """Findings on what :func:`agent.detect.detect` found, the indispensable first."""
    return [
        _machine(capabilities),
        *_ffmpeg(capabilities),
        _ffprobe(capabilities),
        *(_part(part, capabilities) for part in _PARTS),
        *_nvenc(capabilities),
        *_decoding(capabilities),
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
    failed = [
        trial.message for b in capabilities.binaries for trial in b.trials if tried(trial.encoder) == part.capability
    ]
    trouble = f"does not work ({'; '.join(failed)})" if failed else "not there"
    return Finding(name, False, f"{trouble}; needed for {part.needed_for}", part.remedy)


def _having(capability: str, capabilities: fleet_service_pb2.Capabilities) -> str:
    return ", ".join(f"ffmpeg {b.version}" for b in capabilities.binaries if b.version and capability in b.capabilities)


def _nvenc(capabilities: fleet_service_pb2.Capabilities) -> Iterator[Finding]:
    used = _trials(capabilities, *trials.ENCODERS)
    proved: dict[str, list[str]] = {}
    for binary, trial in used:
        if trial.works:
            proved.setdefault(_where(trial, binary), []).append(trial.encoder)
    words = "encoding video on an NVIDIA GPU does not work"
    if proved:
        detail = "proved by trial encodes: " + "; ".join(f"{', '.join(names)} {at}" for at, names in proved.items())
        sessions = [f"{gpu.encoder_sessions} on gpu {gpu.index}" for gpu in capabilities.gpus if gpu.encoder_sessions]
        if sessions:
            yield Finding("nvenc", True, f"{detail}; encoder sessions at once: {', '.join(sessions)}", "")
        else:
            remedy = "let the agent see its GPUs, in a container by NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
            unseen = f"{detail}, but no GPU is seen whose sessions could be counted: {capabilities.gpu_message}"
            yield Finding("nvenc", False, unseen, remedy)
    elif not capabilities.gpus:
        reasons = [capabilities.gpu_message, *dict.fromkeys(trial.message for _, trial in used)]
        remedy = "where this machine has an NVIDIA GPU: apt-get install nvidia-driver, then reboot; else nothing"
        yield Finding("nvenc", False, f"{words}: {'; '.join(filter(None, reasons))}", remedy)
    elif not used:
        yield Finding("nvenc", False, f"{words}: no FFmpeg here was built with NVENC", _FULL)
    if capabilities.gpus:
        yield from _failed("nvenc", "" if proved else words, used)


def _decoding(capabilities: fleet_service_pb2.Capabilities) -> Iterator[Finding]:
    used = _trials(capabilities, trials.DECODING)
    proved = [_where(trial, binary) for binary, trial in used if trial.works]
    if proved:
        yield Finding("nvdec", True, f"decoding video on a GPU, proved by doing it: {', '.join(proved)}", "")
    yield from _failed("nvdec", "" if proved else "decoding video on a GPU does not work", used)


_Used = list[tuple[fleet_service_pb2.FfmpegBinary, fleet_service_pb2.Trial]]


def _trials(capabilities: fleet_service_pb2.Capabilities, *names: str) -> _Used:
    return [(b, trial) for b in capabilities.binaries if b.version for trial in b.trials if trial.encoder in names]


def _where(trial: fleet_service_pb2.Trial, binary: fleet_service_pb2.FfmpegBinary) -> str:
    return f"{f'on {trial.device} ' if trial.device else ''}with ffmpeg {binary.version}"


def _failed(subject: str, words: str, used: _Used) -> Iterator[Finding]:
    """A finding for each kind of failure, naming all trials that failed so."""
    by_message: dict[str, list[str]] = {}
    for binary, trial in used:
        if not trial.works:
            by_message.setdefault(trial.message, []).append(f"{trial.encoder} {_where(trial, binary)}")
    for message, which in by_message.items():
        remedy = next((remedy for needle, remedy in _GPU_REMEDIES if needle in message), _OTHER_GPU_REMEDY)
        detail = f"{', '.join(which)}: {message}"
        yield Finding(subject, False, f"{words}: {detail}" if words else detail, remedy)


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
