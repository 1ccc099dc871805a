"""How far an attempt has come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.progress import CEILING, Meter

_steps = st.lists(
    st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 500.0), st.lists(st.floats(-1.0, 2.0), max_size=5)), max_size=8
)


@given(_steps)
def test_it_never_falls_and_never_completes(steps: list[tuple[float, float, list[float]]]) -> None:
    """Whatever the weights and fractions, each reading is at least the one before and below completion."""
    meter = Meter()
    readings = [meter.value]
    for weight, others, fractions in steps:
        meter.begin(weight, weight + others)
        readings += [meter.at(fraction) for fraction in fractions]
        readings.append(meter.end())
    assert readings == sorted(readings)
    assert readings[0] == 0.0
    assert readings[-1] <= CEILING < 1.0


def test_steps_share_by_weight() -> None:
    """A quarter of the weight is a quarter of the way, halfway through it an eighth."""
    meter = Meter()
    meter.begin(1.0, 4.0)
    assert meter.at(0.5) == pytest.approx(CEILING / 8)
    assert meter.end() == pytest.approx(CEILING / 4)
    meter.begin(3.0, 3.0)
    assert meter.end() == pytest.approx(CEILING)


def test_a_late_step_slows_and_does_not_turn_back() -> None:
    """A plan that grows leaves the value where it is and shares out what is left."""
    meter = Meter()
    meter.begin(1.0, 2.0)
    before = meter.end()
    meter.begin(1.0, 4.0)
    assert meter.value == before
    assert meter.end() == pytest.approx(before + (CEILING - before) / 4)


def test_a_plan_without_weight_is_done_with_its_step() -> None:
    """No weight left means that this step is all there is."""
    meter = Meter()
    meter.begin(0.0, 0.0)
    assert meter.end() == pytest.approx(CEILING)
