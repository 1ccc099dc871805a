"""One chain of steps carried out by the real FFmpeg, and what comes out as samples."""

import array
import json
import math
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from presets.capabilities import Binary
from presets.catalog import Catalog
from presets.intent import resolve
from presets.uris import path_to_uri
from tests.fakes.plans import Done, carry_out

#: Float samples at 48 kHz: what a step makes is neither rounded nor clipped.
_PROFILE = """
name = "float_48k"
version = 1
container = "wav"
extension = "wav"
[[stream]]
kind = "audio"
codec = "pcm_f32le"
encoders = ["pcm_f32le"]
bits = 32
sample_rate_hz = 48000
layouts = ["mono", "stereo", "5.1", "7.1"]
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """Samples of each channel at 48 kHz, and the plan that made them."""

    channels: tuple["array.array[float]", ...]
    done: Done

    @property
    def length_s(self) -> float:
        """Seconds."""
        return len(self.channels[0]) / 48_000

    def rms_db(self, start_s: float, end_s: float, channel: int = 0) -> float:
        """The level of a part in dB below full scale; -200 for digital silence."""
        part = self.channels[channel][int(start_s * 48_000) : int(end_s * 48_000)]
        mean = sum(sample * sample for sample in part) / len(part)
        return 10 * math.log10(mean) if mean > 1e-20 else -200.0


def process(
    steps: Sequence[Mapping[str, Any]], source: Path, binary: Binary, workspace: Path, *, threads: int = 1
) -> Heard:
    """What comes out where ``source`` goes through ``steps``, each written as in a preset."""
    chain = {"chain.out": {"from": ["source"], "steps": steps}}
    return carry(chain, {"source": source}, binary, workspace, threads=threads)


def carry(
    tables: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, Path],
    binary: Binary,
    workspace: Path,
    *,
    threads: int = 1,
) -> Heard:
    """What comes out of a preset with a role for each of ``inputs`` and the chains in ``tables``."""
    roles = "\n".join(f'{role} = {{ media = "audio" }}' for role in inputs)
    text = f'name = "tried"\nversion = 1\ndefault_profile = "float_48k_v1"\n[roles]\n{roles}\n'
    for name, table in tables.items():
        text += f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
    catalog = Catalog.shipped().with_documents([text], [_PROFILE])
    given = [(role, path_to_uri(str(path))) for role, path in inputs.items()]
    intent = resolve(catalog, inputs=given, preset="tried", params={}, outputs=[("", "file:///published/x.wav")])
    done = carry_out(intent, list(inputs.values()), binary, workspace, threads=threads)
    return Heard(samples(done.path), done)


def samples(path: Path) -> tuple["array.array[float]", ...]:
    """A file's samples by channel, decoded to float at its own rate."""
    # The bundled FFmpeg starts in a fraction of the time; as a WAV file what it says tells the count of channels too.
    form = ["-map", "0:a:0", "-map_metadata", "-1", "-fflags", "+bitexact", "-c:a", "pcm_f64le", "-f", "wav", "-"]
    decode = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(path), *form]
    whole = subprocess.run(decode, capture_output=True, check=True).stdout
    [count] = struct.unpack_from("<H", whole, whole.index(b"fmt ") + 10)
    decoded = array.array("d", whole[whole.index(b"data") + 8 :])
    return tuple(decoded[channel::count] for channel in range(count))


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
