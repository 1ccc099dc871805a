"""From a command line or a spec file to job specs, and the options that `run`, `submit` and `plan` share."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import yaml

from ctl.here import Here
from ctl.times import Duration, Moment
from mediactl.errors import MediactlError
from mediactl.requests import from_json
from mediactl.v1 import job_pb2
from presets.uris import path_to_uri

_ROLE: Final = re.compile(r"([a-z][a-z0-9_]*)=(.+)", re.DOTALL)
# RFC 3986: a scheme; one letter would be a drive elsewhere and is a file name here.
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:(//|(?=/))")


@dataclass(frozen=True, slots=True)
class Request:
    """What the shared options say. `spec` excludes inputs, preset, profiles, parameters and output."""

    inputs: tuple[str, ...] = ()
    preset: str | None = None
    profiles: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    output: str | None = None
    spec: str | None = None
    priority: int | None = None
    queue: str | None = None
    labels: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    max_attempts: int | None = None
    job_timeout: float | None = None
    deadline: datetime | None = None
    after: tuple[str, ...] = ()
    after_any_end: bool = False
    not_before: datetime | None = None
    hold: bool = False
    keep: float | None = None
    overwrite: bool = False
    reuse: bool = False
    verbose: bool = False


def submission_options(*, queueing: bool) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Declares the shared options; the command receives them as one `request`. With `queueing`, those too that only
    make sense where nobody need wait for the jobs."""

    def declare(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: Any, **values: Any) -> object:
            names = Request.__dataclass_fields__
            request = Request(**{name: values.pop(name) for name in names if name in values})
            return function(*args, request=request, **values)

        call.__doc__ = function.__doc__
        call.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # where click stacks decorators
        for option in reversed([*_OPTIONS, *(_QUEUEING if queueing else ())]):
            option(call)
        return call

    return declare


_OPTIONS: Final = (
    click.argument("inputs", nargs=-1, metavar="[INPUT...]"),
    click.option("--preset", metavar="NAME", help="How it shall sound or look."),
    click.option(
        "--profile",
        "profiles",
        multiple=True,
        metavar="NAME",
        help="How it is packed; repeat for several outputs, which ID.job.json beside them then lists. Without it the "
        "preset's own.",
    ),
    click.option(
        "-p",
        "params",
        multiple=True,
        metavar="KEY=VALUE",
        help="A parameter of the preset; profile.KEY of the profile; tag.title, tag.artist … of the file.",
    ),
    click.option("--output", metavar="URI", help="A file's name; a folder's, or ending in /: named by the input."),
    click.option("--priority", type=click.IntRange(0, 9), metavar="0-9", help="9 goes first; 5 where not given."),
    click.option("--queue", metavar="NAME", help="Queue; `default` where not given."),
    click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Describes the job."),
    click.option("--require", multiple=True, metavar="KEY=VALUE", help="Only agents with this label."),
    click.option("--max-attempts", type=click.IntRange(min=1), metavar="N", help="Tries before it is DEAD; 3."),
    click.option(
        "--job-timeout",
        type=Duration(),
        metavar="D",
        help="Longest time from its first start to its end, all tries included; then it is stopped: 90s, 2h.",
    ),
    click.option(
        "--deadline",
        type=Moment(),
        metavar="T",
        help="It must have ended by then: 2026-05-01T06:00:00Z, or from now on: 2h.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace existing outputs."),
    click.option(
        "--reuse",
        is_flag=True,
        help="Where a job with --reuse made the same of the same content in the same folder before, take that.",
    ),
    click.option("--verbose", is_flag=True, help="Log what FFmpeg says in detail."),
)
_QUEUEING: Final = (
    click.option(
        "--after",
        multiple=True,
        metavar="JOB",
        help="Not before this job has completed; repeat for several. Where it does not, this one is DEAD too.",
    ),
    click.option("--after-any-end", is_flag=True, help="The jobs of --after need only end, however they do."),
    click.option(
        "--not-before",
        type=Moment(),
        metavar="T",
        help="Not started before: 2026-05-01T06:00:00Z, or from now on: 2h.",
    ),
    click.option(
        "--keep",
        type=Duration(),
        metavar="D",
        help="How long the controller keeps results that it has in its own store, e.g. 30d; else as it is set to.",
    ),
    click.option("--hold", is_flag=True, help="Wait for `mediactl jobs release`."),
    click.option(
        "--spec", metavar="FILE|-", help="Job specs as JSON, JSON lines or YAML, instead of INPUT and its options."
    ),
)


