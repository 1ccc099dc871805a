"""The simulated GPU host, and what an agent makes of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.media.failure import failure_of
from agent.media.runner import Ran
from agent.media.usage import Usage
from presets.plan import Invocation, Purpose, StepResult
from presets.reasons import Reason
from tests.fakes.gpu_host import GpuHost, SimulatedGpu

_SOURCE = ("-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=2")
_QUALITY = ("-preset", "p5", "-tune", "hq", "-rc", "vbr", "-cq", "23", "-b:v", "0", "-spatial-aq", "1", "-bf", "2")
_KEYS = ("-force_key_frames", "expr:gte(t,n_forced*1)", "-g", "9999", "-forced-idr", "1", "-no-scenecut", "1")


def nvenc(*, codec: str = "h264_nvenc", gpu: int = 0) -> tuple[str, ...]:
    return (*_SOURCE, "-pix_fmt", "yuv420p", "-c:v", codec, "-gpu", str(gpu), *_QUALITY, *_KEYS)


def detect(host: GpuHost, data_dir: Path, *arguments: str) -> dict[str, Any]:
    """What `mediactl-agent detect --json` says on the host."""
    data_dir.mkdir(exist_ok=True)
    command = [sys.executable, "-P", "-m", "agent.main", "detect", "--json", "--data-dir", str(data_dir), *arguments]
    done = subprocess.run(command, env=os.environ | host.environment(), check=True, capture_output=True, timeout=60)
    found: dict[str, Any] = json.loads(done.stdout)["capabilities"]
    return found


def trials(found: dict[str, Any]) -> dict[tuple[str, str], bool]:
    (binary,) = found["binaries"]
    return {(trial["encoder"], trial.get("device", "")): trial.get("works", False) for trial in binary["trials"]}


def reason(done: "subprocess.CompletedProcess[str]") -> Reason:
    """What the agent would take a failed encode for."""
    ran = Ran(done.returncode, False, StepResult(None, None), Usage(), done.stderr)
    return failure_of(ran, Invocation("encode", Purpose.ENCODE, (), (), None, None, 1.0, False)).reason


def streams(path: Path) -> list[dict[str, Any]]:
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_streams", "-count_frames", str(path)]
    found: list[dict[str, Any]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["streams"]
    return found


def key_frames(path: Path) -> list[float]:
    command = ["ffprobe", "-v", "error", "-of", "json", "-skip_frame", "nokey", "-show_entries", "frame=pts_time"]
    said = subprocess.run([*command, "-select_streams", "v", str(path)], check=True, capture_output=True).stdout
    return [float(frame["pts_time"]) for frame in json.loads(said)["frames"]]


def test_an_agent_proves_the_simulated_gpus(tmp_path: Path) -> None:
    """Detection in a real process: GPUs, trials that work, sessions; what one GPU lacks is no capability of it."""
    host = GpuHost(
        tmp_path / "host",
        [
            SimulatedGpu(),
            SimulatedGpu("NVIDIA GeForce RTX 4090", encoders=("h264_nvenc", "hevc_nvenc", "av1_nvenc")),
            SimulatedGpu("NVIDIA H100", encoders=()),
        ],
    )
    found = detect(host, tmp_path / "data")
    assert [(gpu["name"], gpu.get("encoderSessions", 0)) for gpu in found["gpus"]] == [
        ("NVIDIA L4", 16),
        ("NVIDIA GeForce RTX 4090", 12),
        ("NVIDIA H100", 0),
    ]
    assert found["binaries"][0]["path"] == str(host.ffmpeg)
    works = trials(found)
    for device in ("gpu 0", "gpu 1"):
        assert works["h264_nvenc", device]
        assert works["hevc_nvenc", device]
    assert works["av1_nvenc", "gpu 1"]
    assert not works["av1_nvenc", "gpu 0"]
    assert not works["h264_nvenc", "gpu 2"]
    assert all(works["hwaccel:cuda", f"gpu {index}"] for index in range(3))
    proved = {"encoder:h264_nvenc", "encoder:hevc_nvenc", "encoder:av1_nvenc", "hwaccel:cuda"}
    assert proved <= set(found["binaries"][0]["capabilities"])


def test_what_happens_to_a_host_is_noticed(tmp_path: Path) -> None:
    """Others use a GPU up, leave it, GPUs vanish: each look says how it is, under a new revision."""
    host = GpuHost(tmp_path / "host", [SimulatedGpu(), SimulatedGpu(sessions=1)])
    data = tmp_path / "data"
    with host.others_encode(1, 1):
        busy = detect(host, data)
    assert not trials(busy)["h264_nvenc", "gpu 1"]
    assert busy["gpus"][1]["encoderSessions"] == 16
    free = detect(host, data)
    assert trials(free)["h264_nvenc", "gpu 1"]
    host.change(1, hidden=True)
    fewer = detect(host, data)
    assert len(fewer["gpus"]) == 1
    assert len({busy["revision"], free["revision"], fewer["revision"]}) == 3
    host.change(0, hidden=True)
    assert "gpus" not in detect(host, data)


@pytest.mark.parametrize(("codec", "name"), [("h264_nvenc", "h264"), ("hevc_nvenc", "hevc")])
def test_an_encode_with_the_options_of_nvenc(tmp_path: Path, codec: str, name: str) -> None:
    """The output is of the codec asked for, with key frames where they were asked for."""
    host = GpuHost(tmp_path / "host", [SimulatedGpu()])
    done = host.run(*nvenc(codec=codec), str(tmp_path / "x.mp4"))
    assert done.returncode == 0, done.stderr
    [stream] = streams(tmp_path / "x.mp4")
    assert (stream["codec_name"], stream["nb_read_frames"]) == (name, "50")
    assert key_frames(tmp_path / "x.mp4") == [0.0, 1.0]


@pytest.mark.parametrize(("codec", "profile"), [("h264_nvenc", "high"), ("hevc_nvenc", "main")])
def test_an_encode_as_the_presets_ask_for_it(tmp_path: Path, codec: str, profile: str) -> None:
    """Every option with the stream it is for."""
    host = GpuHost(tmp_path / "host", [SimulatedGpu(lost=True), SimulatedGpu()])
    asked = {"preset": "p5", "tune": "hq", "rc": "vbr", "b": "0", "profile": profile, "forced-idr": "1", "cq": "23"}
    asked |= {"g": "100000", "flags": "+bitexact+cgop", "gpu": "1", "force_key_frames": "expr:gte(t,n_forced*1)"}
    options = [text for name, value in asked.items() for text in (f"-{name}:v", value)]
    done = host.run(*_SOURCE, "-pix_fmt", "yuv420p", "-c:v", codec, *options, str(tmp_path / "x.mp4"))
    assert done.returncode == 0, done.stderr
    assert key_frames(tmp_path / "x.mp4") == [0.0, 1.0]


def test_a_ladder_takes_a_session_for_each_rendition(tmp_path: Path) -> None:
    """Two of two fit, and were given back; three of two do not."""
    host = GpuHost(tmp_path / "host", [SimulatedGpu(sessions=2)])

    def ladder(count: int) -> "subprocess.CompletedProcess[str]":
        split = f"[0:v]split={count}" + "".join(f"[v{index}]" for index in range(count))
        outputs: list[str] = []
        for index in range(count):
            outputs += ["-map", f"[v{index}]", f"-c:v:{index}", "h264_nvenc", f"-gpu:v:{index}", "0"]
            outputs += [f"-preset:v:{index}", "p4", f"-cq:v:{index}", "30"]
        return host.run(*_SOURCE, "-filter_complex", split, *outputs, str(tmp_path / "ladder.mkv"))

    done = ladder(2)
    assert done.returncode == 0, done.stderr
    assert [stream["codec_name"] for stream in streams(tmp_path / "ladder.mkv")] == ["h264", "h264"]
    assert host.sessions_in_use(0) == 0
    assert reason(ladder(3)) is Reason.ENCODER_SESSION_LIMIT


def test_sessions_are_used_until_the_encode_ends(tmp_path: Path) -> None:
    """A second encode finds none while the first runs; killing that one gives its session back."""
    host = GpuHost(tmp_path / "host", [SimulatedGpu(sessions=1), SimulatedGpu()])
    endless = [str(host.ffmpeg), "-v", "error", "-nostdin", "-re", "-f", "lavfi", "-i", "testsrc2=size=160x120"]
    endless += ["-c:v", "h264_nvenc", "-progress", "pipe:1", "-f", "null", "-"]
    with subprocess.Popen(endless, stdout=subprocess.PIPE) as first:
        assert first.stdout
        first.stdout.readline()
        assert host.sessions_in_use(0) == 1
        for words in ("out of memory", "client key"):
            host.say_limit(words)
            refused = host.run(*nvenc(), str(tmp_path / "x.mp4"))
            assert refused.returncode != 0
            assert reason(refused) is Reason.ENCODER_SESSION_LIMIT
        assert host.run(*nvenc(gpu=1), str(tmp_path / "x.mp4")).returncode == 0
        first.kill()
    assert host.sessions_in_use(0) == 0
    assert host.run(*nvenc(), str(tmp_path / "x.mp4")).returncode == 0


def test_lost_and_absent_gpus(tmp_path: Path) -> None:
    """Both are the fleet's fault; a codec that the GPU lacks is none of it."""
    host = GpuHost(tmp_path / "host", [SimulatedGpu()])
    assert reason(host.run(*nvenc(gpu=1), str(tmp_path / "x.mp4"))) is Reason.GPU_UNAVAILABLE
    assert reason(host.run(*nvenc(codec="av1_nvenc"), str(tmp_path / "x.mp4"))) is Reason.FFMPEG_FAILED
    host.change(0, lost=True)
    assert reason(host.run(*nvenc(), str(tmp_path / "x.mp4"))) is Reason.GPU_UNAVAILABLE
    assert not (tmp_path / "x.mp4").exists()


def test_decoding_on_the_gpu(tmp_path: Path) -> None:
    """`-hwaccel cuda` with frames left on the device and the filters for them."""
    host = GpuHost(tmp_path / "host", [SimulatedGpu()])
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    assert host.run(*nvenc(), str(source)).returncode == 0
    device = ("-hwaccel", "cuda", "-hwaccel_device", "0", "-hwaccel_output_format", "cuda")
    done = host.run(*device, "-i", str(source), "-vf", "scale_cuda=160:120", "-c:v", "h264_nvenc", str(target))
    assert done.returncode == 0, done.stderr
    assert streams(target)[0]["width"] == 160


def test_software_encodes_pass_through(tmp_path: Path) -> None:
    """What asks for no GPU is run as it is, even where all are lost."""
    host = GpuHost(tmp_path / "host", [SimulatedGpu(lost=True)])
    arguments = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "film", "-crf", "30")
    done = host.run(*_SOURCE, *arguments, str(tmp_path / "x.mp4"))
    assert done.returncode == 0, done.stderr
    assert host.run("-version").stdout.startswith("ffmpeg version")
