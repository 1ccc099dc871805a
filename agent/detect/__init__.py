"""What this machine can do, proved rather than believed."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent.detect import cache, cores, disks, ffmpeg, ffprobe, gpus, memory, nvenc
from mediactl.v1 import fleet_service_pb2
from presets.capabilities import Binary, encoder


def detect(
    *,
    ffmpegs: Sequence[str] = (),
    scratch: Path,
    media_roots: Sequence[str],
    max_tasks: int | None = None,
    cache_file: Path | None = None,
) -> fleet_service_pb2.Capabilities:
    """Looks at the machine; takes seconds the first time and less than half a second with ``cache_file`` afterwards.

    ``ffmpegs`` are binaries to consider besides the one on PATH and the bundled one. ``max_tasks`` defaults to the
    number of cores. A binary that does not run is listed without version, with the reason as the message of its one
    trial. Blocks: call it before the event loop starts or in a thread.
    """
    devices, gpu_message = gpus.gpus()
    paths = ffmpeg.find(ffmpegs)
    known = cache.load(cache_file) if cache_file else {}
    with ThreadPoolExecutor(max_workers=max(1, len(paths))) as pool:
        binaries = list(pool.map(partial(_binary, devices=devices, known=known), paths))
    if cache_file:
        fresh = {key: binary for key, binary in binaries if key and _lasting(binary, devices)}
        if fresh != known:
            cache.save(cache_file, fresh)
    volumes = disks.disks(scratch, media_roots)
    found = fleet_service_pb2.Capabilities(
        cores=cores.cores(),
        memory_bytes=memory.memory_bytes(),
        scratch_bytes=next((disk.free_bytes for disk in volumes if disk.purpose == "scratch"), 0),
        disks=volumes,
        binaries=[binary for _, binary in binaries],
        gpus=devices,
        gpu_message=gpu_message,
        media_roots=media_roots,
        ffprobe_path=ffprobe.find(paths),
        platform=_platform(),
    )
    found.max_tasks = found.cores if max_tasks is None else max_tasks
    found.revision = _revision(found)
    return found


def binaries(capabilities: fleet_service_pb2.Capabilities) -> tuple[Binary, ...]:
    """The FFmpeg binaries that run, as compiling a plan needs them."""
    return tuple(
        Binary(
            path=binary.path,
            version=binary.version,
            digest=binary.sha256,
            capabilities=frozenset(binary.capabilities),
            start_ms=binary.start_milliseconds,
        )
        for binary in capabilities.binaries
        if binary.version
    )


def _binary(
    path: str,
    *,
    devices: Sequence[fleet_service_pb2.Gpu],
    known: Mapping[str, fleet_service_pb2.FfmpegBinary],
) -> tuple[str, fleet_service_pb2.FfmpegBinary]:
    key = ""
    with suppress(OSError):
        key = cache.key_of(path, devices)
    if key in known:
        return key, known[key]
    try:
        binary, hardware = ffmpeg.probe(path)
    except ffmpeg.CannotProbe as failure:
        trial = fleet_service_pb2.Trial(works=False, message=str(failure))
        return "", fleet_service_pb2.FfmpegBinary(path=path, trials=[trial])
    built_in = [name for name in nvenc.ENCODERS if name in hardware]
    binary.trials.extend(nvenc.trials(path, built_in, [gpu.index for gpu in devices]))
    proved = {encoder(trial.encoder) for trial in binary.trials if trial.works}
    binary.capabilities[:] = sorted({*binary.capabilities, *proved})
    return key, binary


def _lasting(binary: fleet_service_pb2.FfmpegBinary, devices: Sequence[fleet_service_pb2.Gpu]) -> bool:
    """Whether what was found holds until binary, driver or GPUs change.

    A trial that failed on a GPU may have met a busy one, or permissions that were mended since.
    """
    return not devices or all(trial.works for trial in binary.trials)


def _revision(found: fleet_service_pb2.Capabilities) -> str:
    """Digest of what placement depends on: not of free space, timings and wording, which vary by themselves."""
    lasting = {
        "cores": found.cores,
        "memory": found.memory_bytes,
        "max_tasks": found.max_tasks,
        "binaries": [
            [
                binary.path,
                binary.version,
                binary.sha256,
                list(binary.capabilities),
                [[trial.encoder, trial.device, trial.works] for trial in binary.trials],
            ]
            for binary in found.binaries
        ],
        "gpus": [[gpu.index, gpu.uuid, gpu.driver_version, gpu.memory_bytes] for gpu in found.gpus],
        "media_roots": list(found.media_roots),
        "ffprobe": found.ffprobe_path,
        "platform": found.platform,
    }
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()[:16]


def _platform() -> str:
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = f"{platform.system()} {platform.release()}"
    return f"{platform.machine()} {system}"