def build(request: Request, *, cwd: Path | None = None, here: Here | None = None) -> list[job_pb2.JobSpec]:
    """The specs of a request: one for each INPUT without a role, one for all INPUTs with roles.

    With `here`, paths are files of this machine and nobody else's; without, agents find them as they stand here.
    Raises click.UsageError.
    """
    base = cwd or Path.cwd()
    specs = _from_file(request, base, here) if request.spec is not None else _from_inputs(request, base, here)
    if request.after_any_end and not all(request.after or spec.after for spec in specs):
        raise click.UsageError("--after-any-end says how to take --after, which is missing")
    labels, require = pairs(request.labels, "--label"), pairs(request.require, "--require")
    for spec in specs:
        if request.priority is not None:
            spec.priority = request.priority
        if request.max_attempts is not None:
            spec.max_attempts = request.max_attempts
        if request.queue is not None:
            spec.queue = request.queue
        if request.job_timeout is not None:
            spec.timeout.FromTimedelta(timedelta(seconds=request.job_timeout))
        if request.deadline is not None:
            spec.deadline.FromDatetime(request.deadline)
        if request.not_before is not None:
            spec.not_before.FromDatetime(request.not_before)
        spec.after.extend(one for one in dict.fromkeys(request.after) if one not in spec.after)
        spec.after_any_end = spec.after_any_end or request.after_any_end
        spec.hold = spec.hold or request.hold
        if request.keep is not None:
            spec.keep.FromTimedelta(timedelta(seconds=request.keep))
        spec.labels.update(labels)
        spec.require.update(require)
        spec.overwrite = spec.overwrite or request.overwrite
        spec.reuse = spec.reuse or request.reuse
        spec.verbose = spec.verbose or request.verbose
    return specs


def pairs(given: Iterable[str], option: str) -> dict[str, str]:
    """KEY=VALUE arguments.

    Raises click.UsageError for one without `=`, without a key, or with the key of another.
    """
    found: dict[str, str] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{option}: expected KEY=VALUE, not {pair!r}")
        if key in found:
            raise click.UsageError(f"{option}: {key!r} is given twice")
        found[key] = value
    return found


def input_uri(text: str, base: Path, here: Here | None = None) -> str:
    """A URI as it is, a path as an absolute `file:` URI (RFC 8089), or as what stands for it `here`."""
    if _SCHEME.match(text):
        return text
    path = _absolute(text, base)
    return here.input_uri(path) if here is not None else path_to_uri(str(path))


def output_uri(text: str, base: Path, here: Here | None = None) -> str:
    """As `input_uri`; a path that ends in a slash or names a folder becomes a prefix, which ends in a slash."""
    if _SCHEME.match(text):
        return text
    path = _absolute(text, base)
    prefix = text.endswith("/") or path.is_dir()
    if here is not None:
        return here.output_uri(path, prefix=prefix)
    return path_to_uri(str(path)) + ("/" if prefix else "")


def _absolute(text: str, base: Path) -> Path:
    if not text or "\0" in text:
        raise click.UsageError(f"not a path: {text!r}")
    # Without `..`: the agent must be asked for the file that is meant, wherever it looks from.
    return Path(_normal(base / text))


def _normal(path: Path) -> str:
    # `a/../b` is only `b` where `a` is no symbolic link, so the folder is resolved by the file system.
    return str(path.parent.resolve() / path.name) if ".." in path.parts else str(path)


