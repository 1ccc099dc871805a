"""Agents, their machines, supervisors and controllers that die at any point of a job, on S3 and on files."""

from pathlib import Path

import pytest

from tests.acceptance.conftest import Recordings
from tests.fakes.kills import Killing, kills
from tests.fakes.object_server import ObjectServer

RUNS = 4


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 10))])
def test_killed_at_any_point(tmp_path: Path, recordings: Recordings, object_server: ObjectServer, seed: int) -> None:
    """Each job completes: every output whole and once, none lost, and nothing is left staged after the sweep."""
    with Killing(tmp_path, object_server, seconds=60) as world:
        for kill in kills(seed, RUNS):
            print(kill)  # noqa: T201 - pytest shows it where the test fails
            world.suffer(kill)
        world.settle()
    print(dict(world.counted))  # noqa: T201 - as above
    assert world.counted["jobs completed"] == RUNS
