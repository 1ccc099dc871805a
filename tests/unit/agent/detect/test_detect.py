"""Detection as a whole: what it assembles, remembers and calls the same."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.detect import binaries, detect, ffmpeg
from mediactl.v1 import fleet_service_pb2

Imitation = Callable[..., str]

BUSY = (
    "test -e allowed || { echo '[x_nvenc @ 0x5] [error] OpenEncodeSessionEx failed: out of memory (10)' >&2; exit 1; }"
)
NONE = "echo '[x_nvenc @ 0x5] [error] OpenEncodeSessionEx failed: unsupported device (2): (no details)' >&2; exit 1"
LOST = "test ! -e lost || { echo '[x_nvenc @ 0x5] [error] cuInit(0) failed -> CUDA_ERROR_UNKNOWN' >&2; exit 1; }"

SECOND = fleet_service_pb2.Gpu(index=1, name="NVIDIA L4", uuid="GPU-1", driver_version="580.65.06")
GPU = fleet_service_pb2.Gpu(index=0, name="NVIDIA L4", uuid="GPU-0", driver_version="580.65.06", memory_bytes=24 << 30)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the GPUs of the machine and lets it have no FFmpeg but the configured ones."""
    real = ffmpeg.find

    def become(*gpus: fleet_service_pb2.Gpu) -> None:
        message = "" if gpus else "no NVIDIA driver is installed"
        monkeypatch.setattr("agent.detect.gpus.gpus", lambda: (list(gpus), message))
        monkeypatch.setattr(ffmpeg, "find", lambda configured: real(configured, path="/nonexistent", bundled=False))

    become()
    return become


def look(
    tmp_path: Path, *paths: str, cached: bool = True, roots: tuple[str, ...] = ()
) -> fleet_service_pb2.Capabilities:
    cache_file = tmp_path / "data" / "detected.json" if cached else None
    return detect(ffmpegs=paths, scratch=tmp_path / "scratch", media_roots=roots, cache_file=cache_file)


def calls(path: str) -> int:
    """How often an imitation was run since this was last asked."""
    file = Path(path).with_name("calls")
    count = len(file.read_text().splitlines()) if file.exists() else 0
    file.unlink(missing_ok=True)
    return count


@pytest.mark.usefixtures("machine")
def test_no_ffmpeg_is_no_error(tmp_path: Path) -> None:
    """A machine without FFmpeg has no binaries; the rest is told."""
    found = look(tmp_path)
    assert list(found.binaries) == []
    assert binaries(found) == ()
    assert found.cores >= 1
    assert found.max_tasks == found.cores
    assert found.gpu_message
    assert found.scratch_bytes > 0


@pytest.mark.usefixtures("machine")
def test_without_a_gpu_the_reason_is_kept(tmp_path: Path, imitation: Imitation) -> None:
    """Without a GPU every encoder built in is tried once, fails, and is no capability."""
    found = look(tmp_path, imitation())
    (binary,) = found.binaries
    no_driver = "the NVIDIA driver is not installed, or not whole: Cannot load libcuda.so.1"
    assert [(t.encoder, t.device, t.works, t.message) for t in binary.trials] == [
        ("filter:libvmaf", "", True, ""),
        ("h264_nvenc", "", False, no_driver),
        ("hevc_nvenc", "", False, no_driver),
    ]
    (usable,) = binaries(found)
    assert "encoder:libx264" in usable.capabilities
    assert not [capability for capability in usable.capabilities if "nvenc" in capability or "vaapi" in capability]
    assert (usable.path, usable.version, usable.digest) == (binary.path, "5.1.9", binary.sha256)


def test_proved_encoders_are_capabilities(tmp_path: Path, imitation: Imitation, machine: Callable[..., None]) -> None:
    """An encoder that worked on any GPU is a capability of that binary; one that failed on all is not."""
    machine(GPU, SECOND)
    trial = (
        "case \"$*\" in *h264_nvenc*'-gpu 1'*) exit 0 ;; *) echo '[error] No capable devices found' >&2; exit 1 ;; esac"
    )
    found = look(tmp_path, imitation(trial=trial))
    assert [(t.encoder, t.device, t.works) for t in found.binaries[0].trials] == [
        ("filter:libvmaf", "", True),
        ("h264_nvenc", "gpu 0", False),
        ("hevc_nvenc", "gpu 0", False),
        ("hwaccel:cuda", "gpu 0", True),
        ("h264_nvenc", "gpu 1", True),
        ("hevc_nvenc", "gpu 1", False),
        ("hwaccel:cuda", "gpu 1", True),
    ]
    assert [gpu.encoder_sessions for gpu in found.gpus] == [0, 16]
    assert {"hwaccel:cuda", "filter:libvmaf"} <= set(found.binaries[0].capabilities)
    assert "encoder:h264_nvenc" in found.binaries[0].capabilities
    assert "encoder:hevc_nvenc" not in found.binaries[0].capabilities
    assert list(found.binaries[0].capabilities) == sorted(set(found.binaries[0].capabilities))


