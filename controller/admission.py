"""From what a caller asked to what is stored: complete validation first, every problem with its field."""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
from collections.abc import Iterable, Sequence

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from controller.core.matching import beneath
from controller.store.submission import NewJob
from mediactl.v1 import job_pb2
from presets.capabilities import Requirements
from presets.catalog import Catalog
from presets.intent import Intent, requirements, resolve
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason
from presets.uris import uri_to_path

DEFAULT_PRIORITY = 5
DEFAULT_QUEUE = "default"
DEFAULT_MAX_ATTEMPTS = 3
MOST_JOBS = 10_000


def digest(specs: Iterable[job_pb2.JobSpec]) -> str:
    """Of a request's set fields, before anything is resolved."""
    try:
        canonical = json.dumps([json_format.MessageToDict(spec) for spec in specs], sort_keys=True)
    except json_format.Error:
        # A value that no JSON holds: no such request is ever stored.
        return ""
    return hashlib.sha256(canonical.encode()).hexdigest()


def admit(
    catalog: Catalog,
    specs: Sequence[job_pb2.JobSpec],
    *,
    roots: Sequence[Sequence[str]],
    kind: str = "media",
    field: str = "jobs[{index}].",
) -> tuple[NewJob, ...]:
    """All jobs of a request, resolved against the catalog.

    `roots` are the media roots of every agent known; none at all means that no agent has registered yet. `field` is
    the prefix of a job's field paths. Raises InvalidRequest with every problem of every job.
    """
    problems: list[Problem] = []
    admitted: list[NewJob] = []
    if not specs:
        problems.append(Problem(Reason.INVALID_ARGUMENT, "jobs", "at least one job is needed"))
    if len(specs) > MOST_JOBS:
        problems.append(
            Problem(Reason.INVALID_ARGUMENT, "jobs", f"at most {MOST_JOBS} jobs in one request, got {len(specs)}")
        )
        raise InvalidRequest(*problems)
    taken: dict[str, int] = {}
    for index, spec in enumerate(specs):
        found = _numbers(spec)
        intent: Intent | None = None
        try:
            if unreadable := _unreadable(spec):
                raise InvalidRequest(*unreadable)
            intent = resolve(
                catalog,
                inputs=[(item.role, item.uri) for item in spec.inputs],
                preset=spec.preset,
                params={key: _text(value) for key, value in spec.params.items()},
                outputs=[(item.profile, item.uri) for item in spec.outputs],
                overwrite=spec.overwrite,
            )
        except InvalidRequest as invalid:
            found += invalid.problems
        if intent is not None:
            found += _reach(intent, roots)
            if kind == "media":
                found += _collisions(intent, taken, index)
        prefix = field.format(index=index)
        problems += [Problem(p.reason, prefix + p.field, p.message) for p in found]
        if intent is not None and not found:
            admitted.append(_new_job(spec, intent, requirements(intent), kind))
    if problems:
        raise InvalidRequest(*problems)
    return tuple(admitted)


def _unreadable(spec: job_pb2.JobSpec) -> list[Problem]:
    """Values of parameters that are none, or that no JSON can hold."""
    return [
        Problem(Reason.PARAMETER_OUT_OF_RANGE, f"params.{key}", "a finite number, text, true or false is expected")
        for key, value in spec.params.items()
        if value.WhichOneof("kind") not in ("number_value", "string_value", "bool_value")
        or not math.isfinite(value.number_value)
    ]


def _text(value: Value) -> str:
    plain: object = json_format.MessageToDict(value)
    if isinstance(plain, str):
        return plain
    # Protobuf JSON has only doubles; what was written 12 is to be read as 12.
    if isinstance(plain, float) and plain.is_integer():
        plain = int(plain)
    return json.dumps(plain)


def _numbers(spec: job_pb2.JobSpec) -> list[Problem]:
    problems = []
    if spec.HasField("priority") and not 0 <= spec.priority <= 9:
        problems.append(
            Problem(
                Reason.INVALID_ARGUMENT,
                "priority",
                f"a whole number from 0 to 9 is expected, got {spec.priority}",
            )
        )
    if spec.HasField("max_attempts") and not 1 <= spec.max_attempts <= 100:
        problems.append(
            Problem(
                Reason.INVALID_ARGUMENT,
                "max_attempts",
                f"a whole number from 1 to 100 is expected, got {spec.max_attempts}",
            )
        )
    return problems


def _paths(intent: Intent) -> list[tuple[str, str]]:
    named = [(f"inputs[{i}].uri", item.uri) for i, item in enumerate(intent.inputs)]
    named += [(f"outputs[{i}].uri", item.uri) for i, item in enumerate(intent.outputs)]
    return [(name, uri_to_path(uri)) for name, uri in named]


def _reach(intent: Intent, roots: Sequence[Sequence[str]]) -> list[Problem]:
    if not roots:
        return []
    return [
        Problem(
            Reason.NO_CAPABLE_AGENT,
            name,
            f"no agent reaches {path}; their media roots are "
            + (", ".join(sorted({root for agent in roots for root in agent})) or "none"),
        )
        for name, path in _paths(intent)
        if not any(beneath(path, agent) for agent in roots)
    ]


def _collisions(intent: Intent, taken: dict[str, int], index: int) -> list[Problem]:
    problems = []
    for number, output in enumerate(intent.outputs):
        other = taken.setdefault(posixpath.normpath(uri_to_path(output.uri)), index)
        if other != index:
            problems.append(
                Problem(
                    Reason.OUTPUT_COLLISION,
                    f"outputs[{number}].uri",
                    f"jobs[{other}] writes {output.uri} too; give each its own name or another folder",
                )
            )
    return problems


def _new_job(spec: job_pb2.JobSpec, intent: Intent, needs: Requirements, kind: str) -> NewJob:
    return NewJob(
        kind=kind,
        task_kind="transform" if kind == "media" else "plan",
        queue=spec.queue or DEFAULT_QUEUE,
        priority=spec.priority if spec.HasField("priority") else DEFAULT_PRIORITY,
        max_attempts=spec.max_attempts if spec.HasField("max_attempts") else DEFAULT_MAX_ATTEMPTS,
        preset=intent.preset.full_name,
        preset_digest=intent.preset.digest,
        labels=json.dumps(dict(spec.labels)),
        require=json.dumps(dict(spec.require)),
        spec=json_format.MessageToJson(spec, indent=None),
        intent=json.dumps(intent.to_json()),
        class_key=needs.class_key(),
        requirements=json.dumps(needs.to_json()),
        paths=json.dumps([path for _, path in _paths(intent)]),
        verbose=spec.verbose,
    )
