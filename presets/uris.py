"""URIs of inputs and outputs. Only ``file:`` for now; the scheme decides, so others can be added."""

import posixpath
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes, urlsplit

#: The schemes an input or output may have.
SCHEMES: tuple[str, ...] = ("file",)


class UnsupportedScheme(ValueError):
    """A URI without a scheme, or with one that is not in :data:`SCHEMES`."""


def path_to_uri(path: str) -> str:
    """The ``file:`` URI (RFC 8089) of an absolute path; bytes that are no UTF-8 survive as escapes.

    :raises ValueError: the path is not absolute.
    """
    if not path.startswith("/"):
        raise ValueError(f"not an absolute path: {path!r}")
    return "file://" + quote(path.encode("utf-8", "surrogateescape"), safe="/~")


@lru_cache(maxsize=4096)
def uri_to_path(uri: str) -> str:
    """The path that a ``file:`` URI names, the inverse of :func:`path_to_uri`.

    :raises UnsupportedScheme: it is no ``file:`` URI.
    :raises ValueError: it names no absolute path of this machine, or one that no system can have.
    """
    scheme, colon, _ = uri.partition(":")
    if not colon or scheme.lower() not in SCHEMES:
        raise UnsupportedScheme(
            f"{uri!r} has no supported scheme; supported: {', '.join(f'{s}:' for s in SCHEMES)} "
            "(for instance file:///media/talk.wav)"
        )
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"{uri!r} names the host {parts.netloc!r}; a file: URI begins with file:///")
    if parts.query or parts.fragment or uri.endswith(("?", "#")):
        raise ValueError(f"{uri!r} has a query or fragment; write ? as %3F and # as %23 in a file's name")
    raw = unquote_to_bytes(parts.path)
    if not raw.startswith(b"/") or b"\0" in raw:
        raise ValueError(f"{uri!r} does not name an absolute path; a file: URI begins with file:///")
    return raw.decode("utf-8", "surrogateescape")


def same_file(first: str, second: str) -> bool:
    """Whether two ``file:`` URIs name one path, however they are written; links are not followed."""
    return posixpath.normpath(uri_to_path(first)) == posixpath.normpath(uri_to_path(second))


def stem(uri: str) -> str:
    """The last component of the path without its extension: ``talk`` of ``file:///media/talk.wav``."""
    name = posixpath.basename(uri_to_path(uri))
    return posixpath.splitext(name)[0]


def join(prefix: str, name: str) -> str:
    """The URI of the file ``name`` below a URI that ends in ``/``."""
    return path_to_uri(uri_to_path(prefix) + name)
