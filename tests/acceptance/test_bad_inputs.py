"""What cannot work ends with a reason of its own, publishes nothing and leaves the agent able to work."""

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, reached, under_way

EXTRACT = ("--preset", "extract_audio", "--profile", "flac")
Maker = Callable[[Path, Recordings], Path]


def _absent(folder: Path, _: Recordings) -> Path:
    return folder / "absent.wav"


def _text(folder: Path, _: Recordings) -> Path:
    path = folder / "text.wav"
    path.write_text("This is not a recording.\n" * 200)
    return path


def _empty(folder: Path, _: Recordings) -> Path:
    path = folder / "empty.wav"
    path.touch()
    return path


def _without_audio(folder: Path, recordings: Recordings) -> Path:
    return Path(shutil.copy(recordings.synth("video_only"), folder / "mute.mp4"))


def _directory(folder: Path, _: Recordings) -> Path:
    path = folder / "directory.wav"
    path.mkdir()
    return path


def _fifo(folder: Path, _: Recordings) -> Path:
    path = folder / "fifo.wav"
    os.mkfifo(path)
    return path


def _below_a_file(folder: Path, recordings: Recordings) -> Path:
    return Path(shutil.copy(recordings.synth("speech"), folder / "file.ogg")) / "inside.wav"


def _cut_short(folder: Path, recordings: Recordings) -> Path:
    path = folder / "cut.mp4"
    whole = recordings.synth("video_with_speech").read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    return path


def _header_alone(folder: Path, recordings: Recordings) -> Path:
    path = folder / "header.wav"
    path.write_bytes(recordings.levelled("header-of", gain_db=0).read_bytes()[:44])
    return path


def _noise(folder: Path, _: Recordings) -> Path:
    path = folder / "noise.mp4"
    path.write_bytes(os.urandom(200_000))
    return path


def _dangling(folder: Path, _: Recordings) -> Path:
    path = folder / "dangling.wav"
    path.symlink_to(folder / "nowhere.wav")
    return path


def _looping(folder: Path, _: Recordings) -> Path:
    path = folder / "looping.wav"
    path.symlink_to(path)
    return path


BAD: Sequence[tuple[Maker, str]] = (
    (_absent, "INPUT_NOT_FOUND"),
    (_text, "INPUT_CORRUPT"),
    (_empty, "INPUT_EMPTY"),
    (_without_audio, "INPUT_NO_AUDIO"),
    (_directory, "INPUT_UNAVAILABLE"),
    (_fifo, "INPUT_UNAVAILABLE"),
    (_below_a_file, "INPUT_NOT_FOUND"),
    (_cut_short, "INPUT_TRUNCATED"),
    (_header_alone, "INPUT_CORRUPT"),
    (_noise, "INPUT_CORRUPT"),
    (_dangling, "INPUT_NOT_FOUND"),
    (_looping, "INPUT_UNAVAILABLE"),
)


def _told(job: Any) -> str:
    assert job["state"] == "JOB_STATE_DEAD"
    assert job["artifacts"] == []
    assert job["failure"]["message"]
    reason: str = job["failure"]["reason"]
    return reason


@pytest.mark.parametrize(("make", "reason"), [pytest.param(make, why, id=make.__name__[1:]) for make, why in BAD])
def test_a_bad_input(box: Home, recordings: Recordings, tmp_path: Path, make: Maker, reason: str) -> None:
    """Exit 1, the reason and the file's name on stderr, the same in the job, no output folder, and no second try."""
    path = make(tmp_path, recordings)
    out = tmp_path / "out"
    ran = box.run("run", path, "--preset", "loudness_podcast", "--max-attempts", "1", "--output", f"{out}/", code=1)
    assert ran.stdout == ""
    assert reason in ran.stderr
    assert path.name in ran.stderr
    assert not out.exists()


