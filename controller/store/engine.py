"""What the two engines share and where they differ: `Database` is the whole of the difference.

Rows are written in bulk by statements made from the tables; `insert` and `update` take many rows at the price of one
statement. Tickets number what is read in the order of its commit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, NewType, TypeAlias

from sqlalchemy import Connection, Engine, Row, Table
from sqlalchemy.exc import DBAPIError

from controller.core.fitting import Offer
from controller.core.lanes import LaneFacts

Clock = Callable[[], int]
"""Microseconds since the epoch."""

Url = NewType("Url", str)
NOTHING: Mapping[str, Any] = MappingProxyType({})

AnyRow: TypeAlias = "Row[*tuple[Any, ...]]"
"""A row as a query returns it; what is in it the query says."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a transaction begins with."""

    now_us: int
    first_ticket: int


class StoreUnavailable(Exception):
    """The database can't be reached just now. What was asked for may or may not have been done."""


class Database(ABC):
    """One engine. `clock_us` is for tests; without it SQLite takes the machine's clock and PostgreSQL its own."""

    def __init__(self, url: Url) -> None:
        self.url = url
        self.lanes: dict[str, LaneFacts] = {}
        """Lanes that were read before, by key."""
        self.texts: dict[str, str] = {}
        """Texts that were read before, by digest."""
        self.absent: dict[tuple[str, str], Offer] = {}
        """Agents that were not offered when last looked at, by id and revision."""

    grants_alone: bool
    """Whether granting needs a transaction of its own, because other controllers wait for its lock."""
    for_update: str
    """Suffix of a SELECT that locks what it finds."""
    skip_locked: str
    """Suffix of a SELECT that locks what it finds and leaves out what others have locked."""

    @abstractmethod
    def writer_engine(self) -> Engine:
        """One connection, whose transactions are durable when committed."""

    @abstractmethod
    def reader_engine(self, connections: int) -> Engine:
        """Read-only snapshots, each of one transaction."""

    @abstractmethod
    def begin(self, connection: Connection) -> Stamp:
        """Take time and tickets for the writing transaction that has just begun."""

    @abstractmethod
    def now_us(self, connection: Connection) -> int:
        """The time that all controllers agree on."""

    @abstractmethod
    def horizon(self, connection: Connection) -> int:
        """A ticket below which nothing can be committed any more that a reader doesn't see already."""

    @abstractmethod
    def any_of(self, column: str, name: str, values: Collection[str]) -> tuple[str, dict[str, Any]]:
        """SQL for "column is one of these values" whose text does not depend on how many there are."""

    @abstractmethod
    def lock_writing(self, connection: Connection) -> None:
        """Be the only one who writes until the transaction ends, and see what all others wrote. Before other locks."""

    @abstractmethod
    def lock_scheduling(self, connection: Connection) -> None:
        """Be the only one who grants until the transaction ends."""

    @abstractmethod
    def insert(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, if_new: bool = False
    ) -> None:
        """Insert rows that all have the same columns; with `if_new`, those that conflict are left out."""

    @abstractmethod
    def update(
        self, connection: Connection, table: Table, keys: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Update rows that all have the same columns, `keys` among them."""

    @abstractmethod
    def notify(self, connection: Connection, sender: str, topics: Iterable[str]) -> None:
        """Tell other controllers what changed, when this transaction commits."""

    @abstractmethod
    def listen(self, sender: str, heard: Callable[[Collection[str] | None], None]) -> Callable[[], None]:
        """Hear what other controllers changed, on a thread of its own; None: anything. Returns what ends it."""

    @abstractmethod
    def is_conflict(self, error: BaseException) -> bool:
        """Whether the transaction lost against another one and can simply be run again."""

    @abstractmethod
    def is_unavailable(self, error: BaseException) -> bool:
        """Whether the database is away, rather than the statement wrong."""

    @abstractmethod
    def fetch(self, connection: Connection, sql: str, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Rows of plain SQL with `:name` parameters, by the driver alone: for what is asked at every step.

        A statement costs SQLAlchemy ten times as much as the driver.
        """

    @abstractmethod
    def execute(self, connection: Connection, sql: str, values: Mapping[str, Any] = NOTHING) -> None:
        """Plain SQL without rows, likewise."""

    def rows(self, connection: Connection, sql: str, values: Mapping[str, Any] = NOTHING) -> Sequence[Any]:
        """As `fetch`, but with named columns."""
        found, names = self._described(connection, sql, values)
        return [_named(names)._make(row) for row in found] if found else ()

    @abstractmethod
    def _described(
        self, connection: Connection, sql: str, values: Mapping[str, Any]
    ) -> tuple[Sequence[tuple[Any, ...]], tuple[str, ...]]:
        """Rows and the names of their columns."""


@cache
def _named(names: tuple[str, ...]) -> Any:
    return namedtuple("Columns", names)


def driver_error(error: BaseException) -> BaseException:
    """What the driver raised, whether or not SQLAlchemy stood in between."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
