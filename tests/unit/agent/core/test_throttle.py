"""What of a runaway log is sent."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.throttle import LogThrottle

KIB = 1024


def test_an_ordinary_log_is_sent_whole() -> None:
    """Within the burst at once, and for ever at the rate."""
    throttle = LogThrottle(100.0, rate=256 * KIB, burst=1024 * KIB)
    assert [throttle.take(b"x" * 64 * KIB, 100.0) for _ in range(16)] == [b"x" * 64 * KIB] * 16
    for second in range(101, 161):
        assert throttle.take(b"y" * 256 * KIB, float(second)) == b"y" * 256 * KIB
    assert throttle.end() == b""


def test_what_was_left_out_is_told_in_one_line_before_what_follows() -> None:
    """With its size."""
    throttle = LogThrottle(0.0, rate=256 * KIB, burst=64 * KIB)
    assert throttle.take(b"a" * 64 * KIB, 0.0) == b"a" * 64 * KIB
    assert [throttle.take(b"b" * 64 * KIB, 0.0) for _ in range(32)] == [b""] * 32
    assert throttle.take(b"c\n", 1.0) == b"[2.0 MiB of the log not sent: it grew by more than 256 KiB/s]\nc\n"
    assert throttle.take(b"d\n", 1.0) == b"d\n"


def test_the_end_of_a_log_is_always_sent() -> None:
    """It says how FFmpeg fared."""
    throttle = LogThrottle(0.0, rate=1 * KIB, burst=1 * KIB)
    throttle.take(b"a" * KIB, 0.0)
    assert throttle.take(b"b" * KIB, 0.0) == throttle.take(b"the end\n", 0.0) == b""
    assert throttle.end() == b"[1 KiB of the log not sent: it grew by more than 1 KiB/s]\nthe end\n"
    assert throttle.end() == b""


def test_a_piece_above_the_burst_does_not_wait_for_ever() -> None:
    """A full bucket lets it through, and the next ones wait the longer."""
    throttle = LogThrottle(0.0, rate=10, burst=10)
    assert throttle.take(b"z" * 100, 0.0) == b"z" * 100
    assert throttle.take(b"y", 5.0) == b""
    assert throttle.take(b"x", 20.0).endswith(b"x")


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(-1, 3)), max_size=60))
def test_never_more_than_burst_and_rate(steps: list[tuple[int, float]]) -> None:
    """Whatever comes when, even where the clock steps back."""
    throttle = LogThrottle(0.0, rate=1000, burst=5000)
    now_s = latest_s = 0.0
    sent = 0
    for size, pause_s in steps:
        now_s += pause_s
        latest_s = max(latest_s, now_s)
        sent += throttle.take(b"\n" * size, now_s).count(b"\n")
        assert sent <= 5000 + 1000 * latest_s + 5000 + len(steps)
