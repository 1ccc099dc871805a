"""What a controller is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from controller.core.liveness import Timers
from controller.core.matching import Rules
from mediactl.channel import Credentials

DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long what is finished is kept, in seconds. Request ids outlive the jobs that they made."""

    jobs_s: float = 30 * DAY_S
    requests_s: float = 37 * DAY_S

    def __post_init__(self) -> None:
        if not 0 < self.jobs_s <= self.requests_s:
            raise ValueError("request ids must be kept at least as long as jobs, and both longer than not at all")


@dataclass(frozen=True, slots=True)
class Depositing:
    """What may be deposited in the controller's own store: bytes in all (0: nothing), and for how many seconds."""

    quota_bytes: int = 100 * 2**30
    lifetime_s: float = 7 * DAY_S


@dataclass(frozen=True, slots=True)
class Settings:
    """`socket` and `listen` are where it is reached; at least one is given.

    `database` is a URL; without it the database is a file in the data directory, which this controller alone works on.
    `store` is where whole logs go, and what agents kept of failed attempts once somebody asked for it (of one attempt
    at most `most_remains_bytes`), and what is deposited; without it, the data directory, or with a database of its own
    logs stay there and nothing is deposited.
    """

    data_dir: Path
    socket: Path | None
    listen: str | None
    credentials: Credentials = field(default_factory=Credentials)
    timers: Timers = field(default_factory=Timers)
    rules: Rules = field(default_factory=Rules)
    keeping: Keeping = field(default_factory=Keeping)
    database: str | None = None
    store: str | None = None
    http: str | None = None
    drain_s: float = 0.0
    exit_when_idle: bool = False
    log_transitions: bool = True
    most_remains_bytes: int = 2 * 2**30
    depositing: Depositing = field(default_factory=Depositing)
    sweep_after_s: float = 60.0

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data_dir / 'mediactl.db'}"

    @property
    def store_url(self) -> str | None:
        """Logs of a shared database must be where every controller reaches them."""
        if self.store is None and self.database is None:
            return (self.data_dir / "store").as_uri()
        return self.store

    @property
    def lock(self) -> Path:
        return self.data_dir / "controller.lock"
