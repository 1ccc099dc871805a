"""FleetService."""

from __future__ import annotations

from typing import Any

import grpc

from controller.core.liveness import Timers
from controller.rpc import messages
from controller.sessions import Sessions
from controller.store import queries
from controller.store.queries import Record
from controller.store.writer import Store
from mediactl.errors import MediactlError
from mediactl.v1 import fleet_service_pb2 as pb
from mediactl.v1 import fleet_service_pb2_grpc
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

_Context = grpc.aio.ServicerContext[Any, Any]


class FleetServicer(fleet_service_pb2_grpc.FleetServiceServicer):
    """Reads the fleet."""

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
        if session is None:
            # Without a stream it gets no work, however recently it was heard of.
            silent_s = max(silent_s, self._timers.unreachable_s)
        draining = session.exchange.status.draining if session else False
        return messages.agent(row, held=held, silent_s=silent_s, timers=self._timers, draining=draining)

    async def ListAgents(self, request: pb.ListAgentsRequest, context: _Context) -> pb.ListAgentsResponse:
        return pb.ListAgentsResponse(agents=await self._agents())

    async def GetAgent(self, request: pb.GetAgentRequest, context: _Context) -> pb.GetAgentResponse:
        agents = await self._agents()
        exact = [agent for agent in agents if request.agent_id in (agent.id, agent.name)]
        found = exact or [agent for agent in agents if request.agent_id and agent.id.startswith(request.agent_id)]
        if not found:
            raise MediactlError(
                Reason.AGENT_NOT_FOUND, "no agent has this id or name; `mediactl agents list` shows them"
            )
        if len(found) > 1:
            raise InvalidRequest(
                Problem(Reason.INVALID_ARGUMENT, "agent_id", "several agents are meant by this; give a whole id")
            )
        return pb.GetAgentResponse(agent=found[0])