def test_the_agent_takes_the_good_one_among_the_bad(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """All of them in one command with a good one: exit 1, each its own reason, and only the good one is published."""
    paths = [make(tmp_path, recordings) for make, _ in BAD]
    out = tmp_path / "out"
    jobs = box.job(
        *("run", *paths, recordings.synth("blip"), "--preset", "extract_audio", "--profile", "flac"),
        *("--max-attempts", "1", "--output", f"{out}/"),
        code=1,
    )["jobs"]
    assert [_told(job) for job in jobs[:-1]] == [reason for _, reason in BAD]
    assert all(job["attemptCount"] == 1 for job in jobs)
    assert jobs[-1]["state"] == "JOB_STATE_COMPLETED"
    assert [path.name for path in out.iterdir()] == ["blip.flac.flac"]


def test_what_no_retry_can_mend_is_not_tried_again(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """With attempts left, a text file named .wav is dead after the first."""
    job = box.job("run", _text(tmp_path, recordings), "--preset", "convert", "--output", f"{tmp_path}/out/", code=1)
    assert _told(job) == "INPUT_CORRUPT"
    assert job["attemptCount"] == 1
    assert job["failure"]["retryable"] is False


def test_an_input_that_may_not_be_read(plain_home: Home, recordings: Recordings) -> None:
    """INPUT_UNAVAILABLE, which says that permission is missing."""
    path = plain_home.folder / "secret.ogg"
    shutil.copy(recordings.synth("speech"), path)
    path.chmod(0)
    out = plain_home.folder / "out"
    job = plain_home.job(
        *("run", path, "--preset", "convert", "--max-attempts", "1", "--output", f"{out}/"),
        code=1,
    )
    assert _told(job) == "INPUT_UNAVAILABLE"
    assert "ermission" in job["failure"]["message"]


@pytest.mark.parametrize("place", ["folder", "file"])
def test_an_output_where_nothing_may_be_written(plain_home: Home, recordings: Recordings, place: str) -> None:
    """OUTPUT_UNWRITABLE names the folder; it is found out before anything is encoded."""
    closed = plain_home.folder / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    source = plain_home.folder / "speech.ogg"
    shutil.copy(recordings.synth("speech"), source)
    target = f"{closed}/new/" if place == "folder" else closed / "talk.m4a"
    job = plain_home.job("run", source, "--preset", "loudness_podcast", "--output", target, code=1)
    assert _told(job) == "OUTPUT_UNWRITABLE"
    assert str(closed) in job["failure"]["message"]
    assert job["attempts"][0]["cpuSeconds"] == 0
    assert [*closed.iterdir()] == []


def test_an_output_below_a_file(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A parent that is a file: OUTPUT_UNWRITABLE, and the file stays as it was."""
    parent = tmp_path / "parent"
    parent.write_text("untouched")
    job = box.job("run", recordings.synth("blip"), "--preset", "convert", "--output", f"{parent}/out/", code=1)
    assert _told(job) == "OUTPUT_UNWRITABLE"
    assert str(parent) in job["failure"]["message"]
    assert parent.read_text() == "untouched"


def test_an_output_that_is_no_regular_file(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A FIFO bearing the output's name is not replaced, not even when overwriting was asked for."""
    target = tmp_path / "talk.m4a"
    os.mkfifo(target)
    job = box.job("run", recordings.synth("blip"), "--preset", "convert", "--overwrite", "--output", target, code=1)
    assert _told(job) == "OUTPUT_UNWRITABLE"
    assert target.is_fifo()


def test_an_existing_output(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """OUTPUT_EXISTS leaves the file as it is; `--overwrite` replaces it."""
    target = tmp_path / "talk.flac"
    target.write_text("mine")
    asked = ("run", recordings.synth("blip"), "--preset", "convert", "--profile", "flac", "--output", target)
    job = box.job(*asked, code=1)
    assert _told(job) == "OUTPUT_EXISTS"
    assert str(target) in job["failure"]["message"]
    assert "overwrit" in job["failure"]["message"]
    assert target.read_text() == "mine"
    assert box.job(*asked, "--overwrite")["state"] == "JOB_STATE_COMPLETED"
    assert target.read_bytes().startswith(b"fLaC")
    assert [*tmp_path.iterdir()] == [target]


def test_an_output_that_appears_meanwhile(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A file that somebody else writes under the output's name while FFmpeg works is not replaced."""
    target = tmp_path / "talk.flac"
    job_id = box.job("submit", recordings.minutes(), *EXTRACT, "--output", target)["id"]
    with box.client() as client:
        reached(client, job_id, under_way)
        target.write_text("mine")
        client.wait(job_id, timeout_s=60)
    assert _told(box.job("jobs", "get", job_id)) == "OUTPUT_EXISTS"
    assert target.read_text() == "mine"
    assert [*tmp_path.iterdir()] == [target]


def test_two_jobs_for_one_output(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """From two commands, so that neither knows of the other: one publishes, the other finds that it exists."""
    target = tmp_path / "talk.flac"
    ids = [box.job("submit", recordings.minutes(), *EXTRACT, "--output", target)["id"] for _ in range(2)]
    with box.client() as client:
        for job_id in ids:
            client.wait(job_id, timeout_s=90)
    jobs = [box.job("jobs", "get", job_id) for job_id in ids]
    [done] = [job for job in jobs if job["state"] == "JOB_STATE_COMPLETED"]
    [other] = [job for job in jobs if job is not done]
    assert _told(other) == "OUTPUT_EXISTS"
    assert hashlib.sha256(target.read_bytes()).hexdigest() == done["artifacts"][0]["sha256"]
    assert [*tmp_path.iterdir()] == [target]


@pytest.mark.parametrize("change", ["grown", "replaced", "removed"])
def test_an_input_that_changes_meanwhile(box: Home, recordings: Recordings, tmp_path: Path, change: str) -> None:
    """What was measured must be what is encoded: a recording that changes under way is refused."""
    source = Path(shutil.copy(recordings.minutes(), tmp_path / "talk.flac"))
    out = tmp_path / "out"
    job_id = box.job("submit", source, *EXTRACT, "--max-attempts", "1", "--output", f"{out}/")["id"]
    with box.client() as client:
        reached(client, job_id, under_way)
        match change:
            case "grown":
                with source.open("ab") as file:
                    file.write(b"more")
            case "replaced":
                fresh = shutil.copy(recordings.minutes(), tmp_path / "fresh.flac")
                Path(fresh).replace(source)
            case _:
                source.unlink()
        client.wait(job_id, timeout_s=60)
    assert _told(box.job("jobs", "get", job_id)) in {"INPUT_CHANGED", "INPUT_NOT_FOUND"}
    assert not out.exists()


def test_an_output_that_is_the_input(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Overwriting the recording with its own master is refused before anything runs, however the path is written."""
    source = Path(shutil.copy(recordings.synth("blip"), tmp_path / "talk.wav"))
    before = source.read_bytes()
    for target in (source, f"{tmp_path}/./talk.wav", f"{tmp_path}/../{tmp_path.name}/talk.wav"):
        ran = box.run("run", source, "--preset", "convert", "--overwrite", "--output", target, code=2)
        assert "OUTPUT_COLLISION" in ran.stderr
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--preset", "loudness_podcat"], ["PRESET_NOT_FOUND", "loudness_podcat", "loudness_podcast"]),
        (["--preset", "convert", "--profile", "aac_193"], ["PROFILE_NOT_FOUND", "aac_193"]),
        (
            ["--preset", "loudness_podcast", "-p", "target_luf=-16"],
            ["PARAMETER_UNKNOWN", "target_luf", "target_lufs"],
        ),
        (
            ["--preset", "loudness_podcast", "-p", "target_lufs=-8"],
            ["PARAMETER_OUT_OF_RANGE", "target_lufs", "-31", "-9", "-8"],
        ),
        (["--preset", "loudness_podcast", "-p", "target_lufs=loud"], ["target_lufs", "number", "loud"]),
        (["--preset", "loudness_podcast", "-p", "over_peaks=explode"], ["over_peaks", "limit", "lower", "fail"]),
        (["--preset", "loudness_ebu_r128", "-p", "target_lufs=-16"], ["PARAMETER_UNKNOWN", "target_lufs"]),
        (["--preset", "convert", "-p", "profile.bitrate=1"], ["bitrate"]),
        (["--preset", "convert", "-p", "nonsense"], ["-p", "KEY=VALUE", "nonsense"]),
        ([], ["--preset"]),
        (["--preset", "convert", "--priority", "10"], ["--priority", "10"]),
        (["--preset", "convert", "--loud"], ["--loud"]),
    ],
)
def test_a_request_that_is_wrong(box: Home, recordings: Recordings, arguments: list[str], told: list[str]) -> None:
    """Exit 2: what was given, what was expected, nothing on stdout and no job."""
    with box.client() as client:
        before = client.list_page(page_size=1).jobs[:1]
    ran = box.run("run", recordings.synth("blip"), *arguments, "--output", "out/", code=2)
    assert ran.stdout == ""
    for text in told:
        assert text in ran.stderr
    with box.client() as client:
        assert client.list_page(page_size=1).jobs[:1] == before


def test_everything_wrong_is_told_at_once(box: Home) -> None:
    """Several mistakes in one request are listed with the path of each field."""
    ran = box.run(
        *("submit", "a.wav", "--preset", "loudness_podcast", "--profile", "nothing"),
        *("-p", "target_lufs=3", "-p", "colour=red", "--output", "out/"),
        code=2,
    )
    for field in ("outputs[0].profile", "params.target_lufs", "params.colour"):
        assert field in ran.stderr


def test_two_jobs_that_would_write_one_file(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Same names from different folders into one: refused as a whole before anything is stored."""
    inputs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        inputs.append(shutil.copy(recordings.synth("blip"), tmp_path / name / "talk.wav"))
    ran = box.run("run", *inputs, "--preset", "convert", "--output", f"{tmp_path}/out/", code=2)
    assert "OUTPUT_COLLISION" in ran.stderr
    assert not (tmp_path / "out").exists()


MARKER = "a line that nobody outside may read"


def _playlists(secret: Path, note: Path) -> dict[str, str]:
    return {
        "hls.wav": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret.as_uri()}\n#EXT-X-ENDLIST\n",
        "hls-note.wav": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nconcat:{note}|{secret}\n#EXT-X-ENDLIST\n",
        "hls-crypto.wav": (
            f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{note.as_uri()}"\n#EXTINF:1,\n{secret.as_uri()}\n#EXT-X-ENDLIST\n'
        ),
        "ffconcat.wav": f"ffconcat version 1.0\nfile '{secret}'\n",
        "concat.wav": f"file '{secret}'\n",
        "dash.wav": (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT5S"><Period><AdaptationSet mimeType="audio/wav"><Representation id="1" '
            f'bandwidth="1000"><BaseURL>{secret.as_uri()}</BaseURL></Representation></AdaptationSet></Period></MPD>\n'
        ),
        "sdp.wav": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
        "smil.wav": f'<smil><body><audio src="{secret}"/></body></smil>\n',
        "subfile.m3u8": f"#EXTM3U\n#EXTINF:1,\nsubfile,,start,0,end,0,,:{secret}\n#EXT-X-ENDLIST\n",
    }


def test_a_playlist_does_not_lead_out_of_the_workspace(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Playlists named .wav that point at other files: refused as no media, nothing of those files told or published."""
    secret, note = tmp_path / "secret.wav", tmp_path / "note.txt"
    shutil.copy(recordings.synth("tone"), secret)
    note.write_text(f"{MARKER}\n" * 40)
    folder = tmp_path / "in"
    folder.mkdir()
    paths = []
    for name, text in _playlists(secret, note).items():
        (folder / name).write_text(text)
        paths.append(folder / name)
    asked = ("--preset", "convert", "--profile", "flac", "--verbose", "--output", f"{tmp_path}/out/")
    jobs = box.job("run", *paths, *asked, code=1)["jobs"]
    assert {path.name: _told(job) for path, job in zip(paths, jobs, strict=True)} == {
        path.name: "INPUT_CORRUPT" for path in paths
    }
    assert not (tmp_path / "out").exists()
    for job in jobs:
        assert MARKER not in box.run("jobs", "logs", job["id"]).stdout
        assert MARKER not in str(job)
