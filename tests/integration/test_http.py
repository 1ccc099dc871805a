"""What machines read of a controller over HTTP, and how its gRPC calls are counted for them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf.message import Message
from prometheus_client.parser import text_string_to_metric_families

from controller import http
from controller.http import serving
from controller.metrics import Metrics
from controller.rpc.interceptors import Bearer, Errors, Measured
from controller.store.overview import Overview
from mediactl.errors import MediactlError
from mediactl.v1 import job_service_pb2 as pb
from mediactl.v1 import job_service_pb2_grpc
from presets.reasons import Reason


async def _nothing() -> Overview:
    return Overview(at_us=0)


async def _ready() -> str:
    return ""


@asynccontextmanager
async def _served(
    ready: Callable[[], Awaitable[str]] = _ready, metrics: Metrics | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        serving("127.0.0.1:0", metrics=metrics or Metrics(_nothing), ready=ready) as address,
        aiohttp.ClientSession(f"http://{address}") as session,
    ):
        yield session


async def test_metrics_are_served_as_prometheus_reads_them() -> None:
    """In the text format, or in OpenMetrics for who asks for it."""
    async with _served() as session:
        async with session.get("/metrics") as plain:
            assert plain.status == 200
            assert plain.headers["Content-Type"].startswith("text/plain; version=")
            assert "mediactl_build_info{" in await plain.text()
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        async with session.get("/metrics", headers=accept) as modern:
            assert modern.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await modern.text()).endswith("# EOF\n")


async def test_health_asks_nobody() -> None:
    """It is there as long as the event loop turns, ready or not."""

    async def away() -> str:
        raise OSError

    async with _served(away) as session, session.get("/healthz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")


async def test_ready_is_ready() -> None:
    """200 for load balancers."""
    async with _served() as session, session.get("/readyz") as answer:
        assert (answer.status, await answer.json()) == (200, {"ready": True})


async def test_not_ready_says_why() -> None:
    """Draining, a database that can't be reached, one that does not answer."""

    async def draining() -> str:
        return "draining"

    async def away() -> str:
        raise OSError

    for ready, reason in ((draining, "draining"), (away, "the database can't be reached (OSError)")):
        async with _served(ready) as session, session.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (503, {"ready": False, "reason": reason})


async def test_a_database_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes all the same."""

    async def hangs() -> str:
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(http, "READY_S", 0.05)
    async with _served(hangs) as session, session.get("/readyz") as answer:
        assert answer.status == 503
        assert "did not answer" in (await answer.json())["reason"]


async def test_other_paths_name_those_that_there_are() -> None:
    """And other methods than reading are refused."""
    async with _served() as session:
        async with session.get("/") as answer:
            assert answer.status == 404
            told = await answer.text()
            assert all(path in told for path in ("/metrics", "/healthz", "/readyz"))
        async with session.post("/metrics") as answer:
            assert answer.status == 405


async def test_an_address_in_use_is_told_in_words() -> None:
    """As is one that is none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MediactlError, match=f"127.0.0.1:{port}"):
            async with serving(f"127.0.0.1:{port}", metrics=Metrics(_nothing), ready=_ready):
                pass
    with pytest.raises(MediactlError, match="HOST:PORT"):
        async with serving("unix:/tmp/x", metrics=Metrics(_nothing), ready=_ready):
            pass


# Calls


class _Jobs(job_service_pb2_grpc.JobServiceServicer):
    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
        if request.job_id == "defect":
            raise ZeroDivisionError
        if request.job_id:
            raise MediactlError(Reason.JOB_NOT_FOUND, "no such job")
        return pb.GetJobResponse()

    async def WatchJobs(self, request: pb.WatchJobsRequest, context: Any) -> AsyncIterator[pb.WatchJobsResponse]:
        yield pb.WatchJobsResponse()
        if request.filter.queue == "missing":
            raise MediactlError(Reason.JOB_NOT_FOUND, "no such job")
        if request.filter.queue == "endless":
            await asyncio.Event().wait()


@asynccontextmanager
async def _grpc(metrics: Metrics, *first: grpc.aio.ServerInterceptor) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[Measured(metrics), *first, Errors()])
    job_service_pb2_grpc.add_JobServiceServicer_to_server(_Jobs(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


async def _counted(metrics: Metrics, name: str) -> dict[tuple[str, str], float]:
    body, _ = await metrics.exposition()
    return {
        (sample.labels["method"].rpartition("/")[2], sample.labels["code"]): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == name
    }


async def _until_counted(metrics: Metrics, method: str, code: str) -> None:
    for _ in range(1000):
        if (method, code) in await _counted(metrics, "mediactl_rpc_streams_total"):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"no call of {method} was counted as {code}")


async def test_calls_are_counted_by_method_and_code() -> None:
    """As the caller saw them: codes of refusals and of defects, too."""
    metrics = Metrics(_nothing)
    async with _grpc(metrics) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)
        await stub.GetJob(pb.GetJobRequest())
        for job_id in ("x", "y", "defect"):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetJob(pb.GetJobRequest(job_id=job_id))
    assert await _counted(metrics, "mediactl_rpc_seconds_count") == {
        ("GetJob", "OK"): 1,
        ("GetJob", "NOT_FOUND"): 2,
        ("GetJob", "INTERNAL"): 1,
    }


async def test_streams_are_counted_at_their_end() -> None:
    """Those that ended by themselves, with an error, and by the caller's leaving."""
    metrics = Metrics(_nothing)
    async with _grpc(metrics) as channel:
        stub = job_service_pb2_grpc.JobServiceStub(channel)

        def watch(queue: str) -> Any:
            request = pb.WatchJobsRequest()
            request.filter.queue = queue
            return stub.WatchJobs(request)

        assert len([response async for response in watch("")]) == 1
        with pytest.raises(grpc.aio.AioRpcError):
            [response async for response in watch("missing")]
        endless = watch("endless")
        await anext(aiter(endless))
        assert await _counted(metrics, "mediactl_rpc_streams_total") == {
            ("WatchJobs", "OK"): 1,
            ("WatchJobs", "NOT_FOUND"): 1,
        }
        endless.cancel()
        await _until_counted(metrics, "WatchJobs", "CANCELLED")


async def test_callers_without_a_token_are_counted_but_name_no_methods(tmp_path: Any) -> None:
    """A method that does not exist makes no series, whoever asks for it."""
    token = tmp_path / "token"
    token.write_text("secret-token-of-the-test\n")
    token.chmod(0o600)
    metrics = Metrics(_nothing)
    async with _grpc(metrics, Bearer(token)) as channel:
        for method in ("/mediactl.v1.JobService/GetJob", "/mediactl.v1.JobService/Nonsense", "/nonsense"):
            call = channel.unary_unary(method, Message.SerializeToString, lambda data: data)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(pb.GetJobRequest())
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await _counted(metrics, "mediactl_rpc_seconds_count") == {("GetJob", "UNAUTHENTICATED"): 1}
