"""Inputs from the web, from a server on this machine that answers as told."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from agent.storage import download
from agent.storage.patience import Patience
from agent.storage.stores import StoreKind, StoreTable
from agent.storage.web import WebStore
from presets.problems import MediaFailure
from presets.reasons import Reason

CONTENT = os.urandom(50_000)
PATIENCE = Patience(tries=3, first_wait_s=0.0, longest_wait_s=0.0, silence_s=5.0)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Serves what ``answers`` has for a path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[web.Request] = []
        self.endpoint = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        answer = self.answers.get(request.path)
        return await answer(request) if answer else web.Response(status=404)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setattr(download, "PIECE_BYTES", 20_000)
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0]
    made.endpoint = f"http://127.0.0.1:{port}"
    yield made
    await runner.cleanup()


@pytest.fixture
def store(server: Server) -> WebStore:
    """The store named https, allowed to ask this server although it is the machine itself."""
    return WebStore("https", StoreTable(StoreKind.HTTPS, endpoint=server.endpoint), patience=PATIENCE)


def ranged(content: bytes = CONTENT, tag: str = '"one"') -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        headers = {"ETag": tag} if tag else {}
        if request.headers.get("If-Match", tag) != tag:
            return web.Response(status=412)
        asked = request.http_range
        if asked.start is None:
            return web.Response(body=content, headers=headers)
        if not content:
            return web.Response(status=416, headers={"Content-Range": "bytes */0"})
        part = content[asked]
        headers["Content-Range"] = f"bytes {asked.start}-{asked.start + len(part) - 1}/{len(content)}"
        return web.Response(status=206, body=part, headers=headers)

    return answer


def plain(**headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=CONTENT, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


async def failure(work: Awaitable[object]) -> MediaFailure:
    with pytest.raises(MediaFailure) as caught:
        await work
    assert "secret" not in caught.value.message
    return caught.value


async def test_in_ranges(server: Server, store: WebStore, tmp_path: Path) -> None:
    """A server with ranges is asked for several, of the version that was found; signed URLs are left as they are."""
    server.answers["/a b.wav"] = ranged()
    url = f"{server.endpoint}/a%20b.wav?signature=s%2Fecret&x=%41"
    identity = await store.fetch(url, tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == CONTENT
    assert (identity.size, identity.token) == (len(CONTENT), "one")
    assert {request.raw_path for request in server.asked} == {"/a%20b.wav?signature=s%2Fecret&x=%41"}
    assert {request.method for request in server.asked} == {"GET"}
    spans = {request.headers["Range"] for request in server.asked[1:]}
    assert spans == {"bytes=0-19999", "bytes=20000-39999", "bytes=40000-49999"}
    assert {request.headers["If-Match"] for request in server.asked[1:]} == {'"one"'}


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"ETag": '"one"'}, "one"),
        ({"ETag": 'W/"one"'}, "one"),
        ({"Last_Modified": "Wed, 25 Nov 2026 17:00:00 GMT"}, f"Wed, 25 Nov 2026 17:00:00 GMT-{len(CONTENT)}"),
        ({}, f"-{len(CONTENT)}"),
    ],
)
async def test_in_one_stream(
    server: Server, store: WebStore, tmp_path: Path, headers: dict[str, str], token: str
) -> None:
    """A server without ranges is read in one go; what tells the version is what there is."""
    server.answers["/x"] = plain(**headers)
    identity = await store.fetch(f"{server.endpoint}/x", tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == CONTENT
    assert identity.token == token


async def test_a_change_between_the_ranges(server: Server, store: WebStore, tmp_path: Path) -> None:
    """Also a server that minds no If-Match, or has weak tags only, is found out."""
    calls = 0

    async def changing(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return await ranged(tag=f'W/"{calls}"')(request)

    server.answers["/x"] = changing
    assert (await failure(store.fetch(f"{server.endpoint}/x", tmp_path / "0"))).reason is Reason.INPUT_CHANGED
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "reason", "asked"),
    [
        (404, Reason.INPUT_NOT_FOUND, 1),
        (410, Reason.INPUT_NOT_FOUND, 1),
        (401, Reason.INPUT_UNAVAILABLE, 1),
        (403, Reason.INPUT_UNAVAILABLE, 1),
        (418, Reason.INPUT_UNAVAILABLE, 1),
        (429, Reason.INPUT_UNAVAILABLE, 3),
        (500, Reason.INPUT_UNAVAILABLE, 3),
        (503, Reason.INPUT_UNAVAILABLE, 3),
    ],
)
async def test_refusals(server: Server, store: WebStore, status: int, reason: Reason, asked: int) -> None:
    """What may pass is asked for again; the answer is told, the query of the URL is not."""

    async def refusing(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    server.answers["/x"] = refusing
    assert (await failure(store.identify(f"{server.endpoint}/x?sig=secret"))).reason is reason
    assert len(server.asked) == asked


async def test_what_is_no_input(server: Server, store: WebStore) -> None:
    """Empty, of unknown length, or only to be had compressed."""

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(b"x")
        return answer

    server.answers |= {"/empty": ranged(b""), "/endless": endless, "/gzip": plain(Content_Encoding="gzip")}
    assert (await failure(store.identify(f"{server.endpoint}/empty"))).reason is Reason.INPUT_EMPTY
    for path, told in (("/endless", "how long"), ("/gzip", "compressed")):
        found = await failure(store.identify(f"{server.endpoint}{path}"))
        assert found.reason is Reason.INPUT_UNAVAILABLE
        assert told in found.message


def redirect(to: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": to})

    return answer


async def test_redirects(server: Server, store: WebStore, tmp_path: Path) -> None:
    """Followed, relative ones too, but not for ever."""
    server.answers |= {"/a": redirect("b?x=1"), "/b": redirect(f"{server.endpoint}/c"), "/c": ranged()}
    await store.fetch(f"{server.endpoint}/a", tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == CONTENT
    server.answers["/c"] = redirect("/a")
    assert "redirects" in (await failure(store.identify(f"{server.endpoint}/a"))).message


@pytest.mark.parametrize(
    "to",
    [
        "file:///etc/passwd",
        "ftp://host/x",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://127.0.0.1:1/",
        "http://[::ffff:127.0.0.1]:1/",
        "http://localhost:1/",
        "http://0.0.0.0:1/",
        "http://2130706433/",
        "",
    ],
)
async def test_redirects_that_lead_astray(server: Server, store: WebStore, to: str) -> None:
    """Neither to other schemes nor to the host's own services nor to the machine itself, by address or by name."""
    server.answers["/x"] = redirect(to)
    found = await failure(store.identify(f"{server.endpoint}/x"))
    assert found.reason is Reason.INPUT_UNAVAILABLE
    assert "leads to" in found.message or "redirects to" in found.message or "no URL" in found.message
    assert len(server.asked) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_the_machine_itself(server: Server, host: str) -> None:
    """What no store was configured with is not asked, however it is written."""
    port = server.endpoint.rpartition(":")[2]
    free = WebStore("https", StoreTable(StoreKind.HTTPS), patience=PATIENCE)
    found = await failure(free.identify(f"http://{host}:{port}/x"))
    assert "the machine itself" in found.message
    assert server.asked == []


