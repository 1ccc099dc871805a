"""One output: how it is packed, encoded and verified, and what goes into it beside picture and sound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ffmpeg.streams.video import VideoStream as FilteredPicture

from presets import beside, command, levels, picture
from presets.beside import Beside
from presets.capabilities import Binary
from presets.completeness import require_whole
from presets.document import ProfileDocument, VideoSpec
from presets.expectations import expectation
from presets.facts import Chapter, MediaFacts
from presets.formats import CODECS
from presets.graph import Graph, Source
from presets.intent import Intent, OutputRef, default_role
from presets.names import encode_id, path_of, sound_id, verify_id
from presets.needs import encoder_for, video_encoder_for
from presets.operations.base import Signal
from presets.passes import Passes
from presets.picture import PictureSource
from presets.plan import Expectation, Loudness, Purpose, StepResult
from presets.rehearsal import SILENCE

#: How much more work a picture is than sound.
_PICTURE_WEIGHT = 20


@dataclass(frozen=True, slots=True)
class Encoding:
    """An output of a job. What is decided about it goes to the graph's decisions."""

    output: OutputRef
    intent: Intent
    graph: Graph
    passes: Passes
    facts: Sequence[MediaFacts]
    binary: Binary
    gpu: int | None

    @property
    def name(self) -> str:
        return self.output.name

    @property
    def document(self) -> ProfileDocument:
        return self.output.profile.document

    @property
    def results(self) -> Mapping[str, StepResult]:
        return self.passes.results

    @property
    def programme(self) -> Signal | None:
        """What the output's sound is made of; None where it has none."""
        return self.graph.programme(self.document)

    @property
    def lossless(self) -> bool:
        """Whether the sound that is decoded is the sound that was encoded."""
        audio = self.document.audio
        return audio is not None and CODECS[audio.codec].lossless

    @property
    def tells_loudness(self) -> bool:
        """Whether the stream says how loud its dialogue is."""
        audio = self.document.audio
        return audio is not None and CODECS[audio.codec].tells_loudness

    def first_aim(self, goal: levels.Goal, before: Loudness) -> levels.Goal:
        """Where to aim before the codec, of which it is known what it does."""
        audio = self.document.audio
        if audio is None:
            return goal
        codec = CODECS[audio.codec]
        return levels.first_aim(goal, before, codec.attenuation_db(audio.bitrate_kbps), codec.overshoot_db)

    def encode(
        self,
        signal: Signal | None,
        setting: levels.Setting | None,
        number: int,
        *,
        lufs: float | None,
        told: Loudness | None = None,
    ) -> Loudness | None:
        """Encode what is ``lufs`` loud, and verify; the file's loudness once that has been done, measured unless it was
        ``told``."""
        shown, path = self._shown(), path_of(self.output, number)
        provisional = signal is not None and signal.provisional
        packing = self._packing(path)
        if not provisional:
            packing = replace(packing, dialnorm=self._dialnorm(lufs))
        if signal is not None and setting is None:
            packing = replace(packing, exact=self._is_exact(signal))
        self.passes.run(
            encode_id(self.output, number),
            Purpose.ENCODE,
            command.encode(signal, shown, packing, setting),
            media_s=self.graph.expected_s(signal),
            writes=(path,),
            provisional=provisional,
            times=1 if shown is None else _PICTURE_WEIGHT,
        )
        self._verify(signal, number, provisional=provisional, metered=told is None)
        if shown is not None:
            self._require_whole(signal, number)
        verified = self.results.get(sound_id(self.output, number)) if signal is not None else None
        if verified is None:
            return None
        return told or verified.loudness or SILENCE

    def encode_provisionally(self, signal: Signal, number: int) -> None:
        """As :meth:`encode`, at a level that is not known yet."""
        path = path_of(self.output, number)
        self.passes.run(
            encode_id(self.output, number),
            Purpose.ENCODE,
            command.encode_provisionally(signal, self._shown(), self._packing(path)),
            media_s=self.graph.expected_s(signal),
            writes=(path,),
            provisional=True,
        )
        self._verify(signal, number, provisional=True)

    def expectation(self, number: int, encoded_s: float | None) -> Expectation:
        """What must be true of the file of an encode, the last one or the one that is delivered."""
        return expectation(self.output, self.graph, self.results, number, encoded_s, self.beside)

    def _verify(self, signal: Signal | None, number: int, *, provisional: bool = False, metered: bool = True) -> None:
        """Picture and sound each by itself: together they would not show where each ends."""
        path, threads, media_s = path_of(self.output, number), self.passes.threads, self.graph.expected_s(signal)
        if self.document.video is not None:
            self.passes.run(
                verify_id(self.output, number),
                Purpose.VERIFY,
                command.verify_picture(path, threads),
                media_s=media_s,
                provisional=provisional,
                times=_PICTURE_WEIGHT,
            )
        if signal is not None:
            id_ = sound_id(self.output, number)
            file = f"{id_}.txt" if metered else None
            argv = command.decode(path, threads) if file is None else command.verify(path, threads, file)
            self.passes.run(id_, Purpose.VERIFY, argv, media_s=media_s, measure=file, provisional=provisional)

    def _require_whole(self, signal: Signal | None, number: int) -> None:
        """Both streams of a file with a picture end where the input's headers say."""
        encoded = self.results.get(encode_id(self.output, number))
        if encoded is not None and encoded.frames == 0:
            require_whole(None, self.graph.taken(self.graph.picture))
        if (seen := self.results.get(verify_id(self.output, number))) is not None:
            require_whole(seen.out_time_s, self.graph.taken(self.graph.picture))
        heard = self.results.get(sound_id(self.output, number))
        if signal is not None and heard is not None:
            self.graph.require_whole(heard)

    def _shown(self) -> FilteredPicture | None:
        spec = self.document.video
        return None if spec is None else self.graph.shown(self.graph.picture, spec)

    def _packing(self, path: str) -> command.Packing:
        audio, video = self.document.audio, self.document.video
        return command.Packing(
            profile=self.document,
            path=path,
            audio_encoder=self._encoder(audio.encoders) if audio is not None else "",
            video_encoder=self.video_encoder(video) if video is not None else "",
            time_base=picture.time_base(self.graph.picture.stream) if video is not None else "",
            beside=self.beside,
            chapters=self.chapters_file,
            threads=self.passes.threads,
            gpu=self.gpu,
            dialnorm="{dialnorm}" if self.tells_loudness else "",
        )

    def _dialnorm(self, lufs: float | None) -> str:
        """The loudness that the stream tells, in whole LKFS as ATSC A/85 has it; that of silence is the lowest."""
        if not self.tells_loudness:
            return ""
        loudest, lowest = -1, -31
        told = lowest if lufs is None else max(lowest, min(loudest, round(lufs)))
        if lufs is not None:
            because = f"the programme is delivered at {lufs:.1f} LKFS"
            self.graph.decide(f"{self.output.name}: dialnorm", str(told), because)
        return str(told)

    def _is_exact(self, signal: Signal) -> bool:
        """Whether nothing is rounded: dither would only add noise."""
        audio, bits = self.document.audio, self.graph.bits_of(signal)
        return audio is not None and audio.bits is not None and bits is not None and bits <= audio.bits

    def _encoder(self, encoders: Sequence[str]) -> str:
        return encoder_for(self.output.profile.full_name, encoders, self.binary)

    def video_encoder(self, spec: VideoSpec) -> str:
        """FFmpeg's encoder for the picture."""
        sides = picture.size(self.graph.picture.stream, spec.max_height)
        return video_encoder_for(self.output, spec, self.binary, sides, hardware=self.gpu is not None)

    @property
    def chapters(self) -> tuple[Chapter, ...]:
        """Of the programme; a picture without sound keeps those of its input."""
        signal = self.programme
        return self.facts[self.graph.picture.input].chapters if signal is None else signal.chapters

    @property
    def chapters_are_to_come(self) -> bool:
        """Whether steps will make chapters that only a measurement tells the places of."""
        signal = self.programme
        return signal is not None and signal.provisional and not signal.chapters and self.graph.makes_chapters

    @property
    def chapters_file(self) -> str | None:
        """The file in the workspace that holds the chapters which are delivered; None where there are none."""
        return f"work/{self.output.name}.chapters.txt" if self.beside.chapters else None

    @property
    def beside(self) -> Beside:
        """Tags, cover and chapters are the default role's."""
        default = default_role(self.intent.preset)
        sources: list[Source | PictureSource] = [*self.graph.sources] or [self.graph.picture]
        first = min(sources, key=lambda source: source.role != default)
        main = (first.input, first.stream.index)
        return beside.beside(self.intent, self.facts, self.output, main, self.chapters, self._length_s())

    def _length_s(self) -> float | None:
        """Of the longer of picture and sound, as far as it is told."""
        signal = self.programme
        lengths = [] if signal is None else [signal.length_s]
        if self.document.video is not None:
            source = self.graph.picture
            lengths.append(source.stream.duration_s or self.facts[source.input].duration_s)
        known = [length for length in lengths if length is not None]
        return max(known) if len(known) == len(lengths) else None
