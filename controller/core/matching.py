"""Which task goes to which agent: snapshot → plan. Pure, and the same for equal snapshots: ties end at ids.

Lanes are served by level (priority, and what a head gained by waiting), then by the passes of their shares, then the
head that waited longest. Every grant is charged before the next is looked for, so shares take turns within a round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Container, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heappush, heapreplace

from controller.core.fairness import ShareKey, Shares
from controller.core.fitting import (
    Candidate,
    Gpu,
    Grant,
    Offer,
    beneath,
    charge,
    choose_gpu,
    fits,
    full,
    infeasible,
    lacks,
    misplaced,
    opened,
    too_small,
    verdict,
)
from presets.capabilities import Resources

__all__ = [
    "Candidate", "Feasibility", "Gpu", "Grant", "Lane", "Offer", "Rules",
    "beneath", "charge", "full", "infeasible", "plan", "verdict",
]  # fmt: skip

HIGHEST = 9
"""The highest priority, and the highest level that waiting can lift a lane to."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Waiting tasks that count as the same and are feasible alike, first in, first out. Keys of lanes are unique.

    Agents are blocklisted by `class_key`; lanes of equal `feasibility_key` (class, labels and reach) are feasible on
    the same agents. `tasks` is read lazily, once, and at most one task beyond the last one granted.
    """

    key: str
    class_key: str
    feasibility_key: str
    share: ShareKey
    priority: int
    limit_keys: tuple[str, ...]
    head_waited_s: float
    tasks: Iterator[Candidate]


@dataclass(frozen=True, slots=True)
class Rules:
    """A head gains one level for each `ageing_s` seconds it waited.

    One that waited longer than `starvation_s` seconds and fits nowhere now holds one agent back for itself.
    Raises ValueError unless both are above 0.
    """

    ageing_s: float = 60.0
    starvation_s: float = 900.0

    def __post_init__(self) -> None:
        if not (self.ageing_s > 0 and self.starvation_s > 0):
            raise ValueError("times of ageing and starvation above 0 are required")

    def level(self, priority: int, waited_s: float) -> int:
        """The priority with what waiting added, 0 to 9."""
        return min(HIGHEST, priority + int(max(0.0, waited_s) // self.ageing_s))


class _Known:
    __slots__ = ("able", "seen")

    def __init__(self) -> None:
        self.able: set[Hashable] = set()
        self.seen: set[Hashable] = set()


class Feasibility:
    """Which kinds of agents can do the tasks of a lane, remembered between rounds.

    Agents of equal `Offer.revision` are one kind. What is remembered are capabilities, labels and reach; a task's exact
    resources, which equal keys need not share, are looked at when it is granted. `most` bounds what is kept: the
    answers for lanes that nobody asked about for longest are forgotten first.
    """

    def __init__(self, most: int = 200_000) -> None:
        self._most = most
        self._count = 0
        self._known: dict[str, tuple[_Known, ...]] = {}

    def recall(self, key: str, kinds: frozenset[Hashable]) -> list[frozenset[Hashable]] | None:
        """Those of these kinds that are able, for each alternative; None where some were never looked at."""
        known = self._known.get(key)
        if known is None or not all(kinds <= each.seen for each in known):
            return None
        self._known[key] = self._known.pop(key)
        return [kinds & each.able for each in known]

    def learn(self, key: str, task: Candidate, samples: dict[Hashable, Offer]) -> list[frozenset[Hashable]]:
        """As `recall`, looking at a sample of each kind that is new; `task` stands for all of the lane."""
        alternatives = task.requirements.alternatives
        known = self._known.pop(key, ()) or tuple(_Known() for _ in alternatives)
        self._known[key] = known
        for each, alternative in zip(known, alternatives, strict=True):
            for kind in samples.keys() - each.seen:
                each.seen.add(kind)
                self._count += 1
                offer = samples[kind]
                if not (lacks(offer, alternative) or misplaced(offer, task)):
                    each.able.add(kind)
        able = [each.able & samples.keys() for each in known]
        while self._count > self._most:
            oldest = self._known.pop(next(iter(self._known)))
            self._count -= sum(len(each.seen) for each in oldest)
        return [frozenset(kinds) for kinds in able]


def _kind(offer: Offer) -> Hashable:
    # Without a revision the facts themselves tell agents apart, only less cheaply.
    return offer.revision or (tuple(sorted(offer.labels.items())), offer.media_roots, offer.binaries)


_Line = list[tuple[int, str]]
"""A heap of agents, most free cores first: (-cores, agent id). Cores only get fewer in a round, so entries may be old:
what is true is never better, and is put right where it comes to the front."""


class _Fleet:
    """The agents of one round, charged as it goes on."""

    def __init__(self, offers: Iterable[Offer]) -> None:
        self.offers = {offer.agent_id: offer for offer in offers}
        members: defaultdict[Hashable, list[str]] = defaultdict(list)
        for offer in self.offers.values():
            members[_kind(offer)].append(offer.agent_id)
        self.members = members
        self.kinds = frozenset(members)
        self.open = {agent_id for agent_id, offer in self.offers.items() if _open(offer)}
        """Agents that can still be given something in this round."""
        self._lines: dict[frozenset[Hashable], _Line] = {}

    def samples(self) -> dict[Hashable, Offer]:
        """One agent of each kind."""
        return {kind: self.offers[agents[0]] for kind, agents in self.members.items()}

    def line(self, kinds: frozenset[Hashable]) -> _Line:
        """The open agents of these kinds; one line for all who ask for the same kinds."""
        line = self._lines.get(kinds)
        if line is None:
            agents = (agent_id for kind in kinds for agent_id in self.members[kind] if agent_id in self.open)
            line = self._lines[kinds] = [(-self.offers[agent_id].free.cores, agent_id) for agent_id in agents]
            heapify(line)
        return line

    def of(self, kinds: Iterable[Hashable]) -> Iterator[Offer]:
        """All agents of these kinds, with room or without."""
        return (self.offers[agent_id] for kind in kinds for agent_id in self.members[kind])

    def first(self, line: _Line, cores: int, suits: Callable[[Offer], bool]) -> Offer | None:
        """The agent with most free cores, at least `cores`, that suits."""
        aside = []
        found = None
        while line:
            negative, agent_id = line[0]
            if agent_id not in self.open:
                heappop(line)
                continue
            offer = self.offers[agent_id]
            if offer.free.cores != -negative:
                heapreplace(line, (-offer.free.cores, agent_id))
                continue
            if offer.free.cores < cores:
                break
            if suits(offer):
                found = offer
                break
            aside.append(heappop(line))
        for entry in aside:
            heappush(line, entry)
        return found

    def take(self, offer: Offer, resources: Resources, gpu: int | None) -> None:
        left = self.offers[offer.agent_id] = charge(offer, resources, gpu)
        if not _open(left):
            self.open.discard(offer.agent_id)


def _open(offer: Offer) -> bool:
    return offer.free_tasks > 0 and offer.free.cores > 0


@dataclass(slots=True)
class _Turn:
    """A lane in a round: where it stands now. `head` is None until it has been read."""

    lane: Lane
    waited_s: float
    head: Candidate | None = None

    def read(self) -> Candidate | None:
        """The task to serve; None: there is none any more."""
        if self.head is None:
            self.head = next(self.lane.tasks, None)
        return self.head

    def advance(self) -> bool:
        """Go on to the next task; False: there is none."""
        self.head = next(self.lane.tasks, None)
        if self.head is not None:
            self.waited_s = self.head.waited_s
        return self.head is not None


class _Queue:
    """The lanes of one level in the order in which they are served: tenants, their queues, the lanes of these."""

    def __init__(self, turns: Iterable[_Turn], shares: Shares) -> None:
        self._shares = shares
        lanes: defaultdict[ShareKey, list[tuple[float, str, _Turn]]] = defaultdict(list)
        for turn in turns:
            lanes[turn.lane.share].append((-turn.waited_s, turn.lane.key, turn))
        self._lanes = lanes
        self._queues: defaultdict[str, list[tuple[float, float, str, ShareKey]]] = defaultdict(list)
        self._tenants: list[tuple[float, float, float, str, str]] = []
        for share, heap in lanes.items():
            heapify(heap)
            heappush(self._queues[share[0]], (shares.rank(share)[1], *heap[0][:2], share))
        for tenant, queues in self._queues.items():
            heappush(self._tenants, (shares.rank(queues[0][3])[0], *queues[0][:3], tenant))

    def pop(self) -> _Turn | None:
        """The lane to serve. Its share is served again only after `close`."""
        if not self._tenants:
            return None
        tenant = heappop(self._tenants)[-1]
        share = heappop(self._queues[tenant])[-1]
        return heappop(self._lanes[share])[-1]

    def close(self, turn: _Turn, *, again: bool) -> None:
        """End the serving of a lane: it and its share stand where their passes now put them, or the lane is out."""
        share = turn.lane.share
        lanes, queues = self._lanes[share], self._queues[share[0]]
        if again:
            heappush(lanes, (-turn.waited_s, turn.lane.key, turn))
        if lanes:
            heappush(queues, (self._shares.rank(share)[1], *lanes[0][:2], share))
        if queues:
            heappush(self._tenants, (self._shares.rank(share)[0], *queues[0][:3], share[0]))


@dataclass(slots=True)
class _Round:
    fleet: _Fleet
    feasibility: Feasibility
    blocked: Container[tuple[str, str]]
    shunned: Container[tuple[str, str]]
    rules: Rules
    absent: Callable[[], Collection[Offer]]
    able: dict[str, list[frozenset[Hashable]]] = field(default_factory=dict)
    ways: dict[str, list[_Line]] = field(default_factory=dict)
    awaited: dict[tuple[str, int, Resources], bool] = field(default_factory=dict)
    away: Collection[Offer] | None = None

    def serve(self, turn: _Turn) -> Grant | None:
        """The best grant for the head of a lane, taken from the agent; None: there is none in this round."""
        ways = self._ways(turn)
        if not any(ways) or (head := turn.read()) is None:
            return None
        for shy in (True, False) if head.avoid else (True,):
            for index, (asked, line) in enumerate(self._opened(turn.lane, head, ways)):
                offer = self.fleet.first(line, asked.cores, self._suits(turn.lane, head, shy, asked, fits))
                if offer is not None:
                    gpu = choose_gpu(offer, asked)
                    self.fleet.take(offer, asked, gpu)
                    return Grant(head.task_id, offer.agent_id, index, asked, gpu)
        if head.waited_s > self.rules.starvation_s:
            self._hold_back(turn.lane, head, ways)
        return None

    def _ways(self, turn: _Turn) -> list[_Line]:
        key = turn.lane.feasibility_key
        ways = self.ways.get(key)
        if ways is None:
            able = self.feasibility.recall(key, self.fleet.kinds)
            if able is None:
                head = turn.read()
                if head is None:
                    return []
                able = self.feasibility.learn(key, head, self.fleet.samples())
            self.able[key] = able
            ways = self.ways[key] = [self.fleet.line(kinds) for kinds in able]
        return ways

    def _opened(self, lane: Lane, task: Candidate, ways: list[_Line]) -> Iterator[tuple[Resources, _Line]]:
        """What each alternative asks and the agents able to do it: nobody while it has not opened."""
        opens = opened(task, partial(self._awaited, lane.feasibility_key, task))
        for alternative, line, is_open in zip(task.requirements.alternatives, ways, opens, strict=True):
            yield alternative.resources, line if is_open else []

    def _awaited(self, key: str, task: Candidate, index: int) -> bool:
        """Whether an agent can do it by this alternative: one of the round, however busy, or an absent one."""
        alternative = task.requirements.alternatives[index]
        known = (key, index, alternative.resources)
        found = self.awaited.get(known)
        if found is None:
            found = self.awaited[known] = any(
                _large_enough(offer, alternative.resources) for offer in self.fleet.of(self.able[key][index])
            ) or any(not infeasible(task, offer, alternative) for offer in self._away())
        return found

    def _away(self) -> Collection[Offer]:
        if self.away is None:
            self.away = self.absent()
        return self.away

    def _suits(
        self, lane: Lane, task: Candidate, shy: bool, asked: Resources, has: Callable[[Offer, Resources], bool]
    ) -> Callable[[Offer], bool]:
        def suits(offer: Offer) -> bool:
            return (
                has(offer, asked)
                and not (shy and offer.agent_id in task.avoid)
                and (offer.agent_id, lane.class_key) not in self.blocked
                and (offer.agent_id, lane.feasibility_key) not in self.shunned
                and not misplaced(offer, task)
            )

        return suits

    def _hold_back(self, lane: Lane, task: Candidate, ways: list[_Line]) -> None:
        """Keep the agent that is nearest to having room from the lanes that are served later in this round."""
        for shy in (True, False) if task.avoid else (True,):
            found = (
                self.fleet.first(line, 1, self._suits(lane, task, shy, asked, _large_enough))
                for asked, line in self._opened(lane, task, ways)
            )
            nearest = min(filter(None, found), key=lambda offer: (-offer.free.cores, offer.agent_id), default=None)
            if nearest is not None:
                self.fleet.open.discard(nearest.agent_id)
                return


def _large_enough(offer: Offer, asked: Resources) -> bool:
    return not too_small(offer, asked)


def plan(
    lanes: Iterable[Lane],
    offers: Iterable[Offer],
    *,
    shares: Shares,
    room: dict[str, int],
    costs: Callable[[str], float],
    blocked: Container[tuple[str, str]],
    shunned: Container[tuple[str, str]] = (),
    absent: Callable[[], Collection[Offer]] = tuple,
    rules: Rules,
    feasibility: Feasibility,
    most: int = 512,
) -> list[Grant]:
    """At most `most` grants, in the order in which they were found.

    `shares` have been entered before and are charged `costs(class_key)` core-seconds a grant; `room` is what is left
    under the limits (keys that it lacks have none) and is counted down. `blocked` are (agent, class key) and `shunned`
    (agent, feasibility key) that do not go together. `offers` must include the agents that are partly busy, or none
    can be held back for a task that waits for all of one, nor waited for where an alternative opens later. `absent`
    are agents that may be offered before long, so that they are waited for likewise: asked for once at the most.

    A lane whose head gets nothing is out of the round. A lane's level falls with its heads but does not rise.
    """
    turns: list[list[_Turn]] = [[] for _ in range(HIGHEST + 1)]
    for lane in lanes:
        turns[rules.level(lane.priority, lane.head_waited_s)].append(_Turn(lane, lane.head_waited_s))
    fleet = _Fleet(offers)
    this = _Round(fleet, feasibility, blocked, shunned, rules, absent)
    grants: list[Grant] = []

    def goes_on(lane: Lane) -> bool:
        return bool(fleet.open) and len(grants) < most and all(room.get(key, 1) > 0 for key in lane.limit_keys)

    for level in range(HIGHEST, -1, -1):
        queue = _Queue(turns[level], shares)
        while fleet.open and len(grants) < most and (turn := queue.pop()) is not None:
            lane, again = turn.lane, False
            grant = this.serve(turn) if goes_on(lane) else None
            if grant is not None:
                grants.append(grant)
                shares.charge(lane.share, costs(lane.class_key))
                for key in lane.limit_keys:
                    if key in room:
                        room[key] -= 1
                if goes_on(lane) and turn.advance():
                    now = rules.level(lane.priority, turn.waited_s)
                    again = now >= level
                    if not again:
                        turns[now].append(turn)
            queue.close(turn, again=again)
    return grants
