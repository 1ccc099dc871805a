"""Files in the controller's own store: what is on its way there, what is whole, and what has had its time.

The database says what there is. Bytes are durable in the store before they are counted here, and what was deleted here
is deleted there afterwards: a crash between the two leaves a stray, or bytes that are sent again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Select, Update, delete, func, insert, or_, select, text, update

from controller.store.queries import Record
from controller.store.tables import Tenant, attempts, deposits, jobs
from controller.store.work import Happened, work
from controller.store.writer import Tx
from mediactl.v1 import job_pb2
from presets.uris import CONTROLLER, object_uri

ABANDONED_US = 3600_000_000
"""How old what an attempt left unfinished is when it is deleted, once the attempt has ended."""
PROLONGED_US = 3600_000_000
"""By how much the life of what is due is prolonged while jobs need it."""
FOREIGN_US = 7 * 86400_000_000
"""How long after its time an entry is left to the controllers that have its store."""
_WHOLE = text("whole")
"""As the index says it."""
_LOCKED = "incarnation"
"""A row that is always there."""


class DepositNotFound(Exception):
    """There is none, or no longer."""


class PathTaken(Exception):
    """Something else is deposited there."""


class AttemptOver(Exception):
    """The attempt has ended, or nobody knows it: it may deposit nothing."""


class QuotaExceeded(Exception):
    """There is no room for it."""

    def __init__(self, size_bytes: int, used_bytes: int, quota_bytes: int) -> None:
        super().__init__()
        self.size_bytes, self.used_bytes, self.quota_bytes = size_bytes, used_bytes, quota_bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload to go on with, and the keys of what it replaces, which are nobody's now."""

    row: Record
    dropped: tuple[str, ...] = ()


def uri_of(row: Record) -> str:
    return object_uri(CONTROLLER, row.path)


def find(connection: Connection, tenant: Tenant, deposit_id: str) -> Record:
    """The upload, whole or not. Raises DepositNotFound."""
    row = connection.execute(_one(tenant, deposit_id)).one_or_none()
    if row is None:
        raise DepositNotFound
    return row


def at(connection: Connection, tenant: Tenant, path: str) -> Record:
    """What is whole under a path. Raises DepositNotFound."""
    row = connection.execute(_whole(tenant, path)).one_or_none()
    if row is None:
        raise DepositNotFound
    return row


def known_keys(connection: Connection, keys: Collection[str]) -> set[str]:
    """Those of the keys that are an entry's."""
    return set(connection.scalars(select(deposits.c.key).where(deposits.c.key.in_(keys))))


