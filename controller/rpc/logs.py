"""A job's log for one reader, from the database and from the store of logs."""

from __future__ import annotations

from collections.abc import AsyncIterator

from controller.archive import Archive, ArchiveDamaged, ArchiveMissing
from controller.store import queries
from controller.store.tables import DEFAULT_TENANT, JobId
from controller.store.writer import Store
from mediactl.errors import MediactlError
from mediactl.v1 import job_service_pb2
from presets.reasons import Reason

PAGE = 500


class Log:
    """A job's log as one reader has seen it: what was moved to the store of logs, then what is in the database."""

    def __init__(self, store: Store, archive: Archive | None, job_id: JobId, attempt_id: str) -> None:
        self._store = store
        self._archive = archive
        self._job_id = job_id
        self._attempt_id = attempt_id
        self._position = 0
        self._seen: dict[tuple[str, str], int] = {}
        self._read: set[str] = set()

    async def news(self, *, settled: bool) -> AsyncIterator[job_service_pb2.StreamLogsResponse]:
        """Whatever is there and was not told yet; as far as its order is settled, unless this is asked last."""
        async for piece in self._moved():
            yield piece
        before = len(self._read)
        while rows := await self._store.read(
            queries.log_after,
            self._store.database,
            DEFAULT_TENANT,
            self._job_id,
            self._attempt_id,
            position=self._position,
            limit=PAGE,
            settled=settled,
        ):
            # A log that was moved meanwhile is here no more: what is missing is there.
            async for piece in self._moved():
                yield piece
            for row in rows:
                self._position = row.position
                if self._is_new(row.attempt_id, row.stream, row.sequence):
                    yield job_service_pb2.StreamLogsResponse(
                        attempt_id=row.attempt_id, stream=row.stream, sequence=row.sequence, data=row.data
                    )
        if len(self._read) == before:
            async for piece in self._moved():
                yield piece

    def _is_new(self, attempt_id: str, stream: str, sequence: int) -> bool:
        key = (attempt_id, stream)
        if sequence <= self._seen.get(key, 0):
            return False
        self._seen[key] = sequence
        return True

    async def _moved(self) -> AsyncIterator[job_service_pb2.StreamLogsResponse]:
        found = await self._store.read(queries.archived, DEFAULT_TENANT, self._job_id, self._attempt_id)
        for attempt_id, key in found:
            if key in self._read:
                continue
            self._read.add(key)
            if self._archive is None:
                raise MediactlError(Reason.STORE_UNAVAILABLE, "this controller has no --store, where the log was moved")
            try:
                async for piece in self._archive.read(key):
                    if self._is_new(attempt_id, piece.stream, piece.sequence):
                        yield job_service_pb2.StreamLogsResponse(
                            attempt_id=attempt_id, stream=piece.stream, sequence=piece.sequence, data=piece.data
                        )
            except (ArchiveMissing, ArchiveDamaged) as error:
                raise MediactlError(Reason.STORE_UNAVAILABLE, f"the stored log of {attempt_id}: {error}") from None
