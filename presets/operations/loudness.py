"""``loudness``: bring the programme to a loudness after EBU R128, measured on the encoded file."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from presets.operations.base import Context, Operation, Signal


class OverPeaks(StrEnum):
    """What to do where the target would need more limiting than ``max_reduction_db``."""

    LIMIT = "limit"
    LOWER = "lower"
    FAIL = "fail"


class Loudness(Operation):
    """Bring the programme to ``target_lufs`` with true peaks at or below ``ceiling_dbtp`` (EBU R128).

    The last step of the preset's last chain. The programme is measured at the delivery's rate and layout; one gain
    is applied, linear where the peaks allow it. Where they don't, a true-peak limiter takes off at most
    ``max_reduction_db``; beyond that ``over_peaks`` decides: "limit" limits as much as is needed, "lower" stays below
    the target, "fail" ends the job with LOUDNESS_UNREACHABLE. The encoded file is measured again and encoded anew
    with corrected gain and ceiling until both fit. The stricter ceiling of this step and the profile holds.
    """

    revision: ClassVar[int] = 1
    filters: ClassVar[tuple[str, ...]] = (
        *("aresample", "aformat", "apad", "ebur128", "ametadata", "volume", "alimiter"),
    )

    op: Literal["loudness"] = "loudness"
    target_lufs: Annotated[float, Field(ge=-50, le=-5)]
    ceiling_dbtp: Annotated[float, Field(ge=-12, le=0)] = -1.0
    over_peaks: Annotated[OverPeaks, Field(strict=False)] = OverPeaks.LIMIT
    max_reduction_db: Annotated[float, Field(ge=0, le=30)] = 8.0

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Nothing by itself: it takes several invocations, which the compiler makes."""
        return signals[0]
