"""Which NVIDIA encoders work, proved by using them."""

from collections.abc import Callable, Sequence

from agent.detect.command import Answer, ask
from agent.media.failure import quote
from mediactl.v1 import fleet_service_pb2

ENCODERS = ("h264_nvenc", "hevc_nvenc", "av1_nvenc")

#: The first start of a driver compiles and powers up for seconds.
_TIMEOUT_S = 20.0


def trial(
    binary: str,
    encoder: str,
    gpu: int | None,
    *,
    ask: Callable[..., Answer] = ask,
) -> fleet_service_pb2.Trial:
    """Encodes a few frames on the GPU with the driver's number ``gpu``, and keeps what FFmpeg says where that fails.

    None stands for a machine without GPUs: trying tells the reason in FFmpeg's own words.
    """
    # 256×256 is above the least size of every encoder (146×146 at the most); yuv420p is what all of them take.
    answer = ask(
        [
            *(binary, "-hide_banner", "-nostdin", "-loglevel", "level+error"),
            *("-f", "lavfi", "-i", "color=size=256x256:rate=25", "-frames:v", "5", "-pix_fmt", "yuv420p"),
            *("-c:v", encoder, *(() if gpu is None else ("-gpu", str(gpu))), "-f", "null", "-"),
        ],
        timeout_s=_TIMEOUT_S,
    )
    works = answer.code == 0
    return fleet_service_pb2.Trial(
        encoder=encoder,
        device="" if gpu is None else f"gpu {gpu}",
        works=works,
        message="" if works else _reason(answer),
    )


def trials(
    binary: str,
    encoders: Sequence[str],
    gpus: Sequence[int],
) -> list[fleet_service_pb2.Trial]:
    """Every encoder on every GPU, one after the other: trials side by side could use up a GPU's encoder sessions."""
    return [trial(binary, encoder, gpu) for gpu in gpus or (None,) for encoder in encoders]


def _reason(answer: Answer) -> str:
    return quote(answer.stderr).removeprefix(": ") or f"exit code {answer.code}"