@dataclass(frozen=True, slots=True)
class BeginUpload:
    """An entry for `name`, somebody's file, or for `path`, the output of an attempt; or the one that there is already.

    Raises QuotaExceeded, AttemptOver.
    """

    tenant: Tenant
    new_id: str
    name: str
    path: str
    attempt_id: str
    size_bytes: int
    sha256: str
    store: str
    quota_bytes: int
    lifetime_us: int

    def apply(self, tx: Tx) -> Begun:
        job_id, dropped = "", []
        if self.attempt_id:
            job_id = self._job_of_attempt(tx)
            before, others = self._of_attempt(tx)
            dropped = [_delete(tx, row) for row in others]
        else:
            before = self._same(tx)
        expires_us = tx.now_us + self.lifetime_us
        if before is not None:
            longer = max(expires_us, before.expires_us)
            tx.connection.execute(_change(self.tenant, before.id).values(expires_us=longer))
            return Begun(find(tx.connection, self.tenant, before.id), tuple(dropped))
        self._require_room(tx)
        row = {
            "tenant": self.tenant,
            "id": self.new_id,
            "path": self.path or f"uploads/{self.new_id}/{self.name}",
            "size_bytes": self.size_bytes,
            "received_bytes": 0,
            "sha256": self.sha256,
            "whole": False,
            "job_id": job_id,
            "attempt_id": self.attempt_id,
            "created_us": tx.now_us,
            "expires_us": expires_us,
            "store": self.store,
            "key": f"deposits/{self.tenant}/{self.new_id}",
        }
        tx.connection.execute(insert(deposits).values(row))
        return Begun(find(tx.connection, self.tenant, self.new_id), tuple(dropped))

    def _job_of_attempt(self, tx: Tx) -> str:
        attempt = tx.connection.execute(
            select(attempts.c.job_id).where(
                attempts.c.tenant == self.tenant, attempts.c.id == self.attempt_id, attempts.c.ended_us.is_(None)
            )
        ).one_or_none()
        if attempt is None:
            raise AttemptOver
        return str(attempt.job_id)

    def _of_attempt(self, tx: Tx) -> tuple[Record | None, list[Record]]:
        """What the attempt has open for this path: the one that is the same, and the others."""
        rows = tx.connection.execute(_open_of(self.tenant, self.attempt_id, self.path)).all()
        same = next((row for row in rows if self._is(row)), None)
        return same, [row for row in rows if row is not same]

    def _same(self, tx: Tx) -> Record | None:
        rows = tx.connection.execute(
            select(deposits)
            .where(deposits.c.sha256 == self.sha256, deposits.c.tenant == self.tenant, deposits.c.attempt_id == "")
            .order_by(deposits.c.received_bytes.desc(), deposits.c.created_us)
        )
        return next((row for row in rows if self._is(row) and row.path == f"uploads/{row.id}/{self.name}"), None)

    def _is(self, row: Record) -> bool:
        return (row.size_bytes, row.sha256, row.store) == (self.size_bytes, self.sha256, self.store)

    def _require_room(self, tx: Tx) -> None:
        # Whoever begins one waits for the others that do: two of them must not take the same room.
        tx.rows(f"SELECT value FROM meta WHERE key = :key{tx.database.for_update}", key=_LOCKED)  # noqa: S608 - no user's words
        used = int(tx.connection.scalar(select(func.coalesce(func.sum(deposits.c.size_bytes), 0))) or 0)
        if used + self.size_bytes > self.quota_bytes:
            raise QuotaExceeded(self.size_bytes, used, self.quota_bytes)


@dataclass(frozen=True, slots=True)
class Advance:
    """The bytes up to `after` are durable. False, and nothing changes: another call went on, or it is gone or whole."""

    tenant: Tenant
    deposit_id: str
    before: int
    after: int
    lifetime_us: int

    def apply(self, tx: Tx) -> bool:
        longer = tx.now_us + self.lifetime_us
        advanced = tx.connection.execute(
            _change(self.tenant, self.deposit_id)
            .where(deposits.c.received_bytes == self.before, deposits.c.whole.is_(False))
            .values(received_bytes=self.after, expires_us=longer)
        )
        return bool(advanced.rowcount)


@dataclass(frozen=True, slots=True)
class FinishUpload:
    """Make readable under its path what was found to be all that was announced. A repeat does nothing.

    Raises DepositNotFound, PathTaken.
    """

    tenant: Tenant
    deposit_id: str
    overwrite: bool
    lifetime_us: int

    def apply(self, tx: Tx) -> Begun:
        row = find(tx.connection, self.tenant, self.deposit_id)
        if row.whole:
            return Begun(row)
        dropped: list[str] = []
        other = tx.connection.execute(_whole(self.tenant, row.path)).one_or_none()
        if other is not None:
            if not self.overwrite:
                raise PathTaken
            dropped.append(_delete(tx, other))
        expires_us = tx.now_us + (self._keep_us(tx, row.job_id) or self.lifetime_us)
        finished = tx.connection.execute(
            _change(self.tenant, row.id)
            .where(deposits.c.received_bytes == deposits.c.size_bytes)
            .values(whole=True, expires_us=expires_us)
        )
        if not finished.rowcount:
            raise DepositNotFound
        return Begun(find(tx.connection, self.tenant, row.id), tuple(dropped))

    def _keep_us(self, tx: Tx, job_id: str) -> int:
        """What the job says; 0: nothing."""
        spec = tx.connection.scalar(select(jobs.c.spec).where(jobs.c.tenant == self.tenant, jobs.c.id == job_id))
        return job_pb2.JobSpec.FromString(spec).keep.ToMicroseconds() if spec else 0


