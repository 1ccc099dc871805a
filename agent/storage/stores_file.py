"""The TOML file that names the stores of an agent. Reading one needs pydantic, which other agents do not load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agent.storage.stores import StoreKind, StoreTable
from presets.document import Table
from presets.parse import Complaint, InvalidDocument, shaped
from presets.uris import CONTROLLER, FILE, STORE_NAME, WEB

#: Which kinds take which keys besides `kind`, `endpoint` and `only`.
_KEYS = {
    "bucket": (StoreKind.S3, StoreKind.GS, StoreKind.AZ),
    "region": (StoreKind.S3,),
    "path_style": (StoreKind.S3,),
    "profile": (StoreKind.S3,),
    "credentials_file": (StoreKind.S3, StoreKind.GS, StoreKind.AZ),
    "account": (StoreKind.AZ,),
}

_Text = Annotated[str, StringConstraints(min_length=1)]
_Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s@?#]+$")]
_Prefix = Annotated[str, StringConstraints(pattern=r"^[^/].*/$")]


class _Store(Table):
    """``[store.NAME]``, see :class:`StoreTable`."""

    kind: Annotated[StoreKind, Field(strict=False)]
    bucket: _Text | None = None
    endpoint: _Url | None = None
    region: _Text | None = None
    path_style: bool = False
    account: _Text | None = None
    credentials_file: Annotated[Path, Field(strict=False)] | None = None
    profile: _Text | None = None
    only: tuple[_Prefix, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        for key, kinds in _KEYS.items():
            if getattr(self, key) and self.kind not in kinds:
                told = {"key": key, "kind": self.kind.value}
                raise PydanticCustomError("store_key", "{key} is not for stores of kind {kind}", told)
        if self.kind is StoreKind.AZ and self.credentials_file is not None and not self.account:
            raise PydanticCustomError("store_key", "credentials_file needs the account whose key it holds")
        return self

    @field_validator("credentials_file")
    @classmethod
    def _check_file(cls, file: Path | None) -> Path | None:
        if file is not None and not file.is_absolute():
            raise PydanticCustomError("store_file", "an absolute path is expected")
        return file


class _Document(Table):
    store: Mapping[str, _Store] = Field(default_factory=dict)

    @field_validator("store")
    @classmethod
    def _check_names(cls, tables: Mapping[str, _Store]) -> Mapping[str, _Store]:
        for name, table in tables.items():
            if not STORE_NAME.fullmatch(name) or name == FILE:
                told = "{name} can't be a store's name: 2 to 31 lower-case letters, digits and - are expected"
                raise PydanticCustomError("store_name", told, {"name": repr(name)})
            if name == CONTROLLER:
                raise PydanticCustomError("store_name", "controller:// is the controller's own store, without a table")
            if name == "http":
                raise PydanticCustomError("store_name", "http:// is served by the store that is named https")
            if name in WEB and table.kind is not StoreKind.HTTPS:
                raise PydanticCustomError("store_name", "the store named https must be of kind https")
            if name not in WEB and table.kind is StoreKind.HTTPS and not table.endpoint:
                told = "{name} needs an endpoint: what {name}:// stands for"
                raise PydanticCustomError("store_name", told, {"name": name})
        return tables


def read_stores(file: Path) -> dict[str, StoreTable]:
    """The stores of a file by their names.

    :raises InvalidDocument: with every line and field that is wrong.
    :raises OSError: the file can't be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidDocument([Complaint(1, 1, "", "not UTF-8")]) from None
    document = shaped(text, _Document)
    return {name: StoreTable(**dict(table)) for name, table in document.store.items()}
