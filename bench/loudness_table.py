"""Programmes brought to loudness targets in several formats: what is delivered, as libebur128 measures it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import normalizer
from bench.figures import Figure, Sheet
from bench.normalizer import FORMATS
from presets.plan import Loudness
from tests.fakes.media_measure import Measured, measured
from tests.fakes.plans import carry_out, listed
from tests.fakes.programmes import programme

PEAK_AT_MOST_DBTP = -0.95
ERROR_AT_MOST_LU = {"over 10 s": 0.2, "3 to 10 s": 0.5}
RANGE_MOVES_AT_MOST_LU = 0.2
LIMITED_AT_MOST_DB = 8.0


@dataclass(frozen=True, slots=True)
class Row:
    """A programme brought to a target in a format: what came out of ours and of theirs, and how long each took."""

    programme: str
    format: str
    target_lufs: float
    before: Measured
    ours: Measured
    needed_db: float
    said: Loudness
    limited_by_db: float
    encodes: int
    ours_s: float
    theirs: Measured | None
    theirs_s: float

    @property
    def error_lu(self) -> float:
        return self.ours.integrated_lufs - self.target_lufs

    @property
    def their_error_lu(self) -> float | None:
        return None if self.theirs is None else self.theirs.integrated_lufs - self.target_lufs

    @property
    def length(self) -> str:
        return "over 10 s" if self.before.duration_s > 10 else "3 to 10 s"


def row(name: str, source: Path, before: Measured, form: str, lufs: float, folder: Path, *, theirs: bool) -> Row:
    """By the compiler and FFmpeg itself, without a box; and by ffmpeg-normalize."""
    packing = FORMATS[form]
    intent, binary = normalizer.ours(source, packing, lufs), listed(_ffmpeg())
    begun = time.perf_counter()
    done = carry_out(intent, [source], binary, folder / "ours")
    ours_s = time.perf_counter() - begun
    report = done.plan.measured[0]
    target = folder / f"theirs.{packing.extension}"
    theirs_s = normalizer.theirs(source, target, packing, lufs, before.channels) if theirs else 0.0
    return Row(
        programme=name,
        format=form,
        target_lufs=lufs,
        before=before,
        ours=measured(done.path),
        needed_db=_needed(report.before, lufs),
        said=report.after or Loudness(None, None, None),
        limited_by_db=report.limited_by_db or 0.0,
        encodes=report.encodes,
        ours_s=ours_s,
        theirs=measured(target) if theirs else None,
        theirs_s=theirs_s,
    )


def table(sheet: Sheet, names: Sequence[str], forms: Sequence[str], targets: Sequence[float], *, theirs: bool) -> None:
    head = "| programme | format | target | before | LUFS | LRA | dBTP | needed | limited | encodes | s |"
    print(f"{head} theirs | LRA | dBTP | s |\n|{'---|' * 15}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="mediactl-bench-") as folder:
        for name in names:
            source = programme(name, Path(folder))
            before = measured(source)
            for form in forms:
                for target in targets:
                    with tempfile.TemporaryDirectory(dir=folder) as here:
                        made = row(name, source, before, form, target, Path(here), theirs=theirs)
                    print(_told(made), flush=True)
                    rows.append(made)
    _judge(sheet, rows)


def _needed(before: Loudness | None, lufs: float) -> float:
    """By how many dB a gain to the target would put the peaks above the ceiling."""
    if before is None or before.integrated_lufs is None or before.true_peak_dbtp is None:
        return 0.0
    return max(before.true_peak_dbtp + lufs - before.integrated_lufs - normalizer.CEILING_DBTP, 0.0)


def _told(made: Row) -> str:
    cells = [made.programme, made.format, f"{made.target_lufs:g}", f"{made.before.integrated_lufs:.2f}"]
    cells += [f"{made.ours.integrated_lufs:.2f}", f"{made.ours.range_lu:.1f}", f"{made.ours.true_peak_dbtp:.2f}"]
    cells += [f"{made.needed_db:.1f}", f"{made.limited_by_db:.1f}", str(made.encodes), f"{made.ours_s:.1f}"]
    if made.theirs is not None:
        cells += [f"{made.theirs.integrated_lufs:.2f}", f"{made.theirs.range_lu:.1f}"]
        cells += [f"{made.theirs.true_peak_dbtp:.2f}", f"{made.theirs_s:.1f}"]
    return f"| {' | '.join(cells)} |"


def _judge(sheet: Sheet, rows: Sequence[Row]) -> None:
    for length, most in ERROR_AT_MOST_LU.items():
        held = [made for made in rows if made.length == length and made.needed_db <= LIMITED_AT_MOST_DB]
        _worst(sheet, f"worst error, {length}, ≤ 8 dB to limit", held, most)
    _worst(sheet, "worst error, > 8 dB to limit", [r for r in rows if r.needed_db > LIMITED_AT_MOST_DB], None)
    for form in dict.fromkeys(made.format for made in rows):
        highest = max((made for made in rows if made.format == form), key=lambda made: made.ours.true_peak_dbtp)
        theirs = [made.theirs.true_peak_dbtp for made in rows if made.format == form and made.theirs is not None]
        note = _named(highest) + (f"; ffmpeg-normalize: {max(theirs):.2f}" if theirs else "")
        peak = highest.ours.true_peak_dbtp
        name = f"highest true peak, {form}"
        sheet.add(Figure(name, peak, "dBTP", target=PEAK_AT_MOST_DBTP, at_most=True, note=note))
    linear = [r for r in rows if r.limited_by_db == 0 and r.before.duration_s >= 60 and r.before.channels <= 2]
    if linear:
        worst = max(linear, key=_range_moved)
        theirs = [abs(r.theirs.range_lu - r.before.range_lu) for r in linear if r.theirs is not None]
        sheet.add(
            Figure(
                "loudness range moved, linear, ≥ 60 s",
                _range_moved(worst),
                "LU",
                max(theirs, default=None),
                "ffmpeg-normalize",
                RANGE_MOVES_AT_MOST_LU,
                at_most=True,
                note=_named(worst),
            )
        )
    for title, unit, key in (
        ("loudness", "LU", "integrated_lufs"),
        ("true peak", "dB", "true_peak_dbtp"),
        ("loudness range", "LU", "range_lu"),
    ):
        apart = {made: abs(said - getattr(made.ours, key)) for made in rows if (said := getattr(made.said, key))}
        if apart:
            worst = max(apart, key=lambda made: apart[made])
            name = f"{title}, reported and by libebur128, apart"
            sheet.add(Figure(name, apart[worst], unit, at_most=True, note=_named(worst)))
    if any(made.theirs is not None for made in rows):
        worse = [r for r in rows if abs(r.error_lu) > max(0.05, abs(r.their_error_lu or 0.0)) + 0.01]
        note = "; ".join(map(_named, worse[:5]))
        sheet.add(Figure("less accurate than ffmpeg-normalize", len(worse), f"of {len(rows)}", at_most=True, note=note))
        ours_s, theirs_s = sum(r.ours_s for r in rows), sum(r.theirs_s for r in rows)
        sheet.add(Figure("wall time of all", ours_s, "s", theirs_s, "ffmpeg-normalize", at_most=True))


def _worst(sheet: Sheet, name: str, rows: Sequence[Row], most: float | None) -> None:
    if not rows:
        return
    worst = max(rows, key=lambda made: abs(made.error_lu))
    theirs = [abs(made.their_error_lu) for made in rows if made.their_error_lu is not None]
    baseline = max(theirs, default=None)
    note = f"{_named(worst)}; {len(rows)} files"
    sheet.add(Figure(name, abs(worst.error_lu), "LU", baseline, "ffmpeg-normalize", most, at_most=True, note=note))


def _range_moved(made: Row) -> float:
    return abs(made.ours.range_lu - made.before.range_lu)


def _named(made: Row) -> str:
    return f"{made.programme}, {made.format}, {made.target_lufs:g}"


def _ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        raise SystemExit("no ffmpeg on PATH")
    return found
