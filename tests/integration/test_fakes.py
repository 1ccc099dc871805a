"""The servers and links that other tests rely on: a PostgreSQL that dies and returns, a proxy that misbehaves."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from sqlalchemy import create_engine, text

from tests.fakes.postgres import Postgres, PostgresAbsent, PostgresFailed, programs, through
from tests.fakes.proxy import Proxy, proxy_thread

PATIENCE_S = 20.0


def _sql(url: str, statement: str) -> list[tuple[object, ...]]:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            rows = connection.execute(text(statement))
            return [tuple(row) for row in rows] if rows.returns_rows else []
    finally:
        engine.dispose()


def _soon(holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < ends:
        time.sleep(0.02)
    return holds()


# --- PostgreSQL ---


def test_databases_are_copies_that_know_nothing_of_one_another(postgres: Postgres) -> None:
    """A template is prepared once per name; what is written to one copy is in no other, nor in the template."""
    prepared = []

    def prepare(url: str) -> None:
        prepared.append(url)
        _sql(url, "CREATE TABLE words (word text)")

    one, two = (postgres.create_database(postgres.template("words", prepare)) for _ in range(2))
    _sql(one, "INSERT INTO words VALUES ('Grüße')")
    assert len(prepared) == 1
    assert _sql(one, "SELECT word FROM words") == [("Grüße",)]
    assert _sql(two, "SELECT word FROM words") == []
    with postgres.database() as empty:
        assert _sql(empty, "SELECT datcollate FROM pg_database WHERE datname = current_database()") == [("C",)]
        assert _sql(empty, "SELECT to_regclass('words')") == [(None,)]
    for url in (one, two):
        postgres.drop_database(url)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(one.replace("+psycopg", ""))


def test_a_killed_server_comes_back_with_every_commit(own_postgres: Postgres) -> None:
    """SIGKILL leaves no process, cuts clients off and loses what was open; what was committed is there afterwards,
    at the same address. In the end nothing is left, not even of a server that was killed again.
    """
    server = own_postgres
    url, address, folder = server.create_database(), server.address, server.folder
    _sql(url, "CREATE TABLE n (i int)")
    _sql(url, "INSERT INTO n VALUES (1)")
    with psycopg.connect(url.replace("+psycopg", "")) as open_one:
        open_one.execute("INSERT INTO n VALUES (2)")
        backend = psutil.Process(open_one.info.backend_pid)
        server.kill()
        assert not server.running
        assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
        with pytest.raises(psycopg.OperationalError):
            open_one.execute("SELECT 1")
    server.restart()
    assert server.address == address
    assert _sql(through(url, address), "SELECT i FROM n") == [(1,)]
    server.stop()
    server.start()
    assert _sql(url, "SELECT i FROM n") == [(1,)]
    server.kill()
    server.close()
    assert not folder.exists()


@pytest.mark.usefixtures("postgres")
def test_a_server_ends_with_the_tests_that_started_it() -> None:
    """Tests that are killed leave neither a server nor its folder behind."""
    script = (
        "from tests.fakes.postgres import Postgres; server = Postgres(); server.start();"
        "print(server.folder, (server.folder / 'data/postmaster.pid').read_text().split()[0], flush=True); input()"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout
        folder, pid = tests.stdout.readline().split()
        tests.send_signal(signal.SIGKILL)
    assert _soon(lambda: not Path(folder).exists())
    assert _soon(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.usefixtures("postgres")
def test_a_server_that_cannot_start_says_why() -> None:
    """A failure to start carries the server's own log, and leaves nothing."""
    server = Postgres(settings={"no_such": "1"})
    with pytest.raises(PostgresFailed, match="unrecognized configuration parameter"):
        server.start()
    folder = server.folder
    server.close()
    assert not folder.exists()


def test_programs_are_found_on_path_and_where_packages_hide_them(tmp_path: Path) -> None:
    """PATH wins, links followed; then the newest packaged version; without any, the reason names the remedy."""
    with pytest.raises(PostgresAbsent, match="postgres-needed"):
        programs("", tmp_path)
    for version in ("9.6", "15", "14"):
        folder = tmp_path / "usr/lib/postgresql" / version / "bin"
        folder.mkdir(parents=True)
        for name in ("initdb", "postgres"):
            (folder / name).touch(mode=0o755)
    assert programs("", tmp_path).parent.name == "15"
    linked = tmp_path / "bin"
    linked.mkdir()
    (linked / "initdb").symlink_to(tmp_path / "usr/lib/postgresql/14/bin/initdb")
    assert programs(str(linked), tmp_path).parent.name == "14"


def test_postgres_through_a_proxy(postgres: Postgres) -> None:
    """Over the proxy a database answers; cut, the connection breaks; mended, the next one works."""
    with postgres.database() as url, proxy_thread(postgres.address) as proxy:
        reached = through(url, proxy.address).replace("+psycopg", "")
        with psycopg.connect(reached) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert proxy.connections == 1
            proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(reached)
        proxy.mend()
        with psycopg.connect(reached) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert proxy.accepted == 2


