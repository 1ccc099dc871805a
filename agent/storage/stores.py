"""Which stores an agent has: the document that names them, and what of each its jobs may use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agent.storage.faults import Fault, Kind
from presets.document import Table
from presets.parse import Complaint, InvalidDocument, shaped
from presets.uris import FILE, STORE_NAME, WEB, place, reach


class StoreKind(StrEnum):
    """What talks how: S3, Google Cloud Storage, Azure Blob Storage, or the web (read only)."""

    S3 = "s3"
    GS = "gs"
    AZ = "az"
    HTTPS = "https"


_Text = Annotated[str, StringConstraints(min_length=1)]

#: Which kinds take which keys besides `kind`, `endpoint` and `only`.
_KEYS = {
    "bucket": (StoreKind.S3, StoreKind.GS, StoreKind.AZ),
    "region": (StoreKind.S3,),
    "path_style": (StoreKind.S3,),
    "profile": (StoreKind.S3,),
    "credentials_file": (StoreKind.S3, StoreKind.GS, StoreKind.AZ),
    "account": (StoreKind.AZ,),
}


class StoreTable(Table):
    """``[store.NAME]``: how one store is reached. Credentials stand in a file of their own, or are the platform's.

    With a ``bucket``, ``NAME://key`` is a key in it; without, it is ``NAME://bucket/key``. ``endpoint`` is the URL of a
    server of one's own; of kind https what ``NAME://`` stands for. ``only``: what URIs may begin with behind
    ``NAME://``, each ending in ``/``; without it, anything. ``credentials_file``: of kind s3 as AWS writes it, with
    ``profile`` the one meant; of gs a service account's key (JSON); of az the key of the ``account``.
    """

    kind: Annotated[StoreKind, Field(strict=False)]
    bucket: _Text | None = None
    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@?#]+$")] | None = None
    region: _Text | None = None
    path_style: bool = False
    account: _Text | None = None
    credentials_file: Annotated[Path, Field(strict=False)] | None = None
    profile: _Text | None = None
    only: tuple[Annotated[str, StringConstraints(pattern=r"^[^/].*/$")], ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, kinds in _KEYS.items():
            if getattr(self, key) and self.kind not in kinds:
                raise PydanticCustomError(
                    "store_key", "{key} is not for stores of kind {kind}", {"key": key, "kind": str(self.kind)}
                )
        return self

    @field_validator("credentials_file")
    @classmethod
    def _readable(cls, file: Path | None) -> Path | None:
        if file is not None and not file.is_absolute():
            raise PydanticCustomError("store_file", "an absolute path is expected")
        return file

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


class StoresDocument(Table):
    """The TOML file that ``--stores`` names."""

    store: Mapping[str, StoreTable] = Field(default_factory=dict)

    @field_validator("store")
    @classmethod
    def _names(cls, tables: Mapping[str, StoreTable]) -> Mapping[str, StoreTable]:
        for name, table in tables.items():
            if not STORE_NAME.fullmatch(name) or name == FILE:
                told = "{name} can't be a store's name: 2 to 31 letters, digits and -, as in a scheme, are expected"
                raise PydanticCustomError("store_name", told, {"name": repr(name)})
            if name in WEB and table.kind is not StoreKind.HTTPS:
                raise PydanticCustomError("store_name", "{name} must be of kind https", {"name": name})
        return tables


def read_stores(file: Path | None, defaults: Iterable[StoreKind] = ()) -> Mapping[str, StoreTable]:
    """The stores by name: those of the file, and of each of the kinds in ``defaults`` the one that is called like it.

    Those are reached by the platform's usual credentials, unless the file says otherwise.

    :raises InvalidDocument: with every line and field that is wrong.
    :raises OSError: the file can't be read.
    """
    try:
        text = file.read_text(encoding="utf-8") if file is not None else ""
    except UnicodeDecodeError:
        raise InvalidDocument([Complaint(1, 1, "", "not UTF-8")]) from None
    document = shaped(text, StoresDocument)
    return {kind.value: StoreTable(kind=kind) for kind in defaults} | dict(document.store)


def reaches(stores: Mapping[str, StoreTable]) -> list[str]:
    """What an agent with these declares."""
    declared = []
    for name, table in stores.items():
        names = WEB if name in WEB and not table.endpoint else (name,)
        declared += [reach(each, prefix) for each in names for prefix in table.only or ("",)]
    return sorted(declared)
