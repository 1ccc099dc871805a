"""What FFmpeg's last words mean."""

import pytest

from presets.diagnosis import diagnose
from presets.plan import Invocation, Purpose
from presets.reasons import Reason


def _step(purpose: Purpose) -> Invocation:
    return Invocation("step", purpose, (), (), None, None, 1.0, False)


@pytest.mark.parametrize(
    ("purpose", "status", "log", "reason"),
    [
        (Purpose.MEASURE, 1, "[flac @ 0x55d0] [error] invalid residual", Reason.INPUT_CORRUPT),
        (Purpose.MEASURE, 1, "[error] in/0: Invalid data found when processing input", Reason.INPUT_CORRUPT),
        (Purpose.MEASURE, 183, "[in#0 @ 0x5b] [error] Format not on whitelist 'wav'", Reason.INPUT_CORRUPT),
        (Purpose.MEASURE, 1, "[wav @ 0x55] [warning] Packet corrupt (stream = 0, dts = NOPTS).\n"
         "[fatal] in/0: corrupt input packet in stream 0", Reason.INPUT_TRUNCATED),
        (Purpose.INSPECT, 183, "[in#0/caf @ 0x55] [warning] Packet corrupt (stream = 0, dts = 1).",
         Reason.INPUT_TRUNCATED),
        (Purpose.MEASURE, 1, "[mpegts @ 0x55] [warning] Packet corrupt (stream = 1, dts = 5).\n"
         "[fatal] in/0: corrupt input packet in stream 0", Reason.INPUT_CORRUPT),
        (Purpose.ENCODE, 1, "[error] av_interleaved_write_frame(): No space left on device", Reason.SCRATCH_FULL),
        (Purpose.VERIFY, 1, "[error] x: No space left on device", Reason.SCRATCH_FULL),
        (Purpose.ENCODE, 1, "[h264_nvenc @ 0x1] [error] OpenEncodeSessionEx failed: out of memory (10): (no details)",
         Reason.ENCODER_SESSION_LIMIT),
        (Purpose.ENCODE, 1, "[aac @ 0x1] [error] Input contains (near) NaN/+-Inf", Reason.FFMPEG_FAILED),
        (Purpose.MEASURE, 1, "[Parsed_aresample_0 @ 0x1] [error] Failed to configure", Reason.FFMPEG_FAILED),
        (Purpose.ENCODE, 1, "[auto_aresample_0 @ 0x1] [error] Rematrix is needed between 10 channels and stereo\n"
         "[fatal] Error reinitializing filters!", Reason.UNSUPPORTED_COMBINATION),
        (Purpose.ENCODE, 234, "[eac3 @ 0x1] [error] Bit allocation failed. Try increasing the bitrate.\n"
         "[fatal] Error encoding a frame", Reason.UNSUPPORTED_COMBINATION),
        (Purpose.MEASURE, 1, "", Reason.FFMPEG_FAILED),
        (Purpose.MEASURE, -9, "[flac @ 0x1] [error] invalid residual", Reason.FFMPEG_FAILED),
        (Purpose.VERIFY, 1, "[aac @ 0x1] [error] invalid band type", Reason.OUTPUT_INVALID),
    ],
)  # fmt: skip
def test_the_log_decides_whose_fault_it_is(purpose: Purpose, status: int, log: str, reason: Reason) -> None:
    """Inputs, outputs, the disk, the device or FFmpeg itself."""
    assert diagnose(_step(purpose), status, log)[0] is reason


def test_the_message_quotes_the_first_error() -> None:
    """A person reads what FFmpeg said first, not the consequences."""
    log = "[info] hello\n[flac @ 0x1] [error] invalid residual\n[error] Conversion failed!"
    assert diagnose(_step(Purpose.MEASURE), 1, log)[1] == "an input cannot be decoded: invalid residual"
