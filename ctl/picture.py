"""A picture of sounds beside one another, as SVG: waveforms on one scale of time and level, and loudness over time."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

from ctl.levels import Levels, Reading
from ctl.render import duration, plain

_WIDTH: Final = 880
_LEFT: Final = 74
_RIGHT: Final = 16
_PLOT: Final = _WIDTH - _LEFT - _RIGHT
_WAVE: Final = 88
_METER: Final = 200
_HEAD: Final = 26
_GAP: Final = 14
_STEPS_S: Final = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_MOST_TICKS: Final = 13
#: How many times as long as the result time goes on, at most.
_MOST_BEYOND: Final = 1.5
#: How far the meter's scale goes down from its top, in LU: pauses fall below it.
_METER_SPAN_LU: Final = 36

# No CSS variables: renderers outside browsers lack them.
_STYLE: Final = """\
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#57606a}
.paper{fill:#fff}.panel{fill:#f6f8fa}.head{font-weight:600;fill:#1f2328}.figures{fill:#1f2328}
.grid{stroke:#d0d7de;fill:none}.axis{stroke:#8c959f}.goal{stroke:#cf222e;stroke-dasharray:7 4;stroke-width:1.4}
.goal-name{fill:#cf222e;font-weight:600}.short{stroke-width:2;stroke-linejoin:round}
.before.short{stroke-width:4;stroke-opacity:.6}.moment{stroke-width:1;stroke-opacity:.6}
.in0{fill:#6e7781;stroke:#6e7781}.in1{fill:#b7791f;stroke:#b7791f}.in2{fill:#8250df;stroke:#8250df}
.in3{fill:#1b7c83;stroke:#1b7c83}.out0{fill:#0969da;stroke:#0969da}.out1{fill:#1a7f37;stroke:#1a7f37}
.wave{stroke-width:.7;stroke-linejoin:round}path.short,path.moment{fill:none}
@media (prefers-color-scheme:dark){text{fill:#9198a1}.paper{fill:#0d1117}.panel{fill:#151b23}
.head,.figures{fill:#f0f6fc}.grid{stroke:#30363d}.axis{stroke:#656c76}.goal{stroke:#f85149}.goal-name{fill:#f85149}
.in0{fill:#8b949e;stroke:#8b949e}.in1{fill:#d29922;stroke:#d29922}.in2{fill:#ab7df8;stroke:#ab7df8}
.in3{fill:#39c5cf;stroke:#39c5cf}.out0{fill:#4493f8;stroke:#4493f8}.out1{fill:#3fb950;stroke:#3fb950}}
"""


@dataclass(frozen=True, slots=True)
class Sound:
    """What is shown of a file: its name for a person, whether it came out of the preset, and its levels."""

    name: str
    made: bool
    levels: Levels


def draw(title: str, sounds: Sequence[Sound], target_lufs: float | None) -> str:
    """An SVG of these sounds, in that order: each one's waveform, and all their loudness with the target's line.

    What goes in is cut off half of the result's length behind the result's end. The picture adapts to dark and light
    surroundings and has a background of its own.
    """
    span_s = _span_s(sounds)
    top_db = _top_db(sounds)
    colours = _colours(sounds)
    # A picture of many is no larger a file than one of two.
    column = max(2, len(sounds))
    parts: list[str] = []
    y = _HEAD
    for sound, colour in zip(sounds, colours, strict=True):
        parts += _waveform(sound, colour, y, span_s, top_db, column)
        y += _WAVE + _GAP + _HEAD
    parts += _meter(sounds, colours, y, span_s, target_lufs, column)
    y += _METER
    parts += _time_axis(y, span_s)
    height = y + 34
    told = ", ".join(f"{sound.name}: {_figures(sound.levels)}" for sound in sounds)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img">\n<title>{_text(title)}</title>\n<desc>{_text(told)}</desc>\n'
        f'<style>\n{_STYLE}</style>\n<rect class="paper" width="{_WIDTH}" height="{height}"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _span_s(sounds: Sequence[Sound]) -> float:
    longest = max((sound.levels.duration_s for sound in sounds), default=0.0)
    made = max((sound.levels.duration_s for sound in sounds if sound.made), default=0.0)
    # A long bed under a short voice would leave no room for what came out; its figures tell how long it is.
    return min(longest, made * _MOST_BEYOND or longest) or 1.0


def _colours(sounds: Sequence[Sound]) -> list[str]:
    taken = {True: 0, False: 0}
    names = []
    for sound in sounds:
        names.append(f"out{taken[True] % 2}" if sound.made else f"in{taken[False] % 4}")
        taken[sound.made] += 1
    return names


def _top_db(sounds: Sequence[Sound]) -> int:
    extremes = (abs(value) for sound in sounds for _, low, high in sound.levels.envelope for value in (low, high))
    highest = max(extremes, default=0.0)
    # A hair above 0 dBFS is no reason for twice the scale.
    return min(24, max(-48, 6 * math.ceil((20 * math.log10(highest) - 0.5) / 6))) if highest > 0 else 0


def _waveform(sound: Sound, colour: str, y: int, span_s: float, top_db: int, column: int) -> Iterator[str]:
    middle = y + _WAVE / 2
    reach = _WAVE / 2 - 2
    yield _head(y, sound.name, colour, _figures(sound.levels))
    yield _panel(y, _WAVE, span_s)
    for db in (top_db, top_db - 6):
        height = reach * 10 ** ((db - top_db) / 20)
        for at in (middle - height, middle + height):
            yield _grid(at)
        yield _label(middle - height, f"{_number(db)} dBFS" if db == top_db else _number(db))
    yield _label(middle, "−∞")
    scale = reach / 10 ** (top_db / 20)
    upper: list[tuple[float, float]] = []
    lower: list[tuple[float, float]] = []
    step_s = span_s / _PLOT * column
    for index in range(_PLOT // column):
        found = sound.levels.column(index * step_s, (index + 1) * step_s)
        if found is not None:
            x = _LEFT + (index + 0.5) * column
            upper.append((x, max(y, middle - found[1] * scale)))
            lower.append((x, min(y + _WAVE, middle - found[0] * scale)))
    if upper:
        yield f'<path class="wave {colour}" d="{_path([*upper, *reversed(lower)])}z"/>'


def _meter(
    sounds: Sequence[Sound], colours: Sequence[str], y: int, span_s: float, target_lufs: float | None, column: int
) -> Iterator[str]:
    yield _head(y, "Loudness", "", "bold: short-term (3 s), thin: momentary (400 ms)")
    if target_lufs is not None:
        yield f'<path class="goal" d="M{_LEFT + 88} {y - 11}h28"/>'
        yield (f'<text class="goal-name" x="{_LEFT + 122}" y="{y - 7}">target {_number(target_lufs)} LUFS</text>')
    yield _panel(y, _METER, span_s)
    peaks = [
        reading.momentary_lufs
        for sound in sounds
        for reading in sound.levels.readings
        if reading.momentary_lufs is not None
    ]
    highest = max([*peaks, *([] if target_lufs is None else [target_lufs]), -70 + _METER_SPAN_LU])
    top = 6 * math.ceil((highest + 1) / 6)
    per_lu = _METER / _METER_SPAN_LU

    def down(lufs: float) -> float:
        return y + (top - lufs) * per_lu

    for lufs in range(top, top - _METER_SPAN_LU - 1, -6):
        yield _grid(down(lufs))
        yield _label(down(lufs), f"{_number(lufs)} LUFS" if lufs == top else _number(lufs))
    yield f'<clipPath id="meter"><rect x="{_LEFT}" y="{y}" width="{_PLOT}" height="{_METER}"/></clipPath>'
    yield '<g clip-path="url(#meter)">'
    for kind, value in (("moment", _momentary), ("short", _short_term)):
        for sound, colour in zip(sounds, colours, strict=True):
            points = _curve(sound.levels.readings, value, span_s, down, y + _METER + 4, column)
            if points:
                yield f'<path class="{colour} {"after" if sound.made else "before"} {kind}" d="{_path(points)}"/>'
    yield "</g>"
    if target_lufs is not None:
        yield f'<path class="goal" d="M{_LEFT} {down(target_lufs):.1f}h{_PLOT}"/>'


def _momentary(reading: Reading) -> float | None:
    return reading.momentary_lufs


def _short_term(reading: Reading) -> float | None:
    return reading.short_term_lufs


def _curve(
    readings: Sequence[Reading],
    value: Callable[[Reading], float | None],
    span_s: float,
    down: Callable[[float], float],
    floor: float,
    column: int,
) -> list[tuple[float, float]]:
    # The loudest of what falls on one column, as a long programme has more readings than the picture columns.
    columns: dict[int, tuple[float, float]] = {}
    for reading in readings:
        lufs = value(reading)
        if lufs is not None and reading.time_s <= span_s + 1e-6:
            x = _LEFT + reading.time_s / span_s * _PLOT
            at = min(down(lufs), floor)
            key = int(x / column)
            columns[key] = (x, min(at, columns[key][1] if key in columns else at))
    return list(columns.values())


def _time_axis(y: int, span_s: float) -> Iterator[str]:
    for x, moment in _ticks(span_s):
        yield f'<path class="axis" d="M{x:.1f} {y}v5"/>'
        yield f'<text x="{x:.1f}" y="{y + 19}" text-anchor="middle">{moment}</text>'


def _ticks(span_s: float) -> Iterator[tuple[float, str]]:
    step_s = next((step for step in _STEPS_S if span_s / step <= _MOST_TICKS), span_s / _MOST_TICKS)
    for index in range(int(span_s / step_s + 1e-6) + 1):
        time_s = index * step_s
        clock = duration(time_s) if time_s >= 60 else f"0:{time_s:02.0f}"
        yield _LEFT + time_s / span_s * _PLOT, clock if step_s >= 30 else f"{time_s:g} s"


def _head(y: int, name: str, colour: str, figures: str) -> str:
    mark = f'<rect class="{colour}" x="{_LEFT}" y="{y - 16}" width="10" height="10" rx="2"/>' if colour else ""
    x = _LEFT + (16 if colour else 0)
    return (
        f'{mark}<text class="head" x="{x}" y="{y - 7}">{_text(name)}</text>'
        f'<text class="figures" x="{_LEFT + _PLOT}" y="{y - 7}" text-anchor="end">{_text(figures)}</text>'
    )


def _text(text: str) -> str:
    # XML has no place for control characters, however they are written.
    return escape(plain(text))


def _panel(y: int, height: int, span_s: float) -> str:
    seconds = "".join(f"M{x:.1f} {y}v{height}" for x, _ in _ticks(span_s))
    return (
        f'<rect class="panel" x="{_LEFT}" y="{y}" width="{_PLOT}" height="{height}"/><path class="grid" d="{seconds}"/>'
    )


def _grid(y: float) -> str:
    return f'<path class="grid" d="M{_LEFT} {y:.1f}h{_PLOT}"/>'


def _label(y: float, text: str) -> str:
    return f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _figures(levels: Levels) -> str:
    loudness = levels.loudness
    integrated, peak = loudness.integrated_lufs, loudness.true_peak_dbtp
    known = [
        "no loudness" if integrated is None else f"{_tenths(integrated)} LUFS",
        "silence" if peak is None else f"{_tenths(peak)} dBTP",
        "" if loudness.range_lu is None else f"LRA {loudness.range_lu:.1f} LU",
        duration(levels.duration_s),
    ]
    return " · ".join(word for word in known if word)


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _tenths(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")


def _path(points: Sequence[tuple[float, float]]) -> str:
    # Relative, in tenths of a pixel, without what SVG can do without: half the size of the plain form.
    tenths = [(round(x * 10), round(y * 10)) for x, y in points]
    moves = [(x - was_x, y - was_y) for (was_x, was_y), (x, y) in pairwise(tenths)]
    steps = " ".join(f"{_tenth(dx)} {_tenth(dy)}" for dx, dy in moves)
    return f"M{_tenth(tenths[0][0])} {_tenth(tenths[0][1])}l{steps.replace(' -', '-')}"


def _tenth(value: int) -> str:
    text = f"{value / 10:g}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