@pytest.mark.usefixtures("machine")
def test_second_look_runs_nothing(tmp_path: Path, imitation: Imitation) -> None:
    """What did not change is not probed again, and comes out the same."""
    path = imitation()
    first = look(tmp_path, path)
    assert calls(path) > 0
    second = look(tmp_path, path)
    assert calls(path) == 0
    assert second.binaries == first.binaries
    assert second.revision == first.revision


def test_changes_are_probed_again(tmp_path: Path, imitation: Imitation, machine: Callable[..., None]) -> None:
    """A replaced binary, another driver and another GPU each void what was remembered."""
    path = imitation(trial="exit 0")
    machine(GPU)
    revisions = [look(tmp_path, path).revision]
    assert calls(path) > 0
    imitation(trial="exit 0", version="6.0")
    revisions.append(look(tmp_path, path).revision)
    assert calls(path) > 0
    newer = fleet_service_pb2.Gpu()
    newer.CopyFrom(GPU)
    newer.driver_version = "590.00"
    machine(newer)
    revisions.append(look(tmp_path, path).revision)
    assert calls(path) > 0
    other = fleet_service_pb2.Gpu()
    other.CopyFrom(newer)
    other.uuid = "GPU-9"
    machine(other)
    revisions.append(look(tmp_path, path).revision)
    assert calls(path) > 0
    assert look(tmp_path, path).revision == revisions[-1]
    assert calls(path) == 0
    assert len(set(revisions)) == len(revisions)


def test_busy_gpu_is_tried_again(tmp_path: Path, imitation: Imitation, machine: Callable[..., None]) -> None:
    """A GPU that others use up has encoder sessions, proves nothing yet, and is tried at each look until it does."""
    machine(GPU)
    path = imitation(trial=BUSY)
    first = look(tmp_path, path)
    trials = [trial for trial in first.binaries[0].trials if trial.encoder == "h264_nvenc"]
    assert [(trial.works, trial.message.startswith("busy now")) for trial in trials] == [(False, True)]
    assert "encoder:h264_nvenc" not in first.binaries[0].capabilities
    assert first.gpus[0].encoder_sessions == 16
    calls(path)
    Path(path).with_name("allowed").touch()
    second = look(tmp_path, path)
    assert calls(path) == 2
    assert "encoder:h264_nvenc" in second.binaries[0].capabilities
    assert second.revision != first.revision
    look(tmp_path, path)
    assert calls(path) == 0


def test_gpu_without_encoders_is_remembered(tmp_path: Path, imitation: Imitation, machine: Callable[..., None]) -> None:
    """A GPU of the A100's kind has no sessions and is not asked again, until driver, binary or GPU change."""
    machine(GPU)
    path = imitation(trial=NONE)
    found = look(tmp_path, path)
    assert found.gpus[0].encoder_sessions == 0
    assert "hwaccel:cuda" in found.binaries[0].capabilities
    calls(path)
    assert look(tmp_path, path).revision == found.revision
    assert calls(path) == 0


def test_encoding_and_decoding_are_proved_apart(
    tmp_path: Path, imitation: Imitation, machine: Callable[..., None]
) -> None:
    """A GPU that encodes and does not decode has sessions, and no `hwaccel:cuda`."""
    machine(GPU)
    said = "echo '[h264 @ 0x5] [error] Hardware is lacking required capabilities' >&2; exit 1"
    (binary,) = look(tmp_path, imitation(trial="exit 0", decoding=said)).binaries
    assert "encoder:h264_nvenc" in binary.capabilities
    assert "hwaccel:cuda" not in binary.capabilities
    [trial] = [trial for trial in binary.trials if trial.encoder == "hwaccel:cuda"]
    assert trial.message == "Hardware is lacking required capabilities"


def test_a_gpu_that_goes_voids_nothing_of_the_others(
    tmp_path: Path, imitation: Imitation, machine: Callable[..., None]
) -> None:
    """While one is missing nothing is run for the rest; what it proved is proved anew when it returns."""
    machine(GPU, SECOND)
    path = imitation(trial="exit 0")
    both = look(tmp_path, path).revision
    calls(path)
    machine(GPU)
    assert look(tmp_path, path).revision != both
    assert calls(path) == 0
    machine(GPU, SECOND)
    assert look(tmp_path, path).revision == both
    assert calls(path) == 3


