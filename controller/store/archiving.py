"""Moving logs of ended attempts out of the database: what is to be moved, its chunks, and that it was moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, func, or_, select, tuple_, update

from controller.store.engine import AnyRow
from controller.store.tables import AttemptId, Tenant, attempts, log_chunks
from controller.store.writer import Tx

NOTHING_LOGGED = "-"
"""As `log_key` of an attempt that had no log when it was to be moved. Its late chunks, if any, stay in the database."""


def unarchived(connection: Connection, ended_before_us: int, after: tuple[int, str], limit: int) -> Sequence[AnyRow]:
    """Ended attempts whose log is still in the database, behind `after` (ended_us, id), longest ended first.

    Rows of (tenant, id, job_id, ended_us, has_log).
    """
    chunk = select(log_chunks.c.position).where(
        log_chunks.c.tenant == attempts.c.tenant, log_chunks.c.attempt_id == attempts.c.id
    )
    return connection.execute(
        select(
            attempts.c.tenant, attempts.c.id, attempts.c.job_id, attempts.c.ended_us, chunk.exists().label("has_log")
        )
        .where(
            attempts.c.log_key == "",
            attempts.c.ended_us.is_not(None),
            attempts.c.ended_us < ended_before_us,
            tuple_(attempts.c.ended_us, attempts.c.id) > after,
        )
        .order_by(attempts.c.ended_us, attempts.c.id)
        .limit(limit)
    ).all()


def chunks_after(
    connection: Connection, tenant: Tenant, job_id: str, attempt_id: str, position: int, limit: int
) -> Sequence[AnyRow]:
    """An attempt's log chunks in the order in which they arrived, behind `position`."""
    return connection.execute(
        select(log_chunks.c.position, log_chunks.c.stream, log_chunks.c.sequence, log_chunks.c.data)
        .where(
            log_chunks.c.tenant == tenant,
            log_chunks.c.job_id == job_id,
            log_chunks.c.attempt_id == attempt_id,
            log_chunks.c.position > position,
        )
        .order_by(log_chunks.c.position)
        .limit(limit)
    ).all()


@dataclass(frozen=True, slots=True)
class Archived:
    """What a blob holds: how many chunks, and the last sequence of each stream. `tail_from`: position kept from."""

    chunks: int
    last: Mapping[str, int]
    tail_from: int


@dataclass(frozen=True, slots=True)
class MarkArchived:
    """The blob `log_key` is durable: from now on it is the log, and the database keeps only the tail.

    False, and nothing changes, where the attempt is gone, another blob came first, or the blob is not all that the
    database has of these streams up to their last sequence: then the blob is nobody's.
    """

    tenant: Tenant
    attempt_id: AttemptId
    log_key: str
    archived: Archived

    def apply(self, tx: Tx) -> bool:
        of_attempt = and_(log_chunks.c.tenant == self.tenant, log_chunks.c.attempt_id == self.attempt_id)
        in_blob = or_(
            *(
                and_(log_chunks.c.stream == stream, log_chunks.c.sequence <= last)
                for stream, last in sorted(self.archived.last.items())
            )
        )
        # The condition on the key also locks the row where several controllers write.
        marked = tx.connection.execute(
            update(attempts)
            .where(attempts.c.tenant == self.tenant, attempts.c.id == self.attempt_id, attempts.c.log_key == "")
            .values(log_key=self.log_key)
        ).rowcount
        if not marked:
            return False
        held = tx.connection.scalar(select(func.count()).select_from(log_chunks).where(of_attempt, in_blob))
        if held != self.archived.chunks:
            tx.connection.execute(
                update(attempts)
                .where(attempts.c.tenant == self.tenant, attempts.c.id == self.attempt_id)
                .values(log_key="")
            )
            return False
        tx.connection.execute(
            delete(log_chunks).where(of_attempt, in_blob, log_chunks.c.position < self.archived.tail_from)
        )
        return True


@dataclass(frozen=True, slots=True)
class MarkSilent:
    """These attempts of a tenant logged nothing: there is nothing to move."""

    tenant: Tenant
    attempt_ids: tuple[AttemptId, ...]

    def apply(self, tx: Tx) -> None:
        logged = select(log_chunks.c.position).where(
            log_chunks.c.tenant == attempts.c.tenant, log_chunks.c.attempt_id == attempts.c.id
        )
        tx.connection.execute(
            update(attempts)
            .where(
                attempts.c.tenant == self.tenant,
                attempts.c.id.in_(self.attempt_ids),
                attempts.c.log_key == "",
                ~logged.exists(),
            )
            .values(log_key=NOTHING_LOGGED)
        )
