"""What an attempt remembers over lives of its agent."""

from pathlib import Path

import pytest

from agent.journal import Journal, left_lease
from agent.media.usage import Usage
from agent.records import usage_message
from agent.storage import Identity
from agent.workspace import Workspace
from mediactl.v1 import agent_service_pb2 as pb
from presets.facts import MediaFacts, from_ffprobe
from presets.plan import Loudness, StepResult

LEASE = pb.Lease(attempt_id="a", job_id="j", intent_json="{}")
FACTS: MediaFacts = from_ffprobe(
    {
        "format": {"format_name": "wav", "duration": "1.5"},
        "streams": [
            {"index": 0, "codec_type": "audio", "codec_name": "pcm_s16le", "sample_rate": "48000", "channels": 1}
        ],
    }
)
MEASURED = StepResult(1.5, Loudness(-23.0, -1.0, None))
USED = Usage(1.5, 1000, 20, 30)
STAGED = pb.RedoRecord(staged_uri="file:///x")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, "a")


def opened(workspace: Workspace) -> Journal:
    journal = Journal(workspace)
    journal.open(LEASE)
    return journal


def test_everything_is_remembered(workspace: Workspace) -> None:
    """Lease, beginning, binary, inputs, steps with their costs, and what is staged."""
    journal = opened(workspace)
    journal.begin("digest")
    journal.fetched([(Identity(4, "t"), FACTS)])
    journal.did("measure", MEASURED, USED)
    journal.has_staged(STAGED)
    again = opened(workspace)
    assert left_lease(workspace) == LEASE
    assert again.begun_s == journal.begun_s > 0
    assert again.binary == "digest"
    assert again.inputs == [(Identity(4, "t"), FACTS)]
    assert again.steps == {"measure": (MEASURED, USED)}
    assert again.staged == [STAGED]


def test_another_binary_begins_anew(workspace: Workspace) -> None:
    """What one FFmpeg did is not mixed with what another one does."""
    journal = opened(workspace)
    journal.begin("old")
    journal.fetched([(Identity(4, "t"), FACTS)])
    journal.did("measure", MEASURED, USED)
    (workspace.steps / "01-measure").mkdir()
    journal.begin("new")
    again = opened(workspace)
    assert (again.binary, again.inputs, again.steps, again.staged) == ("new", [], {}, [])
    assert not list(workspace.steps.iterdir())


@pytest.mark.parametrize("entry", ['{"journal":1,"boot":"another","begun_s":1}', '{"journal":0,"begun_s":1}', "no"])
def test_what_cannot_be_taken_up(workspace: Workspace, entry: str) -> None:
    """Begun before the machine was started, by a version with another journal, or damaged: nothing to go on with."""
    opened(workspace)
    assert left_lease(workspace) == LEASE
    workspace.journal.write_text(entry + "\n")
    assert left_lease(workspace) is None
    workspace.remove()
    assert left_lease(workspace) is None


def test_costs_add_up() -> None:
    """Time and bytes are summed, of memory the largest counts."""
    assert USED.followed_by(Usage(0.5, 400, 1, 2)) == Usage(2.0, 1000, 21, 32)
    results = {"measure": StepResult(12.0, None), "verify": StepResult(11.5, None), "lost": StepResult(None, None)}
    message = usage_message(USED, 2.5, results)
    assert message.media_seconds == 12
    assert (message.cpu_seconds, message.peak_memory_bytes) == (1.5, 1000)
    assert (message.bytes_read, message.bytes_written) == (20, 30)
    assert message.run_time.ToMilliseconds() == 2500


@pytest.mark.parametrize("lease", [b"", pb.Lease(attempt_id="b").SerializeToString(), b"\xff"])
def test_another_lease_is_not_taken_up(workspace: Workspace, lease: bytes) -> None:
    """An emptied file reads as a lease of nothing."""
    opened(workspace)
    workspace.lease.write_bytes(lease)
    assert left_lease(workspace) is None


def test_a_damaged_journal_is_not_taken_up(workspace: Workspace) -> None:
    """A line of JSON that is no entry."""
    opened(workspace)
    workspace.journal.write_bytes(b"null\n")
    assert left_lease(workspace) is None
