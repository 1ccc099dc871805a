"""Which task goes to which agent: snapshot → plan. Pure; feasibility apart from capacity apart from ranking.

Feasibility (does the agent have what the task needs at all) and capacity (has it room now) answer in words, so that
`explain` shows exactly what the matcher saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from presets.capabilities import Alternative, Requirements, Resources, missing


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting task. `paths` are the local files and folders it must reach; `waited_s` is since it became ready."""

    task_id: str
    requirements: Requirements
    require: Mapping[str, str]
    paths: tuple[str, ...]
    waited_s: float


@dataclass(frozen=True, slots=True)
class Offer:
    """An agent as the matcher sees it. `binaries` are the capability sets of its FFmpeg binaries."""

    agent_id: str
    name: str
    labels: Mapping[str, str]
    media_roots: tuple[str, ...]
    binaries: tuple[frozenset[str], ...]
    failed_trials: Mapping[str, str]
    total: Resources
    free: Resources
    free_tasks: int


@dataclass(frozen=True, slots=True)
class Grant:
    task_id: str
    agent_id: str
    alternative: int
    resources: Resources


def beneath(path: str, roots: Iterable[str]) -> bool:
    """Whether a path lies in one of the folders."""
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _lacks(alternative: Alternative, offer: Offer) -> list[str]:
    if not offer.binaries:
        return ["has no FFmpeg"]
    shortest = min((missing(alternative, binary) for binary in offer.binaries), key=len)
    reasons = []
    for any_of in shortest:
        names = sorted(any_of)
        why = next((offer.failed_trials[name] for name in names if name in offer.failed_trials), "")
        reasons.append(f"lacks {' or '.join(names)}" + (f" (trial failed: {why})" if why else ""))
    total, asked = offer.total, alternative.resources
    if asked.cores > total.cores:
        reasons.append(f"has {total.cores} cores, {asked.cores} are needed")
    if asked.memory_bytes > total.memory_bytes:
        reasons.append(f"has {_mib(total.memory_bytes)} of memory, {_mib(asked.memory_bytes)} are needed")
    return reasons


def infeasible(candidate: Candidate, offer: Offer, alternative: Alternative) -> list[str]:
    """Why this agent can never run the task by this alternative, as it stands; empty: it can."""
    reasons = _lacks(alternative, offer)
    for key, value in candidate.require.items():
        have = offer.labels.get(key)
        if have != value:
            reasons.append(f"label {key} is {have!r}, {value!r} is required" if have else f"has no label {key}={value}")
    outside = [path for path in candidate.paths if not beneath(path, offer.media_roots)]
    if outside:
        roots = ", ".join(offer.media_roots) or "none"
        reasons.append(f"can't reach {outside[0]} (its media roots: {roots})")
    return reasons


def full(offer: Offer, alternative: Alternative) -> list[str]:
    """Why this agent has no room for the alternative now; empty: it has."""
    asked, free, total = alternative.resources, offer.free, offer.total
    reasons = []
    if offer.free_tasks < 1:
        reasons.append("runs as many tasks as it may")
    if asked.cores > free.cores:
        reasons.append(f"has {free.cores} of {total.cores} cores free, {asked.cores} are needed")
    if asked.memory_bytes > free.memory_bytes:
        reasons.append(f"has {_mib(free.memory_bytes)} of memory free, {_mib(asked.memory_bytes)} are needed")
    if asked.scratch_bytes > free.scratch_bytes:
        reasons.append(f"has {_mib(free.scratch_bytes)} of scratch free, {_mib(asked.scratch_bytes)} are needed")
    return reasons


def choose(candidate: Candidate, offers: Sequence[Offer]) -> Grant | None:
    """The best agent for one task: first alternative that fits anywhere, most free cores, then the id."""
    for index, alternative in enumerate(candidate.requirements.alternatives):
        if candidate.waited_s < alternative.open_after_s:
            continue
        fitting = [
            offer for offer in offers if not full(offer, alternative) and not infeasible(candidate, offer, alternative)
        ]
        if fitting:
            best = min(fitting, key=lambda offer: (-offer.free.cores, offer.agent_id))
            return Grant(candidate.task_id, best.agent_id, index, alternative.resources)
    return None


def charge(offer: Offer, resources: Resources) -> Offer:
    """The offer with these resources taken."""
    free = offer.free
    return replace(
        offer,
        free=Resources(
            cores=free.cores - resources.cores,
            memory_bytes=free.memory_bytes - resources.memory_bytes,
            scratch_bytes=free.scratch_bytes - resources.scratch_bytes,
        ),
        free_tasks=offer.free_tasks - 1,
    )


def plan(candidates: Iterable[Candidate], offers: Iterable[Offer]) -> list[Grant]:
    """Grants for the candidates in the order given, each charged to its agent before the next is looked at."""
    standing = {offer.agent_id: offer for offer in offers}
    grants = []
    for candidate in candidates:
        if not any(offer.free_tasks > 0 and offer.free.cores > 0 for offer in standing.values()):
            break
        grant = choose(candidate, list(standing.values()))
        if grant is not None:
            grants.append(grant)
            standing[grant.agent_id] = charge(standing[grant.agent_id], grant.resources)
    return grants


def verdict(candidate: Candidate, offer: Offer) -> list[str]:
    """Every reason why the agent would not be given the task now; empty: it would."""
    verdicts = []
    for alternative in candidate.requirements.alternatives:
        reasons = infeasible(candidate, offer, alternative) or full(offer, alternative)
        if candidate.waited_s < alternative.open_after_s:
            reasons = [*reasons, f"this alternative opens {alternative.open_after_s:.0f} s after submission"]
        if not reasons:
            return []
        verdicts.append(reasons)
    return min(verdicts, key=len)


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
