"""Which NVIDIA GPUs the driver shows."""

from types import ModuleType
from typing import Any

import pynvml

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


def gpus(nvml: ModuleType | Any = pynvml) -> tuple[list[fleet_service_pb2.Gpu], str]:
    """The GPUs, and in words why there are none or why some are missing (empty where nothing is wrong).

    ``nvml`` is NVIDIA's binding (nvidia-ml-py), or something that answers like it.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return [], _words(error)
    try:
        return _listed(nvml)
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


def _words(error: Exception) -> str:
    return _WORDS.get(type(error).__name__, str(error))


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
