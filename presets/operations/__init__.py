"""The operations that steps may name. A new one is a file here and a line below."""

from collections.abc import Mapping
from types import MappingProxyType

from presets.operations.base import Operation
from presets.operations.channels import Channels
from presets.operations.conform import Conform
from presets.operations.extract import Extract
from presets.operations.fade import Fade
from presets.operations.highpass import Highpass
from presets.operations.limiter import Limiter
from presets.operations.loudness import Loudness
from presets.operations.mix import Mix
from presets.operations.resample import Resample
from presets.operations.trim import Trim

OPERATIONS: Mapping[str, type[Operation]] = MappingProxyType(
    {
        "channels": Channels,
        "conform": Conform,
        "extract": Extract,
        "fade": Fade,
        "highpass": Highpass,
        "limiter": Limiter,
        "loudness": Loudness,
        "mix": Mix,
        "resample": Resample,
        "trim": Trim,
    }
)

__all__ = ["OPERATIONS", "Extract", "Loudness", "Operation"]
