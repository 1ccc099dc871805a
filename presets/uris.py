"""URIs of inputs and outputs: ``file:`` and what lies in stores, named by the scheme.

``NAME://bucket/key`` is an object of the store that agents know by that name; ``https:`` and ``http:`` are read only.
"""

import posixpath
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

FILE = "file"
#: Schemes of the web: read only, and their paths are the server's business.
WEB: tuple[str, ...] = ("https", "http")
#: The controller's own store, which every agent reaches by way of its controllers.
CONTROLLER = "controller"
#: What a store may be called: as a scheme may, but with two characters at the least, or a drive would be one.
STORE_NAME = re.compile(r"[a-z][a-z0-9-]{1,30}")

#: Bytes of UTF-8.
MOST_DEPOSIT_PATH = 1200

_SAFE = "/~"


class UnsupportedScheme(ValueError):
    """A URI without a scheme, or with one that cannot be the name of a store."""


class Place(NamedTuple):
    """Where a URI leads: a store's name and what is asked of it.

    ``path`` is an absolute path of ``file:``, an object's bucket and key with escapes resolved, or all of a URL behind
    ``://`` as it is. ``str`` of it is the canonical text that an agent's :func:`reach` is compared with; what a URL
    asks in its query is no part of that.
    """

    store: str
    path: str

    def __str__(self) -> str:
        if self.store == FILE:
            return self.path
        return f"{self.store}://{self.path.partition('?')[0] if self.store in WEB else self.path}"


def path_to_uri(path: str) -> str:
    """The ``file:`` URI (RFC 8089) of an absolute path; bytes that are no UTF-8 survive as escapes.

    :raises ValueError: the path is not absolute.
    """
    if not path.startswith("/"):
        raise ValueError(f"not an absolute path: {path!r}")
    return "file://" + quote(path.encode("utf-8", "surrogateescape"), safe=_SAFE)


def object_uri(store: str, path: str) -> str:
    """The URI of what a store holds under ``path``, a bucket and a key: the inverse of :func:`place`."""
    return f"{store}://{quote(path, safe=_SAFE)}"


@lru_cache(maxsize=4096)
def uri_to_path(uri: str) -> str:
    """The path that a ``file:`` URI names, the inverse of :func:`path_to_uri`.

    :raises UnsupportedScheme: it is no ``file:`` URI.
    :raises ValueError: it names no absolute path of this machine, or one that no system can have.
    """
    found = place(uri)
    if found.store != FILE:
        raise UnsupportedScheme(f"{shown(uri)!r} names no file; a file: URI begins with file:///")
    return found.path


@lru_cache(maxsize=4096)
def place(uri: str) -> Place:
    """Where ``uri`` leads.

    :raises UnsupportedScheme: it has no scheme that could be a store's.
    :raises ValueError: it is malformed, or carries what it must not: a query, a password.
    """
    scheme, colon, rest = uri.partition(":")
    store = scheme.lower()
    if store == FILE and colon:
        return Place(FILE, _file_path(uri))
    if not colon or not STORE_NAME.fullmatch(store) or not rest.startswith("//"):
        raise UnsupportedScheme(
            f"{shown(uri)!r} has no supported scheme; supported: file: (for instance file:///media/talk.wav), "
            "and NAME:// of a store that agents have (for instance s3://bucket/talk.wav, https://host/talk.wav)"
        )
    return Place(store, _url(uri) if store in WEB else _object_path(uri, rest[2:]))


