"""The invocations of one compilation, in the order in which they are run, and what those that ran reported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from presets import command
from presets.document import Silence
from presets.opening import opened
from presets.operations.base import Signal
from presets.plan import Invocation, Purpose, StepResult, Survey

#: Work per second of media, relative to decoding and measuring it.
_WEIGHTS = {
    Purpose.INSPECT: 0.4,
    Purpose.MEASURE: 1.0,
    Purpose.SURVEY: 0.6,
    Purpose.ANALYZE: 1.6,
    Purpose.RENDER: 0.6,
    Purpose.ENCODE: 1.5,
    Purpose.VERIFY: 0.6,
}

#: Of one sample in a file between two invocations: 32-bit float, so that nothing is lost or clipped on the way.
_RENDERED_BYTES = 4


@dataclass(frozen=True, slots=True)
class Passes:
    """What is run, by id. Ids are deterministic, so that results found once serve every later compilation."""

    results: Mapping[str, StepResult]
    threads: int
    invocations: dict[str, Invocation] = field(default_factory=dict)

    def run(
        self,
        id_: str,
        purpose: Purpose,
        argv: tuple[str, ...],
        *,
        media_s: float | None,
        writes: tuple[str, ...] = (),
        measure: str | None = None,
        provisional: bool = False,
        times: int = 1,
        renders_bytes: int = 0,
        levels: str | None = None,
        silences: str | None = None,
    ) -> StepResult | None:
        """Have an invocation run, and its result where it has been; ``times`` is its work relative to sound's."""
        self.invocations[id_] = Invocation(
            id=id_,
            purpose=purpose,
            argv=argv,
            writes=(*writes, *(file for file in (measure, levels, silences) if file)),
            measure=measure,
            media_s=media_s,
            weight=_WEIGHTS[purpose] * times,
            provisional=provisional,
            renders_bytes=renders_bytes,
            levels=levels,
            silences=silences,
        )
        return None if provisional else self.results.get(id_)

    def measured(self, signal: Signal, media_s: float | None, label: str = "") -> StepResult | None:
        """Length and loudness of a signal; None until it has been measured.

        What comes out the same is measured once. ``label`` says in ids what it is; the programme has none.
        """
        id_, file, argv = self._new(
            Purpose.MEASURE, label, signal, "{}.txt", lambda file: command.measure(signal, self.threads, file)
        )
        return self.run(id_, Purpose.MEASURE, argv, media_s=media_s, measure=file, provisional=signal.provisional)

    def surveyed(self, signal: Signal, label: str, *, key: str | None = None) -> Survey | None:
        """What the meters at the end of a signal's filters hear, all or the one value ``key``; None until they have."""
        id_, file, argv = self._new(
            Purpose.SURVEY, label, signal, "{}.txt", lambda file: command.survey(signal, self.threads, file, key)
        )
        made = self.run(
            id_, Purpose.SURVEY, argv, media_s=signal.length_s, measure=file, provisional=signal.provisional
        )
        return None if made is None else replace(made.survey or Survey(), length_s=made.out_time_s)

    def analysed(
        self, signal: Signal, subject: str, silence: Silence, *, provisional: bool = False
    ) -> StepResult | None:
        """All that the meters tell of a signal; None until they have. ``subject`` says in ids what it is."""
        id_ = f"{Purpose.ANALYZE}.{subject}"
        files = command.Meters(f"{id_}.txt", f"{id_}.levels.txt", f"{id_}.silences.txt")
        return self.run(
            id_,
            Purpose.ANALYZE,
            command.analyse(signal, self.threads, files, silence),
            media_s=signal.length_s,
            measure=files.loudness,
            levels=files.levels,
            silences=files.silences,
            provisional=provisional or signal.provisional,
        )

    def rendered(self, signal: Signal, label: str, *, endless: bool = False) -> Signal:
        """The signal from a file that another invocation writes, sample for sample; ``endless``: again and again.

        For what must be heard more than once, or is too slow to be made by every invocation that needs it.
        """
        id_, path, argv = self._new(
            Purpose.RENDER, label, signal, "work/{}.wav", lambda path: command.render(signal, self.threads, path)
        )
        samples = (signal.length_s or 0.0) * signal.sample_rate_hz * signal.channels
        made = self.run(
            id_,
            Purpose.RENDER,
            argv,
            media_s=signal.length_s,
            writes=(path,),
            provisional=signal.provisional,
            renders_bytes=int(samples * _RENDERED_BYTES),
        )
        stream = opened(path, self.threads, endless=endless).audio_stream(0).aformat(sample_fmts="fltp")
        length_s = None if endless else signal.length_s if made is None else made.out_time_s
        return replace(signal, stream=stream, length_s=length_s, provisional=made is None)

    def _new(
        self, purpose: Purpose, label: str, signal: Signal, file: str, argv_of: Callable[[str], tuple[str, ...]]
    ) -> tuple[str, str, tuple[str, ...]]:
        """An id, a file and a command: those of an equal signal, or else ones that are not taken."""
        stem = ".".join(filter(None, [purpose, label, str(signal.sample_rate_hz), f"{signal.channels}ch"]))
        for number in count(1):
            id_ = stem if number == 1 else f"{stem}.{number}"
            path = file.format(id_)
            argv = argv_of(path)
            if id_ not in self.invocations or self.invocations[id_].argv == argv:
                return id_, path, argv
        raise AssertionError("count never ends")
