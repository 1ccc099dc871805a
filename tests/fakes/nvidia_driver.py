"""An NVIDIA driver that goes as far as a real FFmpeg and the real NVML binding need to say what is wrong.

Real shared objects for LD_LIBRARY_PATH, compiled from `driver/*.c`. Nothing can be encoded with them: where a GPU is to
work, see :mod:`tests.fakes.gpu_host`.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

_SOURCES = Path(__file__).parent / "driver"
_LIBRARIES = {"cuda": "libcuda.so.1", "encode": "libnvidia-encode.so.1", "ml": "libnvidia-ml.so.1"}

SUCCESS = 0
NVML_DRIVER_NOT_LOADED = 9
NVML_GPU_IS_LOST = 15
CUDA_OUT_OF_MEMORY = 2
CUDA_NO_DEVICE = 100
NVENC_UNSUPPORTED_DEVICE = 2
NVENC_OUT_OF_MEMORY = 10
NVENC_INCOMPATIBLE_CLIENT_KEY = 21


@dataclass(frozen=True, slots=True)
class StubGpu:
    """A GPU by what its driver answers: NVML asked for it, CUDA for a context, NVENC for a session."""

    name: str = "NVIDIA L4"
    nvml: int = SUCCESS
    cu_context: int = SUCCESS
    nvenc_open: int = SUCCESS


def install_driver(
    folder: Path,
    gpus: Sequence[StubGpu],
    *,
    version: str = "610.43.03",
    nvenc_api: tuple[int, int] = (13, 1),
    nvml_init: int = SUCCESS,
    cu_init: int = SUCCESS,
    without: Sequence[str] = (),
) -> Path:
    """Puts the libraries into ``folder``, those named in ``without`` (`cuda`, `encode`, `ml`) excepted.

    Skips the test where there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to make an imitation of the NVIDIA driver with")
    folder.mkdir(parents=True, exist_ok=True)
    rows = ", ".join(
        f'{{"{gpu.name}", "GPU-{index}", {gpu.nvml}, {gpu.cu_context}, {gpu.nvenc_open}}}'
        for index, gpu in enumerate(gpus)
    )
    header = folder / "driver.h"
    header.write_text(
        f'#define DRIVER "{version}"\n#define GPU_COUNT {len(gpus)}\n#define CU_INIT {cu_init}\n'
        f"#define NVML_INIT {nvml_init}\n#define NVENC_API {nvenc_api[0] << 4 | nvenc_api[1]}\n"
        "static const struct { const char *name, *uuid; int nvml, cu_context, nvenc_open; } GPUS[] = "
        f"{{{rows or '{0}'}}};\n"
    )
    for source, library in _LIBRARIES.items():
        if source not in without:
            command = [compiler, "-shared", "-fPIC", "-w", "-include", str(header)]
            subprocess.run([*command, "-o", str(folder / library), str(_SOURCES / f"{source}.c")], check=True)
    return folder
