"""A recording in, a master out: what is published, measured by libebur128 and ffprobe."""

import hashlib
import json
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home, until
from tests.fakes.media_measure import audio_streams, described, measured

CEILING_DBTP = -0.95


def _path(artifact: Any) -> Path:
    return Path(unquote(urlsplit(artifact["uri"]).path))


def _only_artifact(job: Any) -> Path:
    [artifact] = job["artifacts"]
    path = _path(artifact)
    content = path.read_bytes()
    assert artifact["sha256"] == hashlib.sha256(content).hexdigest()
    assert artifact["sizeBytes"] == str(len(content))
    return path


def test_one_command_prints_the_finished_job_and_nothing_else(new_home: Home, recordings: Recordings) -> None:
    """`run -o json` without any server: exit 0, one job on stdout as the contract has it, one published file."""
    source = recordings.levelled("quiet", gain_db=-10)
    job = new_home.job("run", source, "--preset", "loudness_podcast_v1", "--profile", "aac_192_v1", "--output", "out/")
    assert job["id"]
    assert job["state"] == "JOB_STATE_COMPLETED"
    assert job["attemptCount"] == 1
    assert job["progress"] == 1.0
    assert job["preset"] == "loudness_podcast_v1"
    assert job["cancelRequested"] is False
    assert "failure" not in job
    moments = [datetime.fromisoformat(job[name]) for name in ("createTime", "startTime", "endTime")]
    assert moments == sorted(moments)
    assert job["spec"]["inputs"] == [{"role": "", "uri": source.as_uri()}]
    path = _only_artifact(job)
    [artifact] = job["artifacts"]
    assert path == new_home.folder / "out" / "quiet.aac_192.m4a"
    assert artifact["profile"] == "aac_192_v1"
    assert [*path.parent.iterdir()] == [path]
    heard = measured(path)
    assert heard.integrated_lufs == pytest.approx(-16, abs=0.2)
    assert heard.true_peak_dbtp <= CEILING_DBTP
    assert heard.duration_s == pytest.approx(12, abs=0.1)
    assert artifact["durationSeconds"] == pytest.approx(12, abs=0.01)
    # What the job says of the file is what is in it.
    assert artifact["loudness"]["after"]["integratedLufs"] == pytest.approx(heard.integrated_lufs, abs=0.1)
    assert artifact["loudness"]["after"]["truePeakDbtp"] == pytest.approx(heard.true_peak_dbtp, abs=0.2)
    assert artifact["loudness"]["before"]["integratedLufs"] == pytest.approx(measured(source).integrated_lufs, abs=0.1)


@pytest.mark.parametrize("gain_db", [-35, 20], ids=["very quiet", "clipped"])
def test_level_of_the_source_does_not_matter(box: Home, recordings: Recordings, tmp_path: Path, gain_db: float) -> None:
    """From 35 dB below the usual, and from a recording made far too loud, the same loudness comes out."""
    source = recordings.levelled(f"by {gain_db:+g} dB", gain_db=gain_db)
    job = box.job("run", source, "--preset", "loudness_podcast_v1", "--output", f"{tmp_path}/")
    heard = measured(_only_artifact(job))
    assert heard.integrated_lufs == pytest.approx(-16, abs=0.2)
    assert heard.true_peak_dbtp <= CEILING_DBTP
    assert heard.duration_s == pytest.approx(measured(source).duration_s, abs=0.1)


def test_speech_whose_peaks_leave_no_room_for_the_gain(box: Home, media_corpus: Path, tmp_path: Path) -> None:
    """The hard case: −27.8 LUFS with peaks at −7.4 dBTP, so that gain alone would overshoot by almost 4 dB."""
    source = media_corpus / "speech-austen.ogg"
    before = measured(source)
    assert before.integrated_lufs == pytest.approx(-27.8, abs=0.2)
    job = box.job(
        *("run", source, "--preset", "loudness_podcast_v1", "--profile", "aac_192_v1", "--output", f"{tmp_path}/")
    )
    heard = measured(_only_artifact(job))
    assert heard.integrated_lufs == pytest.approx(-16, abs=0.2)
    assert heard.true_peak_dbtp <= CEILING_DBTP
    assert heard.duration_s == pytest.approx(before.duration_s, abs=0.1)


