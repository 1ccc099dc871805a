"""A preset's chains as an FFmpeg filter graph over the inputs in the workspace."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from ffmpeg.streams.audio import AudioStream as Filtered
from ffmpeg.streams.av import AVStream
from ffmpeg.streams.video import VideoStream as FilteredPicture

from presets import picture
from presets.completeness import declared_s
from presets.document import (
    AudioSpec,
    Chain,
    Given,
    Has,
    Media,
    NotGiven,
    ParameterIs,
    PresetDocument,
    ProfileDocument,
    VideoSpec,
)
from presets.facts import AudioStream, MediaFacts, VideoStream
from presets.formats import CHECKSUMMED, LAYOUTS, has_jumping_clock, layout_of, stated_layout
from presets.intent import Intent, default_role
from presets.opening import opened
from presets.operations import Extract, Loudness, Operation, meters
from presets.operations.base import Signal, conform, conforming, decimal
from presets.passes import Passes
from presets.picture import PictureSource
from presets.plan import Decision, StepResult, Survey
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.semantics import last_chain
from presets.steps import operations
from presets.survey import MOMENTARY

#: The delivery of what is not delivered, but only measured.
_AS_IT_COMES = AudioSpec(kind="audio", codec="pcm_f32le", encoders=("pcm_f32le",), layouts=tuple(LAYOUTS))


def loudness_of(intent: Intent) -> Loudness | None:
    """The loudness step that ends the preset's last chain, if it has one."""
    last = last_chain(intent.preset.document, Media.AUDIO)
    made = operations(intent.preset.document, last, intent.parameters) if last else ()
    return made[-1] if made and isinstance(made[-1], Loudness) else None


@dataclass(frozen=True, slots=True)
class Source:
    """The audio stream that is taken of one input, and its number among the input's audio streams."""

    input: int
    role: str
    stream: AudioStream
    position: int


