"""A real PostgreSQL server of a test's own, which can be killed and comes back, and databases made in a moment."""

import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, LiteralString, Self

import psutil
import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 1 << 30
_LONGEST_PARENT = 60
"""Bytes: a socket's path has 108 at most, and the rest goes to the folder's and the socket's own names."""

_UP_S = 60.0
_DOWN_S = 30.0
_LOG_TAIL = 4000

_PACKAGED = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "timezone": "UTC",
    # Backends map these from the data directory then, and a kill leaves nothing behind elsewhere.
    "dynamic_shared_memory_type": "mmap",
}
# What a kill of processes can't show, the kernel keeping what was written: commits survive without them all the same.
_QUICK = {"fsync": "off", "full_page_writes": "off"}

# Waits for its input to end, as it does however the tests die, and clears away what `close` then could not.
_GUARDIAN = """
cat >/dev/null
pid=$(head -n 1 "$1/data/postmaster.pid") && grep -qF "$1" "/proc/$pid/cmdline" && kill -QUIT "$pid"
while [ -n "$pid" ] && grep -qF "$1" "/proc/$pid/cmdline"; do sleep 0.1; done
cd / && rm -rf "$1"
"""


class PostgresAbsent(Exception):
    """No PostgreSQL programs on this machine, or nobody who may run them."""


class PostgresFailed(Exception):
    """The server did not start or stop in time; the message ends with its log."""


def programs(path: str | None = None, root: Path = Path("/")) -> Path:
    """The folder with initdb and postgres: that of PATH, else the newest that packages keep off it.

    Raises PostgresAbsent.
    """
    on_path = shutil.which("initdb", path=path)
    packaged = [folder for pattern in _PACKAGED for folder in root.glob(pattern)]
    newest_first = sorted(packaged, key=lambda folder: float(folder.parent.name.removeprefix("pgsql-")), reverse=True)
    for folder in ([Path(on_path).resolve().parent] if on_path else []) + newest_first:
        if all(os.access(folder / program, os.X_OK) for program in ("initdb", "postgres")):
            return folder
    raise PostgresAbsent("no PostgreSQL server here: tools/postgres-needed installs one")


