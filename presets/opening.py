"""How FFmpeg opens a file of the workspace."""

from typing import Any

import ffmpeg
from ffmpeg.streams.av import AVStream

from presets.document import Media
from presets.formats import FORMAT_WHITELIST, PICTURE_WHITELIST, PROTOCOL_WHITELIST


def formats_of(media: Media) -> str:
    """The formats in which an input of a role may be, as the value of ``-format_whitelist``."""
    return PICTURE_WHITELIST if media is Media.PICTURE else FORMAT_WHITELIST


def expected_of(media: Media) -> str:
    """What to give instead of a file that is in none of :func:`formats_of`, in words."""
    if media is Media.PICTURE:
        return "only a JPEG or PNG picture is taken here"
    return "playlists, pictures and texts are not taken here; of a playlist give the files that it names"


def opened_picture(path: str) -> AVStream:
    """A still picture in the workspace."""
    options = {"protocol_whitelist": PROTOCOL_WHITELIST, "format_whitelist": PICTURE_WHITELIST}
    return ffmpeg.input(path, extra_options=options)


def opened(path: str, threads: int, *, endless: bool = False, checked: bool = False) -> AVStream:
    """A file in the workspace, decoded by ``threads`` threads; ``endless``: from the start again at its end.

    ``checked``: sound that is not what its checksums say ends the run, which FFmpeg by itself only logs or passes over.
    """
    again = {"stream_loop": -1} if endless else {}
    return ffmpeg.input(path, extra_options={**again, **input_options(threads, checked=checked)})


def input_options(threads: int, *, checked: bool = False) -> dict[str, Any]:
    """Options before ``-i``: which formats and protocols FFmpeg may open, and decoder threads."""
    return {
        **({"err_detect:a": "crccheck+explode"} if checked else {}),
        "threads": threads,
        "protocol_whitelist": PROTOCOL_WHITELIST,
        "format_whitelist": FORMAT_WHITELIST,
    }
