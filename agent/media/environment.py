"""What programs that the agent starts see of its environment."""

import os
from collections.abc import Mapping

#: Names passed on. Everything else stays behind: the agent's own settings hold tokens and storage credentials, and
#: FFREPORT would make FFmpeg write a file of its own.
_KEPT = frozenset({"PATH", "HOME", "TMPDIR", "TZ", "LANG", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"})
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "FONTCONFIG_")


def child_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables for a child process, messages in English and without colours."""
    kept = {name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    # CUDA numbers GPUs by speed unless told otherwise, the driver's library by bus: `-gpu N` must mean one thing.
    return {**kept, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "LC_ALL": "C.UTF-8", "AV_LOG_FORCE_NOCOLOR": "1"}
