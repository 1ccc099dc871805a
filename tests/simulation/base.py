"""The real store on a database in memory: commands in, one transaction at a time, no threads.

The database is made once in a process and emptied for every simulation.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from typing import Any
from unittest.mock import patch

from sqlalchemy import Connection, insert

from controller.store import tables
from controller.store.sqlite import SqliteDatabase
from controller.store.topics import DISPATCH
from controller.store.writer import Command, apply_group, begin, end
from tests.simulation.scheduler import Scheduler


class RolledBack(Exception):
    """The transaction was not committed, on purpose."""


@cache
def _connection() -> Connection:
    connection = SqliteDatabase(None).writer_engine().connect()
    with connection.begin():
        tables.metadata.create_all(connection)
    return connection


def empty_connection() -> Connection:
    """A database with tables and nothing in them but its incarnation."""
    connection = _connection()
    if connection.in_transaction():
        connection.rollback()
    with connection.begin():
        for table in reversed(tables.metadata.sorted_tables):
            connection.exec_driver_sql(f"DELETE FROM {table.name}")  # noqa: S608 - names of the schema
        connection.execute(insert(tables.meta).values(key="incarnation", value="simulated"))
    return connection


@contextmanager
def seeded_ids(dice: random.Random) -> Iterator[None]:
    """Ids that the die decides instead of the operating system."""
    with patch.object(secrets, "token_hex", lambda size: dice.randbytes(size).hex()):
        yield


class Base:
    """One database. `restart` is what the death of everybody who used it does."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.connection = empty_connection()
        self.commits = 0
        self._driver: Any = self.connection.connection.dbapi_connection
        self.restart()

    def restart(self) -> None:
        """Forget what processes remember of it."""
        self.database = SqliteDatabase(None, clock_us=self._scheduler.database_us)

    def transact(
        self, commands: Sequence[Command[Any]], *, follow_up: Command[Any] | None = None, roll_back: bool = False
    ) -> tuple[list[Any], set[str]]:
        """Apply commands as the writer does. Returns what each returned or raised, and the topics that changed.

        `follow_up` comes last, in the same transaction, if what was changed could allow a lease; it has a result more
        then. Raises RolledBack where told to.
        """
        results: list[Any] = []
        with self.connection.begin():
            tx = begin(self.database, self.connection)
            for _, group in groupby(commands, key=type):
                results += apply_group(tx, list(group))
            if follow_up is not None and DISPATCH in tx.changed:
                results += apply_group(tx, [follow_up])
                tx.changed.discard(DISPATCH)
            end(tx, "simulation")
            if roll_back:
                raise RolledBack
        self.commits += 1
        return results, tx.changed

    def any(self, *queries: str) -> bool:
        """Whether one of these finds something: commands that would find nothing need not be simulated."""
        return any(self._driver.execute(query).fetchone() for query in queries)

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """To read in."""
        with self.connection.begin():
            yield self.connection
