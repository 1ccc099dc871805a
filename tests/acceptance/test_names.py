"""What inputs and outputs may be called, and how they may be written."""

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import pytest

from presets.uris import path_to_uri
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home
from tests.fakes.media_measure import measured

HOSTILE = (
    "two words.wav",
    " leading and trailing .wav",
    'it\'s "quoted" `here` $(there) ${HOME}.wav',
    "line\nbreak.wav",
    "tab\tand\x1b[31mred\x07.wav",
    "a=b.wav",
    "50% %d %03d %s.wav",
    "take #3? yes&no;|<>*[a-z]!.wav",
    "a:'[b],%.wav",
    "back\\slash\\n.wav",
    "http:remote.wav",
    "concat:one|two.wav",
    "pipe:0",
    "-i.wav",
    "--help",
    "~.wav",
    ".hidden.wav",
    "Größe – 日本語 🎙 e\u0301.wav",
    "right-to-left \u202egnp.wav",
    os.fsdecode(b"latin-1 \xe9\xff.wav"),
    "no extension",
    "x" * 230 + ".wav",
)
FLAC = ("--preset", "extract_audio", "--profile", "flac")


def _paths(job: Any) -> list[Path]:
    return [Path(os.fsdecode(unquote_to_bytes(urlsplit(artifact["uri"]).path))) for artifact in job["artifacts"]]


