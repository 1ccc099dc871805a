"""Downmixes and upmixes as gains."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.formats import LAYOUTS
from presets.mixdown import Policy, mixdown

HALF = sqrt(0.5)


def _named(source: str, target: str, policy: Policy | None = None) -> dict[str, dict[str, float]]:
    rows = mixdown(source, target, policy)
    return {
        channel: {LAYOUTS[source][index]: gain for index, gain in row.items()}
        for channel, row in zip(LAYOUTS[target], rows, strict=True)
    }


def test_surround_to_stereo_is_bs_775() -> None:
    """Centre and surrounds at -3 dB of the fronts, no low frequencies, the whole unable to clip."""
    left = _named("5.1", "stereo")["FL"]
    assert set(left) == {"FL", "FC", "BL"}
    assert left["FC"] / left["FL"] == pytest.approx(HALF)
    assert left["BL"] / left["FL"] == pytest.approx(HALF)
    assert sum(left.values()) == pytest.approx(1)


def test_surround_to_mono_is_bs_775() -> None:
    """Its table for one channel: 0.7071 of the fronts, 1 of the centre, 0.5 of the surrounds."""
    [mono] = _named("5.1", "mono").values()
    assert set(mono) == {"FL", "FR", "FC", "BL", "BR"}
    assert mono["FL"] / mono["FC"] == pytest.approx(HALF)
    assert mono["BR"] / mono["FC"] == pytest.approx(0.5)


def test_more_channels_are_not_invented() -> None:
    """Mono goes to the centre or to both fronts at -3 dB; stereo stays in the fronts."""
    assert _named("mono", "stereo") == {"FL": {"FC": pytest.approx(HALF)}, "FR": {"FC": pytest.approx(HALF)}}
    assert _named("mono", "5.1")["FC"] == {"FC": 1}
    assert {channel for channel, row in _named("stereo", "5.1").items() if row} == {"FL", "FR"}


def test_seven_and_five_keep_every_channel() -> None:
    """Sides and backs of 7.1 are equal in 5.1; the surrounds of 5.1 are the sides of 7.1."""
    left = _named("7.1", "5.1")["BL"]
    assert left["BL"] == left["SL"]
    assert _named("5.1", "7.1")["SL"] == {"BL": 1}
    assert _named("5.1", "7.1")["BL"] == {}
    assert _named("6.1", "7.1")["BR"] == {"BC": pytest.approx(HALF)}


def test_the_engineer_s_proportions_are_kept() -> None:
    """Decibels as in tables: -6 is a half, 0 is one; the low frequencies come in where asked for."""
    left = _named("5.1", "stereo", Policy(centre_db=0, surround_db=-6, lfe=True))["FL"]
    assert left["FC"] / left["FL"] == pytest.approx(1)
    assert left["BL"] / left["FL"] == pytest.approx(0.5)
    assert left["LFE"] / left["FL"] == pytest.approx(HALF)


@given(source=st.sampled_from([*LAYOUTS]), target=st.sampled_from([*LAYOUTS]), lfe=st.booleans())
def test_nothing_clips_and_nothing_is_lost(source: str, target: str, lfe: bool) -> None:
    """Full scale in every channel stays full scale; every channel but the low-frequency one is heard somewhere."""
    rows = mixdown(source, target, Policy(lfe=lfe))
    assert all(sum(row.values()) <= 1 + 1e-9 and min(row.values(), default=1) > 0 for row in rows)
    heard = {LAYOUTS[source][index] for row in rows for index in row}
    assert heard | {"LFE"} == {*LAYOUTS[source], "LFE"}
    if source == target:
        assert rows == tuple({n: 1.0} for n in range(len(rows)))
