"""What a stranger with a standard gRPC tool sees: health, reflection, and `buf curl` through it."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from controller.server import SERVICES
from tests.fakes.running import controller

SPEC = {
    "inputs": [{"uri": "file:///media/talk.wav"}],
    "preset": "loudness_podcast",
    "outputs": [{"uri": "file:///media/out/"}],
}

_BUF = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
needs_buf = pytest.mark.skipif(_BUF is None, reason="the buf command is not installed")


async def test_every_service_is_serving(tmp_path: Path) -> None:
    """Health answers for the whole, for each service, and not for others; it can be watched."""
    async with controller(tmp_path) as box:
        health: Any = health_pb2_grpc.HealthStub(box.channel)
        for name in ("", *SERVICES):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, name


async def test_reflection_lists_the_services(tmp_path: Path) -> None:
    """Ours, health and reflection itself."""
    async with controller(tmp_path) as box:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(box.channel)  # type: ignore[arg-type] # typed for the blocking API only
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        assert {service.name for service in answer.list_services_response.service} == {
            "mediactl.v1.JobService",
            "mediactl.v1.PresetService",
            "mediactl.v1.FleetService",
            "mediactl.v1.QueueService",
            "mediactl.v1.AgentService",
            "mediactl.v1.TransferService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        call.cancel()


async def _buf_curl(address: str, *arguments: str) -> tuple[int, str, str]:
    """`buf curl` over TCP, knowing nothing but the address: (status, stdout, stderr)."""
    assert _BUF is not None
    process = await asyncio.create_subprocess_exec(
        *(_BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge"),
        *arguments[:-1],
        f"http://{address}/{arguments[-1]}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode is not None
    return process.returncode, stdout.decode(), stderr.decode()


async def _call(address: str, method: str, request: dict[str, Any]) -> dict[str, Any]:
    code, stdout, stderr = await _buf_curl(address, "--data", json.dumps(request), f"mediactl.v1.JobService/{method}")
    assert code == 0, stderr
    answer: dict[str, Any] = json.loads(stdout)
    return answer


@needs_buf
async def test_buf_curl_submits_and_gets_a_job(tmp_path: Path) -> None:
    """Any gRPC client can, through reflection and the protobuf JSON of the API."""
    async with controller(tmp_path, listen="127.0.0.1:0") as box:
        [job] = (await _call(box.address, "SubmitJobs", {"jobs": [SPEC], "requestId": "r"}))["jobs"]
        assert job["state"] == "JOB_STATE_PENDING"
        got = (await _call(box.address, "GetJob", {"jobId": job["id"]}))["job"]
        assert [task.pop("id") for task in got["tasks"]] == [f"{job['id']}-1"]
        assert got.pop("tasks") == [{"name": "main", "kind": "transform", "state": "PENDING"}]
        assert got == job
        assert (await box.client.get(job["id"])).preset == job["preset"] == "loudness_podcast_v1"


@needs_buf
async def test_buf_curl_lists_methods_and_shows_errors(tmp_path: Path) -> None:
    """Every RPC of JobService is there; a refusal has the canonical code, the reason and the field."""
    async with controller(tmp_path, listen="127.0.0.1:0") as box:
        code, stdout, stderr = await _buf_curl(box.address, "--list-methods", "")
        assert code == 0, stderr
        methods = {line.rpartition("/")[2] for line in stdout.split() if "JobService" in line}
        assert {"SubmitJobs", "GetJob", "ListJobs", "CancelJob", "WatchJobs", "StreamLogs", "PlanJob"} <= methods
        bad = json.dumps({"jobs": [{**SPEC, "preset": "nothing"}]})
        code, _, stderr = await _buf_curl(box.address, "--data", bad, "mediactl.v1.JobService/SubmitJobs")
        assert code != 0
        refused = json.loads(stderr)
        assert refused["code"] == "not_found"
        assert "jobs[0].preset" in refused["message"]
        kinds = {detail["type"] for detail in refused["details"]}
        assert kinds == {"google.rpc.ErrorInfo", "google.rpc.BadRequest"}
