"""The file that names an agent's stores."""

from pathlib import Path

import pytest

from agent.storage import Stores
from agent.storage.faults import Fault
from agent.storage.stores import StoreKind, StoreTable, default_stores, reaches
from agent.storage.stores_file import read_stores
from presets.parse import InvalidDocument
from presets.problems import MediaFailure
from presets.reasons import Reason


def read(tmp_path: Path, text: str) -> dict[str, StoreTable]:
    file = tmp_path / "stores.toml"
    file.write_text(text)
    return read_stores(file)


def test_what_a_file_says(tmp_path: Path) -> None:
    """Each table is a store; what it leaves out is the platform's usual."""
    found = read(
        tmp_path,
        """
        [store.archive]
        kind = "s3"
        bucket = "takes"
        endpoint = "http://nas:9000"
        region = "eu-1"
        path_style = true
        credentials_file = "/etc/mediactl/archive"
        profile = "reader"
        only = ["shows/", "music/"]
        [store.az]
        kind = "az"
        account = "studio"
        [store.cdn]
        kind = "https"
        endpoint = "https://cdn.example/media"
        """,
    )
    assert found == {
        "archive": StoreTable(
            StoreKind.S3,
            bucket="takes",
            endpoint="http://nas:9000",
            region="eu-1",
            path_style=True,
            credentials_file=Path("/etc/mediactl/archive"),
            profile="reader",
            only=("shows/", "music/"),
        ),
        "az": StoreTable(StoreKind.AZ, account="studio"),
        "cdn": StoreTable(StoreKind.HTTPS, endpoint="https://cdn.example/media"),
    }
    assert reaches(found) == ["archive://music/", "archive://shows/", "az://", "cdn://"]
    assert read(tmp_path, "") == {}


@pytest.mark.parametrize(
    ("text", "line", "field", "told"),
    [
        ('[store.a1]\nkind = "ftp"', 2, "store.a1.kind", "'s3', 'gs', 'az' or 'https'"),
        ("[store.a1]", 1, "store.a1.kind", "needed"),
        ('[store.a1]\nkind = "s3"\nbuckt = "x"', 3, "store.a1.buckt", "not known"),
        ('[store.a1]\nkind = "s3"\nsecret_access_key = "hidden"', 3, "store.a1.secret_access_key", "not known"),
        ('[store.a1]\nkind = "s3"\npath_style = "yes"', 3, "store.a1.path_style", "boolean"),
        ('[store.a1]\nkind = "gs"\nregion = "x"', 1, "store.a1", "region is not for stores of kind gs"),
        ('[store.a1]\nkind = "az"\ncredentials_file = "/k"', 1, "store.a1", "account"),
        ('[store.a1]\nkind = "s3"\ncredentials_file = "keys"', 3, "store.a1.credentials_file", "absolute"),
        ('[store.a1]\nkind = "s3"\nendpoint = "nas:9000"', 3, "store.a1.endpoint", "https?"),
        ('[store.a1]\nkind = "s3"\nendpoint = "http://me:pw@nas"', 3, "store.a1.endpoint", "https?"),
        ('[store.a1]\nkind = "s3"\nonly = ["shows"]', 3, "store.a1.only[0]", "/$"),
        ('[store.My_Store]\nkind = "s3"', 1, "store", "lower-case"),
        ('[store.file]\nkind = "s3"', 1, "store", "can't be a store's name"),
        ('[store.https]\nkind = "s3"', 1, "store", "kind https"),
        ('[store.http]\nkind = "https"', 1, "store", "named https"),
        ('[store.cdn]\nkind = "https"', 1, "store", "endpoint"),
        ("[store.a1", 1, "", "TOML"),
    ],
)
def test_what_is_wrong_is_found(tmp_path: Path, text: str, line: int, field: str, told: str) -> None:
    """Each mistake has its line, its field and what was expected; no value that could be a secret is repeated."""
    with pytest.raises(InvalidDocument) as caught:
        read(tmp_path, text)
    [complaint] = caught.value.complaints
    assert (complaint.line, complaint.field) == (line, field)
    assert told in complaint.message
    assert "hidden" not in str(caught.value)


def test_defaults_are_called_like_their_kind() -> None:
    """Without a file, s3:// is the platform's S3; the web has both its schemes."""
    assert reaches(default_stores(StoreKind)) == ["az://", "gs://", "http://", "https://", "s3://"]


def test_where_uris_lead() -> None:
    """With a bucket, keys are in it; what is not among the prefixes is refused."""
    plain, bound = StoreTable(StoreKind.S3), StoreTable(StoreKind.S3, bucket="takes", only=("shows/",))
    assert plain.path_of("s3://bucket/a%20b/c%3F.wav") == "bucket/a b/c?.wav"
    assert bound.path_of("archive://shows/a.wav") == "takes/shows/a.wav"
    for refused in ("archive://music/a.wav", "archive://shows", "archive://bucket/a?x", "archive:a"):
        with pytest.raises(Fault):
            bound.path_of(refused)


def test_stores_by_scheme() -> None:
    """Each scheme has one store, made once; others are refused with what there is, and without what a URL asks."""
    stores = Stores([Path("/media")], {"archive": StoreTable(StoreKind.S3), **default_stores([StoreKind.HTTPS])})
    assert stores.store_for("archive://b/k") is stores.store_for("ARCHIVE://b/other")
    assert stores.store_for("https://h/k") is stores.store_for("http://h/k")
    assert stores.is_local("file:///media/a.wav")
    assert not stores.is_local("archive://b/k")
    for other in ("s3://bucket/key", "/plain/path", "archive:b/k", "", "gs://b/k?signature=secret"):
        with pytest.raises(MediaFailure) as caught:
            stores.store_for(other)
        assert caught.value.reason is Reason.INPUT_UNSUPPORTED_SCHEME
        assert "archive://" in caught.value.message
        assert "secret" not in caught.value.message
