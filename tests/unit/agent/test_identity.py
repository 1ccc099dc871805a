"""The id that an agent keeps."""

from pathlib import Path

import pytest

from agent.identity import agent_id


def test_it_is_kept(tmp_path: Path) -> None:
    """One that a person chose, too."""
    assert agent_id(tmp_path) == agent_id(tmp_path)
    (tmp_path / "agent-id").write_text("chosen\n")
    assert agent_id(tmp_path) == "chosen"


@pytest.mark.parametrize("damaged", [b"", b"\0" * 17, b"\xff\xfe"])
def test_a_damaged_file_makes_a_new_agent(tmp_path: Path, damaged: bytes) -> None:
    """As a machine that stopped may leave it."""
    (tmp_path / "agent-id").write_bytes(damaged)
    assert len(fresh := agent_id(tmp_path)) == 16
    assert agent_id(tmp_path) == fresh
