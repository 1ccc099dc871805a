"""How jobs are told to people."""

from google.protobuf.duration_pb2 import Duration

from ctl.jobs import _attempt
from mediactl.v1 import job_pb2


def test_an_attempt_is_told_with_what_it_used() -> None:
    """Time, CPU, memory, and bytes read and written; what is not known is left out."""
    attempt = job_pb2.Attempt(
        number=2,
        state="completed",
        agent_id="a",
        run_time=Duration(seconds=3),
        cpu_seconds=2.5,
        peak_memory_bytes=60 << 20,
        bytes_read=3 << 30,
        bytes_written=512,
    )
    told = "2: completed on a, ran 3.00 s, 2.50 CPU s, 60.0 MiB of memory, read 3.0 GiB, wrote 512 B"
    assert _attempt(attempt) == told
    assert _attempt(job_pb2.Attempt(number=1, state="leased", agent_id="a")) == "1: leased on a"
