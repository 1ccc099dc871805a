"""What is said to a person about a machine."""

import pytest

from agent.detect.advice import Finding, missing_advice
from mediactl.v1.fleet_service_pb2 import Capabilities, Disk, FfmpegBinary, Gpu, Trial

GIB = 1024**3
EVERYTHING = [
    *("encoder:aac", "encoder:flac", "encoder:libmp3lame", "encoder:libopus", "encoder:libx264", "encoder:libx265"),
    *("encoder:libsvtav1", "filter:libvmaf", "encoder:h264_nvenc"),
]
WORKS = Trial(encoder="h264_nvenc", device="gpu 0", works=True)


def machine(
    *, capabilities: list[str] | None = None, trials: list[Trial] | None = None, gpu: bool = True
) -> Capabilities:
    return Capabilities(
        cores=8,
        memory_bytes=16 * GIB,
        max_tasks=8,
        platform="x86_64 Debian",
        ffprobe_path="/usr/bin/ffprobe",
        media_roots=["/srv/media"],
        disks=[
            Disk(path="/scratch", purpose="scratch", total_bytes=100 * GIB, free_bytes=50 * GIB),
            Disk(path="/srv/media", purpose="media", total_bytes=100 * GIB, free_bytes=50 * GIB),
        ],
        gpus=[Gpu(index=0, name="NVIDIA L4", encoder_sessions=16)] if gpu else [],
        gpu_message="" if gpu else "no NVIDIA driver is installed",
        binaries=[
            FfmpegBinary(
                path="/usr/bin/ffmpeg",
                version="9.0",
                capabilities=EVERYTHING if capabilities is None else capabilities,
                trials=[WORKS] if trials is None else trials,
                start_milliseconds=12,
            )
        ],
    )


def of(subject: str, capabilities: Capabilities) -> Finding:
    (finding,) = [finding for finding in missing_advice(capabilities) if finding.subject == subject]
    return finding


def test_nothing_is_missing() -> None:
    """A complete machine is well in every respect, and nothing is advised."""
    findings = missing_advice(machine())
    assert all(finding.ok and finding.detail and not finding.remedy for finding in findings)
    assert "aac of ffmpeg 9.0 is used" in of("libfdk_aac", machine()).detail


def test_everything_is_missing() -> None:
    """A bare machine is told for each thing what it is needed for and how to get it."""
    findings = {finding.subject: finding for finding in missing_advice(Capabilities())}
    bad = {subject: finding for subject, finding in findings.items() if not finding.ok}
    assert set(bad) == set(findings) - {"machine"}
    assert all(finding.detail and finding.remedy for finding in bad.values())
    assert "apt-get install ffmpeg" in findings["ffmpeg"].remedy
    assert "pip install" in findings["libvmaf"].remedy
    assert "MP3" in findings["libmp3lame"].detail


def test_nvenc_without_a_gpu() -> None:
    """The driver's and FFmpeg's reasons are both told."""
    trial = Trial(encoder="h264_nvenc", message="Cannot load libcuda.so.1")
    finding = of("nvenc", machine(trials=[trial], gpu=False))
    assert not finding.ok
    assert "no NVIDIA driver is installed; Cannot load libcuda.so.1" in finding.detail


def test_nvenc_on_a_gpu_that_has_none() -> None:
    """A GPU alone proves nothing: where the trial failed, its reason is told for each encoder and device."""
    trial = Trial(encoder="h264_nvenc", device="gpu 0", message="No capable devices found")
    finding = of("nvenc", machine(trials=[trial]))
    assert not finding.ok
    assert "h264_nvenc on gpu 0 with ffmpeg 9.0: No capable devices found" in finding.detail
    assert "built with NVENC" in of("nvenc", machine(trials=[])).detail


