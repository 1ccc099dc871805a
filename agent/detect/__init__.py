"""What this machine can do, proved rather than believed."""

import hashlib
import json
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent.detect import cache, cores, disks, ffmpeg, ffprobe, gpus, memory, trials
from agent.detect.sessions import assign_sessions
from mediactl.v1 import fleet_service_pb2
from presets.capabilities import Binary, tried


def detect(
    *,
    ffmpegs: Sequence[str] = (),
    scratch: Path,
    media_roots: Sequence[str],
    stores: Sequence[str] = (),
    max_tasks: int | None = None,
    encoder_sessions: int | None = None,
    cache_file: Path | None = None,
    doubting: bool = False,
) -> fleet_service_pb2.Capabilities:
    """Looks at the machine; takes seconds the first time and less than half a second with ``cache_file`` afterwards.

    ``stores`` are what the agent declares of stores. ``ffmpegs`` are binaries to consider besides the one on PATH and
    the bundled one. ``max_tasks`` defaults to the number of cores. ``encoder_sessions``: of each GPU that encodes at
    all; by default what its kind and driver allow.
    A binary that does not run is listed without version, with the reason as the message of its one trial.

    Asked again every few minutes, it notices another driver, binary or set of GPUs, and tries again what failed for a
    reason that may pass, such as a GPU that others used up; a changed ``revision`` tells. ``doubting`` proves anew what
    a GPU did before, for when it failed at work. Blocks: call it before the event loop starts or in a thread.
    """
    devices, gpu_message = gpus.gpus()
    paths = ffmpeg.find(ffmpegs)
    known = cache.load(cache_file) if cache_file else cache.Memory()
    with ThreadPoolExecutor(max_workers=max(1, len(paths))) as pool:
        found_binaries = list(pool.map(partial(_binary, devices=devices, known=known, doubting=doubting), paths))
    fresh = cache.Memory()
    for _, learnt in found_binaries:
        fresh.update(learnt)
    if cache_file and fresh != known:
        cache.save(cache_file, fresh)
    volumes = disks.disks(scratch, media_roots)
    found = fleet_service_pb2.Capabilities(
        cores=cores.cores(),
        memory_bytes=memory.memory_bytes(),
        scratch_bytes=next((disk.free_bytes for disk in volumes if disk.purpose == "scratch"), 0),
        disks=volumes,
        binaries=[binary for binary, _ in found_binaries],
        gpus=devices,
        gpu_message=gpu_message,
        media_roots=media_roots,
        stores=stores,
        ffprobe_path=ffprobe.find(paths),
        platform=_platform(),
    )
    assign_sessions(found.gpus, _encoding(found), each=encoder_sessions)
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
    path: str, *, devices: Sequence[fleet_service_pb2.Gpu], known: cache.Memory, doubting: bool
) -> tuple[fleet_service_pb2.FfmpegBinary, cache.Memory]:
    """The binary at ``path``, and what of it to remember."""
    learnt = cache.Memory()
    key = ""
    with suppress(OSError):
        key = cache.key_of(path)
    try:
        built = known.binaries[key] if key in known.binaries else ffmpeg.probe(path)
    except ffmpeg.CannotProbe as failure:
        trial = fleet_service_pb2.Trial(works=False, message=str(failure))
        return fleet_service_pb2.FfmpegBinary(path=path, trials=[trial]), learnt
    learnt.binaries[key] = built
    binary = fleet_service_pb2.FfmpegBinary()
    binary.CopyFrom(built.binary)
    gpu_of = {gpu.index: gpu for gpu in devices}
    # One after the other: side by side they could use up a GPU's sessions.
    for name, gpu in trials.planned(built.unproved, gpu_of):
        trial_key = cache.trial_key(key, name, None if gpu is None else gpu_of[gpu])
        outcome = trials.Outcome(known.trials[trial_key], lasting=True) if trial_key in known.trials else None
        if outcome is None or (doubting and gpu is not None):
            outcome = _again(path, name, gpu, outcome)
        if outcome.lasting:
            learnt.trials[trial_key] = outcome.trial
        binary.trials.append(outcome.trial)
    proved = {tried(trial.encoder) for trial in binary.trials if trial.works}
    binary.capabilities[:] = sorted({*binary.capabilities, *proved})
    return binary, learnt


def _again(path: str, name: str, gpu: int | None, before: trials.Outcome | None) -> trials.Outcome:
    now = trials.trial(path, name, gpu)
    # What worked before and is used up now is not in doubt.
    return before if before and before.trial.works and trials.busy(now.trial) else now


def _encoding(found: fleet_service_pb2.Capabilities) -> set[int]:
    """The GPUs on which an encoder worked, or would have had others not used them up."""
    devices = {
        trial.device
        for binary in found.binaries
        for trial in binary.trials
        if trial.encoder in trials.ENCODERS and (trial.works or trials.busy(trial))
    }
    return {gpu.index for gpu in found.gpus if f"gpu {gpu.index}" in devices}


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
        "gpus": [
            [gpu.index, gpu.uuid, gpu.driver_version, gpu.memory_bytes, gpu.encoder_sessions] for gpu in found.gpus
        ],
        "media_roots": list(found.media_roots),
        **({"stores": list(found.stores)} if found.stores else {}),
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
