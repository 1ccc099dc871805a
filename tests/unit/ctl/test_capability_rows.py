"""What an agent can do, as `agents get` and `doctor` show it."""

from ctl.agents import cache_in_words, capability_rows
from mediactl.v1.fleet_service_pb2 import CacheStatus, Capabilities, FfmpegBinary, Gpu, Trial


def rows(*trials: Trial, gpus: tuple[Gpu, ...] = (), message: str = "") -> list[tuple[str, str]]:
    binary = FfmpegBinary(path="/usr/bin/ffmpeg", version="9.0", capabilities=["hwaccel:cuda"], trials=trials)
    return capability_rows(Capabilities(binaries=[binary], gpus=gpus, gpu_message=message))


def test_trials() -> None:
    """What works, what does not and why, and what is only busy."""
    shown = rows(
        Trial(encoder="h264_nvenc", device="gpu 0", works=True),
        Trial(encoder="av1_nvenc", device="gpu 0", message="the GPU cannot encode this: Codec not supported"),
        Trial(encoder="h264_nvenc", device="gpu 1", message="busy now, the GPU has no encoder session free: …"),
        Trial(encoder="filter:libvmaf", works=True),
    )
    assert [text for name, text in shown if not name] == [
        "h264_nvenc on gpu 0: works",
        "av1_nvenc on gpu 0: does not work: the GPU cannot encode this: Codec not supported",
        "h264_nvenc on gpu 1: busy now, the GPU has no encoder session free: …",
        "filter:libvmaf: works",
    ]
    assert "; 1 hwaccel;" in dict(shown)["ffmpeg"]


def test_gpus() -> None:
    """Each with its sessions; why some are missing, or all."""
    gpus = (
        Gpu(index=0, name="NVIDIA L4", memory_bytes=24 << 30, driver_version="610.43.03", encoder_sessions=16),
        Gpu(index=1, name="NVIDIA H100", memory_bytes=80 << 30, driver_version="610.43.03"),
    )
    assert rows(gpus=gpus, message="gpu 2: a GPU has fallen off the bus: reboot")[-3:] == [
        ("GPU", "0: NVIDIA L4, 24.0 GiB, driver 610.43.03, 16 encoder sessions"),
        ("GPU", "1: NVIDIA H100, 80.0 GiB, driver 610.43.03, encodes nothing"),
        ("", "gpu 2: a GPU has fallen off the bus: reboot"),
    ]
    assert rows(message="no NVIDIA driver is installed")[-1] == ("GPU", "none: no NVIDIA driver is installed")


def test_cache() -> None:
    """What it holds and what it was good for."""
    cache = CacheStatus(limit_bytes=10 << 30, held_bytes=3 << 30, hits=12, misses=4, saved_bytes=38 << 30)
    assert (
        cache_in_words(cache) == "3.0 GiB of 10.0 GiB; since the agent began: 12 hits, 4 misses, 38.0 GiB not fetched"
    )
