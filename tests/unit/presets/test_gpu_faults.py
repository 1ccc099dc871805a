"""What GPUs and their driver refuse, in the words of FFmpeg 5.1 and 9.0 at `-loglevel level+info`."""

import pytest

from presets.diagnosis import diagnose, gpu_fault
from presets.plan import Invocation, Purpose
from presets.reasons import TABLE, Reason

# After each of them FFmpeg says this, which would otherwise look like a fault of the encode or of an input.
_AFTER_5 = (
    "[error] Error initializing output stream 0:0 -- Error while opening encoder for output stream #0:0 - maybe "
    "incorrect parameters such as bit_rate, rate, width or height\n[info] Conversion failed!"
)
_AFTER_9 = """[vost#0:0/h264_nvenc @ 0x55] [enc:h264_nvenc @ 0x55] [error] Error while opening encoder - maybe \
incorrect parameters such as bit_rate, rate, width or height.
[vf#0:0 @ 0x55] [error] Error sending frames to consumers: Generic error in an external library
[vost#0:0/h264_nvenc @ 0x55] [error] Task finished with error code: -22 (Invalid argument)
[out#0/mp4 @ 0x55] [error] Nothing was written into output file, because at least one of its streams received no \
packets."""
_NONE_FOUND = "[h264_nvenc @ 0x55] [fatal] No capable devices found"
_NO_HWACCEL = """[h264 @ 0x55] [error] Failed setup for format cuda: hwaccel initialisation returned error.
[error] Impossible to convert between the formats supported by the filter 'graph 0 input from stream 0:0' and the \
filter 'auto_scale_0'
[error] Error reinitializing filters!"""

BUSY = (
    ("[error] OpenEncodeSessionEx failed: out of memory (10): (no details)", "no encoder session free"),
    ("[error] OpenEncodeSessionEx failed: incompatible client key (21): (no details)", "no encoder session free"),
    (
        "[error] dl_fn->cuda_dl->cuCtxCreate(&ctx->cu_context_internal, 0, cu_device) failed -> "
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
        "no memory free",
    ),
    ("[error] CreateInputBuffer failed: out of memory (10): (no details)", "no memory free"),
    ("[error] InitializeEncoder failed: out of memory (10): (no details)", "no memory free"),
    (
        "[error] dl_fn->cuda_dl->cuCtxCreate(&ctx->cu_context_internal, 0, cu_device) failed -> "
        "CUDA_ERROR_DEVICE_UNAVAILABLE: CUDA-capable device(s) is/are busy or unavailable",
        "another program",
    ),
)
GONE = (
    ("[error] Cannot load libcuda.so.1", "not installed"),
    ("[error] Cannot load libnvidia-encode.so.1", "not installed"),
    ("[error] Cannot load cuMemAllocManaged", "not whole"),
    (
        "[error] dl_fn->cuda_dl->cuInit(0) failed -> CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
        "missing or no longer answers",
    ),
    (
        "[error] dl_fn->cuda_dl->cuInit(0) failed -> CUDA_ERROR_UNKNOWN: unknown error",
        "missing or no longer answers",
    ),
    ("[fatal] No CUDA capable devices found", "missing or no longer answers"),
    ("[fatal] No capable devices found", "missing or no longer answers"),
    ("[fatal] Requested GPU 3, but only 2 GPUs are available!", "missing or no longer answers"),
    ("[error] EncodePicture failed!: device does not exist (5): (no details)", "missing or no longer answers"),
    ("[error] OpenEncodeSessionEx failed: unsupported device (2): (no details)", "has no encoder"),
    (
        "[error] Driver does not support the required nvenc API version. Required: 11.1 Found: 11.0\n"
        "[h264_nvenc @ 0x55] [error] The minimum required Nvidia driver for nvenc is 470.57.02 or newer",
        "too old for this FFmpeg",
    ),
    (
        "[error] Driver does not support the required nvenc API version. Required: 13.1 Found: 11.0\n"
        "[h264_nvenc @ 0x55] [error] The minimum required Nvidia driver for nvenc is 610.00 or newer",
        "too old for this FFmpeg",
    ),
)
UNABLE = (
    "Codec not supported",
    "YUV444P not supported",
    "10 bit encode not supported",
    "B frames as references are not supported",
    "Width 8192 exceeds 4096",
    "Max B-frames 3 exceed 0",
)


