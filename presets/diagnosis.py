"""What a failed invocation means, from its purpose and its log (FFmpeg 5.1 to 9.0, ``-loglevel level+info``). Pure."""

import re
from dataclasses import dataclass

from presets.plan import Invocation, Purpose
from presets.reasons import Reason

_SCRATCH_FULL = re.compile(r"No space left on device")

#: Lines that say what is wrong. What files call themselves is printed too, at a lower level.
_GRAVE = re.compile(r"^((?:\[[^\]]*\] )*)\[(?:warning|error|fatal|panic)\] (.+)$", re.MULTILINE)

#: What a GPU and its driver say, in the order in which it is looked for: `No capable devices found` follows most of it.
_GPU_FAULTS = (
    (
        # One meaning in two words: older drivers say the first, newer ones the second.
        re.compile(r"OpenEncodeSessionEx failed: (out of memory|incompatible client key|encoder busy)"),
        Reason.ENCODER_SESSION_LIMIT,
        "the GPU has no encoder session free",
    ),
    (
        re.compile(r"CUDA_ERROR_OUT_OF_MEMORY|failed!?: out of memory \(10\)"),
        Reason.ENCODER_SESSION_LIMIT,
        "the GPU has no memory free",
    ),
    (
        re.compile(r"CUDA_ERROR_DEVICES?_UNAVAILABLE"),
        Reason.ENCODER_SESSION_LIMIT,
        "another program has the GPU to itself",
    ),
    (
        re.compile(r"_nvenc @ .*(not supported|exceeds? \d|need SDK)"),
        Reason.FFMPEG_FAILED,
        "the GPU cannot encode this",
    ),
    (
        re.compile(r"Driver does not support the required nvenc API version"),
        Reason.GPU_UNAVAILABLE,
        "the NVIDIA driver is too old for this FFmpeg",
    ),
    (
        re.compile(r"Cannot load (lib(cuda|nvidia-encode|nvcuvid)\.so|cu[A-Z])"),
        Reason.GPU_UNAVAILABLE,
        "the NVIDIA driver is not installed, or not whole",
    ),
    (
        re.compile(r"OpenEncodeSessionEx failed: (unsupported device|no encode device)"),
        Reason.GPU_UNAVAILABLE,
        "the GPU has no encoder",
    ),
    (
        re.compile(
            r"failed -> CUDA_ERROR_|No (CUDA )?capable devices found|Requested GPU \d+, but only"
            r"|failed!?: (invalid encoder device|invalid device|device does not exist) \(\d+\)"
        ),
        Reason.GPU_UNAVAILABLE,
        "the GPU is missing or no longer answers",
    ),
)

_ENCODER = re.compile(
    r"Error (while opening encoder|initializing output stream|encoding|submitting .{0,20}frame to the encoder)"
    r"|[Ee]ncoding failed|Input contains \(near\) NaN|Error (writing|muxing)|Could not write header"
    r"|Error reinitializing filters"
)

#: A demuxer that knows a packet's length and found fewer bytes. Transport streams mark damage in the same words.
_TRUNCATED = re.compile(
    r"\[(in#\d+/)?(?!mpeg)\w[\w,]* @ \w+\] (\[\w+\] )?Packet corrupt"
    r"|Invalid PCM packet, data has size|partial file|[Ff]ile ended prematurely|[Ss]tream ends prematurely"
)

#: What is wrong with whole files of a kind, and what to do about it; looked for before the patterns below.
_MENDABLE = (
    (
        re.compile(r"Ignoring maximum wav data size.*Packet corrupt", re.DOTALL),
        "a WAV input states no length, as what is written to a pipe does not",
        "write it anew: ffmpeg -i OLD.wav -c copy NEW.wav",
    ),
    (
        re.compile(r"invalid concatenated file detected.*Header missing", re.DOTALL),
        "an input is several MP3 files put one behind the other, with headers between them",
        "give them one by one, or join them by decoding them",
    ),
)

