"""What an operation is: typed parameters, a revision, the filters it needs, and how it extends the filter graph."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import ffmpeg
from ffmpeg.schema import StreamType
from ffmpeg.streams.audio import AudioStream as Filtered

from presets.document import AudioSpec, Table
from presets.facts import Chapter
from presets.formats import LAYOUTS
from presets.mixdown import Policy, mixdown
from presets.plan import StepResult, Survey

#: FFmpeg's resampler with a longer filter than its own: see :func:`resampled` for what that gives.
_RESAMPLER = {"filter_size": 256, "cutoff": 0.98, "filter_type": "kaiser", "kaiser_beta": 12}


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


def reshape(
    signal: Signal, *, sample_rate_hz: int | None = None, layout: str | None = None, policy: Policy | None = None
) -> Signal:
    """The signal at another rate or layout, untouched where it is there already.

    Channels are mixed as :func:`presets.mixdown.mixdown` says: a downmix keeps ITU-R BS.775 proportions, scaled so that
    it cannot clip; mono becomes stereo at -3 dB in each channel, which keeps its loudness after EBU R128.
    """
    if layout is not None and layout != signal.layout:
        signal = _mixed(signal, layout, policy)
    rate = sample_rate_hz or signal.sample_rate_hz
    if rate == signal.sample_rate_hz:
        return signal
    return replace(signal, stream=resampled(signal.stream, rate), sample_rate_hz=rate)


def resampled(stream: Filtered, rate_hz: int) -> Filtered:
    """The stream at another sample rate, in float.

    Of half of the lower rate, the band up to 95 % passes within 0.001 dB and 98 % is 6 dB down; what lies above is
    45 dB down at 100 % and 120 dB from 102 % on, as are images above 97 % of an input's band. Other products stay
    below -140 dB of a full-scale tone. FFmpeg's own defaults lose 0.5 dB at 20 kHz of a CD and let images and aliases
    through at -10 to -28 dB there. (Tones from 96 to 44.1, 44.1 to 48, 16 to 48 and 192 to 48 kHz; FFmpeg 5.1, 9.0.)
    """
    return stream.aresample(sample_rate=rate_hz, extra_options=dict(_RESAMPLER)).aformat(
        sample_fmts="fltp", sample_rates=rate_hz
    )


def panned(signal: Signal, layout: str, rows: Sequence[Mapping[int, float]]) -> Signal:
    """The signal in another layout, each channel of which is a sum of the signal's at these gains by index."""
    stream = signal.stream.pan(args="|".join([layout, *(f"c{n}={_sum(row)}" for n, row in enumerate(rows))]))
    return replace(signal, stream=stream, channels=len(rows), layout=layout)


def _mixed(signal: Signal, layout: str, policy: Policy | None) -> Signal:
    if signal.layout is not None:
        return panned(signal, layout, mixdown(signal.layout, layout, policy))
    # FFmpeg knows more layouts than have names here; its own matrix is scaled likewise.
    stream = signal.stream.aresample(extra_options={"rematrix_maxval": 1})
    stream = stream.aformat(sample_fmts="fltp", channel_layouts=layout)
    return replace(signal, stream=stream, channels=len(LAYOUTS[layout]), layout=layout)


def _sum(gains: Mapping[int, float]) -> str:
    return "+".join(f"{decimal(gain)}*c{index}" for index, gain in gains.items()) or "0*c0"


def conform(signal: Signal, delivery: AudioSpec) -> Signal:
    """The signal at the delivery's sample rate and layout: kept where the profile lists it, else the last listed."""
    layout = signal.layout if signal.layout in delivery.layouts else delivery.layouts[-1]
    return reshape(signal, sample_rate_hz=delivery.sample_rate_hz, layout=layout)


def conforming(signal: Signal, delivery: AudioSpec) -> Iterator[tuple[str, str]]:
    """What :func:`conform` changes and why, in words."""
    made, takes = conform(signal, delivery), ", ".join(delivery.layouts)
    if made.layout != signal.layout:
        was = signal.layout or f"{signal.channels} channels"
        how = "mixed down to" if made.channels < signal.channels else "put into"
        because = f"the profile takes {takes}; before anything is measured, since what is delivered is what counts"
        yield f"{was} {how} {made.layout}", because
    if made.sample_rate_hz != signal.sample_rate_hz:
        yield f"resampled from {signal.sample_rate_hz} to {made.sample_rate_hz} Hz", "the profile's rate"


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