def test_what_failed_at_work_is_doubted(tmp_path: Path, imitation: Imitation, machine: Callable[..., None]) -> None:
    """Asked in doubt, what a GPU proved is proved anew: one that is broken loses it, one that is busy keeps it."""
    machine(GPU)
    cache_file = tmp_path / "detected.json"

    def doubt(path: str) -> bool:
        found = detect(ffmpegs=[path], scratch=tmp_path, media_roots=(), cache_file=cache_file, doubting=True)
        return "encoder:h264_nvenc" in found.binaries[0].capabilities

    path = imitation(trial=f"{LOST}; {BUSY}")
    allowed, lost = Path(path).with_name("allowed"), Path(path).with_name("lost")
    allowed.touch()
    assert doubt(path)
    allowed.unlink()
    assert doubt(path)
    lost.touch()
    assert not doubt(path)
    lost.unlink()
    allowed.touch()
    assert doubt(path)


def test_sessions_that_the_owner_sets(tmp_path: Path, imitation: Imitation, machine: Callable[..., None]) -> None:
    """They change the revision, as placement depends on them."""
    machine(GPU, SECOND)
    path = imitation(trial="exit 0")
    revisions = set()
    for each, expected in ((None, 16), (3, 3), (0, 0)):
        found = detect(ffmpegs=[path], scratch=tmp_path, media_roots=(), encoder_sessions=each)
        assert [gpu.encoder_sessions for gpu in found.gpus] == [expected, expected]
        revisions.add(found.revision)
    assert len(revisions) == 3


@pytest.mark.usefixtures("machine")
def test_filter_without_its_model(tmp_path: Path, imitation: Imitation) -> None:
    """libvmaf counts only where it ran; a model that is installed later is noticed."""
    vmaf = "test -e model || { echo '[Parsed_libvmaf_0 @ 0x5] [error] could not load libvmaf model' >&2; exit 1; }"
    path = imitation(vmaf=vmaf)
    (binary,) = look(tmp_path, path).binaries
    assert "filter:libvmaf" not in binary.capabilities
    assert binary.trials[0].message == "could not load libvmaf model"
    Path(path).with_name("model").touch()
    assert "filter:libvmaf" in look(tmp_path, path).binaries[0].capabilities


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"version": 2}', '{"version": 2, "trials": {}, "binaries": {"x": 3}}', '{"version": 1}'],
)
def test_damaged_memory_is_ignored(tmp_path: Path, imitation: Imitation, content: str) -> None:
    """Nonsense where the last result should be costs a probe, nothing else, and is replaced."""
    path = imitation()
    (tmp_path / "data").mkdir()
    cache_file = tmp_path / "data" / "detected.json"
    cache_file.write_text(content)
    assert look(tmp_path, path).binaries[0].version == "5.1.9"
    assert calls(path) > 0
    assert json.loads(cache_file.read_text())["version"] == 3
    look(tmp_path, path)
    assert calls(path) == 0
    assert [file.name for file in cache_file.parent.iterdir()] == ["detected.json"]


@pytest.mark.usefixtures("machine")
def test_memory_that_cannot_be_written(tmp_path: Path, imitation: Imitation) -> None:
    """Where nothing can be remembered, detection works all the same."""
    (tmp_path / "data").write_text("a file where a folder should be")
    assert look(tmp_path, imitation()).binaries[0].version == "5.1.9"


@pytest.mark.usefixtures("machine")
def test_binary_that_does_not_run(tmp_path: Path, imitation: Imitation) -> None:
    """A configured binary that does not run is listed with the reason, and used for nothing."""
    found = look(tmp_path, "/nonexistent/ffmpeg", imitation())
    assert [binary.version for binary in found.binaries] == ["", "5.1.9"]
    assert "No such file" in found.binaries[0].trials[0].message
    assert [binary.version for binary in binaries(found)] == ["5.1.9"]


@pytest.mark.usefixtures("machine")
def test_revision(tmp_path: Path, imitation: Imitation) -> None:
    """The revision stays while only timings and free space change, and changes with what placement looks at."""
    one = imitation("one")
    base = look(tmp_path, one, cached=False, roots=("/",)).revision
    assert look(tmp_path, one, cached=False, roots=("/",)).revision == base
    assert look(tmp_path, one, cached=False, roots=("/srv",)).revision != base
    assert look(tmp_path, one, imitation("two"), cached=False, roots=("/",)).revision != base
    more = detect(ffmpegs=[one], scratch=tmp_path, media_roots=["/"], max_tasks=99)
    assert more.max_tasks == 99
    assert more.revision != base
