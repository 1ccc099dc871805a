"""The operations that steps may name. A new one is a file here and a line below."""

from collections.abc import Mapping
from types import MappingProxyType

from presets.operations.base import Operation
from presets.operations.channels import Channels
from presets.operations.compress import Compress
from presets.operations.conform import Conform
from presets.operations.deess import Deess
from presets.operations.dehum import Dehum
from presets.operations.denoise import Denoise
from presets.operations.duck import Duck
from presets.operations.equalize import Equalize
from presets.operations.extract import Extract
from presets.operations.fade import Fade
from presets.operations.fit import Fit
from presets.operations.gate import Gate
from presets.operations.highpass import Highpass
from presets.operations.join import Join
from presets.operations.level import Level
from presets.operations.limiter import Limiter
from presets.operations.loudness import Loudness
from presets.operations.lowpass import Lowpass
from presets.operations.mix import Mix
from presets.operations.resample import Resample
from presets.operations.trim import Trim
from presets.operations.trim_silence import TrimSilence

OPERATIONS: Mapping[str, type[Operation]] = MappingProxyType(
    {
        "channels": Channels,
        "compress": Compress,
        "conform": Conform,
        "deess": Deess,
        "dehum": Dehum,
        "denoise": Denoise,
        "duck": Duck,
        "equalize": Equalize,
        "extract": Extract,
        "fade": Fade,
        "fit": Fit,
        "gate": Gate,
        "highpass": Highpass,
        "join": Join,
        "level": Level,
        "limiter": Limiter,
        "loudness": Loudness,
        "lowpass": Lowpass,
        "mix": Mix,
        "resample": Resample,
        "trim": Trim,
        "trim_silence": TrimSilence,
    }
)

__all__ = ["OPERATIONS", "Extract", "Join", "Loudness", "Operation"]
