"""What tests of media have in common."""

import shutil
import zlib

import imageio_ffmpeg
import pytest

from presets.capabilities import Binary
from tests.fakes.plans import listed

#: The distribution's FFmpeg, 5.1 on Debian 12, and the static 9.0 that imageio-ffmpeg brings.
_BINARIES = ("on PATH", "imageio-ffmpeg")


@pytest.fixture(params=_BINARIES)
def binary(request: pytest.FixtureRequest) -> Binary:
    """An FFmpeg. Each test that asks for one has it with both in `make soak`, and with one of them in `make test`."""
    path = shutil.which("ffmpeg") if request.param == "on PATH" else imageio_ffmpeg.get_ffmpeg_exe()
    if path is None:
        pytest.skip("no ffmpeg on PATH")
    return listed(path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which one it is, is as good as drawn by lot, but always the same."""
    for item in items:
        chosen = getattr(item, "callspec", None)
        if chosen is not None and chosen.params.get("binary") in _BINARIES:
            name = item.nodeid.replace(f"{chosen.params['binary']}", "")
            if chosen.params["binary"] != _BINARIES[zlib.crc32(name.encode()) % 2]:
                item.add_marker(pytest.mark.soak)
