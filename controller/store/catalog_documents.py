"""Presets and profiles that were added to the shipped ones."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select

from controller.store.tables import Tenant, documents
from controller.store.writer import Tx


class DocumentConflict(Exception):
    """Another document has this name and version."""


@dataclass(frozen=True, slots=True)
class AddDocument:
    """Store a preset or profile. The same one again does nothing; raises DocumentConflict for a changed one."""

    tenant: Tenant
    kind: str
    full_name: str
    digest: str
    text: str

    def apply(self, tx: Tx) -> None:
        digest = tx.connection.execute(
            select(documents.c.digest).where(
                documents.c.tenant == self.tenant,
                documents.c.kind == self.kind,
                documents.c.full_name == self.full_name,
            )
        ).scalar_one_or_none()
        if digest == self.digest:
            return
        if digest is not None:
            raise DocumentConflict
        tx.connection.execute(
            insert(documents).values(
                tenant=self.tenant,
                kind=self.kind,
                full_name=self.full_name,
                digest=self.digest,
                text=self.text,
                created_us=tx.now_us,
            )
        )
