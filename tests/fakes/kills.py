"""Jobs during each of which something is killed at a seeded point, and what must hold of their outputs afterwards.

    with Killing(folder, server) as world:
        for kill in kills(seed, 50):
            world.suffer(kill)
        world.settle()

A controller and two agents, any of which can do all the work. What is killed (`kill -9`) comes back: soon, or only
after the job's end, so that the other agent has to finish it. Equal seeds make equal plans; what they hit is up to the
processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from tests.fakes.cli import STAGED, Home, until
from tests.fakes.object_server import ObjectServer
from tests.fakes.programs import UP_S, AgentProgram, ControllerProgram, reserved_port

VICTIMS = ("agent", "machine", "supervisor", "controller")
PLACES = ("s3", "files")
PHASES = {"fetch": 0.3, "run": 1.0, "stage": 0.6, "publish": 0.05}
"""Seconds from a phase's beginning within which the kill falls."""
FILES_SHARE = 0.1
"""Of that where nothing is sent over a network, but for what FFmpeg takes."""
PROFILES = ("wav_16", "flac")
ENDS_S = 180.0
SWEPT_S = 90.0
AGENTS = ("one", "two")
_MARKS = {"fetch": b"fetching ", "stage": b"staging ", "publish": b"waiting to publish"}
_FLAGS = ("--http", "none", "--heartbeat", 0.5, "--unreachable-after", 2, "--lost-after", 4, "--sweep-after", 1)


@dataclass(frozen=True, slots=True)
class Kill:
    """What dies in one job, where its files are, and when: `after_s` from the beginning of `phase`.

    It is back after `away_s`; None: after the end of the job, but a controller without which there is none.
    """

    number: int
    victim: str
    phase: str
    place: str
    after_s: float
    away_s: float | None

    def __str__(self) -> str:
        back = "after the job" if self.away_s is None else f"after {self.away_s:.2f} s"
        return (
            f"{self.number}: {self.victim} killed {self.after_s:.2f} s into {self.phase}, on {self.place}, back {back}"
        )


def kills(seed: int, count: int) -> Iterator[Kill]:
    """Every victim, phase and place equally often, in an order of the seed's."""
    dice = random.Random(f"kills {seed}")  # noqa: S311 - no secret
    turns = [(victim, phase, place) for victim in VICTIMS for phase in PHASES for place in PLACES]
    for number in range(count):
        if number % len(turns) == 0:
            dice.shuffle(turns)
        victim, phase, place = turns[number % len(turns)]
        # A supervisor lives during a step alone.
        phase = "run" if victim == "supervisor" else phase
        soon = victim in ("controller", "supervisor") or (victim == "agent" and dice.random() < 0.5)
        away_s = dice.uniform(0.0, 1.5) if soon else None
        share = FILES_SHARE if place == "files" and phase != "run" else 1.0
        yield Kill(number, victim, phase, place, dice.uniform(0.0, PHASES[phase] * share), away_s)


