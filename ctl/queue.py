"""`mediactl queue …`: what waits, what runs where, and who gets how much."""

import json
import math
from collections.abc import Mapping
from typing import Final

import click
from rich.text import Text

from ctl import render
from ctl.connection import with_client
from ctl.settings import Format, Settings
from ctl.tree import command
from mediactl.v1 import queue_service_pb2

# The order in which a task goes through them; shown where there are any, the first and the last always.
_DEPTHS: Final = ("PENDING", "SCHEDULED", "BLOCKED", "HELD", "FAILED", "LEASED", "PUBLISHING", "RUNNING")
_ALWAYS: Final = frozenset({"PENDING", "RUNNING"})
_DEFAULT_TENANT: Final = "default"


@command("queue")
def overview(settings: Settings) -> int:
    """Show what waits, what runs where, and the limits.

    \b
    Example:
      mediactl queue
    """
    answer = with_client(settings, lambda client: client.get_queue())
    if settings.format is not Format.TABLE:
        render.write(render.data(answer), settings)
        return 0
    _tell_queues(answer, settings)
    if answer.limits:
        _headed("Limits", settings)
        render.table(
            settings,
            ("KEY", "RUNNING", "MAXIMUM"),
            [(limit.key, _running(limit), str(limit.maximum)) for limit in answer.limits],
            empty="no limits",
        )
    if answer.running:
        _headed("Running", settings)
        render.table(
            settings,
            ("JOB", "STATE", "DONE", "FOR", "CORES", "AGENT", "QUEUE", "PRESET"),
            [
                (
                    task.job_id,
                    task.state,
                    f"{task.progress:.0%}",
                    render.duration(max(0.0, render.age_s(task.lease_time))),
                    str(task.cores),
                    task.agent_name or task.agent_id,
                    task.queue,
                    task.preset,
                )
                for task in answer.running
            ],
            empty="nothing runs",
        )
    if answer.blocks:
        _headed("Agents that get no tasks of a class for a while, because different tasks failed there", settings)
        render.table(
            settings,
            ("AGENT", "UNTIL", "CLASS", "TASKS"),
            [
                (
                    block.agent_name or block.agent_id,
                    render.moment(block.end_time),
                    _class_words(block.class_key),
                    ", ".join(block.task_ids),
                )
                for block in answer.blocks
            ],
            empty="none",
        )
    return 0


@command("set")
@click.argument("name", metavar="NAME")
@click.option(
    "--weight",
    type=click.FloatRange(0, 1000, min_open=True),
    required=True,
    metavar="W",
    help="Share relative to other queues, which have 1 unless set; 0.001 to 1000.",
)
def set_queue(settings: Settings, *, name: str, weight: float) -> int:
    """Set the weight of a queue, which need not exist yet. Under load, queues get core-seconds in proportion.

    \b
    Example:
      mediactl queue set news --weight 3
    """
    # Not a number is in no range and outside of none.
    if math.isnan(weight):
        raise click.UsageError("--weight: expected a number")
    queue = with_client(settings, lambda client: client.set_queue(name, weight=weight))
    if settings.format is not Format.TABLE:
        render.write(render.data(queue), settings)
    else:
        render.table(settings, ("QUEUE", "WEIGHT"), [(queue.name, f"{queue.weight:g}")], empty="")
    return 0


class _Maximum(click.ParamType[int]):
    """A whole number from 0 on, or `none`, which is -1 here."""

    name = "maximum"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if text == "none":
            return -1
        if not (text.isascii() and text.isdigit()) or int(text) >= 1 << 31:
            self.fail(f"expected a whole number from 0 on, or none, not {value!r}", param, ctx)
        return int(text)


@command("limit")
@click.argument("key", metavar="KEY")
@click.argument("maximum", metavar="N|none", type=_Maximum())
def limit(settings: Settings, *, key: str, maximum: int) -> int:
    """Limit how many tasks of KEY run at once; 0 stops them, none removes the limit. What runs already goes on.

    KEY is `global`, `tenant:NAME`, `queue:NAME`, `preset:FULL_NAME` (as `loudness_podcast_v1`), or `label:KEY` for
    every value of that label by itself.

    \b
    Examples:
      mediactl queue limit global 64
      mediactl queue limit label:customer 2
      mediactl queue limit queue:night none
    """
    chosen = None if maximum < 0 else maximum
    now = with_client(settings, lambda client: client.set_limit(key, chosen))
    if settings.format is not Format.TABLE:
        render.write({} if now is None else render.data(now), settings)
    else:
        rows = [] if now is None else [(now.key, str(now.maximum))]
        render.table(settings, ("KEY", "MAXIMUM"), rows, empty=f"{key} has no limit")
    return 0


def _tell_queues(answer: queue_service_pb2.GetQueueResponse, settings: Settings) -> None:
    seen = {state for queue in answer.queues for state, count in queue.depth.items() if count} | _ALWAYS
    # A newer controller may know more states.
    states = [*(state for state in _DEPTHS if state in seen), *sorted(seen - {*_DEPTHS})]
    tenants = any(queue.tenant not in ("", _DEFAULT_TENANT) for queue in answer.queues)
    render.table(
        settings,
        (*(("TENANT",) if tenants else ()), "QUEUE", "WEIGHT", *states, "OLDEST WAIT", "CORES"),
        [
            (
                *((queue.tenant,) if tenants else ()),
                queue.name,
                f"{queue.weight:g}",
                *(str(queue.depth.get(state, 0)) for state in states),
                render.duration(queue.oldest_wait.ToTimedelta().total_seconds())
                if queue.HasField("oldest_wait")
                else "",
                str(queue.cores),
            )
            for queue in answer.queues
        ],
        empty="nothing waits and nothing runs",
    )


def _headed(title: str, settings: Settings) -> None:
    print()
    render.console(settings).print(Text(title, style="bold underline"))


def _running(limit: queue_service_pb2.Limit) -> str:
    if limit.key.startswith("label:"):
        return _counts({value: count for value, count in limit.running.items() if count}) or "0"
    return str(sum(limit.running.values()))


def _counts(values: Mapping[str, int]) -> str:
    return ", ".join(f"{value}: {count}" for value, count in sorted(values.items()))


def _class_words(key: str) -> str:
    """A class in words, e.g. `encoder:aac or encoder:libfdk_aac, filter:loudnorm; 2 cores`; where it reads otherwise
    than expected, as it is."""
    try:
        needs, (cores, *_) = json.loads(key)[:2]
        words = ", ".join(" or ".join(any_of) for any_of in needs)
        return f"{words}; {int(cores)} core{'s' if cores > 1 else ''}".removeprefix("; ")
    except (ValueError, TypeError, IndexError):
        return key
