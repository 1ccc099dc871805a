"""Plans carried out by the real FFmpeg without an agent, as one would between fetching and publishing."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from presets.capabilities import Binary, missing
from presets.catalog import Catalog
from presets.compile import compile as compile_plan
from presets.diagnosis import diagnose
from presets.document import Media
from presets.facts import MediaFacts, from_ffprobe
from presets.formats import PROTOCOL_WHITELIST
from presets.intent import Intent, resolve
from presets.measurement import parse_frames, parse_progress, step_result
from presets.needs import requirements
from presets.opening import formats_of
from presets.plan import Plan, StepResult
from presets.problems import MediaFailure
from presets.uris import path_to_uri
from presets.verify import check, check_document


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


def probe(path: Path, media: Media = Media.AUDIO) -> MediaFacts:
    """A file as ffprobe describes it to an agent that was given it in a role for ``media``."""
    arguments = ["-v", "error", "-of", "json", "-show_format", "-show_streams", "-show_chapters"]
    allowed = ["-protocol_whitelist", PROTOCOL_WHITELIST, "-format_whitelist", formats_of(media)]
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
    roles = intent.preset.document.roles
    facts = [probe(workspace / "in" / str(n), roles[ref.role].media) for n, ref in enumerate(intent.inputs)]
    results: dict[str, StepResult] = {}
    while True:
        plan = compile_plan(intent, facts, binary, results, threads=threads, gpu=gpu)
        for name, text in plan.documents.items():
            (workspace / name).write_text(text)
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
        results[step.id] = step_result(
            step, parse_progress(told), tail, parse_frames(told), lambda name: (workspace / name).open()
        )
    assert plan.finished(results)
    for output in plan.outputs:
        if output.path in plan.documents:
            assert check_document(plan.documents[output.path]) == ()
        else:
            assert check(output, probe(workspace / output.path), output.decoded_s) == ()
    return Done(plan, workspace)


def by_preset(
    preset: str,
    source: Path,
    binary: Binary,
    workspace: Path,
    profile: str = "",
    params: Mapping[str, str] | None = None,
) -> Done:
    """What a shipped preset makes of one recording, as by :func:`carry_out`."""
    intent = resolve(
        Catalog.shipped(),
        inputs=[("", path_to_uri(str(source)))],
        preset=preset,
        params=params or {},
        outputs=[(profile, "file:///published/x")],
    )
    return carry_out(intent, [source], binary, workspace)