class Killing:
    """The programs, one bucket and one folder. `counted` says what happened."""

    def __init__(self, folder: Path, server: ObjectServer, *, seconds: int = 240) -> None:
        self.counted: Counter[str] = Counter()
        self._home = Home(folder)
        self._server = server
        self._bucket = server.make_bucket()
        self._seconds = seconds
        self._stack = ExitStack()
        self._clean: dict[str, str] = {}
        self._swept: set[str] = set()

    def __enter__(self) -> Self:
        home = self._home
        with ExitStack() as stack:
            stack.callback(home.kill)
            self._make_input()
            home.environment["MEDIACTL_STORES"] = str(self._stores())
            port = stack.enter_context(reserved_port())
            data_dir = home.folder / "controller"
            home.controller_ran(data_dir)
            self._controller = ControllerProgram(home, port, data_dir, *_FLAGS)
            self._agents = {name: AgentProgram(home, name, [self._controller.address]) for name in AGENTS}
            self._all_up()
            self._undisturbed()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _make_input(self) -> None:
        """Some tens of megabytes: fetching and staging take a while, and several parts."""
        self._source = self._home.folder / "talk.wav"
        tone = f"anoisesrc=d={self._seconds}:c=pink:r=48000:a=0.1:seed=1,aformat=channel_layouts=stereo"
        command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", tone, "-c:a", "pcm_s16le", str(self._source)]
        subprocess.run(command, check=True, timeout=120)
        self._server.put(self._bucket, "in/talk.wav", self._source.read_bytes())

    def _stores(self) -> Path:
        server, folder = self._server, self._home.folder
        credentials, file = folder / "credentials", folder / "stores.toml"
        credentials.write_text(
            f"[default]\naws_access_key_id={server.access_key}\naws_secret_access_key={server.secret_key}\n"
        )
        file.write_text(
            f'[store.archive]\nkind = "s3"\nendpoint = "{server.endpoint}"\npath_style = true\n'
            f'region = "{server.region}"\ncredentials_file = "{credentials}"\n'
        )
        return file

    def client(self) -> Client:
        """It outlasts the controller's deaths."""
        return Client(self._controller.address, credentials=Credentials(), timeout_s=5.0, patience_s=UP_S)

    def _all_up(self) -> None:
        self._controller.up()
        for agent in self._agents.values():
            agent.start()
        with self.client() as client:

            def ready() -> bool:
                with suppress(MediactlError):
                    return len([agent for agent in client.agents() if agent.name in AGENTS]) == len(AGENTS)
                return False

            until(ready, "both agents are here", within_s=UP_S)

    def _undisturbed(self) -> None:
        """What a job makes that nobody kills anything of."""
        for place in PLACES:
            job = self._ended(self._submit(f"clean-{place}", place))
            made = self._published(f"clean-{place}", place)
            digests = {name: hashlib.sha256(made[name]).hexdigest() for name in made if not name.endswith(".job.json")}
            assert len(digests) == len(PROFILES), (sorted(made), job.failure)
            assert not self._clean or self._clean == digests
            self._clean = digests

    def _submit(self, prefix: str, place: str) -> str:
        given, made = self._source.as_uri(), (self._home.folder / prefix).as_uri()
        if place == "s3":
            given, made = f"archive://{self._bucket}/in/talk.wav", f"archive://{self._bucket}/{prefix}"
        outputs = [{"profile": profile, "uri": f"{made}/"} for profile in PROFILES]
        spec = {"inputs": [{"uri": given}], "preset": "extract_audio", "outputs": outputs, "max_attempts": 20}
        with self.client() as client:
            return client.submit(spec).id

    def _ended(self, job_id: str) -> job_pb2.Job:
        with self.client() as client:

            def end() -> list[job_pb2.Job]:
                with suppress(MediactlError):
                    return [job for job in [client.get(job_id)] if job.HasField("end_time")]
                return []

            [job] = until(end, f"job {job_id} ends", within_s=ENDS_S)
            return job

    def suffer(self, kill: Kill) -> job_pb2.Job:
        """One job and its kill; the job as it ended, its outputs checked. All programs are up again on return."""
        prefix = f"run-{kill.number}"
        job_id = self._submit(prefix, kill.place)
        at = self._await_phase(job_id, kill.phase)
        if at is not None:
            # The plan's own moment: nothing is waited for.
            time.sleep(kill.after_s)
        back_at = None if kill.away_s is None else time.monotonic() + kill.away_s
        struck_at = time.time()
        hit = self._strike(kill.victim, at)
        self.counted[f"{kill.victim} killed" if hit else f"{kill.victim} missed"] += 1
        if back_at is not None:
            time.sleep(max(0.0, back_at - time.monotonic()))
            self._all_up()
        job = self._ended(job_id)
        self.counted["too late: the job had ended"] += job.end_time.ToNanoseconds() / 1e9 < struck_at
        self._all_up()
        self._check(job, prefix, kill.place)
        return job

    def _await_phase(self, job_id: str, phase: str) -> str | None:
        """The agent that has come so far with the job; None: it was through before anybody saw it."""
        deadline = time.monotonic() + ENDS_S
        with self.client() as client:
            while time.monotonic() < deadline:
                for looks in range(40):
                    for name in AGENTS:
                        for log in (self._home.folder / name / "scratch").glob(f"*{job_id}*/agent.log"):
                            if self._reached(log, phase):
                                return name
                    if looks:
                        time.sleep(0.005)
                if client.get(job_id).HasField("end_time"):
                    return None
        raise AssertionError(f"job {job_id} never came to {phase}")

    def _reached(self, log: Path, phase: str) -> bool:
        if phase == "run":
            return any(log.parent.glob("steps/*/lock"))
        with suppress(FileNotFoundError):
            return _MARKS[phase] in log.read_bytes()
        return False

    def _strike(self, victim: str, at: str | None) -> bool:
        if victim == "controller":
            self._controller.kill()
            return True
        agent = self._agents[at or AGENTS[0]]
        if victim in ("agent", "machine"):
            agent.kill()
        if victim == "agent":
            return True
        scratch = f"{self._home.folder / (at or AGENTS[0])}/"
        mark = "supervisor.py" if victim == "supervisor" else ""
        found = [pid for pid, line in self._home.processes(mark).items() if _works_in(pid, scratch)]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return victim == "machine" or bool(found)

    def _check(self, job: job_pb2.Job, prefix: str, place: str) -> None:
        """One end, each output whole and once, the manifest telling of them, nothing else."""
        assert job.state == job_pb2.JOB_STATE_COMPLETED, (job.state, job.failure)
        made = self._published(prefix, place)
        manifest = json.loads(made.pop(f"{job.id}.job.json"))
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in made.items()}
        assert digests == self._clean, (prefix, digests)
        told = {artifact.uri.rpartition("/")[2]: artifact.sha256 for artifact in job.artifacts}
        assert len(told) == len(job.artifacts) == len(PROFILES) + 1
        assert {name: told[name] for name in digests} == digests
        assert {one["uri"].rpartition("/")[2]: one["sha256"] for one in manifest["artifacts"]} == digests
        with self.client() as client:
            history = [event.type for event in client.events(job.id)]
        assert history.count("completed") == 1, history
        states = Counter(attempt.state for attempt in job.attempts)
        assert states["completed"] == 1, states
        self.counted["jobs completed"] += 1
        self.counted.update({f"attempts {state}": count for state, count in states.items()})

    def _published(self, prefix: str, place: str) -> dict[str, bytes]:
        if place == "files":
            found = (path for path in (self._home.folder / prefix).iterdir() if not path.name.startswith("."))
            return {path.name: path.read_bytes() for path in found}
        keys = [key for key in self._server.keys(self._bucket) if key.startswith(f"{prefix}/")]
        return {key.rpartition("/")[2]: self._server.read(self._bucket, key) for key in keys}

    def left(self) -> tuple[int, int]:
        """What is staged and not published: with an owner, and uploads that nobody can know the owner of."""
        client, unmarked, uploads = self._server.client, 0, self._server.uploads(self._bucket)
        for key, upload in uploads:
            try:
                unmarked += not client.list_parts(Bucket=self._bucket, Key=key, UploadId=upload).get("Parts")
            except client.exceptions.NoSuchUpload:
                continue
        return len(uploads) - unmarked + len(self._home.staged()), unmarked

    def settle(self) -> None:
        """Everything that was left is swept."""
        self.counted["left staged before the last sweep"] = self.left()[0]
        until(lambda: not self.left()[0], "all is swept", within_s=SWEPT_S)
        self.counted["unmarked uploads, ended after an hour"] = self.left()[1]
        self.counted["sweeps that removed something"] = sum(
            said.read_bytes().count(b"removed what an attempt left staged")
            for said in (self._home.folder / "said").glob("*.err")
        )
        assert not [*self._home.folder.glob(f"run-*/{STAGED}")]


def _works_in(pid: int, scratch: str) -> bool:
    try:
        return f"{Path(f'/proc/{pid}/cwd').readlink()}/".startswith(scratch)
    except OSError:
        return False
