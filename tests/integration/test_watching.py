"""What keeps new work away from a real agent: a low disk, a notice of its host, another machine of the same name."""

import asyncio
import os
import random
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from agent import session, watching
from agent.cordon import Cordon
from agent.means import Means
from agent.media.confinement import Confinement
from agent.remains import Remains
from agent.scratch import Scratch
from agent.session import Agent
from agent.settings import Settings
from agent.storage import InputCache, Stores
from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import fleet_service_pb2
from presets.reasons import Reason
from tests.fakes.agent_peer import AgentPeer, capabilities
from tests.fakes.imds import imds
from tests.fakes.running import Controller, controller, eventually

MIB = 1 << 20
BOOT = "0b6bd7b4-1f4b-4a6e-9a33-5f6c2d1e0a77"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 64 MiB; skips where nobody may mount one."""
    folder = tmp_path / "volume"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root may mount a small volume, and not in every container")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Controller]:
    async with controller(tmp_path / "controller") as box:
        yield box


def _means(settings: Settings) -> Means:
    return Means(
        binaries=(),
        ffprobe="",
        stores=Stores([]),
        scratch=settings.scratch,
        room=Scratch(settings.scratch, time.monotonic),
        confinement=Confinement(None, False, (), ""),
        remains=Remains(settings.remains, keep_s=0, keep_bytes=0),
    )


@asynccontextmanager
async def _agent(box: Controller, settings: Settings, instance: str = "machine") -> AsyncIterator[Agent]:
    """A real agent without FFmpeg, named `studio`, with all that it watches."""

    def hello() -> pb.Hello:
        return pb.Hello(
            agent_id="a1", instance_id=instance, name="studio", version="0", capabilities=capabilities(able=[])
        )

    means = _means(settings)
    agent = Agent(settings, hello, means, random.Random(1))  # noqa: S311 - jitter
    async with watching.watching(settings, agent, means):
        running = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            agent.stop()
            async with asyncio.timeout(10):
                await running


async def _reason(box: Controller) -> str:
    agents = await box.client.agents()
    return agents[0].drain_reason if agents else "not there yet"


async def test_a_small_volume_fills_up_and_is_emptied(volume: Path) -> None:
    """A tenth of it in reserve by default; a file that is gone makes room again."""
    said: list[str] = []
    cordon = Cordon(volume, None, say=said.append)
    await cordon.look()
    (volume / "big").write_bytes(bytes(60 * MIB))
    await cordon.look()
    (volume / "big").unlink()
    await cordon.look()
    assert said == ["", "scratch is low: 4 MiB of 64 MiB free, less than 6 MiB", ""]


async def test_what_failed_attempts_left_goes_before_work_does(volume: Path) -> None:
    """A volume that is low because of it is not: the oldest go, as many as it takes. Without any left, it is."""
    said: list[str] = []
    remains = Remains(volume / "remains")
    for name in ("a", "b", "c"):
        (volume / name / "out").mkdir(parents=True)
        (volume / name / "out" / "x.wav").write_bytes(bytes(10 * MIB))
        assert remains.keep(volume / name, name, {}) == 10 * MIB
    cordon = Cordon(volume, None, say=said.append, make_room=partial(remains.make_room, volume_of=volume))
    (volume / "big").write_bytes(bytes(30 * MIB))
    await cordon.look()
    assert sorted(entry.name for entry in (volume / "remains").iterdir()) == ["b", "c"]
    (volume / "bigger").write_bytes(bytes(13 * MIB))
    await cordon.look()
    assert [entry.name for entry in (volume / "remains").iterdir()] == ["c"]
    (volume / "biggest").write_bytes(bytes(9 * MIB))
    await cordon.look()
    assert said == ["", "", ""]
    (volume / "too big").write_bytes(bytes(11 * MIB))
    await cordon.look()
    assert said[-1].startswith("scratch is low: ")
    assert list((volume / "remains").iterdir()) == []


async def test_what_is_cached_goes_before_anything_else(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be fetched again. As much of it goes as it takes, and then what failed attempts left."""
    monkeypatch.setattr(watching, "DISK_S", 0.01)
    settings = Settings(data_dir=volume, controller="unix:/none", name="studio")
    for folder in (settings.scratch, settings.input_cache, volume / "failed" / "out"):
        folder.mkdir(parents=True)
    kept = [settings.input_cache / f"{BOOT}.{number:064}" for number in range(2)]
    for number, path in enumerate(kept):
        path.write_bytes(bytes(10 * MIB))
        os.utime(path, (number, number))
    cache = InputCache(settings.input_cache, 30 * MIB, boot=BOOT)
    cache.open()
    remains = Remains(settings.remains)
    (volume / "failed" / "out" / "x.wav").write_bytes(bytes(10 * MIB))
    remains.keep(volume / "failed", "a", {})
    means = replace(_means(settings), stores=Stores([], cache=cache), remains=remains)

    async def look() -> list[bool]:
        return [path.exists() for path in (*kept, settings.remains / "a")]

    agent = Agent(settings, pb.Hello, means, random.Random(1))  # noqa: S311 - jitter
    async with watching.watching(settings, agent, means):
        (volume / "big").write_bytes(bytes(30 * MIB))
        await eventually(look, lambda seen: seen == [False, True, True])
        (volume / "bigger").write_bytes(bytes(9 * MIB))
        await eventually(look, lambda seen: seen == [False, False, True])
        (volume / "biggest").write_bytes(bytes(10 * MIB))
        await eventually(look, lambda seen: seen == [False, False, False])
        assert "no new work" not in agent.status()