def test_sessions_are_told() -> None:
    """What works is told with the number of sessions, and that of a GPU nobody can count is a finding."""
    assert of("nvenc", machine()).detail.endswith("encoder sessions at once: 16 on gpu 0")
    unseen = of("nvenc", machine(trials=[Trial(encoder="h264_nvenc", works=True)], gpu=False))
    assert not unseen.ok
    assert "NVIDIA_DRIVER_CAPABILITIES" in unseen.remedy


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("busy now, the GPU has no encoder session free: OpenEncodeSessionEx failed: out of memory (10)", "in minutes"),
        ("the GPU has no encoder: OpenEncodeSessionEx failed: unsupported device (2)", "A100"),
        ("the NVIDIA driver is too old for this FFmpeg: Driver does not support …", "asks for less"),
        ("the NVIDIA driver is not installed, or not whole: Cannot load libnvidia-encode.so.1", "libnvidia-encode1"),
        ("the GPU cannot encode this: Codec not supported; No capable devices found", "generation"),
        ("the GPU is missing or no longer answers: cuInit(0) failed -> CUDA_ERROR_UNKNOWN", "dmesg"),
    ],
)
def test_each_failure_on_a_gpu_has_its_remedy(message: str, remedy: str) -> None:
    """One GPU works, the other does not: both are told, with what to do about it."""
    two = machine(trials=[WORKS, Trial(encoder="h264_nvenc", device="gpu 1", message=message)])
    findings = [finding for finding in missing_advice(two) if finding.subject == "nvenc"]
    assert [finding.ok for finding in findings] == [True, False]
    assert findings[1].detail == f"h264_nvenc on gpu 1 with ffmpeg 9.0: {message}"
    assert remedy in findings[1].remedy


def test_decoding_on_a_gpu_is_told_apart() -> None:
    """A GPU may decode without encoding, and the other way round."""
    trials = [Trial(encoder="h264_nvenc", device="gpu 0", message="x"), Trial(encoder="hwaccel:cuda", works=True)]
    assert not of("nvenc", machine(trials=trials)).ok
    assert of("nvdec", machine(trials=trials)).ok
    trials = [WORKS, Trial(encoder="hwaccel:cuda", device="gpu 0", message="Cannot load libnvcuvid.so.1")]
    assert of("nvenc", machine(trials=trials)).ok
    assert "Cannot load libnvcuvid.so.1" in of("nvdec", machine(trials=trials)).detail


def test_a_filter_that_failed_its_trial() -> None:
    """libvmaf that is built in and lacks its model is told with what FFmpeg said."""
    without = machine(
        capabilities=EVERYTHING[:-2],
        trials=[
            WORKS,
            Trial(encoder="filter:libvmaf", message="could not load libvmaf model with version: vmaf_v0.6.1"),
        ],
    )
    assert "could not load libvmaf model" in of("libvmaf", without).detail


def test_low_scratch_space() -> None:
    """Little free scratch space is a finding with the numbers."""
    small = machine()
    small.disks[0].free_bytes = 2 * GIB
    finding = of("scratch space", small)
    assert not finding.ok
    assert "2.0 GiB free" in finding.detail


def test_broken_binary_beside_a_good_one() -> None:
    """A configured binary that does not run is told, although another one works."""
    two = machine()
    broken = two.binaries.add(path="/opt/ffmpeg")
    broken.trials.add(message="/opt/ffmpeg cannot be read: No such file or directory")
    findings = [finding for finding in missing_advice(two) if finding.subject == "ffmpeg"]
    assert [finding.ok for finding in findings] == [True, False]
    assert "No such file" in findings[1].detail
    assert "/opt/ffmpeg" in findings[1].remedy


def test_media_root_that_is_not_there() -> None:
    """A media root that could not be looked at is told by name."""
    absent = machine()
    absent.media_roots.append("/mnt/nas")
    findings = [finding for finding in missing_advice(absent) if finding.subject == "media roots"]
    assert [(finding.ok, "/mnt/nas" in finding.detail) for finding in findings] == [(True, False), (False, True)]
