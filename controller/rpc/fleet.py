"""FleetService."""

from __future__ import annotations

from typing import Any

import grpc

from controller.core.liveness import Timers
from controller.rpc import messages
from controller.sessions import Sessions
from controller.store import queries
from controller.store.draining import DrainAgent, ResumeAgent
from controller.store.fleet import RemoveAgent
from controller.store.queries import Record
from controller.store.tables import AgentId
from controller.store.writer import Store
from mediactl.errors import MediactlError
from mediactl.v1 import fleet_service_pb2 as pb
from mediactl.v1 import fleet_service_pb2_grpc
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

LONGEST_DEADLINE_S = 10 * 365 * 86_400

_Context = grpc.aio.ServicerContext[Any, Any]


class FleetServicer(fleet_service_pb2_grpc.FleetServiceServicer):
    """Reads the fleet, and says who takes no new work."""

    def __init__(self, store: Store, sessions: Sessions, timers: Timers) -> None:
        self._store = store
        self._sessions = sessions
        self._timers = timers

    async def _agents(self) -> list[pb.Agent]:
        rows = await self._store.read(queries.list_agents)
        held = await self._store.read(queries.holdings)
        now_us = await self._store.read(self._store.database.now_us)
        return [self._agent(row, held.get(row.id, []), now_us) for row in rows]

    def _agent(self, row: Record, held: list[str], now_us: int) -> pb.Agent:
        session = self._sessions.get(row.id)
        silent_s = session.silent_s if session else max(0, now_us - row.last_seen_us) / 1e6
        if session is None and not self._store.database.grants_alone:
            # No other controller has its stream, and without one it gets no work, however recently it was heard of.
            silent_s = max(silent_s, self._timers.unreachable_s)
        objection = self._sessions.objection(row.id, row.drain_reason)
        agent = messages.agent(row, held=held, silent_s=silent_s, timers=self._timers, objection=objection)
        if session is not None and session.exchange.status.HasField("cache"):
            agent.cache.CopyFrom(session.exchange.status.cache)
        return agent

    async def _find(self, agent_id: str) -> pb.Agent:
        agents = await self._agents()
        exact = [agent for agent in agents if agent_id in (agent.id, agent.name)]
        found = exact or [agent for agent in agents if agent_id and agent.id.startswith(agent_id)]
        if not found:
            raise MediactlError(
                Reason.AGENT_NOT_FOUND, f"no agent has the id or name {agent_id!r}; `mediactl agents list` shows them"
            )
        if len(found) > 1:
            raise InvalidRequest(
                Problem(Reason.INVALID_ARGUMENT, "agent_id", "several agents are meant by this; give a whole id")
            )
        return found[0]

    async def ListAgents(self, request: pb.ListAgentsRequest, context: _Context) -> pb.ListAgentsResponse:
        return pb.ListAgentsResponse(agents=await self._agents())

    async def GetAgent(self, request: pb.GetAgentRequest, context: _Context) -> pb.GetAgentResponse:
        return pb.GetAgentResponse(agent=await self._find(request.agent_id))

    async def DrainAgent(self, request: pb.DrainAgentRequest, context: _Context) -> pb.DrainAgentResponse:
        within_us = _within_us(request)
        agent = await self._find(request.agent_id)
        await self._store.execute(DrainAgent(AgentId(agent.id), within_us))
        return pb.DrainAgentResponse(agent=await self._find(agent.id))

    async def ResumeAgent(self, request: pb.ResumeAgentRequest, context: _Context) -> pb.ResumeAgentResponse:
        agent = await self._find(request.agent_id)
        await self._store.execute(ResumeAgent(AgentId(agent.id)))
        return pb.ResumeAgentResponse(agent=await self._find(agent.id))

    async def RemoveAgent(self, request: pb.RemoveAgentRequest, context: _Context) -> pb.RemoveAgentResponse:
        agent = await self._find(request.agent_id)
        await self._store.execute(RemoveAgent(AgentId(agent.id)))
        return pb.RemoveAgentResponse()


def _within_us(request: pb.DrainAgentRequest) -> int | None:
    if not request.HasField("deadline"):
        return None
    deadline = request.deadline
    if not 0 <= deadline.seconds <= LONGEST_DEADLINE_S or not 0 <= deadline.nanos < 1_000_000_000:
        raise InvalidRequest(
            Problem(Reason.INVALID_ARGUMENT, "deadline", f"expected from 0 to {LONGEST_DEADLINE_S} seconds from now")
        )
    return deadline.ToMicroseconds()
