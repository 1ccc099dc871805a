"""Which jobs a command is about: their ids, or a selector."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from ctl.submission import pairs
from mediactl.v1 import job_pb2
from presets.reasons import Reason

_STATES: Final = tuple(name.removeprefix("JOB_STATE_") for name, number in job_pb2.JobState.items() if number != 0)
_NAMES: Final = "--state, --reason, --preset, --queue, --label"

_OPTIONS: Final = (
    click.option(
        "--state",
        multiple=True,
        type=click.Choice(_STATES, case_sensitive=False),
        metavar="STATE",
        help=f"Only jobs in this state; repeat for several. One of {', '.join(_STATES)}.",
    ),
    click.option(
        "--reason",
        multiple=True,
        metavar="REASON",
        help="Only jobs that failed for this reason, e.g. FFMPEG_FAILED; repeat for several.",
    ),
    click.option("--preset", default="", metavar="NAME", help="Only jobs with this preset."),
    click.option("--queue", default="", metavar="NAME", help="Only jobs of this queue."),
    click.option("--label", multiple=True, metavar="KEY=VALUE", help="Only jobs with this label."),
)
_IDS: Final = click.argument("job_ids", nargs=-1, metavar="[ID...]")


def selector(function: Callable[..., object]) -> Callable[..., object]:
    """Declares the options that select jobs; the command receives them as one `where`."""

    def call(
        *args: Any,
        state: Sequence[str],
        reason: Sequence[str],
        preset: str,
        queue: str,
        label: Sequence[str],
        **values: Any,
    ) -> object:
        where = job_pb2.JobFilter(
            states=[job_pb2.JobState.Value(f"JOB_STATE_{name}") for name in state],
            reasons=[_reason(name) for name in reason],
            preset=preset,
            queue=queue,
            labels=pairs(label, "--label"),
        )
        return function(*args, where=where, **values)

    call.__doc__ = function.__doc__
    call.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # where click stacks decorators
    for option in reversed(_OPTIONS):
        option(call)
    return call


def ids_or_selector(function: Callable[..., object]) -> Callable[..., object]:
    """Declares `[ID...]` and the selector, of which exactly one must be given; the command receives one `where`.

    Its `ids` are filled where ids were given, and then all the rest is empty.
    """

    def call(*args: Any, job_ids: Sequence[str], where: job_pb2.JobFilter, **values: Any) -> object:
        if bool(job_ids) == (where.ByteSize() > 0):
            raise click.UsageError(f"give job IDs or a selector ({_NAMES}), one of both")
        if not all(job_ids):
            raise click.UsageError("an ID is empty")
        # In the order given, and named twice is meant once.
        where.ids.extend(dict.fromkeys(job_ids))
        return function(*args, where=where, **values)

    call.__doc__ = function.__doc__
    call.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # where click stacks decorators
    return _IDS(selector(call))


def _reason(name: str) -> str:
    # Checked here, though a newer controller may know more of them: a slip of the pen would silently select nothing.
    upper = name.upper()
    if upper not in set(Reason):
        raise click.UsageError(f"--reason: {name!r} is no reason; docs/reasons.md lists them")
    return upper
