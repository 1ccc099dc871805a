"""The store: commands in, one group-committed transaction at a time; queries beside it.

A command is a frozen dataclass with `apply(tx)`. The writer thread takes all that wait, commits them together, each in
a savepoint of its own, and only then replies. Commands of one kind that stand together and know how (`apply_all`) are
applied as one, for the price of one. A caller that goes away does not take its command back.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

import structlog
from sqlalchemy import Connection

from controller.store.engine import Database, StoreUnavailable
from controller.store.sqlite import SqliteDatabase
from controller.store.topics import Topics

log = structlog.get_logger()

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")

BATCH = 256
"""Commands in one transaction at the most."""
WEIGHT = 20_000
"""Rows in one transaction at the most, as far as commands know: one that has more is alone."""
READERS = 2
TRIES = 6
"""How often a transaction that lost against another controller's is run."""


@dataclass(slots=True)
class Tx:
    """What a command may use: the connection inside its savepoint, time and tickets, the topics to wake."""

    connection: Connection
    database: Database
    now_us: int
    next_ticket: int
    changed: set[str] = field(default_factory=set)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    then: Callable[[], None] = lambda: None

    def ticket(self) -> int:
        """A number above all that were given before."""
        self.next_ticket += 1
        return self.next_ticket - 1

    def rows(self, sql: str, **values: Any) -> Sequence[Any]:
        """Rows of plain SQL with named columns."""
        return self.database.rows(self.connection, sql, values)

    @property
    def now_s(self) -> float:
        return self.now_us / 1e6


class Command(Protocol[R_co]):
    """One write."""

    def apply(self, tx: Tx) -> R_co:
        """Do it. An exception undoes this command alone and is raised to its caller."""
        ...


@runtime_checkable
class Mergeable(Protocol):
    """A command that can be applied together with others of its kind."""

    @property
    def weight(self) -> int:
        """About how many rows it writes."""
        ...

    @classmethod
    def apply_all(cls, tx: Tx, commands: Sequence[Any]) -> list[Any]:
        """What `apply` would return for each, or the exception it would raise, having written nothing for that one."""
        ...


@dataclass(frozen=True, slots=True)
class _Nothing:
    """Leaves no trace; that it is applied shows that the writer works."""

    def apply(self, tx: Tx) -> None:
        pass


@dataclass(slots=True)
class _Waiting:
    command: Command[Any]
    reply: asyncio.Future[Any]


_Outcome = tuple[asyncio.Future[Any], Any, BaseException | None]