#: What no try will ever do, and what to ask for instead.
_IMPOSSIBLE = (
    (
        re.compile(r"Rematrix is needed between (\d+ channels)"),
        "an input has {} and does not say for which speakers: give a file that names its layout, or one channel of it",
    ),
    (
        re.compile(r"(Bit allocation failed)\. Try increasing the bitrate"),
        "the bit rate is too low for so many channels: ask for a higher one (profile.bitrate_kbps)",
    ),
)

#: Of WAV that is cut short its header alone says so, and the header may be wrong.
_WAV_TRUNCATED = re.compile(r"\[(in#\d+/)?wav @ \w+\] (\[\w+\] )?Packet corrupt")

_UNREADABLE = re.compile(
    r"Format not on whitelist|Invalid data found|moov atom not found|[Cc]ould not find codec parameters"
    r"|does not contain any stream|corrupt input packet"
)

#: An error line of a demuxer or decoder; filters and their graph have names of their own.
_COMPONENT = re.compile(
    r"^\[(?!Parsed_|auto_|AVFilterGraph|fc#|af#|graph|out#|aost#|format_)[\w/#:,]+ @ \w+\] .{0,80}?\[(error|fatal)\]",
    re.MULTILINE,
)


def diagnose(invocation: Invocation, exit_status: int, log_tail: str) -> tuple[Reason, str]:
    """The reason and a message for an invocation that ended with ``exit_status`` (negative: by that signal)."""
    told = _first_error(log_tail)
    if _SCRATCH_FULL.search(log_tail):
        return Reason.SCRATCH_FULL, "the scratch disk is full"
    if (fault := gpu_fault(log_tail)) is not None:
        return fault.reason, f"{fault.words}: {fault.line}"
    if exit_status < 0:
        return Reason.FFMPEG_FAILED, f"FFmpeg was ended by signal {-exit_status} in step {invocation.id}{told}"
    if invocation.purpose is Purpose.VERIFY:
        return Reason.OUTPUT_INVALID, f"the encoded file does not decode to its end{told}"
    for pattern, words in _IMPOSSIBLE:
        if (found := pattern.search(log_tail)) is not None:
            return Reason.UNSUPPORTED_COMBINATION, words.format(found[1])
    if not _ENCODER.search(log_tail):
        for pattern, what, remedy in _MENDABLE:
            if pattern.search(log_tail):
                return Reason.INPUT_CORRUPT, f"{what}: {remedy}"
        if _WAV_TRUNCATED.search(log_tail):
            mended = "if it is whole, and was written to a pipe, ffmpeg -i OLD.wav -c copy NEW.wav mends its header"
            return Reason.INPUT_TRUNCATED, f"an input is cut short, or states a length that it never had; {mended}"
        if _TRUNCATED.search(log_tail):
            return Reason.INPUT_TRUNCATED, f"an input is cut short{told}"
        if _UNREADABLE.search(log_tail) or _COMPONENT.search(log_tail):
            return Reason.INPUT_CORRUPT, f"an input cannot be decoded{told}"
    return Reason.FFMPEG_FAILED, f"FFmpeg ended with status {exit_status} in step {invocation.id}{told}"


@dataclass(frozen=True, slots=True)
class GpuFault:
    """What a GPU or its driver refused: in words, and the line of the log that says so.

    ``reason`` is ENCODER_SESSION_LIMIT where it is busy now and will serve another time, GPU_UNAVAILABLE where it
    serves nobody as it stands, FFMPEG_FAILED where it will never serve this.
    """

    reason: Reason
    words: str
    line: str


def gpu_fault(log: str) -> GpuFault | None:
    """The fault of a GPU that a log tells; None where nothing of the kind is in it."""
    lines = [(f"{context}{said}", said.strip()) for context, said in _GRAVE.findall(log)]
    for pattern, reason, words in _GPU_FAULTS:
        for line, said in lines:
            if pattern.search(line):
                return GpuFault(reason, words, said)
    return None


def _first_error(log_tail: str) -> str:
    error = re.search(r"^(?:\[[^\]]*\] )*\[(?:error|fatal|panic)\] (.+)$", log_tail, re.MULTILINE)
    return f": {error[1].strip()}" if error else ""
