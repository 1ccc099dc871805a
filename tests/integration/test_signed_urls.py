"""What an agent signs: URLs that a plain HTTP client reads without credentials, until they expire, and nothing else."""

import base64
import json
import subprocess
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials

from agent.storage import SignedUrl, Stores
from agent.storage.s3_client import signed_url
from agent.storage.stores import StoreKind, StoreTable
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import object_uri
from tests.fakes.object_server import ObjectServer

CONTENT = bytes(range(256)) * 40
PATIENCE_S = 20.0


def _get(url: str, extent: str = "", method: str = "GET") -> HTTPResponse:
    request = urllib.request.Request(url, headers={"Range": extent} if extent else {}, method=method)  # noqa: S310
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=PATIENCE_S)  # noqa: S310 - a server of ours
    return answer


def _status(url: str, method: str = "GET") -> int:
    try:
        with _get(url, method=method) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def _status_in_the_end(url: str) -> int:
    ends = time.monotonic() + PATIENCE_S
    while (status := _status(url)) == 200 and time.monotonic() < ends:
        time.sleep(0.05)
    return status


def _key() -> str:
    command = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _s3(server: ObjectServer, folder: Path, *, secret_key: str = "") -> Stores:
    credentials = folder / "credentials"
    secret_key = secret_key or server.secret_key
    credentials.write_text(f"[default]\naws_access_key_id={server.access_key}\naws_secret_access_key={secret_key}\n")
    table = StoreTable(StoreKind.S3, endpoint=server.endpoint, path_style=True, credentials_file=credentials)
    return Stores([], {"s3": table})


async def _signed(stores: Stores, uri: str, lifetime_s: int = 600) -> SignedUrl:
    return await stores.store_for(uri).sign(uri, lifetime_s)


async def _refused(stores: Stores, uri: str) -> str:
    with pytest.raises(MediaFailure) as caught:
        await _signed(stores, uri)
    assert caught.value.reason is Reason.ARTIFACT_UNAVAILABLE
    return caught.value.message


@pytest.mark.parametrize("name", ["talk.m4a", "Ü/100 % \"quiet\" & 'loud'?#.m4a", "a/b\\c;d=e+f.m4a", "日本 語.wav"])
async def test_anybody_reads_what_was_signed(object_server: ObjectServer, tmp_path: Path, name: str) -> None:
    """All of it or a range; it is saved under the object's name, whatever that is."""
    bucket = object_server.make_bucket()
    object_server.put(bucket, name, CONTENT)
    began = time.time()
    signed = await _signed(_s3(object_server, tmp_path), object_uri("s3", f"{bucket}/{name}"))
    assert signed.expires is not None
    assert began + 600 <= signed.expires <= time.time() + 600
    with _get(signed.url) as answer:
        assert answer.read() == CONTENT
        [_, star] = answer.headers["Content-Disposition"].split("filename*=UTF-8''")
        assert unquote(star) == name.rpartition("/")[2]
    with _get(signed.url, "bytes=1000-") as answer:
        assert answer.status == 206
        assert answer.read() == CONTENT[1000:]
    assert object_server.secret_key not in signed.url
    assert signed.url not in repr(signed)


async def test_the_signature_is_of_that_object_only(object_server: ObjectServer, tmp_path: Path) -> None:
    """Another object, a longer lifetime, another method or no signature: refused."""
    bucket = object_server.make_bucket()
    for name in ("mine.wav", "yours.wav"):
        object_server.put(bucket, name, CONTENT)
    url = (await _signed(_s3(object_server, tmp_path), f"s3://{bucket}/mine.wav")).url
    assert _status(url) == 200
    spoilt = [
        url.replace("mine.wav", "yours.wav", 1),
        url.replace("X-Amz-Expires=600", "X-Amz-Expires=6000"),
        url.partition("?")[0],
        url[:-1] + ("0" if url[-1] != "0" else "1"),
    ]
    assert [_status(each) for each in spoilt] == [403] * 4
    assert _status(url, "DELETE") == 403
    assert object_server.keys(bucket) == ["mine.wav", "yours.wav"]