def _encode(log: str, purpose: Purpose = Purpose.ENCODE) -> tuple[Reason, str]:
    return diagnose(Invocation("encode", purpose, (), (), None, None, 1.0, False), 1, log)


@pytest.mark.parametrize("after", [_AFTER_5, _AFTER_9], ids=["5.1", "9.0"])
@pytest.mark.parametrize(("said", "words"), BUSY, ids=[said[:60] + said[-30:] for said, _ in BUSY])
def test_a_busy_gpu_is_back_pressure(said: str, words: str, after: str) -> None:
    """Sessions or memory that others use: tried elsewhere or later, at no cost to the caller."""
    reason, message = _encode(f"[h264_nvenc @ 0x55] {said}\n{_NONE_FOUND}\n{after}")
    assert reason is Reason.ENCODER_SESSION_LIMIT
    assert TABLE[reason].infrastructure
    assert words in message
    assert said.partition("] ")[2].splitlines()[0] in message


@pytest.mark.parametrize("after", [_AFTER_5, _AFTER_9], ids=["5.1", "9.0"])
@pytest.mark.parametrize(("said", "words"), GONE, ids=[said[-40:] for said, _ in GONE])
def test_a_gpu_that_is_gone_costs_no_attempt(said: str, words: str, after: str) -> None:
    """No driver, one that is too old, no device: the machine's fault, told in words a person can act on."""
    reason, message = _encode(f"[h264_nvenc @ 0x55] {said}\n{after}")
    assert reason is Reason.GPU_UNAVAILABLE
    assert TABLE[reason].infrastructure
    assert words in message


@pytest.mark.parametrize("said", UNABLE)
def test_what_a_gpu_cannot_encode_is_no_outage(said: str) -> None:
    """A GPU that lacks a feature says so before it says that there is none: trying again for free would not end."""
    reason, message = _encode(f"[h264_nvenc @ 0x55] [warning] {said}\n{_NONE_FOUND}\n{_AFTER_5}")
    assert reason is Reason.FFMPEG_FAILED
    assert message == f"the GPU cannot encode this: {said}"


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "[AVHWDeviceContext @ 0x55] [error] cu->cuInit(0) failed -> CUDA_ERROR_NO_DEVICE: no CUDA-capable device "
            "is detected\n[error] Device creation failed: -542398533.\n[h264 @ 0x55] [error] No device available for "
            "decoder: device type cuda needed for codec h264.",
            Reason.GPU_UNAVAILABLE,
        ),
        (
            "[CUDA @ 0x55] [error] cu->cuCtxCreate(&hwctx->cuda_ctx, desired_flags, hwctx->internal->cuda_device) "
            "failed -> CUDA_ERROR_OUT_OF_MEMORY: out of memory\n[error] Device creation failed: -542398533.",
            Reason.ENCODER_SESSION_LIMIT,
        ),
        (f"[h264 @ 0x55] [error] Cannot load libnvcuvid.so.1\n{_NO_HWACCEL}", Reason.GPU_UNAVAILABLE),
    ],
    ids=["no device", "no memory", "no library"],
)
@pytest.mark.parametrize("purpose", [Purpose.ENCODE, Purpose.VERIFY])
def test_decoding_on_a_gpu(log: str, reason: Reason, purpose: Purpose) -> None:
    """A decoder that lost its device blames neither the input nor the output."""
    assert _encode(log, purpose)[0] is reason


def test_what_files_call_themselves_is_not_believed() -> None:
    """A title that reads like a driver's error is only a title."""
    log = "[info]     title           : OpenEncodeSessionEx failed: out of memory (10)\n[info] No capable devices found"
    assert gpu_fault(log) is None
    assert _encode(f"{log}\n[flac @ 0x1] [error] invalid residual", Purpose.MEASURE)[0] is Reason.INPUT_CORRUPT
