"""``extract``: which audio stream of an input is used."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.facts import AudioStream, MediaFacts
from presets.languages import same_language
from presets.operations.base import Context, Operation, Signal
from presets.problems import MediaFailure
from presets.reasons import Reason

#: What ffprobe calls streams that FFmpeg 5.1 and 9.0 cannot decode.
_UNDECODABLE = frozenset({"unknown", "none", "ac4", "mpegh_3d_audio"})


class Extract(Operation):
    """Take one audio stream: the ``track``-th counted from 1, or 0 for the best one, in ``language`` if given.

    The best one is the dialogue's: of those that can be decoded, commentaries, descriptions for the blind and music
    without voices come last, whether marked so or titled so; then the one marked as default comes first, then the one
    with most channels, then the first in the file. Languages are the same by either code: "de", "ger", "deu", "de-AT".

    It must be the first step of a chain whose sources are inputs; without it the best stream is taken.
    """

    revision: ClassVar[int] = 2
    filters: ClassVar[tuple[str, ...]] = ()

    op: Literal["extract"] = "extract"
    track: Annotated[int, Field(ge=0, le=255)] = 0
    language: Annotated[str, Field(max_length=100)] = ""

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Nothing is left to do: the compiler opened the stream that :meth:`choose` named."""
        return signals[0]

    def choose(self, facts: MediaFacts) -> AudioStream:
        """The stream this step takes.

        :raises MediaFailure: INPUT_NO_AUDIO where there is none, INPUT_CORRUPT where there is but none is usable.
        """
        if not facts.audio:
            raise MediaFailure(Reason.INPUT_NO_AUDIO, "the input has no audio stream")
        if self.track:
            if self.track > len(facts.audio):
                raise MediaFailure(
                    Reason.INPUT_NO_AUDIO,
                    f"audio track {self.track} was asked for, the input has {len(facts.audio)}",
                )
            candidates = [facts.audio[self.track - 1]]
        elif self.language:
            candidates = [s for s in facts.audio if s.language and same_language(s.language, self.language)]
            if not candidates:
                spoken = sorted({s.language or "unknown" for s in facts.audio})
                raise MediaFailure(
                    Reason.INPUT_NO_AUDIO, f"no audio in that language; the input has {', '.join(spoken)}"
                )
        else:
            candidates = list(facts.audio)
        decodable = [s for s in candidates if s.codec not in _UNDECODABLE]
        usable = [s for s in decodable if s.channels > 0 and s.sample_rate_hz > 0]
        if not decodable:
            codecs = ", ".join(sorted({s.codec for s in candidates}))
            raise MediaFailure(Reason.INPUT_CORRUPT, f"the audio is in a format that cannot be decoded: {codecs}")
        if not usable:
            raise MediaFailure(
                Reason.INPUT_CORRUPT, "the audio stream has no readable header: neither rate nor channels"
            )
        return min(usable, key=lambda s: (s.aside, not s.default, -s.channels, s.index))
