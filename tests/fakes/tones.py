"""How loud one tone is among others."""

import math
from array import array
from collections.abc import Sequence
from functools import lru_cache
from operator import mul


def level_db(samples: Sequence[float], hz: float, rate: int = 48_000) -> float:
    """The amplitude of a tone of whole hertz in a whole number of seconds of samples, in dB of full scale.

    Weighted by a window of two cosines, so that others do not leak into it.
    """
    cosine, sine = _probe(hz, rate, len(samples) // rate * rate)
    real, imaginary = sum(map(mul, samples, cosine)), sum(map(mul, samples, sine))
    return 10 * math.log10(max(real * real + imaginary * imaginary, 1e-40)) + 20 * math.log10(2 / len(cosine))


@lru_cache(maxsize=16)
def _probe(hz: float, rate: int, count: int) -> "tuple[array[float], array[float]]":
    """The tone's two phases under the window."""
    turn, window = 2 * math.pi * hz / rate, _window(count)
    return (
        array("d", (weight * math.cos(turn * n) for n, weight in enumerate(window))),
        array("d", (weight * math.sin(turn * n) for n, weight in enumerate(window))),
    )


@lru_cache(maxsize=4)
def _window(count: int) -> "array[float]":
    step = 2 * math.pi / count
    return array("d", ((0.42 - 0.5 * math.cos(step * n) + 0.08 * math.cos(2 * step * n)) / 0.42 for n in range(count)))
