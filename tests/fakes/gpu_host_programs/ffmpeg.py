"""FFmpeg of a simulated GPU host: takes NVENC encoders and runs software ones instead, by the host's settings.

Standard library only, and started often: it becomes the real FFmpeg by exec, with the locks of its encoder sessions in
hand, so that they end when FFmpeg does, however it ends.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

HOST = Path(__file__).resolve().parent.parent
SOFTWARE = {"h264_nvenc": "libx264", "hevc_nvenc": "libx265", "av1_nvenc": "libsvtav1"}

#: Options of NVENC, with a value each, that the software encoders have no use for.
DROPPED = frozenset(
    {
        *("gpu", "rc", "rc-lookahead", "spatial-aq", "spatial_aq", "temporal-aq", "temporal_aq", "aq-strength", "cbr"),
        *("multipass", "2pass", "b_ref_mode", "surfaces", "delay", "zerolatency", "strict_gop", "nonref_p", "dpb_size"),
        *("weighted_pred", "tier", "lookahead_level", "split_encode_mode", "tf_level", "unidir_b", "tune"),
        "no-scenecut",
    }
)
#: What such a GPU decodes by, taken away with its value.
DECODING = frozenset({"hwaccel", "hwaccel_device", "hwaccel_output_format", "init_hw_device", "filter_hw_device"})
#: Filters on frames of the device, and what does the same elsewhere.
FILTERS = (
    (r"\bhwdownload,?", ""),
    (r"\bhwupload(_cuda)?\b", "null"),
    (r"\bscale_(cuda|npp)\b", "scale"),
    (r"\byadif_cuda\b", "yadif"),
)

#: As FFmpeg says them, in the context of an encoder or of CUDA.
SAYINGS = {
    "out of memory": ("[error] OpenEncodeSessionEx failed: out of memory (10): (no details)", "none"),
    "client key": ("[error] OpenEncodeSessionEx failed: incompatible client key (21): (no details)", "none"),
    "no encoder": ("[error] OpenEncodeSessionEx failed: unsupported device (2): (no details)", "none"),
    "no codec": ("[warning] Codec not supported", "none"),
    "no gpu": ("none",),
    "lost": ("[error] dl_fn->cuda_dl->cuInit(0) failed -> CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",),
}


def main() -> None:
    settings = _settings()
    settings["gpus"] = [gpu for gpu in settings["gpus"] if not gpu["hidden"]]
    arguments = sys.argv[1:]
    for listing, missing in (("-encoders", sorted(_encoders(settings))), ("-hwaccels", ["cuda"])):
        if listing in arguments:
            _list(settings, arguments, missing, encoders=listing == "-encoders")
    wanted = [value for option, value in pairwise(arguments) if _is_codec(option, value)]
    decodes = "cuda" in [value for option, value in pairwise(arguments) if option == "-hwaccel"]
    if wanted or decodes:
        gpu = _gpu(settings, arguments, "h264_nvenc" if not wanted else wanted[0])
        if wanted:
            _take_sessions(settings, gpu, wanted)
            uuid = settings["gpus"][gpu]["uuid"]
            while any(each["uuid"] == uuid and each["held"] for each in _settings()["gpus"]):
                time.sleep(0.02)
        arguments = list(_in_software(arguments, wanted))
    os.execv(settings["real"], [settings["real"], *arguments])  # noqa: S606 - what a test made it to be


def _settings() -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((HOST / "settings.json").read_text())
    return settings


def _encoders(settings: dict[str, Any]) -> set[str]:
    return {name for gpu in settings["gpus"] for name in gpu["encoders"]}


def _list(settings: dict[str, Any], arguments: list[str], missing: list[str], *, encoders: bool) -> NoReturn:
    done = subprocess.run([settings["real"], *arguments], capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout.rstrip("\n") + "\n")
    for name in missing:
        if name not in done.stdout:
            sys.stdout.write(f" V....D {name} NVIDIA NVENC encoder\n" if encoders else f"{name}\n")
    sys.stdout.flush()
    sys.exit(done.returncode)


def _base(option: str) -> str:
    return option[1:].partition(":")[0] if option.startswith("-") else ""


def _is_codec(option: str, value: str) -> bool:
    return _base(option) in {"c", "codec", "vcodec"} and value in SOFTWARE


def _gpu(settings: dict[str, Any], arguments: list[str], context: str) -> int:
    """The one GPU of the command, which exists and answers."""
    named = {
        int(value)
        for option, value in pairwise(arguments)
        if _base(option) in {"gpu", "hwaccel_device"} and value.isdigit()
    }
    if len(named) > 1:
        sys.exit(f"the simulated host runs a command on one GPU, not on {sorted(named)}")
    gpu = named.pop() if named else 0
    if gpu >= len(settings["gpus"]):
        _fail(arguments, context, "no gpu")
    if settings["gpus"][gpu]["lost"]:
        _fail(arguments, context, "lost")
    return gpu


def _take_sessions(settings: dict[str, Any], number: int, wanted: list[str]) -> None:
    gpu = settings["gpus"][number]
    for name in wanted:
        if name not in gpu["encoders"]:
            _fail(sys.argv[1:], name, "no codec" if gpu["encoders"] else "no encoder")
    taken = 0
    for slot in range(gpu["sessions"]):
        # Inherited by the FFmpeg that this becomes, whose end unlocks it.
        descriptor = os.open(HOST / "sessions" / f"{gpu['uuid']}.{slot}", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.set_inheritable(descriptor, True)
        taken += 1
        if taken == len(wanted):
            return
    _fail(sys.argv[1:], wanted[-1], settings["limit_words"])


def _in_software(arguments: list[str], wanted: list[str]) -> list[str]:
    made: list[str] = []
    rest = iter(arguments)
    preset = "12" if set(wanted) == {"av1_nvenc"} else "veryfast"
    for argument in rest:
        base = _base(argument)
        colon, specifier = argument.partition(":")[1:]
        if base in DECODING or (base in DROPPED and (base != "tune" or wanted)):
            next(rest, None)
        elif base in {"c", "codec", "vcodec"}:
            codec = next(rest, "")
            made += [argument, SOFTWARE.get(codec, codec)]
            if codec == "hevc_nvenc":
                made += [f"-x265-params{colon}{specifier}", "scenecut=0:open-gop=0:log-level=error"]
            elif codec == "h264_nvenc":
                made += [f"-sc_threshold{colon}{specifier}", "0"]
        elif base == "preset" and wanted:
            value = next(rest, "")
            made += [argument, preset if re.fullmatch(r"p[1-7]|slow|medium|fast", value) else value]
        elif base == "cq":
            made += [f"-crf{colon}{specifier}", next(rest, "")]
        elif base == "b" and wanted:
            value = next(rest, "")
            made += [argument, value] if value != "0" else []
        elif base in {"vf", "filter", "filter_complex", "lavfi"}:
            graph = next(rest, "")
            for pattern, instead in FILTERS:
                graph = re.sub(pattern, instead, graph)
            made += [argument, graph]
        else:
            made.append(argument)
    return made


def _fail(arguments: list[str], context: str, saying: str) -> NoReturn:
    levels = any(option in {"-loglevel", "-v"} and "level" in value for option, value in pairwise(arguments))

    def say(where: str, text: str) -> None:
        sys.stderr.write(f"{where} {text if levels else text.partition('] ')[2]}\n")

    for text in SAYINGS[saying]:
        say(f"[{context} @ 0x55d0c0de]", "[fatal] No capable devices found" if text == "none" else text)
    stream = f"[vost#0:0/{context} @ 0x55d0c0de]"
    say(
        f"{stream} [enc:{context} @ 0x55d0c0de]",
        "[error] Error while opening encoder - maybe incorrect parameters such as bit_rate, rate, width or height.",
    )
    say(stream, "[error] Task finished with error code: -22 (Invalid argument)")
    sys.exit(187)


main()
