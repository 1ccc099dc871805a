"""Controller and agent started apart, as on two machines: TLS, the token, and either of them dying."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, living_in, reached, under_way, until
from tests.fakes.fleet import Fleet, free_port

EXTRACT = ("--preset", "extract_audio", "--profile", "flac")


@pytest.fixture
def media(home: Home, recordings: Recordings) -> Path:
    """Inputs within the agent's media root."""
    folder = home.folder / "media"
    folder.mkdir()
    for path in (recordings.synth("blip"), recordings.minutes()):
        os.link(path, folder / path.name)
    return folder


@pytest.fixture
def fleet(home: Home) -> Iterator[Fleet]:
    with ExitStack() as stack:
        stack.callback(home.kill)
        yield Fleet(home)


@pytest.fixture
def certificate(home: Home) -> tuple[Path, Path]:
    """A certificate for this machine that is its own authority, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make a certificate with")
    certificate, key = home.folder / "certificate.pem", home.folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_a_killed_controller_costs_nothing(fleet: Fleet, media: Path) -> None:
    """kill -9 of the controller while FFmpeg works: the agent goes on and reports to the next; one attempt in all."""
    controller = fleet.controller()
    agent = fleet.agent()
    job_id = fleet.run("submit", media / "minutes.flac", *EXTRACT, "--output", f"{media}/out/")["id"]
    with fleet.client() as client:
        reached(client, job_id, under_way)
    working = fleet.home.encoders()
    assert working
    controller.process.kill()
    controller.process.wait()
    assert working.keys() & fleet.home.encoders().keys()
    controller = fleet.controller()
    with fleet.client() as client:
        job = client.wait(job_id, timeout_s=60)
        history = [event.type for event in client.events(job_id)]
    assert job.state == job_pb2.JOB_STATE_COMPLETED
    assert job.attempt_count == 1
    assert [attempt.state for attempt in job.attempts] == ["completed"]
    assert history == ["submitted", "leased", "started", "staged", "completed"]
    assert (media / "out" / "minutes.flac.flac").exists()
    assert agent.process.poll() is None
    log = fleet.home.run("--controller", fleet.address, "jobs", "logs", job_id).stdout
    assert log.count("$ ffmpeg") == len(job.attempts[0].plan.steps)
    for running in (agent, controller):
        running.process.terminate()
        assert running.ended().code == 0


def test_a_controller_that_comes_back_after_the_work_is_done(fleet: Fleet, media: Path) -> None:
    """The agent ends its step without a controller, waits with what it has to tell, and nothing is published before."""
    controller = fleet.controller()
    agent = fleet.agent()
    job_id = fleet.run("submit", media / "minutes.flac", *EXTRACT, "--output", f"{media}/out/")["id"]
    with fleet.client() as client:
        reached(client, job_id, under_way)
    controller.process.kill()
    controller.process.wait()
    until(lambda: fleet.home.workspaces() and not fleet.home.encoders() and fleet.home.staged(), "it is staged")
    assert not (media / "out" / "minutes.flac.flac").exists()
    controller = fleet.controller()
    with fleet.client() as client:
        job = client.wait(job_id, timeout_s=60)
    assert job.state == job_pb2.JOB_STATE_COMPLETED
    assert job.attempt_count == 1
    for running in (agent, controller):
        running.process.terminate()
        assert running.ended().code == 0


def test_media_roots(fleet: Fleet, media: Path, recordings: Recordings) -> None:
    """An input, or an output, outside what the agent declares is refused at submission with the roots there are."""
    fleet.controller()
    fleet.agent()
    outside = recordings.synth("blip")
    told = fleet.run("submit", outside, *EXTRACT, "--output", f"{media}/out/", code=1)
    assert "NO_CAPABLE_AGENT" in told
    assert str(fleet.home.folder) in told
    told = fleet.run("submit", media / "blip.wav", *EXTRACT, "--output", f"{outside.parent}/out/", code=1)
    assert "NO_CAPABLE_AGENT" in told


def test_placing_by_label(fleet: Fleet, media: Path) -> None:
    """`--require` is met by an agent with the label, and by none without."""
    fleet.controller()
    fleet.agent()
    asked = (media / "blip.wav", *EXTRACT, "--output", f"{media}/out/", "--require")
    assert fleet.run("submit", *asked, "colour=green", "--wait")["state"] == "JOB_STATE_COMPLETED"
    told = fleet.run("submit", media / "blip.wav", *EXTRACT, "--output", f"{media}/2/", "--require", "colour=red")
    assert told["state"] == "JOB_STATE_PENDING"
    fleet.run("jobs", "cancel", told["id"])


def test_tls_and_a_token(fleet: Fleet, media: Path, certificate: tuple[Path, Path]) -> None:
    """With files on both ends a job goes through; with another token, none, or plain text it does not, exit 5 and 4."""
    token, other = fleet.home.folder / "token", fleet.home.folder / "other"
    token.write_text("open-sesame\n")
    other.write_text("open-barley\n")
    public, key = certificate
    fleet.controller_flags = ("--tls-cert", public, "--tls-key", key, "--token-file", token)
    fleet.agent_flags = fleet.client_flags = ("--tls-ca", public, "--token-file", token)
    fleet.credentials = Credentials(tls_ca=public, token_file=token)
    fleet.controller()
    fleet.agent()
    job = fleet.run("run", media / "blip.wav", *EXTRACT, "--output", f"{media}/out/")
    assert job["state"] == "JOB_STATE_COMPLETED"
    fleet.client_flags = ("--tls-ca", public, "--token-file", other)
    wrong = fleet.run("jobs", "list", code=5)
    assert "UNAUTHENTICATED" in wrong
    assert "sesame" not in wrong
    fleet.client_flags = ("--tls-ca", public)
    assert "UNAUTHENTICATED" in fleet.run("jobs", "list", code=5)
    fleet.client_flags = ("--token-file", token)
    assert "CONTROLLER_UNREACHABLE" in fleet.run("jobs", "list", code=4)
    with Client(fleet.address, credentials=Credentials(tls_ca=public)) as client, pytest.raises(MediactlError) as error:
        client.agents()
    assert error.value.exit_code == 5


def test_certificates_on_both_ends(fleet: Fleet, media: Path, certificate: tuple[Path, Path]) -> None:
    """With a CA the controller asks every client and agent for a certificate; who has none is not answered."""
    public, key = certificate
    own = ("--tls-ca", public, "--tls-cert", public, "--tls-key", key)
    fleet.controller_flags = fleet.agent_flags = fleet.client_flags = own
    fleet.credentials = Credentials(tls_ca=public, tls_cert=public, tls_key=key)
    fleet.controller()
    fleet.agent()
    job = fleet.run("run", media / "blip.wav", *EXTRACT, "--output", f"{media}/out/")
    assert job["state"] == "JOB_STATE_COMPLETED"
    fleet.client_flags = ("--tls-ca", public)
    assert "CONTROLLER_UNREACHABLE" in fleet.run("jobs", "list", code=4)


@pytest.mark.parametrize("program", ["controller", "box"])
def test_plain_text_stays_on_this_machine(home: Home, program: str) -> None:
    """A listener for other machines without TLS is refused, with the reason, and nothing is left running."""
    if program == "box":
        ran = home.run("up", "--listen", "0.0.0.0:0", code=None)
    else:
        ran = home.run("serve", "--listen", "0.0.0.0:0", code=None, module="controller.main")
    assert ran.code in {1, 2}
    assert "TLS" in ran.stderr


def test_one_controller_for_a_data_directory(fleet: Fleet) -> None:
    """A second one is refused before it touches the database."""
    fleet.controller()
    second = fleet.home.run(
        "serve", "--data-dir", fleet.home.data_dir, "--listen", "127.0.0.1:0", code=None, module="controller.main"
    )
    assert second.code == 2
    assert "another controller" in second.stderr


def test_a_controller_starts_quickly(fleet: Fleet) -> None:
    """From exec to its first answer; the target is 2 s, the machine may be busy with other tests."""
    running = fleet.home.start(
        "serve", "--data-dir", fleet.home.data_dir, "--listen", fleet.address, module="controller.main"
    )
    until(fleet.answers, "the controller answers", within_s=5)
    running.process.terminate()
    assert running.ended().code == 0


def test_a_box_that_listens_for_other_machines(
    tmp_path: Path, recordings: Recordings, certificate: tuple[Path, Path]
) -> None:
    """`up --listen` with TLS and a token serves its own user by the socket and others by the network."""
    public, key = certificate
    with living_in(tmp_path / "listener") as home:
        token = home.folder / "token"
        token.write_text("open-sesame")
        port = free_port()
        box = home.start(
            *("up", "--listen", f"0.0.0.0:{port}", "--tls-cert", public, "--tls-key", key, "--token-file", token)
        )
        with Client(f"localhost:{port}", credentials=Credentials(tls_ca=public, token_file=token)) as client:
            until(lambda: box.process.poll() is not None or _agents(client), "the agent registers")
        assert box.process.poll() is None, box.ended()
        job = home.job(
            "--token-file", token, "run", recordings.synth("blip"), *EXTRACT, "--output", f"{home.folder}/out/"
        )
        assert job["state"] == "JOB_STATE_COMPLETED"
        os.kill(box.process.pid, signal.SIGTERM)
        assert box.ended().code == 0


def _agents(client: Client) -> bool:
    try:
        return bool(client.agents())
    except MediactlError:
        return False


def test_what_failed_is_kept_where_it_failed(fleet: Fleet, media: Path, tmp_path: Path) -> None:
    """While that agent is away asking for it says which one it is, exit code 6; its next life still has it. One that is
    to keep nothing drops it, exit code 3.
    """
    fleet.controller_flags = ("--heartbeat", "0.2", "--unreachable-after", "0.6")
    fleet.controller()
    agent = fleet.agent()
    bad = media / "bad.wav"
    bad.write_text("This is not a recording.\n" * 200)
    job = fleet.run("submit", bad, *EXTRACT, "--output", f"{media}/out/", "--wait", code=1)
    other = fleet.run("submit", bad, *EXTRACT, "--output", f"{media}/out/", "--wait", code=1)
    agent.process.kill()
    agent.process.wait()
    said = fleet.run("jobs", "artifacts", job["id"], "--failed", "--file", tmp_path / "a.tgz", code=6)
    assert "REMAINS_UNAVAILABLE" in said
    assert "agent studio, which keeps it, is not connected" in said
    agent = fleet.agent()
    told = fleet.run("jobs", "artifacts", job["id"], "--failed", "--file", tmp_path / "a.tgz")
    assert Path(told["file"]).stat().st_size == int(told["sizeBytes"])
    agent.process.terminate()
    agent.ended()
    fleet.agent_flags = ("--keep-failed", "0")
    fleet.agent()
    until(lambda: not list((fleet.home.data_dir / "agent" / "remains").iterdir()), "the agent drops what it kept")
    assert "REMAINS_NOT_FOUND" in fleet.run("jobs", "artifacts", other["id"], "--failed", code=3)
    # What was fetched before is there for as long as the job is.
    fleet.run("jobs", "artifacts", job["id"], "--failed", "--file", tmp_path / "b.tgz")
    assert (tmp_path / "a.tgz").read_bytes() == (tmp_path / "b.tgz").read_bytes()
    last = fleet.run("submit", bad, *EXTRACT, "--output", f"{media}/out/", "--wait", code=1)
    assert [attempt["keptBytes"] for attempt in last["attempts"]] == ["0"]
