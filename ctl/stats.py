"""`mediactl stats`: how jobs fared lately."""

from collections.abc import Mapping, Sequence

import click
from rich.text import Text

from ctl import render
from ctl.connection import with_client
from ctl.settings import Format, Settings
from ctl.times import Duration
from ctl.tree import command
from mediactl.v1 import queue_service_pb2


@command("stats")
@click.option(
    "--since", "window_s", type=Duration(), default="24h", metavar="D", help="Of jobs that ended since then. [24h]"
)
@click.option("--preset", default="", metavar="NAME", help="Only of this preset.")
@click.option("--queue", default="", metavar="NAME", help="Only of this queue.")
def stats(settings: Settings, *, window_s: float, preset: str, queue: str) -> int:
    """Show how jobs fared that ended lately, by preset and by operation.

    WAIT is from when a task could have started to its lease, RUN how long attempts took that completed; both as the
    median and what 95 % of them kept to. SPEED is media seconds per second of run time, CPU the processor seconds of
    FFmpeg per second of media. A job counts for every operation that its preset uses.

    \b
    Examples:
      mediactl stats
      mediactl stats --since 7d --preset dialogue_clean -o json
    """
    answer = with_client(settings, lambda client: client.get_statistics(window_s=window_s, preset=preset, queue=queue))
    if settings.format is not Format.TABLE:
        render.write(render.data(answer), settings)
        return 0
    _tell("PRESET", answer.presets, settings, empty=f"no job ended since {render.moment(answer.since)}")
    if answer.operations:
        print()
        _tell("OPERATION", answer.operations, settings, empty="")
    return 0


def _tell(head: str, figures: Sequence[queue_service_pb2.Statistics], settings: Settings, *, empty: str) -> None:
    render.table(
        settings,
        (head, "JOBS", "DEAD", "TRIES", "FAILED", "WAIT", "RUN", "SPEED", "CPU", "FAILED FOR"),
        [
            (
                each.name,
                str(sum(each.jobs.values())),
                _share(each.jobs.get("DEAD", 0), sum(each.jobs.values())),
                str(each.attempts),
                _share(sum(each.failed_attempts.values()), each.attempts),
                _spread(each.queue_wait) if each.HasField("queue_wait") else "",
                _spread(each.run_time) if each.HasField("run_time") else "",
                f"{each.real_time_factor:.3g}x" if each.real_time_factor else "",
                f"{each.cpu_seconds / each.media_seconds:.3f}" if each.media_seconds else "",
                _reasons(each.failed_attempts),
            )
            for each in figures
        ],
        empty=empty,
    )


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})" if part else "0"


def _spread(spread: queue_service_pb2.Spread) -> str:
    median, p95 = (each.ToTimedelta().total_seconds() for each in (spread.median, spread.p95))
    return f"{render.duration(median)} / {render.duration(p95)}"


def _reasons(counts: Mapping[str, int]) -> Text:
    return Text(", ".join(f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))))
