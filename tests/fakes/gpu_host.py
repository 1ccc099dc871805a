"""A machine with NVIDIA GPUs, simulated: `*_nvenc` encodes by libx264, libx265 or libsvtav1, in the GPUs' place.

    host = GpuHost(tmp_path / "gpus", [SimulatedGpu(sessions=3)])
    subprocess.run([sys.executable, "-P", "-m", "agent.main", "detect"], env=os.environ | host.environment())

The environment puts the host's FFmpeg first on PATH, hides the bundled one, and puts a binding to the driver before the
real one. Everything can be changed while programs run: they read the settings anew at each use. FFmpeg behind it is the
real one, so progress, logs, signals and outputs are as ever. Not simulated: how fast a GPU is, its memory, failures in
the middle of an encode, and options that a real NVENC would refuse.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

_PROGRAMS = Path(__file__).parent / "gpu_host_programs"


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """``sessions`` is how many encodes it bears at once, whatever the agent believes.

    A ``lost`` GPU is still listed and fails at every use; a ``hidden`` one is not even listed, and those after it are
    counted anew. An encode that begins on one that is ``held`` takes its sessions and does nothing until it is let go.
    """

    name: str = "NVIDIA L4"
    uuid: str = ""
    memory_bytes: int = 24 << 30
    sessions: int = 16
    encoders: tuple[str, ...] = ("h264_nvenc", "hevc_nvenc")
    lost: bool = False
    hidden: bool = False
    held: bool = False


class GpuHost:
    """See the module. Skips the test where there are no FFmpeg and ffprobe to stand on."""

    def __init__(self, folder: Path, gpus: Sequence[SimulatedGpu], *, driver: str = "610.43.03") -> None:
        real, ffprobe = shutil.which("ffmpeg"), shutil.which("ffprobe")
        if real is None or ffprobe is None:
            pytest.skip("no ffmpeg and ffprobe on PATH")
        self.folder = folder
        self.ffmpeg = folder / "bin" / "ffmpeg"
        for name in ("bin", "python", "sessions"):
            (folder / name).mkdir(parents=True)
        self._settings: dict[str, Any] = {
            "real": real,
            "driver": driver,
            "limit_words": "out of memory",
            "gpus": [asdict(gpu) | {"uuid": gpu.uuid or f"GPU-{index}"} for index, gpu in enumerate(gpus)],
        }
        self._write()
        # Without site-packages it starts in a third of the time.
        shebang = f"#!{Path(sys.executable).resolve()} -IS\n"
        self.ffmpeg.write_text(shebang + (_PROGRAMS / "ffmpeg.py").read_text())
        self.ffmpeg.chmod(0o755)
        self.ffmpeg.with_name("ffprobe").symlink_to(ffprobe)
        shutil.copy(_PROGRAMS / "pynvml.py", folder / "python")
        (folder / "python" / "imageio_ffmpeg.py").write_text("def get_ffmpeg_exe():\n    raise RuntimeError\n")

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """What programs on this host are to be started with, besides the rest of ``base``."""
        paths = {"PATH": self.ffmpeg.parent, "PYTHONPATH": self.folder / "python"}
        return {name: os.pathsep.join(filter(None, [str(path), base.get(name, "")])) for name, path in paths.items()}

    def change(self, gpu: int, **settings: object) -> None:
        """Fields of :class:`SimulatedGpu` of one GPU, from now on."""
        assert settings.keys() <= self._settings["gpus"][gpu].keys()
        self._settings["gpus"][gpu].update(settings)
        self._write()

    def say_limit(self, words: Literal["out of memory", "client key"]) -> None:
        """In which of two ways the driver says that all sessions are used."""
        self._settings["limit_words"] = words
        self._write()

    @contextmanager
    def others_encode(self, gpu: int, sessions: int) -> Iterator[None]:
        """Programs that are not of mediactl have this many sessions of a GPU within the block."""
        with ExitStack() as stack:
            for slot in range(sessions):
                file = stack.enter_context(self._slot(gpu, slot).open("a"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield

    def sessions_in_use(self, gpu: int) -> int:
        """Encodes on a GPU at this moment."""
        used = 0
        for slot in range(self._settings["gpus"][gpu]["sessions"]):
            with self._slot(gpu, slot).open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    used += 1
        return used

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The host's FFmpeg to its end."""
        command = [str(self.ffmpeg), "-hide_banner", "-nostdin", "-y", "-loglevel", "level+info", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def _slot(self, gpu: int, slot: int) -> Path:
        return self.folder / "sessions" / f"{self._settings['gpus'][gpu]['uuid']}.{slot}"

    def _write(self) -> None:
        # Whole at any moment: programs may be reading.
        written = self.folder / "settings.new"
        written.write_text(json.dumps(self._settings))
        written.replace(self.folder / "settings.json")
