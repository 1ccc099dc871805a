"""How many encoder sessions each GPU gets."""

import pytest

from agent.detect.sessions import assign_sessions
from mediactl.v1.fleet_service_pb2 import Gpu


def sessions(*names: str, driver: str = "580.65.06", each: int | None = None, able: int | None = None) -> list[int]:
    """Of GPUs of these names, the first ``able`` of which encode."""
    gpus = [Gpu(index=index, name=name, driver_version=driver) for index, name in enumerate(names)]
    assign_sessions(gpus, range(len(gpus) if able is None else able), each=each)
    return [gpu.encoder_sessions for gpu in gpus]


@pytest.mark.parametrize(
    ("driver", "expected"),
    [("470.57.02", 3), ("530.41.03", 5), ("550.67", 8), ("580.65.06", 8), ("591.59", 12), ("610.43.03", 12), ("?", 3)],
)
def test_the_driver_limits_geforce_cards(driver: str, expected: int) -> None:
    """Newer drivers allow more; an unknown one is taken for an old one."""
    assert sessions("NVIDIA GeForce RTX 4090", driver=driver) == [expected]


@pytest.mark.parametrize(
    ("name", "limited"),
    [
        ("NVIDIA GeForce GTX 1050 Ti", True),
        ("NVIDIA TITAN RTX", True),
        ("NVIDIA T400 4GB", True),
        ("Quadro P400", True),
        ("Quadro T1000", True),
        ("Quadro P2000", False),
        ("Quadro RTX 4000", False),
        ("NVIDIA RTX A4000", False),
        ("NVIDIA RTX 6000 Ada Generation", False),
        ("NVIDIA L4", False),
        ("Tesla T4", False),
        ("Tesla P100-PCIE-16GB", False),
        ("NVIDIA A10G", False),
    ],
)
def test_kinds_of_cards(name: str, limited: bool) -> None:
    """Cards for players and the smallest workstation cards are limited, all others are not."""
    assert sessions(name) == [8 if limited else 16]


def test_limited_cards_share() -> None:
    """The limit is the machine's: its cards never get more together, and cards without a limit take nothing of it."""
    assert sessions("NVIDIA GeForce RTX 4090", "NVIDIA L4", "NVIDIA GeForce RTX 3080") == [4, 16, 4]
    assert sessions(*["NVIDIA GeForce GTX 1080"] * 3, driver="530.41.03") == [2, 2, 1]
    assert sessions("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 3080", able=1) == [8, 0]


def test_the_owner_decides() -> None:
    """What was set counts for every GPU that encodes at all, and only for those."""
    assert sessions("NVIDIA GeForce RTX 4090", "NVIDIA L4", "NVIDIA H100", each=20, able=2) == [20, 20, 0]
    assert sessions("NVIDIA L4", each=0) == [0]
