"""Which stores an agent has, how each is reached, and what of it jobs may use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agent.storage.faults import Fault, Kind
from presets.uris import WEB, place, reach


class StoreKind(StrEnum):
    """What talks how: S3, Google Cloud Storage, Azure Blob Storage, or the web (read only)."""

    S3 = "s3"
    GS = "gs"
    AZ = "az"
    HTTPS = "https"


@dataclass(frozen=True, slots=True)
class StoreTable:
    """``[store.NAME]``: how one store is reached. Credentials stand in a file of their own, or are the platform's.

    With a ``bucket``, ``NAME://key`` is a key in it; without, it is ``NAME://bucket/key``. ``endpoint`` is the URL of a
    server of one's own; of kind https what ``NAME://`` stands for, and of the store named https itself a server that
    may be asked although it is the machine itself. ``only``: what URIs may begin with behind ``NAME://``, each ending
    in ``/``; without it, anything. ``credentials_file``: of kind s3 as AWS writes it, with ``profile`` the one meant;
    of gs a service account's key (JSON); of az the key of the ``account``.
    """

    kind: StoreKind
    bucket: str | None = None
    endpoint: str | None = None
    region: str | None = None
    path_style: bool = False
    account: str | None = None
    credentials_file: Path | None = None
    profile: str | None = None
    only: tuple[str, ...] = ()

    def path_of(self, uri: str) -> str:
        """Bucket and key that ``uri`` means in this store.

        :raises Fault: REFUSED where it may not be used, or is no URI.
        """
        try:
            at = place(uri)
        except ValueError as error:
            raise Fault(Kind.REFUSED, str(error)) from None
        if self.only and not at.path.startswith(self.only):
            raise Fault(Kind.REFUSED, f"of this store, agents use only {', '.join(self.only)}")
        return f"{self.bucket}/{at.path}" if self.bucket else at.path


def default_stores(kinds: Iterable[StoreKind]) -> dict[str, StoreTable]:
    """Of each kind the store that is called like it, reached by the platform's usual credentials."""
    return {kind.value: StoreTable(kind) for kind in kinds}


def reaches(stores: Mapping[str, StoreTable]) -> list[str]:
    """What an agent with these declares."""
    declared = []
    for name, table in stores.items():
        names = WEB if name in WEB else (name,)
        declared += [reach(each, prefix) for each in names for prefix in table.only or ("",)]
    return sorted(declared)