@pytest.mark.parametrize(
    ("preset", "profile", "source", "lufs", "codec"),
    [
        ("dialogue_clean_v1", "audio_only_master_v1", "speech_with_rumble", -16, "pcm_s24le"),
        ("loudness_ebu_r128_v1", "flac_v1", "loud_music", -23, "flac"),
        ("loudness_podcast_v1", "mp3_192_v1", "speech", -16, "mp3"),
        ("loudness_podcast_v1", "opus_96_v1", "video_with_speech", -16, "opus"),
        ("extract_audio_v1", "audio_only_master_v1", "video_with_speech", None, "pcm_s24le"),
        ("convert_v1", "aac_192_v1", "surround", None, "aac"),
    ],
)
def test_every_shipped_preset(
    box: Home,
    recordings: Recordings,
    tmp_path: Path,
    preset: str,
    profile: str,
    source: str,
    lufs: float | None,
    codec: str,
) -> None:
    """Each preset with a fitting profile: the profile's codec and rate, the preset's loudness, the whole length."""
    path = recordings.synth(source)
    job = box.job("run", path, "--preset", preset, "--profile", profile, "--output", f"{tmp_path}/")
    published = _only_artifact(job)
    [stream] = audio_streams(published)
    assert stream["codec_name"] == codec
    assert stream["sample_rate"] == "48000"
    assert [one["codec_type"] for one in described(published)["streams"]] == ["audio"]
    before, after = measured(path), measured(published)
    assert after.duration_s == pytest.approx(before.duration_s, abs=0.1)
    if lufs is not None:
        assert after.integrated_lufs == pytest.approx(lufs, abs=0.2)
        assert after.true_peak_dbtp <= CEILING_DBTP
    elif before.channels <= 2:
        assert after.integrated_lufs == pytest.approx(before.integrated_lufs, abs=0.2)
    else:
        assert after.channels == 2
        assert after.true_peak_dbtp <= 1.0


