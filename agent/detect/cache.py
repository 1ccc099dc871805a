"""What detection found last time, so that starting an agent need not prove it again."""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from mediactl.v1 import fleet_service_pb2

#: Of what is stored and of what probing looks at: raise it when either changes.
_VERSION = 1


def key_of(path: str, gpus: Iterable[fleet_service_pb2.Gpu]) -> str:
    """Names a binary as it is now on these GPUs with their driver.

    :raises OSError: the binary cannot be looked at.
    """
    file = Path(path).stat()
    devices = [f"{gpu.index} {gpu.uuid} {gpu.driver_version}" for gpu in gpus]
    return json.dumps([path, file.st_size, file.st_mtime_ns, file.st_ino, file.st_dev, devices])


def load(cache_file: Path) -> dict[str, fleet_service_pb2.FfmpegBinary]:
    """The binaries by their keys; empty where the file is absent, damaged or another version's."""
    try:
        document = json.loads(cache_file.read_text())
        if document["version"] != _VERSION:
            return {}
        return {key: ParseDict(value, fleet_service_pb2.FfmpegBinary()) for key, value in document["binaries"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ParseError):
        return {}


def save(cache_file: Path, binaries: Mapping[str, fleet_service_pb2.FfmpegBinary]) -> None:
    """Replaces the file as a whole; one that cannot be written only costs time at the next start."""
    document = {"version": _VERSION, "binaries": {key: MessageToDict(binary) for key, binary in binaries.items()}}
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
