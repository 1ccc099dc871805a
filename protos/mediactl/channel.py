"""Addresses, credentials and channels: what both ends of every connection agree on."""

import ipaddress
import os
import re
import weakref
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self, TypeVar

import grpc
from grpc import aio

from mediactl.bearer import SyncBearer, aio_bearer
from mediactl.errors import MediactlError
from presets.reasons import Reason

DEFAULT_PORT: Final = 7420
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024

# sun_path holds 108 bytes with the closing zero (unix(7)).
_SUN_PATH_BYTES: Final = 107

# A host holds no slash, so a comma with one after it, before the next socket, is part of a directory's name.
_SEPARATOR: Final = re.compile(r",(?=\s*unix:|(?:(?!,\s*unix:)[^/])*(?:,\s*unix:|$))")

_Option = tuple[str, int | str]
_MESSAGES: Final[tuple[_Option, ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
# Without keepalive a cut link hangs for minutes. 30 s and 10 s are above the server's least interval below.
_KEEPALIVE: Final[tuple[_Option, ...]] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
# `min_recv_ping_interval_without_data_ms`, which some documents name, is ignored by gRPC core; a server that
# does not allow the clients' pings closes with "too many pings".
KEEPALIVE_SERVER: Final[tuple[_Option, ...]] = (
    *_KEEPALIVE,
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
SERVER_OPTIONS: Final[tuple[_Option, ...]] = (
    *_MESSAGES,
    *KEEPALIVE_SERVER,
    # gRPC's default lets a second server listen on the same port, and the kernel deals out the callers.
    ("grpc.so_reuseport", 0),
)

_CLIENT_OPTIONS: Final[tuple[_Option, ...]] = (
    *_MESSAGES,
    *_KEEPALIVE,
    # A controller that restarts is back in a second or two; gRPC's own first pause is a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A unix socket, by absolute path."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A host and a port."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can be meant. A name other than `localhost` is never looked up for it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


Target = UnixTarget | TcpTarget


@dataclass(frozen=True, slots=True)
class Credentials:
    """PEM files, and a file with one bearer token. As a client the certificate is sent where it is given; as a
    server it is required for TLS, and a CA then means that clients must show a certificate signed by it."""

    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return any((self.tls_ca, self.tls_cert, self.tls_key))

    @classmethod
    def from_environment(cls) -> Self:
        """MEDIACTL_TLS_CA, MEDIACTL_TLS_CERT, MEDIACTL_TLS_KEY and MEDIACTL_TOKEN_FILE."""

        def path(name: str) -> Path | None:
            value = os.environ.get(f"MEDIACTL_{name}")
            return Path(value) if value else None

        return cls(path("TLS_CA"), path("TLS_CERT"), path("TLS_KEY"), path("TOKEN_FILE"))


def parse_address(address: str) -> Target:
    """`unix:PATH` or `host[:port]`, an IPv6 address in brackets.

    Raises MediactlError INVALID_ARGUMENT.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        if path.startswith("//"):
            path = path.removeprefix("//")
        if not path:
            raise _bad_address(address)
        return UnixTarget(Path(path).absolute())
    if address.startswith("["):
        host, closed, rest = address[1:].partition("]")
        port = rest.removeprefix(":") if rest.startswith(":") else rest
        if not closed or (rest and not rest.startswith(":")):
            raise _bad_address(address)
    else:
        host, _, port = address.partition(":")
    if not host or "/" in host or "," in host or (":" in address and not port and not address.endswith("]")):
        raise _bad_address(address)
    if not port:
        return TcpTarget(host, DEFAULT_PORT)
    if not (port.isascii() and port.isdigit() and 0 <= int(port) <= 65535):
        raise _bad_address(address)
    return TcpTarget(host, int(port))


def parse_addresses(text: str) -> tuple[Target, ...]:
    """Addresses of controllers that stand in for one another, separated by commas: at least one, none twice.

    Raises MediactlError INVALID_ARGUMENT.
    """
    return tuple(dict.fromkeys(parse_address(part.strip()) for part in _SEPARATOR.split(text)))


def require_protection(target: Target, credentials: Credentials) -> None:
    """Refuses plain text over a network, on either end.

    Raises MediactlError INVALID_ARGUMENT.
    """
    if isinstance(target, TcpTarget) and not target.loopback and not credentials.tls:
        raise MediactlError(
            Reason.INVALID_ARGUMENT,
            f"{target} is not on this machine, and plain text over a network is refused: "
            "give TLS files (--tls-ca, --tls-cert, --tls-key), or use a loopback address or a unix socket",
        )


def read_token(path: Path) -> str:
    """The bearer token of a token file.

    Raises MediactlError UNAUTHENTICATED where there is none to read.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it holds characters outside ASCII"
        raise MediactlError(Reason.UNAUTHENTICATED, f"can't read the token file {path}: {why}") from None
    if not token or not token.isprintable() or " " in token:
        raise MediactlError(Reason.UNAUTHENTICATED, f"the token file {path} must hold one token on one line")
    return token


def aio_channel(address: str, credentials: Credentials | None = None) -> aio.Channel:
    """A channel for asyncio. Must be made inside the running loop that uses it.

    Raises MediactlError INVALID_ARGUMENT for a bad address, unreadable TLS files or unprotected plain text.
    """
    held = credentials or Credentials()
    prepared = _prepare(address, held)
    interceptors = aio_bearer(partial(read_token, held.token_file)) if held.token_file else None
    channel = (
        aio.secure_channel(prepared.target, prepared.tls, prepared.options, interceptors=interceptors)
        if prepared.tls
        else aio.insecure_channel(prepared.target, prepared.options, interceptors=interceptors)
    )
    return _closing(channel, prepared)


def sync_channel(address: str, credentials: Credentials | None = None) -> grpc.Channel:
    """A blocking channel.

    Raises MediactlError INVALID_ARGUMENT for a bad address, unreadable TLS files or unprotected plain text.
    """
    held = credentials or Credentials()
    prepared = _prepare(address, held)
    channel = (
        grpc.secure_channel(prepared.target, prepared.tls, prepared.options)
        if prepared.tls
        else grpc.insecure_channel(prepared.target, prepared.options)
    )
    _closing(channel, prepared)
    if held.token_file:
        return grpc.intercept_channel(channel, SyncBearer(partial(read_token, held.token_file)))
    return channel


def server_credentials(credentials: Credentials) -> grpc.ServerCredentials | None:
    """What a listener needs; None for plain text. With a CA, clients must show a certificate signed by it.

    Raises MediactlError INVALID_ARGUMENT.
    """
    if not credentials.tls:
        return None
    if credentials.tls_cert is None or credentials.tls_key is None:
        raise MediactlError(
            Reason.INVALID_ARGUMENT,
            "a TLS listener needs both a certificate and its key (--tls-cert, --tls-key)",
        )
    ca = _pem(credentials.tls_ca) if credentials.tls_ca else None
    return grpc.ssl_server_credentials(
        [(_pem(credentials.tls_key), _pem(credentials.tls_cert))],
        root_certificates=ca,
        require_client_auth=ca is not None,
    )


def unix_bind_target(path: Path) -> str:
    """What a server binds for a socket path of any length. Its directory must exist.

    For a long path one descriptor of the directory stays open for the life of the process: the server needs it
    again when it unlinks the socket.
    """
    return _unix_target(path)[0]


class _Prepared(NamedTuple):
    target: str
    tls: grpc.ChannelCredentials | None
    options: tuple[_Option, ...]
    directory: int | None


def _prepare(address: str, credentials: Credentials) -> _Prepared:
    parsed = parse_address(address)
    require_protection(parsed, credentials)
    if isinstance(parsed, UnixTarget):
        target, directory = _unix_target(parsed.path)
        # The default would be the percent-encoded path, which strict HTTP/2 servers refuse.
        return _Prepared(target, None, (*_CLIENT_OPTIONS, ("grpc.default_authority", "localhost")), directory)
    tls = None
    if credentials.tls:
        if (credentials.tls_cert is None) != (credentials.tls_key is None):
            raise MediactlError(Reason.INVALID_ARGUMENT, "a TLS certificate and its key go together: one is missing")
        tls = grpc.ssl_channel_credentials(
            root_certificates=_pem(credentials.tls_ca) if credentials.tls_ca else None,
            private_key=_pem(credentials.tls_key) if credentials.tls_key else None,
            certificate_chain=_pem(credentials.tls_cert) if credentials.tls_cert else None,
        )
    return _Prepared(f"dns:///{parsed}", tls, _CLIENT_OPTIONS, None)


def _unix_target(path: Path) -> tuple[str, int | None]:
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        return f"unix:{path}", None
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MediactlError(
            Reason.CONTROLLER_UNREACHABLE,
            f"the socket's directory can't be opened: {path.parent}: {error.strerror}",
        ) from None
    short = f"/proc/self/fd/{directory}/{path.name}"
    if len(os.fsencode(short)) > _SUN_PATH_BYTES:
        os.close(directory)
        raise MediactlError(Reason.INVALID_ARGUMENT, f"the socket's file name is too long: {path.name}")
    return f"unix:{short}", directory


_C = TypeVar("_C", aio.Channel, grpc.Channel)


def _closing(channel: _C, prepared: _Prepared) -> _C:
    # A channel reconnects through the directory for as long as it lives.
    if prepared.directory is not None:
        weakref.finalize(channel, os.close, prepared.directory)
    return channel


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediactlError(Reason.INVALID_ARGUMENT, f"can't read the TLS file {path}: {error.strerror}") from None


def _bad_address(address: str) -> MediactlError:
    return MediactlError(
        Reason.INVALID_ARGUMENT,
        f"not an address: {address!r}; expected unix:PATH or HOST:PORT, e.g. localhost:7420",
    )
