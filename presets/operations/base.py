"""What an operation is: typed parameters, a revision, the filters it needs, and how it extends the filter graph."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import ffmpeg
from ffmpeg.schema import StreamType
from ffmpeg.streams.audio import AudioStream as Filtered

from presets.document import AudioSpec, Table
from presets.formats import LAYOUTS
from presets.plan import StepResult, Survey


@dataclass(frozen=True, slots=True)
class Signal:
    """Audio at some point of the filter graph: what made it, and its rate and layout there.

    ``layout`` is a name in :data:`presets.formats.LAYOUTS`, or None where FFmpeg's layout is none of them.
    ``length_s`` is how many seconds it lasts, as far as headers or measurements tell. A ``provisional`` one depends on
    measurements that are not made yet: its filters still contain placeholders in braces.
    """

    name: str
    stream: Filtered
    sample_rate_hz: int
    channels: int
    layout: str | None
    length_s: float | None = None
    provisional: bool = False


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

    def surveyed(self) -> Survey | None:
        """Loudness and quietest pause of what reaches this step; None as long as that is to come.

        One survey serves all steps that follow one another and keep the level, so it is made before the first of them.
        """
        ...

    def heard(self, signal: Signal) -> Survey | None:
        """What the meters that a signal's filters end with hear, by an invocation of its own; None until they have."""
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
    FFmpeg filters it may use. Only one that ``joins`` takes more than one signal. Behind one that ``keeps_level``
    loudness and pauses are about what they were before it, so that what was found out about them still serves.
    """

    revision: ClassVar[int]
    filters: ClassVar[tuple[str, ...]]
    joins: ClassVar[bool] = False
    keeps_level: ClassVar[bool] = False

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


def split_at(stream: Filtered, edges_hz: Sequence[float], order: str) -> tuple[Filtered, ...]:
    """The bands between ``edges_hz``, lowest first: Linkwitz-Riley filters, whose bands add up to a flat response."""
    # The library's own wrapper counts one band too few.
    bands = ffmpeg.filter_multi_output(
        stream,
        name="acrossover",
        input_typings=(StreamType.audio,),
        output_typings=(StreamType.audio,) * (len(edges_hz) + 1),
        split=" ".join(map(decimal, edges_hz)),
        order=order,
    )
    return tuple(bands.audio(number) for number in range(len(edges_hz) + 1))


def decimal(value: float) -> str:
    """A number as FFmpeg reads it, never in exponent notation, to a millionth."""
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def longest(signals: Iterable[Signal]) -> float | None:
    """How many seconds the longest lasts; None where one of them does not say."""
    lengths = [signal.length_s for signal in signals]
    return None if None in lengths else max(length for length in lengths if length is not None)
