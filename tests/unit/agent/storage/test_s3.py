"""What of S3 needs no server: tickets, parts, answers, names; and how credentials are found and kept."""

import base64
from pathlib import Path

import pytest

from agent.storage.content_types import content_type
from agent.storage.faults import Fault, Kind
from agent.storage.patience import Patience
from agent.storage.s3 import S3Store, _crc32
from agent.storage.s3_client import answered, client_of, translated
from agent.storage.s3_uploads import MARK, PART_BYTES, Ticket, part_length
from agent.storage.stores import StoreKind, StoreTable
from presets.problems import MediaFailure
from presets.reasons import Reason

PATIENCE = Patience(tries=2, first_wait_s=0.0, longest_wait_s=0.0, connect_s=1.0, silence_s=1.0)


def test_a_ticket_survives_its_uri() -> None:
    """Whatever an upload's id looks like, another agent reads the same from the URI."""
    ticket = Ticket("2~a/b+c=&?#%", "attempt-1", 12, "abc")
    assert Ticket.from_uri(ticket.in_uri("s3://bucket/a%3Fb.wav")) == ("s3://bucket/a%3Fb.wav", ticket)


@pytest.mark.parametrize("uri", ["s3://bucket/a.wav", "s3://bucket/a.wav?upload=x", "s3://bucket/a.wav?", ""])
def test_what_is_no_ticket(uri: str) -> None:
    """A URI of anything else completes and discards nothing."""
    with pytest.raises(ValueError, match=r".*"):
        Ticket.from_uri(uri)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 5 * 2**30 + 1, 20 * 10**9, 5 * 2**40])
def test_parts_are_few_and_not_too_long(size: int) -> None:
    """Up to the largest object that S3 takes there are fewer parts than the mark's number, each within 5 GiB."""
    length = part_length(size)
    assert -(-size // length) < MARK
    assert PART_BYTES <= length <= 5 * 2**30
    assert length % 2**20 == 0


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, Kind.MISSING),
        ("404", 404, Kind.MISSING),
        ("NoSuchBucket", 404, Kind.NO_BUCKET),
        ("NoSuchUpload", 404, Kind.GONE),
        ("AccessDenied", 403, Kind.DENIED),
        ("403", 403, Kind.DENIED),
        ("SignatureDoesNotMatch", 403, Kind.DENIED),
        ("InvalidAccessKeyId", 403, Kind.DENIED),
        ("PreconditionFailed", 412, Kind.EXISTS),
        ("ConditionalRequestConflict", 409, Kind.BUSY),
        ("SlowDown", 503, Kind.BUSY),
        ("InternalError", 500, Kind.BUSY),
        ("InternalError", 200, Kind.BUSY),
        ("Unheard", 502, Kind.BUSY),
        ("TooManyRequests", 429, Kind.BUSY),
        ("BadDigest", 400, Kind.BUSY),
        ("KeyTooLongError", 400, Kind.REFUSED),
        ("PermanentRedirect", 301, Kind.REFUSED),
    ],
)
def test_answers(code: str, status: int, kind: Kind) -> None:
    """Each error of S3 is a kind of fault; its words are the code and nothing that the server wrote."""
    response = {
        "Error": {"Code": code, "Message": "AWSAccessKeyId=AKIASECRET"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    fault = answered(response)
    assert fault.kind is kind
    assert code in fault.words
    assert "SECRET" not in fault.words


def test_an_odd_code_is_not_repeated() -> None:
    """A code that is no word may be anything."""
    fault = answered({"Error": {"Code": "<AKIASECRET>"}, "ResponseMetadata": {"HTTPStatusCode": 400}})
    assert "SECRET" not in str(fault)


def test_checksums_of_the_whole_only() -> None:
    """A checksum composed of those of the parts says nothing of the bytes."""
    text = base64.b64encode((258).to_bytes(4, "big")).decode()
    assert _crc32({"ChecksumCRC32": text, "ChecksumType": "FULL_OBJECT"}) == 258
    assert _crc32({"ChecksumCRC32": text}) == 258
    for head in (
        {},
        {"ChecksumCRC32": f"{text}-3"},
        {"ChecksumCRC32": text, "ChecksumType": "COMPOSITE"},
        {"ChecksumCRC32": "?"},
    ):
        assert _crc32(head) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.M4A", "audio/mp4"),
        ("a.flac", "audio/flac"),
        ("a.json", "application/json"),
        ("a", "application/octet-stream"),
    ],
)
def test_content_types(name: str, kind: str) -> None:
    """By the end of the name, the same on every machine."""
    assert content_type(name) == kind


def test_credentials_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table's file is what counts, by its profile, whatever the environment has for others."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "environment")
    file = tmp_path / "credentials"
    file.write_text(
        "[default]\naws_access_key_id=ONE\naws_secret_access_key=1\n"
        "[other]\naws_access_key_id=TWO\naws_secret_access_key=2\n"
    )

    def key(**table: object) -> str:
        made = client_of(StoreTable(StoreKind.S3, **table), PATIENCE)  # type: ignore[arg-type]  # single keys vary
        found = made._request_signer._credentials  # type: ignore[attr-defined]  # nothing public tells
        return str(found.access_key)

    assert key(credentials_file=file) == "ONE"
    assert key(credentials_file=file, profile="other") == "TWO"
    assert key() == "ENVIRONMENT"


@pytest.mark.parametrize("content", ["", "[other]\naws_access_key_id=AKIASECRET\n", "secret: no ini"])
async def test_credentials_that_are_none(tmp_path: Path, content: str) -> None:
    """A file that has none is told as such, in words that hold nothing of it; it is not asked for again."""
    file = tmp_path / "credentials"
    file.write_text(content)
    table = StoreTable(StoreKind.S3, endpoint="http://127.0.0.1:1", credentials_file=file)
    store = S3Store("archive", table, patience=PATIENCE)
    with pytest.raises(MediaFailure) as caught:
        await store.identify("archive://bucket/key")
    assert caught.value.reason is Reason.INPUT_UNAVAILABLE
    assert "check the credentials" in caught.value.message
    assert "secret" not in caught.value.message.lower().replace("'archive'", "")


async def test_nobody_answers(tmp_path: Path) -> None:
    """A store that is not there is unavailable, after the tries that patience has."""
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id=AKIASECRET\naws_secret_access_key=hidden\n")
    table = StoreTable(StoreKind.S3, endpoint="http://127.0.0.1:1", path_style=True, credentials_file=file)
    store = S3Store("archive", table, patience=PATIENCE)
    with pytest.raises(MediaFailure) as caught:
        await store.fetch("archive://bucket/key", tmp_path / "0")
    assert caught.value.reason is Reason.INPUT_UNAVAILABLE
    for secret in ("AKIASECRET", "hidden"):
        assert secret not in caught.value.message + repr(store) + repr(table)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3://bucket/folder/", f"s3://bucket/{'x' * 1025}"])
async def test_names_that_are_none(uri: str) -> None:
    """What cannot be the name of an output is refused before anything is asked."""
    with pytest.raises(MediaFailure) as caught:
        await S3Store("s3", StoreTable(StoreKind.S3), patience=PATIENCE).check_target(uri, overwrite=True)
    assert caught.value.reason is Reason.OUTPUT_UNWRITABLE


def test_what_is_no_librarys_error_passes() -> None:
    """The machine's own trouble is not the store's."""

    def full() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        translated(full)

    def fault() -> None:
        raise Fault(Kind.CHANGED, "x")

    with pytest.raises(Fault, match="CHANGED"):
        translated(fault)
