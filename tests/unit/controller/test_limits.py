"""Which limits a task counts against, and which keys of limits mean anything."""

import pytest

from controller.core.limits import key_problem, limit_keys, limit_of, name_problem, value_of

ALL = ("global", "tenant:default", "queue:night", "preset:loudness_v1", "label:show", "label:desk")


def _keys(*limits: str) -> tuple[str, ...]:
    return limit_keys(
        limits,
        tenant="default",
        queue="night",
        preset="loudness_v1",
        labels={"show": "news=at=ten", "mood": "bright"},
    )


def test_only_limits_that_are_set_count() -> None:
    """Without limits nothing counts; with all of them the task's own do, sorted."""
    assert _keys() == ()
    assert _keys(*ALL) == ("global", "label:show=news=at=ten", "preset:loudness_v1", "queue:night", "tenant:default")


@pytest.mark.parametrize("key", ["queue:day", "tenant:other", "preset:loudness_v2", "label:desk"])
def test_limits_of_others_do_not_count(key: str) -> None:
    """Another queue, tenant, preset, or a label that the job doesn't have."""
    assert _keys(key) == ()


def test_a_label_counts_by_value() -> None:
    """The count's key leads back to the limit and to the value, whatever the value holds."""
    [key] = _keys("label:show")
    assert (limit_of(key), value_of(key)) == ("label:show", "news=at=ten")


def test_other_keys_are_their_own_limit() -> None:
    """Names may hold an equals sign there."""
    assert (limit_of("queue:a=b"), value_of("queue:a=b")) == ("queue:a=b", "")


@pytest.mark.parametrize("key", [*ALL, "queue:with spaces", "queue:a=b"])
def test_every_form_of_a_key_is_accepted(key: str) -> None:
    """Names are free, as those of queues are."""
    assert key_problem(key) == ""


@pytest.mark.parametrize(
    "key",
    [
        *("", "all", "queue", "queue:", "label:", "job:x", "Global", "label:show=news", "preset:loudness", "queue: a"),
        *("queue:\0", "tenant:" + "a" * 257),
    ],
)
def test_what_would_never_apply_is_refused(key: str) -> None:
    """With words about what is expected instead."""
    assert "expected" in key_problem(key) or "by itself" in key_problem(key)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\n", "\0", "a" * 257])
def test_names_that_nobody_could_type_are_refused(name: str) -> None:
    """Empty ones, ones with spaces around them, control characters, and endless ones."""
    assert name_problem(name)