def _file_path(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{uri!r} names the host {parts.netloc!r}; a file: URI begins with file:///")
    if parts.query or parts.fragment or uri.endswith(("?", "#")):
        raise ValueError(f"{uri!r} has a query or fragment; write ? as %3F and # as %23 in a file's name")
    raw = unquote_to_bytes(parts.path)
    if not raw.startswith(b"/") or b"\0" in raw:
        raise ValueError(f"{uri!r} does not name an absolute path; a file: URI begins with file:///")
    return raw.decode("utf-8", "surrogateescape")


def _object_path(uri: str, rest: str) -> str:
    if "?" in rest or "#" in rest:
        raise ValueError(f"{shown(uri)!r} has a query or fragment; write ? as %3F and # as %23 in an object's name")
    try:
        path = unquote(rest, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{uri!r}: an object's name is UTF-8, and its escapes are not") from None
    if path.startswith("/") or not path or "\0" in path:
        raise ValueError(f"{uri!r} names no object; NAME://bucket/key is expected")
    if not {"@", ":"}.isdisjoint(rest.partition("/")[0]):
        raise ValueError(f"{shown(uri)!r} names a user, a password or a port; agents have those, jobs do not")
    return path


def _url(uri: str) -> str:
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise ValueError(f"{shown(uri)!r} carries a user or a password; agents have those, jobs do not")
    if not parts.hostname or parts.fragment or any(character <= " " or character == "\x7f" for character in uri):
        raise ValueError(f"{shown(uri)!r} is no URL; https://host/path without a fragment or blanks is expected")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{shown(uri)!r} is no URL: {error}") from None
    return uri.partition("://")[2]


def deposit_path(uri: str) -> str:
    """What a URI of the controller's own store names there: ``uploads/ID/talk.wav``, or ``results/`` and as much.

    :raises ValueError: it names nothing that could be there.
    """
    at = place(uri)
    parts = at.path.split("/")
    if at.store != CONTROLLER or len(parts) < 3 or parts[0] not in ("uploads", "results"):
        raise ValueError(
            f"{shown(uri)!r}: controller://uploads/ID/NAME or controller://results/FOLDER/NAME is expected"
        )
    if not {"", ".", ".."}.isdisjoint(parts) or len(at.path.encode()) > MOST_DEPOSIT_PATH:
        raise ValueError(
            f"{shown(uri)!r}: a path without empty parts and parts of dots is expected, "
            f"{MOST_DEPOSIT_PATH} bytes at the most"
        )
    return at.path


def shown(uri: str) -> str:
    """The URI as messages may show it: without a query, which may be a signature, and without user and password."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme.lower() == FILE:
        return uri
    rest, query, _ = rest.partition("?")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}" + ("?…" if query else "")


def same_place(first: str, second: str) -> bool:
    """Whether two URIs name one file or object, however they are written; links are not followed."""
    return normal(place(first)) == normal(place(second))


def normal(at: Place) -> Place:
    """The one of the places that are the same by their names alone."""
    return Place(FILE, posixpath.normpath(at.path)) if at.store == FILE else at


def stem(uri: str) -> str:
    """The last component of the path without its extension: ``talk`` of ``file:///media/talk.wav``."""
    return posixpath.splitext(base_name(uri))[0]


def base_name(uri: str) -> str:
    """The last component of the path: ``talk.wav`` of ``file:///media/talk.wav`` and of ``s3://bucket/talk.wav``."""
    at = place(uri)
    if at.store not in WEB:
        return posixpath.basename(at.path)
    # An escaped slash is part of the name there, and could not be in a file's.
    parts = urlsplit(uri)
    name = unquote(posixpath.basename(parts.path)) or parts.hostname or ""
    return name.replace("/", "_").replace("\0", "_")


def join(prefix: str, name: str) -> str:
    """The URI of the file or object ``name`` below a URI that ends in ``/``."""
    at = place(prefix)
    if at.store == FILE:
        return path_to_uri(at.path + name)
    # A file's name may be no text; an object's is.
    return object_uri(at.store, at.path + name.encode("utf-8", "surrogateescape").decode(errors="replace"))


def reach(store: str, prefix: str = "") -> str:
    """How an agent declares a store, or what of it begins with ``prefix`` (``bucket/folder/``)."""
    return f"{store}://{prefix}"
