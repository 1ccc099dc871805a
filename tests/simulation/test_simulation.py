"""Proof that the simulation finds what is broken, and that a seed plays the same way every time.

The seeds themselves are in `test_even_seeds.py` and `test_odd_seeds.py`, which run beside each other.
`python -m tests.simulation SEED [--trace]` plays one alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.sabotage import SABOTAGES
from tests.simulation.world import ALWAYS_PLAYED, play, simulate

FOUND_WITHIN = 600
SOAK_SEEDS = 50_000
SOAK_PIECE = 2_500
REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", SABOTAGES)
def test_a_broken_rule_is_found(name: str) -> None:
    """Within a few hundred seeds, all of which pass while the rule stands."""
    with SABOTAGES[name]():
        failed = next((seed for seed in range(FOUND_WITHIN) if simulate(seed, patient=False).problems), None)
    assert failed is not None
    assert simulate(failed).problems == ()


@pytest.mark.parametrize("seed", [1_000_730])
def test_a_seed_that_found_something_passes(seed: int) -> None:
    """1000730: the end of an attempt that nobody held was not counted, and its agent ignored the lease to publish."""
    assert not simulate(seed).problems


@pytest.mark.parametrize("seed", [3, 44])
def test_a_seed_plays_the_same_way_again(seed: int) -> None:
    """In another process, where sets have another order, and after other seeds in this one."""
    command = [sys.executable, "-m", "tests.simulation", str(seed), "--trace"]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    elsewhere = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY, env=environment)
    simulate(seed + 1)
    here = simulate(seed, whole_trace=True)
    assert here.trace in elsewhere.stdout
    assert len(here.trace.splitlines()) > 20


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("first", [ALWAYS_PLAYED, *range(1_000_000, 1_000_000 + SOAK_SEEDS, SOAK_PIECE)])
def test_many_more_seeds(first: int) -> None:
    """The next ones after those that `make test` plays, and fifty thousand others."""
    play(range(first, first + SOAK_PIECE))