async def test_it_expires(object_server: ObjectServer, tmp_path: Path) -> None:
    """After the time that was asked for, by the server's clock."""
    bucket = object_server.make_bucket()
    object_server.put(bucket, "a.wav", CONTENT)
    url = (await _signed(_s3(object_server, tmp_path), f"s3://{bucket}/a.wav", 1)).url
    assert _status_in_the_end(url) == 403


async def test_signed_as_all_regions_take_it(tmp_path: Path) -> None:
    """By version 4 of signatures, although the library has an older one for URLs where no region is told."""
    credentials = tmp_path / "credentials"
    credentials.write_text("[default]\naws_access_key_id=AK\naws_secret_access_key=secret\n")
    stores = Stores([], {"s3": StoreTable(StoreKind.S3, credentials_file=credentials)})
    asked = parse_qs(urlsplit((await _signed(stores, "s3://bucket/a.wav", 604_800)).url).query)
    assert asked["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert asked["X-Amz-Expires"] == ["604800"]


async def test_without_credentials_nothing_is_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where to look, in no words of the library."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    stores = Stores([tmp_path], {"s3": StoreTable(StoreKind.S3)})
    assert "check the credentials" in await _refused(stores, "s3://bucket/a.wav")


async def test_what_agents_do_not_use_they_do_not_sign(object_server: ObjectServer, tmp_path: Path) -> None:
    """Outside of `only`; a file; a bucket alone."""
    table = StoreTable(StoreKind.S3, endpoint=object_server.endpoint, path_style=True, only=("public/",))
    stores = Stores([tmp_path], {"s3": table})
    assert "only public/" in await _refused(stores, "s3://private/a.wav")
    assert "no object" in await _refused(stores, "s3://public/")
    assert "no URL" in await _refused(stores, (tmp_path / "a.wav").as_uri())


def test_it_ends_with_the_credentials_that_signed_it() -> None:
    """Those of a role last some hours, whatever was asked for; a longer promise would be a lie."""
    session, ends = botocore.session.Session(), datetime.now(UTC) + timedelta(hours=2)
    role = RefreshableCredentials("AK", "secret", "token", ends, dict, "role")
    session._credentials = role  # type: ignore[attr-defined]
    client: Any = session.create_client("s3", region_name="eu-west-1")
    short, long = (signed_url(client, "bucket", "a.wav", "a.wav", hours * 3600) for hours in (1, 24))
    assert short.expires is not None
    assert long.expires is not None
    assert abs(short.expires - time.time() - 3600) < 60
    assert long.expires == ends.timestamp()


async def test_google_and_azure_sign_too(tmp_path: Path) -> None:
    """With keys, without asking a server: the object's path is in it, and how long it lasts."""
    account = {"type": "service_account", "client_email": "x@y.iam", "private_key": _key(), "private_key_id": "1"}
    (tmp_path / "gs.json").write_text(json.dumps(account))
    (tmp_path / "az.key").write_text(base64.b64encode(b"k" * 32).decode())
    stores = Stores(
        [],
        {
            "gs": StoreTable(StoreKind.GS, credentials_file=tmp_path / "gs.json"),
            "az": StoreTable(StoreKind.AZ, account="acc", credentials_file=tmp_path / "az.key"),
        },
    )
    of_google = urlsplit((await _signed(stores, "gs://bucket/a%20b/%C3%BC.wav")).url)
    assert (of_google.netloc, of_google.path) == ("storage.googleapis.com", "/bucket/a%20b/%C3%BC.wav")
    assert parse_qs(of_google.query)["X-Goog-Expires"] == ["600"]
    of_azure = urlsplit((await _signed(stores, "az://box/a%20b/%C3%BC.wav")).url)
    assert (of_azure.netloc, of_azure.path) == ("acc.blob.core.windows.net", "/box/a%20b/%C3%BC.wav")
    assert parse_qs(of_azure.query)["sp"] == ["r"]
    (tmp_path / "gs.json").write_text("{}")
    assert "cannot sign" in await _refused(Stores([], {"gs": stores._tables["gs"]}), "gs://bucket/a.wav")


async def test_the_web_needs_no_signature() -> None:
    """The URL itself, for good."""
    stores = Stores([], {"https": StoreTable(StoreKind.HTTPS)})
    url = "https://host/a%20b.wav?token=1"
    assert await _signed(stores, url) == SignedUrl(url, None)
