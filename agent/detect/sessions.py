"""How many encoder sessions a GPU runs at once, which its driver does not tell.

GeForce cards, TITANs and the small workstation cards get a number of sessions that the driver fixes, all of a machine
together. The others have no such limit; what they get here keeps tasks from crowding each other out. Whoever knows
better, for a driver that lifts the limit for instance, sets the number of sessions of each GPU.
"""

import re
from collections.abc import Collection, Sequence

from mediactl.v1 import fleet_service_pb2

_LIMITED = re.compile(r"GeForce|TITAN|\bMX\d{3}|(Quadro [KMPT]|NVIDIA T)(\d{3}|1[02]00)\b")

#: Sessions that the limited cards of one machine have together, by the first driver that allows as many: seen to change
#: at Linux drivers 530.41 and 550.67, and at 591.59 of Windows. 590, between them, counts as the older ones.
_TOGETHER = ((591, 12), (550, 8), (530, 5), (0, 3))

#: Sessions of a card without a limit.
_UNLIMITED = 16


def assign_sessions(
    gpus: Sequence[fleet_service_pb2.Gpu], encoding: Collection[int], *, each: int | None = None
) -> None:
    """Sets ``encoder_sessions`` of the GPUs; those whose index is not in ``encoding`` have none.

    ``each`` is what the owner set for every GPU. Without it, limited cards share what the driver allows them evenly,
    the first ones getting what is left over, so that all of them together never exceed it.
    """
    able = [gpu for gpu in gpus if gpu.index in encoding]
    limited = [gpu for gpu in able if _LIMITED.search(gpu.name)]
    for gpu in able:
        gpu.encoder_sessions = _UNLIMITED if each is None else each
    if each is None:
        for place, gpu in enumerate(limited):
            together = _together(gpu.driver_version)
            gpu.encoder_sessions = together // len(limited) + (place < together % len(limited))


def _together(driver: str) -> int:
    major = re.match(r"\d+", driver)
    number = int(major[0]) if major else 0
    return next(sessions for first, sessions in _TOGETHER if number >= first)