async def test_a_volume_that_is_gone_is_a_reason(tmp_path: Path) -> None:
    """Nothing could be fetched there."""
    said: list[str] = []
    await Cordon(tmp_path / "none", None, say=said.append).look()
    assert said == ["scratch can't be looked at: No such file or directory"]


async def test_the_fleet_is_told(box: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent says why it takes nothing, and when it does again."""
    monkeypatch.setattr(watching, "DISK_S", 0.05)
    total = shutil.disk_usage(tmp_path).total
    settings = Settings(data_dir=tmp_path, controller=box.address, name="studio", scratch_reserve=2 * total)
    settings.scratch.mkdir()
    async with _agent(box, settings):
        shown = await eventually(lambda: _reason(box), lambda told: told.startswith("scratch is low"))
        [agent] = await box.client.agents()
        assert agent.state == fleet_service_pb2.AGENT_STATE_DRAINING
        assert "free, less than" in shown
    calm = Settings(data_dir=tmp_path, controller=box.address, name="studio", scratch_reserve=0)
    async with _agent(box, calm):
        await eventually(lambda: _reason(box), lambda told: told == "")


async def test_a_notice_reaches_the_fleet(box: Controller, tmp_path: Path) -> None:
    """From the host's metadata service to the list of agents, and back again."""
    async with imds() as host:
        settings = Settings(
            data_dir=tmp_path,
            controller=box.address,
            name="studio",
            scratch_reserve=0,
            metadata_url=host.url,
            metadata_interval_s=0.05,
        )
        settings.scratch.mkdir()
        async with _agent(box, settings):
            await eventually(lambda: _reason(box), lambda told: told == "")
            host.spot(1_777_615_200.0)
            await eventually(lambda: _reason(box), lambda told: told.startswith("EC2 spot interruption (terminate) at"))
            host.withdraw("spot/instance-action")
            await eventually(lambda: _reason(box), lambda told: told == "")


async def test_an_agent_whose_id_another_machine_uses_tries_seldom(
    box: Controller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which file to delete, and goes on trying, for the other machine may be gone one day."""
    monkeypatch.setattr(session, "CONFLICT_S", 0.5)
    settings = Settings(data_dir=tmp_path, controller=box.address, name="studio")
    settings.scratch.mkdir()
    begun = time.monotonic()
    async with AgentPeer(box.channel):
        with capture_logs() as logs:
            async with _agent(box, settings, "a copy"):
                await eventually(lambda: _refusals(logs), lambda count: count >= 3)
        tried = await _refusals(logs)
    complaints = [line for line in logs if line["log_level"] == "error"]
    assert complaints[0]["file"] == str(tmp_path / "agent-id")
    assert tried <= 1 + (time.monotonic() - begun) / 0.25


async def _refusals(logs: list[EventDict]) -> int:
    return sum(line.get("reason") == Reason.AGENT_ID_CONFLICT for line in logs)
