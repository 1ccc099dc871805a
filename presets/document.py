"""The documents people write: presets (how a result sounds) and profiles (how it is packed), as TOML tables.

The models check shapes and closed vocabularies; what depends on several fields together is in
:mod:`presets.semantics`, and what a step means is in :mod:`presets.operations`.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from presets.encoders import VIDEO_CODECS
from presets.formats import CODECS, CONTAINERS, LAYOUTS, REPORT

#: Names of presets, profiles, roles, parameters and chains.
NAME_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
FullName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}_v[1-9][0-9]{0,5}$")]
Value = bool | int | float | str


class Table(BaseModel):
    """A TOML table: keys it does not define are refused, and values are never converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Media(StrEnum):
    """A kind of stream, or a still picture beside them."""

    AUDIO = "audio"
    VIDEO = "video"
    PICTURE = "picture"


class Role(Table):
    """A part that an input plays.

    One for audio takes the audio of a video file too; one for video needs a picture, whose sound may be absent. One for
    a still picture (JPEG or PNG) gives files of sound their cover art, in the place of the default role's own.
    ``default``: takes an input given without a role; ``repeat``: takes several inputs.
    """

    media: Annotated[Media, Field(strict=False)]
    default: bool = False
    optional: bool = False
    repeat: bool = False
    description: str = ""


class NumberParameter(Table):
    """A real number between ``min`` and ``max``, both included."""

    type: Literal["number"]
    default: float
    min: float
    max: float
    unit: str = ""
    description: str = ""


class IntegerParameter(Table):
    """A whole number between ``min`` and ``max``, both included."""

    type: Literal["integer"]
    default: int
    min: int
    max: int
    unit: str = ""
    description: str = ""


class BooleanParameter(Table):
    """True or false."""

    type: Literal["boolean"]
    default: bool
    description: str = ""


class ChoiceParameter(Table):
    """One of ``choices``."""

    type: Literal["choice"]
    choices: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    default: str
    description: str = ""


class TextParameter(Table):
    """Text of at most ``max_length`` characters, matched against media facts; it never reaches FFmpeg."""

    type: Literal["text"]
    default: str = ""
    max_length: Annotated[int, Field(ge=1, le=1000)] = 100
    description: str = ""


Parameter = Annotated[
    NumberParameter | IntegerParameter | BooleanParameter | ChoiceParameter | TextParameter,
    Field(discriminator="type"),
]


class Given(Table):
    """True when the role has an input."""

    given: str


class NotGiven(Table):
    """True when the role has no input."""

    not_given: str


class ParameterIs(Table):
    """True when the parameter has this value."""

    parameter: str
    is_: Annotated[Value, Field(alias="is")]


class Has(Table):
    """True when the input of the role has a stream of this kind."""

    has: Annotated[Media, Field(strict=False)]
    role: str


_CONDITIONS = ("given", "not_given", "parameter", "has")


def _condition_kind(value: Any) -> str | None:
    keys = value if isinstance(value, dict) else vars(value) if isinstance(value, Table) else {}
    # In brackets, so that no place in a document is mistaken for the name of a kind.
    return next((f"<{kind}>" for kind in _CONDITIONS if kind in keys), None)


Condition = Annotated[
    Annotated[Given, Tag("<given>")]
    | Annotated[NotGiven, Tag("<not_given>")]
    | Annotated[ParameterIs, Tag("<parameter>")]
    | Annotated[Has, Tag("<has>")],
    Discriminator(
        _condition_kind,
        custom_error_type="condition",
        custom_error_message='one of { given = "ROLE" }, { not_given = "ROLE" }, '
        '{ parameter = "NAME", is = VALUE }, { has = "audio", role = "ROLE" }',
    ),
]