@dataclass(frozen=True, slots=True)
class Graph:
    """The chains of an intent over its probed inputs, with which every invocation begins.

    What steps have to find out first they have run by ``passes``, and what they choose goes to ``decisions``.
    """

    intent: Intent
    facts: Sequence[MediaFacts]
    passes: Passes
    decisions: list[Decision]
    _made: dict[tuple[str, AudioSpec], Signal | None] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The audio streams that chains take of the inputs, by input and position.

        :raises MediaFailure: an input has no audio, or not the track asked for.
        """
        chains = self.intent.preset.document.chain
        found: dict[tuple[int, int], Source] = {}
        for name, chain in chains.items():
            if chain.media is not Media.AUDIO or not self._wanted(chain):
                continue
            for role in chain.from_:
                for source in self._taken(role, self._extract(name)):
                    found.setdefault((source.input, source.position), source)
        return tuple(found[key] for key in sorted(found))

    @property
    def keeps_length(self) -> bool:
        """Whether what is delivered is as long as the longest input, whatever that is."""
        document, parameters = self.intent.preset.document, self.intent.parameters
        return all(
            operation.keeps_length
            for name, chain in document.chain.items()
            if chain.media is Media.AUDIO and self._wanted(chain)
            for operation in operations(document, name, parameters)
        )

    @property
    def picture(self) -> PictureSource:
        """The video stream that the last chain of pictures delivers.

        :raises MediaFailure: INPUT_NO_VIDEO or INPUT_CORRUPT as :func:`presets.picture.choose`;
            UNSUPPORTED_COMBINATION where the chain is skipped, or its picture would come out wrong.
        """
        document = self.intent.preset.document
        name = last_chain(document, Media.VIDEO)
        while name is not None and name not in document.roles and self._wanted(document.chain[name]):
            (name,) = document.chain[name].from_
        for index, (ref, facts) in enumerate(zip(self.intent.inputs, self.facts, strict=True)):
            if ref.role == name:
                stream = picture.choose(facts)
                picture.require_convertible(stream)
                streams = [s for s in facts.streams if isinstance(s, VideoStream)]
                return PictureSource(index, ref.role, stream, streams.index(stream))
        raise _all_skipped()

    def programme(self, profile: ProfileDocument) -> Signal | None:
        """What the last chain of audio makes, at the profile's rate and layout.

        None where the profile has no sound, or has a picture and the inputs have no sound.

        :raises MediaFailure: as :attr:`sources`; UNSUPPORTED_COMBINATION where every chain is skipped.
        """
        last = last_chain(self.intent.preset.document, Media.AUDIO)
        delivery = profile.audio
        signal = self.chain(last, delivery) if last and delivery else None
        if signal is not None and delivery is not None:
            for choice, because in conforming(signal, delivery):
                self.decide(f"{last}: conform", choice, because)
            return conform(signal, delivery)
        if profile.video is not None:
            return None
        raise self._nothing_heard()

    def as_it_comes(self) -> Signal:
        """What the last chain of audio makes where no profile says at which rate and layout.

        :raises MediaFailure: as :meth:`programme`.
        """
        last = last_chain(self.intent.preset.document, Media.AUDIO)
        signal = self.chain(last, _AS_IT_COMES) if last else None
        if signal is None:
            raise self._nothing_heard()
        return signal

    def shown(self, source: PictureSource, spec: VideoSpec) -> FilteredPicture:
        """The picture as the profile wants it."""
        return picture.shown(self._opened(source.input).video_stream(source.position), source.stream, spec)

    def opened(self, source: Source) -> Filtered:
        """The start of a graph: an input's stream in float, in step with the file's own clock from 0 on."""
        channels, stated = source.stream.channels, source.stream.layout
        layout = layout_of(stated, channels)
        # Some decoders leave the layout open, and filters then refuse it.
        pinned: dict[str, Any] = {"channel_layouts": layout} if layout is not None and stated is None else {}
        stream = self._opened(source.input).audio_stream(source.position)
        if (late_s := self._late_s(source)) > 0:
            # Versions differ in where they begin to count, so nothing is taken from there.
            stream = stream.asetpts(expr=f"PTS-STARTPTS+{decimal(late_s)}/TB")
        # Gaps become silence, so that a track keeps step with the picture it was recorded with.
        stream = stream.aresample(extra_options={"async": 1, "first_pts": 0}).aformat(sample_fmts="fltp", **pinned)
        if layout is None or layout == stated_layout(stated, channels):
            return stream
        # The same loudspeakers by another name, which not every encoder knows.
        return stream.pan(args="|".join([layout, *(f"c{n}=c{n}" for n in range(channels))]))

    def _late_s(self, source: Source) -> float:
        """By how much a stream begins after its file where FFmpeg, which is not told to read the others, can't know."""
        facts, start_s = self.facts[source.input], source.stream.start_s
        with_picture = any(output.profile.document.video is not None for output in self.intent.outputs)
        if start_s is None or with_picture or not has_jumping_clock(facts.format_name):
            return 0.0
        late_s = start_s - facts.start_s
        # A broken clock is no measure.
        return late_s if late_s < (facts.duration_s or 0.0) else 0.0

    def _opened(self, index: int) -> AVStream:
        checked = any(stream.codec in CHECKSUMMED for stream in self.facts[index].audio)
        return opened(f"in/{index}", self.passes.threads, checked=checked)

    def chain(self, name: str, delivery: AudioSpec) -> Signal | None:
        """What a chain makes for a delivery; None where it is skipped, or all that it takes is."""
        if (name, delivery) not in self._made:
            self._made[name, delivery] = self._build(name, delivery)
        return self._made[name, delivery]

    def decide(self, subject: str, choice: str, because: str) -> None:
        """Note a choice for the plan, once."""
        decision = Decision(subject, choice, because)
        if decision not in self.decisions:
            self.decisions.append(decision)

    def bits_of(self, signal: Signal) -> int | None:
        """How many bits the samples of a signal have: those of an input that it is unchanged, else None."""
        return next((s.stream.bits for s in self.sources if self.opened(s) == signal.stream), None)

    def _build(self, name: str, delivery: AudioSpec) -> Signal | None:
        chain = self.intent.preset.document.chain[name]
        if not self._wanted(chain):
            return None
        extract = self._extract(name)
        signals: list[Signal] = []
        for source in chain.from_:
            if source in self.intent.preset.document.roles:
                signals += [self._signal(taken) for taken in self._taken(source, extract)]
            elif (made := self.chain(source, delivery)) is not None:
                signals.append(replace(made, name=source))
        if not signals:
            return None
        reference = signals[0]
        for operation in operations(self.intent.preset.document, name, self.intent.parameters):
            surroundings = Surroundings(self, name, operation, delivery, reference)
            signals = [_with_chapters(operation.apply(signals, surroundings), signals, operation)]
            if not operation.keeps_level:
                reference = signals[0]
        return replace(signals[0], name=name)

    def _extract(self, chain: str) -> Extract:
        made = operations(self.intent.preset.document, chain, self.intent.parameters)
        first = made[0] if made else None
        return first if isinstance(first, Extract) else Extract()

    def _taken(self, role: str, extract: Extract) -> tuple[Source, ...]:
        taken = []
        for index, (ref, facts) in enumerate(zip(self.intent.inputs, self.facts, strict=True)):
            if ref.role == role:
                if not facts.audio and _may_be_silent(self.intent.preset.document, role) and extract == Extract():
                    continue
                stream = extract.choose(facts)
                taken.append(Source(index, role, stream, facts.audio.index(stream)))
        return tuple(taken)

    def _signal(self, source: Source) -> Signal:
        stream = source.stream
        layout = layout_of(stream.layout, stream.channels)
        length_s = declared_s(self.facts[source.input], stream) or self.facts[source.input].duration_s
        return Signal(
            name=source.role,
            stream=self.opened(source),
            sample_rate_hz=stream.sample_rate_hz,
            channels=stream.channels,
            layout=layout,
            length_s=length_s,
            # Those of music in the background would mean nothing.
            chapters=self.facts[source.input].chapters if source.role == default_role(self.intent.preset) else (),
        )

    def _nothing_heard(self) -> MediaFailure:
        if any(_may_be_silent(self.intent.preset.document, ref.role) for ref in self.intent.inputs):
            return MediaFailure(Reason.INPUT_NO_AUDIO, "the input has no audio stream")
        return _all_skipped()

    def _wanted(self, chain: Chain) -> bool:
        given = {ref.role for ref in self.intent.inputs}
        match chain.when:
            case None:
                return True
            case Given(given=role):
                return role in given
            case NotGiven(not_given=role):
                return role not in given
            case ParameterIs(parameter=name, is_=value):
                return self.intent.parameters[name] == value
            case Has(has=kind, role=role):
                return any(
                    _has(facts, kind)
                    for ref, facts in zip(self.intent.inputs, self.facts, strict=True)
                    if ref.role == role
                )
            case _:
                assert_never(chain.when)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What one step of a chain sees of the job; see :class:`presets.operations.base.Context`."""

    _graph: Graph
    _chain: str
    _step: Operation
    delivery: AudioSpec
    _reference: Signal

    def of(self, chain: str) -> Signal | None:
        """What another chain makes; None where it is skipped."""
        return self._graph.chain(chain, self.delivery)

    def measured(self, signal: Signal) -> StepResult | None:
        """The signal's length and loudness; None until they have been measured."""
        return self._graph.passes.measured(signal, signal.length_s, self._label(signal))

    def surveyed(self) -> Survey | None:
        """Loudness and quietest pause of what reaches this step, before steps that keep them; None until known."""
        metered = meters.metered(self._reference)
        return self._graph.passes.surveyed(metered, self._label(metered), key=MOMENTARY)

    def heard(self, signal: Signal) -> Survey | None:
        """What the meters that a signal's filters end with hear; None until they have."""
        return self._graph.passes.surveyed(signal, self._label(signal))

    def rendered(self, signal: Signal, *, endless: bool = False) -> Signal:
        """The signal from a file that an invocation of its own writes before."""
        return self._graph.passes.rendered(signal, self._label(signal), endless=endless)

    def decide(self, choice: str, because: str) -> None:
        """Note for the plan what this step chose and why."""
        self._graph.decide(f"{self._chain}: {self._step.op}", choice, because)

    def _label(self, signal: Signal) -> str:
        chains = self._graph.intent.preset.document.chain
        return signal.name if signal.name in chains else self._chain


def _with_chapters(made: Signal, signals: Sequence[Signal], operation: Operation) -> Signal:
    """Chapters are those of what went in, unless the step moved it in time; a step that does may set its own."""
    before = next((signal.chapters for signal in signals if signal.chapters), ())
    if operation.keeps_length:
        return replace(made, chapters=before)
    return replace(made, chapters=()) if made.chapters == before else made


def _may_be_silent(document: PresetDocument, role: str) -> bool:
    return document.roles[role].media is Media.VIDEO


def _all_skipped() -> MediaFailure:
    return MediaFailure(
        Reason.UNSUPPORTED_COMBINATION,
        "with these inputs and parameters every chain of the preset is skipped",
    )


def _has(facts: MediaFacts, kind: Media) -> bool:
    match kind:
        case Media.AUDIO:
            return bool(facts.audio)
        case Media.VIDEO:
            return bool(facts.video)
        case Media.PICTURE:
            return any(isinstance(stream, VideoStream) and stream.attached_pic for stream in facts.streams)
        case _:
            assert_never(kind)
