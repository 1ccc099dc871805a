"""What a controller is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from controller.core.liveness import Timers
from mediactl.channel import Credentials


@dataclass(frozen=True, slots=True)
class Settings:
    """`socket` and `listen` are where it is reached; at least one is given."""

    data_dir: Path
    socket: Path | None
    listen: str | None
    credentials: Credentials = field(default_factory=Credentials)
    timers: Timers = field(default_factory=Timers)
    exit_when_idle: bool = False
    log_transitions: bool = True

    @property
    def database(self) -> Path:
        return self.data_dir / "mediactl.db"

    @property
    def lock(self) -> Path:
        return self.data_dir / "controller.lock"
