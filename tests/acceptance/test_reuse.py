"""Jobs that take what an earlier one made: real box, real files."""

from pathlib import Path

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home


def test_the_same_is_made_once(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """By content: another name finds it too. What was altered since, or is wanted elsewhere, is made anew."""
    source, out = recordings.synth("speech"), tmp_path / "out"
    how = ("--preset", "convert", "--profile", "flac", "--profile", "mp3_192", "--reuse")
    first = box.job("run", source, *how, "--output", f"{out}/")
    copy = tmp_path / "copied.wav"
    copy.write_bytes(source.read_bytes())
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    second = box.job("run", copy, *how, "--output", f"{out}/")
    assert [one["uri"] for one in second["artifacts"]] == [one["uri"] for one in first["artifacts"]]
    assert {one["madeByJob"] for one in second["artifacts"]} == {first["id"]}
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    assert f"from job {first['id']}" in box.run("jobs", "get", second["id"]).stdout

    elsewhere = box.job("run", copy, *how, "--output", f"{tmp_path}/elsewhere/")
    assert {one["madeByJob"] for one in elsewhere["artifacts"]} == {""}

    (out / "speech.mp3_192.mp3").write_bytes(b"altered")
    anew = box.job("run", copy, *how, "--output", f"{out}/")
    assert {one["madeByJob"] for one in anew["artifacts"]} == {""}
    assert (out / "copied.mp3_192.mp3").exists()
    assert "making it anew" in box.run("jobs", "logs", anew["id"]).stdout
