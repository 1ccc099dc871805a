"""What objects are said to contain, by the ends of their names."""

import mimetypes
import posixpath

#: Where the system's list differs from one machine to another, or is wrong.
_TYPES = {
    ".aac": "audio/aac",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".m4b": "audio/mp4",
    ".mka": "audio/x-matroska",
    ".mkv": "video/x-matroska",
    ".mp3": "audio/mpeg",
    ".mxf": "application/mxf",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".ts": "video/mp2t",
    ".wav": "audio/wav",
}


def content_type(name: str) -> str:
    """The media type of a file of this name."""
    extension = posixpath.splitext(name)[1].lower()
    return _TYPES.get(extension) or mimetypes.guess_type(f"x{extension}")[0] or "application/octet-stream"
