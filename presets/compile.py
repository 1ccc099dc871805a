"""The compiler: (intent, probed media, capabilities, results so far) -> plan. Pure.

A plan is refined as measurements arrive: compile with no results, run what :meth:`~presets.plan.Plan.next` names,
compile again with its result, until the plan is finished. Ids are deterministic, so a plan can be resumed and
replayed from the results alone. Loudness is two-pass EBU R128 with the encoded file as the judge: measure, apply one
gain (and a true-peak limiter where needed), encode, measure the encoded file, correct and encode again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from presets import command, levels
from presets.capabilities import Binary
from presets.capabilities import encoder as encoder_capability
from presets.facts import MediaFacts
from presets.formats import states_duration
from presets.graph import Graph, Source, loudness_of
from presets.intent import Intent, OutputRef, default_role
from presets.operations.base import Signal
from presets.plan import (
    Decision,
    Expectation,
    ExpectedStream,
    Invocation,
    Loudness,
    OutputReport,
    Plan,
    Purpose,
    StepResult,
)
from presets.problems import MediaFailure
from presets.reasons import Reason

#: Work per second of media, relative to decoding and measuring it.
_WEIGHTS = {Purpose.INSPECT: 0.4, Purpose.MEASURE: 1.0, Purpose.ENCODE: 1.5, Purpose.VERIFY: 0.6}

#: A decode that ends this much before the declared duration proves a cut file: seconds, or a share if that is more.
#: Below it are encoder delays, edit lists and headers that round.
TRUNCATED_S = 1.0
TRUNCATED_SHARE = 0.02


def compile(  # noqa: A001 -- the name this step has everywhere; the module is imported, not the function
    intent: Intent,
    facts: Sequence[MediaFacts],
    binary: Binary,
    results: Mapping[str, StepResult],
    *,
    threads: int = 1,
    verbose: bool = False,
) -> Plan:
    """The plan as far as it is known from ``results`` (by invocation id).

    :param verbose: FFmpeg logs in detail.
    :param facts: of the inputs, in the order of ``intent.inputs``, which are the files ``in/0``, ``in/1`` …
    :raises MediaFailure: the media cannot be processed as asked: INPUT_NO_AUDIO, INPUT_CORRUPT, INPUT_TRUNCATED,
        LOUDNESS_UNREACHABLE, UNSUPPORTED_COMBINATION.
    """
    job = _Job(intent, Graph(intent, facts, threads), facts, binary, results, threads)
    sources = job.graph.sources
    job.describe(sources)
    if len(sources) > 1:
        for source in sources:
            job.inspect(source)
    for output in intent.outputs:
        job.measure(output)
    for output in intent.outputs:
        job.make(output)
    invocations = (command.verbose(i) if verbose else i for i in job.invocations.values())
    return Plan(tuple(invocations), tuple(job.decisions), tuple(job.expectations), tuple(job.reports))


@dataclass(slots=True)
class _Job:
    """One compilation: what it is given, and what it has put together so far."""

    intent: Intent
    graph: Graph
    facts: Sequence[MediaFacts]
    binary: Binary
    results: Mapping[str, StepResult]
    threads: int
    invocations: dict[str, Invocation] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    expectations: list[Expectation] = field(default_factory=list)
    reports: list[OutputReport] = field(default_factory=list)

    def describe(self, sources: Sequence[Source]) -> None:
        for source in sources:
            count = len(self.facts[source.input].audio)
            stream = source.stream
            self._decide(
                f"input {source.input} ({source.role})",
                f"audio track {source.position + 1} of {count}: {stream.codec}, {stream.sample_rate_hz} Hz, "
                f"{stream.channels} channel{'s' if stream.channels > 1 else ''}",
                "the only one" if count == 1 else "asked for, or else default, most channels, first",
            )
        version = self.binary.version
        self._decide("FFmpeg", version, "the newest that can do this job, and of those the quickest to start")

    def inspect(self, source: Source) -> None:
        """With several streams no other pass shows where each of them ends."""
        id_ = f"inspect.{source.input}.{source.position}"
        argv = command.inspect(self.graph, source)
        self._run(id_, Purpose.INSPECT, argv, media_s=self._declared_s(source))
        if id_ in self.results:
            self._complete(self.results[id_].out_time_s, [source])

    def measure(self, output: OutputRef) -> None:
        """Outputs with one rate and layout share one measurement."""
        if loudness_of(self.intent) is None:
            return
        signal = self._programme(output)
        id_ = _measure_id(signal)
        if id_ in self.invocations:
            return
        file = f"{id_}.txt"
        self._run(id_, Purpose.MEASURE, command.measure(signal, self.threads, file), measure=file)
        if id_ in self.results:
            self._complete(self.results[id_].out_time_s, self.graph.sources)

    def make(self, output: OutputRef) -> None:
        step = loudness_of(self.intent)
        if step is None:
            self._make_plain(output)
            return
        ceilings = [step.ceiling_dbtp, output.profile.document.delivery.ceiling_dbtp]
        goal = levels.Goal(
            step.target_lufs,
            min(c for c in ceilings if c is not None),
            step.over_peaks,
            step.max_reduction_db,
        )
        signal = self._programme(output)
        measured = self.results.get(_measure_id(signal))
        if measured is None:
            self._make_provisionally(output, signal, goal)
        else:
            self._make_levelled(output, signal, goal, measured)

    def _make_plain(self, output: OutputRef) -> None:
        signal = self._programme(output)
        after = self._encode(output, signal, None, 1)
        encoded = self.results.get(_encode_id(output, 1))
        if encoded is not None:
            self._complete(encoded.out_time_s, self.graph.sources)
        ceiling = output.profile.document.delivery.ceiling_dbtp
        if after is not None and ceiling is not None and (after.true_peak_dbtp or ceiling) > ceiling:
            self._decide(
                f"{output.name}: level",
                f"left as it is, true peak {after.true_peak_dbtp:.1f} dBTP",
                f"the preset changes no levels, although the profile's ceiling is {ceiling:g} dBTP",
            )
        self._expect(output, signal, 1, encoded.out_time_s if encoded else None)
        self.reports.append(OutputReport(output.name, None, after, None, None, None, None, 1 if encoded else 0))

    def _make_provisionally(self, output: OutputRef, signal: Signal, goal: levels.Goal) -> None:
        path = _path(output, 1)
        argv = command.encode_provisionally(
            signal,
            profile=output.profile.document,
            encoder=self._encoder(output),
            metadata=self._metadata(),
            threads=self.threads,
            path=path,
        )
        self._run(_encode_id(output, 1), Purpose.ENCODE, argv, writes=(path,), provisional=True)
        self._verify(output, 1, provisional=True)
        self._decide(
            f"{output.name}: level",
            f"to {goal.target_lufs:g} LUFS, at most {goal.ceiling_dbtp:g} dBTP",
            "the gain follows from the measurement; the limiter is left out where the peaks have room",
        )
        self._expect(output, signal, 1, None)
        self.reports.append(OutputReport(output.name, None, None, goal.target_lufs, None, None, None, 0))

    def _make_levelled(self, output: OutputRef, signal: Signal, goal: levels.Goal, measured: StepResult) -> None:
        before = measured.loudness or Loudness(None, None, None)
        max_encodes = output.profile.document.delivery.max_encodes
        encodes: list[levels.Encode] = []
        latest = levels.first_setting(goal, before)
        self._explain_first(output, goal, before, latest)
        setting: levels.Setting | None = latest
        while setting is not None:
            latest = setting
            after = self._encode(output, signal, setting, len(encodes) + 1)
            if after is None:
                break
            encodes.append(levels.Encode(setting, after))
            setting = levels.next_setting(goal, before, encodes, max_encodes)
            self._explain_encode(output, goal, encodes, setting)
        done = bool(encodes) and setting is None
        chosen = levels.best(goal, encodes) if done else None
        number = len(encodes) + 1 if chosen is None else chosen + 1
        final = latest if chosen is None else encodes[chosen].setting
        file = None if chosen is None else encodes[chosen].after
        missed = None
        if file is not None and file.integrated_lufs is not None and before.integrated_lufs is not None:
            missed = round(file.integrated_lufs - goal.target_lufs, 3)
        self._expect(output, signal, number, measured.out_time_s)
        self.reports.append(
            OutputReport(
                name=output.name,
                before=before,
                after=file,
                target_lufs=goal.target_lufs,
                gain_db=final.gain_db,
                limited_by_db=final.limited_by_db,
                missed_by_lu=missed,
                encodes=len(encodes),
            )
        )

    def _explain_first(self, output: OutputRef, goal: levels.Goal, before: Loudness, setting: levels.Setting) -> None:
        if before.integrated_lufs is None:
            choice, because = "left as it is", "nothing is loud or long enough to have a loudness (EBU R128 gate)"
        else:
            choice = f"{setting.gain_db:+.2f} dB"
            because = (
                f"the programme measures {before.integrated_lufs:.1f} LUFS and {_dbtp(before)}, "
                f"{goal.target_lufs:g} LUFS is asked for"
            )
            if before.integrated_lufs + setting.gain_db < goal.target_lufs - levels.TOLERANCE_LU:
                short = goal.target_lufs - before.integrated_lufs - setting.gain_db
                because += f"; {short:.1f} dB less, as at most {goal.max_reduction_db:g} dB may be limited"
        self._decide(f"{output.name}: gain", choice, because)
        if setting.limited_by_db > 0:
            choice = f"true peaks to {setting.ceiling_dbtp:g} dBTP, by up to {setting.limited_by_db:.1f} dB"
            because = "with this gain the peaks would be above the ceiling"
        else:
            choice, because = "none", "the peaks have room for the gain, so it is linear"
        self._decide(f"{output.name}: limiter", choice, because)

    def _explain_encode(
        self,
        output: OutputRef,
        goal: levels.Goal,
        encodes: Sequence[levels.Encode],
        following: levels.Setting | None,
    ) -> None:
        after = encodes[-1].after
        loudness = "no loudness" if after.integrated_lufs is None else f"{after.integrated_lufs:.2f} LUFS"
        if following is not None:
            choice = f"encode again at {following.gain_db:+.2f} dB, ceiling {following.ceiling_dbtp:.2f} dBTP"
        elif levels.overshoot(goal, encodes[-1]) > levels.TOLERANCE_DB:
            choice = "no further encode is allowed; the best is delivered"
        else:
            choice = "delivered" if len(encodes) == 1 else "the best is delivered"
        self._decide(f"{output.name}: encode {len(encodes)}", choice, f"the file measures {loudness}, {_dbtp(after)}")

    def _encode(
        self, output: OutputRef, signal: Signal, setting: levels.Setting | None, number: int
    ) -> Loudness | None:
        """Encode and verify; the file's loudness once that has been done."""
        path = _path(output, number)
        argv = command.encode(
            signal,
            setting,
            profile=output.profile.document,
            encoder=self._encoder(output),
            metadata=self._metadata(),
            threads=self.threads,
            path=path,
        )
        self._run(_encode_id(output, number), Purpose.ENCODE, argv, writes=(path,))
        self._verify(output, number)
        verified = self.results.get(_verify_id(output, number))
        return None if verified is None else verified.loudness or Loudness(None, None, None)

    def _verify(self, output: OutputRef, number: int, *, provisional: bool = False) -> None:
        id_ = _verify_id(output, number)
        file = f"{id_}.txt"
        argv = command.verify(_path(output, number), self.threads, file)
        self._run(id_, Purpose.VERIFY, argv, measure=file, provisional=provisional)

    def _run(
        self,
        id_: str,
        purpose: Purpose,
        argv: tuple[str, ...],
        *,
        writes: tuple[str, ...] = (),
        measure: str | None = None,
        media_s: float | None = None,
        provisional: bool = False,
    ) -> None:
        media_s = media_s or self._expected_s()
        self.invocations[id_] = Invocation(
            id=id_,
            purpose=purpose,
            argv=argv,
            writes=(*writes, measure) if measure else writes,
            measure=measure,
            media_s=media_s,
            weight=_WEIGHTS[purpose],
            provisional=provisional,
        )

    def _expect(self, output: OutputRef, signal: Signal, number: int, duration_s: float | None) -> None:
        document = output.profile.document
        verified = self.results.get(_verify_id(output, number))
        self.expectations.append(
            Expectation(
                name=output.name,
                path=_path(output, number),
                uri=output.uri,
                container=document.container,
                streams=(ExpectedStream(document.stream[0].codec, signal.sample_rate_hz, signal.channels),),
                duration_s=duration_s,
                verified_by=_verify_id(output, number),
                decoded_s=None if verified is None else verified.out_time_s,
            )
        )

    def _complete(self, decoded_s: float | None, sources: Sequence[Source]) -> None:
        """Refuse media of which nothing, or less than their header declares, could be decoded."""
        stated = [d for s in sources if (d := self._stated_s(s)) is not None]
        longest = max(stated, default=0.0)
        if longest - (decoded_s or 0.0) > max(TRUNCATED_S, longest * TRUNCATED_SHARE):
            raise MediaFailure(
                Reason.INPUT_TRUNCATED,
                f"the input declares {longest:.1f} s of audio and ends after {decoded_s or 0.0:.1f} s",
            )
        if not decoded_s:
            raise MediaFailure(Reason.INPUT_CORRUPT, "not one sample of the audio could be decoded")

    def _stated_s(self, source: Source) -> float | None:
        """The duration that a header states, as opposed to one that was estimated from what is there."""
        facts, declared_s = self.facts[source.input], self._declared_s(source)
        if declared_s is None or states_duration(facts.format_name):
            return declared_s
        # An estimate is size over bit rate, so a duration that the bytes cannot fill came from a header (MP3's Xing).
        needed = declared_s * (source.stream.bit_rate or 0) / 8
        only = len(facts.streams) == 1
        return declared_s if only and facts.size_bytes < needed * (1 - TRUNCATED_SHARE) else None

    def _declared_s(self, source: Source) -> float | None:
        facts = self.facts[source.input]
        if source.stream.duration_s is not None:
            return source.stream.duration_s
        # With other streams beside it the file's duration may be theirs.
        return facts.duration_s if len(facts.streams) == 1 else None

    def _expected_s(self) -> float | None:
        known = [self._declared_s(s) or self.facts[s.input].duration_s or 0.0 for s in self.graph.sources]
        return max(known, default=0.0) or None

    def _programme(self, output: OutputRef) -> Signal:
        return self.graph.programme(output.profile.document.stream[0])

    def _encoder(self, output: OutputRef) -> str:
        spec = output.profile.document.stream[0]
        for name in spec.encoders:
            if encoder_capability(name) in self.binary.capabilities:
                return name
        raise MediaFailure(
            Reason.UNSUPPORTED_COMBINATION,
            f"{output.profile.full_name} needs one of the encoders {', '.join(spec.encoders)}, and FFmpeg "
            f"{self.binary.version} has none of them",
        )

    def _metadata(self) -> command.Metadata:
        """Title and artist are the default role's; they belong to the file, but in Ogg to its audio stream."""
        default = default_role(self.intent.preset)
        first = min(self.graph.sources, key=lambda source: source.role != default)
        ogg = "ogg" in self.facts[first.input].format_name.split(",")
        return command.Metadata(f"in/{first.input}", f"s:{first.stream.index}" if ogg else "g")

    def _decide(self, subject: str, choice: str, because: str) -> None:
        self.decisions.append(Decision(subject, choice, because))


def _measure_id(signal: Signal) -> str:
    return f"measure.{signal.sample_rate_hz}.{signal.channels}ch"


def _encode_id(output: OutputRef, number: int) -> str:
    return f"encode.{output.name}.{number}"


def _verify_id(output: OutputRef, number: int) -> str:
    return f"verify.{output.name}.{number}"


def _path(output: OutputRef, number: int) -> str:
    mark = f".{number}" if number > 1 else ""
    return f"out/{output.name}{mark}.{output.profile.document.extension}"


def _dbtp(loudness: Loudness) -> str:
    return "no peak" if loudness.true_peak_dbtp is None else f"{loudness.true_peak_dbtp:.1f} dBTP"
