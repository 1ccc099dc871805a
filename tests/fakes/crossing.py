"""Combinations of parameters: all of them in `make soak`, and in `make test` as few as have each value once."""

from collections.abc import Collection, Sequence
from itertools import product
from typing import Any

import pytest


def crossed(*axes: Sequence[str], also: Collection[tuple[str, ...]] = ()) -> list[Any]:
    """Arguments for parametrize: one value of each axis. `make test` has the combinations of `also` besides."""
    length = max(map(len, axes))
    kept = {*also, *(tuple(axis[number % len(axis)] for axis in axes) for number in range(length))}
    assert kept <= {*product(*axes)}
    return [pytest.param(*one, marks=[] if one in kept else pytest.mark.soak) for one in product(*axes)]