async def test_only_the_endpoint_itself(server: Server) -> None:
    """What a store is configured with is one port of a host, by the name that was configured."""
    port = server.endpoint.rpartition(":")[2]
    server.answers["/x"] = ranged()
    named = WebStore("https", StoreTable(StoreKind.HTTPS, endpoint=f"http://localhost:{port}"), patience=PATIENCE)
    assert (await named.identify(f"http://localhost:{port}/x")).size == len(CONTENT)
    assert "the machine itself" in (await failure(named.identify("http://localhost:1/x"))).message
    assert "the machine itself" in (await failure(named.identify(f"http://127.0.0.1:{port}/x"))).message


async def test_a_store_with_a_name(server: Server, tmp_path: Path) -> None:
    """``cdn://`` stands for its endpoint, and names in it are escaped as the URI has them."""
    table = StoreTable(StoreKind.HTTPS, endpoint=f"{server.endpoint}/media/", only=("takes/",))
    cdn = WebStore("cdn", table, patience=PATIENCE)
    server.answers["/media/takes/a b?.wav"] = ranged()
    await cdn.fetch("cdn://takes/a%20b%3F.wav", tmp_path / "0")
    assert (tmp_path / "0").read_bytes() == CONTENT
    assert "use only takes/" in (await failure(cdn.identify("cdn://others/a.wav"))).message


async def test_outputs_are_refused(store: WebStore, tmp_path: Path) -> None:
    """The web is for inputs."""
    for work in (
        store.check_target("https://host/x", overwrite=True),
        store.stage(tmp_path, "https://host/x", "attempt-1"),
        store.complete("https://host/x", "https://host/x", sha256="", size=1, overwrite=True),
        store.discard("https://host/x"),
        store.sweep("https://host/x", "attempt-1"),
    ):
        assert (await failure(work)).reason is Reason.OUTPUT_UNWRITABLE


async def test_nobody_answers(tmp_path: Path) -> None:
    """A server that is not there is asked again, then told as unavailable."""
    table = StoreTable(StoreKind.HTTPS, endpoint="http://127.0.0.1:1")
    found = await failure(WebStore("https", table, patience=PATIENCE).fetch("http://127.0.0.1:1/x", tmp_path / "0"))
    assert found.reason is Reason.INPUT_UNAVAILABLE
