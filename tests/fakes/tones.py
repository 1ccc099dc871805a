"""How loud one tone is among others."""

import math
from collections.abc import Sequence


def level_db(samples: Sequence[float], hz: float, rate: int = 48_000) -> float:
    """The amplitude of a tone of whole hertz in a whole number of seconds of samples, in dB of full scale.

    Weighted by a window of two cosines, so that others do not leak into it.
    """
    count = len(samples) // rate * rate
    turn = 2 * math.pi * hz / rate
    real = imaginary = 0.0
    step = 2 * math.pi / count
    for index in range(count):
        phase = step * index
        weighted = samples[index] * (0.42 - 0.5 * math.cos(phase) + 0.08 * math.cos(2 * phase)) / 0.42
        real += weighted * math.cos(turn * index)
        imaginary += weighted * math.sin(turn * index)
    return 10 * math.log10(max(real * real + imaginary * imaginary, 1e-40)) + 20 * math.log10(2 / count)
