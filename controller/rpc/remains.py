"""What a failed attempt left behind, for one caller: from the store, or by way of the agent that kept it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from controller.archive import Archive, ArchiveMissing
from controller.core.liveness import Timers
from controller.store import topics
from controller.store.collecting import Want, kept_attempts
from controller.store.queries import Record
from controller.store.tables import DEFAULT_TENANT, AttemptId, JobId
from controller.store.writer import Store
from mediactl.errors import MediactlError
from mediactl.v1 import job_service_pb2
from presets.reasons import Reason

POLL_S = 1.0
"""A wake-up that was missed delays by this much."""
WANT_S = 10.0
"""How often the wish is repeated while it is waited for."""
AWAY_S = 10.0
"""How long an agent that is not connected is waited for."""
MOST_S = 1800.0
"""How long one that is connected is."""
PIECE_BYTES = 1 << 20


class RemainsReader:
    """The agent may be connected to any controller: the wish stands in the database, and so does what came of it."""

    def __init__(self, store: Store, archive: Archive | None, timers: Timers) -> None:
        self._store = store
        self._archive = archive
        self._timers = timers

    async def fetch(
        self, job_id: JobId, attempt_id: str, offset: int
    ) -> AsyncIterator[job_service_pb2.FetchRemainsResponse]:
        """The archive behind `offset`, told first whose it is. Raises MediactlError."""
        row = await self._chosen(job_id, attempt_id)
        head = job_service_pb2.FetchRemainsResponse(job_id=job_id, attempt_id=row.id, agent_id=row.agent_id)
        if self._archive is None:
            raise MediactlError(
                Reason.STORE_UNAVAILABLE, "this controller has no --store, which archives of failed attempts go through"
            )
        if row.remains_key is None:
            yield head
            row = await self._collected(job_id, row)
        try:
            head.size_bytes = await self._archive.size(row.remains_key)
            yield head
            if offset < head.size_bytes:
                async for data in self._archive.get(row.remains_key, offset, PIECE_BYTES):
                    yield job_service_pb2.FetchRemainsResponse(size_bytes=head.size_bytes, data=data)
        except ArchiveMissing:
            raise MediactlError(
                Reason.REMAINS_NOT_FOUND, f"the archive of attempt {row.id} is gone from the controller's store"
            ) from None

    async def _chosen(self, job_id: JobId, attempt_id: str) -> Record:
        rows = await self._store.read(kept_attempts, self._store.database, DEFAULT_TENANT, job_id, attempt_id)
        if not rows and attempt_id:
            raise MediactlError(
                Reason.ATTEMPT_NOT_FOUND,
                f"job {job_id} has no attempt {attempt_id}; `mediactl jobs get` shows them",
            )
        if not rows:
            raise MediactlError(Reason.REMAINS_NOT_FOUND, f"no attempt of job {job_id} has failed")
        for row in rows:
            if row.remains_key is not None or row.kept_bytes:
                return row
        which = f"attempt {attempt_id}" if attempt_id else f"the failed attempts of job {job_id}"
        raise MediactlError(
            Reason.REMAINS_NOT_FOUND,
            f"nothing is kept of {which}: agents keep what failed for a while only (--keep-failed); "
            f"the log is still there: mediactl jobs logs {job_id}",
        )

    async def _collected(self, job_id: JobId, row: Record) -> Record:
        """The attempt's row once its archive is in the store."""
        begun = time.monotonic()
        wished_at = -WANT_S
        with self._store.topics.subscribe(topics.job(job_id)) as changes:
            while row.remains_key is None:
                name = row.agent_name or row.agent_id
                if not row.kept_bytes:
                    raise MediactlError(
                        Reason.REMAINS_NOT_FOUND, f"agent {name} keeps nothing of attempt {row.id} any more"
                    )
                if row.agent_name is None:
                    raise _unavailable(f"agent {name}, which keeps it, was removed from the fleet")
                away = row.lost or row.silent_us > self._timers.unreachable_s * 1e6
                if away and time.monotonic() - begun > AWAY_S:
                    raise _unavailable(f"agent {name}, which keeps it, is not connected; try again when it is back")
                if wished_at > 0 and row.collect_us is None:
                    raise _unavailable(
                        f"agent {name}, which keeps it, did not deliver it; the log of the controller that it is "
                        "connected to says why"
                    )
                if time.monotonic() - begun > MOST_S:
                    raise _unavailable(f"agent {name}, which keeps it, did not deliver it within {MOST_S / 60:.0f} min")
                if time.monotonic() - wished_at >= WANT_S:
                    wished_at = time.monotonic()
                    await self._store.execute(Want(DEFAULT_TENANT, AttemptId(row.id), row.agent_id))
                await changes.wait(POLL_S)
                rows = await self._store.read(kept_attempts, self._store.database, DEFAULT_TENANT, job_id, row.id)
                if not rows:
                    raise MediactlError(Reason.JOB_NOT_FOUND, "the job was deleted meanwhile")
                [row] = rows
        return row


def _unavailable(message: str) -> MediactlError:
    return MediactlError(Reason.REMAINS_UNAVAILABLE, message)
