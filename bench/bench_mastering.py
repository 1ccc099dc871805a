"""Loudness as it is delivered, and what it costs, beside ffmpeg-normalize on the same FFmpeg in the same run.

    .venv/bin/python bench/bench_mastering.py [accuracy|speed|short|long]

Without a command all of them run. MEDIA_CORPUS names the folder of real recordings; programmes made of them are left
out where it is absent.
"""

from __future__ import annotations

import click

from bench.figures import Sheet
from bench.loudness_table import table
from bench.normalizer import FORMATS
from tests.fakes.programmes import PROGRAMMES, available

TARGETS_LUFS = (-24.0, -23.0, -19.0, -16.0, -14.0)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--programme", "names", type=click.Choice([*PROGRAMMES]), multiple=True, help="This one only. Repeats.")
@click.option("--format", "forms", type=click.Choice([*FORMATS]), multiple=True, help="This one only. Repeats.")
@click.option("--target", "targets", type=float, multiple=True, help="LUFS. Repeats.")
@click.option("--alone", is_flag=True, help="Without ffmpeg-normalize.")
def accuracy(names: tuple[str, ...], forms: tuple[str, ...], targets: tuple[float, ...], alone: bool) -> None:
    """Delivered loudness, range and true peak of twelve programmes, five targets and six formats."""
    sheet = Sheet()
    table(sheet, names or (*available(),), forms or (*FORMATS,), targets or TARGETS_LUFS, theirs=not alone)
    print(f"\n{sheet.table()}")


if __name__ == "__main__":
    main()
