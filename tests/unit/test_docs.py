"""What the documents say is what the program says."""

from pathlib import Path

from presets.reasons import Reason, markdown

ROOT = Path(__file__).parents[2]


def test_reasons_document_is_the_table() -> None:
    """docs/reasons.md holds the table as `presets/reasons.py` prints it."""
    assert (ROOT / "docs" / "reasons.md").read_text(encoding="utf-8").endswith(markdown())


def test_every_reason_named_in_the_protos_exists() -> None:
    """A reason that a .proto comment names is a row of the table."""
    named = {
        word.strip("`.,;:()")
        for proto in (ROOT / "protos" / "mediactl" / "v1").glob("*.proto")
        for line in proto.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith("//")
        for word in line.split()
        if "_" in word and word.strip("`.,;:()").isupper()
    }
    enums = (
        "JOB_STATE_",
        "AGENT_STATE_",
        "PHASE_",
        "OUTCOME_",
        "TASK_KIND_",
        "FAILED_PRECONDITION",
        "INVALID_ARGUMENT",
    )
    assert {name for name in named if not name.startswith(enums)} <= set(Reason)
