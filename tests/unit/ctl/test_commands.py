"""Every command against a controller with invented answers: what is printed where, and the exit code."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
import yaml

from ctl.main import cli
from ctl.tree import LazyGroup
from mediactl.errors import MediactlError
from mediactl.v1 import fleet_service_pb2, job_pb2
from presets.reasons import Reason
from tests.fakes.controller import FakeController
from tests.unit.ctl.conftest import Mediactl

JOB = ("a.wav", "--preset", "quick", "--output", "out/")
SLOW = ("a.wav", "--preset", "slow", "--output", "out/")


def paths(group: LazyGroup, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The names of all commands."""
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append((*prefix, name))
        if isinstance(command, LazyGroup):
            found += paths(command, (*prefix, name))
    return found


@pytest.mark.parametrize("path", [(), *paths(cli)], ids=" ".join)
def test_every_command_has_help(mediactl: Mediactl, path: tuple[str, ...]) -> None:
    """--help says what the command does, with an example; the group's list has a line about it."""
    ended = mediactl(*path, "--help")
    assert ended.code == 0
    assert "Usage: mediactl" in ended.out
    command: click.Command | None = cli
    for name in path:
        assert isinstance(command, LazyGroup)
        command = command.get_command(click.Context(command), name)
    if path and not isinstance(command, LazyGroup) and path != ("version",):
        assert "Example" in ended.out


def test_later_commands_are_not_offered(mediactl: Mediactl) -> None:
    """What does not work yet is no command."""
    assert mediactl("drain").code == 2


def test_version(mediactl: Mediactl) -> None:
    """The version, also as data."""
    assert mediactl("version").out.startswith("mediactl ")
    assert mediactl("version", "-o", "json").json["version"]
    assert mediactl("-o", "yaml", "version").out.startswith("version: ")


