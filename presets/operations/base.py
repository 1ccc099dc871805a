"""What an operation is: typed parameters, a revision, the filters it needs, and how it extends the filter graph."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from ffmpeg.streams.audio import AudioStream as Filtered

from presets.document import AudioSpec, Table
from presets.facts import Chapter
from presets.formats import LAYOUTS
from presets.plan import StepResult


@dataclass(frozen=True, slots=True)
class Signal:
    """Audio at some point of the filter graph: what made it, and its rate and layout there.

    ``layout`` is a name in :data:`presets.formats.LAYOUTS`, or None where FFmpeg's layout is none of them.
    ``length_s`` is how many seconds it lasts, as far as headers or measurements tell. A ``provisional`` one depends on
    measurements that are not made yet: its filters still contain placeholders in braces. ``chapters`` are kept through
    steps that leave the length as it is, and dropped by others; a step that knows better sets them.
    """

    name: str
    stream: Filtered
    sample_rate_hz: int
    channels: int
    layout: str | None
    length_s: float | None = None
    provisional: bool = False
    chapters: tuple[Chapter, ...] = ()


class Context(Protocol):
    """What surrounds a step: the delivery, other chains, and what can be found out about signals beforehand."""

    @property
    def delivery(self) -> AudioSpec:
        """The audio stream that is delivered."""
        ...

    def of(self, chain: str) -> Signal | None:
        """What another chain makes; None where it is skipped. The step must name it in :meth:`Operation.hears`."""
        ...

    def measured(self, signal: Signal) -> StepResult | None:
        """The signal's length and loudness, found by an invocation of its own before; None as long as that is to come.

        A step that is answered None makes a ``provisional`` signal.
        """
        ...

    def rendered(self, signal: Signal, *, endless: bool = False) -> Signal:
        """The signal from a file that an invocation of its own writes before; ``endless``: again and again."""
        ...

    def decide(self, choice: str, because: str) -> None:
        """Note for the plan what this step chose and why, in words a media engineer can check."""
        ...


class Operation(Table, ABC):
    """One step of a chain.

    A subclass is the step's table: its fields are the parameters, ``op`` names it. ``revision`` counts changes of
    what comes out for the same parameters, and is part of every digest of a preset that uses it. ``filters`` are the
    FFmpeg filters it may use. Only one that ``joins`` takes more than one signal.
    """

    revision: ClassVar[int]
    filters: ClassVar[tuple[str, ...]]
    joins: ClassVar[bool] = False

    op: str

    @abstractmethod
    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Extend the graph behind ``signals``: one, or for an operation that joins, one or more.

        :raises MediaFailure: these signals cannot be processed so.
        """

    @property
    def keeps_length(self) -> bool:
        """Whether what comes out is as long as the longest signal that goes in."""
        return True

    def hears(self) -> tuple[str, ...]:
        """The other chains that this step depends on without taking them in."""
        return ()

    def unknown_sources(self, sources: Sequence[str]) -> tuple[str, ...]:
        """Names in this operation's parameters that are none of its chain's ``sources``."""
        return ()


def reshape(signal: Signal, *, sample_rate_hz: int | None = None, layout: str | None = None) -> Signal:
    """The signal at another rate or layout, untouched where it is there already.

    A downmix keeps ITU-R BS.775 proportions, scaled so that it cannot clip; mono becomes stereo at -3 dB in each
    channel, which keeps its loudness after EBU R128.
    """
    rate = sample_rate_hz or signal.sample_rate_hz
    wanted = layout or signal.layout
    if rate == signal.sample_rate_hz and wanted == signal.layout:
        return signal
    # One explicit resampler converts both; without it FFmpeg would insert one of its own, which may clip downmixes.
    stream = signal.stream.aresample(sample_rate=rate, extra_options={"rematrix_maxval": 1})
    if wanted is None:
        stream = stream.aformat(sample_fmts="fltp", sample_rates=rate)
        return replace(signal, stream=stream, sample_rate_hz=rate)
    stream = stream.aformat(sample_fmts="fltp", sample_rates=rate, channel_layouts=wanted)
    return replace(signal, stream=stream, sample_rate_hz=rate, channels=LAYOUTS[wanted], layout=wanted)


def conform(signal: Signal, delivery: AudioSpec) -> Signal:
    """The signal at the delivery's sample rate and layout: kept where the profile lists it, else the last listed."""
    layout = signal.layout if signal.layout in delivery.layouts else delivery.layouts[-1]
    return reshape(signal, sample_rate_hz=delivery.sample_rate_hz, layout=layout)


def gain(signal: Signal, gain_db: float | str) -> Signal:
    """The signal louder by ``gain_db`` decibels and otherwise unchanged; a string is a placeholder in braces."""
    amount = gain_db if isinstance(gain_db, str) else decimal(gain_db)
    return replace(signal, stream=signal.stream.volume(volume=f"{amount}dB", precision="double"))


def decimal(value: float) -> str:
    """A number as FFmpeg reads it, never in exponent notation, to a millionth."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def longest(signals: Iterable[Signal]) -> float | None:
    """How many seconds the longest lasts; None where one of them does not say."""
    lengths = [signal.length_s for signal in signals]
    return None if None in lengths else max(length for length in lengths if length is not None)
