"""What an agent is told at its start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.storage.stores import StoreTable
from mediactl.channel import Credentials


@dataclass(frozen=True, slots=True)
class Settings:
    """`media_roots` are the folders of which `file:` URIs are reachable, `stores` what other schemes lead to.

    The scratch folder is the agent's alone.

    `cache_bytes` is what inputs of stores that are kept may take; 0: none are.

    `drain_s`: how long work in hand may take to end when the agent is told to stop.
    `scratch_reserve` are bytes that must be free on its volume, None for a share of it. Without `metadata_url` nobody
    is asked for notices of the host.
    """

    data_dir: Path
    controller: str
    name: str
    credentials: Credentials = field(default_factory=Credentials)
    labels: Mapping[str, str] = field(default_factory=dict)
    media_roots: Sequence[str] = ("/",)
    stores: Mapping[str, StoreTable] = field(default_factory=dict)
    ffmpegs: Sequence[str] = ()
    max_tasks: int | None = None
    scratch_dir: Path | None = None
    cache_dir: Path | None = None
    cache_bytes: int = 10 * 2**30
    keep_failed_s: float = 86_400.0
    keep_failed_bytes: int = 2**30
    drain_s: float = 0.0
    nice: int = 5
    encoder_sessions: int | None = None
    scratch_reserve: int | None = None
    metadata_url: str = ""
    metadata_interval_s: float = 5.0
    heed_rebalance: bool = False

    @property
    def scratch(self) -> Path:
        return self.scratch_dir or self.data_dir / "scratch"

    @property
    def input_cache(self) -> Path:
        return self.cache_dir or self.data_dir / "cache"

    @property
    def remains(self) -> Path:
        return self.data_dir / "remains"

    @property
    def outbox(self) -> Path:
        return self.data_dir / "outbox"

    @property
    def lock(self) -> Path:
        return self.data_dir / "agent.lock"

    @property
    def cache(self) -> Path:
        return self.data_dir / "detected.json"