def test_commands_without_a_server_load_no_grpc() -> None:
    """`mediactl version` stays quick because it leaves gRPC alone."""
    code = (
        "import sys; from ctl.main import invoke; invoke(['version']); invoke(['--help']);"
        "sys.exit('grpc' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(mediactl: Mediactl, shell: str) -> None:
    """A script that asks the program itself."""
    assert "_MEDIACTL_COMPLETE" in mediactl("completion", shell).out


def test_run_prints_the_finished_job_only(mediactl: Mediactl, fake: FakeController) -> None:
    """-o json: stdout is the job and nothing else; sizes are text, as protobuf JSON has it."""
    ended = mediactl("run", *JOB, "-o", "json")
    assert ended.code == 0
    assert ended.json["state"] == "JOB_STATE_COMPLETED"
    assert ended.json["attemptCount"] == 1
    assert ended.json["artifacts"][0]["sizeBytes"] == "3300000000"
    assert ended.err == ""


def test_run_tells_what_came_out(mediactl: Mediactl, fake: FakeController) -> None:
    """Path, loudness and true peak before and after, duration."""
    ended = mediactl("run", *JOB)
    assert ended.code == 0
    for text in (f"{Path.cwd()}/out/", "−27.8 → −16.0", "−7.4 → −1.0", "8.4 s", "3.1 GiB"):
        assert text in ended.out


def test_run_of_several(mediactl: Mediactl, fake: FakeController) -> None:
    """Each input a job; as data a list in the order given."""
    ended = mediactl("run", "b.wav", *JOB, "-o", "json")
    assert [job["spec"]["inputs"][0]["uri"][-5:] for job in ended.json["jobs"]] == ["b.wav", "a.wav"]
    assert len(fake.named("SubmitJobs")) == 1


def test_a_failed_job_is_exit_code_1(mediactl: Mediactl, fake: FakeController) -> None:
    """Reason, message and the way to the log on stderr; stdout still has the data."""
    ended = mediactl("run", "a.wav", "--preset", "broken", "--output", "out/", "-o", "json")
    assert ended.code == 1
    assert ended.json["failure"] == {
        "reason": "INPUT_NOT_FOUND",
        "message": "there is no such file",
        "retryable": False,
        "logTail": "",
    }
    assert "a.wav: DEAD: INPUT_NOT_FOUND: there is no such file" in ended.err
    assert "mediactl jobs logs job-1" in ended.err


def test_an_invalid_request_is_exit_code_2(mediactl: Mediactl, fake: FakeController) -> None:
    """Every problem with its field, no traceback."""
    ended = mediactl("run", "a.wav", "--preset", "unknown", "--output", "out/")
    assert (ended.code, ended.out) == (2, "")
    assert "jobs[0].preset: there is no preset unknown" in ended.err
    assert "jobs[0].params.x: there is no parameter x" in ended.err
    assert "Traceback" not in ended.err


def test_wrong_usage_is_exit_code_2(mediactl: Mediactl, fake: FakeController) -> None:
    """Nothing reaches the controller."""
    for arguments in (("run",), ("run", "a=b", *JOB), ("submit", *JOB, "--priority", "10"), ("jobs", "get")):
        assert mediactl(*arguments).code == 2
    assert fake.calls == []


def test_not_found_is_exit_code_3(mediactl: Mediactl, fake: FakeController) -> None:
    """Jobs and agents that are not there."""
    assert mediactl("jobs", "get", "nothing").code == 3
    assert "JOB_NOT_FOUND" in mediactl("jobs", "logs", "nothing").err
    assert mediactl("agents", "get", "nothing").code == 3


def test_unreachable_is_exit_code_4(mediactl: Mediactl, tmp_path: Path) -> None:
    """A controller that was named is not replaced by a box."""
    ended = mediactl("jobs", "list", "--controller", f"unix:{tmp_path}/none.sock")
    assert ended.code == 4
    assert ended.err.startswith("mediactl: CONTROLLER_UNREACHABLE: the controller can't be reached")
    assert len(ended.err.splitlines()) == 1
    assert mediactl("jobs", "list", "--controller", "media.example:1").code == 2
    both = f"unix:{tmp_path}/none.sock,unix:{tmp_path}/no.sock"
    assert "none of the 2 controllers answers" in mediactl("jobs", "list", "--controller", both).err


def test_another_controller_answers(
    mediactl: Mediactl, fake: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several addresses the first that answers, wherever they were named."""
    both = f"unix:{tmp_path}/none.sock,{os.environ['MEDIACTL_CONTROLLER']}"
    assert mediactl("agents", "list", "--controller", both).code == 0
    monkeypatch.setenv("MEDIACTL_CONTROLLER", both)
    assert mediactl("run", *JOB, "-o", "json").json["state"] == "JOB_STATE_COMPLETED"


def test_permission_is_exit_code_5(mediactl: Mediactl, fake: FakeController) -> None:
    """A refused token."""
    fake.fail("ListJobs", MediactlError(Reason.UNAUTHENTICATED, "wrong token"))
    assert mediactl("jobs", "list").code == 5


def test_defects_are_one_line(mediactl: Mediactl, fake: FakeController, monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback, except where it was asked for."""
    monkeypatch.setattr("ctl.agents.render.size", lambda count: 1 / 0)
    ended = mediactl("agents", "list")
    assert (ended.code, len(ended.err.splitlines())) == (1, 1)
    assert "ZeroDivisionError" in ended.err
    monkeypatch.setenv("MEDIACTL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        mediactl("agents", "list")


def test_submit_prints_ids(mediactl: Mediactl, fake: FakeController) -> None:
    """One id a line; as data the jobs. The same request id gives the same job."""
    assert mediactl("submit", "b.wav", *JOB).out == "job-1\njob-2\n"
    assert mediactl("submit", *JOB, "--request-id", "r", "-o", "json").json["id"] == "job-3"
    assert mediactl("submit", *JOB, "--request-id", "r").out == "job-3\n"


def test_submit_waits(mediactl: Mediactl, fake: FakeController) -> None:
    """--wait as run; --follow prints the log meanwhile, on stderr."""
    assert "−16.0" in mediactl("submit", *JOB, "--wait").out
    followed = mediactl("submit", *JOB, "--follow", "-o", "json")
    assert followed.json["state"] == "JOB_STATE_COMPLETED"
    assert followed.err == "line 1\nline 2\nline 3\n"
    assert mediactl("submit", "a", "--preset", "broken", "--output", "o", "--wait").code == 1


def test_submit_gives_up_waiting(mediactl: Mediactl, fake: FakeController) -> None:
    """Exit code 6; the job goes on."""
    ended = mediactl("submit", *SLOW, "--wait", "--wait-timeout", "100ms")
    assert ended.code == 6
    assert "it goes on" in ended.err
    assert mediactl("jobs", "get", "job-1", "-o", "json").json["state"] == "JOB_STATE_PROCESSING"
    assert mediactl("submit", *SLOW, "--wait-timeout", "1s").code == 2
    assert mediactl("submit", *SLOW, "--wait", "--wait-timeout", "soon").code == 2


def test_submit_a_spec_file(mediactl: Mediactl, fake: FakeController) -> None:
    """All jobs of the file in one submission."""
    job = {"inputs": [{"uri": "a"}], "preset": "quick", "outputs": [{"uri": "o"}]}
    Path("jobs.yaml").write_text(yaml.safe_dump([job, job]))
    assert mediactl("submit", "--spec", "jobs.yaml", "--priority", "9").out == "job-1\njob-2\n"
    assert [spec.priority for spec in fake.named("SubmitJobs")[0].jobs] == [9, 9]


def test_submit_says_when(mediactl: Mediactl, fake: FakeController) -> None:
    """Dependencies, times and pauses reach the controller as the API has them; `run`, which waits, knows no pauses."""
    options = ("--after", "job-8", "--after", "job-9", "--after", "job-8", "--after-any-end", "--hold")
    times = ("--not-before", "2030-01-01T00:00:00+01:00", "--deadline", "2030-01-02T00:00:00Z", "--job-timeout", "90m")
    mediactl("submit", *JOB, *options, *times)
    (spec,) = fake.named("SubmitJobs")[0].jobs
    assert ([*spec.after], spec.after_any_end, spec.hold) == (["job-8", "job-9"], True, True)
    assert spec.not_before.ToJsonString() == "2029-12-31T23:00:00Z"
    assert (spec.deadline.ToJsonString(), spec.timeout.seconds) == ("2030-01-02T00:00:00Z", 5400)
    mediactl("submit", *JOB, "--after-any-end")
    assert len(fake.named("SubmitJobs")) == 1
    for option in ("--hold", "--after=job-1", "--not-before=2h"):
        assert mediactl("run", *JOB, option).code == 2
    assert mediactl("run", *JOB, "--job-timeout", "1h", "--deadline", "2h").code == 0


def test_submit_says_when_in_a_spec(mediactl: Mediactl, fake: FakeController) -> None:
    """The same in a file; options add to it."""
    job = {"inputs": [{"uri": "a"}], "preset": "quick", "outputs": [{"uri": "o"}], "after": ["job-8"], "hold": True}
    when = {"notBefore": "2030-01-01T00:00:00Z", "timeout": "60s", "afterAnyEnd": True}
    Path("jobs.json").write_text(json.dumps(job | when))
    assert mediactl("submit", "--spec", "jobs.json", "--after", "job-9", "--job-timeout", "2m").code == 0
    (spec,) = fake.named("SubmitJobs")[0].jobs
    assert ([*spec.after], spec.hold, spec.after_any_end, spec.timeout.seconds) == (["job-8", "job-9"], True, True, 120)
    assert spec.not_before.ToJsonString() == "2030-01-01T00:00:00Z"


def test_plan_is_copy_pastable(mediactl: Mediactl, fake: FakeController) -> None:
    """Command lines quoted for a shell, decisions with their reasons; nothing is submitted."""
    ended = mediactl("plan", *JOB)
    assert "/usr/bin/ffmpeg -i in/0 -af 'volume={gain_db}dB' 'out/x y.m4a'" in ended.out.splitlines()
    assert "encoder: aac (libfdk_aac is absent)" in ended.out
    assert mediactl("plan", *JOB, "-o", "json").json["plan"]["steps"][0]["provisional"] is True
    assert fake.jobs == {}


def test_jobs_list(mediactl: Mediactl, fake: FakeController) -> None:
    """A table or a page as the API has it; what is more is said on stderr."""
    mediactl("submit", "b.wav", "[bold]c.wav", *JOB)
    ended = mediactl("jobs", "list", "--limit", "2")
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "job-3", "job-2"]
    assert "[bold]c.wav" in lines[2]
    assert "--page-token 2" in ended.err
    page = mediactl("jobs", "list", "--limit", "2", "--page-token", "2", "-o", "json").json
    assert [job["id"] for job in page["jobs"]] == ["job-1"]
    assert page["nextPageToken"] == ""


def test_jobs_list_filters(mediactl: Mediactl, fake: FakeController) -> None:
    """The selector reaches the controller; no jobs is a remark, not an error."""
    ended = mediactl(
        *("jobs", "list", "--state", "dead", "--state", "FAILED", "--label", "a=b", "--queue", "q"),
        *("--reason", "ffmpeg_failed"),
    )
    assert (ended.code, ended.out, ended.err) == (0, "", "no jobs\n")
    (request,) = fake.named("ListJobs")
    assert [*request.filter.states] == [7, 6]
    assert [*request.filter.reasons] == ["FFMPEG_FAILED"]
    assert "docs/reasons.md" in mediactl("jobs", "list", "--reason", "FFMPEG_FALED").err
    assert (dict(request.filter.labels), request.filter.queue) == ({"a": "b"}, "q")
    assert mediactl("jobs", "list", "--state", "SAD").code == 2


def test_jobs_list_says_why(mediactl: Mediactl, fake: FakeController) -> None:
    """What a waiting job waits for, and why one died."""
    mediactl("submit", "a.wav", "--preset", "broken", "--output", "out/")
    mediactl("submit", *JOB, "--after", "job-1", "--after", "0123456789abcdef")
    mediactl("submit", *JOB, "--hold")
    mediactl("submit", *SLOW, "--not-before", "2h")
    fake.jobs["job-4"].state = job_pb2.JOB_STATE_PENDING
    mediactl("submit", *SLOW)
    fake.jobs["job-5"].held = True
    whys = [line.split("  ")[-1] for line in mediactl("jobs", "list", "--limit", "9").out.splitlines()[1:]]
    assert (whys[0], whys[3], whys[4]) == ("held", "after job-1, 0123456789abcdef", "INPUT_NOT_FOUND")
    assert whys[1].startswith("not before 20")
    assert " HELD " in mediactl("jobs", "list", "--state", "HELD").out


def test_jobs_get(mediactl: Mediactl, fake: FakeController) -> None:
    """One job is one object, several are a list."""
    mediactl("submit", *JOB)
    assert "COMPLETED" in mediactl("jobs", "get", "job-1").out
    assert mediactl("jobs", "get", "job-1", "-o", "json").json["id"] == "job-1"
    assert yaml.safe_load(mediactl("jobs", "get", "job-1", "-o", "yaml").out)["id"] == "job-1"
    assert len(mediactl("jobs", "get", "job-1", "job-1", "-o", "json").json["jobs"]) == 2


def test_jobs_get_tells_what_it_waits_for(mediactl: Mediactl, fake: FakeController) -> None:
    """Dependencies, pauses, times and tasks are shown; what does not apply is not."""
    mediactl("submit", *JOB)
    plain = mediactl("jobs", "get", "job-1").out
    assert not any(
        line.startswith(("held", "after", "not before", "may take", "replay")) for line in plain.splitlines()
    )
    options = ("--after", "job-1", "--after-any-end", "--hold", "--not-before", "2030-01-01T00:00:00Z")
    mediactl("submit", *JOB, *options, "--job-timeout", "90m", "--require", "gpu=yes")
    job = fake.jobs["job-2"]
    job.replay_of = "job-1"
    job.expire_time.FromSeconds(1_900_000_000)
    job.tasks.add(name="main", kind="transform", state="BLOCKED", waits_for=2, attempts_used=1)
    told = dict(line.split(maxsplit=1) for line in mediactl("jobs", "get", "job-2").out.splitlines())
    assert (told["after"], told["held"]) == ("job-1 (however they end)", "until it is released")
    assert told["task"] == "main (transform): BLOCKED, waits for 2 others, 1 attempt used up"
    assert (told["may"], told["replay"], told["requires"]) == ("take    1:30:00", "of   job-1", "gpu=yes")
    assert told["stopped"].startswith("at  2030-03-17")


def test_jobs_watch(mediactl: Mediactl, fake: FakeController) -> None:
    """Events as lines, or an object a line with progress."""
    mediactl("submit", *JOB)
    ended = mediactl("jobs", "watch", "job-1")
    assert [line.split()[4] for line in ended.out.splitlines()] == ["submitted", "completed"]
    streamed = [json.loads(line) for line in mediactl("jobs", "watch", "job-1", "-o", "json").out.splitlines()]
    assert [next(iter(one)) for one in streamed] == ["event", "progress"] * 2


def test_jobs_logs(mediactl: Mediactl, fake: FakeController) -> None:
    """The bytes as they were captured."""
    mediactl("submit", *JOB)
    fake.logs[0].data = b"caf\xe9 "
    assert mediactl("jobs", "logs", "-f", "job-1").out.endswith("line 2\nline 3\n")
    assert json.loads(mediactl("jobs", "logs", "job-1", "-o", "json").out.splitlines()[1])["sequence"] == "2"


def test_jobs_events_explain_artifacts(mediactl: Mediactl, fake: FakeController) -> None:
    """History, why it waits, what it published; as tables and as the API's messages."""
    mediactl("submit", *JOB)
    assert "submitted" in mediactl("jobs", "events", "job-1").out
    assert [one["type"] for one in mediactl("jobs", "events", "job-1", "-o", "json").json["events"]] == [
        "submitted",
        "completed",
    ]
    assert "box: lacks encoder:aac" in mediactl("jobs", "explain", "job-1").out
    assert mediactl("jobs", "explain", "job-1", "-o", "json").json["agents"][0]["suitable"] is False
    assert "−16.0" in mediactl("jobs", "artifacts", "job-1").out
    assert mediactl("jobs", "artifacts", "job-1", "-o", "json").json["artifacts"][0]["name"] == "aac_192"


def test_jobs_cancel(mediactl: Mediactl, fake: FakeController) -> None:
    """By id or by selector, not both; one that ended is refused, the others are stopped all the same."""
    for _ in range(3):
        mediactl("submit", *SLOW)
    assert mediactl("jobs", "cancel", "job-1", "-o", "json").json["state"] == "JOB_STATE_CANCELLED"
    ended = mediactl("jobs", "cancel", "job-1", "job-2")
    assert ended.code == 2
    assert "job-1: JOB_ENDED" in ended.err
    assert "job-2" in ended.out
    assert [one["id"] for one in mediactl("jobs", "cancel", "--state", "PROCESSING", "-o", "json").json["jobs"]] == [
        "job-3"
    ]
    assert mediactl("jobs", "cancel").code == 2
    assert mediactl("jobs", "cancel", "job-1", "--queue", "q").code == 2


def test_presets_and_profiles(mediactl: Mediactl, fake: FakeController) -> None:
    """Lists and single ones."""
    assert "loudness_v1" in mediactl("presets", "list").out
    shown = mediactl("presets", "show", "loudness")
    assert "target_lufs: number in LUFS; -31 to -9; default -16" in shown.out
    assert 'name = "loudness"' in shown.out
    assert mediactl("presets", "list", "-o", "json").json["presets"][0]["fullName"] == "loudness_v1"
    assert "aac_192_v1" in mediactl("profiles", "list").out
    assert mediactl("profiles", "show", "aac_192", "-o", "json").json["container"] == "mp4"


def test_agents(mediactl: Mediactl, fake: FakeController) -> None:
    """What an agent can do, and why it can't do the rest."""
    assert "READY" in mediactl("agents", "list").out
    told = mediactl("agents", "get", "box").out
    assert "h264_nvenc: does not work: Cannot load libcuda.so.1" in told
    assert "none: no NVIDIA driver" in told
    assert mediactl("agents", "list", "-o", "json").json["agents"][0]["state"] == "AGENT_STATE_READY"


def test_agents_are_drained(mediactl: Mediactl, fake: FakeController) -> None:
    """The list tells why one takes nothing, and until when; with --wait it is told once the agent holds nothing."""
    assert "NO NEW WORK" not in mediactl("agents", "list").out
    fake.agent.attempt_ids.extend(["t1", "t2"])
    told = mediactl("agents", "drain", "box", "--deadline", "10m", "-o", "json").json
    assert (told["state"], told["drainReason"]) == ("AGENT_STATE_DRAINING", "a person asked for it")
    assert len(told["attemptIds"]) == 2
    [asked] = fake.named("DrainAgent")
    assert (asked.agent_id, asked.deadline.seconds) == ("box", 600)
    listed = mediactl("agents", "list").out
    assert "NO NEW WORK BECAUSE" in listed
    assert "a person asked for it; what still runs at 20" in listed
    assert "a person asked for it" in mediactl("agents", "get", "box").out
    told = mediactl("agents", "drain", "box", "--wait", "-o", "json").json
    assert told["attemptIds"] == []
    assert not fake.named("DrainAgent")[-1].HasField("deadline")
    assert "handed back" not in mediactl("agents", "list").out


def test_agents_are_resumed(mediactl: Mediactl, fake: FakeController) -> None:
    """Whoever waits for the end of a drain is told that there will be none."""
    mediactl("agents", "drain", "box")
    assert mediactl("agents", "resume", "g1", "-o", "json").json["state"] == "AGENT_STATE_READY"
    fake.agent.attempt_ids.extend(["t1", "t2"])
    fake.keeps_ready = True
    ended = mediactl("agents", "drain", "box", "--wait")
    assert ended.code == 1
    assert "box was resumed" in ended.err


def test_agents_are_removed(mediactl: Mediactl, fake: FakeController) -> None:
    """Only lost ones; ids that nobody has are not found, by any of the commands."""
    refused = mediactl("agents", "remove", "box")
    assert refused.code == 2
    assert "AGENT_NOT_LOST" in refused.err
    fake.agent.state = fleet_service_pb2.AGENT_STATE_LOST
    assert "LOST" in mediactl("agents", "remove", "box").out
    assert [request.agent_id for request in fake.named("RemoveAgent")] == ["g1", "g1"]
    for verb in ("drain", "resume", "remove"):
        assert mediactl("agents", verb, "nothing").code == 3
    assert mediactl("agents", "drain", "box", "--deadline", "soon").code == 2


def test_shared_options_go_before_and_after(mediactl: Mediactl, fake: FakeController) -> None:
    """The place of a shared option does not matter; the last one wins."""
    assert mediactl("-o", "json", "agents", "list").json == mediactl("agents", "list", "-o", "json").json
    assert "agents:" in mediactl("-o", "json", "agents", "list", "-o", "yaml").out


def test_the_file_names_the_controller(
    mediactl: Mediactl, fake: FakeController, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's configuration is read."""
    address = os.environ["MEDIACTL_CONTROLLER"]
    monkeypatch.delenv("MEDIACTL_CONTROLLER")
    file = home / ".config/mediactl/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'controller = "{address}"\nformat = "json"\n')
    assert mediactl("agents", "list").json["agents"]


def test_control_characters_are_not_obeyed(mediactl: Mediactl, fake: FakeController) -> None:
    """A file name can't drive the terminal."""
    mediactl("submit", "\x1b[31mred\a.wav", *JOB[1:])
    told = mediactl("jobs", "list").out
    assert "\x1b" not in told
    assert "\\x1b[31mred\\x07.wav" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_run_cancels_its_jobs(mediactl: Mediactl, fake: FakeController, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM cancel every job of the run; exit code 130."""
    watched = threading.Event()
    entered = fake._enter

    async def enter(method: str, request: object, context: object) -> None:
        await entered(method, request, context)
        if method == "WatchJobs":
            watched.set()

    fake._enter = enter  # type: ignore[method-assign]  # tells when the run has come so far

    def interrupt() -> None:
        assert watched.wait(10)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    ended = mediactl("run", "b.wav", *SLOW)
    thread.join()
    assert ended.code == 130
    assert [job.state for job in fake.jobs.values()] == [8, 8]
    assert ended.out == ""


def test_a_closed_pipe_is_no_defect(fake: FakeController) -> None:
    """`mediactl … | head` ends without a word about it."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "ctl.main", "agents", "list"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_fetching_what_a_failed_attempt_left(mediactl: Mediactl, fake: FakeController) -> None:
    """Into a file named after the job, which appears whole; its name on stdout."""
    mediactl("submit", *SLOW)
    ended = mediactl("jobs", "artifacts", "job-1", "--failed")
    assert (ended.code, ended.out) == (0, "job-1.failed.tar.gz\n")
    assert Path("job-1.failed.tar.gz").read_bytes() == fake.remains
    assert Path("job-1.failed.tar.gz").stat().st_mode & 0o077 == 0
    told = mediactl("-o", "json", "jobs", "artifacts", "job-1", "--failed", "--attempt", "a1", "--file", "x.tgz")
    assert told.json["file"] == "x.tgz"
    assert told.json["sizeBytes"] == str(len(fake.remains))
    assert (told.json["jobId"], told.json["attemptId"]) == ("job-1", "a1")
    assert Path("x.tgz").read_bytes() == fake.remains
    assert {request.attempt_id for request in fake.named("FetchRemains")} == {"", "a1"}


def test_an_archive_goes_to_stdout_alone(mediactl: Mediactl, fake: FakeController) -> None:
    """For a pipe: nothing else is printed and no file is made."""
    mediactl("submit", *SLOW)
    ended = mediactl("jobs", "artifacts", "job-1", "--failed", "--file", "-")
    assert (ended.code, ended.out.encode()) == (0, fake.remains)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("chosen", [(), ("--file", "job-1.failed.tar.gz")], ids=["default", "named"])
def test_an_archive_replaces_nothing(mediactl: Mediactl, fake: FakeController, chosen: tuple[str, ...]) -> None:
    """What bears the name stays, a link to nowhere too; nothing half-written is left."""
    mediactl("submit", *SLOW)
    path = Path("job-1.failed.tar.gz")
    path.symlink_to("nowhere")
    ended = mediactl("jobs", "artifacts", "job-1", "--failed", *chosen)
    assert ended.code == 2
    assert "exists" in ended.err
    assert list(Path().iterdir()) == [path]
    assert path.is_symlink()


def test_a_fetch_goes_on_behind_what_arrived(mediactl: Mediactl, fake: FakeController) -> None:
    """A controller that stops in the middle costs a request, no bytes."""
    mediactl("submit", *SLOW)
    fake.break_streams_after = [8, 20]
    assert mediactl("jobs", "artifacts", "job-1", "--failed").code == 0
    assert Path("job-1.failed.tar.gz").read_bytes() == fake.remains
    asked = [(request.attempt_id, request.offset) for request in fake.named("FetchRemains")]
    assert asked == [("", 0), ("a1", 8), ("a1", 20)]


@pytest.mark.parametrize(("reason", "code"), [(Reason.REMAINS_NOT_FOUND, 3), (Reason.REMAINS_UNAVAILABLE, 6)])
def test_a_fetch_that_fails_leaves_no_file(mediactl: Mediactl, fake: FakeController, reason: Reason, code: int) -> None:
    """Only the reason, and an exit code of its own."""
    mediactl("submit", *SLOW)
    fake.fail("FetchRemains", MediactlError(reason, "it is not there"))
    ended = mediactl("jobs", "artifacts", "job-1", "--failed")
    assert (ended.code, ended.out) == (code, "")
    assert str(reason) in ended.err
    assert not list(Path().iterdir())


def test_where_an_archive_cannot_go(mediactl: Mediactl, fake: FakeController) -> None:
    """A folder that is none; options that belong to --failed."""
    mediactl("submit", *SLOW)
    assert mediactl("jobs", "artifacts", "job-1", "--failed", "--file", "none/x.tgz").code == 1
    assert mediactl("jobs", "artifacts", "job-1", "--file", "x.tgz").code == 2
    assert mediactl("jobs", "artifacts", "job-1", "--attempt", "a1").code == 2
