"""Page tokens are bound to the list they were given out for."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.rpc import pages
from mediactl.v1 import job_pb2
from presets.problems import InvalidRequest
from presets.reasons import Reason


@given(st.integers(1, 2**53), st.text(max_size=8), st.dictionaries(st.text(max_size=4), st.text(max_size=4)))
def test_a_token_leads_back(position: int, queue: str, labels: dict[str, str]) -> None:
    """A token gives its position to the same filter, in whatever order its labels come."""
    token = pages.token(position, job_pb2.JobFilter(queue=queue, labels=labels))
    again = job_pb2.JobFilter(queue=queue, labels=dict(reversed(labels.items())))
    assert pages.position(token, again) == position


def test_no_token_is_the_first_page() -> None:
    """The empty token is nowhere in particular."""
    assert pages.position("", job_pb2.JobFilter()) is None


def test_a_token_of_another_list_is_refused() -> None:
    """The filter must stay the same from page to page."""
    token = pages.token(7, job_pb2.JobFilter(queue="a"))
    with pytest.raises(InvalidRequest, match="filter must stay the same") as caught:
        pages.position(token, job_pb2.JobFilter(queue="b"))
    assert [(p.reason, p.field) for p in caught.value.problems] == [(Reason.PAGE_TOKEN_INVALID, "page_token")]


def _forged(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


_bound = json.loads(base64.urlsafe_b64decode(pages.token(1, job_pb2.JobFilter())))[1]


@given(
    st.one_of(
        st.text(min_size=1, max_size=40),
        st.binary(min_size=1, max_size=40).map(lambda raw: base64.urlsafe_b64encode(raw).decode()),
        st.sampled_from([5, "ab", {"a": 1, "b": 2}, [], [1], [1, 2, 3], [None, _bound], ["7", _bound]]).map(_forged),
    )
)
def test_what_is_no_token_is_refused(text: str) -> None:
    """Whatever a caller sends, it is a token of this list or an invalid argument."""
    with pytest.raises(InvalidRequest):
        pages.position(text, job_pb2.JobFilter())


@pytest.mark.parametrize(("asked", "got"), [(0, 50), (1, 1), (1000, 1000)])
def test_sizes(asked: int, got: int) -> None:
    """0 is the default; 1 to 1000 are taken as they are."""
    assert pages.size(asked, default=50) == got


@pytest.mark.parametrize("asked", [-1, 1001])
def test_sizes_out_of_range(asked: int) -> None:
    """Others are refused, not bent."""
    with pytest.raises(InvalidRequest, match="page_size"):
        pages.size(asked, default=50)
