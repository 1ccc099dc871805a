"""What holds for every RPC: errors become rich statuses, the token is checked, calls are counted and measured."""

from __future__ import annotations

import asyncio
import hmac
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf import descriptor_pool
from grpc_status import rpc_status

from controller.core.states import IllegalTransition
from controller.metrics import Metrics
from controller.store.attempts import EpochSuperseded
from controller.store.cancelling import JobEnded
from controller.store.catalog_documents import DocumentConflict
from controller.store.draining import AgentUnknown
from controller.store.engine import StoreUnavailable
from controller.store.fleet import AgentIdConflict, AgentNotLost
from controller.store.queries import JobAmbiguous, JobNotFound
from controller.store.replaying import NeverRead
from controller.store.submission import RequestIdReused
from controller.store.topics import TopicsClosed
from mediactl.channel import read_token
from mediactl.errors import MediactlError, status_of
from presets.problems import InvalidRequest, MediaFailure, Problem
from presets.reasons import Reason

log = structlog.get_logger()

_OPEN_SERVICES = ("/grpc.health.v1.Health/",)
_AGENT_SERVICE = "/mediactl.v1.AgentService/"


def translate(error: Exception) -> MediactlError | InvalidRequest | MediaFailure:
    """What a caller is told. Whatever is not known here is a defect: logged in full, told in brief."""
    match error:
        case MediactlError() | InvalidRequest() | MediaFailure():
            return error
        case JobNotFound():
            return MediactlError(Reason.JOB_NOT_FOUND, "no job has this id; `mediactl jobs list` shows them")
        case JobAmbiguous():
            return InvalidRequest(
                Problem(Reason.INVALID_ARGUMENT, "job_id", "several jobs begin with this; give more of the id")
            )
        case JobEnded(state=state):
            return MediactlError(Reason.JOB_ENDED, f"the job is {state} already; there is nothing to cancel")
        case RequestIdReused():
            return InvalidRequest(
                Problem(
                    Reason.REQUEST_ID_REUSED,
                    "request_id",
                    "another request was made under this id; choose a new one for other jobs",
                )
            )
        case DocumentConflict():
            return InvalidRequest(
                Problem(
                    Reason.PRESET_CONFLICT,
                    "document",
                    "another document has this name and version; raise its version to change it",
                )
            )
        case AgentIdConflict(name=name, silent_s=silent_s):
            return MediactlError(
                Reason.AGENT_ID_CONFLICT,
                f"another machine ({name}, heard of {silent_s:.0f} s ago) uses this agent id. If this one is a copy, "
                "stop this agent, delete the file agent-id in its data directory and start it again; if it replaces "
                "it, stop the other one, and this one is let in once that is LOST",
            )
        case AgentUnknown():
            return MediactlError(Reason.AGENT_NOT_FOUND, "the agent was removed meanwhile")
        case AgentNotLost(name=name):
            return MediactlError(
                Reason.AGENT_NOT_LOST,
                f"agent {name} is not LOST, so it may hold work: drain it, stop it, and remove it once it is shown "
                "as LOST",
            )
        case NeverRead():
            return MediactlError(
                Reason.JOB_NOT_STARTED, "no attempt of the job got so far as to read its inputs: submit it anew"
            )
        case StoreUnavailable():
            return MediactlError(
                Reason.STORE_UNAVAILABLE, "the controller can't reach its database just now; try again"
            )
        case TopicsClosed():
            return MediactlError(Reason.CONTROLLER_STOPPING, "the controller is stopping")
        case EpochSuperseded():
            return MediactlError(Reason.EPOCH_SUPERSEDED, "a newer session of this agent took over")
        case IllegalTransition():
            return MediactlError(Reason.INTERNAL, str(error))
        case _:
            log.error("defect", exc_info=error)
            return MediactlError(Reason.INTERNAL, "an unexpected error; the controller's log has the details")


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> NoReturn:
    await context.abort_with_status(rpc_status.to_status(status_of(translate(error))))
    raise AssertionError("abort returns never")


_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"


