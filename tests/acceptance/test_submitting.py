"""Putting jobs into the queue and looking at them: submit, plan and every `jobs` command."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mediactl.v1 import job_pb2
from tests.acceptance.conftest import Recordings
from tests.fakes.cli import ENDED, Home, reached, under_way, until

EXTRACT = ("--preset", "extract_audio", "--profile", "flac")


def _spec(source: str | Path, target: str | Path, **more: object) -> dict[str, Any]:
    return {
        "inputs": [{"uri": str(source)}],
        "preset": "convert",
        "outputs": [{"profile": "flac", "uri": str(target)}],
        **more,
    }


def _waiting_job(box: Home, recordings: Recordings, folder: Path, *more: str) -> str:
    """A job that no agent may take."""
    asked = (recordings.synth("blip"), "--preset", "convert", "--require", "colour=green", *more)
    job_id: str = box.job("submit", *asked, "--output", f"{folder}/")["id"]
    return job_id


def test_submit_prints_the_id(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Alone on stdout, to be used in a script; the job is done without anybody waiting."""
    ran = box.run("submit", recordings.synth("blip"), "--preset", "convert", "--output", f"{tmp_path}/")
    job_id = ran.stdout.strip()
    assert ran.stdout == f"{job_id}\n"
    with box.client() as client:
        assert client.wait(job_id, timeout_s=30).state == job_pb2.JOB_STATE_COMPLETED
    assert (tmp_path / "blip.aac_192.m4a").exists()


