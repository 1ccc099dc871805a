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
    the target, "fail" ends the job with LOUDNESS_UNREACHABLE. What is limited is measured again until the gain is
    known that makes up for the limiter. The encoded file is measured too and encoded anew with corrected gain and
    ceiling until both fit; a lossless file is what was measured before. The stricter ceiling of this step and the
    profile holds. What has nothing above -70 LUFS gets no gain.

    Without ``target_lufs`` the programme is measured and left as it is.

    ``mono_offset_lu`` is added to the target where one channel is delivered. Two speakers play it both, and so 3 LU
    louder than a stereo programme that measures the same: -3 makes them equal, as podcast platforms that ask for -16
    LUFS in stereo and -19 in mono mean it, and FFmpeg's ``dual_mono``. EBU R128 measures a file by its channels: 0.
    """

    revision: ClassVar[int] = 2
    filters: ClassVar[tuple[str, ...]] = (
        *("aresample", "aformat", "apad", "ebur128", "ametadata", "volume", "alimiter"),
    )

    op: Literal["loudness"] = "loudness"
    target_lufs: Annotated[float | None, Field(ge=-50, le=-5)] = None
    ceiling_dbtp: Annotated[float, Field(ge=-12, le=0)] = -1.0
    mono_offset_lu: Annotated[float, Field(ge=-6, le=0)] = 0.0
    over_peaks: Annotated[OverPeaks, Field(strict=False)] = OverPeaks.LIMIT
    max_reduction_db: Annotated[float, Field(ge=0, le=30)] = 8.0

    def target_for(self, channels: int) -> float | None:
        """The target in LUFS of a programme with so many channels."""
        if self.target_lufs is None:
            return None
        return self.target_lufs + (self.mono_offset_lu if channels == 1 else 0.0)

    def apply(self, signals: Sequence[Signal], context: Context) -> Signal:
        """Nothing by itself: it takes several invocations, which the compiler makes."""
        return signals[0]
