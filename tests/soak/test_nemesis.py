"""The nemesis of the short tests, for many minutes: seed after seed, on every shape of a fleet.

SOAK_MINUTES (15) is how long all of it takes, NEMESIS_SEED the first seed (1). A failure names its seed and shows what
was done: `NEMESIS_SEED=n SOAK_MINUTES=0 make soak` does that one again.
"""

import itertools
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.fakes.fault_plans import Shape
from tests.fakes.nemesis import suffered
from tests.fakes.postgres import Postgres
from tests.fakes.synth import synthesise

MINUTES = float(os.environ.get("SOAK_MINUTES", "15"))
FIRST_SEED = int(os.environ.get("NEMESIS_SEED", "1"))
LASTS_S = 20.0

SHAPES = {
    "one controller": Shape(),
    "two controllers": Shape(controllers=2, postgres=True),
    "three controllers": Shape(controllers=3, fleets=4, postgres=True),
    "a real agent": Shape(fleets=1, lost_s=2.0),
}

pytestmark = [pytest.mark.soak, pytest.mark.timeout(0)]


@pytest.mark.parametrize("name", SHAPES)
def test_seed_after_seed(name: str, tmp_path: Path, own_postgres: Postgres) -> None:
    """Everything that must hold does after every seed; and among them were losses of every kind."""
    ends = time.monotonic() + MINUTES * 60 / len(SHAPES)
    shape = SHAPES[name]
    real = name == "a real agent"
    if real and shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg on PATH")
    recording = synthesise("blip", tmp_path) if real else None
    counted: Counter[str] = Counter()
    for seed in itertools.count(FIRST_SEED):
        folder = tmp_path / f"seed-{seed}"
        database = own_postgres if shape.postgres else None
        counted += suffered(folder, shape, seed, LASTS_S, database=database, recording=recording)
        shutil.rmtree(folder)
        if time.monotonic() > ends:
            break
    print(f"{name}: seeds {FIRST_SEED} to {seed}: {dict(counted)}")  # noqa: T201 - what was proved
    assert counted["completed"]
    assert MINUTES < 5 or (counted["lost"] and counted["cancelled"])
