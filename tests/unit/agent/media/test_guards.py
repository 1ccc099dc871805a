"""When a step is ended, and in which words."""

import pytest

from agent.media.guards import Bounds, Guard, Sample
from presets.plan import Invocation, Purpose
from presets.problems import MediaFailure
from presets.reasons import Reason

MIB = 1 << 20


def step(media_s: float | None = 1000.0) -> Invocation:
    return Invocation("encode.x.1", Purpose.ENCODE, (), ("out/x.m4a",), None, media_s, 1.0, False)


def guard(bounds: Bounds, media_s: float | None = 1000.0) -> Guard:
    return Guard(step(media_s), bounds, begun_s=50.0)


def sample(
    at_s: float = 51.0,
    *,
    out_time_s: float | None = None,
    written: int = 0,
    touched_ns: int = 0,
    cpu: float = 0.0,
    room: int | None = None,
) -> Sample:
    return Sample(at_s, out_time_s, written, touched_ns, cpu, room)


def reason(failure: MediaFailure | None) -> Reason | None:
    return None if failure is None else failure.reason


# Stalled


@pytest.mark.parametrize(
    "moving",
    [
        {"out_time_s": 1.0},
        {"written": 1},
        {"touched_ns": 1},
        {"cpu": 1.0},
    ],
    ids=["media", "size", "change", "processor"],
)
def test_any_movement_is_progress(moving: dict[str, float]) -> None:
    """Media put out, a file that grows or changes (an index is put in front), or work that shows nothing yet."""
    watched = guard(Bounds(stall_s=120))
    assert watched.judge(sample(50.0)) is None
    assert watched.judge(sample(169.9)) is None
    assert watched.judge(sample(169.95, **moving)) is None  # type: ignore[arg-type]  # names of the parameters
    assert watched.judge(sample(289.9, **moving)) is None  # type: ignore[arg-type]
    assert reason(watched.judge(sample(289.96, **moving))) is Reason.STALLED  # type: ignore[arg-type]


def test_a_process_that_merely_wakes_up_is_stalled() -> None:
    """A hundredth of a second of processor time every second is what waiting costs, not work."""
    watched = guard(Bounds(stall_s=60))
    verdicts = [watched.judge(sample(50.0 + second, cpu=second / 100)) for second in range(61)]
    assert [reason(verdict) for verdict in verdicts] == [None] * 60 + [Reason.STALLED]
    assert verdicts[-1] is not None
    assert "60 s" in verdicts[-1].message


def test_what_never_starts_is_stalled() -> None:
    """The time counts from the step's begin on, also where the first look comes late."""
    assert reason(guard(Bounds(stall_s=60)).judge(sample(51.0))) is None
    late = guard(Bounds(stall_s=60))
    assert late.judge(sample(500.0, out_time_s=5.0)) is None


# Wall time


@pytest.mark.parametrize(
    ("media_s", "wall_s"), [(None, None), (1.0, 3600), (30.0, 3600), (60.0, 7200), (36000.0, 4320000)]
)
def test_time_follows_from_the_media(media_s: float | None, wall_s: float | None) -> None:
    """120 times its duration, an hour at the least; without a duration any time."""
    assert Bounds.of(step(media_s), None).wall_s == wall_s


def test_a_step_that_goes_round_in_circles_is_ended() -> None:
    """However busy it is; the words say how long it ran and how far it came."""
    watched = guard(Bounds.of(step(10.0), None), media_s=10.0)
    assert watched.judge(sample(3649.9, out_time_s=4.0, cpu=3000)) is None
    failure = watched.judge(sample(3650.0, out_time_s=4.1, cpu=3001))
    assert failure is not None
    assert failure.reason is Reason.TIMED_OUT
    assert "ran for 1.0 h, 4 s of media were done of 10 s" in failure.message


# Size


def test_a_size_out_of_hand_is_seen_before_it_is_reached() -> None:
    """From 5 % on it is projected; before, only what is there counts."""
    watched = guard(Bounds(output_bytes=100 * MIB))
    assert watched.judge(sample(51, out_time_s=49.0, written=20 * MIB)) is None
    failure = watched.judge(sample(52, out_time_s=50.0, written=20 * MIB))
    assert failure is not None
    assert failure.reason is Reason.OUTPUT_INVALID
    assert "it wrote 20 MiB and would have come to 400 MiB, where 100 MiB" in failure.message
    assert watched.judge(sample(52, out_time_s=500.0, written=50 * MIB)) is None


@pytest.mark.parametrize("out_time_s", [None, 1.0, 1500.0])
@pytest.mark.parametrize("media_s", [None, 1000.0])
def test_an_absolute_size_holds_always(out_time_s: float | None, media_s: float | None) -> None:
    """Without progress, without a known duration, and beyond the expected end."""
    watched = guard(Bounds(output_bytes=100 * MIB), media_s)
    assert watched.judge(sample(out_time_s=out_time_s, written=100 * MIB)) is None
    failure = watched.judge(sample(out_time_s=out_time_s, written=100 * MIB + 1))
    assert failure is not None
    assert failure.reason is Reason.OUTPUT_INVALID
    assert "would have come" not in failure.message


def test_a_disk_that_will_not_hold_it_is_the_agents_fault() -> None:
    """Ended early, to be tried elsewhere: not when the disk is full and everything else on it fails, too."""
    watched = guard(Bounds())
    assert watched.judge(sample(51, out_time_s=100.0, written=100 * MIB, room=900 * MIB)) is None
    failure = watched.judge(sample(52, out_time_s=100.0, written=100 * MIB, room=899 * MIB))
    assert failure is not None
    assert failure.reason is Reason.SCRATCH_FULL
    assert "would have come to 1000 MiB, and the agent's scratch disk has room for 999 MiB" in failure.message
    assert watched.judge(sample(53, written=0, room=0)) is None
