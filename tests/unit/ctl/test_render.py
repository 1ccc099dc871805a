"""How values are shown."""

import json
from pathlib import Path

import pytest
import yaml
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ctl import render
from ctl.settings import Format
from ctl.submission import input_uri
from mediactl.v1 import job_pb2


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (8.44, "8.4 s"), (61, "1:01"), (362, "6:02"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    """Seconds, minutes and hours."""
    assert render.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    """Binary units."""
    assert render.size(count) == text


def test_canonical_json() -> None:
    """lowerCamelCase, enum names, zero values, 64-bit integers as text; unset messages are absent."""
    job = job_pb2.Job(id="x", state=job_pb2.JOB_STATE_DEAD, artifacts=[job_pb2.Artifact(size_bytes=2**40)])
    document = json.loads(render.structured(render.data(job), Format.JSON))
    assert (document["state"], document["attemptCount"], document["cancelRequested"]) == ("JOB_STATE_DEAD", 0, False)
    assert document["artifacts"][0]["sizeBytes"] == "1099511627776"
    assert "failure" not in document
    assert yaml.safe_load(render.structured(render.data(job), Format.YAML)) == document


def test_an_unset_time_is_empty() -> None:
    """Nothing is shown for what has not happened; what has is shown in local time."""
    assert render.moment(Timestamp()) == ""
    assert render.moment(Timestamp(seconds=1_700_000_000)).startswith("2023-11-1")


def test_states_of_a_newer_server() -> None:
    """A state that this version does not know is its number."""
    assert render.state_word(job_pb2.JOB_STATE_PENDING) == "PENDING"
    assert render.state_word(99) == "99"


@given(st.text())
def test_text_is_made_printable(text: str) -> None:
    """Nothing that a terminal obeys gets through; printable text is unchanged."""
    shown = render.plain(text)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert shown == text or any(not char.isprintable() for char in text)


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).map(lambda name: f"/x/y{name}"))
def test_places_read_as_what_was_given(path: str) -> None:
    """A path becomes a URI on the way in and is shown as itself on the way out."""
    assert render.place(input_uri(path, Path("/"))) == path
