"""The store: commands in, one group-committed transaction at a time; queries beside it.

A command is a frozen dataclass with `apply(tx)`. The writer thread takes all that wait, runs each in a savepoint of
one transaction, commits, and only then replies. A caller that goes away does not take its command back.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

from controller.store.engine import reader_engine, writer_engine
from controller.store.topics import Topics

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")

BATCH = 256
READERS = 2


@dataclass(slots=True)
class Tx:
    """What a command may use: the connection inside its savepoint, the batch's time, the topics to wake."""

    connection: Connection
    now_us: int
    changed: set[str] = field(default_factory=set)
    events: list[Mapping[str, Any]] = field(default_factory=list)


class Command(Protocol[R_co]):
    """One write."""

    def apply(self, tx: Tx) -> R_co:
        """Do it. An exception undoes this command alone and is raised to its caller."""
        ...


@dataclass(slots=True)
class _Waiting:
    command: Command[Any]
    reply: asyncio.Future[Any]


class Store:
    """One SQLite database. `open` and `close` from the event loop that uses it."""

    def __init__(self, path: Path, *, clock_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._writer = writer_engine(path)
        self._reader = reader_engine(path, READERS)
        self.now_us = clock_us
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self.topics = Topics()
        self.on_event: Callable[[Mapping[str, Any]], None] = lambda event: None
        """Hears of every event after its commit, on the loop."""

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write, name="store-write", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Finish what is queued, then close the connections."""
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._readers.shutdown(wait=True)
        self._writer.dispose()
        self._reader.dispose()

    async def execute(self, command: Command[R]) -> R:
        """Apply a command durably; raises what it raised."""
        return await asyncio.shield(self.enqueue(command))

    def enqueue(self, command: Command[R]) -> asyncio.Future[R]:
        """Put a command in line at once: commands are applied in the order in which they were put there."""
        reply: asyncio.Future[R] = self._loop.create_future()
        # Nobody may be left to hear of an error: the caller can be gone.
        reply.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._queue.put(_Waiting(command, reply))
        return reply

    async def read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a query in one snapshot."""

        def run() -> R:
            with self._reader.begin() as connection:
                return query(connection, *args, **kwargs)

        return await self._loop.run_in_executor(self._readers, run)

    def _write(self) -> None:
        with self._writer.connect() as connection:
            stopping = False
            while not stopping:
                batch = []
                item = self._queue.get()
                while True:
                    if item is None:
                        stopping = True
                    else:
                        batch.append(item)
                    if stopping or len(batch) >= BATCH:
                        break
                    try:
                        item = self._queue.get_nowait()
                    except queue.Empty:
                        break
                if batch:
                    self._commit(connection, batch)

    def _commit(self, connection: Connection, batch: list[_Waiting]) -> None:
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        changed: set[str] = set()
        events: list[Mapping[str, Any]] = []
        try:
            with connection.begin():
                now_us = self.now_us()
                for item in batch:
                    tx = Tx(connection, now_us)
                    try:
                        with connection.begin_nested():
                            result = item.command.apply(tx)
                    except Exception as error:  # noqa: BLE001 - raised to the caller of the command
                        outcomes.append((item.reply, None, error))
                    else:
                        changed |= tx.changed
                        events += tx.events
                        outcomes.append((item.reply, result, None))
        except Exception as error:  # noqa: BLE001 - the commit failed: every caller hears of it
            outcomes = [(item.reply, None, error) for item in batch]
            changed, events = set(), []
            # Whatever state the transaction was left in, the next one begins on a fresh connection.
            connection.invalidate()
        self._loop.call_soon_threadsafe(self._reply, outcomes, changed, events)

    def _reply(
        self,
        outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]],
        changed: set[str],
        events: list[Mapping[str, Any]],
    ) -> None:
        for reply, result, error in outcomes:
            if reply.done():
                continue
            if error is None:
                reply.set_result(result)
            else:
                reply.set_exception(error)
        self.topics.publish(changed)
        for event in events:
            self.on_event(event)
