"""Asks ffprobe what a file is."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from agent.media.failure import quote
from agent.media.logs import last_bytes, redact
from agent.media.process import Process
from presets.facts import MediaFacts, from_ffprobe
from presets.formats import FORMAT_WHITELIST, PROTOCOL_WHITELIST
from presets.problems import MediaFailure
from presets.reasons import Reason

_OPTIONS = (
    *("-v", "level+error", "-of", "json", "-show_format", "-show_streams", "-show_chapters"),
    *("-protocol_whitelist", PROTOCOL_WHITELIST, "-format_whitelist"),
)
_LOG_TAIL_BYTES = 4096

#: How FFmpeg says that a format is none of those it was allowed to open.
_NOT_TAKEN = "Format not on whitelist"

#: A document is a few kilobytes; thousands of streams are an attack on the agent's memory, not media.
_DOCUMENT_LIMIT_BYTES = 16 * 1024 * 1024


async def probe(
    ffprobe: str, path: Path, *, cwd: Path, timeout_s: float = 60.0, formats: str = FORMAT_WHITELIST
) -> MediaFacts:
    """What ``path`` holds, as the program ``ffprobe`` sees it from the directory ``cwd``, which takes its output.

    ``formats`` are those it may be in, as FFmpeg names them, between commas.

    :raises MediaFailure: INPUT_EMPTY for a file of zero bytes, INPUT_CORRUPT with ffprobe's words for one that is no
        media file, TIMED_OUT after ``timeout_s`` seconds, INPUT_NOT_FOUND for a file that is gone.
    :raises OSError: ffprobe's output cannot be written, or no process can be started.
    """
    _refuse_empty(cwd / path)
    with tempfile.TemporaryDirectory(prefix="probe-", dir=cwd) as directory:
        out, err = Path(directory, "stdout"), Path(directory, "stderr")
        # The file: protocol makes any name a plain name, also one that looks like an option or a URL.
        process = Process.start([ffprobe, *_OPTIONS, formats, f"file:{path}"], cwd=cwd, stdout=out, stderr=err)
        code = await _exit_code(process, timeout_s)
        said = _said(err, path)
        if code is None:
            raise MediaFailure(Reason.TIMED_OUT, f"ffprobe did not finish within {timeout_s:g} s{said}")
        if code in {126, 127}:
            raise MediaFailure(Reason.INTERNAL, f"ffprobe could not be started{said}")
        if code != 0:
            if _NOT_TAKEN in said:
                # The list itself means nothing to a person.
                said = ": playlists, pictures and texts are not taken here; of a playlist give the files that it names"
            raise MediaFailure(Reason.INPUT_CORRUPT, f"the file is not media that FFmpeg can read{said}")
        return from_ffprobe(_document(out))


def _refuse_empty(file: Path) -> None:
    try:
        if file.stat().st_size == 0:
            raise MediaFailure(Reason.INPUT_EMPTY, "the file is empty (0 bytes)")
    except FileNotFoundError as error:
        raise MediaFailure(Reason.INPUT_NOT_FOUND, "the file is gone") from error


def _said(err: Path, path: Path) -> str:
    said = quote(redact(last_bytes(err, _LOG_TAIL_BYTES)).decode(errors="replace"))
    # How the file is called in the workspace means nothing to a person.
    return said.replace(f"file:{path}: ", "")


async def _exit_code(process: Process, timeout_s: float) -> int | None:
    """The exit code; None where it had to be killed."""
    try:
        async with asyncio.timeout(timeout_s):
            return await process.wait()
    except TimeoutError:
        await process.stop(0)
        return None
    except BaseException:
        await asyncio.shield(process.stop(0))
        raise


def _document(out: Path) -> dict[str, Any]:
    if out.stat().st_size > _DOCUMENT_LIMIT_BYTES:
        raise MediaFailure(Reason.INPUT_CORRUPT, "the file says over 16 MiB of itself in streams, chapters and tags")
    try:
        # Tags are whatever bytes the file holds.
        document = json.loads(out.read_bytes().decode(errors="replace"))
    except ValueError as error:
        raise MediaFailure(Reason.INPUT_CORRUPT, "ffprobe's description of the file cannot be read") from error
    return document if isinstance(document, dict) else {}
