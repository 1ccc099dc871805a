"""What a whole programme is like beside its loudness, read line by line from what FFmpeg's meters print. Pure.

Ten hours print some hundred megabytes, of which never more than one block is held.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

#: Length of the windows in which levels are measured, in seconds: a momentary block of EBU Tech 3341.
WINDOW_S = 0.4

#: A sample at or beyond this is at full scale: the largest of 16 bits is 0.99997.
_FULL_SCALE = 0.9999

#: A peak this flat (the mean length of its runs of equal samples, each weighted by itself) was clipped: at full scale,
#: and below it, where low tones of few bits have flat peaks by nature.
_CLIPPED_RUN = 3
_CLIPPED_RUN_BELOW = 6
_CLIPPED_BELOW_COUNT = 24

#: Windows below this are no measure of phase, in dBFS.
_PHASE_GATE_DBFS = -60.0
_SILENT_DBFS = -60.0

#: The noise floor is the level that 95 % of the windows exceed (L95 of ISO 1996); digital silence is left out.
_FLOOR_SHARE = 0.05
_DIGITAL_SILENCE_DBFS = -140.0
_BINS_PER_DB = 10

#: Silences that are listed; all are counted. What an attempt learnt is kept with the job, which has an end.
_LISTED = 2000


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel: peaks and RMS in dB below full scale (None: digital silence), and its mean as a share of it."""

    true_peak_dbtp: float | None
    sample_peak_dbfs: float | None
    rms_dbfs: float | None
    dc_offset: float
    full_scale_samples: int

    @property
    def is_silent(self) -> bool:
        """Whether no sample reaches -60 dBFS: a cable that was out, a side that was not recorded."""
        return self.sample_peak_dbfs is None or self.sample_peak_dbfs < _SILENT_DBFS


@dataclass(frozen=True, slots=True)
class Phase:
    """Two channels against one another: 1 is the same, 0 unrelated, -1 antiphase.

    ``worst_correlation`` is of the worst window, which begins at ``worst_at_s``; None where no window is loud enough.
    ``mono_sum_db`` is the level of the sum in mono beside that of equal channels: 0 at best, -3 for unrelated ones.
    """

    correlation: float | None
    worst_correlation: float | None
    worst_at_s: float | None
    mono_sum_db: float | None


