"""The compiler: (intent, probed media, capabilities, results so far) -> plan. Pure.

A plan is refined as measurements arrive: compile with no results, run what :meth:`~presets.plan.Plan.next` names,
compile again with its result, until the plan is finished. Ids are deterministic, so a plan can be resumed and
replayed from the results alone. Loudness is two-pass EBU R128 with the encoded file as the judge: measure, apply one
gain (and a true-peak limiter where needed), encode, measure the encoded file, correct and encode again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from presets import beside, command, decisions, levels, picture, rehearsal, report
from presets.capabilities import Binary
from presets.completeness import declared_s, require_numbers, require_whole
from presets.document import Media, VideoSpec
from presets.encoding import Encoding
from presets.facts import MediaFacts
from presets.formats import CONTAINERS, FLOATS, REPORT
from presets.graph import Graph, Source, loudness_of
from presets.intent import Intent, OutputRef
from presets.names import encode_id, path_of
from presets.opening import opened
from presets.operations.base import Signal
from presets.passes import Passes
from presets.plan import Decision, Expectation, Loudness, OutputReport, Plan, Purpose, StepResult
from presets.rehearsal import SILENCE


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
    for encoding in job.media:
        job.measure(encoding)
    for encoding in job.media:
        job.make(encoding)
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
    def media(self) -> list[Encoding]:
        """The outputs that are encoded; the others are reports."""
        return [
            Encoding(output, self.intent, self.graph, self.passes, self.facts, self.binary, self.gpu)
            for output in self.intent.outputs
            if not output.profile.document.reports
        ]

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
        media_s = declared_s(self.facts[source.input], source.stream) or self.graph.expected_s()
        if (seen := self.passes.run(id_, Purpose.INSPECT, argv, media_s=media_s, measure=file)) is not None:
            require_whole(seen.out_time_s, self.graph.taken(source))
            require_numbers(seen.survey)

    def measure(self, encoding: Encoding) -> None:
        """Outputs with one rate and layout share one measurement."""
        signal = encoding.programme
        if signal is None or not self._is_measured(encoding):
            return
        measured = self._measured(signal)
        if measured is not None:
            self.graph.require_whole(measured)

    def make(self, encoding: Encoding) -> None:
        spec = encoding.document.video
        if spec is not None:
            self._explain_picture(encoding, spec)
        made = encoding.beside
        self.decisions += beside.decisions(self.intent, self.facts, encoding.output, made, encoding.chapters)
        if encoding.document.delivery.chapters and encoding.chapters_are_to_come:
            because = "the steps make them; where they begin follows from the measurement"
            self._decide(f"{encoding.name}: chapters", "one for each part that has a title", because)
        if (path := encoding.chapters_file) is not None:
            as_tags = CONTAINERS[encoding.document.container].chapters_as_tags
            self.documents[path] = beside.ffmetadata(made.chapters, as_tags=as_tags)
        step, signal = loudness_of(self.intent), encoding.programme
        target_lufs = step.target_for(signal.channels) if step is not None and signal is not None else None
        if step is None or signal is None or target_lufs is None:
            self._make_plain(encoding, signal)
            return
        ceilings = [step.ceiling_dbtp, encoding.document.delivery.ceiling_dbtp]
        goal = levels.Goal(
            target_lufs,
            min(c for c in ceilings if c is not None),
            step.over_peaks,
            step.max_reduction_db,
        )
        measured = self._measured(signal)
        if measured is None:
            self._make_provisionally(encoding, signal, goal)
        else:
            self._make_levelled(encoding, signal, goal, measured)

    def make_report(self, output: OutputRef) -> None:
        """Of the programme before it is levelled and encoded, and of the files that it was made into."""
        silence = output.profile.document.silence
        delivered = [(one.output, one.programme) for one in self.media if one.document.audio is not None]
        signal = delivered[0][1] if delivered else self.graph.as_it_comes()
        before = None if signal is None else self.passes.analysed(signal, f"{output.name}.programme", silence)
        if before is not None:
            self.graph.require_whole(before)
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

    def _make_plain(self, encoding: Encoding, signal: Signal | None) -> None:
        before: Loudness | None = None
        if signal is not None and self._is_measured(encoding):
            measured = self._measured(signal)
            before = measured.loudness if measured is not None else None
            if encoding.tells_loudness:
                signal = replace(signal, provisional=signal.provisional or measured is None)
        after = encoding.encode(signal, None, 1, lufs=before.integrated_lufs if before else None)
        encoded = self.passes.results.get(encode_id(encoding.output, 1))
        if encoded is not None and encoding.document.video is None:
            self.graph.require_whole(encoded)
        ceiling = encoding.document.delivery.ceiling_dbtp
        if after is not None and ceiling is not None and (after.true_peak_dbtp or ceiling) > ceiling:
            self._decide(
                f"{encoding.name}: level",
                f"left as it is, true peak {after.true_peak_dbtp:.1f} dBTP",
                f"the preset changes no levels, although the profile's ceiling is {ceiling:g} dBTP",
            )
        self._expect(encoding, 1, encoded.out_time_s if encoded else None)
        self.reports.append(OutputReport(encoding.name, before, after, None, None, None, None, 1 if encoded else 0))

    def _make_provisionally(self, encoding: Encoding, signal: Signal, goal: levels.Goal) -> None:
        encoding.encode_provisionally(signal, 1)
        self._decide(
            f"{encoding.name}: level",
            f"to {goal.target_lufs:g} LUFS, at most {goal.ceiling_dbtp:g} dBTP",
            "the gain follows from the measurement; the limiter is left out where the peaks have room",
        )
        self._expect(encoding, 1, None)
        self.reports.append(OutputReport(encoding.name, None, None, goal.target_lufs, None, None, None, 0))

    def _make_levelled(self, encoding: Encoding, signal: Signal, goal: levels.Goal, measured: StepResult) -> None:
        media_s = self.graph.expected_s(signal)
        before = rehearsal.closer_look(self.passes, signal, goal, measured.loudness or SILENCE, media_s)
        if before is None:
            self._make_provisionally(encoding, signal, goal)
            return
        rehearsals: list[levels.Trial] = []
        encodes: list[levels.Trial] = []
        aim: levels.Goal | None = encoding.first_aim(goal, before)
        latest: levels.Setting | None = None
        while aim is not None:
            if not rehearsal.rehearse(self.passes, signal, goal, aim, before, rehearsals, len(encodes), media_s):
                encoding.encode_provisionally(signal, len(encodes) + 1)
                latest = None
                break
            latest = levels.next_encode(aim, before, rehearsals)
            if not encodes:
                self.decisions += decisions.of_first_encode(encoding.name, goal, aim, before, rehearsals, latest)
            told = levels.foretold(before, rehearsals, latest) if encoding.lossless else None
            lufs = levels.expected_lufs(before, rehearsals, latest)
            after = encoding.encode(signal, latest, len(encodes) + 1, lufs=lufs, told=told)
            if after is None:
                break
            encodes.append(levels.Trial(latest, after))
            if encoding.lossless and told is None:
                # As good as a rehearsal.
                rehearsals.append(encodes[-1])
            # A file that was foretold can only come out the same again.
            most = 1 if told is not None else encoding.document.delivery.max_encodes
            aim = levels.next_aim(goal, before, rehearsals, encodes, most)
            self.decisions.append(decisions.of_encode(encoding.name, goal, encodes, aim, known=told is not None))
        chosen = levels.best(goal, encodes) if aim is None else None
        number = len(encodes) + 1 if chosen is None else chosen + 1
        final = latest if chosen is None else encodes[chosen].setting
        file = None if chosen is None else encodes[chosen].after
        missed = None
        if file is not None and file.integrated_lufs is not None and before.integrated_lufs is not None:
            missed = round(file.integrated_lufs - goal.target_lufs, 3)
        self._expect(encoding, number, measured.out_time_s)
        self.reports.append(
            OutputReport(
                name=encoding.name,
                before=before,
                after=file,
                target_lufs=goal.target_lufs,
                gain_db=final.gain_db if final else None,
                limited_by_db=final.limited_by_db if final else None,
                missed_by_lu=missed,
                encodes=len(encodes),
            )
        )

    def _explain_picture(self, encoding: Encoding, spec: VideoSpec) -> None:
        source = self.graph.picture
        self.decisions += picture.decisions(encoding.name, source.stream, spec)
        self.decisions.append(decisions.of_video_encoder(encoding.name, encoding.video_encoder(spec), spec, self.gpu))
        self.decisions += decisions.of_left_out(encoding.name, encoding.document, self.facts[source.input])

    def _expect(self, encoding: Encoding, number: int, encoded_s: float | None) -> None:
        self.expectations.append(encoding.expectation(number, encoded_s))

    def _measured(self, signal: Signal) -> StepResult | None:
        return self.passes.measured(signal, self.graph.expected_s(signal))

    def _is_measured(self, encoding: Encoding) -> bool:
        """Whether anything depends on how loud the programme is before it is encoded."""
        return loudness_of(self.intent) is not None or encoding.tells_loudness

    def _decide(self, subject: str, choice: str, because: str) -> None:
        self.decisions.append(Decision(subject, choice, because))
