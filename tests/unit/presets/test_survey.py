"""What a survey's file says: loudness, the quietest pause, levels, silences."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict

import pytest

from presets.plan import Invocation, Purpose, StepResult, Survey
from presets.survey import parse_survey


def blocks(*levels: tuple[float, int]) -> Iterator[str]:
    """Momentary loudness as FFmpeg prints it: each level so many times."""
    frame = 0
    for level, times in levels:
        for _ in range(times):
            yield f"frame:{frame}    pts:{frame * 4800}  pts_time:{frame / 10}\n"
            yield f"lavfi.r128.M={level:.3f}\n"
            frame += 1


def test_loudness_is_gated_as_bs_1770_says() -> None:
    """What is 10 LU below the mean of all that is not silence does not count."""
    assert parse_survey(blocks((-20, 40), (-50, 40), (-80, 40))).loudness_lufs == pytest.approx(-20, abs=0.01)
    assert parse_survey(blocks((-20, 43), (-26, 40))).loudness_lufs == pytest.approx(-22.04, abs=0.02)
    assert parse_survey(blocks((-71, 40))).loudness_lufs is None
    assert parse_survey([]).loudness_lufs is None


def test_the_quietest_passage_is_found_and_how_long_it_lasts() -> None:
    """From the first sample of its first block to the last of its last one."""
    found = parse_survey(blocks((-20, 30), (-45, 3), (-20, 20)))
    assert found.pause_lufs == -45
    assert found.pause_s == (2.7, 3.3)


def test_a_pause_is_listened_to_for_a_second_at_most() -> None:
    """However long it lasts."""
    found = parse_survey(blocks((-20, 30), (-45, 50), (-20, 20)))
    assert found.pause_s is not None
    start_s, end_s = found.pause_s
    assert end_s - start_s == pytest.approx(1)
    assert start_s >= 2.7


def test_digital_silence_and_what_borders_on_it_is_no_pause() -> None:
    """An edit's gap tells nothing about the room, and blocks that hold a part of it neither."""
    found = parse_survey(blocks((-20, 30), (-60, 4), (-120.691, 10), (-60, 4), (-20, 20), (-45, 3), (-20, 20)))
    assert found.pause_lufs == -45


@pytest.mark.parametrize("levels", [[(-20, 11)], [(-120.691, 60)], []])
def test_without_a_whole_block_there_is_no_pause(levels: Iterable[tuple[float, int]]) -> None:
    """The first and last instants do not count."""
    found = parse_survey(blocks(*levels))
    assert (found.pause_s, found.pause_lufs) == (None, None)


def test_levels_come_in_order_and_silence_has_one() -> None:
    """FFmpeg writes -inf for it, and versions nan."""
    lines = [f"lavfi.astats.Overall.RMS_level={value}" for value in ("-40.5", "-inf", "nan", "-3")]
    assert parse_survey(lines).levels_db == (-40.5, -200.0, -200.0, -3.0)


def test_silences_start_and_end_but_for_the_last() -> None:
    """One that lasts until the end has no end, one at the start may seem to begin before it."""
    lines = [
        "lavfi.silence_start=-0.001",
        "lavfi.silence_end=1.5",
        "lavfi.silence_duration=1.5",
        "lavfi.silence_start=7",
    ]
    assert parse_survey(lines).silences_s == ((0.0, 1.5), (7.0, None))


def test_what_a_survey_heard_survives_being_stored() -> None:
    """As JSON, whose tuples are lists."""
    heard = Survey(-20.5, (1.0, 2.0), -50.0, (-3.0, -4.0), ((0.0, 1.0), (5.0, None)))
    stored = StepResult(9.0, None, survey=heard)
    document = asdict(stored)
    document["survey"]["silences_s"] = [[0.0, 1.0], [5.0, None]]
    assert StepResult.from_json(document) == stored
    assert Invocation("survey.out.48000.1ch", Purpose.SURVEY, (), (), "x", 1.0, 1.0, False).title == "survey out"
