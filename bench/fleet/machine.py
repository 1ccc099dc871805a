"""What a simulated agent claims to be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import fleet_service_pb2

ABLE = tuple(
    f"{kind}:{name}"
    for kind, names in {
        "encoder": ("aac", "libmp3lame", "libopus", "flac", "pcm_s24le"),
        "muxer": ("ipod", "mp4", "mp3", "ogg", "opus", "flac", "wav"),
        "filter": (
            *("aformat", "alimiter", "ametadata", "amix", "anull", "apad", "aresample", "asetnsamples"),
            *("asetpts", "astats", "atrim", "ebur128", "highpass", "loudnorm", "pan", "volume"),
        ),
    }.items()
    for name in names
)
"""What an FFmpeg that can run every shipped preset has."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`slots` is how many tasks it runs at once; it offers that many cores and 2 GiB of memory and of scratch for each
    unless `cores` says otherwise. `roots` are absolute folders whose `file:` URIs it claims to reach."""

    slots: int = 4
    cores: int = 0
    roots: tuple[str, ...] = ("/media",)
    labels: Mapping[str, str] = field(default_factory=dict)
    able: tuple[str, ...] = ABLE

    def capabilities(self) -> fleet_service_pb2.Capabilities:
        """With a revision that is the same for equal machines."""
        cores = self.cores or self.slots
        claimed = fleet_service_pb2.Capabilities(
            cores=cores,
            memory_bytes=cores << 31,
            scratch_bytes=cores << 31,
            media_roots=self.roots,
            max_tasks=self.slots,
            platform="simulated",
            binaries=[fleet_service_pb2.FfmpegBinary(path="/usr/bin/ffmpeg", version="9.0", capabilities=self.able)],
        )
        claimed.revision = hashlib.sha256(claimed.SerializeToString(deterministic=True)).hexdigest()
        return claimed

    def hello(self, agent_id: str, instance_id: str) -> pb.Hello:
        """An introduction without holdings. The revision leaves out what tells equal machines apart."""
        return pb.Hello(
            agent_id=agent_id,
            instance_id=instance_id,
            name=agent_id,
            version="simulated",
            labels=self.labels,
            capabilities=self.capabilities(),
            features=["bundles"],
        )