class Postgres:
    """One server in a temporary folder: `start` makes it, `close` removes it, and in between it may die and return.

    Every method blocks: from a coroutine, use asyncio.to_thread. Without `durable` a commit survives `kill` but not
    the machine; with it the server is set as it comes and lies on a disk. `parent` is where the folder goes, else the
    machine's memory or, durable, /var/tmp. `settings` are postgresql.conf's.
    """

    def __init__(
        self, *, durable: bool = False, parent: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._programs = programs()
        self._settings = _SETTINGS | ({} if durable else _QUICK) | dict(settings or {})
        self._places = [parent] if parent else _places(durable)
        self._user = _user()
        self._password = secrets.token_urlsafe(16)
        self._folder: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._templates: dict[str, str] = {}
        self._numbers = itertools.count(1)
        # Bound all the while and never listening: the port stays ours while the server is down.
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self._port: int = self._holder.getsockname()[1]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """host:port of the TCP port, the same for life: a proxy's target. It asks for the URL's password."""
        return f"127.0.0.1:{self._port}"

    @property
    def folder(self) -> Path:
        """Where the server lives: the folder of its unix socket, of its data and its `log`."""
        assert self._folder, "not started"
        return self._folder

    @property
    def running(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """Up and answering, after a kill recovered too. Raises PostgresFailed, and PostgresAbsent the first time."""
        if self.running:
            raise PostgresFailed("it is running already")
        if not self._folder:
            self._make()
        with (self.folder / "log").open("ab") as log:
            place = {"port": str(self._port), "unix_socket_directories": str(self.folder)}
            settings = [f"--{name}={value}" for name, value in (self._settings | place).items()]
            command: list[str | Path] = [self._programs / "postgres", "-D", self.folder / "data", *settings]
            self._server = server = self._popen(command, stdout=log)
        ends = time.monotonic() + _UP_S
        while not self._answers():
            if server.poll() is not None or time.monotonic() > ends:
                raise PostgresFailed(f"the server did not start\n{self._log_tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Down in order, as `systemctl stop` would have it: open transactions rolled back, clients sent away."""
        self._shut(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL to the server and every process of it at one moment; they are gone on return."""
        if not self._server or self._server.poll() is not None:
            return
        server = psutil.Process(self._server.pid)
        server.suspend()  # or it would start processes, and tell others, while they are being killed
        ends = time.monotonic() + _DOWN_S
        while server.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE} and time.monotonic() < ends:
            time.sleep(0.001)
        family = [*server.children(recursive=True), server]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._server.wait(_DOWN_S)
        while any(map(_alive, family)):
            if time.monotonic() > ends:
                raise PostgresFailed(f"processes outlive SIGKILL: {family}")
            time.sleep(0.002)

    def restart(self) -> None:
        """Down in order if it is up, then up again: same port, same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Down at once, and nothing left of it. May be called at any time, also twice."""
        try:
            self._shut(signal.SIGQUIT)
            self._forget_shared_memory()
        finally:
            if self._folder:
                shutil.rmtree(self._folder, ignore_errors=True)
            if self._guardian:
                self._guardian.communicate()
            self._holder.close()
            self._folder = self._guardian = None

    def template(self, name: str, prepare: Callable[[str], None]) -> str:
        """A database for `create_database` to copy: `prepare` gets its URL once per name, and closes what it opens."""
        if name not in self._templates:
            database = f"template_{next(self._numbers)}"
            self._administer("CREATE DATABASE {}", database)
            prepare(self._url(database))
            self._administer("ALTER DATABASE {} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false", database)
            self._templates[name] = database
        return self._templates[name]

    def create_database(self, template: str = "template1") -> str:
        """The URL, for SQLAlchemy with psycopg over the unix socket, of a new database: empty, or a copy."""
        database = f"test_{next(self._numbers)}"
        self._administer("CREATE DATABASE {} TEMPLATE {}", database, template)
        return self._url(database)

    def drop_database(self, url: str) -> None:
        """Removes it, whoever is still connected."""
        self._administer("DROP DATABASE IF EXISTS {} WITH (FORCE)", str(make_url(url).database))

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """`create_database` and `drop_database` around a test; it may kill the server if it restarts it."""
        url = self.create_database(template)
        try:
            yield url
        finally:
            self.drop_database(url)

    def _url(self, database: str) -> str:
        url = URL.create("postgresql+psycopg", "postgres", self._password, database=database)
        return through(url.render_as_string(hide_password=False), f"unix:{self.folder}/.s.PGSQL.{self._port}")

    def _administer(self, statement: LiteralString, *names: str) -> None:
        with self._connection() as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _connection(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.folder),
            port=self._port,
            user="postgres",
            dbname="postgres",
            autocommit=True,
            connect_timeout=10,
        )

    def _answers(self) -> bool:
        try:
            self._connection().close()
        except psycopg.OperationalError:
            return False
        return True

    def _make(self) -> None:
        parent = next((place for place in self._places if _serves(place)), None)
        if not parent:
            raise PostgresAbsent(f"no place for a PostgreSQL server that its user can reach among {self._places}")
        self._folder = folder = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
        password = folder / "password"
        password.write_text(self._password)
        try:
            if self._user:
                for path in (folder, password):
                    os.chown(path, self._user.pw_uid, self._user.pw_gid)
            self._guardian = self._popen(["sh", "-c", _GUARDIAN, "sh", folder], stdin=subprocess.PIPE)
            # Local connections are trusted, as the folder lets nobody else in; the TCP port is open to the machine.
            rules = ("-U", "postgres", f"--pwfile={password}", "--auth-local=trust", "--auth-host=scram-sha-256")
            kind = ("-E", "UTF8", "--locale=C", "--no-sync")
            initdb = self._popen(
                [self._programs / "initdb", "-D", folder / "data", *kind, *rules], stdout=subprocess.PIPE
            )
        except PermissionError as error:
            raise PostgresAbsent(f"root may not run PostgreSQL, nor become another user: {error}") from error
        try:
            said, _ = initdb.communicate(timeout=_UP_S)
        except subprocess.TimeoutExpired:
            initdb.kill()
            said, _ = initdb.communicate()
        if initdb.returncode:
            raise PostgresFailed(f"initdb failed\n{said.decode(errors='replace')}")
        password.unlink()

    def _popen(
        self, command: Sequence[str | Path], *, stdin: int = subprocess.DEVNULL, stdout: int | IO[bytes] | None = None
    ) -> subprocess.Popen[bytes]:
        user = self._user
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.DEVNULL if stdout is None else stdout,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            start_new_session=True,  # what ends the tests from a keyboard must not race with `close`
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=() if user else None,
        )

    def _shut(self, signum: signal.Signals) -> None:
        if not self._server or self._server.poll() is not None:
            return
        self._server.send_signal(signum)
        try:
            self._server.wait(_DOWN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise PostgresFailed(f"the server did not stop\n{self._log_tail()}") from None

    def _forget_shared_memory(self) -> None:
        # A killed server that nobody restarted leaves its System V segment, and the kernel has a few thousand.
        if not self._folder:
            return
        with suppress(OSError, IndexError):
            segment = (self._folder / "data" / "postmaster.pid").read_text().splitlines()[6].split()[1]
            self._popen(["ipcrm", "-m", segment]).wait(_DOWN_S)

    def _log_tail(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-_LOG_TAIL:]


def through(url: str, address: str) -> str:
    """The same database, reached at a proxy's `address`: host:port, or unix:PATH ending in .s.PGSQL.NUMBER."""
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        place = {"host": str(path.parent), "port": path.suffix[1:]}
        changed = make_url(url).set(query=place)._replace(host=None, port=None)
    else:
        host, port = address.rsplit(":", 1)
        changed = make_url(url).set(host=host, port=int(port), query={})
    return changed.render_as_string(hide_password=False)


def _user() -> pwd.struct_passwd | None:
    # PostgreSQL refuses to run as root. None: as whoever runs the tests, whose name it needs to know.
    if os.getuid() != 0:
        try:
            pwd.getpwuid(os.getuid())
        except KeyError:
            raise PostgresAbsent(f"PostgreSQL needs a user with a name, which {os.getuid()} has not") from None
        return None
    for name in ("nobody", "postgres"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgresAbsent("PostgreSQL does not run as root, and there is neither nobody nor postgres to run it")


def _places(durable: bool) -> list[Path]:
    disk = [Path("/var/tmp"), Path(tempfile.gettempdir()), Path("/tmp")]
    roomy = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES  # containers often have 64 MB
    return disk if durable or not roomy else [_MEMORY, *disk]


def _serves(place: Path) -> bool:
    reachable = os.getuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in (place, *place.parents))
    return os.access(place, os.W_OK | os.X_OK) and reachable and len(os.fsencode(place)) <= _LONGEST_PARENT


def _alive(process: psutil.Process) -> bool:
    # Somebody else's orphans: a zombie that nobody reaps holds no memory and no socket.
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
