"""Several controllers on one PostgreSQL: whichever is asked, whichever dies."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.v1 import job_pb2, job_service_pb2
from tests.fakes.cli import Home, until
from tests.fakes.nemesis import spec
from tests.fakes.outside import check_history, check_logs, check_publications, most_at_once
from tests.fakes.postgres import Postgres
from tests.fakes.programs import ControllerProgram, FleetProgram, reserved_port
from tests.fakes.running import migrate

SECONDS_FOR_ALL = 60.0
# Far above what any test lasts: nobody is called lost in them.
FAR = ("--lost-after", "300", "--unreachable-after", "120", "--heartbeat", "1")


@dataclass
class Pair:
    """Two controllers on one database."""

    home: Home
    url: str
    first: ControllerProgram
    second: ControllerProgram
    fleets: list[FleetProgram] = field(default_factory=list)

    def fleet(self, prefix: str, *controllers: ControllerProgram, work_ms: int = 200, agents: int = 2) -> FleetProgram:
        """Simulated agents that know these controllers, in this order; all of them are connected on return."""
        addresses = [controller.address for controller in controllers]
        fleet = FleetProgram(self.home, prefix, addresses, "--agents", agents, "--work-ms", work_ms, "--twice", "0.2")
        fleet.start()
        self.fleets.append(fleet)
        with controllers[0].client() as client:
            until(
                lambda: sum(agent.id.startswith(prefix) for agent in client.agents()) == agents,
                "the agents are registered",
                within_s=SECONDS_FOR_ALL,
            )
        return fleet

    def client(self, *controllers: ControllerProgram) -> Client:
        return Client(",".join(one.address for one in controllers), credentials=Credentials(), timeout_s=20)

    def journal(self) -> list[dict[str, object]]:
        return [entry for fleet in self.fleets for entry in fleet.journal()]

    def check(self, client: Client, jobs: Sequence[job_pb2.Job]) -> list[job_pb2.Job]:
        """Wait for all of them, then for everything that must hold. Returns them as they are now."""
        ended = [client.wait(job.id, timeout_s=SECONDS_FOR_ALL) for job in jobs]
        check_history(client, [job.id for job in jobs])
        check_publications(ended, self.journal())
        check_logs(client, self.journal())
        return ended


@pytest.fixture
def pair(tmp_path: Path, postgres: Postgres) -> Iterator[Pair]:
    home = Home(tmp_path / "user")
    with ExitStack() as stack:
        stack.callback(home.kill)
        url = stack.enter_context(postgres.database(postgres.template("migrated", migrate)))
        first, second = (
            ControllerProgram(
                home,
                stack.enter_context(reserved_port()),
                home.folder / name,
                *("--database", url, "--http", "none", *FAR),
            )
            for name in ("first", "second")
        )
        second.start()
        first.up()
        second.up()
        yield Pair(home, url, first, second)


def test_a_killed_controller_ends_no_attempt(pair: Pair) -> None:
    """kill -9 of one of two while its agents work: they go on at the other, and each job has one attempt."""
    fleet = pair.fleet("a-", pair.first, pair.second, work_ms=1500)
    with pair.client(pair.first, pair.second) as client:
        jobs = client.submit_all([spec(number) for number in range(12)])
        until(lambda: sum(entry["what"] == "leased" for entry in fleet.journal()) >= 6, "they work")
        pair.first.kill()
        ended = pair.check(client, jobs)
        assert [job.state for job in ended] == [job_pb2.JOB_STATE_COMPLETED] * 12
        assert [job.attempt_count for job in ended] == [1] * 12
        assert not [entry for entry in fleet.journal() if entry["what"] == "stopped"]


def test_watching_where_the_agent_is_not(pair: Pair) -> None:
    """Events, progress's end and the log of a job, followed at the controller that its agent does not know."""
    pair.fleet("a-", pair.first, work_ms=300, agents=1)
    with pair.first.client() as near, pair.second.client() as far:
        job = near.submit(spec(1))
        pieces: list[job_service_pb2.StreamLogsResponse] = []
        following = threading.Thread(target=lambda: pieces.extend(far.logs(job.id, follow=True)), daemon=True)
        following.start()
        seen = [update.event.type for update in far.watch({"ids": [job.id]}) if update.HasField("event")]
        assert seen == [event.type for event in near.events(job.id)]
        assert seen[0] == "submitted"
        assert seen[-1] == "completed"
        following.join(SECONDS_FOR_ALL)
        assert [piece.data for piece in pieces] == [piece.data for piece in near.logs(job.id)]
        assert any(b" leased " in piece.data for piece in pieces)
        pair.check(far, [job])


