"""Where ffprobe is."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path


def find(ffmpegs: Sequence[str], *, path: str | None = None) -> str:
    """The ``ffprobe`` beside one of the FFmpeg binaries, or on ``path`` (default: PATH); empty where there is none."""
    for ffmpeg in ffmpegs:
        beside = Path(ffmpeg).with_name("ffprobe")
        if beside.is_file() and os.access(beside, os.X_OK):
            return str(beside)
    return shutil.which("ffprobe", path=path) or ""
