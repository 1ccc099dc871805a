"""Listing GPUs, with an imitation of NVIDIA's binding."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from agent.detect.nvml import gpus


def binding(*, fails: str = "", error: int = 0, count: int = 2, bad: int | None = None, name: Any = "NVIDIA L4") -> Any:
    """Answers like pynvml for ``count`` GPUs; the function ``fails`` raises ``error``, for all GPUs or only ``bad``."""

    def function(title: str, answer: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if title == fails and (bad is None or arguments == (bad,)):
                raise pynvml.NVMLError(error)
            return answer(*arguments)

        return call

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.65.06",
        "nvmlDeviceGetCount": lambda: count,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda _: name,
        "nvmlDeviceGetUUID": lambda index: f"GPU-{index}",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=24 << 30),
    }
    functions = {title: function(title, answer) for title, answer in answers.items()}
    return SimpleNamespace(NVMLError=pynvml.NVMLError, **functions)


@pytest.mark.parametrize("name", ["NVIDIA L4", b"NVIDIA L4"], ids=["text", "bytes"])
def test_list(name: str | bytes) -> None:
    """Each GPU with its number, name, id, driver and memory; older bindings answer in bytes."""
    found, message = gpus(binding(name=name))
    assert message == ""
    assert [(gpu.index, gpu.uuid) for gpu in found] == [(0, "GPU-0"), (1, "GPU-1")]
    assert (found[0].name, found[0].driver_version, found[0].memory_bytes) == ("NVIDIA L4", "580.65.06", 24 << 30)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver is installed"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "installed but not loaded"),
        (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, "too old"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "/dev/nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "reboot"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlSystemGetDriverVersion", "nvmlDeviceGetCount"])
def test_no_driver(fails: str, error: int, words: str) -> None:
    """Whatever NVML answers at whichever call, there are no GPUs and a reason in words."""
    found, message = gpus(binding(fails=fails, error=error))
    assert found == []
    assert words in message


def test_one_lost_gpu_hides_no_other() -> None:
    """A GPU that does not answer is missing with its reason; the others are listed."""
    lost = binding(fails="nvmlDeviceGetHandleByIndex", error=pynvml.NVML_ERROR_GPU_IS_LOST, bad=0)
    found, message = gpus(lost)
    assert [gpu.index for gpu in found] == [1]
    assert message.startswith("gpu 0: a GPU has fallen off the bus")


def test_gpu_without_memory_of_its_own() -> None:
    """A GPU that shares the processor's memory is listed with none, and nothing is wrong."""
    shared = binding(fails="nvmlDeviceGetMemoryInfo", error=pynvml.NVML_ERROR_NOT_SUPPORTED, count=1)
    found, message = gpus(shared)
    assert (len(found), found[0].memory_bytes, message) == (1, 0, "")


def test_driver_without_gpus() -> None:
    """A driver that shows no GPU is told as such."""
    found, message = gpus(binding(count=0))
    assert found == []
    assert "shows no GPU" in message


@pytest.mark.parametrize(
    ("names", "uuids"),
    [
        ("1,0", ["GPU-1", "GPU-0"]),
        ("GPU-1", ["GPU-1"]),
        (" 0 ", ["GPU-0"]),
        ("1,7,0", ["GPU-1"]),
        ("1,1", ["GPU-1"]),
        ("-1", []),
        ("", []),
    ],
)
def test_only_the_gpus_that_cuda_shows(names: str, uuids: list[str]) -> None:
    """CUDA_VISIBLE_DEVICES hides GPUs from FFmpeg and numbers the others anew, up to the first name that is none."""
    found, message = gpus(binding(), environ={"CUDA_VISIBLE_DEVICES": names})
    assert [gpu.uuid for gpu in found] == uuids
    assert [gpu.index for gpu in found] == [*range(len(uuids))]
    assert ("hides every GPU" in message) == (not uuids)
