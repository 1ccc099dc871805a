"""The public client against a real gRPC server with invented answers."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from mediactl import AsyncClient, Client, Credentials, MediactlError, WaitTimeout
from mediactl.channel import aio_channel
from mediactl.v1 import agent_service_pb2, agent_service_pb2_grpc, fleet_service_pb2, job_pb2
from presets.reasons import Reason
from tests.fakes.controller import FakeController, served

SPEC = {"inputs": [{"uri": "file:///a.wav"}], "preset": "quick", "outputs": [{"uri": "file:///out/"}]}
SLOW = {**SPEC, "preset": "slow"}
STOPPING = MediactlError(Reason.CONTROLLER_STOPPING, "stopping")


@pytest.fixture
def fake() -> FakeController:
    return FakeController()


@pytest.fixture
def address(fake: FakeController, tmp_path: Path) -> Iterator[str]:
    with served(fake, socket=tmp_path / "m.sock") as where:
        yield where


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as one:
        yield one


def _until(condition: Callable[[], object], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_submit_wait_get(client: Client) -> None:
    """A job is submitted, waited for and has its artifact."""
    job = client.submit(SPEC)
    done = client.wait(job.id)
    assert done.state == job_pb2.JOB_STATE_COMPLETED
    assert done.artifacts[0].size_bytes == 3_300_000_000
    assert client.get(job.id) == done


def test_every_method_answers(client: Client, fake: FakeController) -> None:
    """Each call of the API has its method, which gives the message that matters."""
    ids = [client.submit(SPEC).id for _ in range(5)]
    assert [job.id for job in client.list()] == ids[::-1]
    assert [job.id for job in client.list({"ids": ids[:1]})] == ids[:1]
    assert client.list_page(page_size=3).next_page_token == "3"
    assert [event.type for event in client.events(ids[0])] == ["submitted", "completed"]
    assert b"".join(piece.data for piece in client.logs(ids[0])) == b"line 1\nline 2\nline 3\n"
    assert client.explain(ids[0]).agents[0].reasons == ["lacks encoder:aac"]
    assert client.plan(SPEC).plan.steps[0].provisional
    assert [preset.full_name for preset in client.presets()] == ["loudness_v1"]
    assert client.preset("loudness").document
    assert client.add_preset("text").document == "text"
    assert [profile.full_name for profile in client.profiles()] == ["aac_192_v1"]
    assert client.profile("aac_192").container == "mp4"
    assert client.add_profile("text").full_name == "aac_192_v1"
    assert [agent.id for agent in client.agents()] == ["g1"]
    assert client.agent("box").capabilities.cores == 2
    assert client.drain_agent("box", deadline_s=1.5).drain_reason
    assert client.drain_agent("box", deadline_s=0).HasField("drain_deadline")
    assert not client.drain_agent("box").HasField("drain_deadline")
    assert fake.named("DrainAgent")[0].deadline.ToMilliseconds() == 1500
    assert not client.resume_agent("g1").drain_reason
    fake.agent.state = fleet_service_pb2.AGENT_STATE_LOST
    client.remove_agent("g1")
    slow = client.submit(SLOW)
    assert client.cancel(slow.id, message="enough").state == job_pb2.JOB_STATE_CANCELLED
    assert fake.named("CancelJob")[0].message == "enough"
    broken = client.submit({**SPEC, "preset": "broken"})
    assert [*client.retry_jobs({"reasons": ["INPUT_NOT_FOUND"]}).job_ids] == [broken.id]
    assert client.retry_jobs({"ids": [broken.id]}).refused[0].reason == Reason.JOB_NOT_DEAD
    again = client.replay_job(broken.id, request_id="r", output_uri="file:///again/", overwrite=True)
    assert again.replay_of == broken.id
    assert client.replay_job(broken.id, request_id="r").id == again.id
    assert [*client.hold_jobs({"ids": [again.id]}, message="wait").job_ids] == [again.id]
    assert [*client.release_jobs({"states": ["JOB_STATE_PENDING"]}).job_ids] == [again.id]
    assert (fake.named("ReplayJob")[0].output_uri, fake.named("HoldJobs")[0].message) == ("file:///again/", "wait")
    fake.queue.queues.add(name="default", weight=1)
    assert client.get_queue().queues[0].name == "default"
    assert not client.get_statistics(window_s=60, preset="convert").presets
    assert fake.named("GetStatistics")[0].window.seconds == 60
    assert client.set_queue("news", weight=3).weight == 3
    limit = client.set_limit("global", 0)
    assert limit is not None
    assert (limit.key, limit.maximum) == ("global", 0)
    assert client.set_limit("global", None) is None


def test_refusals_carry_reason_and_fields(client: Client) -> None:
    """An invalid request tells every problem; an unknown job is not found."""
    with pytest.raises(MediactlError) as caught:
        client.submit({**SPEC, "preset": "unknown"})
    assert caught.value.reason is Reason.PRESET_NOT_FOUND
    assert [field for field, _ in caught.value.fields] == ["jobs[0].preset", "jobs[0].params.x"]
    with pytest.raises(MediactlError) as missing:
        client.get("nothing")
    assert (missing.value.reason, missing.value.exit_code) == (Reason.JOB_NOT_FOUND, 3)


def test_nobody_listening_is_unreachable(tmp_path: Path) -> None:
    """Without a server every call says so, streams as well."""
    with Client(f"unix:{tmp_path}/none.sock") as client:
        for call in (lambda: client.get("x"), lambda: [*client.watch()]):
            with pytest.raises(MediactlError) as caught:
                call()
            assert (caught.value.reason, caught.value.exit_code) == (Reason.CONTROLLER_UNREACHABLE, 4)


def test_calls_are_repeated_while_the_controller_is_away(client: Client, fake: FakeController) -> None:
    """A submission that met a stopping controller is stored once: both tries carry one request id."""
    fake.fail("SubmitJobs", STOPPING, STOPPING)
    client.submit(SPEC)
    sent = fake.named("SubmitJobs")
    assert len(sent) == 3
    assert len({request.request_id for request in sent}) == 1
    assert len(fake.jobs) == 1


def test_a_watch_survives_interruptions(client: Client, fake: FakeController) -> None:
    """Events come once and in order, however often the stream breaks."""
    ids = [client.submit(SPEC).id for _ in range(3)]
    fake.break_streams_after = [1, 2, 1]
    told = [update.event.cursor for update in client.watch({"ids": ids}) if update.WhichOneof("update") == "event"]
    assert told == [1, 2, 3, 4, 5, 6]
    assert [request.after_sequence for request in fake.named("WatchJobs")] == [0, 1, 3, 4]


def test_a_log_survives_interruptions(client: Client, fake: FakeController) -> None:
    """Every line comes once."""
    job = client.submit(SPEC)
    fake.break_streams_after = [1, 2]
    assert [piece.sequence for piece in client.logs(job.id, follow=True)] == [1, 2, 3]


def test_the_first_controller_that_answers_is_used(address: str, fake: FakeController, tmp_path: Path) -> None:
    """Those before it are asked once; afterwards it is the one that is asked."""
    with Client(f"unix:{tmp_path}/none.sock,{address},unix:{tmp_path}/no.sock") as client:
        job = client.submit(SPEC)
        assert client.get(job.id).id == job.id
        assert [piece.sequence for piece in client.logs(job.id)] == [1, 2, 3]
        with pytest.raises(MediactlError, match="there is no job"):
            client.get("nothing")
    assert [name for name, _ in fake.calls] == ["SubmitJobs", "GetJob", "StreamLogs", "GetJob"]


def test_a_submission_is_one_whoever_answers(address: str, fake: FakeController, tmp_path: Path) -> None:
    """A controller that was stopping may have stored it: the next one is asked with the same id."""
    other = FakeController(beside=fake)
    with served(other, socket=tmp_path / "other.sock") as elsewhere, Client(f"{address},{elsewhere}") as client:
        fake.fail("SubmitJobs", STOPPING)
        client.submit(SPEC)
    assert fake.named("SubmitJobs") == other.named("SubmitJobs")
    assert len(fake.jobs) == 1


def test_none_of_several_controllers_answers(tmp_path: Path) -> None:
    """The error says that all were asked."""
    with (
        Client(f"unix:{tmp_path}/a.sock,unix:{tmp_path}/b.sock") as client,
        pytest.raises(MediactlError, match="none of the 2 controllers answers") as caught,
    ):
        client.agents()
    assert (caught.value.reason, caught.value.exit_code) == (Reason.CONTROLLER_UNREACHABLE, 4)


def test_a_watch_goes_on_at_another_controller(fake: FakeController, tmp_path: Path) -> None:
    """The one it ran at goes away for good: every event comes once, and the waiting ends."""
    other = FakeController(beside=fake)
    with served(other, socket=tmp_path / "b.sock") as second, ExitStack() as first:
        address = first.enter_context(served(fake, socket=tmp_path / "a.sock"))
        with Client(f"{address},{second}") as client:
            job = client.submit(SLOW)
            watch = client.watch({"ids": [job.id]})
            assert next(watch).event.type == "submitted"
            first.close()
            other.finish(job.id)
            told = [update.event.type for update in watch if update.WhichOneof("update") == "event"]
            assert told == ["completed"]
            assert client.wait(job.id).state == job_pb2.JOB_STATE_COMPLETED
    assert other.named("WatchJobs")[0].after_sequence == 1


def test_a_log_goes_on_at_another_controller(fake: FakeController, tmp_path: Path) -> None:
    """No line is lost and none comes twice."""
    other = FakeController(beside=fake)
    fake.break_streams_after = [2]
    with (
        served(fake, socket=tmp_path / "a.sock") as first,
        served(other, socket=tmp_path / "b.sock") as second,
        Client(f"{first},{second}") as client,
    ):
        job = client.submit(SPEC)
        assert [piece.sequence for piece in client.logs(job.id, follow=True)] == [1, 2, 3]
    assert len(other.named("StreamLogs")) == 1


def test_waiting_outlasts_a_restart(fake: FakeController, tmp_path: Path) -> None:
    """The only controller goes away while a job is waited for, and comes back on its address: it is waited for on."""
    socket = tmp_path / "m.sock"
    back = FakeController(beside=fake)
    with (
        ExitStack() as before,
        ThreadPoolExecutor(1) as pool,
        Client(before.enter_context(served(fake, socket=socket))) as client,
    ):
        job = client.submit(SLOW)
        waited = pool.submit(client.wait, job.id, timeout_s=30)
        _until(lambda: fake.named("WatchJobs"))
        before.close()
        with served(back, socket=socket):
            _until(lambda: back.named("WatchJobs"))
            back.finish(job.id)
            assert waited.result(30).state == job_pb2.JOB_STATE_COMPLETED


def test_waiting_ends_with_patience(client: Client, fake: FakeController) -> None:
    """A TimeoutError that tells the job; afterwards the job still runs and can be waited for."""
    job = client.submit(SLOW)
    with pytest.raises(TimeoutError) as caught:
        client.wait(job.id, timeout_s=0.2)
    assert isinstance(caught.value, WaitTimeout)
    assert (caught.value.job_id, caught.value.exit_code) == (job.id, 6)
    fake.finish(job.id)
    assert client.wait(job.id, timeout_s=10).state == job_pb2.JOB_STATE_COMPLETED


def test_leaving_a_watch_ends_its_call(client: Client) -> None:
    """A watch that is no longer read does not keep the connection or the next call."""
    client.submit(SLOW)
    watch = client.watch(until_ended=False)
    assert next(watch).event.type == "submitted"
    watch.close()  # type: ignore[attr-defined]  # a generator behind an iterator's type
    assert client.agents()


def test_the_token_goes_with_every_kind_of_call(address: str, fake: FakeController, tmp_path: Path) -> None:
    """Unary calls and streams carry the bearer token; a rotated file is taken up by the next call."""
    token = tmp_path / "token"
    token.write_text("one")
    with Client(address, credentials=Credentials(token_file=token)) as client:
        job = client.submit(SPEC)
        token.write_text("two")
        assert [*client.logs(job.id)]
        token.write_text("")
        with pytest.raises(MediactlError) as caught:
            client.get(job.id)
    assert caught.value.reason is Reason.UNAUTHENTICATED
    assert [one["authorization"] for one in fake.metadata] == ["Bearer one", "Bearer two"]


def test_a_socket_path_may_be_long(fake: FakeController, tmp_path: Path) -> None:
    """Longer than a socket's address: server and client go through the directory."""
    deep = tmp_path / ("long name " * 12)
    deep.mkdir()
    with served(fake, socket=deep / "m.sock") as where, Client(where) as client:
        assert (deep / "m.sock").is_socket()
        assert client.agents()


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, and a certificate for localhost signed by it."""
    folder = tmp_path_factory.mktemp("tls")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca, key, request = folder / "ca.pem", folder / "key.pem", folder / "request.pem"
    _openssl("req", "-x509", *curve, "-keyout", f"{folder}/ca.key", "-out", f"{ca}", "-subj", "/CN=ca")
    _openssl("req", *curve, "-keyout", f"{key}", "-out", f"{request}", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    _openssl(
        *("x509", "-req", "-in", f"{request}", "-CA", f"{ca}", "-CAkey", f"{folder}/ca.key"),
        *("-CAcreateserial", "-out", f"{folder}/cert.pem", "-extfile", f"{folder}/names"),
    )
    return folder


def test_tls_with_client_certificates(fake: FakeController, tls: Path) -> None:
    """With a CA on both ends, a client without a certificate is not let in; one with it and a token is."""
    both = Credentials(tls / "ca.pem", tls / "cert.pem", tls / "key.pem")
    token = tls / "token"
    token.write_text("secret")
    with served(fake, tls=both) as where:
        with (
            Client(where, credentials=Credentials(tls_ca=tls / "ca.pem")) as stranger,
            pytest.raises(MediactlError) as caught,
        ):
            stranger.agents()
        assert caught.value.reason is Reason.CONTROLLER_UNREACHABLE
        with Client(where, credentials=Credentials(both.tls_ca, both.tls_cert, both.tls_key, token)) as client:
            assert client.agents()
    assert [one["authorization"] for one in fake.metadata] == ["Bearer secret"]


async def test_asyncio_has_the_same_methods(address: str, fake: FakeController) -> None:
    """Everything of the blocking client, awaited."""
    public = {name for name in vars(Client) if not name.startswith("_")}
    assert public == {name for name in vars(AsyncClient) if not name.startswith("_")}
    async with AsyncClient(address) as client:
        job = await client.submit(SPEC)
        assert (await client.wait(job.id)).state == job_pb2.JOB_STATE_COMPLETED
        assert [one.id async for one in client.list()] == [job.id]
        assert [event.type async for event in client.events(job.id)] == ["submitted", "completed"]
        assert (await client.explain(job.id)).summary
        assert (await client.plan(SPEC)).agent_id == "g1"
        assert (await client.preset("loudness")).document
        assert (await client.add_preset("text")).document == "text"
        assert [one.full_name for one in await client.presets()] == ["loudness_v1"]
        assert [one.full_name for one in await client.profiles()] == ["aac_192_v1"]
        assert (await client.profile("aac_192")).container == "mp4"
        assert (await client.add_profile("text")).full_name == "aac_192_v1"
        assert [one.id for one in await client.agents()] == ["g1"]
        assert (await client.agent("g1")).name == "box"
        assert (await client.drain_agent("g1", deadline_s=1)).HasField("drain_deadline")
        assert not (await client.resume_agent("g1")).drain_reason
        fake.agent.state = fleet_service_pb2.AGENT_STATE_LOST
        await client.remove_agent("g1")
        assert (await client.replay_job(job.id)).replay_of == job.id
        assert not (await client.retry_jobs({"queue": "q"})).job_ids
        assert (await client.hold_jobs({"ids": [job.id]})).refused[0].reason == Reason.JOB_ENDED
        assert (await client.release_jobs({"ids": [job.id]})).refused[0].reason == Reason.JOB_ENDED
        assert not (await client.get_queue()).queues
        assert not (await client.get_statistics(queue="night")).operations
        assert (await client.set_queue("news", weight=3)).name == "news"
        assert (await client.set_limit("global", 2)) is not None
        assert (await client.set_limit("global", None)) is None
        with pytest.raises(MediactlError) as caught:
            await client.get("nothing")
        assert caught.value.reason is Reason.JOB_NOT_FOUND
        slow = await client.submit(SLOW)
        with pytest.raises(WaitTimeout):
            await client.wait(slow.id, timeout_s=0.1)
        assert (await client.cancel(slow.id)).state == job_pb2.JOB_STATE_CANCELLED


async def test_asyncio_goes_on_at_another_controller(fake: FakeController, tmp_path: Path) -> None:
    """Calls and streams, as the blocking client."""
    other = FakeController(beside=fake)
    fake.break_streams_after = [1]
    with (
        served(fake, socket=tmp_path / "a.sock") as first,
        served(other, socket=tmp_path / "b.sock") as second,
    ):
        async with AsyncClient(f"unix:{tmp_path}/none.sock,{first},{second}") as client:
            job = await client.submit(SPEC)
            told = [update.event.cursor async for update in client.watch({"ids": [job.id]}) if update.event.cursor]
            assert told == [1, 2]
            assert (await client.wait(job.id)).id == job.id
        async with AsyncClient(f"unix:{tmp_path}/none.sock,unix:{tmp_path}/no.sock") as client:
            with pytest.raises(MediactlError, match="none of the 2"):
                await client.agents()
    assert [request.after_sequence for request in other.named("WatchJobs")] == [1]


async def test_asyncio_streams_survive_interruptions(address: str, fake: FakeController) -> None:
    """Events and lines come once."""
    async with AsyncClient(address) as client:
        job = await client.submit(SPEC)
        fake.break_streams_after = [1, 1]
        told = [update.event.cursor async for update in client.watch({"ids": [job.id]}) if update.event.cursor]
        assert told == [1, 2]
        assert [piece.sequence async for piece in client.logs(job.id)] == [1, 2, 3]


async def test_asyncio_channels_carry_the_token_on_two_way_streams(
    address: str, fake: FakeController, tmp_path: Path
) -> None:
    """The agents' stream carries the token, and both ways stay open while it is used."""
    token = tmp_path / "token"
    token.write_text("secret")
    async with aio_channel(address, Credentials(token_file=token)) as channel:
        stub: agent_service_pb2_grpc.AgentServiceAsyncStub = agent_service_pb2_grpc.AgentServiceStub(channel)
        sent: asyncio.Queue[str] = asyncio.Queue()

        async def frames() -> AsyncIterator[agent_service_pb2.SessionRequest]:
            while True:
                yield agent_service_pb2.SessionRequest(log=agent_service_pb2.LogChunk(attempt_id=await sent.get()))

        call = stub.Session(frames())
        answers = aiter(call)
        for name in ("a", "b"):
            await sent.put(name)
            assert (await anext(answers)).acknowledgement.attempt_id == name
        call.cancel()
    assert fake.metadata[0]["authorization"] == "Bearer secret"


async def test_asyncio_tokens_go_with_unary_calls_and_streams(
    address: str, fake: FakeController, tmp_path: Path
) -> None:
    """As the blocking client."""
    token = tmp_path / "token"
    token.write_text("secret")
    async with AsyncClient(address, credentials=Credentials(token_file=token)) as client:
        job = await client.submit(SPEC)
        assert [piece.sequence async for piece in client.logs(job.id)] == [1, 2, 3]
    assert {one["authorization"] for one in fake.metadata} == {"Bearer secret"}
