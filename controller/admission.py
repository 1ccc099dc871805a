"""From what a caller asked to what is stored: complete validation first, every problem with its field."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value

from controller.core.fitting import beneath, unreached
from controller.core.limits import name_problem
from controller.store.submission import NewJob
from controller.store.tables import JobId
from mediactl.v1 import job_pb2
from presets.capabilities import Requirements
from presets.catalog import Catalog
from presets.intent import Intent, resolve
from presets.needs import requirements
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason
from presets.uris import CONTROLLER, Place, deposit_path, normal, place

DEFAULT_PRIORITY = 5
DEFAULT_QUEUE = "default"
DEFAULT_MAX_ATTEMPTS = 3
MOST_JOBS = 10_000
MOST_BYTES = 64 * 1024
"""Of one job as it was asked for: lists of jobs must fit into a message."""
MOST_LABELS = 64
_Time: TypeAlias = Literal["not_before", "timeout", "deadline"]
_TIMES: tuple[_Time, ...] = get_args(_Time)
LATEST_US = 7_258_118_400_000_000
"""The year 2200."""
MOST_KEPT_S = 3650 * 86400
_LABEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")


def digest(request: Message) -> str:
    """Of a request's set fields, before anything is resolved."""
    kind = request.DESCRIPTOR.full_name
    return hashlib.sha256(kind.encode() + b"\n" + request.SerializeToString(deterministic=True)).hexdigest()


def admit(
    catalog: Catalog,
    specs: Sequence[job_pb2.JobSpec],
    *,
    roots: Sequence[Sequence[str]],
    now_us: int,
    after: Mapping[str, JobId | Problem] = MappingProxyType({}),
    deposited: Collection[str] = (),
    kind: str = "media",
    field: str = "jobs[{index}].",
) -> tuple[NewJob, ...]:
    """All jobs of a request, resolved against the catalog.

    `roots` are what every agent known reaches, its media roots and stores; none at all means that no agent has
    registered yet. `after` says which job each text in an `after` means. `deposited` are those of the paths in the
    controller's own store under which something is whole. `field` is the prefix of a job's field paths.
    Raises InvalidRequest with every problem of every job.
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
        if spec.ByteSize() > MOST_BYTES:
            told = f"at most {MOST_BYTES // 1024} KiB for one job, got {spec.ByteSize() // 1024}"
            problems.append(Problem(Reason.INVALID_ARGUMENT, field.format(index=index).rstrip("."), told))
            continue
        found = [*_numbers(spec), *_names(spec), *_times(spec, now_us)]
        found += [
            Problem(meant.reason, f"after[{number}]", meant.message)
            for number, text in enumerate(spec.after)
            if isinstance(meant := after[text], Problem)
        ]
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
                reuse=spec.reuse,
            )
        except InvalidRequest as invalid:
            found += invalid.problems
        if intent is not None:
            found += _reach(intent, roots)
            found += _undeposited(intent, deposited)
            if kind == "media":
                found += _collisions(intent, taken, index)
        prefix = field.format(index=index)
        problems += [Problem(p.reason, prefix + p.field, p.message) for p in found]
        if intent is not None and not found:
            parents = dict.fromkeys(str(after[text]) for text in spec.after)
            admitted.append(_new_job(spec, intent, kind, tuple(parents)))
    if problems:
        # Who asks before uploading hears first of what uploading will not mend.
        problems.sort(key=lambda problem: problem.reason is Reason.DEPOSIT_NOT_FOUND)
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


def _names(spec: job_pb2.JobSpec) -> list[Problem]:
    problems = []
    if spec.queue and (unfit := name_problem(spec.queue)):
        problems.append(Problem(Reason.INVALID_ARGUMENT, "queue", unfit))
    for field, pairs in (("labels", spec.labels), ("require", spec.require)):
        if len(pairs) > MOST_LABELS:
            problems.append(Problem(Reason.INVALID_ARGUMENT, field, f"at most {MOST_LABELS} are expected"))
            continue
        for key, value in pairs.items():
            if not _LABEL_KEY.fullmatch(key):
                told = f"{key!r}: letters, digits and `._-/` are expected, 63 at the most"
                problems.append(Problem(Reason.INVALID_ARGUMENT, field, told))
            elif len(value) > 256 or not value.isprintable():
                told = "at most 256 printable characters are expected"
                problems.append(Problem(Reason.INVALID_ARGUMENT, f"{field}.{key}", told))
    return problems


def _times(spec: job_pb2.JobSpec, now_us: int) -> list[Problem]:
    problems = []
    if spec.HasField("keep") and not 0 < spec.keep.seconds <= MOST_KEPT_S:
        told = f"a time from 1 s to {MOST_KEPT_S // 86400} days is expected"
        problems.append(Problem(Reason.INVALID_ARGUMENT, "keep", told))
    for field in _TIMES:
        if spec.HasField(field) and not 0 < _microseconds(spec, field) < LATEST_US:
            problems.append(Problem(Reason.INVALID_ARGUMENT, field, "a time after 1970 and before 2200 is expected"))
    if problems:
        return problems
    if spec.HasField("deadline"):
        deadline_us = _microseconds(spec, "deadline")
        if deadline_us <= now_us:
            problems.append(Problem(Reason.INVALID_ARGUMENT, "deadline", "a moment that is still ahead is expected"))
        elif spec.HasField("not_before") and deadline_us <= _microseconds(spec, "not_before"):
            problems.append(Problem(Reason.INVALID_ARGUMENT, "deadline", "a moment after `not_before` is expected"))
    return problems


def _microseconds(spec: job_pb2.JobSpec, field: _Time) -> int:
    try:
        return int(getattr(spec, field).ToMicroseconds())
    except ValueError:
        return -1


def _given(spec: job_pb2.JobSpec, field: _Time) -> int | None:
    return _microseconds(spec, field) if spec.HasField(field) else None


def _places(intent: Intent) -> list[tuple[str, Place]]:
    named = [(f"inputs[{i}].uri", item.uri) for i, item in enumerate(intent.inputs)]
    named += [(f"outputs[{i}].uri", item.uri) for i, item in enumerate(intent.outputs)]
    return [(name, place(uri)) for name, uri in named]


def _of_agents(intent: Intent) -> list[tuple[str, Place]]:
    """Those that not every agent reaches."""
    return [(name, at) for name, at in _places(intent) if at.store != CONTROLLER]


def deposits_of(uris: Iterable[str]) -> tuple[str, ...]:
    """The paths in the controller's own store that are among these, each once; malformed ones are left out."""
    found: dict[str, None] = {}
    for uri in uris:
        with suppress(ValueError):
            found[deposit_path(uri)] = None
    return tuple(found)


