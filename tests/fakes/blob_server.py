"""A server that talks like Azure's blob storage, where there is one: Azurite, in a temporary folder."""

import base64
import email.utils
import hmac
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from typing import Self

_UP_S = 60.0
_ACCOUNT = "tests"
_VERSION = "2021-08-06"


class BlobServerAbsent(Exception):
    """There is no Azurite on this machine."""


class BlobServer:
    """Up while it is entered; the kernel ends it with the thread that started it."""

    account = _ACCOUNT

    def __init__(self) -> None:
        program = shutil.which("azurite-blob")
        if not program:
            raise BlobServerAbsent("no Azurite here: npm install --global azurite")
        self._program = program
        self._key = secrets.token_bytes(32)
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            self.address = "{}:{}".format(*holder.getsockname())

    @property
    def account_key(self) -> str:
        return base64.b64encode(self._key).decode()

    def __enter__(self) -> Self:
        self._folder = tempfile.mkdtemp(prefix="blobs-")
        place = ("--location", self._folder, "--blobPort", self.address.split(":")[1])
        self._server = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", self._program, *place, "--disableTelemetry", "--skipApiVersionCheck"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath), "AZURITE_ACCOUNTS": f"{_ACCOUNT}:{self.account_key}"},
            start_new_session=True,
        )
        ends = time.monotonic() + _UP_S
        while not self._listens():
            if self._server.poll() is not None or time.monotonic() > ends:
                self.__exit__()
                raise TimeoutError("Azurite did not start")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def make_container(self) -> str:
        """The name of a new container. obstore makes none."""
        name = f"test-{secrets.token_hex(8)}"
        date = email.utils.formatdate(usegmt=True)
        asked = f"x-ms-date:{date}\nx-ms-version:{_VERSION}\n/{_ACCOUNT}/{_ACCOUNT}/{name}\nrestype:container"
        signature = base64.b64encode(hmac.digest(self._key, ("PUT" + "\n" * 12 + asked).encode(), "sha256")).decode()
        request = urllib.request.Request(
            f"http://{self.address}/{_ACCOUNT}/{name}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": _VERSION,
                "Authorization": f"SharedKey {_ACCOUNT}:{signature}",
                "Content-Length": "0",
            },
        )
        urllib.request.urlopen(request, timeout=_UP_S).close()  # noqa: S310 - always http
        return name

    def _listens(self) -> bool:
        host, port = self.address.split(":")
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            return False
        return True