class Chain(Table):
    """Steps applied in order to what ``from`` names: roles and other chains. Skipped when ``when`` is false.

    ``media`` is what it takes of them and makes. The last chain of each kind is what is delivered of that kind.
    """

    media: Annotated[Media, Field(strict=False)] = Media.AUDIO
    from_: Annotated[tuple[str, ...], Field(alias="from", min_length=1, strict=False)]
    when: Condition | None = None
    steps: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()


class Measure(StrEnum):
    """What a check may expect of an output.

    ``duck_db`` is the gain of a tone of 12 kHz, which is the only sound there, while another sounds, in dB against the
    most that it gets.
    ``noise_reduction_db`` is how much quieter pauses are than in the input of the default role, ``voice_level_db`` how
    much louder what is loud in it; both before the gain that brings the programme to its loudness.
    """

    INTEGRATED_LUFS = "integrated_lufs"
    TRUE_PEAK_DBTP = "true_peak_dbtp"
    DURATION_S = "duration_s"
    CHANNELS = "channels"
    SAMPLE_RATE_HZ = "sample_rate_hz"
    NOISE_REDUCTION_DB = "noise_reduction_db"
    VOICE_LEVEL_DB = "voice_level_db"
    WIDTH = "width"
    HEIGHT = "height"
    DUCK_DB = "duck_db"


class Check(Table):
    """A test of the preset against the real FFmpeg: synthetic inputs, and ranges that the output must be within."""

    inputs: dict[str, Annotated[str, Field(pattern=r"^synth:[a-z0-9_]+$")]]
    parameters: dict[str, Value] = {}
    profile: FullName | None = None
    expect: dict[
        Annotated[Measure, Field(strict=False)],
        Annotated[tuple[float, float], Field(strict=False)],
    ]


class Document(Table):
    """What presets and profiles have in common; the full name is ``{name}_v{version}``."""

    name: Name
    version: Annotated[int, Field(ge=1, le=999_999)]
    title: str = ""
    description: str = ""

    @property
    def full_name(self) -> str:
        """Name and version: ``dialogue_clean_v1``."""
        return f"{self.name}_v{self.version}"


class PresetDocument(Document):
    """How a result sounds: roles, typed parameters and chains of operations, and checks of all that."""

    default_profile: FullName
    roles: Annotated[dict[Name, Role], Field(min_length=1)]
    parameters: dict[Name, Parameter] = {}
    chain: Annotated[dict[Name, Chain], Field(min_length=1)]
    check: Annotated[tuple[Check, ...], Field(strict=False)] = ()


Encoders = Annotated[tuple[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], ...], Field(min_length=1, strict=False)]


class AudioSpec(Table):
    """An audio stream of a deliverable.

    ``encoders`` are FFmpeg's, preferred first. ``bitrate_kbps`` is a ceiling, for lossy codecs; in its place
    ``vbr_quality`` asks for a constant quality at a bit rate that varies, as the encoders count it (MP3: 0 is best, 9
    smallest; Vorbis: 10 is best, -1 smallest). ``bits`` is for lossless ones: 16 are dithered, more are not.
    ``sample_rate_hz`` left out keeps the source's. A source layout in ``layouts`` is kept, any other
    is mixed to the last of them.
    """

    kind: Literal["audio"]
    codec: str
    encoders: Encoders
    bitrate_kbps: Annotated[int, Field(ge=1)] | None = None
    vbr_quality: Annotated[int, Field(ge=-1, le=10)] | None = None
    bits: Literal[16, 24, 32] | None = None
    sample_rate_hz: Annotated[int, Field(ge=8000, le=192_000)] | None = None
    layouts: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]

    @field_validator("codec")
    @classmethod
    def _known_codec(cls, codec: str) -> str:
        return _one_of("codec", codec, CODECS)

    @field_validator("layouts")
    @classmethod
    def _known_layouts(cls, layouts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_one_of("layout", layout, LAYOUTS) for layout in layouts)


