"""Files of somebody who has neither controller nor agents: uploaded, worked on elsewhere, and fetched."""

import hashlib
import os
import random
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mediactl.v1 import job_pb2
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, until
from tests.fakes.fleet import Fleet
from tests.fakes.proxy import ThreadedProxy, proxy_thread

EXTRACT = ("--preset", "extract_audio", "--profile", "flac")
BIG_BYTES = 48 * 2**20


@pytest.fixture
def fleet(home: Home) -> Iterator[Fleet]:
    """Agents reach nothing but their own folder."""
    (home.folder / "agents").mkdir()
    with ExitStack() as stack:
        stack.callback(home.kill)
        yield Fleet(home, agent_flags=("--media-root", home.folder / "agents"))


@pytest.fixture
def desk(tmp_path: Path, recordings: Recordings) -> Path:
    """A folder with a recording in it, outside all that controller and agents have."""
    folder = tmp_path / "desk"
    folder.mkdir()
    os.link(recordings.synth("speech"), folder / "my talk?.wav")
    return folder


def _big(folder: Path) -> Path:
    """Nine minutes of noise."""
    path = folder / "big.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44100, 0, "NONE", ""))
        file.writeframes(os.urandom(BIG_BYTES))
    return path


def _deposits(home: Home) -> list[Path]:
    folder = home.data_dir / "store" / "deposits" / "default"
    return sorted(path for path in folder.rglob("*") if path.is_file() and "#" not in path.name)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _ran(fleet: Fleet, desk: Path, *arguments: str | Path, code: int = 0) -> Any:
    return fleet.home.run("--controller", fleet.address, *arguments, cwd=desk, code=code)


def test_there_and_back(fleet: Fleet, desk: Path) -> None:
    """`submit` uploads and says how to fetch; what is fetched is what was published, and is not fetched twice."""
    fleet.controller()
    fleet.agent()
    asked = ("submit", "./my talk?.wav", *EXTRACT, "--output", "./out/", "--wait", "--keep", "30d", "-o", "json")
    ran = _ran(fleet, desk, *asked)
    job = ran.json
    assert job["state"] == "JOB_STATE_COMPLETED"
    [artifact] = job["artifacts"]
    assert job["spec"]["inputs"][0]["uri"].startswith("controller://uploads/")
    assert artifact["uri"].startswith("controller://results/")
    assert artifact["uri"].endswith("/my%20talk%3F.flac.flac")
    assert f"mediactl jobs artifacts {job['id']} --download {desk}/out/" in ran.stderr
    told = _ran(fleet, desk, "jobs", "artifacts", job["id"], "--download", "out", "-o", "json").json
    fetched = desk / "out" / "my talk?.flac.flac"
    assert [one["file"] for one in told["artifacts"]] == ["out/my talk?.flac.flac"]
    assert _sha256(fetched) == artifact["sha256"]
    assert [path.name for path in (desk / "out").iterdir()] == [fetched.name]
    before = fetched.stat()
    again = ("jobs", "artifacts", job["id"], "--download", "out")
    assert _ran(fleet, desk, *again, "--overwrite").stdout == "out/my talk?.flac.flac\n"
    assert fetched.stat().st_ino == before.st_ino
    fetched.write_bytes(b"another file")
    assert "exists" in _ran(fleet, desk, *again, code=2).stderr
    assert fetched.read_bytes() == b"another file"
    blobs = _deposits(fleet.home)
    assert _ran(fleet, desk, *asked).json["id"] != job["id"]
    assert len(_deposits(fleet.home)) == len(blobs) + 1, "the input was there already"


def test_a_run_brings_its_results(fleet: Fleet, desk: Path) -> None:
    """Under the names that were asked for, as if it had run here; they replace nothing unless that is asked for."""
    fleet.controller()
    fleet.agent()
    ran = _ran(fleet, desk, "run", "my talk?.wav", *EXTRACT, "--profile", "wav_float", "--output", "out/")
    manifest, *names = sorted(path.name for path in (desk / "out").iterdir())
    assert manifest.endswith(".job.json")
    assert names == ["my talk?.flac.flac", "my talk?.wav_float.wav"]
    assert all(f"{desk}/out/{name}" in ran.stdout for name in names)
    agents = fleet.home.folder / "agents"
    os.link(desk / "my talk?.wav", agents / "own.wav")
    own = fleet.run("run", agents / "own.wav", *EXTRACT, "--output", f"{agents}/out/")
    assert [one["sha256"] for one in own["artifacts"]] == [_sha256(desk / "out" / names[0])]
    _ran(fleet, desk, "run", "my talk?.wav", *EXTRACT, "--output", "talk.flac")
    assert _sha256(desk / "talk.flac") == own["artifacts"][0]["sha256"]
    (desk / "talk.flac").write_bytes(b"mine")
    assert "OUTPUT_EXISTS" in _ran(fleet, desk, "run", "my talk?.wav", *EXTRACT, "--output", "talk.flac", code=1).stderr
    assert (desk / "talk.flac").read_bytes() == b"mine"
    _ran(fleet, desk, "run", "my talk?.wav", *EXTRACT, "--output", "talk.flac", "--overwrite")
    assert _sha256(desk / "talk.flac") == own["artifacts"][0]["sha256"]


