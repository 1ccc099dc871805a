"""Detection against imitated drivers, with the real FFmpeg binaries and the real NVML binding."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import nvidia_driver as nvidia
from tests.fakes.nvidia_driver import StubGpu, install_driver
from tests.fakes.used import know_ffmpegs

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on PATH")

Detect = Callable[..., dict[str, Any]]


@pytest.fixture
def detect(tmp_path: Path) -> Detect:
    """Runs `mediactl-agent detect --json` with these libraries; gives its capabilities, findings in `findings`."""

    data_dir = tmp_path / "data"
    data_dir.mkdir()
    know_ffmpegs(data_dir, trials=False)

    def run(libraries: Path | None) -> dict[str, Any]:
        environment: Mapping[str, str] = {
            name: value for name, value in os.environ.items() if not name.startswith(("LD_", "CUDA_", "MEDIACTL_"))
        } | ({"LD_LIBRARY_PATH": str(libraries)} if libraries else {})
        command = [sys.executable, "-P", "-m", "agent.main", "detect", "--json", "--data-dir", str(data_dir)]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
        document = json.loads(done.stdout)
        return {**document["capabilities"], "findings": document["findings"]}

    return run


def messages(found: dict[str, Any], device: str = "gpu 0") -> list[str]:
    """What was said of H.264 on a GPU, by each binary."""
    said = [
        trial.get("message", "")
        for binary in found["binaries"]
        for trial in binary["trials"]
        if trial["encoder"] == "h264_nvenc" and trial.get("device", "") == device
    ]
    assert len(said) == len(found["binaries"]) >= 1
    return said


def sessions(found: dict[str, Any]) -> list[int]:
    return [gpu.get("encoderSessions", 0) for gpu in found["gpus"]]


def remedies(found: dict[str, Any]) -> str:
    return " | ".join(finding["remedy"] for finding in found["findings"] if finding["subject"] == "nvenc")


def capable(found: dict[str, Any]) -> bool:
    names = {name for binary in found["binaries"] for name in binary["capabilities"]}
    return bool(names & {"encoder:h264_nvenc", "encoder:hevc_nvenc", "encoder:av1_nvenc", "hwaccel:cuda"})


def test_no_driver(detect: Detect) -> None:
    """NVML and FFmpeg both say that there is none."""
    found = detect(None)
    if "gpus" in found:
        pytest.skip("this machine has a GPU")
    assert "no NVIDIA driver is installed" in found["gpuMessage"]
    assert all("Cannot load libcuda.so.1" in said for said in messages(found, ""))
    assert not capable(found)


def test_driver_that_is_not_loaded(detect: Detect, tmp_path: Path) -> None:
    """Libraries without their kernel module show no GPU, and the reason is told."""
    libraries = install_driver(
        tmp_path / "lib", [], nvml_init=nvidia.NVML_DRIVER_NOT_LOADED, cu_init=nvidia.CUDA_NO_DEVICE
    )
    found = detect(libraries)
    assert "gpus" not in found
    assert "installed but not loaded" in found["gpuMessage"]
    assert all("CUDA_ERROR_NO_DEVICE" in said for said in messages(found, ""))


def test_driver_too_old_for_the_binary(detect: Detect, tmp_path: Path) -> None:
    """Each binary says which driver it needs at the least."""
    found = detect(install_driver(tmp_path / "lib", [StubGpu()], version="455.28", nvenc_api=(11, 0)))
    wanted = {"5.1": "470.57.02", "9.0": "610.00"}
    for binary, said in zip(found["binaries"], messages(found), strict=True):
        assert said.startswith("the NVIDIA driver is too old for this FFmpeg")
        least = wanted.get(".".join(binary["version"].split(".")[:2]), "")
        assert f"The minimum required Nvidia driver for nvenc is {least}" in said
    assert sessions(found) == [0]
    assert not capable(found)
    assert "asks for less" in remedies(found)


def test_driver_without_its_encoding_library(detect: Detect, tmp_path: Path) -> None:
    """As in a container that was given the GPU for computing only."""
    found = detect(install_driver(tmp_path / "lib", [StubGpu()], without=["encode"]))
    assert all("Cannot load libnvidia-encode.so.1" in said for said in messages(found))
    assert sessions(found) == [0]
    assert "NVIDIA_DRIVER_CAPABILITIES" in remedies(found)


def test_gpu_without_encoders(detect: Detect, tmp_path: Path) -> None:
    """A GPU for computing is listed with no session, which is no fault of anything."""
    gpu = StubGpu("NVIDIA H100 80GB HBM3", nvenc_open=nvidia.NVENC_UNSUPPORTED_DEVICE)
    found = detect(install_driver(tmp_path / "lib", [gpu]))
    assert found["gpus"][0]["name"] == "NVIDIA H100 80GB HBM3"
    assert found["gpus"][0]["driverVersion"] == "610.43.03"
    assert sessions(found) == [0]
    assert all(said.startswith("the GPU has no encoder: OpenEncodeSessionEx failed") for said in messages(found))
    assert not capable(found)


def test_gpu_that_lacks_the_codec(detect: Detect, tmp_path: Path) -> None:
    """A session opens, and the codec is none of its own."""
    found = detect(install_driver(tmp_path / "lib", [StubGpu()]))
    assert all(said.startswith("the GPU cannot encode this: Codec not supported") for said in messages(found))
    assert sessions(found) == [0]


@pytest.mark.parametrize(
    "status", [nvidia.NVENC_OUT_OF_MEMORY, nvidia.NVENC_INCOMPATIBLE_CLIENT_KEY], ids=["out of memory", "client key"]
)
def test_gpu_whose_sessions_are_used_up(detect: Detect, tmp_path: Path, status: int) -> None:
    """It has sessions and is called busy, in both ways that drivers say so; it proves nothing yet."""
    found = detect(install_driver(tmp_path / "lib", [StubGpu("NVIDIA GeForce RTX 4090", nvenc_open=status)]))
    assert all(said.startswith("busy now, the GPU has no encoder session free") for said in messages(found))
    assert sessions(found) == [12]
    assert not capable(found)
    assert "tried again in minutes" in remedies(found)


def test_gpu_without_free_memory(detect: Detect, tmp_path: Path) -> None:
    """It is called busy too."""
    found = detect(install_driver(tmp_path / "lib", [StubGpu(cu_context=nvidia.CUDA_OUT_OF_MEMORY)]))
    assert all(said.startswith("busy now, the GPU has no memory free") for said in messages(found))
    assert sessions(found) == [16]


def test_two_gpus_of_different_kinds(detect: Detect, tmp_path: Path) -> None:
    """Each is asked for itself, and one that is lost hides no other."""
    gpus = [
        StubGpu("NVIDIA A100", nvenc_open=nvidia.NVENC_UNSUPPORTED_DEVICE),
        StubGpu("NVIDIA L4", nvenc_open=nvidia.NVENC_OUT_OF_MEMORY),
        StubGpu("NVIDIA L4", nvml=nvidia.NVML_GPU_IS_LOST),
    ]
    found = detect(install_driver(tmp_path / "lib", gpus))
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA A100", "NVIDIA L4"]
    assert sessions(found) == [0, 16]
    assert all(said.startswith("the GPU has no encoder") for said in messages(found, "gpu 0"))
    assert all(said.startswith("busy now") for said in messages(found, "gpu 1"))
    assert found["gpuMessage"] == "gpu 2: a GPU has fallen off the bus: reboot"
