"""Which volumes the agent works on."""

import os
from collections.abc import Sequence
from pathlib import Path

from mediactl.v1 import fleet_service_pb2


def disks(scratch: Path, media_roots: Sequence[str]) -> list[fleet_service_pb2.Disk]:
    """The volume of the scratch folder and those of the media roots, in bytes; what cannot be read is left out.

    A folder that does not exist yet counts as its nearest parent that does, scratch only.
    """
    while not scratch.exists() and scratch != scratch.parent:
        scratch = scratch.parent
    found = []
    for folder, purpose in [(scratch, "scratch"), *((Path(root), "media") for root in media_roots)]:
        try:
            volume = os.statvfs(folder)
        except OSError:
            continue
        found.append(
            fleet_service_pb2.Disk(
                path=str(folder),
                purpose=purpose,
                total_bytes=volume.f_blocks * volume.f_frsize,
                free_bytes=volume.f_bavail * volume.f_frsize,
            )
        )
    return found
