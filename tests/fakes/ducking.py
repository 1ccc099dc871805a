"""How far a bed is turned down under a voice, seen from outside: a tone above the voice, band-passed out of the mix."""

import array
import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

#: The bed. Speech sampled at 16 kHz ends at 8 kHz.
TONE_HZ = 12_000

#: Levels are of this many seconds each.
FRAME_S = 0.01

#: A frame of the voice that is this far below its loud ones is a pause, in dB.
_PAUSE_DB = 22.0

_BANDPASS = f"bandpass=f={TONE_HZ}:width_type=h:w=2000"


@dataclass(frozen=True, slots=True)
class Ducking:
    """The bed's gain in dB by frame, 0 being the loudest that it gets, and which frames the voice sounds in."""

    gain_db: Sequence[float]
    voiced: Sequence[bool]

    def phrases(self, hold_s: float) -> list[tuple[int, int]]:
        """First frame and the one behind the last, of each stretch of voice without a pause of ``hold_s``."""
        found: list[list[int]] = []
        for frame in (index for index, sounds in enumerate(self.voiced) if sounds):
            if found and (frame - found[-1][1]) * FRAME_S < hold_s:
                found[-1][1] = frame + 1
            else:
                found.append([frame, frame + 1])
        return [(begin, end) for begin, end in found]

    def under_voice(self, hold_s: float, attack_s: float) -> list[float]:
        """Gains where the voice sounds, but for the time in which they are on their way there."""
        skipped = round(attack_s / FRAME_S)
        return [
            self.gain_db[frame]
            for begin, end in self.phrases(hold_s)
            for frame in range(begin + skipped, end)
            if self.voiced[frame]
        ]

    def pauses(self, hold_s: float, attack_s: float) -> list[float]:
        """The highest gain in each pause shorter than ``hold_s`` within a phrase."""
        skipped = round(attack_s / FRAME_S)
        highest: list[float] = []
        for begin, end in self.phrases(hold_s):
            sounding = [frame for frame in range(begin + skipped, end) if self.voiced[frame]]
            highest += [max(self.gain_db[a + 1 : b]) for a, b in pairwise(sounding) if b > a + 1]
        return highest


def ducking(mix: Path, voice: Path | None = None) -> Ducking:
    """Of a mix with a bed that is a tone of 12 kHz; the voice is that file's, or what else is in the mix."""
    tone = _levels(mix, f"{_BANDPASS},{_BANDPASS}")
    # What is above the voice is removed as steeply as it takes, or the bed would count as voice.
    heard = _levels(voice or mix, "highpass=f=120" + ",lowpass=f=6000" * 4)
    loud = quantiles([level for level in heard if level > -70] or [-70.0, -70.0], n=20)[-1]
    voiced = [level > loud - _PAUSE_DB for level in heard] + [False] * (len(tone) - len(heard))
    # The highest of many: single frames at either end of the file hold a click of the filter.
    full = quantiles(tone, n=100)[-1]
    return Ducking([level - full for level in tone], voiced)


def duck_db(mix: Path) -> float:
    """The median of the bed's gain under the voice, against the loudest that it gets, in dB."""
    seen = ducking(mix)
    return median(seen.under_voice(hold_s=0.4, attack_s=0.2))


def _levels(path: Path, filters: str) -> list[float]:
    decode = ["ffmpeg", "-v", "error", "-i", str(path), "-af", f"aresample=48000,pan=mono|c0=c0,{filters}"]
    run = subprocess.run([*decode, "-f", "f64le", "-"], capture_output=True, check=True, timeout=60)
    samples = array.array("d", run.stdout)
    size = round(48_000 * FRAME_S)
    powers = (
        sum(sample * sample for sample in samples[at : at + size]) / size
        for at in range(0, len(samples) - size + 1, size)
    )
    return [10 * math.log10(power + 1e-20) for power in powers]
