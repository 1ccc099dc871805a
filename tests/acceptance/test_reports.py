"""Reports, tags, covers and chapters through the whole of it: command line, controller, agent."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, until
from tests.fakes.media_measure import described, measured


def _published(artifact: dict[str, str]) -> Path:
    return Path(artifact["uri"].removeprefix("file://"))


def test_a_recording_is_analysed_into_a_document(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """The document is the artifact; the job has its main figures, and a person reads them."""
    source = recordings.levelled("clipped", gain_db=20)
    report = tmp_path / "report.json"
    job = box.job("run", source, "--preset", "audio_analyze", "--output", report)
    [artifact] = job["artifacts"]
    content = report.read_bytes()
    assert artifact["sha256"] == hashlib.sha256(content).hexdigest()
    assert (artifact["container"], artifact["streams"], artifact["durationSeconds"]) == ("report", [], 12)
    told = json.loads(content)
    heard = measured(source)
    assert told["programme"]["integratedLufs"] == pytest.approx(heard.integrated_lufs, abs=0.02)
    assert told["programme"]["clipping"]["fullScaleSamples"] > 500
    assert artifact["loudness"]["after"]["integratedLufs"] == pytest.approx(heard.integrated_lufs, abs=0.02)
    assert int(artifact["analysis"]["fullScaleSamples"]) == told["programme"]["clipping"]["fullScaleSamples"]
    assert artifact["analysis"]["hardClippedAtDbfs"] == pytest.approx(0, abs=0.01)
    shown = box.run("jobs", "get", job["id"]).stdout
    assert "clipping" in shown
    assert "samples at full scale, peaks cut off flat at " in shown
    again = box.job("jobs", "replay", job["id"], "--output", f"{tmp_path}/again/")
    until(lambda: box.job("jobs", "get", again["id"])["state"] == "JOB_STATE_COMPLETED", "the replay is complete")
    assert (tmp_path / "again" / "report.json").read_bytes() == content


def test_a_report_beside_a_file_is_of_both(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """In a folder under the name of the recording; what it says of the file is what libebur128 hears."""
    source = recordings.levelled("quiet", gain_db=-10)
    outputs = ("--profile", "report", "--profile", "aac_192", "--output", f"{tmp_path}/")
    job = box.job("run", source, "--preset", "loudness_podcast", *outputs)
    assert [artifact["name"] for artifact in job["artifacts"]] == ["report", "aac_192", "job.json"]
    manifest = f"{job['id']}.job.json"
    assert {path.name for path in tmp_path.iterdir()} == {"quiet.report.json", "quiet.aac_192.m4a", manifest}
    [output] = json.loads((tmp_path / "quiet.report.json").read_text())["outputs"]
    heard = measured(tmp_path / "quiet.aac_192.m4a")
    assert output["file"]["integratedLufs"] == pytest.approx(heard.integrated_lufs, abs=0.02)
    assert output["file"]["truePeakDbtp"] == pytest.approx(heard.true_peak_dbtp, abs=0.15)


def test_tags_cover_and_chapters_are_published(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """As they were given; cover art in a role of its own, chapters as the recording has them."""
    art, listed, book = tmp_path / "art.png", tmp_path / "chapters.txt", tmp_path / "book.m4a"
    quietly = ["ffmpeg", "-v", "error", "-y"]
    subprocess.run([*quietly, "-f", "lavfi", "-i", "color=red:s=320x320:d=0.04", "-frames:v", "1", art], check=True)
    listed.write_text(";FFMETADATA1\nartist=Reader\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=12\ntitle=The only one\n")
    inputs = ["-i", recordings.synth("speech"), "-f", "ffmetadata", "-i", listed]
    subprocess.run([*quietly, *map(str, inputs), "-map_metadata", "1", "-c:a", "aac", book], check=True)
    said = ("-p", "tag.title=Der 1. Teil: „Anfang“")
    roles = (f"source={book}", f"cover={art}")
    how = ("--preset", "convert", "--profile", "m4a_chapters", "--output", f"{tmp_path}/out/")
    job = box.job("run", *roles, *said, *how)
    path = _published(job["artifacts"][0])
    document = described(path)
    assert (document["format"]["tags"]["title"], document["format"]["tags"]["artist"]) == (
        "Der 1. Teil: „Anfang“",
        "Reader",
    )
    [cover] = [s for s in document["streams"] if s["disposition"]["attached_pic"]]
    assert (cover["codec_name"], cover["width"]) == ("png", 320)
    chapters = ["ffprobe", "-v", "error", "-of", "json", "-show_chapters", str(path)]
    [chapter] = json.loads(subprocess.run(chapters, capture_output=True, check=True).stdout)["chapters"]
    assert chapter["tags"]["title"] == "The only one"


def test_cover_art_that_is_none_fails_the_job_by_name(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A playlist called art.jpg is not opened."""
    art = tmp_path / "art.jpg"
    art.write_text(f"#EXTM3U\n{recordings.synth('speech')}\n")
    roles = (f"source={recordings.synth('speech')}", f"cover={art}")
    failed = box.run("run", *roles, "--preset", "convert", "--output", f"{tmp_path}/out.m4a", code=1).stderr
    assert "INPUT_CORRUPT" in failed
    assert "art.jpg" in failed