def test_several_profiles_are_several_outputs_of_one_job(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Every `--profile` packs the same programme, each file meets target and ceiling on its own, and a manifest beside
    them tells what the set is."""
    profiles = ("aac_192_v1", "mp3_192_v1", "opus_96_v1", "flac_v1", "audio_only_master_v1")
    asked = [word for profile in profiles for word in ("--profile", profile)]
    source = recordings.synth("speech")
    job = box.job("run", source, "--preset", "loudness_podcast", *asked, "--output", f"{tmp_path}/")
    *made, last = job["artifacts"]
    assert [artifact["profile"] for artifact in made] == [*profiles]
    assert _path(last) == tmp_path / f"{job['id']}.job.json"
    paths = [_path(artifact) for artifact in made]
    assert sorted(tmp_path.iterdir()) == sorted([*paths, _path(last)])
    manifest = json.loads(_path(last).read_text())
    assert (manifest["job"], manifest["preset"], manifest["artifacts"]) == (job["id"], "loudness_podcast_v1", made)
    assert [(one["uri"], int(one["sizeBytes"])) for one in manifest["inputs"]] == [
        (source.as_uri(), source.stat().st_size)
    ]
    assert len(manifest["plan"]["binarySha256"]) == 64
    assert _path(last).stat().st_mtime_ns >= max(path.stat().st_mtime_ns for path in paths)
    for path in paths:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in {one["sha256"] for one in manifest["artifacts"]}
        heard = measured(path)
        assert heard.integrated_lufs == pytest.approx(-16, abs=0.2), path
        assert heard.true_peak_dbtp <= CEILING_DBTP, path
        assert heard.duration_s == pytest.approx(12, abs=0.1), path


def test_parameters_of_preset_and_profile(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """`-p target_lufs` moves the target, `-p profile.bitrate_kbps` the rate of the encoder."""
    made = {}
    for kbps in (64, 256):
        job = box.job(
            *("run", recordings.synth("loud_music"), "--preset", "loudness_podcast", "--profile", "mp3_192"),
            *("-p", "target_lufs=-20", "-p", f"profile.bitrate_kbps={kbps}", "--output", tmp_path / f"{kbps}.mp3"),
        )
        path = _only_artifact(job)
        assert measured(path).integrated_lufs == pytest.approx(-20, abs=0.2)
        made[kbps] = int(audio_streams(path)[0]["bit_rate"])
    assert made == {64: 64_000, 256: 256_000}


def test_silence_is_delivered_as_silence(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """What has no loudness cannot be brought to one; it is packed as it is and the job completes."""
    job = box.job("run", recordings.synth("silence"), "--preset", "loudness_podcast", "--output", f"{tmp_path}/")
    heard = measured(_only_artifact(job))
    assert heard.silent
    assert heard.duration_s == pytest.approx(3, abs=0.1)


def test_people_get_a_table(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Without -o json: path, loudness and true peak before and after, and the duration, on one line."""
    ran = box.run("run", recordings.synth("speech"), "--preset", "loudness_podcast", "--output", f"{tmp_path}/")
    head, line = ran.stdout.splitlines()
    assert head.split()[:4] == ["ARTIFACT", "LUFS", "dBTP", "DURATION"]
    assert line.startswith(str(tmp_path / "speech.aac_192.m4a"))
    told = re.search(r"→ −(\d+\.\d) ", line)
    assert told is not None, line
    assert float(told[1]) == pytest.approx(16, abs=0.11)
    assert "12.0 s" in line
    assert ran.stderr == ""


def test_a_terminal_gets_a_bar(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Where stderr is a terminal, progress moves on it, with NO_COLOR without colours; stdout stays as it is."""
    box_environment = {**box.environment, "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "ctl.main",
                    "run",
                    str(recordings.minutes()),
                    "--preset",
                    "extract_audio",
                ),
                *("--profile", "flac", "--output", f"{tmp_path}/", "-o", "json"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=box_environment,
        ) as running:
            os.close(theirs)
            shown = b""
            # Reading a terminal whose other end is closed is an error, EIO.
            with suppress(OSError):
                while piece := os.read(ours, 65536):
                    shown += piece
            assert running.stdout is not None
            job = json.loads(running.stdout.read())
    finally:
        os.close(ours)
    assert job["state"] == "JOB_STATE_COMPLETED"
    text = shown.decode()
    percents = [int(found) for found in re.findall(r"(\d+)%", text)]
    assert percents == sorted(percents)
    assert any(0 < percent < 100 for percent in percents)
    assert "minutes.flac" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", text)


@pytest.mark.timeout(240)
def test_six_minutes_of_video(box: Home, media_corpus: Path, tmp_path: Path) -> None:
    """Progress never falls, is whole only once the file is there, and FFmpeg's lines are told while it runs."""
    target = tmp_path / "long.m4a"
    source = media_corpus / "long-1080p30-362s.mp4"
    submitted = box.job("submit", source, "--preset", "loudness_podcast", "--output", target)
    watching = box.start("jobs", "watch", submitted["id"], "-o", "json")
    logging = box.start("jobs", "logs", "-f", submitted["id"])
    fractions: list[float] = []
    with box.client() as client:
        until(lambda: any("Stream #0:" in line for line in logging.lines()), "FFmpeg says something", within_s=60)
        assert client.get(submitted["id"]).progress < 1
        assert logging.process.poll() is None
        for update in client.watch({"ids": [submitted["id"]]}, timeout_s=180):
            if update.WhichOneof("update") == "progress":
                fractions.append(update.progress.fraction)
                assert update.progress.fraction < 1 or target.exists()
            elif update.event.type == "completed":
                assert target.exists()
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 3
    updates = watching.ended().lines
    told = [one["progress"]["fraction"] for one in updates if "progress" in one]
    assert told == sorted(told)
    assert updates[-1]["event"]["jobState"] == "JOB_STATE_COMPLETED"
    assert all(fraction < 1 for fraction in told[:-1])
    log = logging.ended().stdout
    assert log.count("$ ffmpeg") >= 3
    job = box.job("jobs", "get", submitted["id"])
    assert job["state"] == "JOB_STATE_COMPLETED"
    assert job["progress"] == 1.0
    heard, sound = measured(_only_artifact(job)), measured(source)
    assert heard.duration_s == pytest.approx(sound.duration_s, abs=0.1)
    assert heard.silent == sound.silent