def test_a_plan_of_a_local_file(fleet: Fleet, desk: Path) -> None:
    """Is made by an agent that has the file from the controller."""
    fleet.controller()
    fleet.agent()
    plan = _ran(fleet, desk, "plan", "my talk?.wav", *EXTRACT, "--output", "out/", "-o", "json").json
    assert plan["plan"]["steps"]
    assert not (desk / "out").exists()


def test_what_is_wrong_is_said_before_anything_is_sent(fleet: Fleet, desk: Path) -> None:
    """Whatever it is: the preset, a file that is missing or empty, a file: URI that no agent reaches."""
    fleet.controller()
    fleet.agent()
    (desk / "empty.wav").touch()
    for code, reason, arguments in (
        (2, "PRESET_NOT_FOUND", ("my talk?.wav", "--preset", "unheard_of", "--output", "out/")),
        (2, "OUTPUT_COLLISION", ("my talk?.wav", "./my talk?.wav", *EXTRACT, "--output", "out.flac")),
        (1, "INPUT_NOT_FOUND", ("missing.wav", *EXTRACT, "--output", "out/")),
        (1, "INPUT_EMPTY", ("empty.wav", *EXTRACT, "--output", "out/")),
        (1, "NO_CAPABLE_AGENT", (f"file://{desk}/my%20talk%3F.wav", *EXTRACT, "--output", "out/")),
    ):
        assert reason in _ran(fleet, desk, "submit", *arguments, code=code).stderr
    assert _deposits(fleet.home) == []


def test_a_controller_that_takes_nothing_or_not_so_much(fleet: Fleet, desk: Path) -> None:
    """Says so, and what to do; file: URIs are as they were."""
    fleet.controller_flags = ("--deposit-quota", "0")
    controller = fleet.controller()
    fleet.agent()
    asked = ("submit", "my talk?.wav", *EXTRACT, "--output", "out/")
    refused = _ran(fleet, desk, *asked, code=2)
    assert "DEPOSITS_OFF" in refused.stderr
    assert "file: URIs" in refused.stderr
    own = fleet.home.folder / "agents" / "talk.wav"
    os.link(desk / "my talk?.wav", own)
    job = _ran(
        fleet,
        desk,
        "submit",
        f"file://{own}",
        *EXTRACT,
        "--output",
        f"file://{own.parent}/out/",
        "--wait",
        "-o",
        "json",
    )
    told = _ran(fleet, desk, "jobs", "artifacts", job.json["id"], "--download", "here", "-o", "json").json
    assert _sha256(desk / told["artifacts"][0]["file"]) == told["artifacts"][0]["sha256"]
    controller.process.terminate()
    controller.ended()
    fleet.controller_flags = ("--deposit-quota", "0.00001")
    fleet.controller()
    full = _ran(fleet, desk, *asked, code=2)
    assert "QUOTA_EXCEEDED" in full.stderr
    assert "of 10737 are taken" in full.stderr
    assert _deposits(fleet.home) == []


def _slowly(proxy: ThreadedProxy, arrived: Callable[[], bool]) -> None:
    """Lets bytes through until so much has arrived, and then none."""
    proxy.delay_s = 0.3
    until(arrived, "a part has arrived", within_s=60)
    proxy.freeze()


def test_a_controller_that_is_killed_in_the_middle_of_an_upload(fleet: Fleet, desk: Path) -> None:
    """The upload goes on with its next life, where it was."""
    controller = fleet.controller()
    fleet.agent()
    big = _big(desk)
    with proxy_thread(f"127.0.0.1:{fleet.port}") as proxy:
        waiting = fleet.home.start(
            *("--controller", proxy.address, "submit", big.name, *EXTRACT, "--output", "out/", "--wait", "-o", "json"),
            cwd=desk,
        )
        _slowly(proxy, lambda: len(_deposits(fleet.home)) >= 3)
        controller.process.kill()
        controller.process.wait()
        kept = {path: path.stat().st_mtime_ns for path in _deposits(fleet.home)[:2]}
        assert sum(path.stat().st_size for path in _deposits(fleet.home)) < BIG_BYTES
        fleet.controller()
        proxy.cut()
        proxy.delay_s = 0.0
        proxy.thaw()
        proxy.mend()
        ended = waiting.ended()
    assert (ended.code, ended.json["state"]) == (0, "JOB_STATE_COMPLETED"), ended
    now = {path: path.stat().st_mtime_ns for path in _deposits(fleet.home)}
    assert kept.items() <= now.items(), "what had arrived was not sent again"


