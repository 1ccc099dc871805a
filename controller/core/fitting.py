"""What a task asks, what an agent offers, and whether the one fits the other: feasibility apart from capacity.

Feasibility (does the agent have what the task needs at all) and capacity (has it room now) answer in words, so that
`explain` shows exactly what the matcher saw.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from presets.capabilities import Alternative, Requirements, Resources, missing


@dataclass(frozen=True, slots=True)
class Candidate:
    """A waiting task. `paths` are the files and objects it must reach; `waited_s` is since it became ready.

    `avoid` are agents where an attempt of it failed: chosen only when no other fits.
    """

    task_id: str
    requirements: Requirements
    require: Mapping[str, str]
    paths: tuple[str, ...]
    waited_s: float
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Gpu:
    """What is free of one GPU, encoder sessions and bytes of memory, and what it has altogether (None: not known)."""

    index: int
    sessions: int
    memory_bytes: int
    total_sessions: int | None = None
    total_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """An agent as the matcher sees it. `binaries` are the capability sets of its FFmpeg binaries.

    `media_roots` are the folders it may use, and stores as `NAME://` or `NAME://bucket/folder/`.
    `revision` is a digest of all that feasibility depends on: binaries, labels, roots and totals.
    """

    agent_id: str
    name: str
    labels: Mapping[str, str]
    media_roots: tuple[str, ...]
    binaries: tuple[frozenset[str], ...]
    failed_trials: Mapping[str, str]
    total: Resources
    free: Resources
    free_tasks: int
    revision: str = ""
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """`gpu` is the index of the GPU whose sessions and memory are taken; None: it takes none."""

    task_id: str
    agent_id: str
    alternative: int
    resources: Resources
    gpu: int | None = None


def beneath(path: str, roots: Iterable[str]) -> bool:
    """Whether a path lies in one of the folders."""
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def lacks(offer: Offer, alternative: Alternative) -> list[str]:
    """The capabilities that the agent lacks, by the words of its best binary for this."""
    if not offer.binaries:
        return ["has no FFmpeg"]
    shortest = min((missing(alternative, binary) for binary in offer.binaries), key=len)
    reasons = []
    for any_of in shortest:
        names = sorted(any_of)
        why = next((offer.failed_trials[name] for name in names if name in offer.failed_trials), "")
        reasons.append(f"lacks {' or '.join(names)}" + (f" (trial failed: {why})" if why else ""))
    return reasons


def too_small(offer: Offer, asked: Resources) -> list[str]:
    """What of the agent would be too little even if all of it were free."""
    total = offer.total
    reasons = []
    if asked.cores > total.cores:
        reasons.append(f"has {total.cores} cores, {asked.cores} are needed")
    if asked.memory_bytes > total.memory_bytes:
        reasons.append(f"has {_mib(total.memory_bytes)} of memory, {_mib(asked.memory_bytes)} are needed")
    if asked.on_gpu and not any(
        (gpu.total_sessions is None or gpu.total_sessions >= asked.encoder_sessions)
        and (gpu.total_memory_bytes is None or gpu.total_memory_bytes >= asked.gpu_memory_bytes)
        for gpu in offer.gpus
    ):
        reasons.append(f"has no GPU with {_of_gpu(asked)}" if offer.gpus else "has no GPU")
    return reasons


def misplaced(offer: Offer, candidate: Candidate) -> list[str]:
    """The labels that the agent lacks and the first path that it can't reach."""
    reasons = []
    for key, value in candidate.require.items():
        have = offer.labels.get(key)
        if have != value:
            reasons.append(f"label {key} is {have!r}, {value!r} is required" if have else f"has no label {key}={value}")
    outside = next((path for path in candidate.paths if not beneath(path, offer.media_roots)), None)
    if outside is not None:
        what, kind, roots = unreached(outside, offer.media_roots)
        reasons.append(f"can't reach {what} (its {kind}: {roots})")
    return reasons


def unreached(path: str, roots: Iterable[str]) -> tuple[str, str, str]:
    """Of a path in none of the roots, in words: what is not reached, what kind of roots count for it, which there are.

    The whole store is named where none of the roots is in it.
    """
    store, of_store, _ = path.partition("://")
    if path.startswith("/") or not of_store:
        return path, "media roots", ", ".join(root for root in roots if "://" not in root) or "none"
    stores = [root for root in roots if "://" in root]
    named = any(root.startswith(f"{store}://") for root in stores)
    return path if named else f"the store {store!r}", "stores", ", ".join(stores) or "none"


def infeasible(candidate: Candidate, offer: Offer, alternative: Alternative) -> list[str]:
    """Why this agent can never run the task by this alternative, as it stands; empty: it can."""
    return lacks(offer, alternative) + too_small(offer, alternative.resources) + misplaced(offer, candidate)


def opened(candidate: Candidate, able: Callable[[int], bool]) -> Iterator[bool]:
    """Whether each alternative may be chosen now: after its delay, or where nobody can do what opens before it.

    ``able`` tells whether some agent, however busy, can do the task by the alternative of that number.
    """
    ways = candidate.requirements.alternatives
    for index, way in enumerate(ways):
        yield candidate.waited_s >= way.open_after_s or not any(
            able(earlier) for earlier in range(index) if ways[earlier].open_after_s < way.open_after_s
        )


