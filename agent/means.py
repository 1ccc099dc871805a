"""What attempts work with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.media.confinement import Confinement
from agent.remains import Remains
from agent.scratch import Scratch
from agent.storage import Stores
from presets.capabilities import Binary


@dataclass(frozen=True, slots=True)
class Means:
    """What every attempt of an agent works with. `scratch` is the folder of workspaces, `room` what is free there."""

    binaries: Sequence[Binary]
    ffprobe: str
    stores: Stores
    scratch: Path
    room: Scratch
    confinement: Confinement
    remains: Remains
