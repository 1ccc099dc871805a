"""The presets and profiles this controller knows: the shipped ones and those that were added."""

from __future__ import annotations

from collections.abc import Callable

from controller.store.catalog_documents import AddDocument
from controller.store.queries import stored_documents
from controller.store.tables import Tenant
from controller.store.writer import Store
from presets.catalog import Catalog, Preset, Profile
from presets.parse import InvalidDocument
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason


class Library:
    """Caches one catalog a tenant; additions go through here. `on_catalog` hears of each that is read."""

    def __init__(self, store: Store, on_catalog: Callable[[Catalog], None] | None = None) -> None:
        self._store = store
        self._on_catalog = on_catalog
        self._catalogs: dict[Tenant, Catalog] = {}

    async def catalog(self, tenant: Tenant) -> Catalog:
        cached = self._catalogs.get(tenant)
        if cached is None:
            rows = await self._store.read(stored_documents, tenant)
            cached = Catalog.shipped().with_documents(
                [row.text for row in rows if row.kind == "preset"],
                [row.text for row in rows if row.kind == "profile"],
            )
            self._catalogs[tenant] = cached
            if self._on_catalog is not None:
                self._on_catalog(cached)
        return cached

    async def add_preset(self, tenant: Tenant, text: str) -> Preset:
        """Raises InvalidRequest with every complaint, DocumentConflict."""
        added = _with(await self.catalog(tenant), [text], [])
        preset = next(p for p in added.presets if p.text == text)
        await self._add(tenant, "preset", preset)
        return preset

    async def add_profile(self, tenant: Tenant, text: str) -> Profile:
        """Raises InvalidRequest with every complaint, DocumentConflict."""
        added = _with(await self.catalog(tenant), [], [text])
        profile = next(p for p in added.profiles if p.text == text)
        await self._add(tenant, "profile", profile)
        return profile

    async def _add(self, tenant: Tenant, kind: str, added: Preset | Profile) -> None:
        await self._store.execute(AddDocument(tenant, kind, added.full_name, added.digest, added.text))
        self._catalogs.pop(tenant, None)


def _with(catalog: Catalog, presets: list[str], profiles: list[str]) -> Catalog:
    try:
        return catalog.with_documents(presets, profiles)
    except InvalidDocument as invalid:
        raise InvalidRequest(
            *(Problem(Reason.INVALID_ARGUMENT, "document", str(complaint)) for complaint in invalid.complaints)
        ) from None
