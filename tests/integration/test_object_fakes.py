"""What the tests of object stores rely on: an S3 server that dies and returns, a proxy that spoils chosen requests."""

import asyncio
import http.client
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from types_boto3_s3 import S3Client

from tests.fakes import object_server as module
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.http_faults import Fault, Kind, Plan
from tests.fakes.object_server import ObjectServer, ObjectServerAbsent, ObjectServerFailed, program

PATIENCE_S = 20.0
OLD, NEW = b"old" * 1000, b"new!" * 1000


def _soon(holds: Callable[[], bool]) -> bool:
    ends = time.monotonic() + PATIENCE_S
    while not holds() and time.monotonic() < ends:
        time.sleep(0.02)
    return holds()


# --- the server ---


def test_a_killed_server_comes_back_with_what_it_acknowledged(own_object_server: ObjectServer) -> None:
    """After SIGKILL objects and open uploads are there again, at the same address. In the end nothing is left."""
    server = own_object_server
    bucket, endpoint, folder = server.make_bucket(), server.endpoint, server.folder
    server.put(bucket, "whole.wav", OLD)
    upload = server.client.create_multipart_upload(Bucket=bucket, Key="open.wav")["UploadId"]
    server.client.upload_part(Bucket=bucket, Key="open.wav", UploadId=upload, PartNumber=1, Body=NEW)
    server.kill()
    with pytest.raises(ConnectionRefusedError):
        _connect(server.address)
    server.start()
    assert server.endpoint == endpoint
    assert server.keys(bucket) == ["whole.wav"]
    assert server.read(bucket, "whole.wav") == OLD
    assert server.uploads(bucket) == [("open.wav", upload)]
    port = server.address.split(":")[1]
    assert _sockets(port)
    server.close()
    assert not folder.exists()
    assert not _sockets(port)


def _sockets(port: str) -> list[Path]:
    """What the program makes outside of its folder."""
    return list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))


def _connect(address: str) -> None:
    host, port = address.split(":")
    socket.create_connection((host, int(port))).close()


def test_buckets_are_only_made_on_purpose(object_server: ObjectServer) -> None:
    """Writing to a bucket that nobody made is refused, as S3 does."""
    with pytest.raises(ClientError, match="NoSuchBucket"):
        object_server.client.create_multipart_upload(Bucket="nobodys", Key="x")


@pytest.mark.usefixtures("object_server")
def test_a_server_ends_with_the_tests_that_started_it() -> None:
    """Tests that are killed leave neither a server nor its folder behind."""
    script = (
        "from tests.fakes.object_server import ObjectServer; server = ObjectServer(); server.start();"
        "print(server.folder, server.pid, server.address.split(':')[1], flush=True); input()"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout
        folder, pid, port = tests.stdout.readline().split()
        assert Path(folder).exists()
        assert _sockets(port)
        tests.send_signal(signal.SIGKILL)
    assert _soon(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
    assert _soon(lambda: not Path(folder).exists() and not _sockets(port))


@pytest.mark.usefixtures("object_server")
def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure to start carries the server's own words, and leaves nothing."""
    monkeypatch.setitem(module._SETTINGS, "ip.bind", "203.0.113.1")
    server = ObjectServer()
    with pytest.raises(ObjectServerFailed, match=r"203\.0\.113\.1"):
        server.start()
    folder = server.folder
    server.close()
    assert not folder.exists()


def test_without_the_program_the_reason_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither beside Python nor on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(ObjectServerAbsent, match=r"requirements\.lock"):
        program()


# --- plans ---


def test_plans_follow_from_their_seed() -> None:
    """The same seed draws the same plan, others draw others; each fault has a request of its own, and all are told."""
    plan = Plan.drawn(7, requests=20, faults=5)
    assert plan == Plan.drawn(7, requests=20, faults=5)
    assert len({Plan.drawn(seed, requests=20, faults=5) for seed in range(20)}) == 20
    assert len({fault.at for fault in plan.faults}) == 5
    assert str(Plan((Fault(3, Kind.ERROR), Fault(5, Kind.CUT_AFTER, on=True)))) == (
        "request 3: 500 InternalError; request 5 and on: cut when the server has done it, before its answer"
    )
    assert [Plan((Fault(2, Kind.ERROR), Fault(2, Kind.SLOW, on=True))).fault_at(n) for n in (1, 2, 3)] == [
        None,
        Kind.ERROR,
        Kind.SLOW,
    ]


# --- the proxy ---


def _get(url: str, headers: dict[str, str], follow: bool) -> tuple[int, bytes]:
    if follow:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310 - always http
            return answer.status, answer.read()
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_S)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@dataclass
class _Through:
    """An object store behind a proxy, and a client that neither retries nor follows redirects."""

    server: ObjectServer
    proxy: FaultProxy
    bucket: str
    s3: S3Client

    async def put(self, content: bytes, key: str = "x.wav") -> str:
        """ "done", or what the client made of it."""
        return await self._tried(lambda: self.s3.put_object(Bucket=self.bucket, Key=key, Body=content))

    async def get(
        self, key: str = "x.wav", headers: Mapping[str, str] | None = None, *, follow: bool = False
    ) -> tuple[int, bytes]:
        url = self.s3.generate_presigned_url("get_object", Params={"Bucket": self.bucket, "Key": key})
        return await asyncio.to_thread(_get, url, dict(headers or {}), follow)

    async def complete(self, upload: str, tag: str) -> str:
        return await self._tried(
            lambda: self.s3.complete_multipart_upload(
                Bucket=self.bucket,
                Key="x.wav",
                UploadId=upload,
                MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]},
                IfNoneMatch="*",
            )
        )

    async def _tried(self, action: Callable[[], object]) -> str:
        try:
            await asyncio.to_thread(action)
        except ClientError as error:
            return error.response["Error"].get("Code", "")
        except Exception as error:  # noqa: BLE001 - whatever it is, its name is the answer
            return type(error).__name__
        return "done"

    @property
    def there(self) -> bool:
        return self.server.keys(self.bucket) == ["x.wav"]