# --- the proxy ---


@pytest.fixture(params=["tcp", "unix"])
async def echo(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[str, str]]:
    """A server that says back what it hears, and where a proxy of the same kind may listen."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    if request.param == "unix":
        server = await asyncio.start_unix_server(serve, tmp_path / "echo")
        yield f"unix:{tmp_path}/echo", f"unix:{tmp_path}/proxy"
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "127.0.0.1:0"
    server.close()


async def _dial(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address.removeprefix("unix:"))
    host, port = address.rsplit(":", 1)
    return await asyncio.open_connection(host, int(port))


async def test_all_bytes_and_ends_pass(echo: tuple[str, str]) -> None:
    """Megabytes come back unchanged, a half-closed connection still delivers, and a finished one is not counted."""
    target, listen = echo
    async with Proxy(target, listen=listen) as proxy, asyncio.timeout(PATIENCE_S):
        reader, writer = await _dial(proxy.address)
        sent = os.urandom(3_000_000)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent
        writer.close()
        while proxy.connections:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)


async def test_cut_and_mended(echo: tuple[str, str]) -> None:
    """Cut: connections end at once and new ones are refused, at an address that stays. Mended: all is as before."""
    target, listen = echo
    async with Proxy(target, listen=listen) as proxy, asyncio.timeout(PATIENCE_S):
        for _ in range(3):
            reader, writer = await _dial(proxy.address)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            proxy.cut()
            assert proxy.connections == 0
            if target.startswith("unix:"):
                assert await reader.read() == b""
            else:
                with pytest.raises(ConnectionResetError):
                    await reader.read()
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await _dial(proxy.address)
            proxy.mend()
        assert proxy.accepted == 3


async def test_cut_at_any_moment_of_a_connection(echo: tuple[str, str]) -> None:
    """However far a connection has come when the link is cut, its client learns of it and the proxy lives on."""
    target, listen = echo
    async with Proxy(target, listen=listen) as proxy, asyncio.timeout(PATIENCE_S):
        for turns in range(12):
            reader, writer = await _dial(proxy.address)
            for _ in range(turns):
                await asyncio.sleep(0)
            proxy.cut()
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            proxy.mend()
        reader, writer = await _dial(proxy.address)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()


async def test_frozen_and_thawed(echo: tuple[str, str]) -> None:
    """Frozen: nothing arrives, yet connections stay and new ones are taken. Thawed: everything arrives, in order."""
    target, listen = echo
    async with Proxy(target, listen=listen) as proxy, asyncio.timeout(PATIENCE_S):
        old = await _dial(proxy.address)
        old[1].write(b"a")
        assert await old[0].readexactly(1) == b"a"
        proxy.freeze()
        new = await _dial(proxy.address)
        for _, writer in (old, new):
            writer.write(b"bc")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await old[0].read(1)
        proxy.thaw()
        for reader, writer in (old, new):
            assert await reader.readexactly(2) == b"bc"
            writer.close()


async def test_delay_holds_in_each_direction(echo: tuple[str, str]) -> None:
    """There and back take twice the delay, but many bytes under way at once take it no more than once."""
    target, listen = echo
    async with Proxy(target, listen=listen, delay_s=0.2) as proxy, asyncio.timeout(PATIENCE_S):
        reader, writer = await _dial(proxy.address)
        began = time.monotonic()
        writer.write(b"x" * 500_000)
        await reader.readexactly(500_000)
        assert 0.4 <= time.monotonic() - began < 2.0  # one after the other, 64 KiB each: 3.2 s
        writer.close()


async def test_a_target_that_is_not_there(tmp_path: Path) -> None:
    """Clients of a proxy to nowhere are cut off, and the proxy lives on."""
    async with Proxy(f"unix:{tmp_path}/nobody") as proxy, asyncio.timeout(PATIENCE_S):
        for _ in range(2):
            reader, writer = await _dial(proxy.address)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()


async def test_grpc_through_a_proxy(tmp_path: Path) -> None:
    """Calls pass; cut, the one under way is UNAVAILABLE; mended, a channel finds its way back by itself."""
    server = aio.server()
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{tmp_path}/server")
    await server.start()
    request = health_pb2.HealthCheckRequest()
    async with Proxy(f"unix:{tmp_path}/server") as proxy, aio.insecure_channel(proxy.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watching = stub.Watch(request)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
        proxy.cut()
        with pytest.raises(aio.AioRpcError) as caught:
            await watching.read()
        assert caught.value.code() == StatusCode.UNAVAILABLE
        proxy.mend()
        answer = await stub.Check(request, wait_for_ready=True, timeout=PATIENCE_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    await server.stop(None)
