"""When an agent is unreachable and when it is lost."""

import pytest

from controller.core.liveness import Health, Timers, health, may_expire

TIMERS = Timers(heartbeat_s=5.0, unreachable_s=15.0, lost_s=60.0)


@pytest.mark.parametrize(
    ("silent_s", "expected"),
    [
        (0.0, Health.READY),
        (14.999, Health.READY),
        (15.0, Health.UNREACHABLE),
        (59.999, Health.UNREACHABLE),
        (60.0, Health.LOST),
        (1e9, Health.LOST),
    ],
)
def test_health_by_silence(silent_s: float, expected: Health) -> None:
    """Unreachable comes before lost, each from its moment on."""
    assert health(silent_s, TIMERS) is expected


def test_a_controller_must_have_listened_before_it_may_expire() -> None:
    """After a start every agent has one whole interval to report."""
    assert not may_expire(59.9, TIMERS)
    assert may_expire(60.0, TIMERS)


def test_defaults_show_an_unreachable_agent_in_time() -> None:
    """Unreachable within 20 s, lost after 60 s."""
    assert Timers().unreachable_s <= 20
    assert Timers().lost_s == 60


@pytest.mark.parametrize("wrong", [(0, 1, 2), (-1, 1, 2), (2, 2, 3), (1, 3, 3), (3, 2, 1)])
def test_timers_must_rise(wrong: tuple[float, float, float]) -> None:
    """A heartbeat longer than the patience would lose every agent."""
    with pytest.raises(ValueError, match="heartbeat < unreachable < lost"):
        Timers(*wrong)
