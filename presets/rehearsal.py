"""Measurements of a programme at the level that it is to have, before it is encoded."""

from dataclasses import replace

from presets import command, levels
from presets.operations.base import Signal, gain
from presets.passes import Passes
from presets.plan import Loudness

#: Nothing above the gate, and not a sample that is none.
SILENCE = Loudness(None, None, None)


def closer_look(
    passes: Passes, signal: Signal, goal: levels.Goal, before: Loudness, media_s: float | None
) -> Loudness | None:
    """What a programme measures on the meter's scale, its peaks clear enough to tell whether they have room; None: that
    is to come."""
    moved_db = levels.closer_look(goal, before)
    if moved_db is None:
        return before
    label = "louder_programme" if moved_db > 0 else "quieter_programme"
    seen = passes.measured(gain(signal, moved_db), media_s, label)
    if seen is None:
        return None
    there = levels.shifted(seen.loudness or SILENCE, -moved_db)
    # What is louder has less below the gate: its loudness is not that of the programme.
    return replace(before, true_peak_dbtp=there.true_peak_dbtp) if moved_db > 0 else there


def rehearse(
    passes: Passes,
    signal: Signal,
    goal: levels.Goal,
    aim: levels.Goal,
    before: Loudness,
    rehearsals: list[levels.Trial],
    encodes: int,
    media_s: float | None,
) -> bool:
    """Measure what the limiter leaves until the gain for ``aim`` is known; False as long as a result is missing."""
    while (setting := levels.next_rehearsal(goal, aim, before, rehearsals, encodes)) is not None:
        heard = passes.measured(command.levelled(signal, setting), media_s, "limited_programme")
        if heard is None:
            return False
        rehearsals.append(levels.Trial(setting, heard.loudness or SILENCE))
    return True
