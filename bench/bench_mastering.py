"""Loudness as it is delivered, and what it costs, beside ffmpeg-normalize on the same FFmpeg in the same run.

    .venv/bin/python bench/bench_mastering.py [accuracy|speed|short|long]

Without a command all of them run. MEDIA_CORPUS names the folder of real recordings; programmes made of them are left
out where it is absent.
"""

from __future__ import annotations

from pathlib import Path

import click

from bench import bench_overhead
from bench.figures import Sheet
from bench.hours import HOURS, hours
from bench.loudness_speed import cases
from bench.loudness_table import table
from bench.normalizer import FORMATS
from tests.fakes.programmes import CORPUS, PROGRAMMES, available

TARGETS_LUFS = (-24.0, -23.0, -19.0, -16.0, -14.0)


@click.group(help=__doc__, invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        for command in (accuracy, speed, short, long):
            context.invoke(command)


@main.command()
@click.option("--programme", "names", type=click.Choice([*PROGRAMMES]), multiple=True, help="This one only. Repeats.")
@click.option("--format", "forms", type=click.Choice([*FORMATS]), multiple=True, help="This one only. Repeats.")
@click.option("--target", "targets", type=float, multiple=True, help="LUFS. Repeats.")
@click.option("--alone", is_flag=True, help="Without ffmpeg-normalize.")
def accuracy(
    names: tuple[str, ...] = (), forms: tuple[str, ...] = (), targets: tuple[float, ...] = (), *, alone: bool = False
) -> None:
    """Delivered loudness, range and true peak of twelve programmes, five targets and six formats."""
    sheet = Sheet()
    table(sheet, names or (*available(),), forms or (*FORMATS,), targets or TARGETS_LUFS, theirs=not alone)
    print(f"\n{sheet.table()}")


@main.command()
@click.option("--runs", default=5, show_default=True, help="Of each case; the median counts.")
def speed(runs: int = 5) -> None:
    """Ten minutes whose peaks leave room for the gain: a job's wall time, and that of ffmpeg-normalize."""
    sheet = Sheet()
    cases(sheet, runs)
    print(f"\n{sheet.table()}")


@main.command()
@click.option("--runs", default=15, show_default=True)
def short(runs: int = 15) -> None:
    """15 s of speech: what a running box adds to the FFmpeg processes of the same plan."""
    speech = CORPUS / "speech-2.ogg"
    bench_overhead.compare(runs, speech if speech.exists() else None)


@main.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Where 25 GB are free.")
@click.option("--hours", "length_h", default=HOURS, show_default=True, help="From 4.2 on it is more than 4 GiB.")
def long(folder: Path | None = None, length_h: float = HOURS) -> None:
    """Ten hours of 48 kHz, 24 bit, stereo: Wave64 in, RF64 out, and memory that stays as it was."""
    sheet = Sheet()
    hours(sheet, folder, length_h)
    print(f"\n{sheet.table()}")


if __name__ == "__main__":
    main()
