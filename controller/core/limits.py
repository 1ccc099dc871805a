"""Central limits: which of them a task counts against, and which keys mean anything."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

GLOBAL = "global"
MOST = 1_000_000
"""The largest maximum of a limit."""

_PRESET = re.compile(r"[a-z][a-z0-9_]{0,62}_v[1-9][0-9]{0,5}")
_FORMS = "`global`, `tenant:NAME`, `queue:NAME`, `preset:FULL_NAME` or `label:KEY`"


def limit_keys(
    limits: Collection[str], *, tenant: str, queue: str, preset: str, labels: Mapping[str, str]
) -> tuple[str, ...]:
    """What a task counts against, sorted. `limits` are the keys that have a limit; `preset` is the full name.

    A limit `label:KEY` holds for every value by itself: its tasks count against `label:KEY=VALUE`.
    """
    if not limits:
        return ()
    keys = [key for key in (GLOBAL, f"tenant:{tenant}", f"queue:{queue}", f"preset:{preset}") if key in limits]
    keys += [f"label:{key}={value}" for key, value in labels.items() if f"label:{key}" in limits]
    return tuple(sorted(keys))


def limit_of(count_key: str) -> str:
    """The limit under which a key of `limit_keys` counts."""
    return count_key.partition("=")[0] if count_key.startswith("label:") else count_key


def value_of(count_key: str) -> str:
    """The label's value where the limit is one of a label, otherwise empty."""
    return count_key.partition("=")[2] if count_key.startswith("label:") else ""


def key_problem(key: str) -> str:
    """Why this can't be the key of a limit, for a person; empty: it can."""
    if key == GLOBAL:
        return ""
    kind, separator, name = key.partition(":")
    if not separator or kind not in ("tenant", "queue", "preset", "label"):
        return f"{_FORMS} is expected"
    if unfit := name_problem(name):
        return f"after `{kind}:` {unfit}"
    if kind == "preset" and not _PRESET.fullmatch(name):
        return "a preset's full name is expected, such as `preset:dialogue_clean_v1`"
    if kind == "label" and "=" in name:
        return "a limit of a label holds for every value by itself: give the label's key alone"
    return ""


def name_problem(name: str) -> str:
    """Why this can't be the name of a queue, tenant or label, for a person; empty: it can."""
    if not name or name != name.strip():
        return "a name is expected, without spaces around it"
    if len(name) > 256 or not name.isprintable():
        return "a name of at most 256 printable characters is expected"
    return ""