def _from_inputs(request: Request, base: Path, here: Here | None) -> list[job_pb2.JobSpec]:
    missing = [
        name
        for name, given in (
            ("INPUT", request.inputs),
            ("--preset", request.preset),
            ("--output", request.output),
        )
        if not given
    ]
    if missing:
        raise click.UsageError(f"missing {', '.join(missing)}")
    roles = [_ROLE.fullmatch(text) for text in request.inputs]
    if any(roles) and not all(roles):
        raise click.UsageError(
            "inputs with and without role= can't be mixed: with roles they are one job, without "
            "them one job each (./a=b.wav names a file with = in its name)"
        )
    inputs = [
        job_pb2.Input(
            role=role[1] if role else "",
            uri=input_uri(role[2] if role else text, base, here),
        )
        for text, role in zip(request.inputs, roles, strict=True)
    ]
    output = output_uri(request.output or "", base, here)
    params = pairs(request.params, "-p")
    jobs = [inputs] if all(roles) else [[one] for one in inputs]
    specs = []
    for of_job in jobs:
        spec = job_pb2.JobSpec(
            inputs=of_job,
            preset=request.preset or "",
            outputs=[job_pb2.Output(profile=name, uri=output) for name in request.profiles or ("",)],
        )
        # As text: the preset knows each parameter's type and reads it accordingly.
        for key, value in params.items():
            spec.params[key].string_value = value
        specs.append(spec)
    return specs


def _from_file(request: Request, base: Path, here: Here | None) -> list[job_pb2.JobSpec]:
    for name, given in (
        ("INPUT", request.inputs),
        ("--preset", request.preset),
        ("--profile", request.profiles),
        ("-p", request.params),
        ("--output", request.output),
    ):
        if given:
            raise click.UsageError(f"--spec says what {name} says; give one of them")
    source = request.spec or ""
    try:
        text = sys.stdin.read() if source == "-" else (base / source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"can't read {source}: {error}") from None
    where = "standard input" if source == "-" else source
    folder = base if source == "-" else (base / source).absolute().parent
    specs = []
    for number, document in enumerate(parse_documents(text, where), start=1):
        try:
            spec = from_json(document, job_pb2.JobSpec, field=f"{where}: job {number}")
        except MediactlError as error:
            raise click.UsageError(error.message) from None
        for one in spec.inputs:
            one.uri = input_uri(one.uri, folder, here)
        for one_output in spec.outputs:
            one_output.uri = output_uri(one_output.uri, folder, here)
        specs.append(spec)
    if not specs:
        raise click.UsageError(f"{where}: there is no job in it")
    return specs


def parse_documents(text: str, where: str) -> list[Mapping[str, object]]:
    """The objects of a text that is JSON (an object or an array), JSON lines, or YAML (any number of documents).

    Raises click.UsageError, naming the line.
    """
    if text.lstrip()[:1] in {"{", "["}:
        documents = _json(text, where)
    else:
        try:
            documents = [document for document in yaml.safe_load_all(text) if document is not None]
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            raise click.UsageError(f"{where}: {at}{error.problem}") from None
        except yaml.YAMLError as error:
            raise click.UsageError(f"{where}: {error}") from None
    flat: list[object] = []
    for document in documents:
        flat.extend(document if isinstance(document, list) else [document])
    objects: list[Mapping[str, object]] = [document for document in flat if isinstance(document, dict)]
    if len(objects) != len(flat):
        raise click.UsageError(f"{where}: expected objects with inputs, preset and outputs")
    return objects


def _json(text: str, where: str) -> Sequence[object]:
    decoder = json.JSONDecoder()
    documents: list[object] = []
    position = 0
    while position < len(text):
        try:
            document, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise click.UsageError(f"{where}: line {error.lineno}, column {error.colno}: {error.msg}") from None
        documents.append(document)
        # Objects that follow one another, on one line or several, are JSON lines.
        position += len(text[position:]) - len(text[position:].lstrip())
    return documents
