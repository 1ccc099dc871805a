"""The file that names an agent's stores."""

from dataclasses import fields
from pathlib import Path

import pytest

from agent.storage import Stores
from agent.storage.faults import Fault
from agent.storage.stores import StoreKind, StoreTable, default_stores, reaches
from agent.storage.stores_file import _KEYS, InvalidStores, read_stores
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
    ("text", "field", "told"),
    [
        ('[store.a1]\nkind = "ftp"', "store.a1.kind", "one of s3, gs, az, https"),
        ("[store.a1]\nkind = []", "store.a1.kind", "one of s3, gs, az, https"),
        ("[store.a1]", "store.a1.kind", "needed"),
        ('[store.a1]\nkind = "s3"\nbuckt = "x"', "store.a1.buckt", "did you mean bucket?"),
        ('[store.a1]\nkind = "s3"\nsecret_access_key = "hidden"', "store.a1.secret_access_key", "not known"),
        ('[store.a1]\nkind = "s3"\npath_style = "yes"', "store.a1.path_style", "true or false"),
        ('[store.a1]\nkind = "s3"\nbucket = ""', "store.a1.bucket", "a name"),
        ('[store.a1]\nkind = "gs"\nregion = "x"', "store.a1.region", "not for stores of kind gs"),
        ('[store.a1]\nkind = "az"\ncredentials_file = "/k"', "store.a1", "account"),
        ('[store.a1]\nkind = "s3"\ncredentials_file = "keys"', "store.a1.credentials_file", "absolute"),
        ('[store.a1]\nkind = "s3"\nendpoint = "nas:9000"', "store.a1.endpoint", "a URL"),
        ('[store.a1]\nkind = "s3"\nendpoint = "http://me:hidden@nas"', "store.a1.endpoint", "a URL"),
        ('[store.a1]\nkind = "s3"\nonly = ["shows"]', "store.a1.only", "ending in /"),
        ('[store.a1]\nkind = "s3"\nonly = "shows/"', "store.a1.only", "a list"),
        ('[store.My_Store]\nkind = "s3"', "store.My_Store", "lower-case"),
        ('[store.file]\nkind = "s3"', "store.file", "not file"),
        ('[store.https]\nkind = "s3"', "store.https", "kind https"),
        ('[store.http]\nkind = "https"', "store.http", "named https"),
        ('[store.cdn]\nkind = "https"', "store.cdn", "endpoint"),
        ("store = 1", "store", "tables"),
        ("[store]\na1 = 1", "store.a1", "a table"),
        ('[stores.a1]\nkind = "s3"', "stores", "[store.NAME]"),
        ("[store.a1\nx", "not TOML", "line 1"),
    ],
)
def test_what_is_wrong_is_found(tmp_path: Path, text: str, field: str, told: str) -> None:
    """Each mistake has its field and what was expected; no value that could be a secret is repeated."""
    with pytest.raises(InvalidStores) as caught:
        read(tmp_path, text)
    [complaint] = str(caught.value).splitlines()
    assert complaint.startswith(f"{field}: ")
    assert told in complaint
    assert "hidden" not in complaint


def test_all_that_is_wrong_is_found(tmp_path: Path) -> None:
    """In one go, and a file that is no text is told as such."""
    with pytest.raises(InvalidStores) as caught:
        read(tmp_path, '[store.a1]\nkind = "s3"\nonly = 1\nregion = 2\n[store.b1]\nkind = 3')
    assert len(str(caught.value).splitlines()) == 3
    (tmp_path / "stores.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidStores, match="UTF-8"):
        read_stores(tmp_path / "stores.toml")


def test_every_key_can_be_written() -> None:
    """What a table has, the file can say."""
    assert {field.name for field in fields(StoreTable)} == set(_KEYS)


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
