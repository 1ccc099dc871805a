"""``extract``: which audio stream of an input is used."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.facts import AudioStream, MediaFacts
from presets.operations.base import Context, Operation, Signal
from presets.problems import MediaFailure
from presets.reasons import Reason


class Extract(Operation):
    """Take one audio stream: the ``track``-th counted from 1, or 0 for the best one, in ``language`` if given.

    The best one is the stream marked as default, then the one with most channels, then the first. It must be the
    first step of a chain whose sources are inputs; without it the best stream is taken.
    """

    revision: ClassVar[int] = 1
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
            candidates = [s for s in facts.audio if (s.language or "").lower() == self.language.lower()]
            if not candidates:
                spoken = sorted({s.language or "unknown" for s in facts.audio})
                raise MediaFailure(
                    Reason.INPUT_NO_AUDIO, f"no audio in that language; the input has {', '.join(spoken)}"
                )
        else:
            candidates = list(facts.audio)
        usable = [s for s in candidates if s.channels > 0 and s.sample_rate_hz > 0]
        if not usable:
            raise MediaFailure(
                Reason.INPUT_CORRUPT, "the audio stream has no readable header: neither rate nor channels"
            )
        return min(usable, key=lambda s: (not s.default, -s.channels, s.index))