def test_the_last_word_of_a_job_under_a_long_transaction(pair: Pair) -> None:
    """Another session's open transaction keeps the order of events unsettled: who asks for the history or the log of
    an ended job gets all of it nevertheless."""
    pair.fleet("a-", pair.first, work_ms=50, agents=1)
    with (
        pair.second.client() as client,
        psycopg.connect(pair.url.replace("postgresql+psycopg://", "postgresql://")) as stuck,
    ):
        stuck.execute("SELECT pg_current_xact_id()")
        job = client.submit(spec(1))
        until(lambda: client.get(job.id).state == job_pb2.JOB_STATE_COMPLETED, "it ends", within_s=SECONDS_FOR_ALL)
        seen = [update.event.type for update in client.watch({"ids": [job.id]}) if update.HasField("event")]
        assert seen == [event.type for event in client.events(job.id)]
        # What the agent says of its end travels behind the end itself.
        until(lambda: len(list(client.logs(job.id))) == 2, "the log is whole")
        stuck.rollback()
        pair.check(client, [job])


def test_limits_hold_exactly(pair: Pair) -> None:
    """A limit of 3 for 40 jobs, agents at both controllers: 3 are held at once, and never more.

    Neither the times nor the cursors of events are the order of commits, since a transaction has its own before it
    waits for the limit. So it is counted in snapshots of the database, one after the other all the while, and on the
    agents' clock, which no transaction stretches.
    """
    counted: list[int] = []
    over = threading.Event()

    def count() -> None:
        with psycopg.connect(pair.url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
            while not over.is_set():
                [held] = connection.execute("SELECT count(*) FROM attempts WHERE holder <> ''").fetchone() or [0]
                counted.append(held)

    with pair.client(pair.first) as client, pair.second.client() as other:
        client.set_limit("label:show", 3)
        pair.fleet("a-", pair.first, work_ms=40)
        pair.fleet("b-", pair.second, work_ms=40)
        counting = threading.Thread(target=count, daemon=True)
        counting.start()
        jobs = [
            job for at in (client, other) for job in at.submit_all([spec(number, show="one") for number in range(20)])
        ]
        ended = pair.check(client, jobs)
        over.set()
        counting.join(SECONDS_FOR_ALL)
        assert {job.state for job in ended} == {job_pb2.JOB_STATE_COMPLETED}
        assert max(counted) == 3
        journal = pair.journal()
        begun = {entry["attempt"]: float(str(entry["at"])) for entry in journal if entry["what"] == "leased"}
        spans = [(begun[entry["attempt"]], float(str(entry["at"]))) for entry in journal if entry["what"] == "ended"]
        assert most_at_once(spans) <= 3
        assert {str(entry["agent"])[0] for entry in journal if entry["what"] == "leased"} == {"a", "b"}
        [limit] = client.get_queue().limits
        assert not any(limit.running.values())


def test_a_job_starts_at_once_where_it_was_not_submitted(pair: Pair) -> None:
    """Submitted at one controller, agent at the other: leased by NOTIFY, long before anybody polls."""
    fleet = pair.fleet("b-", pair.second, work_ms=1, agents=1)
    with pair.first.client() as client:
        took = []
        for number in range(9):
            before = time.monotonic()
            job = client.submit(spec(number))
            client.wait(job.id, timeout_s=SECONDS_FOR_ALL)
            [leased] = [
                float(str(entry["at"]))
                for entry in fleet.journal()
                if entry["what"] == "leased" and entry["job"] == job.id
            ]
            took.append(leased - before)
        # The poll would make it half a second on average, and a busy machine may delay a few.
        assert sorted(took)[len(took) // 2] < 0.25, took


def test_agents_spread_and_come_back(pair: Pair) -> None:
    """Each of two controllers is killed and restarted in turn while jobs run: nothing is lost, nothing tried twice."""
    pair.fleet("a-", pair.first, pair.second, work_ms=300)
    with pair.client(pair.second, pair.first) as client:
        jobs = list(client.submit_all([spec(number) for number in range(10)]))
        for controller in (pair.first, pair.second):
            controller.kill()
            jobs += client.submit_all([spec(100 * len(jobs) + number) for number in range(10)])
            controller.up()
        ended = pair.check(client, jobs)
        assert [job.attempt_count for job in ended] == [1] * 30