class Store:
    """One database. `open` and `close` from the event loop that uses it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._writer = database.writer_engine()
        self._reader = database.reader_engine(READERS)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self._name = secrets.token_hex(8)
        self._stop_listening: Callable[[], None] = lambda: None
        self.topics = Topics()
        self.on_events: Callable[[Sequence[Mapping[str, Any]]], None] = lambda events: None
        """Hears of the events of every commit, on the loop."""
        self.follow_up: Callable[[Tx], Callable[[], None]] | None = None
        """What is done in each transaction after its commands, on the writer's thread; what it returns is done on the
        loop, once that is committed. Not where granting needs a transaction of its own."""
        self.on_commit: Callable[[int, float], None] = lambda commands, seconds: None
        """Hears of every commit: how many commands, how long the transaction took; on the writer's thread."""

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write, name="store-write", daemon=True)
        self._thread.start()
        self._stop_listening = self.database.listen(self._name, self._heard)

    async def close(self) -> None:
        """Finish what is queued, then close the connections."""
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._stop_listening)
        self._readers.shutdown(wait=True)
        self._writer.dispose()
        self._reader.dispose()

    async def execute(self, command: Command[R]) -> R:
        """Apply a command durably; raises what it raised, or StoreUnavailable."""
        return await asyncio.shield(self.enqueue(command))

    async def alive(self) -> None:
        """Return once the writer has answered. That the database is away is an answer."""
        with suppress(StoreUnavailable):
            await self.execute(_Nothing())

    def enqueue(self, command: Command[R]) -> asyncio.Future[R]:
        """Put a command in line at once: commands are applied in the order in which they were put there."""
        reply: asyncio.Future[R] = self._loop.create_future()
        # Nobody may be left to hear of an error: the caller can be gone.
        reply.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._queue.put(_Waiting(command, reply))
        return reply

    async def read(self, query: Callable[Concatenate[Connection, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a query in one snapshot. Raises StoreUnavailable."""

        def run() -> R:
            try:
                with self._reader.begin() as connection:
                    return query(connection, *args, **kwargs)
            except Exception as error:
                if self.database.is_unavailable(error):
                    raise StoreUnavailable from error
                raise

        return await self._loop.run_in_executor(self._readers, run)

    def _heard(self, topics: Collection[str] | None) -> None:
        def tell() -> None:
            if topics is None:
                self.topics.publish_all()
            else:
                self.topics.publish(topics)

        # A loop that has ended: nobody waits any more.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(tell)

    def _write(self) -> None:
        connection: Connection | None = None
        try:
            for batch in self._batches():
                begun = time.monotonic()
                try:
                    if connection is None:
                        connection = self._writer.connect()
                    outcomes, tx = self._commit(connection, batch)
                except Exception as error:  # noqa: BLE001 - the commit failed: every caller hears of it
                    away = self.database.is_unavailable(error)
                    told: Exception = StoreUnavailable() if away else error
                    if away:
                        log.warning("the database is unavailable", message=str(error.__cause__ or error).strip())
                    outcomes, tx = [(item.reply, None, told) for item in batch], None
                    # Whatever state the transaction was left in, the next one begins on a fresh connection.
                    if connection is not None:
                        connection.invalidate()
                        connection.close()
                        connection = None
                self.on_commit(len(batch), time.monotonic() - begun)
                self._loop.call_soon_threadsafe(self._reply, outcomes, tx)
        finally:
            if connection is not None:
                connection.close()

    def _batches(self) -> Iterator[list[_Waiting]]:
        """What waits, in order; what must be alone is."""
        held: _Waiting | None = None
        stopping = False
        while not stopping:
            item = held or self._queue.get()
            held = None
            batch: list[_Waiting] = []
            weight = 0
            while True:
                if item is None:
                    stopping = True
                    break
                heavy = item.command.weight if isinstance(item.command, Mergeable) else 1
                alone = self.database.grants_alone and getattr(item.command, "locks_scheduling", False)
                if batch and (alone or weight + heavy > WEIGHT):
                    held = item
                    break
                batch.append(item)
                weight += heavy
                if alone or len(batch) >= BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                yield batch

    def _commit(self, connection: Connection, batch: list[_Waiting]) -> tuple[list[_Outcome], Tx]:
        for tries_left in reversed(range(TRIES)):
            try:
                return self._transaction(connection, batch)
            except Exception as error:
                if not tries_left or not self.database.is_conflict(error):
                    raise
        raise AssertionError("the last try raises or returns")

    def _transaction(self, connection: Connection, batch: list[_Waiting]) -> tuple[list[_Outcome], Tx]:
        outcomes: list[_Outcome] = []
        with connection.begin():
            tx = begin(self.database, connection)
            for _, group in groupby(batch, key=lambda item: type(item.command)):
                items = list(group)
                results = apply_group(tx, [item.command for item in items])
                for item, result in zip(items, results, strict=True):
                    if isinstance(result, Exception):
                        outcomes.append((item.reply, None, result))
                    else:
                        outcomes.append((item.reply, result, None))
            if self.follow_up is not None and not self.database.grants_alone:
                tx.then = self._followed_up(tx, self.follow_up)
            end(tx, self._name)
        return outcomes, tx

    def _followed_up(self, tx: Tx, follow_up: Callable[[Tx], Callable[[], None]]) -> Callable[[], None]:
        try:
            return _in_savepoint(tx, follow_up)
        except Exception as error:
            if _of_the_transaction(tx, error):
                raise
            log.error("what follows the commands failed", exc_info=error)
            return tx.then

    def _reply(self, outcomes: list[_Outcome], tx: Tx | None) -> None:
        for reply, result, error in outcomes:
            if reply.done():
                continue
            if error is None:
                reply.set_result(result)
            else:
                reply.set_exception(error)
        if tx is not None:
            tx.then()
            self.topics.publish(tx.changed)
            if tx.events:
                self.on_events(tx.events)


def begin(database: Database, connection: Connection) -> Tx:
    """What commands work with, at the beginning of a transaction."""
    stamp = database.begin(connection)
    return Tx(connection, database, stamp.now_us, stamp.first_ticket)


def end(tx: Tx, sender: str) -> None:
    """The last thing before a commit."""
    if isinstance(tx.database, SqliteDatabase):
        tx.database.used(tx.next_ticket)
    if tx.changed:
        tx.database.notify(tx.connection, sender, tx.changed)


def apply_group(tx: Tx, commands: Sequence[Command[Any]]) -> list[Any]:
    """Apply commands of one kind; the result of each, or its exception, having undone that one alone."""
    if len(commands) > 1 and isinstance(commands[0], Mergeable):
        try:
            return _in_savepoint(tx, lambda inner: type(commands[0]).apply_all(inner, commands))  # type: ignore[attr-defined] # it is Mergeable
        except Exception as error:
            if _of_the_transaction(tx, error):
                raise
            # One of them is to blame: it alone is to fail.
            if len(commands) > 1:
                log.warning("commands are applied one by one", kind=type(commands[0]).__name__, exc_info=error)
    results: list[Any] = []
    for command in commands:
        try:
            results.append(_in_savepoint(tx, command.apply))
        except Exception as error:
            if _of_the_transaction(tx, error):
                raise
            results.append(error)
    return results


def _of_the_transaction(tx: Tx, error: Exception) -> bool:
    return tx.database.is_conflict(error) or tx.database.is_unavailable(error)


def _in_savepoint(tx: Tx, apply: Callable[[Tx], R]) -> R:
    inner = Tx(tx.connection, tx.database, tx.now_us, tx.next_ticket, changed=set(tx.changed))
    execute = partial(tx.database.execute, tx.connection)
    execute("SAVEPOINT command")
    try:
        result = apply(inner)
    except BaseException:
        execute("ROLLBACK TO SAVEPOINT command")
        raise
    else:
        execute("RELEASE SAVEPOINT command")
    finally:
        # Tickets are never given twice, not even those of what was undone.
        tx.next_ticket = inner.next_ticket
    tx.changed = inner.changed
    tx.events += inner.events
    return result
