"""The picture of sounds: one scale for all, and what stands where."""

import math
import random
import re
from xml.etree import ElementTree as ET

import pytest

from ctl.levels import Levels, Reading
from ctl.picture import Sound, draw
from presets.plan import Loudness

SVG = "{http://www.w3.org/2000/svg}"


def _sound(
    name: str = "voice", *, made: bool = False, peak: float = 0.5, seconds: float = 10.0, lufs: float = -20.0
) -> Sound:
    """A tone with this peak and this loudness all the time."""
    blocks = [(index / 100, -peak, peak) for index in range(round(seconds * 100))]
    readings = [
        Reading(tenth / 10, lufs if tenth >= 4 else None, lufs if tenth >= 30 else None)
        for tenth in range(1, round(seconds * 10) + 1)
    ]
    peak_db = 20 * math.log10(peak) if peak else None
    return Sound(name, made, Levels(seconds, blocks, readings, Loudness(lufs, peak_db, 1.25)))


def _points(path: ET.Element) -> list[tuple[float, float]]:
    """The corners of a path that begins at a place and goes on in relative steps."""
    start, _, steps = path.attrib["d"].rstrip("z").partition("l")
    x, y = map(float, start.removeprefix("M").split())
    numbers = [float(number) for number in re.findall(r"-?(?:\d+(?:\.\d+)?|\.\d+)", steps)]
    points = [(x, y)]
    for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
        points.append((points[-1][0] + dx, points[-1][1] + dy))
    return points


def _paths(svg: str, kind: str) -> list[ET.Element]:
    return [path for path in ET.fromstring(svg).iter(f"{SVG}path") if kind in path.attrib["class"].split()]  # noqa: S314 - our own


def _texts(svg: str) -> dict[str, tuple[float, float]]:
    return {
        "".join(text.itertext()): (float(text.attrib["x"]), float(text.attrib["y"]))
        for text in ET.fromstring(svg).iter(f"{SVG}text")  # noqa: S314 - our own
    }


def _height(path: ET.Element) -> float:
    ys = [y for _, y in _points(path)]
    return max(ys) - min(ys)


def test_waveforms_share_their_scale_of_level() -> None:
    """Twice the amplitude is twice as high, whichever comes first."""
    quiet, loud = _paths(draw("t", [_sound(peak=0.25), _sound(peak=0.5, made=True)], None), "wave")
    assert _height(loud) == pytest.approx(2 * _height(quiet), abs=0.3)


def test_waveforms_share_their_scale_of_time() -> None:
    """What lasts half as long is half as wide and begins at the same place."""
    short, long = _paths(draw("t", [_sound(seconds=5), _sound(seconds=10, made=True)], None), "wave")
    (short_from, short_to), (long_from, long_to) = (
        (min(x for x, _ in points), max(x for x, _ in points)) for points in map(_points, (short, long))
    )
    assert short_from == long_from
    assert short_to - short_from == pytest.approx((long_to - long_from) / 2, abs=3)


def test_a_long_bed_leaves_room_for_the_result() -> None:
    """Time goes on for half of the result's length behind its end; nothing is drawn outside."""
    svg = draw("t", [_sound(seconds=600), _sound(seconds=20, made=True)], None)
    texts = _texts(svg)
    assert "30 s" in texts
    assert not {"40 s", "1:00"} & {*texts}
    bed, result = _paths(svg, "wave")
    right = max(x for path in (bed, *_paths(svg, "short")) for x, _ in _points(path))
    assert right <= texts["30 s"][0] + 0.05
    left = texts["0 s"][0]
    assert max(x for x, _ in _points(result)) - left == pytest.approx((right - left) * 2 / 3, abs=3)


@pytest.mark.parametrize(("peak", "top"), [(0.5, "−6 dBFS"), (1.0, "0 dBFS"), (0.05, "−24 dBFS"), (1.9, "6 dBFS")])
def test_the_scale_of_level_fits_the_loudest(peak: float, top: str) -> None:
    """Its top is a multiple of 6 dB at or above the highest peak, also beyond full scale."""
    assert top in _texts(draw("t", [_sound(peak=peak)], None))


def test_loudness_stands_at_its_place_on_the_axis() -> None:
    """A constant -18 LUFS lies on the line of that label; the target on its own."""
    svg = draw("t", [_sound(lufs=-18.0, made=True)], -24.0)
    texts = _texts(svg)
    (short,) = _paths(svg, "short")
    assert {round(y, 1) for _, y in _points(short)} == {texts["−18"][1] - 4}
    assert "target −24 LUFS" in texts
    goals = [re.fullmatch(r"M\S+ (\S+)h\d+", path.attrib["d"]) for path in _paths(svg, "goal")]
    assert texts["−24"][1] - 4 in {float(goal[1]) for goal in goals if goal}


def test_loudness_is_shown_once_its_window_is_full() -> None:
    """Momentary from 0.4 s on, short-term from 3 s on."""
    svg = draw("t", [_sound(seconds=10)], None)
    texts = _texts(svg)
    (short,), (moment,) = _paths(svg, "short"), _paths(svg, "moment")
    assert _points(short)[0][0] == pytest.approx(texts["3 s"][0], abs=0.1)
    assert texts["0 s"][0] < _points(moment)[0][0] < texts["1 s"][0]


def test_figures_stand_beside_the_name() -> None:
    """Loudness, true peak, range and duration; in words where there is no loudness."""
    assert "−20.0 LUFS · −6.0 dBTP · LRA 1.2 LU · 10.0 s" in _texts(draw("t", [_sound()], None))
    silence = Sound("silence", False, Levels(1.0, [(0.0, 0.0, 0.0)], [], Loudness(None, None, None)))
    assert "no loudness · silence · 1.0 s" in _texts(draw("t", [silence], None))


def test_a_hostile_name_is_text() -> None:
    """Files may be called anything."""
    svg = draw("<t>", [_sound('"><script>alert(1)</script>&'), _sound("\x1b[2J\udcff")], None)
    svg.encode()
    assert '"><script>alert(1)</script>&' in _texts(svg)
    assert "\\x1b[2J\\udcff" in _texts(svg)


def test_hours_are_told_by_the_clock() -> None:
    """Ticks as minutes and hours, a dozen or so at most."""
    levels = Levels(5400.0, [(0.0, -0.5, 0.5)], [], Loudness(-20.0, -6.0, 3.0))
    texts = _texts(draw("t", [Sound("long", False, levels)], None))
    assert {"0:00", "10:00", "1:00:00", "1:30:00"} <= {*texts}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_picture_is_a_small_file(count: int) -> None:
    """At most 30 kB of sounds as restless as speech, however many are shown."""
    dice = random.Random(1)  # noqa: S311 - no secret
    sounds = []
    for number in range(count):
        swell = [0.5 + 0.4 * math.sin(number + index / 90) for index in range(6000)]
        blocks = [(index / 100, -dice.random() * now, dice.random() * now) for index, now in enumerate(swell)]
        readings = [
            Reading(tenth / 10, -30 + 12 * swell[tenth * 10 - 10] - dice.random(), -20 - 3 * swell[tenth * 10 - 10])
            for tenth in range(1, 601)
        ]
        sounds.append(Sound(f"{number}", not number, Levels(60.0, blocks, readings, Loudness(-20.0, 0.0, 5.0))))
    assert len(draw("t", sounds, -23.0).encode()) <= 30_000


def test_dark_surroundings_get_dark_colours() -> None:
    """By a media query, with a background of its own in either."""
    svg = draw("t", [_sound()], None)
    assert "prefers-color-scheme:dark" in svg
    assert 'class="paper"' in svg
