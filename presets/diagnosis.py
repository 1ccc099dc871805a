"""What a failed invocation means, from its purpose and its log (FFmpeg 5.1 to 9.0, ``-loglevel level+info``). Pure."""

import re

from presets.plan import Invocation, Purpose
from presets.reasons import Reason

_SCRATCH_FULL = re.compile(r"No space left on device")

#: A device out of encoder sessions says so in two ways.
_SESSION_LIMIT = re.compile(r"OpenEncodeSessionEx failed: (out of memory|incompatible client key)")

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
    if _SESSION_LIMIT.search(log_tail):
        return Reason.ENCODER_SESSION_LIMIT, "the encoder device has no free session"
    if exit_status < 0:
        return Reason.FFMPEG_FAILED, f"FFmpeg was ended by signal {-exit_status} in step {invocation.id}{told}"
    if invocation.purpose is Purpose.VERIFY:
        return Reason.OUTPUT_INVALID, f"the encoded file does not decode to its end{told}"
    if not _ENCODER.search(log_tail):
        if _TRUNCATED.search(log_tail):
            return Reason.INPUT_TRUNCATED, f"an input is cut short{told}"
        if _UNREADABLE.search(log_tail) or _COMPONENT.search(log_tail):
            return Reason.INPUT_CORRUPT, f"an input cannot be decoded{told}"
    return Reason.FFMPEG_FAILED, f"FFmpeg ended with status {exit_status} in step {invocation.id}{told}"


def _first_error(log_tail: str) -> str:
    error = re.search(r"^(?:\[[^\]]*\] )*\[(?:error|fatal|panic)\] (.+)$", log_tail, re.MULTILINE)
    return f": {error[1].strip()}" if error else ""
