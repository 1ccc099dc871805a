"""Which tasks count as the same: keys of lanes and the reach of paths."""

import json
from dataclasses import fields, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.fitting import beneath
from controller.core.lanes import LaneFacts, reach

LANE = LaneFacts("default", "night", 5, "class", "{}", "[]", "[]")


def _other(name: str) -> LaneFacts:
    change: dict[str, Any] = {name: 6 if name == "priority" else "other"}
    return replace(LANE, **change)


def test_equal_facts_have_equal_keys() -> None:
    """Whoever makes the key, and when."""
    assert replace(LANE).key == LANE.key
    assert len(LANE.key) == 24


@pytest.mark.parametrize("name", [field.name for field in fields(LaneFacts)])
def test_every_fact_tells_lanes_apart(name: str) -> None:
    """A lane is one of each."""
    other = _other(name)
    assert other.key != LANE.key


@pytest.mark.parametrize("name", [field.name for field in fields(LaneFacts)])
def test_feasibility_is_a_matter_of_class_labels_and_reach(name: str) -> None:
    """Who may be leased the tasks does not depend on whose they are or how urgent."""
    other = _other(name)
    assert (other.feasibility_key != LANE.feasibility_key) == (name in ("class_key", "require", "reach"))


@pytest.mark.parametrize(
    ("paths", "roots", "holding"),
    [
        ([], ["/media"], []),
        (["/media/a", "/media/deep/b"], ["/media"], [["/media"]]),
        (["/media/a", "/nas/b"], ["/media", "/nas"], [["/media"], ["/nas"]]),
        (["/media/sub/a"], ["/media", "/media/sub"], [["/media", "/media/sub"]]),
        (["/media/a"], ["/media/sub"], [[]]),
        (["/mediana/a"], ["/media"], [[]]),
        (["/anything"], ["/"], [["/"]]),
        (["/a", "/b"], [], [[]]),
        (["s3://b/a", "/b"], ["/", "s3://"], [["/"], ["s3://"]]),
        (["s3://b/f/a", "s3://b/g"], ["s3://", "s3://b/f/"], [["s3://"], ["s3://", "s3://b/f/"]]),
        (["s3://b/f/a"], ["/", "s3x://", "s3://b/fo/"], [[]]),
    ],
)
def test_reach_names_the_roots_that_hold_each_path(
    paths: list[str], roots: list[str], holding: list[list[str]]
) -> None:
    """Once for all paths alike; a path that no root holds is told apart from no path at all."""
    assert json.loads(reach(paths, roots)) == holding


_NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(lambda names: "/" + "/".join(names))


@given(
    st.lists(_NAMES, max_size=4), st.lists(_NAMES, max_size=4), st.sets(_NAMES, max_size=4), st.sets(_NAMES, max_size=3)
)
def test_paths_of_equal_reach_are_reached_by_the_same_agents(
    some: list[str], others: list[str], roots: set[str], declared: set[str]
) -> None:
    """Whichever of the known roots an agent declares."""
    if reach(some, roots) != reach(others, roots):
        return
    agent = declared & roots
    assert all(beneath(path, agent) for path in some) == all(beneath(path, agent) for path in others)


@given(st.lists(_NAMES, max_size=5), st.lists(_NAMES, max_size=4), st.randoms())
def test_reach_knows_no_order(paths: list[str], roots: list[str], dice: Random) -> None:
    """Of paths or of roots."""
    mixed, other = list(paths), list(roots)
    dice.shuffle(mixed)
    dice.shuffle(other)
    assert reach(mixed, other) == reach(paths, roots)