def test_an_upload_that_is_given_up_goes_on_later(fleet: Fleet, desk: Path) -> None:
    """`submit` is killed; the next one of the same file sends what is missing."""
    fleet.controller()
    fleet.agent()
    big = _big(desk)
    asked = ("submit", big.name, *EXTRACT, "--output", "out/", "--wait", "-o", "json")
    with proxy_thread(f"127.0.0.1:{fleet.port}") as proxy:
        begun = fleet.home.start("--controller", proxy.address, *asked, cwd=desk)
        _slowly(proxy, lambda: len(_deposits(fleet.home)) >= 3)
        begun.process.kill()
        begun.process.wait()
    kept = {path: path.stat().st_mtime_ns for path in _deposits(fleet.home)[:2]}
    assert _ran(fleet, desk, *asked).json["state"] == "JOB_STATE_COMPLETED"
    now = {path: path.stat().st_mtime_ns for path in _deposits(fleet.home)}
    assert kept.items() <= now.items()


@pytest.mark.parametrize("doing", ["fetching", "staging"])
def test_an_agent_that_is_killed_in_the_middle_of_a_transfer(fleet: Fleet, desk: Path, doing: str) -> None:
    """Its next life does it again or goes on; the result is whole and there once."""
    fleet.controller()
    big = _big(desk)
    with proxy_thread(f"127.0.0.1:{fleet.port}") as proxy:
        agent = fleet.agent("studio", "--controller", proxy.address)
        if doing == "fetching":
            proxy.delay_s = 0.3
        asked = ("submit", big.name, *EXTRACT, "--output", "out/", "-o", "json")
        job_id = _ran(fleet, desk, *asked).json["id"]

        def met() -> bool:
            if doing == "fetching":
                return bool([*fleet.home.folder.rglob("cache/.*.part")])
            return len({path.parent for path in _deposits(fleet.home)}) >= 2

        if doing == "staging":
            until(lambda: bool([*fleet.home.scratch.glob("*/out/*")]), "it makes the output")
            proxy.delay_s = 0.3
        until(met, f"it is {doing}", within_s=60)
        agent.process.kill()
        agent.process.wait()
        proxy.delay_s = 0.0
        fleet.agent("studio", "--controller", proxy.address)
        with fleet.client() as client:
            job = client.wait(job_id, timeout_s=90)
    assert job.state == job_pb2.JOB_STATE_COMPLETED, job.failure
    _ran(fleet, desk, "jobs", "artifacts", job_id, "--download", "out")
    [fetched] = (desk / "out").iterdir()
    assert _sha256(fetched) == job.artifacts[0].sha256
    assert len({path.parent for path in _deposits(fleet.home)}) == 2


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_any_moment(fleet: Fleet, desk: Path, seed: int) -> None:
    """Of controller and agent, while files go there and back: every result arrives, whole and once; nothing is left."""
    dice = random.Random(seed)  # noqa: S311 - chance, no secret
    fleet.controller_flags = ("--heartbeat", "0.5", "--unreachable-after", "3", "--lost-after", "10")
    programs = {"controller": fleet.controller(), "agent": fleet.agent()}
    begin = {"controller": fleet.controller, "agent": fleet.agent}
    for number in range(12):
        big = _big(desk).rename(desk / f"{number}.wav")
        asked = ("run", big.name, *EXTRACT, "--output", "out/", "-o", "json")
        running = fleet.home.start("--controller", fleet.address, *asked, cwd=desk)
        for _ in range(2):
            time.sleep(dice.uniform(0.3, 5))
            if running.process.poll() is None:
                struck = dice.choice([*programs])
                programs[struck].process.kill()
                programs[struck].process.wait()
                programs[struck] = begin[struck]()
        ended = running.ended(within_s=180)
        assert ended.code == 0, ended
        [artifact] = ended.json["artifacts"]
        assert _sha256(desk / "out" / f"{number}.flac.flac") == artifact["sha256"]
        assert len({path.parent for path in _deposits(fleet.home)}) == 2 * (number + 1)
    assert len([*(desk / "out").iterdir()]) == 12
