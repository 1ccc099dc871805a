"""One machine for each file of tests, set up as the documentation says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.machine import Machine, booted, obstacle

AGENT_SETTINGS = """
controller = "127.0.0.1:7420"
media-root = ["/srv/media"]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what takes a machine."""
    for item in items:
        if "machine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.root)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with mediactl installed and one media folder, shared by the tests of a file; no unit of ours runs."""
    if why_not := obstacle():
        pytest.skip(why_not)
    with booted(tmp_path_factory.mktemp("machine")) as machine:
        machine.path("/etc/mediactl/agent.toml").write_text(AGENT_SETTINGS, encoding="utf-8")
        machine.run("chown", "mediactl:mediactl", "/srv/media")
        machine.configure("mediactl-agent.service", "media", "ReadWritePaths=/srv/media")
        tone = ("-f", "lavfi", "-i", "sine=f=300:r=8000:d=3", "-c:a", "flac")
        machine.run("ffmpeg", "-v", "error", *tone, "/srv/media/short.flac")
        yield machine


@pytest.fixture
def media(machine: Machine) -> Path:
    """The media folder, as seen from here."""
    return machine.path("/srv/media")
