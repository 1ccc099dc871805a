"""A controller in this process: the real wire, invented answers.

Jobs of the preset `slow` stay PROCESSING until they are cancelled or `finish` is called; those of `broken` end DEAD;
those of `unknown` are refused; all others complete at once, except that held ones stay HELD and those after others
BLOCKED. No sleeps: watchers wait on a condition.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpc import aio

from mediactl.channel import SERVER_OPTIONS, Credentials, server_credentials, unix_bind_target
from mediactl.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    fleet_service_pb2_grpc,
    job_pb2,
    job_service_pb2_grpc,
    preset_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
)
from tests.fakes.fleet_service import FakeFleet
from tests.fakes.job_service import FakeJobs
from tests.fakes.preset_service import FakePresets


class FakeController(
    FakeJobs,
    FakePresets,
    FakeFleet,
    agent_service_pb2_grpc.AgentServiceServicer,
    queue_service_pb2_grpc.QueueServiceServicer,
):
    """The services, and the switches of the tests. Runs in a loop of its own thread (`served`).

    `beside` another one it has the same jobs, as controllers on one database do.
    """

    def __init__(self, beside: "FakeController | None" = None) -> None:
        super().__init__()
        if beside is not None:
            self.jobs, self.requests, self.events = beside.jobs, beside.requests, beside.events
        self.queue = queue_service_pb2.GetQueueResponse()
        self.statistics = queue_service_pb2.GetStatisticsResponse()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Serves until `stop`."""
        self._loop = asyncio.get_running_loop()
        # Both belong to a loop: another one where the fake is served again.
        self._changed, self._stop = asyncio.Condition(), asyncio.Event()
        await self._stop.wait()

    def stop(self) -> None:
        """Ends `run`. For use outside the loop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)

    def finish(self, job_id: str) -> None:
        """Completes a slow job. For use outside the loop."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._end(job_id, job_pb2.JOB_STATE_COMPLETED), self._loop).result(10)

    # QueueService

    async def GetQueue(
        self, request: queue_service_pb2.GetQueueRequest, context: Any
    ) -> queue_service_pb2.GetQueueResponse:
        await self._enter("GetQueue", request, context)
        return self.queue

    async def SetQueue(
        self, request: queue_service_pb2.SetQueueRequest, context: Any
    ) -> queue_service_pb2.SetQueueResponse:
        await self._enter("SetQueue", request, context)
        return queue_service_pb2.SetQueueResponse(
            queue=queue_service_pb2.Queue(tenant="default", name=request.name, weight=request.weight)
        )

    async def SetLimit(
        self, request: queue_service_pb2.SetLimitRequest, context: Any
    ) -> queue_service_pb2.SetLimitResponse:
        await self._enter("SetLimit", request, context)
        if not request.HasField("maximum"):
            return queue_service_pb2.SetLimitResponse()
        return queue_service_pb2.SetLimitResponse(
            limit=queue_service_pb2.Limit(key=request.key, maximum=request.maximum)
        )

    async def GetStatistics(
        self, request: queue_service_pb2.GetStatisticsRequest, context: Any
    ) -> queue_service_pb2.GetStatisticsResponse:
        await self._enter("GetStatistics", request, context)
        return self.statistics

    # AgentService: says every status back as an acknowledgement, to prove that a stream carries both ways.

    async def Session(
        self, request_iterator: AsyncIterator[agent_service_pb2.SessionRequest], context: Any
    ) -> AsyncIterator[agent_service_pb2.SessionResponse]:
        await self._enter("Session", None, context)
        async for request in request_iterator:
            yield agent_service_pb2.SessionResponse(
                acknowledgement=agent_service_pb2.Acknowledgement(attempt_id=request.log.attempt_id)
            )


async def _serving(
    fake: FakeController, listen: Sequence[str], credentials: Credentials, ready: "Future[list[int]]"
) -> None:
    server = aio.server(options=SERVER_OPTIONS)
    job_service_pb2_grpc.add_JobServiceServicer_to_server(fake, server)
    preset_service_pb2_grpc.add_PresetServiceServicer_to_server(fake, server)
    fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fake, server)
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(fake, server)
    queue_service_pb2_grpc.add_QueueServiceServicer_to_server(fake, server)
    tls = server_credentials(credentials)
    ports = [server.add_secure_port(address, tls) if tls else server.add_insecure_port(address) for address in listen]
    await server.start()
    asyncio.get_running_loop().call_soon(ready.set_result, ports)
    await fake.run()
    await server.stop(0)


@contextmanager
def served(fake: FakeController, *, socket: Path | None = None, tls: Credentials | None = None) -> Iterator[str]:
    """Serves on a unix socket, or on a free loopback port; gives the address."""
    ready: Future[list[int]] = Future()
    listen = [unix_bind_target(socket)] if socket else ["localhost:0"]

    def serve() -> None:
        try:
            asyncio.run(_serving(fake, listen, tls or Credentials(), ready))
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=serve, name="fake-controller")
    thread.start()
    try:
        ports = ready.result(10)
        yield f"unix:{socket}" if socket else f"localhost:{ports[0]}"
    finally:
        fake.stop()
        thread.join(10)