def opened_in(candidate: Candidate, fleet: Collection[Offer]) -> tuple[bool, ...]:
    """As `opened`, looking at every one of these agents."""
    ways = candidate.requirements.alternatives
    return tuple(opened(candidate, lambda index: any(not infeasible(candidate, offer, ways[index]) for offer in fleet)))


def never(candidate: Candidate, offer: Offer) -> list[str]:
    """Why this agent can run the task by no alternative, as it stands; empty: by one of them it can."""
    return min(
        (infeasible(candidate, offer, each) for each in candidate.requirements.alternatives), key=len, default=[]
    )


def fits(offer: Offer, asked: Resources) -> bool:
    """Whether `full` would have nothing to say, at a fraction of its cost."""
    free = offer.free
    return (
        offer.free_tasks > 0
        and free.cores >= (asked.cores or 1)
        and free.memory_bytes >= asked.memory_bytes
        and free.scratch_bytes >= asked.scratch_bytes
        and (not asked.on_gpu or choose_gpu(offer, asked) is not None)
    )


def full(offer: Offer, alternative: Alternative) -> list[str]:
    """Why this agent has no room for the alternative now; empty: it has. No task starts without a core free."""
    asked, free, total = alternative.resources, offer.free, offer.total
    cores = max(1, asked.cores)
    reasons = []
    if offer.free_tasks < 1:
        reasons.append("runs as many tasks as it may")
    if cores > free.cores:
        reasons.append(f"has {free.cores} of {total.cores} cores free, {cores} are needed")
    if asked.memory_bytes > free.memory_bytes:
        reasons.append(f"has {_mib(free.memory_bytes)} of memory free, {_mib(asked.memory_bytes)} are needed")
    if asked.scratch_bytes > free.scratch_bytes:
        reasons.append(f"has {_mib(free.scratch_bytes)} of scratch free, {_mib(asked.scratch_bytes)} are needed")
    if asked.on_gpu and choose_gpu(offer, asked) is None:
        reasons.append(f"has no GPU with {_of_gpu(asked)} free")
    return reasons


def choose_gpu(offer: Offer, asked: Resources) -> int | None:
    """The index of the GPU that has room and most sessions free, then most memory; None: none is asked for or has."""
    if not asked.on_gpu:
        return None
    fitting = [
        gpu
        for gpu in offer.gpus
        if gpu.sessions >= asked.encoder_sessions and gpu.memory_bytes >= asked.gpu_memory_bytes
    ]
    best = min(fitting, key=lambda gpu: (-gpu.sessions, -gpu.memory_bytes, gpu.index), default=None)
    return None if best is None else best.index


def charge(offer: Offer, resources: Resources, gpu: int | None = None) -> Offer:
    """The offer with these resources taken, those of a GPU from the one with this index."""
    free = offer.free
    return replace(
        offer,
        free=replace(
            free,
            cores=free.cores - resources.cores,
            memory_bytes=free.memory_bytes - resources.memory_bytes,
            scratch_bytes=free.scratch_bytes - resources.scratch_bytes,
        ),
        free_tasks=offer.free_tasks - 1,
        gpus=offer.gpus if gpu is None else tuple(_less(each, resources, gpu) for each in offer.gpus),
    )


def _less(gpu: Gpu, resources: Resources, index: int) -> Gpu:
    if gpu.index != index:
        return gpu
    return replace(
        gpu,
        sessions=gpu.sessions - resources.encoder_sessions,
        memory_bytes=gpu.memory_bytes - resources.gpu_memory_bytes,
    )


def verdict(
    candidate: Candidate, offer: Offer, open_ways: Sequence[bool], *, blocked: bool = False, shunned: bool = False
) -> list[str]:
    """Every reason why the agent would not be given the task now; empty: it would.

    `open_ways`: which alternatives are open, as `opened` says; `blocked`: tasks of this class failed there; `shunned`:
    the agent declined such a task lately.
    """
    verdicts: list[tuple[bool, int, list[str]]] = []
    for alternative, is_open in zip(candidate.requirements.alternatives, open_ways, strict=True):
        reasons = infeasible(candidate, offer, alternative)
        never = bool(reasons)
        if not never:
            reasons = full(offer, alternative)
            if blocked:
                reasons = ["is blocklisted for such tasks: different ones failed there", *reasons]
            if shunned:
                reasons = ["declined such a task a moment ago", *reasons]
        if not is_open:
            reasons = [
                *reasons,
                f"may take it from {alternative.open_after_s:.0f} s after submission on, if none preferred has by then",
            ]
        if not reasons:
            return []
        verdicts.append((never, len(reasons), reasons))
    # What only takes time is nearer than what is lacking.
    return min(verdicts, key=lambda each: each[:2])[-1] if verdicts else ["the task names no way to do it"]


def _of_gpu(asked: Resources) -> str:
    parts = [f"{asked.encoder_sessions} encoder sessions"] if asked.encoder_sessions else []
    return " and ".join(parts + ([f"{_mib(asked.gpu_memory_bytes)} of memory"] if asked.gpu_memory_bytes else []))


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