@pytest.fixture
async def through(object_server: ObjectServer) -> AsyncIterator[_Through]:
    async with FaultProxy(object_server.address, slow_s=0.4, silence_s=PATIENCE_S) as proxy:
        s3 = boto3.client(
            "s3",
            endpoint_url=proxy.endpoint,
            region_name=object_server.region,
            aws_access_key_id=object_server.access_key,
            aws_secret_access_key=object_server.secret_key,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=3),
        )
        bucket = object_server.make_bucket()
        yield _Through(object_server, proxy, bucket, s3)
        object_server.remove_bucket(bucket)
        s3.close()


async def test_everything_passes_and_is_told(through: _Through) -> None:
    """Without a plan megabytes arrive unchanged in both directions; each request is numbered and described."""
    content = bytes(range(256)) * 30_000
    assert await through.put(content, "a b/ü.wav") == "done"
    assert await through.get("a b/ü.wav", {"Range": "bytes=5-9"}) == (206, bytes(range(5, 10)))
    assert await through.get("a b/ü.wav") == (200, content)
    head = await asyncio.to_thread(lambda: through.s3.head_object(Bucket=through.bucket, Key="a b/ü.wav"))
    assert head["ContentLength"] == len(content)
    assert (await through.get("none.wav"))[0] == 404
    told = [(exchange.number, exchange.method, exchange.status) for exchange in through.proxy.exchanges]
    assert told == [
        (1, "PUT", 200),
        (2, "GET", 206),
        (3, "GET", 200),
        (4, "HEAD", 200),
        (5, "GET", 404),
    ]
    first, second, *_ = through.proxy.exchanges
    assert first.path == f"/{through.bucket}/a b/ü.wav"
    assert first.sent_bytes >= len(content)
    assert (second.range, through.proxy.befell) == ("bytes=5-9", [])
    assert "2 GET" in str(through.proxy)


@pytest.mark.parametrize(
    ("kind", "told", "done"),
    [
        (Kind.CUT_BEFORE, "ConnectionClosedError", False),
        (Kind.CUT_IN_REQUEST, "ConnectionClosedError", False),
        (Kind.CUT_AFTER, "ConnectionClosedError", True),
        (Kind.SILENT, "ReadTimeoutError", False),
        (Kind.SLOW, "done", True),
        (Kind.ERROR, "InternalError", False),
        (Kind.SLOW_DOWN, "SlowDown", False),
        (Kind.REDIRECT, "TemporaryRedirect", False),
    ],
)
async def test_faults_of_a_write(through: _Through, kind: Kind, told: str, done: bool) -> None:
    """Whatever the client hears, the effect is there exactly if the request had been forwarded whole; then it works."""
    through.proxy.restart(Plan((Fault(1, kind),)))
    assert await through.put(NEW * 20) == told
    assert through.there is done
    assert through.proxy.befell == [kind]
    assert await through.put(NEW) == "done"
    assert through.proxy.exchanges[-1].fault is None


