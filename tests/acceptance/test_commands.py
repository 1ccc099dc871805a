"""What the other commands say of presets, agents, this machine and themselves; the exit codes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Recordings
from tests.fakes.cli import Home

HOUSE_SOUND = """\
name = "{name}"
version = 1
title = "House sound"
description = "Ours"
default_profile = "flac_v1"
[roles]
voice = {{ media = "audio", default = true }}
[chain.out]
from = ["voice"]
steps = [{{ op = "highpass", hz = {hz} }}, {{ op = "conform" }}]
"""


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["jobs", "get", "0123456789abcdef"], 3, "JOB_NOT_FOUND"),
        (["jobs", "cancel", "0123456789abcdef"], 3, "JOB_NOT_FOUND"),
        (["jobs", "logs", "0123456789abcdef"], 3, "JOB_NOT_FOUND"),
        (["jobs", "events", "0123456789abcdef"], 3, "JOB_NOT_FOUND"),
        (["jobs", "explain", "0123456789abcdef"], 3, "JOB_NOT_FOUND"),
        (["jobs", "artifacts", "0123456789abcdef"], 3, "JOB_NOT_FOUND"),
        (["jobs", "watch", "0123456789abcdef"], 3, "JOB_NOT_FOUND"),
        (["agents", "get", "nobody"], 3, "AGENT_NOT_FOUND"),
        (["jobs", "frobnicate"], 2, "frobnicate"),
        (["jobs", "list", "--state", "TIRED"], 2, "TIRED"),
        (["jobs", "cancel"], 2, "selector"),
        (["-o", "xml", "jobs", "list"], 2, "xml"),
        (["--controller", "127.0.0.1:1", "jobs", "list"], 4, "CONTROLLER_UNREACHABLE"),
        (["--controller", "unix:/nowhere/m.sock", "jobs", "list"], 4, "CONTROLLER_UNREACHABLE"),
        (["--controller", "192.0.2.1:7420", "jobs", "list"], 2, "TLS"),
    ],
)
def test_exit_codes(box: Home, arguments: list[str], code: int, told: str) -> None:
    """Not found 3, unreachable 4, usage 2, each with its reason on stderr and nothing on stdout."""
    ran = box.run(*arguments, code=code)
    assert told in ran.stderr
    assert ran.stdout == ""


def test_presets_and_profiles(box: Home) -> None:
    """The shipped library, what each preset takes, and the document as its author wrote it."""
    presets = {preset["fullName"]: preset for preset in box.job("presets", "list")["presets"]}
    assert {"dialogue_clean_v1", "loudness_ebu_r128_v1", "loudness_podcast_v1", "extract_audio_v1", "convert_v1"} <= {
        *presets
    }
    podcast = box.job("presets", "show", "loudness_podcast")
    by_name = {parameter["name"]: parameter for parameter in podcast["parameters"]}
    assert (by_name["target_lufs"]["min"], by_name["target_lufs"]["max"]) == (-31, -9)
    assert by_name["over_peaks"]["choices"] == ["limit", "lower", "fail"]
    assert box.job("presets", "show", "loudness_ebu_r128_v1")["parameters"] == []
    assert "LUFS" in box.run("presets", "show", "loudness_podcast").stdout
    profiles = {profile["fullName"] for profile in box.job("profiles", "list")["profiles"]}
    assert {"audio_only_master_v1", "aac_192_v1", "mp3_192_v1", "opus_96_v1", "flac_v1"} <= profiles
    assert "bitrate_kbps" in box.job("profiles", "show", "aac_192")["document"]
    assert "PRESET_NOT_FOUND" in box.run("presets", "show", "nothing", code=None).stderr


def test_a_preset_of_ones_own(box: Home, recordings: Recordings, tmp_path: Path) -> None:
    """Validated without a server, added once, usable at once; another document under its version is refused."""
    name = "house_sound"
    path = tmp_path / "house.toml"
    path.write_text(HOUSE_SOUND.format(name=name, hz=100))
    assert f"{name}_v1" in box.run("presets", "validate", path).stdout
    for _ in range(2):
        box.run("presets", "add", path)
    job = box.job("run", recordings.synth("blip"), "--preset", name, "--output", f"{tmp_path}/out/")
    assert job["preset"] == f"{name}_v1"
    assert any("highpass" in " ".join(step["arguments"]) for step in job["attempts"][0]["plan"]["steps"])
    path.write_text(HOUSE_SOUND.format(name=name, hz=120))
    assert "PRESET_CONFLICT" in box.run("presets", "add", path, code=2).stderr
    again = box.job("presets", "show", name)
    assert "hz = 100" in again["document"]


@pytest.mark.parametrize(
    ("change", "line", "told"),
    [
        (("highpass", "highpas"), 10, ["chain.out.steps[0].op", "highpas", "did you mean highpass"]),
        (("hz = 100", "hz = -4"), 10, ["hz"]),
        (("version = 1", 'version = "one"'), 2, ["version"]),
        (('from = ["voice"]', 'from = ["choir"]'), 9, ["choir"]),
        (('title = "House sound"', "title = "), 3, []),
        (('title = "House sound"', 'tittle = "House sound"'), 3, ["tittle"]),
    ],
)
def test_a_preset_that_is_wrong(new_home: Home, change: tuple[str, str], line: int, told: list[str]) -> None:
    """FILE:LINE:COLUMN: field: what was expected, exit 2, and no server is started for it."""
    path = new_home.folder / "house.toml"
    path.write_text(HOUSE_SOUND.format(name="house_sound", hz=100).replace(*change))
    ran = new_home.run("presets", "validate", path, code=2)
    assert f"{path}:{line}:" in ran.stderr
    assert all(one.startswith(f"{path}:") for one in ran.stderr.splitlines())
    for text in told:
        assert text in ran.stderr
    assert not new_home.data_dir.exists()


def test_agents(box: Home) -> None:
    """What the machine has proved: FFmpeg binaries, and for NVENC that it works or why it does not."""
    [agent] = box.job("agents", "list")["agents"]
    assert agent["state"] == "AGENT_STATE_READY"
    shown = box.job("agents", "get", agent["name"])
    assert shown["id"] == agent["id"]
    capabilities = shown["capabilities"]
    assert capabilities["cores"] >= 1
    assert capabilities["ffprobePath"]
    for binary in capabilities["binaries"]:
        assert "encoder:aac" in binary["capabilities"]
        trials = {trial["encoder"]: trial for trial in binary["trials"]}
        if "encoder:h264_nvenc" in binary["capabilities"]:
            assert trials["h264_nvenc"]["works"]
        elif "h264_nvenc" in trials:
            assert trials["h264_nvenc"]["message"]
    if not capabilities["gpus"]:
        assert capabilities["gpuMessage"]
        assert capabilities["gpuMessage"] in box.run("agents", "get", agent["id"][:6]).stdout


def test_doctor(new_home: Home) -> None:
    """What this machine can do and what is missing, without any server; exit 0 as it can process something."""
    text = new_home.run("doctor").stdout
    assert "ffmpeg" in text
    assert "nvenc" in text.lower()
    document = new_home.job("doctor")
    assert document["box"]["running"] is False
    subjects = {finding["subject"] for finding in document["findings"]}
    assert {"ffmpeg", "ffprobe", "nvenc"} <= subjects
    assert all(finding["detail"] for finding in document["findings"])
    assert all(finding["remedy"] for finding in document["findings"] if not finding["ok"])
    assert not new_home.processes()


def test_doctor_without_ffmpeg(new_home: Home) -> None:
    """Exit 1, and the command that installs it."""
    empty = new_home.folder / "bin"
    empty.mkdir()
    new_home.environment["PATH"] = str(empty)
    ran = new_home.run("doctor", "-o", "json", code=None)
    findings = {finding["subject"]: finding for finding in ran.json["findings"]}
    assert not findings["ffprobe"]["ok"]
    assert "ffmpeg" in findings["ffprobe"]["remedy"]
    assert ran.code == 1


def test_version_and_help_start_nothing(new_home: Home) -> None:
    """Also in a home that cannot have a box."""
    assert new_home.run("version").stdout.startswith("mediactl ")
    assert set(new_home.job("version")) == {"version"}
    for command in ([], ["run"], ["jobs"], ["jobs", "list"], ["presets"], ["up"]):
        assert "Usage: mediactl" in new_home.run(*command, "--help").stdout
    assert not new_home.data_dir.exists()


@pytest.mark.parametrize("program", ["mediactl", "mediactl-controller", "mediactl-agent"])
def test_installed_programs(new_home: Home, program: str) -> None:
    """What the installation puts beside the interpreter starts and says how it is used."""
    done = subprocess.run(
        [Path(sys.executable).parent / program, "--help"],
        capture_output=True,
        text=True,
        env=new_home.environment,
        timeout=30,
        check=True,
    )
    assert done.stdout.startswith(f"Usage: {program}")


def test_completion(new_home: Home) -> None:
    """Bash takes the script without error, and it completes commands and options."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    script = new_home.folder / "completion.bash"
    script.write_text(new_home.run("completion", "bash").stdout)
    done = subprocess.run(
        [bash, "--norc", "-euc", f"source {script}; complete -p mediactl"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "mediactl" in done.stdout
    for shell in ("zsh", "fish"):
        assert "mediactl" in new_home.run("completion", shell).stdout
    new_home.environment |= {"_MEDIACTL_COMPLETE": "bash_complete", "COMP_WORDS": "mediactl jobs ca", "COMP_CWORD": "2"}
    assert "cancel" in new_home.run().stdout


def test_settings_come_from_flags_environment_and_file(new_home: Home) -> None:
    """In this order; an unknown setting in a file is refused with the file's name."""
    config = new_home.folder / "home" / "config" / "mediactl"
    config.mkdir(parents=True)
    (config / "config.toml").write_text('format = "yaml"\ncontroller = "127.0.0.1:1"\n')
    assert new_home.run("version").stdout.startswith("version: ")
    assert new_home.run("version", "-o", "table").stdout.startswith("mediactl ")
    new_home.environment["MEDIACTL_FORMAT"] = "json"
    assert new_home.run("version").stdout.startswith("{")
    assert "127.0.0.1:1" in new_home.run("jobs", "list", code=4).stderr
    (config / "config.toml").write_text("colour = true\n")
    ran = new_home.run("version", code=2)
    assert "colour" in ran.stderr
    assert str(config / "config.toml") in ran.stderr