def _undeposited(intent: Intent, deposited: Collection[str]) -> list[Problem]:
    problems = []
    named = [(f"inputs[{i}].uri", item.uri, True) for i, item in enumerate(intent.inputs)]
    named += [(f"outputs[{i}].uri", item.uri, False) for i, item in enumerate(intent.outputs)]
    for field, uri, is_input in named:
        if place(uri).store != CONTROLLER:
            continue
        try:
            path = deposit_path(uri)
        except ValueError as error:
            problems.append(Problem(Reason.INVALID_ARGUMENT, field, str(error)))
            continue
        if is_input and path not in deposited:
            told = f"nothing is deposited as {uri}, or it has expired: upload it again"
            problems.append(Problem(Reason.DEPOSIT_NOT_FOUND, field, told))
        elif not is_input and not path.startswith("results/"):
            told = f"{uri!r} is a place for inputs; results go to controller://results/FOLDER/"
            problems.append(Problem(Reason.INVALID_ARGUMENT, field, told))
    return problems


def _reach(intent: Intent, roots: Sequence[Sequence[str]]) -> list[Problem]:
    if not roots:
        return []
    declared = sorted({root for agent in roots for root in agent})
    problems = []
    for name, at in _of_agents(intent):
        if not any(beneath(str(at), agent) for agent in roots):
            what, kind, known = unreached(str(at), declared)
            told = f"no agent reaches {what}; their {kind} are {known}"
            problems.append(Problem(Reason.NO_CAPABLE_AGENT, name, told))
    return problems


def _collisions(intent: Intent, taken: dict[str, int], index: int) -> list[Problem]:
    problems = []
    for number, output in enumerate(intent.outputs):
        other = taken.setdefault(str(normal(place(output.uri))), index)
        if other != index:
            problems.append(
                Problem(
                    Reason.OUTPUT_COLLISION,
                    f"outputs[{number}].uri",
                    f"jobs[{other}] writes {output.uri} too; give each its own name or another folder",
                )
            )
    return problems


@lru_cache(maxsize=1024)
def _needs_of(needs: Requirements) -> tuple[str, str]:
    # Few different ones exist; writing one out costs as much as the rest of a job.
    return needs.class_key(), json.dumps(needs.to_json())


def _new_job(spec: job_pb2.JobSpec, intent: Intent, kind: str, after: tuple[str, ...]) -> NewJob:
    class_key, needs = _needs_of(requirements(intent))
    deposits = deposits_of(item.uri for item in intent.inputs)
    return NewJob(
        kind=kind,
        task_kind="transform" if kind == "media" else "plan",
        queue=spec.queue or DEFAULT_QUEUE,
        priority=spec.priority if spec.HasField("priority") else DEFAULT_PRIORITY,
        max_attempts=spec.max_attempts if spec.HasField("max_attempts") else DEFAULT_MAX_ATTEMPTS,
        preset=intent.preset.full_name,
        preset_digest=intent.preset.digest,
        labels=dict(spec.labels),
        require=json.dumps(dict(sorted(spec.require.items()))),
        spec=spec.SerializeToString(),
        intent=json.dumps(intent.to_json()),
        texts=intent.texts(),
        class_key=class_key,
        requirements=needs,
        paths=json.dumps([str(at) for _, at in _of_agents(intent)]),
        verbose=spec.verbose,
        hold=spec.hold,
        after=after,
        after_any_end=spec.after_any_end,
        not_before_us=_given(spec, "not_before"),
        timeout_us=_given(spec, "timeout"),
        deadline_us=_given(spec, "deadline"),
        deposits=json.dumps(deposits) if deposits else None,
    )