def wrapped(
    handler: _Handler,
    *,
    unary: Callable[[Callable[..., Awaitable[Any]], Any, Any], Awaitable[Any]],
    stream: Callable[[Callable[..., AsyncIterator[Any]], Any, Any], AsyncIterator[Any]],
) -> _Handler:
    """The handler with `unary` or `stream` around its behaviour; they get (behaviour, request, context)."""
    if handler.response_streaming:
        behaviour: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def streaming(request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in stream(behaviour, request, context):
                yield response

        async def writing(request: Any, context: Any) -> None:
            async def none(request: Any, context: Any) -> AsyncIterator[Any]:
                await behaviour(request, context)
                nothing: tuple[Any, ...] = ()
                for response in nothing:
                    yield response

            async for _ in stream(none, request, context):
                pass

        make: Any = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        # A behaviour of the other kind writes its responses to the context, as Watch of the health service does.
        inner: Any = streaming if inspect.isasyncgenfunction(behaviour) else writing
    else:
        behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def single(request: Any, context: Any) -> Any:
            return await unary(behaviour, request, context)

        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        inner = single
    made: _Handler = make(inner, handler.request_deserializer, handler.response_serializer)
    return made


class Errors(grpc.aio.ServerInterceptor):
    """Any exception of a servicer ends the call with its code and ErrorInfo."""

    async def intercept_service(self, continuation: _Continuation, details: grpc.HandlerCallDetails) -> _Handler | None:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/mediactl."):
            return handler

        async def unary(behaviour: Callable[..., Awaitable[Any]], request: Any, context: Any) -> Any:
            try:
                return await behaviour(request, context)
            except Exception as error:  # noqa: BLE001 - the one place where exceptions become statuses
                await _abort(context, error)

        async def stream(
            behaviour: Callable[..., AsyncIterator[Any]], request: Any, context: Any
        ) -> AsyncIterator[Any]:
            try:
                async for response in behaviour(request, context):
                    yield response
            except Exception as error:  # noqa: BLE001 - the one place where exceptions become statuses
                await _abort(context, error)

        return wrapped(handler, unary=unary, stream=stream)


class Bearer(grpc.aio.ServerInterceptor):
    """Every call but health checks must bring the token. The file is read anew, so that it can be changed."""

    def __init__(self, token_file: Path) -> None:
        self._token_file = token_file

    async def intercept_service(self, continuation: _Continuation, details: grpc.HandlerCallDetails) -> _Handler | None:
        if not details.method.startswith(_OPEN_SERVICES):
            try:
                allowed = self._allowed(details)
            except MediactlError as unreadable:
                log.error("the token file can't be used", message=unreadable.message)
                return _refusal(MediactlError(Reason.UNAUTHENTICATED, "the controller can't read its own token file"))
            if not allowed:
                return _refusal(MediactlError(Reason.UNAUTHENTICATED, "the bearer token is missing or wrong"))
        return await continuation(details)

    def _allowed(self, details: grpc.HandlerCallDetails) -> bool:
        wanted = f"Bearer {read_token(self._token_file)}".encode()
        for key, value in details.invocation_metadata:
            if key == "authorization":
                given = value if isinstance(value, bytes) else value.encode()
                return hmac.compare_digest(given, wanted)
        return False


def _refusal(error: MediactlError) -> _Handler:
    async def refuse(_request: Any, context: Any) -> Any:
        await _abort(context, error)

    handler: _Handler = grpc.unary_unary_rpc_method_handler(refuse)
    return handler


class Presence(grpc.aio.ServerInterceptor):
    """Counts the open calls of clients, agents aside, so that an embedded box knows when nobody needs it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open = 0
        self._last = clock()
        self.seen = False

    @property
    def absent_s(self) -> float:
        """Seconds since the last client's call ended; 0 while one is open."""
        return 0.0 if self._open else self._clock() - self._last

    async def intercept_service(self, continuation: _Continuation, details: grpc.HandlerCallDetails) -> _Handler | None:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/mediactl.") or details.method.startswith(_AGENT_SERVICE):
            return handler

        async def unary(behaviour: Callable[..., Awaitable[Any]], request: Any, context: Any) -> Any:
            self._enter()
            try:
                return await behaviour(request, context)
            finally:
                self._leave()

        async def stream(
            behaviour: Callable[..., AsyncIterator[Any]], request: Any, context: Any
        ) -> AsyncIterator[Any]:
            self._enter()
            try:
                async for response in behaviour(request, context):
                    yield response
            finally:
                self._leave()

        return wrapped(handler, unary=unary, stream=stream)

    def _enter(self) -> None:
        self._open += 1
        self.seen = True

    def _leave(self) -> None:
        self._open -= 1
        self._last = self._clock()


class Measured(grpc.aio.ServerInterceptor):
    """Tells the metrics of every call of a method that exists, at its end. To stand first, before those that refuse."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.perf_counter) -> None:
        self._metrics = metrics
        self._clock = clock
        self._known: set[str] = set()

    async def intercept_service(self, continuation: _Continuation, details: grpc.HandlerCallDetails) -> _Handler | None:
        handler = await continuation(details)
        if handler is None or not self._exists(details.method):
            return handler
        method = details.method.removeprefix("/")

        async def unary(behaviour: Callable[..., Awaitable[Any]], request: Any, context: Any) -> Any:
            begun = self._clock()
            code = grpc.StatusCode.OK
            try:
                return await behaviour(request, context)
            except BaseException as error:
                code = _code(error, context)
                raise
            finally:
                self._metrics.rpc(method, code.name, self._clock() - begun)

        async def stream(
            behaviour: Callable[..., AsyncIterator[Any]], request: Any, context: Any
        ) -> AsyncIterator[Any]:
            code = grpc.StatusCode.OK
            self._metrics.stream_opened(method)
            try:
                async for response in behaviour(request, context):
                    yield response
            except BaseException as error:
                code = _code(error, context)
                raise
            finally:
                self._metrics.stream_ended(method, code.name)

        return wrapped(handler, unary=unary, stream=stream)

    def _exists(self, method: str) -> bool:
        if method in self._known:
            return True
        try:
            descriptor_pool.Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
        except KeyError:
            # Refused before anybody looked whether there is such a method; its name is the caller's invention.
            return False
        self._known.add(method)
        return True


def _code(error: BaseException, context: Any) -> grpc.StatusCode:
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return grpc.StatusCode.CANCELLED
    told = context.code()
    # The C core speaks in numbers; 0 stands where nobody set one.
    for code in grpc.StatusCode:
        if told in (code, code.value[0]) and code is not grpc.StatusCode.OK:
            return code
    return grpc.StatusCode.UNKNOWN
