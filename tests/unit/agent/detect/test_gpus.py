"""Asking a driver that may crash or hang, from another process."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.detect.gpus import gpus

Driver = Callable[[str], None]

_BINDING = """
import os, signal, sys, time
class NVMLError(Exception): pass
class Memory: total = 24 << 30
def nvmlInit(): {init}
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return "610.43.03"
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return "NVIDIA L4"
def nvmlDeviceGetUUID(handle): return "GPU-0"
def nvmlDeviceGetMemoryInfo(handle): return Memory
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A binding to a driver, for other processes, whose initialisation does this."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def become(init: str) -> None:
        (tmp_path / "pynvml.py").write_text(_BINDING.format(init=init))

    return become


def test_list(driver: Driver) -> None:
    """What the driver shows arrives, whatever it prints besides; another one is met as it is at the next look."""
    driver("print('NVRM: hello', end='')")
    [gpu], message = gpus()
    assert (gpu.name, gpu.uuid, gpu.driver_version, gpu.memory_bytes) == ("NVIDIA L4", "GPU-0", "610.43.03", 24 << 30)
    assert message == ""
    driver("raise NVMLError('the driver is gone')")
    assert gpus() == ([], "the driver is gone")


def test_driver_that_crashes(driver: Driver) -> None:
    """It takes nobody with it: there are no GPUs, and the reason is told."""
    driver("os.kill(os.getpid(), signal.SIGSEGV)")
    found, message = gpus()
    assert found == []
    assert message.startswith("the NVIDIA driver crashed when it was asked (SIGSEGV)")


def test_driver_that_hangs(driver: Driver) -> None:
    """It is waited for only so long."""
    driver("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    found, message = gpus(timeout_s=0.5)
    assert found == []
    assert message.startswith("the NVIDIA driver did not answer within 0.5 s")


@pytest.mark.parametrize(
    ("init", "words"),
    [("os._exit(0)", "can't be read"), ("raise MemoryError('none left')", "can't be asked: MemoryError: none left")],
)
def test_driver_that_ends_it(driver: Driver, init: str, words: str) -> None:
    """Whatever else happens to the process that asks is told too."""
    driver(init)
    found, message = gpus()
    assert found == []
    assert words in message