def test_submit_and_wait(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """`--wait` ends with the job, `--follow` tells the log on stderr meanwhile; the job alone is on stdout."""
    ran = box.run(
        *("submit", recordings.synth("blip"), "--preset", "convert", "--output", f"{tmp_path}/"),
        *("--follow", "-o", "json"),
    )
    assert ran.json["state"] == "JOB_STATE_COMPLETED"
    assert "$ ffmpeg" in ran.stderr
    bad = box.run("submit", tmp_path / "absent", "--preset", "convert", "--output", f"{tmp_path}/", "--wait", code=1)
    assert "INPUT_NOT_FOUND" in bad.stderr


def test_giving_up_waiting(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Exit 6 after --wait-timeout; the job goes on."""
    asked = ("--preset", "convert", "--require", "colour=green", "--output", f"{tmp_path}/", "--label", "test=patience")
    ran = box.run("submit", recordings.synth("blip"), *asked, "--wait", "--wait-timeout", "300ms", code=6)
    assert ran.stdout == ""
    [job] = box.job("jobs", "list", "--label", "test=patience")["jobs"]
    assert job["id"] in ran.stderr
    assert job["state"] == "JOB_STATE_PENDING"
    box.run("jobs", "cancel", job["id"])


@pytest.mark.parametrize("form", ["json", "array", "jsonl", "yaml", "yaml documents"])
def test_a_spec_file(box: Home, recordings: Recordings, tmp_path: Path, form: str) -> None:
    """Each form holds the same jobs; paths in it are relative to the file, and what it says is kept."""
    shutil.copy(recordings.synth("blip"), tmp_path / "talk.wav")
    specs = [_spec("talk.wav", f"out/{number}.flac", priority=number, labels={"n": f"{number}"}) for number in (7, 8)]
    texts = {
        "json": json.dumps(specs[0], indent=1),
        "array": json.dumps(specs),
        "jsonl": "".join(json.dumps(spec) + "\n" for spec in specs),
        "yaml": yaml.safe_dump(specs),
        "yaml documents": yaml.safe_dump_all(specs),
    }
    (tmp_path / "jobs.spec").write_text(texts[form])
    told = box.job("submit", "--spec", tmp_path / "jobs.spec", "--wait")
    jobs = [told] if form == "json" else told["jobs"]
    assert [job["state"] for job in jobs] == ["JOB_STATE_COMPLETED"] * len(jobs)
    assert [(job["spec"]["priority"], job["spec"]["labels"]) for job in jobs] == [
        (spec["priority"], spec["labels"]) for spec in specs[: len(jobs)]
    ]
    assert len([*(tmp_path / "out").iterdir()]) == len(jobs) == (1 if form == "json" else 2)


def test_a_spec_on_standard_input(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """`--spec -`; paths in it are relative to the working directory."""
    shutil.copy(recordings.synth("blip"), tmp_path / "talk.wav")
    text = json.dumps(_spec("talk.wav", "out.flac"))
    ran = box.run("submit", "--spec", "-", "--wait", "-o", "json", stdin=text, cwd=tmp_path)
    assert ran.json["state"] == "JOB_STATE_COMPLETED"
    assert (tmp_path / "out.flac").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no job"),
        ('{"inputs": [', "line 1"),
        ('{"preset": "convert", "colour": "red"}', "colour"),
        ('{"preset": "convert", "priority": "high"}', "priority"),
        ("- inputs: [}", "line 1"),
        ("just words", "objects"),
    ],
)
def test_a_spec_that_is_wrong(box: Home, text: str, told: str) -> None:
    """Exit 2 and where it is wrong."""
    ran = box.run("submit", "--spec", "-", stdin=text, code=2)
    assert told in ran.stderr


def test_all_jobs_of_a_spec_or_none(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """One invalid job among three: exit 2, the field with the job's number, and nothing is stored."""
    source = recordings.synth("blip")
    specs = [_spec(source, tmp_path / f"{number}.flac", labels={"test": "atomic"}) for number in range(3)]
    specs[1]["params"] = {"colour": "red"}
    ran = box.run("submit", "--spec", "-", stdin=json.dumps(specs), code=2)
    assert "jobs[1].params.colour" in ran.stderr
    assert box.job("jobs", "list", "--label", "test=atomic")["jobs"] == []


def test_a_request_id_makes_one_job(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Submitting again with it gives the same job; with anything else under it, it is refused."""
    asked = ("submit", recordings.synth("blip"), "--preset", "convert", "--output", f"{tmp_path}/", "--request-id")
    request_id = f"request-{tmp_path.name}"
    first = box.job(*asked, request_id)
    assert box.job(*asked, request_id)["id"] == first["id"]
    refused = box.run(*asked, request_id, "--priority", "9", code=2)
    assert "REQUEST_ID_REUSED" in refused.stderr
    with box.client() as client:
        client.wait(first["id"], timeout_s=30)


def test_looking_at_a_job(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """By id and by prefix; its artifacts; its attempts with what they cost; its log after the end."""
    done = box.job("run", recordings.synth("speech"), "--preset", "loudness_podcast", "--output", f"{tmp_path}/")
    job = box.job("jobs", "get", done["id"])
    assert job == done
    assert box.job("jobs", "get", done["id"][:12])["id"] == done["id"]
    assert box.job("jobs", "artifacts", done["id"])["artifacts"] == done["artifacts"]
    [attempt] = job["attempts"]
    assert attempt["state"] == "completed"
    assert attempt["cpuSeconds"] > 0
    assert int(attempt["peakMemoryBytes"]) > 1_000_000
    assert float(attempt["runTime"].removesuffix("s")) > 0
    assert float(attempt["queueWait"].removesuffix("s")) >= 0
    assert any("-i" in step["arguments"] for step in attempt["plan"]["steps"])
    log = box.run("jobs", "logs", done["id"]).stdout
    assert log.count("$ ffmpeg") == len(attempt["plan"]["steps"])
    assert done["artifacts"][0]["uri"] in log
    shown = box.run("jobs", "get", done["id"]).stdout
    assert "COMPLETED" in shown
    assert str(tmp_path) in shown
    assert yaml.safe_load(box.run("jobs", "get", done["id"], "-o", "yaml").stdout) == job


def test_events_have_no_gaps(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Numbered from 1, cursors rising, from submitted to the end; `watch` tells the same, and all of it afterwards."""
    job_id = box.job("run", recordings.synth("blip"), "--preset", "convert", "--output", f"{tmp_path}/")["id"]
    events = box.job("jobs", "events", job_id)["events"]
    assert [int(event["sequence"]) for event in events] == [*range(1, len(events) + 1)]
    cursors = [int(event["cursor"]) for event in events]
    assert cursors == sorted(set(cursors))
    assert [event["type"] for event in events] == ["submitted", "leased", "started", "staged", "completed"]
    assert events[-1]["jobState"] == "JOB_STATE_COMPLETED"
    watched = box.run("jobs", "watch", job_id, "-o", "json").lines
    assert [update["event"] for update in watched if "event" in update] == events
    later = box.run("jobs", "watch", job_id, "--after", cursors[1], "-o", "json").lines
    assert [update["event"] for update in later if "event" in update] == events[2:]


def test_listing(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Newest first, filtered by state, preset, queue and label, a page at a time without doubles or holes."""
    show = f"show={tmp_path.name}"
    ids = [
        _waiting_job(box, recordings, tmp_path / f"{number}", "--queue", queue, "--label", show)
        for number, queue in enumerate(("day", "night", "night", "night", "night"))
    ]
    listed = box.job("jobs", "list", "--label", show)
    assert [job["id"] for job in listed["jobs"]] == ids[::-1]
    night = box.job("jobs", "list", "--label", show, "--queue", "night", "--state", "pending", "--preset", "convert")
    assert [job["id"] for job in night["jobs"]] == ids[:0:-1]
    assert box.job("jobs", "list", "--label", show, "--state", "DEAD")["jobs"] == []
    found, token = [], ""
    while True:
        page = box.job("jobs", "list", "--label", show, "--limit", "2", *(["--page-token", token] if token else []))
        found += [job["id"] for job in page["jobs"]]
        token = page["nextPageToken"]
        if not token:
            break
    assert found == ids[::-1]
    assert "PAGE_TOKEN_INVALID" in box.run("jobs", "list", "--page-token", "rubbish", code=2).stderr
    box.run("jobs", "cancel", "--label", show)


def test_explaining_why_a_job_waits(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """An agent that lacks a label is named with it; a job that is done is explained as done."""
    job_id = _waiting_job(box, recordings, tmp_path)
    answer = box.job("jobs", "explain", job_id)
    assert "colour=green" in answer["summary"]
    [verdict] = answer["agents"]
    assert verdict["suitable"] is False
    assert any("colour=green" in reason for reason in verdict["reasons"])
    assert "colour=green" in box.run("jobs", "explain", job_id).stdout
    box.run("jobs", "cancel", job_id)
    assert "CANCELLED" in box.run("jobs", "explain", job_id).stdout.upper()


def test_planning(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """The invocations as command lines, the decisions with their reasons; nothing is encoded, published or listed."""
    with box.client() as client:
        before = {job.id for job in client.list()}
    asked = ("plan", recordings.synth("speech"), "--preset", "loudness_podcast", "--output", f"{tmp_path}/out/")
    plan = box.job(*asked)["plan"]
    assert [step["id"].split(".")[0] for step in plan["steps"]] == ["measure", "encode", "verify"]
    assert [step["provisional"] for step in plan["steps"]][:2] == [False, True]
    assert all(decision["because"] for decision in plan["decisions"])
    for step in plan["steps"]:
        at = step["arguments"].index("-protocol_whitelist")
        assert step["arguments"][at + 1] == "file,pipe"
    text = box.run(*asked).stdout
    assert "# encode.aac_192.1: " in text
    assert " -hide_banner " in text
    assert not (tmp_path / "out").exists()
    with box.client() as client:
        assert {job.id for job in client.list()} == before
    bad = box.run("plan", tmp_path / "absent.wav", "--preset", "convert", "--output", f"{tmp_path}/out/", code=1)
    assert "INPUT_NOT_FOUND" in bad.stderr


def test_a_job_that_has_ended_needs_no_following(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """`logs -f` and `watch` of it end at once; while it runs, they end with it."""
    job_id = box.job("submit", recordings.minutes(), *EXTRACT, "--output", f"{tmp_path}/")["id"]
    with box.client() as client:
        reached(client, job_id, under_way)
    following = [box.start("jobs", "logs", "-f", job_id), box.start("jobs", "watch", job_id)]
    assert all(one.ended().code == 0 for one in following)
    assert box.job("jobs", "get", job_id)["state"] in ENDED
    again = box.run("jobs", "logs", "-f", job_id)
    assert again.stdout == following[0].ended().stdout


def test_a_reader_that_goes_away(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """`mediactl jobs logs ID | head -1` prints a line and no complaint."""
    job_id = box.job("run", recordings.synth("blip"), "--preset", "convert", "--output", f"{tmp_path}/")["id"]
    shell = 'interpreter=$1; shift; "$interpreter" -P -m ctl.main jobs logs "$1" | head -n 1'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, job_id],
        capture_output=True,
        text=True,
        env=box.environment,
        timeout=30,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_run_says_how_a_retry_goes(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """A failure that may pass is tried again: FAILED in between, its reason told, DEAD when attempts are used up."""
    folder = tmp_path / "folder.wav"
    folder.mkdir()
    job_id = box.job(
        *("submit", folder, "--preset", "convert", "--max-attempts", "2", "--output", f"{tmp_path}/out/"),
    )["id"]
    with box.client() as client:
        reached(client, job_id, lambda update: update.event.job_state == job_pb2.JOB_STATE_FAILED)
        assert client.get(job_id).failure.reason == "INPUT_UNAVAILABLE"
        folder.rmdir()
        shutil.copy(recordings.synth("blip"), folder)
        job = client.wait(job_id, timeout_s=30)
    assert job.state == job_pb2.JOB_STATE_COMPLETED
    assert not job.failure.reason
    assert [attempt.state for attempt in job.attempts] == ["failed", "completed"]
    until(lambda: not box.workspaces(), "the agent has cleaned up")
