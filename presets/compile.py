"""The compiler: (intent, probed media, capabilities, results so far) -> plan. Pure.

A plan is refined as measurements arrive: compile with no results, run what :meth:`~presets.plan.Plan.next` names,
compile again with its result, until the plan is finished. Ids are deterministic, so a plan can be resumed and
replayed from the results alone. Loudness is two-pass EBU R128 with the encoded file as the judge: measure, apply one
gain (and a true-peak limiter where needed), encode, measure the encoded file, correct and encode again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ffmpeg.streams.video import VideoStream as FilteredPicture

from presets import beside, command, decisions, levels, picture, rehearsal, report
from presets.beside import Beside
from presets.capabilities import Binary
from presets.completeness import Taken, declared_s, expected_s, require_numbers, require_whole
from presets.document import Media, VideoSpec
from presets.expectations import expectation
from presets.facts import Chapter, MediaFacts
from presets.formats import CODECS, CONTAINERS, FLOATS, REPORT
from presets.graph import Graph, Source, loudness_of
from presets.intent import Intent, OutputRef, default_role
from presets.names import encode_id, path_of, sound_id, verify_id
from presets.needs import encoder_for, video_encoder_for
from presets.opening import opened
from presets.operations.base import Signal
from presets.passes import Passes
from presets.picture import PictureSource
from presets.plan import (
    Decision,
    Expectation,
    Loudness,
    OutputReport,
    Plan,
    Purpose,
    StepResult,
)
from presets.rehearsal import SILENCE

#: How much more work a picture is than sound.
_PICTURE_WEIGHT = 20


def compile(  # noqa: A001 -- the name this step has everywhere; the module is imported, not the function
    intent: Intent,
    facts: Sequence[MediaFacts],
    binary: Binary,
    results: Mapping[str, StepResult],
    *,
    threads: int = 1,
    gpu: int | None = None,
    verbose: bool = False,
) -> Plan:
    """The plan as far as it is known from ``results`` (by invocation id).

    :param gpu: index of the GPU that the task was granted: pictures are encoded there, unless their profile says
        never. None: the processor encodes them.
    :param verbose: FFmpeg logs in detail.
    :param facts: of the inputs, in the order of ``intent.inputs``, which are the files ``in/0``, ``in/1`` …
    :raises MediaFailure: the media cannot be processed as asked: INPUT_NO_AUDIO, INPUT_NO_VIDEO, INPUT_CORRUPT,
        INPUT_TRUNCATED, LOUDNESS_UNREACHABLE, UNSUPPORTED_COMBINATION.
    """
    passes, decided = Passes(results, threads), list[Decision]()
    graph = Graph(intent, facts, passes, decided)
    job = _Job(intent, graph, passes, facts, binary, gpu, decided)
    sources = graph.sources
    job.describe(sources)
    for source in sources:
        if len(sources) > 1 or not graph.keeps_length or source.stream.codec in FLOATS:
            job.inspect(source)
    for output in job.media:
        job.measure(output)
    for output in job.media:
        job.make(output)
    for output in intent.outputs:
        if output.profile.document.reports:
            job.make_report(output)
    invocations = (command.verbose(i) if verbose else i for i in passes.invocations.values())
    order = [output.name for output in intent.outputs]
    return Plan(
        tuple(invocations),
        tuple(job.decisions),
        tuple(sorted(job.expectations, key=lambda made: order.index(made.name))),
        tuple(sorted(job.reports, key=lambda made: order.index(made.name))),
        job.documents,
    )


@dataclass(slots=True)
class _Job:
    """One compilation: what it is given, and what it has put together so far."""

    intent: Intent
    graph: Graph
    passes: Passes
    facts: Sequence[MediaFacts]
    binary: Binary
    gpu: int | None
    decisions: list[Decision]
    expectations: list[Expectation] = field(default_factory=list)
    reports: list[OutputReport] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=dict)

    @property
    def media(self) -> list[OutputRef]:
        """The outputs that are encoded; the others are reports."""
        return [output for output in self.intent.outputs if not output.profile.document.reports]

    def describe(self, sources: Sequence[Source]) -> None:
        for index, ref in enumerate(self.intent.inputs):
            if self.intent.preset.document.roles[ref.role].media is Media.VIDEO:
                self.decisions += decisions.of_picture_source(index, ref.role, self.facts[index])
        self.decisions += [decisions.of_source(source, self.facts[source.input]) for source in sources]
        version = self.binary.version
        self._decide("FFmpeg", version, "the newest that can do this job, and of those the quickest to start")

    def inspect(self, source: Source) -> None:
        """With several streams, or steps that change lengths, no other pass shows where each stream ends.

        None shows samples that are no numbers: meters pass over them, and codecs make of them what they will.
        """
        id_ = f"inspect.{source.input}.{source.position}"
        file = f"{id_}.txt" if source.stream.codec in FLOATS else None
        argv = command.inspect(self.graph.opened(source), self.passes.threads, file)
        media_s = declared_s(self.facts[source.input], source.stream) or self._expected_s()
        if (seen := self.passes.run(id_, Purpose.INSPECT, argv, media_s=media_s, measure=file)) is not None:
            require_whole(seen.out_time_s, self._taken(source))
            require_numbers(seen.survey)

    def measure(self, output: OutputRef) -> None:
        """Outputs with one rate and layout share one measurement."""
        signal = self._programme(output)
        if signal is None or not self._is_measured(output):
            return
        measured = self._measured(signal)
        if measured is not None:
            self._require_inputs_whole(measured)

    def make(self, output: OutputRef) -> None:
        spec = output.profile.document.video
        if spec is not None:
            self._explain_picture(output, spec)
        made = self._beside(output)
        self.decisions += beside.decisions(self.intent, self.facts, output, made, self._chapters(output))
        if (path := self._packing(output, "").chapters) is not None:
            as_tags = CONTAINERS[output.profile.document.container].chapters_as_tags
            self.documents[path] = beside.ffmetadata(made.chapters, as_tags=as_tags)
        step, signal = loudness_of(self.intent), self._programme(output)
        target_lufs = step.target_for(signal.channels) if step is not None and signal is not None else None
        if step is None or signal is None or target_lufs is None:
            self._make_plain(output, signal)
            return
        ceilings = [step.ceiling_dbtp, output.profile.document.delivery.ceiling_dbtp]
        goal = levels.Goal(
            target_lufs,
            min(c for c in ceilings if c is not None),
            step.over_peaks,
            step.max_reduction_db,
        )
        measured = self._measured(signal)
        if measured is None:
            self._make_provisionally(output, signal, goal)
        else:
            self._make_levelled(output, signal, goal, measured)

    def make_report(self, output: OutputRef) -> None:
        """Of the programme before it is levelled and encoded, and of the files that it was made into."""
        silence = output.profile.document.silence
        delivered = [(o, self._programme(o)) for o in self.media if o.profile.document.audio is not None]
        signal = delivered[0][1] if delivered else self.graph.as_it_comes()
        before = None if signal is None else self.passes.analysed(signal, f"{output.name}.programme", silence)
        if before is not None:
            self._require_inputs_whole(before)
        files: list[tuple[OutputReport, str, report.Heard | None]] = []
        for other, made in delivered:
            if made is None:
                continue
            expected = next(e for e in self.expectations if e.name == other.name)
            told = next(r for r in self.reports if r.name == other.name)
            file = replace(made, stream=opened(expected.path, self.passes.threads).audio_stream(0))
            # Until it is known which encode is delivered there may be no file yet.
            pending = expected.decoded_s is None
            after = self.passes.analysed(file, f"{output.name}.{other.name}", silence, provisional=pending)
            files.append((told, other.profile.full_name, None if after is None else report.Heard(file, after)))
        known = [(told, profile, heard) for told, profile, heard in files if heard is not None]
        path = path_of(output, 1)
        if len(known) == len(files) and (signal is None or before is not None):
            self.documents[path] = report.text(
                self.intent.preset.full_name,
                [(source, self.facts[source.input]) for source in self.graph.sources],
                report.Heard(signal, before) if signal is not None and before is not None else None,
                known,
            )
        length_s = None if before is None else before.out_time_s
        self.expectations.append(Expectation(output.name, path, output.uri, REPORT, (), length_s, "", length_s))
        loudness, analysis = (None, None) if before is None else (before.loudness, before.analysis)
        self.reports.append(OutputReport(output.name, None, loudness, None, None, None, None, 0, analysis))

    def _make_plain(self, output: OutputRef, signal: Signal | None) -> None:
        before: Loudness | None = None
        if signal is not None and self._is_measured(output):
            measured = self._measured(signal)
            before = measured.loudness if measured is not None else None
            if _tells_loudness(output):
                signal = replace(signal, provisional=signal.provisional or measured is None)
        after = self._encode(output, signal, None, 1, lufs=before.integrated_lufs if before else None)
        encoded = self.passes.results.get(encode_id(output, 1))
        if encoded is not None and output.profile.document.video is None:
            self._require_inputs_whole(encoded)
        ceiling = output.profile.document.delivery.ceiling_dbtp
        if after is not None and ceiling is not None and (after.true_peak_dbtp or ceiling) > ceiling:
            self._decide(
                f"{output.name}: level",
                f"left as it is, true peak {after.true_peak_dbtp:.1f} dBTP",
                f"the preset changes no levels, although the profile's ceiling is {ceiling:g} dBTP",
            )
        self._expect(output, 1, encoded.out_time_s if encoded else None)
        self.reports.append(OutputReport(output.name, before, after, None, None, None, None, 1 if encoded else 0))

    def _make_provisionally(self, output: OutputRef, signal: Signal, goal: levels.Goal) -> None:
        self._encode_provisionally(output, signal, 1)
        self._decide(
            f"{output.name}: level",
            f"to {goal.target_lufs:g} LUFS, at most {goal.ceiling_dbtp:g} dBTP",
            "the gain follows from the measurement; the limiter is left out where the peaks have room",
        )
        self._expect(output, 1, None)
        self.reports.append(OutputReport(output.name, None, None, goal.target_lufs, None, None, None, 0))

    def _make_levelled(self, output: OutputRef, signal: Signal, goal: levels.Goal, measured: StepResult) -> None:
        media_s = self._expected_s(signal)
        before = rehearsal.closer_look(self.passes, signal, goal, measured.loudness or SILENCE, media_s)
        if before is None:
            self._make_provisionally(output, signal, goal)
            return
        rehearsals: list[levels.Trial] = []
        encodes: list[levels.Trial] = []
        aim: levels.Goal | None = self._first_aim(output, goal, before)
        latest: levels.Setting | None = None
        while aim is not None:
            if not rehearsal.rehearse(self.passes, signal, goal, aim, before, rehearsals, len(encodes), media_s):
                self._encode_provisionally(output, signal, len(encodes) + 1)
                latest = None
                break
            latest = levels.next_encode(aim, before, rehearsals)
            if not encodes:
                self.decisions += decisions.of_first_encode(output.name, goal, aim, before, rehearsals, latest)
            told = levels.foretold(before, rehearsals, latest) if self._lossless(output) else None
            lufs = levels.expected_lufs(before, rehearsals, latest)
            after = self._encode(output, signal, latest, len(encodes) + 1, lufs=lufs, told=told)
            if after is None:
                break
            encodes.append(levels.Trial(latest, after))
            if self._lossless(output) and told is None:
                # As good as a rehearsal.
                rehearsals.append(encodes[-1])
            # A file that was foretold can only come out the same again.
            most = 1 if told is not None else output.profile.document.delivery.max_encodes
            aim = levels.next_aim(goal, before, rehearsals, encodes, most)
            self.decisions.append(decisions.of_encode(output.name, goal, encodes, aim, known=told is not None))
        chosen = levels.best(goal, encodes) if aim is None else None
        number = len(encodes) + 1 if chosen is None else chosen + 1
        final = latest if chosen is None else encodes[chosen].setting
        file = None if chosen is None else encodes[chosen].after
        missed = None
        if file is not None and file.integrated_lufs is not None and before.integrated_lufs is not None:
            missed = round(file.integrated_lufs - goal.target_lufs, 3)
        self._expect(output, number, measured.out_time_s)
        self.reports.append(
            OutputReport(
                name=output.name,
                before=before,
                after=file,
                target_lufs=goal.target_lufs,
                gain_db=final.gain_db if final else None,
                limited_by_db=final.limited_by_db if final else None,
                missed_by_lu=missed,
                encodes=len(encodes),
            )
        )

    def _explain_picture(self, output: OutputRef, spec: VideoSpec) -> None:
        source = self.graph.picture
        self.decisions += picture.decisions(output.name, source.stream, spec)
        self.decisions.append(
            decisions.of_video_encoder(output.name, self._video_encoder(output, spec), spec, self.gpu)
        )
        self.decisions += decisions.of_left_out(output.name, output.profile.document, self.facts[source.input])

    def _encode(
        self,
        output: OutputRef,
        signal: Signal | None,
        setting: levels.Setting | None,
        number: int,
        *,
        lufs: float | None,
        told: Loudness | None = None,
    ) -> Loudness | None:
        """Encode what is ``lufs`` loud, and verify; the file's loudness once that has been done, measured unless it was
        ``told``."""
        path, shown = path_of(output, number), self._shown(output)
        provisional = signal is not None and signal.provisional
        packing = self._packing(output, path)
        if not provisional:
            packing = replace(packing, dialnorm=self._dialnorm(output, lufs))
        if signal is not None and setting is None:
            packing = replace(packing, exact=self._is_exact(output, signal))
        argv = command.encode(signal, shown, packing, setting)
        self.passes.run(
            encode_id(output, number),
            Purpose.ENCODE,
            argv,
            media_s=self._expected_s(signal),
            writes=(path,),
            provisional=provisional,
            times=1 if shown is None else _PICTURE_WEIGHT,
        )
        self._verify(output, signal, number, provisional=provisional, metered=told is None)
        if shown is not None:
            self._require_whole(output, signal, number)
        verified = self.passes.results.get(sound_id(output, number)) if signal is not None else None
        if verified is None:
            return None
        return told or verified.loudness or SILENCE

    def _encode_provisionally(self, output: OutputRef, signal: Signal, number: int) -> None:
        path, media_s = path_of(output, number), self._expected_s(signal)
        argv = command.encode_provisionally(signal, self._shown(output), self._packing(output, path))
        id_ = encode_id(output, number)
        self.passes.run(id_, Purpose.ENCODE, argv, media_s=media_s, writes=(path,), provisional=True)
        self._verify(output, signal, number, provisional=True)

    def _verify(
        self,
        output: OutputRef,
        signal: Signal | None,
        number: int,
        *,
        provisional: bool = False,
        metered: bool = True,
    ) -> None:
        """Picture and sound each by itself: together they would not show where each ends."""
        path = path_of(output, number)
        if output.profile.document.video is not None:
            argv = command.verify_picture(path, self.passes.threads)
            id_ = verify_id(output, number)
            self.passes.run(
                id_,
                Purpose.VERIFY,
                argv,
                media_s=self._expected_s(signal),
                provisional=provisional,
                times=_PICTURE_WEIGHT,
            )
        if signal is not None:
            id_ = sound_id(output, number)
            file = f"{id_}.txt" if metered else None
            threads = self.passes.threads
            argv = command.decode(path, threads) if file is None else command.verify(path, threads, file)
            media_s = self._expected_s(signal)
            self.passes.run(id_, Purpose.VERIFY, argv, media_s=media_s, measure=file, provisional=provisional)

    def _require_whole(self, output: OutputRef, signal: Signal | None, number: int) -> None:
        """Both streams of a file with a picture end where the input's headers say."""
        encoded, shown = self.passes.results.get(encode_id(output, number)), self._taken(self.graph.picture)
        if encoded is not None and encoded.frames == 0:
            require_whole(None, shown)
        if (seen := self.passes.results.get(verify_id(output, number))) is not None:
            require_whole(seen.out_time_s, shown)
        heard = self.passes.results.get(sound_id(output, number))
        if signal is not None and heard is not None:
            self._require_inputs_whole(heard)

    def _require_inputs_whole(self, heard: StepResult) -> None:
        """Of the pass that goes through the programme; where that has another length, the inspections show it."""
        if self.graph.keeps_length:
            require_whole(heard.out_time_s, self._taken(*self.graph.sources))

    def _expect(self, output: OutputRef, number: int, encoded_s: float | None) -> None:
        results, made = self.passes.results, self._beside(output)
        self.expectations.append(expectation(output, self.graph, results, number, encoded_s, made))

    def _taken(self, *sources: Source | PictureSource) -> Iterator[Taken]:
        return ((self.facts[source.input], source.stream) for source in sources)

    def _expected_s(self, signal: Signal | None = None) -> float | None:
        if signal is not None and not self.graph.keeps_length:
            return signal.length_s
        sources: list[Source | PictureSource] = [*self.graph.sources]
        if any(output.profile.document.video is not None for output in self.intent.outputs):
            sources.append(self.graph.picture)
        return expected_s(self._taken(*sources))

    def _measured(self, signal: Signal) -> StepResult | None:
        return self.passes.measured(signal, self._expected_s(signal))

    def _is_measured(self, output: OutputRef) -> bool:
        """Whether anything depends on how loud the programme is before it is encoded."""
        return loudness_of(self.intent) is not None or _tells_loudness(output)

    def _first_aim(self, output: OutputRef, goal: levels.Goal, before: Loudness) -> levels.Goal:
        audio = output.profile.document.audio
        if audio is None:
            return goal
        codec = CODECS[audio.codec]
        return levels.first_aim(goal, before, codec.attenuation_db(audio.bitrate_kbps), codec.overshoot_db)

    def _lossless(self, output: OutputRef) -> bool:
        audio = output.profile.document.audio
        return audio is not None and CODECS[audio.codec].lossless

    def _programme(self, output: OutputRef) -> Signal | None:
        return self.graph.programme(output.profile.document)

    def _shown(self, output: OutputRef) -> FilteredPicture | None:
        spec = output.profile.document.video
        return None if spec is None else self.graph.shown(self.graph.picture, spec)

    def _packing(self, output: OutputRef, path: str) -> command.Packing:
        document = output.profile.document
        audio, video = document.audio, document.video
        made = self._beside(output)
        return command.Packing(
            profile=document,
            path=path,
            audio_encoder=self._encoder(output, audio.encoders) if audio is not None else "",
            video_encoder=self._video_encoder(output, video) if video is not None else "",
            time_base=picture.time_base(self.graph.picture.stream) if video is not None else "",
            beside=made,
            chapters=f"work/{output.name}.chapters.txt" if made.chapters else None,
            threads=self.passes.threads,
            gpu=self.gpu,
            dialnorm="{dialnorm}" if _tells_loudness(output) else "",
        )

    def _dialnorm(self, output: OutputRef, lufs: float | None) -> str:
        """The loudness that the stream tells, in whole LKFS as ATSC A/85 has it; that of silence is the lowest."""
        if not _tells_loudness(output):
            return ""
        loudest, lowest = -1, -31
        told = lowest if lufs is None else max(lowest, min(loudest, round(lufs)))
        if lufs is not None:
            self.graph.decide(f"{output.name}: dialnorm", str(told), f"the programme is delivered at {lufs:.1f} LKFS")
        return str(told)

    def _is_exact(self, output: OutputRef, signal: Signal) -> bool:
        """Whether nothing is rounded: dither would only add noise."""
        audio, bits = output.profile.document.audio, self.graph.bits_of(signal)
        return audio is not None and audio.bits is not None and bits is not None and bits <= audio.bits

    def _encoder(self, output: OutputRef, encoders: Sequence[str]) -> str:
        return encoder_for(output.profile.full_name, encoders, self.binary)

    def _video_encoder(self, output: OutputRef, spec: VideoSpec) -> str:
        sides = picture.size(self.graph.picture.stream, spec.max_height)
        return video_encoder_for(output, spec, self.binary, sides, hardware=self.gpu is not None)

    def _chapters(self, output: OutputRef) -> tuple[Chapter, ...]:
        """Of the programme; a picture without sound keeps those of its input."""
        signal = self._programme(output)
        return self.facts[self.graph.picture.input].chapters if signal is None else signal.chapters

    def _length_s(self, output: OutputRef) -> float | None:
        """Of the longer of picture and sound, as far as it is told."""
        signal = self._programme(output)
        lengths = [] if signal is None else [signal.length_s]
        if output.profile.document.video is not None:
            source = self.graph.picture
            lengths.append(source.stream.duration_s or self.facts[source.input].duration_s)
        known = [length for length in lengths if length is not None]
        return max(known) if len(known) == len(lengths) else None

    def _beside(self, output: OutputRef) -> Beside:
        """Tags, cover and chapters are the default role's."""
        default = default_role(self.intent.preset)
        sources: list[Source | PictureSource] = [*self.graph.sources] or [self.graph.picture]
        first = min(sources, key=lambda source: source.role != default)
        main = (first.input, first.stream.index)
        return beside.beside(self.intent, self.facts, output, main, self._chapters(output), self._length_s(output))

    def _decide(self, subject: str, choice: str, because: str) -> None:
        self.decisions.append(Decision(subject, choice, because))


def _tells_loudness(output: OutputRef) -> bool:
    audio = output.profile.document.audio
    return audio is not None and CODECS[audio.codec].tells_loudness
