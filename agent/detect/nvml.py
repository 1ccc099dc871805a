"""What NVIDIA's driver says of its GPUs: asked here, and as a program that prints it as JSON.

The agent runs the program: a driver that crashes or hangs takes nobody else with it, and one that was replaced is met
as it is now.
"""

import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pynvml
from google.protobuf import json_format

from mediactl.v1 import fleet_service_pb2

#: NVML's errors that a person can do something about, by the name of the exception.
_WORDS = {
    "NVMLError_LibraryNotFound": "no NVIDIA driver is installed (libnvidia-ml.so.1 was not found)",
    "NVMLError_DriverNotLoaded": "the NVIDIA driver is installed but not loaded: see what nvidia-smi and dmesg say",
    "NVMLError_FunctionNotFound": "the NVIDIA driver is too old to be asked; install a current one",
    "NVMLError_NoPermission": "the agent's user may not open the GPU's device files (/dev/nvidia*)",
    "NVMLError_LibRmVersionMismatch": "the NVIDIA driver was upgraded while the old one is loaded: reboot",
    "NVMLError_GpuIsLost": "a GPU has fallen off the bus: reboot",
    "NVMLError_InsufficientPower": "a GPU lacks power: check its cables",
    "NVMLError_Timeout": "the NVIDIA driver did not answer in time",
}


def gpus(
    nvml: ModuleType | Any = pynvml, *, environ: Mapping[str, str] = os.environ
) -> tuple[list[fleet_service_pb2.Gpu], str]:
    """The GPUs, and in words why there are none or why some are missing (empty where nothing is wrong).

    ``nvml`` is NVIDIA's binding (nvidia-ml-py), or something that answers like it. Where CUDA_VISIBLE_DEVICES names
    GPUs, FFmpeg sees no others and counts them in that order; so does this.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return [], _words(error)
    try:
        return _visible(*_listed(nvml), environ.get("CUDA_VISIBLE_DEVICES"))
    except nvml.NVMLError as error:
        return [], _words(error)
    finally:
        nvml.nvmlShutdown()


def _listed(nvml: ModuleType | Any) -> tuple[list[fleet_service_pb2.Gpu], str]:
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    found, troubles = [], []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            gpu = fleet_service_pb2.Gpu(
                index=index,
                name=_text(nvml.nvmlDeviceGetName(handle)),
                uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                driver_version=driver,
            )
        except nvml.NVMLError as error:
            troubles.append(f"gpu {index}: {_words(error)}")
            continue
        try:
            gpu.memory_bytes = nvml.nvmlDeviceGetMemoryInfo(handle).total
        except nvml.NVMLError as error:
            # GPUs that share the processor's memory have none of their own to tell.
            if type(error).__name__ != "NVMLError_NotSupported":
                troubles.append(f"gpu {index}: memory: {_words(error)}")
        found.append(gpu)
    if not found and not troubles:
        troubles.append(f"the NVIDIA driver {driver} is loaded but shows no GPU")
    return found, "; ".join(troubles)


def _visible(
    listed: list[fleet_service_pb2.Gpu], trouble: str, names: str | None
) -> tuple[list[fleet_service_pb2.Gpu], str]:
    if names is None:
        return listed, trouble
    chosen: list[fleet_service_pb2.Gpu] = []
    for name in map(str.strip, names.split(",")):
        gpu = next((gpu for gpu in listed if _is_called(gpu, name)), None)
        # CUDA heeds nothing from the first name on that is none, or that repeats.
        if gpu is None or gpu in chosen:
            break
        chosen.append(gpu)
    for index, gpu in enumerate(chosen):
        gpu.index = index
    if listed and not chosen:
        trouble = "; ".join(filter(None, [trouble, f"CUDA_VISIBLE_DEVICES={names} hides every GPU"]))
    return chosen, trouble


def _is_called(gpu: fleet_service_pb2.Gpu, name: str) -> bool:
    return int(name) == gpu.index if name.isdecimal() else name.startswith("GPU-") and gpu.uuid.startswith(name)


def _words(error: Exception) -> str:
    return _WORDS.get(type(error).__name__, str(error))


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    _found, _message = gpus()
    _answer = fleet_service_pb2.Capabilities(gpus=_found, gpu_message=_message)
    # On a line of its own, whatever a driver may have printed before.
    print("\n" + json_format.MessageToJson(_answer, indent=None))  # noqa: T201
