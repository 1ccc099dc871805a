"""What the host announces, and what is made of it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from agent.core.notices import (
    LEAD_S,
    MARGIN_S,
    Notice,
    rebalance_recommendation,
    scheduled_events,
    spot_interruption,
    stance,
)

NOW = datetime(2026, 5, 1, 6, 0, tzinfo=UTC).timestamp()
EVENT = {
    "NotBefore": "1 May 2026 06:30:00 GMT",
    "NotAfter": "1 May 2026 08:30:00 GMT",
    "Code": "system-reboot",
    "Description": "scheduled reboot",
    "EventId": "instance-event-0d59937288b749b32",
    "State": "active",
}


def test_a_spot_interruption_is_understood() -> None:
    """As documented: action and time."""
    [notice] = spot_interruption('{"action": "stop", "time": "2026-05-01T06:02:00Z"}')
    assert notice == Notice("EC2 spot interruption (stop)", NOW + 120)
    assert notice.told == "EC2 spot interruption (stop) at 2026-05-01T06:02:00Z"


def test_scheduled_events_are_understood() -> None:
    """Times as HTTP writes them; what was completed or cancelled counts no more; the end may be open."""
    over = [{**EVENT, "State": state} for state in ("completed", "canceled", "Cancelled")]
    retired = {"NotBefore": "2 May 2026 06:00:00 GMT", "Code": "instance-retirement", "State": "active"}
    assert scheduled_events(json.dumps([EVENT, *over, retired])) == [
        Notice("EC2 scheduled event system-reboot (scheduled reboot)", NOW + 1800, NOW + 9000),
        Notice("EC2 scheduled event instance-retirement (no description)", NOW + 86_400),
    ]
    assert scheduled_events("[]") == []


def test_a_rebalance_recommendation_is_understood() -> None:
    """It names no time at which anything happens."""
    [notice] = rebalance_recommendation('{"noticeTime": "2026-05-01T06:00:00Z"}')
    assert notice.at_s is None
    assert notice.told.startswith("EC2 rebalance recommendation")


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((spot_interruption, text) for text in ("", "<html>", "[]", "{}", '{"action": 1, "time": "x"}')),
        (spot_interruption, '{"action": "stop", "time": "soon"}'),
        *((scheduled_events, text) for text in ("", "{}", "[1]", '[{"Code": "x"}]')),
        (scheduled_events, json.dumps([{**EVENT, "NotBefore": "soon"}])),
        *((rebalance_recommendation, text) for text in ("", "{}", '{"noticeTime": "x"}')),
    ],
)
def test_what_is_none_is_refused(read: Callable[[str], list[Notice]], text: str) -> None:
    """Nothing is made of what can't be read."""
    with pytest.raises(ValueError):  # noqa: PT011 - of whatever kind
        read(text)


def test_texts_of_the_host_are_harmless() -> None:
    """They go to logs and terminals."""
    [notice] = scheduled_events(json.dumps([{**EVENT, "Description": "a\x1b[31m\n" + "b" * 1000}]))
    assert notice.told.isprintable()
    assert len(notice.told) < 300


def test_notices_are_heeded_when_they_come_near() -> None:
    """First nothing new is taken, then what runs is handed back; an event that is over changes nothing."""
    event = Notice("x", NOW, NOW + 600)
    for ago_s, taken, hand_back in (
        (-LEAD_S - 1, True, False),
        (-LEAD_S, False, False),
        (-MARGIN_S - 1, False, False),
        (-MARGIN_S, False, True),
        (599, False, True),
        (600, True, False),
    ):
        now = stance([event], NOW + ago_s)
        assert (now.reason == "", now.hand_back) == (taken, hand_back), ago_s
    assert stance([], NOW) == stance([Notice("far", NOW + 1e6)], NOW)


def test_all_that_is_near_is_told() -> None:
    """A recommendation alone hands nothing back."""
    now = stance([Notice("a"), Notice("b", NOW + 60), Notice("far", NOW + 1e6)], NOW)
    assert (now.reason, now.hand_back) == ("a; b at 2026-05-01T06:01:00Z", False)
