"""What only use proves: encoding and decoding on a GPU, filters that need files besides the binary."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agent.detect.command import Answer, ask
from agent.media.failure import quote
from mediactl.v1 import fleet_service_pb2
from presets.capabilities import hwaccel
from presets.diagnosis import gpu_fault
from presets.reasons import Reason

ENCODERS = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")
DECODING = hwaccel("cuda")
VMAF = "filter:libvmaf"

#: Begins the message of a trial that met a GPU that others use up.
BUSY = "busy now"

#: The first start of a driver compiles and powers up for seconds.
_TIMEOUT_S = 20.0

#: What stays so until the binary, the driver or the GPU is another.
_FINAL = re.compile(
    r"unsupported device|no encode device|not supported|required nvenc API version|lacking required capabilities"
)

#: What a part of FFmpeg says that has to do with a device, rather than those that wait for it. 5.1 and 9.0 name the
#: latter in other ways, or not at all.
_DEVICE_SAYS = re.compile(
    r"^\[(?:\w+_nvenc|AVHWDeviceContext|CUDA|h264|Parsed_libvmaf_0) @ \w+\] \[(?:warning|error|fatal)\] (.+)$",
    re.MULTILINE,
)

#: One black picture of 256×256 in H.264, which everything that decodes on GPUs takes.
_PICTURE = (
    "AAAAAWdNQBW5AiCAQ2AiAAADAAIAAAMAZB4sWwjAAAAAAWjoQ48sgAAAAWWIgQAFf/72c3wKa22wlS4Fdvdmo+XQku"
    "X7EGD64nYPR/2Pt2VZmG6AAAFGAoOIGArnJE36/JU="
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a trial went; ``lasting``: as long as binary, driver and GPU stay what they are."""

    trial: fleet_service_pb2.Trial
    lasting: bool


def planned(names: Iterable[str], gpus: Iterable[int]) -> Iterator[tuple[str, int | None]]:
    """Each trial of these names, with the GPU it is for.

    Without GPUs encoders are tried all the same, once: FFmpeg tells the reason in its own words.
    """
    wanted = sorted(names)
    yield from ((name, None) for name in wanted if name == VMAF)
    numbers = list(gpus)
    for gpu in numbers:
        yield from ((name, gpu) for name in wanted if name != VMAF)
    if not numbers:
        yield from ((name, None) for name in wanted if name in ENCODERS)


def trial(
    binary: str,
    name: str,
    gpu: int | None,
    *,
    ask: Callable[..., Answer] = ask,
) -> Outcome:
    """Uses ``name`` (one of :data:`ENCODERS`, :data:`DECODING`, :data:`VMAF`) for a moment, and keeps what FFmpeg says.

    ``gpu`` counts as FFmpeg's ``-gpu`` does; None: no device, or a machine without.
    """
    answer = ask(
        [binary, "-hide_banner", "-nostdin", "-loglevel", "level+warning", *_use(name, gpu)], timeout_s=_TIMEOUT_S
    )
    found = fleet_service_pb2.Trial(encoder=name, device="" if gpu is None else f"gpu {gpu}", works=answer.code == 0)
    if found.works:
        # An encoder that works on a machine that shows no GPU is news that may be over tomorrow.
        return Outcome(found, lasting=name not in ENCODERS or gpu is not None)
    found.message = _reason(answer)
    return Outcome(found, lasting=bool(_FINAL.search(answer.stderr)) or (name in ENCODERS and gpu is None))


def busy(trial: fleet_service_pb2.Trial) -> bool:
    """Whether a trial failed because others used the GPU: it is there, and may be proved another time."""
    return not trial.works and trial.message.startswith(BUSY)


def _use(name: str, gpu: int | None) -> list[str]:
    if name == VMAF:
        picture = ["-f", "lavfi", "-i", "color=size=64x64:rate=25"]
        return [*picture, *picture, "-frames:v", "2", "-lavfi", "libvmaf", "-f", "null", "-"]
    if name == DECODING:
        device = ["-hwaccel", "cuda", "-hwaccel_device", str(gpu or 0), "-hwaccel_output_format", "cuda"]
        source = ["-f", "h264", "-i", f"data:video/h264;base64,{_PICTURE}"]
        # FFmpeg decodes on the processor where the GPU refuses: only frames that come from a device can be downloaded.
        return [*device, *source, "-vf", "hwdownload,format=nv12", "-frames:v", "1", "-f", "null", "-"]
    # 256×256 is above the least size of every encoder (146×146 at the most); yuv420p is what all of them take.
    source = ["-f", "lavfi", "-i", "color=size=256x256:rate=25", "-frames:v", "5", "-pix_fmt", "yuv420p"]
    return [*source, "-c:v", name, *(() if gpu is None else ("-gpu", str(gpu))), "-f", "null", "-"]


def _reason(answer: Answer) -> str:
    lines = list(dict.fromkeys(_DEVICE_SAYS.findall(answer.stderr)))[:3]
    said = "; ".join(lines) or quote(answer.stderr).removeprefix(": ") or f"exit code {answer.code}"
    fault = gpu_fault(answer.stderr)
    if fault is None:
        return said
    words = f"{BUSY}, {fault.words}" if fault.reason is Reason.ENCODER_SESSION_LIMIT else fault.words
    return f"{words}: {said}"
