"""What detection found last time, so that starting an agent need not prove it again."""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from agent.detect.ffmpeg import Built
from mediactl.v1 import fleet_service_pb2

#: Of what is stored and of what probing looks at: raise it when either changes.
_VERSION = 3


@dataclass(frozen=True, slots=True)
class Memory:
    """Binaries by :func:`key_of`, trials by :func:`trial_key`."""

    binaries: dict[str, Built] = field(default_factory=dict)
    trials: dict[str, fleet_service_pb2.Trial] = field(default_factory=dict)

    def update(self, other: "Memory") -> None:
        """Adds what ``other`` holds."""
        self.binaries.update(other.binaries)
        self.trials.update(other.trials)


def key_of(path: str) -> str:
    """Names a binary as it is now; its digest, which stands for the same, would take longer than all the rest.

    :raises OSError: the binary cannot be looked at.
    """
    file = Path(path).stat()
    return json.dumps([path, file.st_size, file.st_mtime_ns, file.st_ino, file.st_dev])


def trial_key(binary: str, name: str, gpu: fleet_service_pb2.Gpu | None) -> str:
    """Names a trial of ``name`` with the binary of that key, on this GPU with its driver."""
    return json.dumps([binary, name, *((gpu.index, gpu.uuid, gpu.driver_version) if gpu else ())])


def load(cache_file: Path) -> Memory:
    """Empty where the file is absent, damaged or another version's."""
    try:
        document = json.loads(cache_file.read_text())
        if document["version"] != _VERSION:
            return Memory()
        return Memory(
            {key: _built(value) for key, value in document["binaries"].items()},
            {key: ParseDict(value, fleet_service_pb2.Trial()) for key, value in document["trials"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ParseError):
        return Memory()


def save(cache_file: Path, memory: Memory) -> None:
    """Replaces the file as a whole; one that cannot be written only costs time at the next start."""
    document = {
        "version": _VERSION,
        "binaries": {
            key: {"binary": MessageToDict(built.binary), "unproved": sorted(built.unproved)}
            for key, built in memory.binaries.items()
        },
        "trials": {key: MessageToDict(trial) for key, trial in memory.trials.items()},
    }
    with suppress(OSError):
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{cache_file.name}.", dir=cache_file.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(document, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(cache_file)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise


def _built(value: Any) -> Built:
    return Built(ParseDict(value["binary"], fleet_service_pb2.FfmpegBinary()), frozenset(value["unproved"]))