@dataclass(frozen=True, slots=True)
class DropDeposit:
    """Forget an upload that is not whole, by its id; what is whole, by its path; or what an attempt has open there.

    Returns the keys of what is nobody's now.
    """

    tenant: Tenant
    deposit_id: str = ""
    path: str = ""
    attempt_id: str = ""

    def apply(self, tx: Tx) -> tuple[str, ...]:
        if self.deposit_id:
            query = _one(self.tenant, self.deposit_id).where(deposits.c.whole.is_(False))
        elif self.attempt_id:
            query = _open_of(self.tenant, self.attempt_id, self.path)
        else:
            query = _whole(self.tenant, self.path)
        return tuple(_delete(tx, row) for row in tx.connection.execute(query).all())


@dataclass(frozen=True, slots=True)
class DropDue:
    """Forget deposits of a store whose time has come, at most `limit`, and what attempts that ended left unfinished.

    What a job that has not ended reads is kept until it has. An event of its job tells of a result that is deleted.
    Returns what was forgotten.
    """

    store: str
    limit: int

    def apply(self, tx: Tx) -> Sequence[Record]:
        due = self._due(tx)
        needed = self._needed(tx) if due else set()
        gone = [row for row in due if (row.tenant, row.path) not in needed]
        for row in due:
            if (row.tenant, row.path) in needed:
                # Not to be looked at again and again, and so in nobody's way.
                tx.connection.execute(_change(row.tenant, row.id).values(expires_us=tx.now_us + PROLONGED_US))
        gone += self._abandoned(tx)
        for row in gone:
            _delete(tx, row)
        _tell(tx, [row for row in gone if row.job_id and row.whole])
        return gone

    def _due(self, tx: Tx) -> list[Record]:
        mine = or_(deposits.c.store == self.store, deposits.c.expires_us <= tx.now_us - FOREIGN_US)
        return list(
            tx.connection.execute(
                select(deposits)
                .where(deposits.c.expires_us <= tx.now_us, mine)
                .order_by(deposits.c.expires_us, deposits.c.id)
                .limit(self.limit)
            )
        )

    def _needed(self, tx: Tx) -> set[tuple[str, str]]:
        rows = tx.connection.execute(
            select(jobs.c.tenant, jobs.c.deposits).where(jobs.c.deposits.is_not(None), jobs.c.ended_us.is_(None))
        )
        return {(row.tenant, path) for row in rows for path in json.loads(row.deposits)}

    def _abandoned(self, tx: Tx) -> list[Record]:
        lives = select(attempts.c.id).where(
            attempts.c.tenant == deposits.c.tenant,
            attempts.c.id == deposits.c.attempt_id,
            attempts.c.ended_us.is_(None),
        )
        return list(
            tx.connection.execute(
                select(deposits)
                .where(
                    deposits.c.attempt_id != "",
                    deposits.c.whole.is_(False),
                    deposits.c.store == self.store,
                    deposits.c.created_us < tx.now_us - ABANDONED_US,
                    deposits.c.expires_us > tx.now_us,
                    ~lives.exists(),
                )
                .limit(self.limit)
            )
        )


def _tell(tx: Tx, results: Sequence[Record]) -> None:
    with work(tx) as unit:
        unit.lock((row.tenant, row.job_id) for row in results)
        for row in results:
            if (job := unit.jobs.get((row.tenant, row.job_id))) is not None:
                until = datetime.fromtimestamp(row.expires_us / 1e6, UTC).isoformat(timespec="seconds")
                unit.note(job, Happened("result_deleted", message=f"{uri_of(row)}, which was kept until {until}"))


def _delete(tx: Tx, row: Record) -> str:
    tx.connection.execute(delete(deposits).where(deposits.c.tenant == row.tenant, deposits.c.id == row.id))
    return str(row.key)


def _one(tenant: str, deposit_id: str) -> Select[*tuple[Any, ...]]:
    return select(deposits).where(deposits.c.tenant == tenant, deposits.c.id == deposit_id)


def _whole(tenant: str, path: str) -> Select[*tuple[Any, ...]]:
    return select(deposits).where(deposits.c.path == path, deposits.c.tenant == tenant, _WHOLE)


def _open_of(tenant: str, attempt_id: str, path: str) -> Select[*tuple[Any, ...]]:
    return select(deposits).where(
        deposits.c.attempt_id == attempt_id,
        deposits.c.tenant == tenant,
        deposits.c.path == path,
        deposits.c.whole.is_(False),
    )


def _change(tenant: str, deposit_id: str) -> Update:
    return update(deposits).where(deposits.c.tenant == tenant, deposits.c.id == deposit_id)
