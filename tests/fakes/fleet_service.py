"""FleetService with invented answers."""

from typing import Any

from mediactl.errors import MediactlError
from mediactl.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from presets.reasons import Reason
from tests.fakes.calls import Calls, refuse


class FakeFleet(Calls, fleet_service_pb2_grpc.FleetServiceServicer):
    """Of one agent."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = self._agent()
        self.keeps_ready = False
        """Somebody resumes the agent as soon as it is drained."""

    async def ListAgents(
        self, request: fleet_service_pb2.ListAgentsRequest, context: Any
    ) -> fleet_service_pb2.ListAgentsResponse:
        await self._enter("ListAgents", request, context)
        return fleet_service_pb2.ListAgentsResponse(agents=[self.agent])

    async def GetAgent(
        self, request: fleet_service_pb2.GetAgentRequest, context: Any
    ) -> fleet_service_pb2.GetAgentResponse:
        await self._enter("GetAgent", request, context)
        await self._known(request.agent_id, context)
        if self.agent.attempt_ids:
            # It finishes one of them whenever somebody looks.
            self.agent.attempt_ids.pop()
        return fleet_service_pb2.GetAgentResponse(agent=self.agent)

    async def DrainAgent(
        self, request: fleet_service_pb2.DrainAgentRequest, context: Any
    ) -> fleet_service_pb2.DrainAgentResponse:
        await self._enter("DrainAgent", request, context)
        await self._known(request.agent_id, context)
        if not self.keeps_ready:
            self.agent.state = fleet_service_pb2.AGENT_STATE_DRAINING
        self.agent.drain_reason = "a person asked for it"
        self.agent.ClearField("drain_deadline")
        if request.HasField("deadline"):
            self.agent.drain_deadline.GetCurrentTime()
        return fleet_service_pb2.DrainAgentResponse(agent=self.agent)

    async def ResumeAgent(
        self, request: fleet_service_pb2.ResumeAgentRequest, context: Any
    ) -> fleet_service_pb2.ResumeAgentResponse:
        await self._enter("ResumeAgent", request, context)
        await self._known(request.agent_id, context)
        self.agent.state = fleet_service_pb2.AGENT_STATE_READY
        self.agent.drain_reason = ""
        self.agent.ClearField("drain_deadline")
        return fleet_service_pb2.ResumeAgentResponse(agent=self.agent)

    async def RemoveAgent(
        self, request: fleet_service_pb2.RemoveAgentRequest, context: Any
    ) -> fleet_service_pb2.RemoveAgentResponse:
        await self._enter("RemoveAgent", request, context)
        if self.agent.state != fleet_service_pb2.AGENT_STATE_LOST:
            await refuse(context, MediactlError(Reason.AGENT_NOT_LOST, "it is not LOST"))
        return fleet_service_pb2.RemoveAgentResponse()

    async def _known(self, agent_id: str, context: Any) -> None:
        if agent_id not in {"g1", "box"}:
            await refuse(context, MediactlError(Reason.AGENT_NOT_FOUND, "there is no such agent"))

    def _agent(self) -> fleet_service_pb2.Agent:
        return fleet_service_pb2.Agent(
            id="g1",
            name="box",
            state=fleet_service_pb2.AGENT_STATE_READY,
            capabilities=fleet_service_pb2.Capabilities(
                cores=2,
                max_tasks=2,
                binaries=[
                    fleet_service_pb2.FfmpegBinary(
                        path="/usr/bin/ffmpeg",
                        version="5.1.9",
                        capabilities=["encoder:aac"],
                        trials=[fleet_service_pb2.Trial(encoder="h264_nvenc", message="Cannot load libcuda.so.1")],
                    )
                ],
                gpu_message="no NVIDIA driver",
            ),
        )