class Hardware(StrEnum):
    """Whether a GPU's encoder is used: where one is free, else the processor; nothing else; not at all."""

    PREFER = "prefer"
    REQUIRE = "require"
    NEVER = "never"


class VideoSpec(Table):
    """A video stream of a deliverable: progressive, square pixels, even sizes, the source's frames and timing.

    ``encoders`` are FFmpeg's, preferred first. ``quality`` is constant, as the CRF of x264: about 18 looks like the
    source, 23 is the usual compromise, 6 more halves the file; every encoder gets it as its own number for that.
    ``max_height`` bounds the shorter side (of a portrait picture its width), in pixels: a larger picture is scaled
    down, a smaller one is left as it is. ``gop_s`` is the longest distance between key frames, in seconds.
    """

    kind: Literal["video"]
    codec: str
    encoders: Encoders
    hardware: Annotated[Hardware, Field(strict=False)] = Hardware.PREFER
    quality: Annotated[int, Field(ge=10, le=40)]
    max_height: Annotated[int, Field(ge=16, le=4320, multiple_of=2)] | None = None
    pixel_format: Literal["yuv420p"] = "yuv420p"
    gop_s: Annotated[float, Field(ge=0.1, le=20)] = 2.0

    @field_validator("codec")
    @classmethod
    def _known_codec(cls, codec: str) -> str:
        return _one_of("codec", codec, VIDEO_CODECS)


StreamSpec = Annotated[AudioSpec | VideoSpec, Field(discriminator="kind")]


class Delivery(Table):
    """What is promised of the encoded file.

    ``ceiling_dbtp`` is the highest true peak, measured on the encoded file; at most ``max_encodes`` are made to keep
    loudness and ceiling. ``faststart`` puts an MP4's index first. ``cover``: a file of sound keeps cover art, where the
    container has a place for it; ``chapters``: and chapters, where the steps leave the timeline as it is.
    """

    ceiling_dbtp: Annotated[float, Field(ge=-12, le=0)] | None = None
    max_encodes: Annotated[int, Field(ge=1, le=5)] = 3
    faststart: bool = False
    cover: bool = True
    chapters: bool = False


class Silence(Table):
    """What a report lists as silence: every channel below ``below_dbfs`` (sample peaks) for ``at_least_s`` seconds."""

    below_dbfs: Annotated[float, Field(ge=-120, le=-20)] = -60.0
    at_least_s: Annotated[float, Field(ge=0.1, le=3600)] = 0.5


class ProfileDocument(Document):
    """How a deliverable is packed: container, streams, and what is promised of the encoded file.

    At most one stream of each kind. Beside a picture, sound is left out where the source has none. The container
    "report" has no streams: it is a JSON document of what was measured, in which ``silence`` counts as such.
    """

    container: str
    extension: Annotated[str, Field(pattern=r"^[a-z0-9]{1,8}$")]
    stream: Annotated[tuple[StreamSpec, ...], Field(max_length=2, strict=False)] = ()
    delivery: Delivery = Delivery()
    silence: Silence = Silence()

    @property
    def reports(self) -> bool:
        """Whether this is a document of measurements, and no media."""
        return self.container == REPORT

    @property
    def audio(self) -> AudioSpec | None:
        """The audio stream, if there is one."""
        return next((spec for spec in self.stream if isinstance(spec, AudioSpec)), None)

    @property
    def video(self) -> VideoSpec | None:
        """The video stream, if there is one."""
        return next((spec for spec in self.stream if isinstance(spec, VideoSpec)), None)

    @field_validator("container")
    @classmethod
    def _known_container(cls, container: str) -> str:
        return _one_of("container", container, (*CONTAINERS, REPORT))


def _one_of(what: str, value: str, known: Any) -> str:
    if value not in known:
        raise PydanticCustomError(
            "one_of",
            "{what} {value} is not known; expected one of {known}",
            {"what": what, "value": repr(value), "known": ", ".join(known)},
        )
    return value
