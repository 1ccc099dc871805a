"""What an agent has proved, as people read it."""

from ctl.agents import capability_rows
from mediactl.v1 import fleet_service_pb2


def test_what_limits_tasks_is_told() -> None:
    """An operator sees whether a task can take the machine down."""
    words = "memory by rlimits, nice 5; no control groups: its control group was not delegated to it"
    rows = capability_rows(fleet_service_pb2.Capabilities(confinement=words))
    assert ("tasks limited", words) in rows
