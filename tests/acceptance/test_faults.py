"""Faults on real processes, and what must hold afterwards: seen from outside, by the public API alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mediactl.v1 import job_pb2
from tests.fakes.cli import Home
from tests.fakes.nemesis import Shape, World, plan
from tests.fakes.postgres import Postgres


def _suffer(folder: Path, shape: Shape, seed: int, lasts_s: float, database: Postgres | None = None) -> None:
    faults = plan(seed, shape, lasts_s=lasts_s)
    print(f"seed {seed}, {shape}:", *faults, sep="\n  ")  # noqa: T201 - shown where the test fails
    home = Home(folder)
    with World(home, shape, database=database) as world:
        with world.load(seed) as load:
            world.suffer(faults)
        jobs = world.settle(load)
    import collections; print(len(jobs), collections.Counter(job_pb2.JobState.Name(j.state) for j in jobs), collections.Counter(a.state for j in jobs for a in j.attempts))
    assert any(job.state == job_pb2.JOB_STATE_COMPLETED for job in jobs)
    assert not [job for job in jobs if job.state == job_pb2.JOB_STATE_DEAD]


@pytest.mark.parametrize("seed", [1])
def test_nemesis_of_one_controller(tmp_path: Path, seed: int) -> None:
    """One controller on SQLite."""
    _suffer(tmp_path / "user", Shape(), seed, 8.0)


@pytest.mark.parametrize("seed", [1])
def test_nemesis_of_two_controllers(tmp_path: Path, seed: int, own_postgres: Postgres) -> None:
    """Two controllers on one PostgreSQL, which is killed too."""
    _suffer(tmp_path / "user", Shape(controllers=2, postgres=True), seed, 8.0, own_postgres)
