"""Faults on real processes, and what must hold afterwards: seen from outside, by the public API alone."""

import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.errors import from_rpc_error
from mediactl.v1 import job_service_pb2, job_service_pb2_grpc
from presets.reasons import Reason
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, until
from tests.fakes.fault_plans import Shape
from tests.fakes.nemesis import spec, suffered
from tests.fakes.outside import check_history, check_publications
from tests.fakes.postgres import Postgres
from tests.fakes.programs import UP_S, ControllerProgram, FleetProgram, reserved_port


@pytest.mark.parametrize("seed", [1])
def test_nemesis_of_one_controller(tmp_path: Path, seed: int) -> None:
    """One controller on SQLite."""
    suffered(tmp_path / "user", Shape(), seed, 7.0)


@pytest.mark.parametrize("seed", [1])
def test_nemesis_of_two_controllers(tmp_path: Path, seed: int, own_postgres: Postgres) -> None:
    """Two controllers on one PostgreSQL, which is killed too."""
    suffered(tmp_path / "user", Shape(controllers=2, postgres=True), seed, 7.0, database=own_postgres)


@pytest.mark.parametrize("seed", [1])
def test_nemesis_of_a_real_agent(tmp_path: Path, recordings: Recordings, seed: int) -> None:
    """The real agent and FFmpeg: every file that a job says it published is there, whole, and no other."""
    suffered(tmp_path / "user", Shape(fleets=1, lost_s=2.0), seed, 7.0, recording=recordings.synth("blip"))


def _controller(home: Home, stack: ExitStack, name: str, *flags: object) -> ControllerProgram:
    return ControllerProgram(home, stack.enter_context(reserved_port()), home.folder / name, *flags)


def _readiness(address: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_controller_that_drains(tmp_path: Path, postgres: Postgres) -> None:
    """SIGTERM with --drain: NOT_SERVING and not ready while it still answers; who watches goes on at the other."""
    home = Home(tmp_path / "user")
    with ExitStack() as stack:
        stack.callback(home.kill)
        shared = ("--database", stack.enter_context(postgres.database()), "--lost-after", "300")
        http = f"127.0.0.1:{stack.enter_context(reserved_port())}"
        leaving = _controller(home, stack, "leaving", *shared, "--http", http, "--drain", "3")
        staying = _controller(home, stack, "staying", *shared, "--http", "none")
        leaving.up()
        staying.up()
        fleet = FleetProgram(home, "a-", [leaving.address, staying.address], "--work-ms", "100")
        fleet.start()
        client = stack.enter_context(
            Client(f"{leaving.address},{staying.address}", credentials=Credentials(), timeout_s=20)
        )
        until(client.agents, "the agents are registered", within_s=UP_S)
        jobs = list(client.submit_all([spec(number) for number in range(10)]))
        seen: list[str] = []
        watching = threading.Thread(
            target=lambda: seen.extend(
                update.event.job_id
                for update in client.watch({"ids": [job.id for job in jobs]})
                if update.HasField("event") and update.event.type == "completed"
            ),
            daemon=True,
        )
        watching.start()
        assert _readiness(http) == 200
        channel = stack.enter_context(grpc.insecure_channel(leaving.address))
        stub: Any = health_pb2_grpc.HealthStub(channel)
        health = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        raw = job_service_pb2_grpc.JobServiceStub(channel).WatchJobs(job_service_pb2.WatchJobsRequest())
        leaving.terminate()
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert _readiness(http) == 503
        with leaving.client() as old:
            # It still answers those who have not looked elsewhere yet.
            jobs += old.submit_all([spec(100)])
        with pytest.raises(grpc.RpcError) as told:
            for _ in raw:
                pass
        error = from_rpc_error(told.value)
        assert (error.reason, error.code) == (Reason.CONTROLLER_STOPPING, "UNAVAILABLE")
        assert leaving.ended().code == 0
        watching.join(UP_S)
        assert sorted(seen) == sorted(job.id for job in jobs[:10])
        ended = [client.wait(job.id, timeout_s=UP_S) for job in jobs]
        assert [job.attempt_count for job in ended] == [1] * 11
        check_history(client, [job.id for job in jobs])
        check_publications(ended, fleet.journal())


def test_a_backup_made_and_restored_while_jobs_run(tmp_path: Path) -> None:
    """What the backup knew goes on. Attempts that were granted after it are quarantined: neither stopped nor accepted;
    their agent says so, and works on what is known."""
    home = Home(tmp_path / "user")
    with ExitStack() as stack:
        stack.callback(home.kill)
        # The restored controller has the address of the former one, and another data directory.
        port = stack.enter_context(reserved_port())
        flags = ("--http", "none", "--lost-after", "300")
        former = ControllerProgram(home, port, home.folder / "former", *flags)
        former.up()
        fleet = FleetProgram(home, "a-", [former.address], "--agents", "1", "--slots", "20", "--fixed-ms", "4000")
        fleet.start()
        with former.client() as client:
            until(client.agents, "the agent is registered", within_s=UP_S)
            known = client.submit_all([spec(number) for number in range(5)])
            _until_noted(fleet, "leased", {job.id for job in known})
            copy = home.folder / "copy.backup"
            home.run("backup", copy, "--data-dir", former.data_dir, module="controller.main")
            unknown = client.submit_all([spec(10 + number) for number in range(5)])
            _until_noted(fleet, "leased", {job.id for job in unknown})
        former.kill()
        restored = ControllerProgram(home, port, home.folder / "restored", *flags)
        home.run("restore", copy, "--data-dir", restored.data_dir, module="controller.main")
        restored.up()
        with restored.client() as client:
            ended = [client.wait(job.id, timeout_s=UP_S) for job in known]
            assert [job.attempt_count for job in ended] == [1] * 5
            more = client.submit(spec(30))
            ended.append(client.wait(more.id, timeout_s=UP_S))
            until(lambda: "quarantined" in restored.said(), "the controller says whom it does not know")
            check_history(client, [job.id for job in (*known, more)])
            check_publications(ended, fleet.journal())
        # Staged long since, and waiting for a permission that nobody gives.
        ids = {job.id for job in unknown}
        told = {entry["what"] for entry in fleet.journal() if str(entry["attempt"]).partition("-")[0] in ids}
        assert told == {"leased", "log_acknowledged"}


def _until_noted(fleet: FleetProgram, what: str, jobs: set[str]) -> None:
    until(
        lambda: jobs <= {str(entry.get("job")) for entry in fleet.journal() if entry["what"] == what},
        f"all of them are {what}",
        within_s=UP_S,
    )