def test_hostile_names(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Files with every kind of name, in one command: each is read as what it is and its output bears its stem."""
    source = recordings.synth("blip")
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in HOSTILE:
        shutil.copy(source, folder / name)
    given = [f"./{name}" for name in HOSTILE]
    ran = box.run("run", *given, *FLAC, "--output", f"{out}/", "-o", "json", cwd=folder)
    published = [path for job in ran.json["jobs"] for path in _paths(job)]
    assert published == [out / f"{Path(name).stem}.flac.flac" for name in HOSTILE]
    assert sorted(out.iterdir()) == sorted(published)
    assert {measured(path).duration_s for path in published} == {0.25}


def test_hostile_names_are_shown_harmlessly(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """In a table, control characters of a name are told and not sent to the terminal."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("red\x1b[31m\x07.wav", os.fsdecode(b"latin \xe9.wav"), "right-to-left \u202egnp.wav"):
        shutil.copy(recordings.synth("blip"), folder / name)
    ran = box.run("run", *sorted(folder.iterdir()), *FLAC, "--output", f"{tmp_path}/out/")
    assert not set("\x1b\x07\u202e") & set(ran.stdout)
    assert "red\\x1b[31m\\x07" in ran.stdout
    listed = box.run("jobs", "list").stdout
    assert not set("\x1b\x07\u202e") & set(listed)


def test_a_name_as_long_as_a_name_can_be(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """255 bytes in, 255 bytes out; where the name made for an output is longer, that is said and nothing is left."""
    source = Path(shutil.copy(recordings.synth("blip"), tmp_path / ("i" * 251 + ".wav")))
    out = tmp_path / "out"
    target = out / ("o" * 250 + ".flac")
    assert _paths(box.job("run", source, *FLAC, "--output", target)) == [target]
    job = box.job("run", source, *FLAC, "--output", f"{out}/", code=1)
    assert job["failure"]["reason"] == "OUTPUT_UNWRITABLE"
    assert [*out.iterdir()] == [target]


def test_a_leading_dash_after_two_dashes(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """`--` ends the options, as everywhere."""
    shutil.copy(recordings.synth("blip"), tmp_path / "-rf.wav")
    ran = box.run("run", *FLAC, "--output", "out/", "-o", "json", "--", "-rf.wav", cwd=tmp_path)
    assert _paths(ran.json) == [tmp_path / "out" / "-rf.flac.flac"]


def test_an_equals_sign(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """`a=b.wav` gives b.wav the role `a`, which is refused by its name; `./a=b.wav` is a file."""
    shutil.copy(recordings.synth("blip"), tmp_path / "a=b.wav")
    ran = box.run("run", "a=b.wav", *FLAC, "--output", "out/", cwd=tmp_path, code=2)
    assert "ROLE_UNKNOWN" in ran.stderr
    assert "'a'" in ran.stderr
    ran = box.run("run", "./a=b.wav", *FLAC, "--output", "out/", "-o", "json", cwd=tmp_path)
    assert _paths(ran.json) == [tmp_path / "out" / "a=b.flac.flac"]


def test_roles_and_uris(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """`role=URI` and `role=path` make one job; with and without roles do not mix; a role is given once."""
    source = Path(shutil.copy(recordings.synth("blip"), tmp_path / "talk.wav"))
    for number, given in enumerate((f"source={source.as_uri()}", "source=talk.wav", source.as_uri())):
        target = tmp_path / f"{number}.flac"
        ran = box.run("run", given, *FLAC, "--output", target, "-o", "json", cwd=tmp_path)
        assert _paths(ran.json) == [target]
    ran = box.run("run", f"source={source}", source, *FLAC, "--output", f"{tmp_path}/x/", code=2)
    assert "mixed" in ran.stderr
    ran = box.run("run", f"source={source}", f"source={source}", *FLAC, "--output", f"{tmp_path}/x/", code=2)
    assert "ROLE_REPEATED" in ran.stderr
    ran = box.run("run", f"voice={source}", *FLAC, "--output", f"{tmp_path}/x/", code=2)
    assert "ROLE_UNKNOWN" in ran.stderr


@pytest.mark.parametrize(
    "uri",
    [
        "ftp://example.org/talk.wav",
        "https://me:secret@example.org/talk.wav",
        "s3://bucket/talk.wav?versionId=1",
        "file://elsewhere/talk.wav",
        "file:talk.wav",
    ],
)
def test_uris_that_cannot_be_read(box: Home, tmp_path: Path, uri: str) -> None:
    """No store's scheme, a password, another host and a relative URI are refused at submission; nothing is fetched."""
    ran = box.run("run", uri, *FLAC, "--output", f"{tmp_path}/out/", code=None)
    assert ran.code in {1, 2}
    reasons = ("INPUT_UNSUPPORTED_SCHEME", "INVALID_ARGUMENT", "NO_CAPABLE_AGENT")
    assert any(reason in ran.stderr for reason in reasons) or uri == "file:talk.wav"
    assert "secret" not in ran.stderr
    assert not (tmp_path / "out").exists()


def test_links_and_relative_paths(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A symbolic link is named by its own name and read through; `..` behind a link means what the shell means."""
    source = recordings.synth("blip")
    far, here = tmp_path / "far" / "deep", tmp_path / "here"
    far.mkdir(parents=True)
    here.mkdir()
    (here / "link.wav").symlink_to(source)
    (here / "folder").symlink_to(far)
    shutil.copy(source, far.parent / "beside.wav")
    ran = box.run(
        *("run", "link.wav", "folder/../beside.wav", "../here/./link.wav", *FLAC, "--output", "folder/", "-o", "json"),
        cwd=here,
        code=2,
    )
    assert "OUTPUT_COLLISION" in ran.stderr
    ran = box.run("run", "link.wav", "folder/../beside.wav", *FLAC, "--output", "folder/", "-o", "json", cwd=here)
    assert [job["state"] for job in ran.json["jobs"]] == ["JOB_STATE_COMPLETED"] * 2
    assert sorted(path.name for path in far.iterdir()) == ["beside.flac.flac", "link.flac.flac"]


def test_an_existing_folder_is_a_prefix(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Without a slash too; a name that does not exist is a file's."""
    (tmp_path / "there").mkdir()
    source = recordings.synth("blip")
    job = box.job("run", source, *FLAC, "--output", tmp_path / "there")
    assert _paths(job) == [tmp_path / "there" / "blip.flac.flac"]
    job = box.job("run", source, *FLAC, "--output", tmp_path / "new" / "name")
    assert _paths(job) == [tmp_path / "new" / "name"]


def test_several_profiles_into_one_exact_name(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Two outputs cannot bear one name."""
    ran = box.run("run", recordings.synth("blip"), *FLAC, "--profile", "opus_96", "--output", tmp_path / "x", code=2)
    assert "OUTPUT_COLLISION" in ran.stderr


def test_a_data_directory_with_a_long_and_hostile_name(new_home: Home, recordings: Recordings) -> None:
    """Longer than a socket's address may be, with blanks, quotes and a percent sign: the box works there."""
    folder = new_home.folder / ("50% o'clock " + "d" * 120)
    out = new_home.folder / "out.flac"
    ran = new_home.run("--data-dir", folder, "run", recordings.synth("blip"), *FLAC, "--output", out, "-o", "json")
    assert ran.json["state"] == "JOB_STATE_COMPLETED"
    assert (folder / "mediactl.db").exists()
    assert not new_home.data_dir.exists()


def test_a_failure_of_a_name_that_is_no_text(box: Home, tmp_path: Path) -> None:
    """It is one attempt that failed, and is told in words that can be printed."""
    broken = tmp_path / os.fsdecode(b"caf\xe9.wav")
    broken.symlink_to(tmp_path / os.fsdecode(b"away\xff.wav"))
    job = box.job("run", path_to_uri(str(broken)), *FLAC, "--output", f"{tmp_path}/out/", code=None)
    assert job["state"] == "JOB_STATE_DEAD"
    assert job["attemptCount"] == 1
    assert (job["failure"]["reason"], job["failure"]["message"]) == (
        "INPUT_NOT_FOUND",
        f"{tmp_path}/caf\ufffd.wav: there is no such file",
    )
    box.assert_tidy()
