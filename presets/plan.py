"""The compiled result: FFmpeg invocations, why they are so, and what must come out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self, assert_never

from presets.analysis import Analysis


class Purpose(StrEnum):
    """What an invocation is for, which decides what its failure means."""

    INSPECT = "inspect"
    MEASURE = "measure"
    SURVEY = "survey"
    ANALYZE = "analyze"
    RENDER = "render"
    ENCODE = "encode"
    VERIFY = "verify"


@dataclass(frozen=True, slots=True)
class Loudness:
    """Loudness after EBU R128: integrated in LUFS, true peak in dBTP, range in LU.

    ``integrated_lufs`` is None where nothing was above the absolute gate of ITU-R BS.1770-4 (silence, or less than
    0.4 s), ``true_peak_dbtp`` is None for digital silence.
    """

    integrated_lufs: float | None
    true_peak_dbtp: float | None
    range_lu: float | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Survey:
    """What the meters of a survey heard; each field is empty where its meter was not there.

    ``loudness_lufs`` is integrated (None: nothing above the gate of ITU-R BS.1770-4). ``pause_s`` is from where to
    where the quietest passage lasts and ``pause_lufs`` how loud it is; None where there is none. ``levels_db`` are RMS
    levels of the signal's blocks in dBFS, ``silences_s`` where silences start and end; one that lasts until the end
    ends at None. Times are in seconds; ``length_s`` is how long all of it lasts. ``not_numbers`` counts samples that
    are infinite or no numbers.
    """

    loudness_lufs: float | None = None
    pause_s: tuple[float, float] | None = None
    pause_lufs: float | None = None
    levels_db: tuple[float, ...] = ()
    silences_s: tuple[tuple[float, float | None], ...] = ()
    length_s: float | None = None
    not_numbers: int = 0

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """From the plain JSON values of :func:`dataclasses.asdict`, whose tuples have become lists."""
        pause = document["pause_s"]
        return cls(
            loudness_lufs=document["loudness_lufs"],
            pause_s=None if pause is None else (pause[0], pause[1]),
            pause_lufs=document["pause_lufs"],
            levels_db=tuple(document["levels_db"]),
            silences_s=tuple((start, end) for start, end in document["silences_s"]),
            not_numbers=document.get("not_numbers", 0),
        )


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an invocation reported: seconds of media put out (None: not a packet), and loudness if it measured.

    ``frames`` is how many pictures it put out; None where it makes none. ``survey`` is what a survey heard,
    ``analysis`` what an analysis did.
    """

    out_time_s: float | None
    loudness: Loudness | None
    frames: int | None = None
    survey: Survey | None = None
    analysis: Analysis | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        loudness, analysis = document["loudness"], document.get("analysis")
        measured = None if loudness is None else Loudness(**loudness)
        survey = document.get("survey")
        surveyed = None if survey is None else Survey.from_json(survey)
        analysed = None if analysis is None else Analysis.from_json(analysis)
        return cls(document["out_time_s"], measured, document.get("frames"), surveyed, analysed)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One run of FFmpeg.

    ``argv`` follows the binary's path; every path in it is relative to the workspace. ``writes`` are the files it
    leaves, ``measure`` the one of them that holds loudness metadata, and ``levels`` and ``silences`` those that an
    analysis needs beside it (:func:`presets.analysis.analyse`). ``media_s`` is how many seconds of media it
    goes through and ``weight`` its share of the plan's work, both for progress. A ``provisional`` invocation still
    contains placeholders in braces and must not be run. ``renders_bytes`` is the size of the intermediate file that it
    leaves, as far as that can be told beforehand.
    """

    id: str
    purpose: Purpose
    argv: tuple[str, ...]
    writes: tuple[str, ...]
    measure: str | None
    media_s: float | None
    weight: float
    provisional: bool
    renders_bytes: int = 0
    levels: str | None = None
    silences: str | None = None

    @property
    def title(self) -> str:
        """What it does, in words: ``encode aac_192``, ``verify aac_192 (2nd try)``."""
        _, subject, *rest = self.id.split(".")
        match self.purpose:
            case Purpose.INSPECT:
                return f"decode input {subject} to its end"
            case Purpose.MEASURE:
                return "measure the loudness" + ("" if subject.isdecimal() else f" of {subject}")
            case Purpose.SURVEY:
                return f"survey {subject}"
            case Purpose.ANALYZE:
                return f"analyse {'the programme' if rest == ['programme'] else rest[-1]}"
            case Purpose.RENDER:
                return f"render {subject}"
            case Purpose.ENCODE | Purpose.VERIFY:
                tries = {"2": " (2nd try)", "3": " (3rd try)"}
                part = " (sound)" if "sound" in rest else ""
                return f"{self.purpose} {subject}{part}" + (
                    "" if rest[-1:] == ["1"] else tries.get(rest[-1], f" (try {rest[-1]})")
                )
            case _:
                assert_never(self.purpose)


@dataclass(frozen=True, slots=True)
class Decision:
    """Something the compiler chose, and why, in words a media engineer can check."""

    subject: str
    choice: str
    because: str


@dataclass(frozen=True, slots=True)
class ExpectedStream:
    """What one audio stream of an output must be."""

    codec: str
    sample_rate_hz: int
    channels: int


@dataclass(frozen=True, slots=True)
class ExpectedPicture:
    """What the video stream of an output must be.

    ``frames`` went into the encoder and ``decoded_frames`` came out of the file again; None until that is known.
    """

    codec: str
    width: int
    height: int
    pixel_format: str
    frames: int | None
    decoded_frames: int | None


@dataclass(frozen=True, slots=True)
class ExpectedCover:
    """What the cover art of an output must be."""

    codec: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """What an output must be, and where: ``path`` in the workspace, ``uri`` where it is to be published.

    ``streams`` are those of audio, ``picture`` is the one of video. ``duration_s`` is how long it must be: what went
    into the encoder, or with a picture, whose frames are counted, what is decoded of the file; None until that is
    known. ``verified_by`` is the invocation that decodes the file to its end, the first where there are two, and
    ``decoded_s`` what they found (None until they have run). ``chapters_s`` are where its chapters begin.
    """

    name: str
    path: str
    uri: str
    container: str
    streams: tuple[ExpectedStream, ...]
    duration_s: float | None
    verified_by: str
    decoded_s: float | None
    picture: ExpectedPicture | None = None
    cover: ExpectedCover | None = None
    chapters_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class OutputReport:
    """What was done to the loudness of one output.

    ``before`` is the programme at the delivery's rate and layout, ``after`` the encoded file; ``gain_db`` was applied
    to the first and peaks were then reduced by at most ``limited_by_db``. ``missed_by_lu`` is how far ``after`` is
    from the target. ``analysis`` is that of a report, whose ``after`` is the programme. All None where not known, or
    not asked for.
    """

    name: str
    before: Loudness | None
    after: Loudness | None
    target_lufs: float | None
    gain_db: float | None
    limited_by_db: float | None
    missed_by_lu: float | None
    encodes: int
    analysis: Analysis | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The invocations in the order in which they are run, and what they lead to.

    ``documents`` are texts to write into the workspace, by path: what invocations read, and outputs that are no media.
    """

    invocations: tuple[Invocation, ...]
    decisions: tuple[Decision, ...]
    outputs: tuple[Expectation, ...]
    measured: tuple[OutputReport, ...]
    documents: Mapping[str, str] = field(default_factory=dict)

    def next(self, results: Mapping[str, StepResult]) -> Invocation | None:
        """The first invocation that can be run and has no result yet; None when there is nothing to run.

        Compile again after every result: it is what makes later invocations concrete.
        """
        return next((i for i in self.invocations if not i.provisional and i.id not in results), None)

    def finished(self, results: Mapping[str, StepResult]) -> bool:
        """Whether every output has been made and measured: ``outputs`` then says what to verify and publish."""
        return all(i.id in results for i in self.invocations)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)
