"""The TOML file that names the stores of an agent.

It is checked by hand: pydantic would cost each agent that has such a file a third more memory for all its life.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from agent.storage.stores import StoreKind, StoreTable
from presets.uris import CONTROLLER, FILE, STORE_NAME, WEB

_URL = re.compile(r"https?://[^\s@?#/]+(/[^\s@?#]*)?")
_PREFIX = re.compile(r"[^/].*/")


class InvalidStores(Exception):
    """The file is wrong, for every reason in the message: one a line, each with its field."""


@dataclass(frozen=True, slots=True)
class _Key:
    """What a key takes, in words and as a test, and of which kinds of store it is."""

    expected: str
    fits: Callable[[object], bool]
    kinds: tuple[StoreKind, ...] = tuple(StoreKind)
    made: Callable[[Any], Any] = lambda value: value


def _text(value: object) -> bool:
    return isinstance(value, str) and value != ""


_OBJECTS = (StoreKind.S3, StoreKind.GS, StoreKind.AZ)

_KEYS: Mapping[str, _Key] = {
    "kind": _Key(f"one of {', '.join(StoreKind)}", lambda value: value in list(StoreKind), made=StoreKind),
    "bucket": _Key("a name", _text, _OBJECTS),
    "endpoint": _Key(
        "a URL without user, query and fragment, such as https://nas.example:9000",
        lambda value: isinstance(value, str) and _URL.fullmatch(value) is not None,
    ),
    "region": _Key("a name", _text, (StoreKind.S3,)),
    "path_style": _Key("true or false", lambda value: isinstance(value, bool), (StoreKind.S3,)),
    "account": _Key("a name", _text, (StoreKind.AZ,)),
    "credentials_file": _Key(
        "an absolute path", lambda value: isinstance(value, str) and value.startswith("/"), _OBJECTS, Path
    ),
    "profile": _Key("a name", _text, (StoreKind.S3,)),
    "only": _Key(
        'a list of what URIs may begin with, each ending in /, such as ["bucket/folder/"]',
        lambda value: isinstance(value, list) and all(isinstance(one, str) and _PREFIX.fullmatch(one) for one in value),
        made=tuple,
    ),
}


def read_stores(file: Path) -> dict[str, StoreTable]:
    """The stores of a file by their names.

    :raises InvalidStores: with everything that is wrong, and no value: it could be a secret in the wrong place.
    :raises OSError: the file can't be read.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InvalidStores(f"not TOML: {error}") from None
    except UnicodeDecodeError:
        raise InvalidStores("not UTF-8") from None
    if wrong := list(_problems(document)):
        raise InvalidStores("\n".join(wrong))
    return {
        name: StoreTable(**{key: _KEYS[key].made(value) for key, value in table.items()})
        for name, table in document.get("store", {}).items()
    }


def _problems(document: Mapping[str, object]) -> Iterator[str]:
    yield from (f"{key}: only tables [store.NAME] are expected" for key in document if key != "store")
    stores = document.get("store", {})
    if not isinstance(stores, dict):
        yield "store: tables [store.NAME] are expected"
        return
    for name, table in stores.items():
        if not isinstance(table, dict):
            yield f"store.{name}: a table is expected"
            continue
        yield from (f"store.{name}: {told}" for told in _name_problems(name, table))
        yield from (f"store.{name}{told}" for told in _key_problems(table))


def _name_problems(name: str, table: Mapping[str, object]) -> Iterator[str]:
    if not STORE_NAME.fullmatch(name) or name == FILE:
        yield "is no name for a store: 2 to 31 lower-case letters, digits and - are expected, and not file"
    elif name == CONTROLLER:
        yield "controller:// is the controller's own store, and needs no table"
    elif name == "http":
        yield "http:// is served by the store that is named https"
    elif name in WEB and table.get("kind") != StoreKind.HTTPS:
        yield "must be of kind https"
    elif name not in WEB and table.get("kind") == StoreKind.HTTPS and "endpoint" not in table:
        yield f"needs an endpoint: what {name}:// stands for"
    if table.get("kind") == StoreKind.AZ and "credentials_file" in table and "account" not in table:
        yield "needs the account whose key the credentials_file holds"


def _key_problems(table: Mapping[str, object]) -> Iterator[str]:
    kind = table.get("kind")
    if kind is None:
        yield f".kind: is needed: {_KEYS['kind'].expected}"
    for key, value in table.items():
        known = _KEYS.get(key)
        if known is None:
            near = get_close_matches(key, _KEYS, 1)
            yield f".{key}: is not known" + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(_KEYS)}")
        elif not known.fits(value):
            yield f".{key}: {known.expected} is expected"
        elif kind in list(StoreKind) and kind not in known.kinds:
            yield f".{key}: is not for stores of kind {kind}"
