"""When a running step is to be ended, and why: pure rules over what was seen of it, times given from outside."""

from dataclasses import dataclass

from agent.core.sizes import in_words
from presets.plan import Invocation
from presets.problems import MediaFailure
from presets.reasons import Reason

STALL_S = 120.0
#: A process that hangs may still wake up now and then; one that works on something without a word burns more.
_STALL_CPU_S = 1.0

#: No encoder is this slow: x265 at its slowest in 4K on one core takes about a minute for a second of media.
WALL_FACTOR = 120.0
WALL_FLOOR_S = 3600.0

#: From this share of a step on, its output's size is projected; before, headers and look-ahead distort it.
_PROJECTED_FROM = 0.05


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of a step at ``at_s`` seconds of a monotonic clock.

    ``out_time_s`` is the media put out so far (None: not a packet), ``written_bytes`` the size of the files it writes
    and ``touched_ns`` when the latest of them was changed, ``cpu_seconds`` what it used, and ``room_bytes`` what it may
    still write on its disk (None: not known).
    """

    at_s: float
    out_time_s: float | None
    written_bytes: int
    touched_ns: int
    cpu_seconds: float
    room_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a step may take: seconds without any movement, seconds in all, and bytes that it writes. None: anything."""

    stall_s: float = STALL_S
    wall_s: float | None = None
    output_bytes: int | None = None

    @classmethod
    def of(cls, step: Invocation, output_bytes: int | None) -> "Bounds":
        """For a step of a plan: the time follows from how much media it goes through."""
        wall_s = None if step.media_s is None else max(WALL_FLOOR_S, WALL_FACTOR * step.media_s)
        return cls(wall_s=wall_s, output_bytes=output_bytes)


class Guard:
    """Watches one step, which began at ``begun_s`` of the clock that its samples have."""

    def __init__(self, step: Invocation, bounds: Bounds, begun_s: float) -> None:
        self._step = step
        self._bounds = bounds
        self._begun_s = begun_s
        self._seen: tuple[object, ...] = ()
        self._cpu_seconds = 0.0
        self._moved_s = begun_s

    def judge(self, sample: Sample) -> MediaFailure | None:
        """Why the step is to be ended now; None: it may go on. Call it in the order of time."""
        return self._stalled(sample) or self._too_long(sample) or self._too_large(sample) or self._no_room(sample)

    def _stalled(self, sample: Sample) -> MediaFailure | None:
        now = (sample.out_time_s, sample.written_bytes, sample.touched_ns)
        worked = sample.cpu_seconds - self._cpu_seconds >= _STALL_CPU_S
        if now != self._seen or worked:
            self._seen, self._cpu_seconds, self._moved_s = now, sample.cpu_seconds, sample.at_s
        if sample.at_s - self._moved_s < self._bounds.stall_s:
            return None
        return MediaFailure(
            Reason.STALLED,
            f"FFmpeg made no more progress in step {self._step.id} and was ended: for {self._bounds.stall_s:g} s it "
            "put nothing out and used no processor; the storage of the input, or a device, may hang",
        )

    def _too_long(self, sample: Sample) -> MediaFailure | None:
        wall_s = self._bounds.wall_s
        if wall_s is None or sample.at_s - self._begun_s < wall_s:
            return None
        return out_of_time(self._step, self._bounds, sample.out_time_s)

    def _too_large(self, sample: Sample) -> MediaFailure | None:
        most = self._bounds.output_bytes
        projected = self._projected(sample)
        if most is None or projected <= most:
            return None
        return MediaFailure(
            Reason.OUTPUT_INVALID,
            f"{self._growth(sample, projected)}, where {in_words(most)} would be several times what the profile and "
            "the duration lead to; timestamps of the input may jump",
        )

    def _no_room(self, sample: Sample) -> MediaFailure | None:
        if sample.room_bytes is None:
            return None
        there = sample.written_bytes + sample.room_bytes
        projected = self._projected(sample)
        if projected <= there:
            return None
        return MediaFailure(
            Reason.SCRATCH_FULL,
            f"{self._growth(sample, projected)}, and the agent's scratch disk has room for {in_words(there)}",
        )

    def _projected(self, sample: Sample) -> int:
        """How large what the step writes will be; as large as it is where that cannot be foreseen."""
        done = min(1.0, (sample.out_time_s or 0.0) / self._step.media_s) if self._step.media_s else 0.0
        return sample.written_bytes if done < _PROJECTED_FROM else int(sample.written_bytes / done)

    def _growth(self, sample: Sample, projected: int) -> str:
        wrote = f"FFmpeg was ended in step {self._step.id}: it wrote {in_words(sample.written_bytes)}"
        return wrote if projected == sample.written_bytes else f"{wrote} and would have come to {in_words(projected)}"


def out_of_time(step: Invocation, bounds: Bounds, out_time_s: float | None) -> MediaFailure:
    """What is said of a step that took longer than it may."""
    return MediaFailure(
        Reason.TIMED_OUT,
        f"step {step.id} ran for {_hours(bounds.wall_s or 0.0)}, {_hours(out_time_s or 0.0)} of media were done of "
        f"{_hours(step.media_s or 0.0)}, and it was ended: the machine is overloaded, or FFmpeg runs in circles",
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"