async def test_faults_of_an_answer(through: _Through) -> None:
    """Cut, short, short and saying so, changed, refused: each as its name says, of the same object."""
    through.server.put(through.bucket, "x.wav", NEW)

    async def with_fault(kind: Kind) -> tuple[int, bytes]:
        through.proxy.restart(Plan((Fault(1, kind),)))
        return await through.get()

    for kind in (Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.CUT_IN_ANSWER, Kind.TRUNCATED):
        with pytest.raises((OSError, http.client.HTTPException)):
            await with_fault(kind)
        assert through.proxy.befell == [kind]
    assert await with_fault(Kind.WRONG_LENGTH) == (200, NEW[: len(NEW) // 2])
    status, content = await with_fault(Kind.WRONG_BYTES)
    assert (status, len(content)) == (200, len(NEW))
    assert sum(one != other for one, other in zip(content, NEW, strict=True)) == 1
    status, content = await with_fault(Kind.SLOW_DOWN)
    assert (status, b"<Code>SlowDown</Code>" in content) == (503, True)
    began = time.monotonic()
    assert await with_fault(Kind.SLOW) == (200, NEW)
    assert time.monotonic() - began >= 0.3
    assert await with_fault(Kind.CONFLICT) == (200, NEW)  # it is no conditional write
    assert through.proxy.befell == []


async def test_refusals_of_head_have_no_body(through: _Through) -> None:
    """The connection stays in step: the next request on it is answered rightly."""
    await through.put(NEW)
    through.proxy.restart(Plan((Fault(1, Kind.ERROR),)))
    with pytest.raises(ClientError, match="500"):
        await asyncio.to_thread(lambda: through.s3.head_object(Bucket=through.bucket, Key="x.wav"))
    assert await through.put(OLD) == "done"


async def test_a_stale_read(through: _Through) -> None:
    """Of what was written anew, the answer from before, which its own conditions are measured by; of what is new,
    that it isn't there; of what nobody wrote through the proxy, the truth.
    """
    through.server.put(through.bucket, "before.wav", OLD)
    through.proxy.restart(Plan((Fault(1, Kind.STALE, on=True),)))
    assert await through.get("before.wav") == (200, OLD)
    assert through.proxy.befell == []
    assert await through.put(OLD) == "done"
    assert (await through.get())[0] == 404
    through.proxy.restart(Plan())
    assert await through.get() == (200, OLD)
    assert await through.put(NEW) == "done"
    through.proxy.restart(Plan((Fault(1, Kind.STALE), Fault(2, Kind.STALE))))
    new_tag = through.server.client.head_object(Bucket=through.bucket, Key="x.wav")["ETag"]
    assert await through.get() == (200, OLD)
    assert (await through.get(headers={"If-Match": new_tag}))[0] == 412
    assert await through.get(headers={"If-Match": new_tag}) == (200, NEW)


async def test_a_redirect_leads_to_something_else(through: _Through) -> None:
    """Who follows it gets a good answer with the wrong content, and is seen to have done so."""
    await through.put(NEW)
    through.proxy.restart(Plan((Fault(1, Kind.REDIRECT),)))
    assert await through.get(follow=True) == (200, b"not what was asked for")
    assert through.proxy.exchanges[-1].path.startswith("/elsewhere/")


async def test_a_fault_that_stays(through: _Through) -> None:
    """From its request on each one is befallen, until the proxy gets another plan."""
    through.proxy.restart(Plan((Fault(2, Kind.SLOW_DOWN, on=True),)))
    assert [await through.put(NEW) for _ in range(3)] == ["done", "SlowDown", "SlowDown"]
    through.proxy.restart(Plan())
    assert await through.put(NEW) == "done"


async def test_of_two_completions_at_once_one_wins(through: _Through) -> None:
    """Under If-None-Match, as S3 has it and SeaweedFS alone does not; a conflict may also be told instead."""
    for _ in range(10):
        uploads = [through.server.client.create_multipart_upload(Bucket=through.bucket, Key="x.wav") for _ in "ab"]
        tags = [
            through.server.client.upload_part(
                Bucket=through.bucket, Key="x.wav", UploadId=upload["UploadId"], PartNumber=1, Body=body
            )["ETag"]
            for upload, body in zip(uploads, (OLD, NEW), strict=True)
        ]
        pairs = zip(uploads, tags, strict=True)
        told = await asyncio.gather(*(through.complete(upload["UploadId"], tag) for upload, tag in pairs))
        assert sorted(told) == ["PreconditionFailed", "done"]
        assert through.server.read(through.bucket, "x.wav") == (OLD, NEW)[told.index("done")]
        through.server.client.delete_object(Bucket=through.bucket, Key="x.wav")
    upload = through.server.client.create_multipart_upload(Bucket=through.bucket, Key="x.wav")["UploadId"]
    through.proxy.restart(Plan((Fault(1, Kind.CONFLICT),)))
    assert await through.complete(upload, '"0"') == "ConditionalRequestConflict"
