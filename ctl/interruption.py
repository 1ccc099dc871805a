"""Ctrl-C without harm.

Python raises KeyboardInterrupt wherever the main thread happens to be. Within gRPC that leaves locks and counts of
calls in disorder, and closing the channel then waits for ever. So what talks gRPC runs in a thread of its own, which
no signal reaches, while the main thread waits for its end or for a signal.
"""

import math
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from types import FrameType
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

_PATIENCE_S: Final = 20.0
_WAKE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class _Ended(Generic[_T]):
    value: _T | None = None
    error: BaseException | None = None


class _Signal:
    """Somebody pressed Ctrl-C or sent SIGTERM, which here mean the same."""


def interruptible(work: Callable[[], _T], interrupt: Callable[[], None]) -> _T:
    """The result of `work`.

    At the first signal `interrupt` is called, which must bring `work` to its end; when that has come, at a second
    signal or after 20 s, KeyboardInterrupt is raised. To be called in the main thread.
    """
    # put() is safe within a signal handler even where it interrupts get().
    messages: SimpleQueue[_Ended[_T] | _Signal] = SimpleQueue()

    def told(number: int, frame: FrameType | None) -> None:
        messages.put(_Signal())

    def run() -> None:
        try:
            messages.put(_Ended(work()))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            messages.put(_Ended(error=error))

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        Thread(target=run, name="work", daemon=True).start()
        first = _next(messages)
        if isinstance(first, _Ended):
            if first.error is not None:
                raise first.error
            return first.value  # type: ignore[return-value]  # without an error it is what work returned
        # In a thread too, so that a second signal finds the main thread waiting here.
        Thread(target=interrupt, name="interrupt", daemon=True).start()
        with suppress(Empty):
            _next(messages, time.monotonic() + _PATIENCE_S)
        raise KeyboardInterrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _next(messages: "SimpleQueue[_Ended[_T] | _Signal]", deadline: float = math.inf) -> "_Ended[_T] | _Signal":
    # A signal that another thread receives, or that comes just before this one blocks, does not wake it: Python
    # runs the handler only when the main thread is awake anyway.
    while True:
        try:
            return messages.get(timeout=_WAKE_S)
        except Empty:
            if time.monotonic() >= deadline:
                raise
