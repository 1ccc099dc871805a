"""How long a store is waited for and how often it is asked again: configured here, for every driver."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from agent.storage.faults import Fault, Kind

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """``tries`` of one request in all, or of one piece of an object; times in seconds.

    The waits between them begin at ``first_wait_s``, double up to ``longest_wait_s`` and vary by chance. ``silence_s``
    without a byte from the server ends a try.
    """

    tries: int = 6
    first_wait_s: float = 0.2
    longest_wait_s: float = 10.0
    connect_s: float = 5.0
    silence_s: float = 20.0


async def patiently(patience: Patience, work: Callable[[], Awaitable[T]]) -> T:
    """What ``work`` gives, asked again while the store is :attr:`Kind.BUSY`.

    :raises Fault: of another kind, or the last one once the tries are used up.
    """
    import stamina  # noqa: PLC0415 - an idle agent needs none

    async for attempt in stamina.retry_context(
        on=lambda error: isinstance(error, Fault) and error.kind is Kind.BUSY,
        attempts=patience.tries,
        timeout=None,
        wait_initial=patience.first_wait_s,
        wait_max=patience.longest_wait_s,
        wait_jitter=patience.first_wait_s,
    ):
        with attempt:
            return await work()
    raise AssertionError  # the last attempt returns or raises