@dataclass(frozen=True, slots=True)
class Analysis:
    """A programme of some seconds.

    ``longest_run`` is how many samples at full scale follow one another at least, in the worst place.
    ``hard_clipped_at_dbfs`` is the level at which peaks are cut off flat; None where they are not.
    ``silences`` are (start, end) in seconds, the first two thousand of ``silence_count``, which last ``silence_s``.
    """

    max_momentary_lufs: float | None
    max_short_term_lufs: float | None
    channels: tuple[Channel, ...]
    longest_run: int
    hard_clipped_at_dbfs: float | None
    noise_floor_dbfs: float | None
    phase: Phase | None
    silence_count: int
    silence_s: float
    silences: tuple[tuple[float, float], ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        phase = document["phase"]
        return cls(
            **{
                **document,
                "channels": tuple(Channel(**channel) for channel in document["channels"]),
                "phase": None if phase is None else Phase(**phase),
                "silences": tuple((start, end) for start, end in document["silences"]),
            }
        )


def analyse(loudness: Iterable[str], levels: Iterable[str], silences: Iterable[str], duration_s: float) -> Analysis:
    """The figures of a programme that lasts ``duration_s``, from the lines of the files that its meters wrote.

    ``loudness`` is of ``ebur128=peak=true:metadata=1``; ``levels`` of ``astats`` over windows of :data:`WINDOW_S`,
    behind the channels of stereo those of its half sum and half difference; ``silences`` of ``silencedetect``.
    """
    momentary, short_term, true_peaks = _loudest(_blocks(loudness))
    meter = _Levels(len(true_peaks), duration_s)
    for at_s, values in _blocks(levels):
        meter.take(at_s, values)
    count, total_s, listed = _silences(silences, duration_s)
    return Analysis(
        max_momentary_lufs=momentary,
        max_short_term_lufs=short_term,
        channels=meter.channels(true_peaks),
        longest_run=meter.longest_run,
        hard_clipped_at_dbfs=meter.clipped_at_dbfs,
        noise_floor_dbfs=meter.floor.percentile(_FLOOR_SHARE),
        phase=meter.phase,
        silence_count=count,
        silence_s=total_s,
        silences=listed,
    )


def decibels(amplitude: float) -> float | None:
    """Of full scale; None for nothing."""
    return 20 * math.log10(amplitude) if amplitude > 0 else None


def _blocks(lines: Iterable[str]) -> Iterator[tuple[float, dict[str, float]]]:
    """What ``ametadata=mode=print`` wrote: for each frame its time in seconds and its values."""
    at_s, values = 0.0, dict[str, float]()
    for line in lines:
        if line.startswith("frame:"):
            if values:
                yield at_s, values
            at_s, values = _number(line.rpartition("pts_time:")[2]), {}
        else:
            key, _, value = line.partition("=")
            values[key.removeprefix("lavfi.")] = _number(value)
    if values:
        yield at_s, values


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return -math.inf if math.isnan(number) else number


def _loudest(blocks: Iterator[tuple[float, dict[str, float]]]) -> tuple[float | None, float | None, dict[int, float]]:
    """The highest momentary and short-term loudness, and the true peak of each channel as an amplitude."""
    momentary = short_term = -math.inf
    peaks: dict[int, float] = {}
    for at_s, values in blocks:
        # Windows that are not full yet tell of the silence before the programme.
        if at_s > WINDOW_S - 0.15:
            momentary = max(momentary, values.get("r128.M", -math.inf))
        if at_s > 3 - 0.15:
            short_term = max(short_term, values.get("r128.S", -math.inf))
        for key, value in values.items():
            if key.startswith("r128.true_peaks_ch"):
                channel = int(key.removeprefix("r128.true_peaks_ch"))
                peaks[channel] = max(value, peaks.get(channel, 0.0))
    return _audible(momentary), _audible(short_term), peaks


def _audible(lufs: float) -> float | None:
    # What the meter shows for less is a number that stands for nothing.
    return lufs if lufs > -120 else None


def _silences(lines: Iterable[str], duration_s: float) -> tuple[int, float, tuple[tuple[float, float], ...]]:
    count, total_s, start = 0, 0.0, None
    listed: list[tuple[float, float]] = []

    def ended(begin: float, end: float) -> None:
        nonlocal count, total_s
        count += 1
        total_s += end - begin
        if len(listed) < _LISTED:
            listed.append((round(begin, 3), round(end, 3)))

    for _, values in _blocks(lines):
        # One frame may hold the end of one silence and the beginning of the next.
        if (end := values.get("silence_end")) is not None and start is not None:
            ended(start, end)
            start = None
        if (begin := values.get("silence_start")) is not None:
            start = max(begin, 0.0)
    if start is not None and duration_s > start:
        ended(start, duration_s)
    return count, round(total_s, 6), tuple(listed)


class _Histogram:
    """How many windows have which level, to a tenth of a decibel."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def take(self, level_db: float) -> None:
        bin_ = round(level_db * _BINS_PER_DB)
        self._counts[bin_] = self._counts.get(bin_, 0) + 1

    def percentile(self, share: float) -> float | None:
        wanted = share * sum(self._counts.values())
        seen = 0
        for bin_ in sorted(self._counts):
            seen += self._counts[bin_]
            if seen >= wanted:
                return bin_ / _BINS_PER_DB
        return None


@dataclass(slots=True)
class _Sums:
    """What adds up of one channel over the windows; of its highest sample how often it came, and how flat peaks are."""

    energy: float = 0.0
    mean: float = 0.0
    full_scale: int = 0
    highest: float = 0.0
    count: int = 0
    run: float = 0.0

    def take(self, values: Mapping[str, float], prefix: str, seconds: float) -> None:
        peak = max(abs(values.get(prefix + "Min_level", 0.0)), abs(values.get(prefix + "Max_level", 0.0)))
        # Of the lowest and the highest sample together, in number and in the mean length of their runs.
        count, run = int(values.get(prefix + "Peak_count", 0.0)), 10 ** (values.get(prefix + "Flat_factor", 0.0) / 20)
        self.energy += seconds * 10 ** (values[prefix + "RMS_level"] / 10)
        self.mean += seconds * values.get(prefix + "DC_offset", 0.0)
        if peak >= _FULL_SCALE:
            self.full_scale += count
        if peak > self.highest + 1e-6:
            self.highest, self.count, self.run = peak, 0, 0.0
        if peak > self.highest - 1e-6:
            self.count += count
            self.run = max(self.run, run)

    @property
    def clipped(self) -> bool:
        if self.highest >= _FULL_SCALE:
            return self.run >= _CLIPPED_RUN
        return self.run >= _CLIPPED_RUN_BELOW and self.count >= _CLIPPED_BELOW_COUNT


class _Levels:
    """What adds up over the windows, of each channel and of two against one another."""

    def __init__(self, channels: int, duration_s: float) -> None:
        self.floor = _Histogram()
        self._duration_s = duration_s
        self._seconds = 0.0
        self._channels = [_Sums() for _ in range(channels)]
        self._middle = 0.0
        self._side = 0.0
        self._worst: tuple[float, float] | None = None

    def take(self, at_s: float, values: Mapping[str, float]) -> None:
        seconds = min(WINDOW_S, max(self._duration_s - at_s, 0.0))
        powers = [
            10 ** (values[key] / 10)
            for number in range(len(self._channels) + 2)
            if (key := f"astats.{number + 1}.RMS_level") in values
        ]
        own, beside = powers[: len(self._channels)], powers[len(self._channels) :]
        if not own or not seconds:
            return
        self._seconds += seconds
        for number, sums in enumerate(self._channels[: len(own)], start=1):
            sums.take(values, f"astats.{number}.", seconds)
        mean = sum(own) / len(own)
        if seconds > WINDOW_S / 2 and mean > 10 ** (_DIGITAL_SILENCE_DBFS / 10):
            self.floor.take(10 * math.log10(mean))
        if len(beside) == 2:
            self._middle += seconds * beside[0]
            self._side += seconds * beside[1]
            if min(own) > 10 ** (_PHASE_GATE_DBFS / 10):
                found = _correlation(own, beside)
                self._worst = min(self._worst or (found, at_s), (found, at_s))

    def channels(self, true_peaks: Mapping[int, float]) -> tuple[Channel, ...]:
        return tuple(
            Channel(
                # FFmpeg prints true peaks to a thousandth of full scale and samples to a millionth.
                true_peak_dbtp=decibels(max(true_peaks.get(number, 0.0), sums.highest)),
                sample_peak_dbfs=decibels(sums.highest),
                rms_dbfs=decibels(math.sqrt(sums.energy / self._seconds)) if self._seconds else None,
                dc_offset=round(sums.mean / self._seconds, 6) if self._seconds else 0.0,
                full_scale_samples=sums.full_scale,
            )
            for number, sums in enumerate(self._channels)
        )

    @property
    def longest_run(self) -> int:
        return max((round(max(s.run, 1.0)) for s in self._channels if s.highest >= _FULL_SCALE), default=0)

    @property
    def clipped_at_dbfs(self) -> float | None:
        return decibels(max((sums.highest for sums in self._channels if sums.clipped), default=0.0))

    @property
    def phase(self) -> Phase | None:
        if len(self._channels) != 2:
            return None
        energies = [sums.energy for sums in self._channels]
        both = sum(energies) / 2
        worst, at_s = self._worst or (None, None)
        return Phase(
            correlation=_correlation(energies, (self._middle, self._side)) if min(energies) > 0 else None,
            worst_correlation=worst,
            worst_at_s=at_s,
            mono_sum_db=10 * math.log10(self._middle / both) if self._middle > 0 and both > 0 else None,
        )


def _correlation(powers: Sequence[float], sums: Sequence[float]) -> float:
    """Of two channels, from the mean squares of both and of their half sum and half difference (M² - S² = L·R)."""
    return max(-1.0, min(1.0, (sums[0] - sums[1]) / math.sqrt(powers[0] * powers[1])))
