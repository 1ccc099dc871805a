"""Plans carried out by the real FFmpeg without an agent, as one would between fetching and publishing."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from presets.capabilities import Binary, missing
from presets.compile import compile as compile_plan
from presets.diagnosis import diagnose
from presets.facts import MediaFacts, from_ffprobe
from presets.formats import FORMAT_WHITELIST, PROTOCOL_WHITELIST
from presets.intent import Intent
from presets.measurement import parse_frames, parse_progress, step_result
from presets.needs import requirements
from presets.plan import Plan, Purpose, StepResult
from presets.problems import MediaFailure
from presets.survey import parse_survey
from presets.verify import check


@cache
def listed(path: str) -> Binary:
    """An FFmpeg with all that it lists, encoders without a device included."""
    version = subprocess.run([path, "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    capabilities = set()
    for kind in ("encoder", "filter", "muxer"):
        said = subprocess.run([path, "-hide_banner", f"-{kind}s"], capture_output=True, text=True, check=True)
        capabilities |= {f"{kind}:{words[1]}" for line in said.stdout.splitlines() if len(words := line.split()) > 1}
    return Binary(path, version, "digest", frozenset(capabilities), 0)


@dataclass(frozen=True, slots=True)
class Done:
    """A finished plan and the workspace it was run in."""

    plan: Plan
    workspace: Path

    @property
    def path(self) -> Path:
        """Where its first output is."""
        return self.workspace / self.plan.outputs[0].path


def probe(path: Path) -> MediaFacts:
    """A file as ffprobe describes it to an agent."""
    arguments = ["-v", "error", "-of", "json", "-show_format", "-show_streams"]
    allowed = ["-protocol_whitelist", PROTOCOL_WHITELIST, "-format_whitelist", FORMAT_WHITELIST]
    found = subprocess.run(["ffprobe", *arguments, *allowed, str(path)], capture_output=True, text=True, check=False)
    return from_ffprobe(json.loads(found.stdout or "{}"))


def carry_out(
    intent: Intent, inputs: Sequence[Path], binary: Binary, workspace: Path, *, threads: int = 1, gpu: int | None = None
) -> Done:
    """Every step, in a new ``workspace``, and the assertions that the binary is able and every output verifies.

    :raises MediaFailure: as an agent would report it.
    """
    (workspace / "in").mkdir(parents=True)
    (workspace / "out").mkdir()
    (workspace / "work").mkdir()
    for number, path in enumerate(inputs):
        (workspace / "in" / str(number)).symlink_to(path)
    ways = [a for a in requirements(intent).alternatives if (a.resources.encoder_sessions > 0) is (gpu is not None)]
    assert not missing(ways[0], binary.capabilities)
    facts = [probe(workspace / "in" / str(number)) for number in range(len(inputs))]
    results: dict[str, StepResult] = {}
    while True:
        plan = compile_plan(intent, facts, binary, results, threads=threads, gpu=gpu)
        step = plan.next(results)
        if step is None:
            break
        ran = subprocess.run(
            [binary.path, *step.argv], cwd=workspace, capture_output=True, text=True, timeout=100, check=False
        )
        if ran.returncode:
            raise MediaFailure(*diagnose(step, ran.returncode, ran.stderr[-20_000:]))
        assert all((workspace / written).exists() for written in step.writes)
        tail = (workspace / step.measure).read_text() if step.measure else None
        told = ran.stdout.splitlines()
        results[step.id] = step_result(step, parse_progress(told), tail, parse_frames(told))
        if step.purpose is Purpose.SURVEY:
            surveyed = parse_survey((tail or "").splitlines())
            results[step.id] = replace(results[step.id], survey=surveyed)
    assert plan.finished(results)
    for output in plan.outputs:
        assert check(output, probe(workspace / output.path), output.decoded_s) == ()
    return Done(plan, workspace)
