"""How the channels of one layout are mixed to another: ITU-R BS.775 and its kin as gains. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

from presets.formats import LAYOUTS

#: -3 dB: half the power.
_HALF_POWER = sqrt(0.5)

#: Where the loudspeaker of the same side stands in layouts that lack this one.
_NEIGHBOURS = {"BL": "SL", "BR": "SR", "SL": "BL", "SR": "BR"}
_FRONTS = {"BL": "FL", "SL": "FL", "BR": "FR", "SR": "FR"}


@dataclass(frozen=True, slots=True)
class Policy:
    """What a downmix to two channels takes of the others, in decibels as studio tables count: -3 is one over root two.

    ``lfe``: the low-frequency channel is added to both fronts at -3 dB, without the 10 dB that a cinema adds to it;
    otherwise it is dropped, as ITU-R BS.775 does.
    """

    centre_db: float = -3.0
    surround_db: float = -3.0
    lfe: bool = False


def mixdown(source: str, target: str, policy: Policy | None = None) -> tuple[Mapping[int, float], ...]:
    """For each channel of the layout ``target``, the gains of the channels of ``source`` by index.

    Fronts keep their place; a missing centre goes to both fronts; missing surrounds go to those of the same side, or
    else to the front there, a single one to both sides at -3 dB. Fewer channels become more without inventing any: mono
    becomes the centre, or both fronts at -3 dB, and channels that nothing belongs to stay silent. Surrounds of 5.1 are
    the sides of 7.1. Where a sum could exceed full scale, all gains are lowered alike until it cannot.
    """
    policy = policy or Policy()
    fed: dict[str, dict[int, float]] = {channel: {} for channel in LAYOUTS[target]}
    for index, channel in enumerate(LAYOUTS[source]):
        for home, gain in _homes(channel, LAYOUTS[source], LAYOUTS[target], policy):
            fed[home][index] = fed[home].get(index, 0.0) + gain
    loudest = max(sum(gains.values()) for gains in fed.values())
    scale = 1.0 / max(loudest, 1.0)
    return tuple({index: gain * scale for index, gain in gains.items()} for gains in fed.values())


def _homes(
    channel: str, source: tuple[str, ...], target: tuple[str, ...], policy: Policy
) -> Iterator[tuple[str, float]]:
    """The channels of ``target`` that take a channel, with its gain in each."""
    side = _NEIGHBOURS.get(channel, "")
    if side in target and (channel not in target or (side.startswith("S") and side not in source)):
        yield side, 1.0
    elif channel in target and (channel != "FC" or len(target) > 1 or len(source) == 1):
        yield channel, 1.0
    elif target == LAYOUTS["mono"]:
        yield from ((target[0], gain * _HALF_POWER) for _, gain in _homes(channel, source, LAYOUTS["stereo"], policy))
    elif channel == "FC":
        gain = _HALF_POWER if len(source) == 1 else _linear(policy.centre_db)
        yield from (("FL", gain), ("FR", gain))
    elif channel == "LFE":
        yield from (("FL", _HALF_POWER), ("FR", _HALF_POWER)) if policy.lfe else ()
    elif channel == "BC":
        # As if beside sides, so that of sides and back it takes the back.
        beside = (*source, "SL", "SR")
        for surround in ("BL", "BR"):
            yield from ((home, gain * _HALF_POWER) for home, gain in _homes(surround, beside, target, policy))
    else:
        yield _FRONTS[channel], _linear(policy.surround_db)


def _linear(decibels: float) -> float:
    return float(_HALF_POWER ** (-decibels / 3))
