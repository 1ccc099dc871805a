"""What all invented services share: they remember who called what, and fail where a test says so."""

from typing import Any, NoReturn

from grpc_status import rpc_status

from mediactl.errors import MediactlError, status_of
from presets.problems import InvalidRequest, MediaFailure


async def refuse(context: Any, error: MediactlError | InvalidRequest | MediaFailure) -> NoReturn:
    """Ends a call with the error's rich status."""
    await context.abort_with_status(rpc_status.to_status(status_of(error)))
    raise AssertionError("abort raises")


class Calls:
    """Each method of a service begins with `_enter`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.failures: dict[str, list[MediactlError]] = {}

    def fail(self, method: str, *errors: MediactlError) -> None:
        """The next calls of `method` end so, one after another."""
        self.failures.setdefault(method, []).extend(errors)

    def named(self, method: str) -> list[Any]:
        """The requests that came for a method."""
        return [request for name, request in self.calls if name == method]

    async def _enter(self, method: str, request: Any, context: Any) -> None:
        self.calls.append((method, request))
        self.metadata.append(dict(context.invocation_metadata()))
        waiting = self.failures.get(method)
        if waiting:
            await refuse(context, waiting.pop(0))
