"""Which task goes to which agent."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.fairness import ShareKey, Shares, Standing
from controller.core.fitting import opened_in
from controller.core.matching import (
    Candidate,
    Feasibility,
    Gpu,
    Grant,
    Lane,
    Offer,
    Rules,
    charge,
    infeasible,
    plan,
    verdict,
)
from presets.capabilities import Alternative, Requirements, Resources

AAC = frozenset({"encoder:aac"})
NVENC = frozenset({"encoder:h264_nvenc"})


def _offer(
    agent_id: str = "a",
    *,
    cores: int = 4,
    memory: int = 100,
    scratch: int = 100,
    tasks: int = 8,
    able: frozenset[str] = AAC,
    roots: tuple[str, ...] = ("/media",),
    labels: dict[str, str] | None = None,
    gpus: tuple[Gpu, ...] = (),
    revision: str = "",
) -> Offer:
    whole = Resources(cores, memory, scratch)
    return Offer(agent_id, agent_id, labels or {}, roots, (able,), {}, whole, whole, tasks, revision, gpus)


def _way(need: frozenset[str] = AAC, cores: int = 1, after: float = 0.0, **asked: int) -> Alternative:
    return Alternative((need,), Resources(**({"memory_bytes": 1} | asked), cores=cores), after)


def _task(
    task_id: str,
    *ways: Alternative,
    waited: float = 0.0,
    paths: tuple[str, ...] = ("/media/a",),
    avoid: frozenset[str] = frozenset(),
    require: dict[str, str] | None = None,
) -> Candidate:
    return Candidate(task_id, Requirements(ways or (_way(),)), require or {}, paths, waited, avoid)


def _lane(
    key: str,
    *tasks: Candidate,
    share: ShareKey = ("t", "q"),
    priority: int = 5,
    limits: tuple[str, ...] = (),
    feasibility_key: str = "",
) -> Lane:
    waited = tasks[0].waited_s if tasks else 0.0
    return Lane(key, f"class-{key}", feasibility_key or f"can-{key}", share, priority, limits, waited, iter(tasks))


@dataclass
class _Setting:
    """What a round is given beside lanes and offers."""

    room: dict[str, int] = field(default_factory=dict)
    cost: float = 1.0
    blocked: frozenset[tuple[str, str]] = frozenset()
    shunned: frozenset[tuple[str, str]] = frozenset()
    absent: tuple[Offer, ...] = ()
    rules: Rules = field(default_factory=Rules)
    feasibility: Feasibility = field(default_factory=Feasibility)
    most: int = 512

    def plan(
        self, lanes: list[Lane], offers: list[Offer], standings: dict[ShareKey, Standing] | None = None
    ) -> list[Grant]:
        shares = Shares(standings or {})
        shares.enter({lane.share for lane in lanes})
        return plan(
            lanes,
            offers,
            shares=shares,
            room=self.room,
            costs=lambda _: self.cost,
            blocked=self.blocked,
            shunned=self.shunned,
            absent=lambda: self.absent,
            rules=self.rules,
            feasibility=self.feasibility,
            most=self.most,
        )


def _who(grants: list[Grant]) -> list[str]:
    return [grant.task_id for grant in grants]


def _where(grants: list[Grant]) -> list[str]:
    return [grant.agent_id for grant in grants]


def test_the_agent_with_most_free_cores_is_chosen() -> None:
    """Work spreads; between equals the id decides."""
    offers = [_offer("b", cores=2), _offer("d", cores=8), _offer("c", cores=8), _offer("a", cores=4)]
    grants = _Setting().plan([_lane("x", *(_task(str(n)) for n in range(4)))], offers)
    assert _where(grants) == ["c", "d", "c", "d"]


def test_the_first_alternative_wins_wherever_it_fits() -> None:
    """A preferred way on a small agent comes before the second way on a big one."""
    offers = [_offer("cpu", cores=64), _offer("gpu", cores=1, able=NVENC)]
    tasks = [_task(name, _way(NVENC), _way()) for name in ("1", "2")]
    grants = _Setting().plan([_lane("x", *tasks)], offers)
    assert [(grant.agent_id, grant.alternative) for grant in grants] == [("gpu", 0), ("cpu", 1)]


@pytest.mark.parametrize(("waited", "granted"), [(29.9, []), (30.0, ["a"])])
def test_an_alternative_opens_after_its_delay(waited: float, granted: list[str]) -> None:
    """Until then the task waits for the preferred way, though another agent is idle."""
    task = _task("1", _way(NVENC), _way(after=30.0), waited=waited)
    busy = charge(_offer("gpu", cores=1, able=NVENC), Resources(1, 0))
    assert _where(_Setting().plan([_lane("x", task)], [_offer(), busy])) == granted


def _on_gpu(task_id: str = "1", paths: tuple[str, ...] = ("/media/a",)) -> Candidate:
    """What prefers a GPU and has just come."""
    return _task(task_id, _way(NVENC, encoder_sessions=1), _way(cores=4, after=30.0), _way(after=30.0), paths=paths)


@pytest.mark.parametrize(
    "other",
    [
        _offer("other", able=NVENC),
        _offer("other", able=NVENC, gpus=(Gpu(0, 0, 100, 0, 100),)),
        _offer("other", able=NVENC, gpus=(Gpu(0, 1, 100),), roots=("/nas",)),
    ],
    ids=["without a GPU", "with a GPU that has no sessions", "out of reach"],
)
def test_what_nobody_can_do_is_not_waited_for(other: Offer) -> None:
    """An alternative opens at once where no agent could do what opens before it; those that open together, together."""
    for able in (_offer(), _offer(cores=2)):
        for absent in ((), (other,)):
            [grant] = _Setting(absent=absent).plan([_lane("x", _on_gpu())], [able, *absent])
            assert grant.agent_id == "a"
    [grant] = _Setting().plan([_lane("x", _on_gpu())], [charge(_offer(cores=5), Resources(2, 0))])
    assert grant.alternative == 2


_GPU_BOX = _offer("gpu", able=NVENC, gpus=(Gpu(0, 1, 100, 1, 100),))


@pytest.mark.parametrize(
    ("box", "absent"),
    [
        (charge(_GPU_BOX, Resources(4, 0)), ()),
        (replace(_GPU_BOX, free_tasks=0), ()),
        (charge(_GPU_BOX, Resources(1, 0, encoder_sessions=1), 0), ()),
        (_offer("b"), (_GPU_BOX,)),
    ],
    ids=["no core free", "no place free", "no session free", "connected elsewhere"],
)
def test_who_is_busy_or_absent_is_waited_for(box: Offer, absent: tuple[Offer, ...]) -> None:
    """It may have room at any moment, and is worth the delay."""
    assert _Setting(absent=absent).plan([_lane("x", _on_gpu())], [_offer(), box]) == []
    assert _who(_Setting(absent=absent).plan([_lane("x", replace(_on_gpu(), waited_s=30.0))], [_offer(), box])) == ["1"]


def test_waiting_is_each_task_s_own_even_in_one_class() -> None:
    """A task that only a large GPU could do does not wait for a small one, though it is of the same lane as others."""
    box = charge(_GPU_BOX, Resources(4, 0))
    large = _task("1", _way(NVENC, encoder_sessions=2), _way(after=30.0))
    lanes = [_lane("x", large, feasibility_key="k"), _lane("y", _on_gpu("2"), feasibility_key="k2")]
    assert _who(_Setting().plan(lanes, [_offer(), box])) == ["1"]


def test_absent_agents_are_asked_for_at_need() -> None:
    """Never where nothing waits for a delay, and once for all lanes."""
    asked = count()

    def absent() -> tuple[Offer, ...]:
        next(asked)
        return ()

    def grants(*tasks: Candidate) -> list[str]:
        shares = Shares({})
        lanes = [_lane(task.task_id, task) for task in tasks]
        shares.enter({lane.share for lane in lanes})
        setting = _Setting()
        return _who(
            plan(
                lanes,
                [_offer()],
                shares=shares,
                room={},
                costs=lambda _: 1.0,
                blocked=(),
                absent=absent,
                rules=setting.rules,
                feasibility=setting.feasibility,
            )
        )

    late = _task("2", _way(NVENC), _way(after=9.0), waited=9.0)
    assert grants(_task("1"), late, _task("3", _way(NVENC), _way())) == ["2", "1", "3"]
    assert next(asked) == 0
    assert grants(_task("1", _way(NVENC), _way(after=9.0)), _task("2", _way(NVENC), _way(after=9.0))) == ["1", "2"]
    assert next(asked) == 2


def test_an_agent_where_it_failed_is_the_last_choice() -> None:
    """Another alternative elsewhere comes first, but the agent is chosen where no other fits."""
    bad, good = _offer("bad", cores=64, able=AAC | NVENC), _offer("good")
    task = _task("1", _way(NVENC), _way(), avoid=frozenset({"bad"}))
    [grant] = _Setting().plan([_lane("x", task)], [bad, good])
    assert (grant.agent_id, grant.alternative) == ("good", 1)
    [grant] = _Setting().plan([_lane("x", task)], [bad])
    assert (grant.agent_id, grant.alternative) == ("bad", 0)


def test_blocked_and_shunned_agents_get_none_of_it() -> None:
    """Blocklisting is by class, declining by feasibility; other lanes go on using the agent."""
    offers = [_offer("a"), _offer("b", cores=2)]
    setting = _Setting(blocked=frozenset({("a", "class-x")}), shunned=frozenset({("a", "can-y")}))
    grants = setting.plan([_lane(key, _task(key)) for key in "xyz"], offers)
    assert dict(zip(_who(grants), _where(grants), strict=True)) == {"x": "b", "y": "b", "z": "a"}


def test_a_gpu_is_named_and_its_sessions_are_counted() -> None:
    """Each rendition takes a session; the grants spread over the GPUs until no single one has enough."""
    box = _offer(able=NVENC, gpus=(Gpu(0, 3, 100), Gpu(1, 2, 100)))
    tasks = [_task(str(n), _way(NVENC, encoder_sessions=2, gpu_memory_bytes=10)) for n in range(4)]
    assert [grant.gpu for grant in _Setting().plan([_lane("x", *tasks)], [box])] == [0, 1]


def test_higher_levels_are_served_first() -> None:
    """Priority, with one level for each ageing time that the head waited, up to 9."""
    lanes = [
        _lane("low", _task("low", waited=119.0), priority=2),
        _lane("high", _task("high"), priority=5),
        _lane("aged", _task("aged", waited=240.0), priority=2),
        _lane("top", _task("top", waited=1e9), priority=9),
    ]
    assert _who(_Setting(rules=Rules(starvation_s=1e10)).plan(lanes, [_offer()])) == ["top", "aged", "high", "low"]


def test_a_lane_falls_with_its_heads() -> None:
    """What stands behind an old head has the level of its own waiting."""
    old = _lane("old", _task("old 1", waited=600.0), _task("old 2"), priority=0)
    new = _lane("new", *(_task(f"new {n}") for n in range(3)), priority=5)
    assert _who(_Setting().plan([old, new], [_offer(cores=5)])) == ["old 1", "new 0", "new 1", "new 2", "old 2"]


def test_within_a_share_the_longest_waiting_head_is_next() -> None:
    """Lanes of one share take turns by the waiting of their heads; between equals the key decides."""
    one = _lane("1", *(_task(name, waited=waited) for name, waited in [("a", 30.0), ("b", 25.0), ("c", 10.0)]))
    two = _lane("2", *(_task(name, waited=waited) for name, waited in [("d", 20.0), ("e", 10.0)]))
    assert _who(_Setting().plan([two, one], [_offer(cores=5)])) == ["a", "b", "d", "c", "e"]


def test_shares_take_turns_within_a_round() -> None:
    """A queue of weight 2 is served twice as often as one of weight 1; a second tenant gets as much as both."""
    lanes = [
        _lane("x", *(_task("x") for _ in range(20)), share=("t", "one")),
        _lane("y", *(_task("y") for _ in range(20)), share=("t", "two")),
        _lane("z", *(_task("z") for _ in range(20)), share=("u", "one")),
    ]
    who = _who(_Setting().plan(lanes, [_offer(cores=12, tasks=12)], {("t", "two"): Standing(weight=2.0)}))
    assert (who.count("x"), who.count("y"), who.count("z")) == (2, 4, 6)
    assert who[:6].count("z") == 3


def test_a_lane_that_fits_nowhere_hides_nobody() -> None:
    """Infeasible and too big ones are passed over; within a lane nobody overtakes."""
    lanes = [
        _lane("1", _task("hopeless", _way(NVENC), waited=4)),
        _lane("2", _task("huge", _way(cores=64), waited=3), _task("behind it", waited=3)),
        _lane("3", _task("first", waited=2), _task("four", _way(cores=4)), _task("second")),
        _lane("4", _task("third")),
    ]
    assert _who(_Setting().plan(lanes, [_offer()])) == ["first", "third"]


def test_a_lane_at_its_limit_hides_nobody() -> None:
    """The room under every limit counts down; a lane without is passed over unread."""
    setting = _Setting(room={"queue:q": 1, "global": 3, "label:x=1": 0})
    shut = _lane("0", _task("shut", waited=9), limits=("global", "label:x=1"))
    lanes = [
        shut,
        _lane("1", _task("one", waited=3), _task("two", waited=3), limits=("global", "queue:q")),
        _lane("2", *(_task(f"free {n}") for n in range(3)), limits=("global", "has no limit")),
    ]
    assert _who(setting.plan(lanes, [_offer(cores=9)])) == ["one", "free 0", "free 1"]
    assert setting.room == {"queue:q": 0, "global": 0, "label:x=1": 0}
    assert next(shut.tasks).task_id == "shut"


def test_no_more_than_asked_for() -> None:
    """`most` bounds a round, and what stands behind it is not read."""
    lane = _lane("1", *(_task(str(n)) for n in range(5)))
    assert _who(_Setting(most=2).plan([lane], [_offer()])) == ["0", "1"]
    assert _who(_Setting().plan([lane], [_offer()])) == ["2", "3", "4"]


def test_known_hopeless_lanes_are_not_read() -> None:
    """Once every kind of agent was looked at, a lane that none can do is left unread, also where a new agent
    is of a known kind."""
    setting = _Setting()
    setting.plan([_lane("1", _task("a", _way(NVENC)), feasibility_key="k")], [_offer(revision="r")])
    lane = _lane("2", _task("b", _way(NVENC)), feasibility_key="k")
    assert setting.plan([lane], [_offer("b", revision="r")]) == []
    assert next(lane.tasks).task_id == "b"
    assert _who(setting.plan([_lane("3", _task("c", _way(NVENC)), feasibility_key="k")], [_offer(able=NVENC)])) == ["c"]


def test_feasibility_forgets_the_oldest() -> None:
    """Its size is bounded, and what was forgotten is looked at again."""
    setting = _Setting(feasibility=Feasibility(most=2))
    for key in "abcab":
        lane = _lane(key, _task(key), feasibility_key=key)
        assert _who(setting.plan([lane], [_offer(revision="r")])) == [key]
    assert setting.feasibility.recall("b", frozenset({"r"})) == [frozenset({"r"})]
    assert setting.feasibility.recall("c", frozenset({"r"})) is None


def test_exact_values_are_looked_at_though_the_key_is_known() -> None:
    """Tasks of one class may ask for different amounts and paths: neither is taken from what is remembered."""
    setting = _Setting()
    box = _offer(cores=3, revision="r")
    for cores, granted in [(4, []), (3, ["t"])]:
        assert _who(setting.plan([_lane("x", _task("t", _way(cores=cores)))], [box])) == granted
    assert setting.plan([_lane("x", _task("t", paths=("/elsewhere",)))], [box]) == []


def test_a_starving_head_holds_one_agent_back() -> None:
    """The agent with most free cores that could do it; lanes that are served later use the others."""
    big = _task("big", _way(cores=4), waited=901.0)
    small = _lane("small", *(_task(f"{n}") for n in range(9)), priority=9)
    fleet = [charge(_offer(name), Resources(cores, 0)) for name, cores in [("a", 3), ("b", 1), ("c", 2)]]
    fleet.append(_offer("too small", cores=3))
    grants = _Setting().plan([_lane("big", big), small], fleet)
    assert "big" not in _who(grants)
    assert set(_where(grants)) == {"a", "c", "too small"}
    patient = replace(big, waited_s=900.0)
    small = _lane("small", *(_task(f"{n}") for n in range(9)))
    assert "b" in _where(_Setting().plan([_lane("big", patient), small], fleet))


@pytest.mark.parametrize("hopeless", [_task("t", _way(cores=5), waited=1e6), _task("t", _way(NVENC), waited=1e6)])
def test_a_hopeless_head_holds_nobody_back(hopeless: Candidate) -> None:
    """However long it waits."""
    assert _who(_Setting().plan([_lane("x", hopeless), _lane("y", _task("small"))], [_offer()])) == ["small"]


def test_a_low_priority_starts_under_a_steady_stream_of_high_ones() -> None:
    """One core, always a fresh job of priority 9 waiting: priority 0 starts within ten ageing times."""
    setting, names = _Setting(), count()
    for now in range(601):
        stream = _lane("stream", _task(f"s{next(names)}", waited=0.5), priority=9)
        lane = _lane("low", _task("low", waited=float(now)), priority=0)
        if _who(setting.plan([stream, lane], [_offer(cores=1)])) == ["low"]:
            assert now == 540
            return
    pytest.fail("it starved")


def test_a_wide_task_starts_under_a_stream_of_narrow_ones() -> None:
    """Two boxes kept full by tasks of up to 40 s that don't end together: after the starvation time one box empties."""
    dice = Random(1)  # noqa: S311 - a seeded run, not a secret
    setting, running = _Setting(rules=Rules(starvation_s=900.0)), list[tuple[int, str]]()
    for now in range(2000):
        running = [(end, agent) for end, agent in running if end > now]
        fleet = [_offer("a"), _offer("b")]
        for _, agent in running:
            fleet = [charge(offer, Resources(1, 0)) if offer.agent_id == agent else offer for offer in fleet]
        stream = _lane("stream", *(_task(f"{now}-{n}", waited=1.0) for n in range(20)), priority=9)
        wide = _lane("wide", _task("wide", _way(cores=4), waited=float(now)), priority=0)
        for grant in setting.plan([stream, wide], fleet):
            if grant.task_id == "wide":
                assert 900 < now <= 941
                return
            running.append((now + dice.randint(1, 40), grant.agent_id))
        assert now > 900 or len(running) == 8
    pytest.fail("it starved")


def test_rules_refuse_times_that_are_none() -> None:
    """Both times must be above 0."""
    with pytest.raises(ValueError, match="above 0"):
        Rules(ageing_s=0.0)
    with pytest.raises(ValueError, match="above 0"):
        Rules(starvation_s=-1.0)


@dataclass(frozen=True)
class _Spec:
    """A lane as data, so that it can be read twice."""

    share: ShareKey
    priority: int
    limits: tuple[str, ...]
    tasks: tuple[Candidate, ...]

    def lane(self, key: str) -> Lane:
        alike = self.tasks[0]
        needs = Requirements(tuple(replace(way, resources=Resources()) for way in alike.requirements.alternatives))
        can = f"{needs.class_key()} {sorted(alike.require.items())} {alike.paths}"
        return Lane(key, key, can, self.share, self.priority, self.limits, alike.waited_s, iter(self.tasks))


@st.composite
def _specs(draw: st.DrawFn) -> list[_Spec]:
    numbers = count()

    def spec() -> _Spec:
        needs = draw(st.lists(st.sampled_from([AAC, NVENC]), min_size=1, max_size=2))
        afters = [draw(st.sampled_from([0.0, 10.0])) for _ in needs]
        require = draw(st.sampled_from([{}, {"zone": "a"}]))
        paths = draw(st.sampled_from([("/media/x",), ("/nas/x",)]))
        return _Spec(
            share=(draw(st.sampled_from("tu")), draw(st.sampled_from("pq"))),
            priority=draw(st.integers(0, 9)),
            limits=tuple(draw(st.sets(st.sampled_from(["g", "h", "unlimited"])))),
            tasks=tuple(
                _task(
                    f"{next(numbers)}",
                    *(
                        Alternative((need,), Resources(*(draw(st.integers(0, 3)) for _ in range(5))), after)
                        for need, after in zip(needs, afters, strict=True)
                    ),
                    waited=draw(st.sampled_from([0.0, 20.0, 1000.0])),
                    require=require,
                    paths=paths,
                    avoid=frozenset(draw(st.sets(st.sampled_from(["a0", "a1"])))),
                )
                for _ in range(draw(st.integers(1, 4)))
            ),
        )

    return [spec() for _ in range(draw(st.integers(0, 5)))]


_gpus = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=2).map(
    lambda amounts: tuple(Gpu(index, *each) for index, each in enumerate(amounts))
)
_fleets = st.lists(
    st.builds(
        _offer,
        cores=st.integers(0, 6),
        memory=st.integers(0, 6),
        scratch=st.integers(0, 6),
        tasks=st.integers(0, 4),
        able=st.sampled_from([AAC, NVENC, AAC | NVENC]),
        labels=st.sampled_from([{}, {"zone": "a"}]),
        roots=st.sampled_from([("/media",), ("/media", "/nas")]),
        gpus=_gpus,
    ),
    max_size=4,
).map(lambda fleet: [replace(offer, agent_id=f"a{number}") for number, offer in enumerate(fleet)])
_room = st.fixed_dictionaries({"g": st.integers(0, 5), "h": st.integers(0, 5)})


def _lanes(specs: list[_Spec]) -> list[Lane]:
    return [spec.lane(f"lane {number}") for number, spec in enumerate(specs)]


@given(_specs(), _fleets, _room, st.integers(1, 9))
def test_plans_overcommit_nothing(specs: list[_Spec], fleet: list[Offer], room: dict[str, int], most: int) -> None:
    """Each grant feasible, open and within what is left of its agent and GPU; limits are kept; lanes go in order."""
    setting = _Setting(room=dict(room), most=most)
    grants = setting.plan(_lanes(specs), fleet)
    tasks = {task.task_id: (task, spec) for spec in specs for task in spec.tasks}
    left = {offer.agent_id: offer for offer in fleet}
    for grant in grants:
        task, spec = tasks[grant.task_id]
        chosen = task.requirements.alternatives[grant.alternative]
        assert infeasible(task, left[grant.agent_id], chosen) == []
        assert chosen.resources == grant.resources
        assert opened_in(task, fleet)[grant.alternative]
        left[grant.agent_id] = charge(left[grant.agent_id], grant.resources, grant.gpu)
        room = {key: least - (key in spec.limits) for key, least in room.items()}
    for offer in left.values():
        assert offer.free_tasks >= 0
        assert min(offer.free.cores, offer.free.memory_bytes, offer.free.scratch_bytes) >= 0
        assert all(gpu.sessions >= 0 and gpu.memory_bytes >= 0 for gpu in offer.gpus)
    assert setting.room == room
    assert all(least >= 0 for least in room.values())
    assert len(grants) <= most
    granted = set(_who(grants))
    assert len(granted) == len(grants)
    for spec in specs:
        taken = [task.task_id in granted for task in spec.tasks]
        assert taken == sorted(taken, reverse=True)


@given(_specs(), _fleets, _fleets, _room)
def test_plans_leave_no_head_that_fits(
    specs: list[_Spec], fleet: list[Offer], away: list[Offer], room: dict[str, int]
) -> None:
    """What stands at the head of a lane at the end fits nowhere any more, unless a limit keeps it: explaining agrees
    with granting."""
    setting = _Setting(room=dict(room), rules=Rules(starvation_s=1e9), absent=tuple(away))
    grants = setting.plan(_lanes(specs), fleet)
    left = {offer.agent_id: offer for offer in fleet}
    for grant in grants:
        left[grant.agent_id] = charge(left[grant.agent_id], grant.resources, grant.gpu)
    granted = set(_who(grants))
    for spec in specs:
        head = next((task for task in spec.tasks if task.task_id not in granted), None)
        if head is not None and all(setting.room.get(key, 1) > 0 for key in spec.limits):
            open_ways = opened_in(head, [*left.values(), *away])
            assert all(verdict(head, offer, open_ways) for offer in left.values())


@given(_specs(), _fleets, _room, st.randoms())
def test_equal_snapshots_give_equal_plans(
    specs: list[_Spec], fleet: list[Offer], room: dict[str, int], dice: Random
) -> None:
    """Neither the order of lanes and offers nor what earlier rounds remember matters."""
    setting = _Setting(room=dict(room))
    first = setting.plan(_lanes(specs), fleet)
    lanes, offers = _lanes(specs), list(fleet)
    dice.shuffle(lanes)
    dice.shuffle(offers)
    assert replace(setting, room=dict(room)).plan(lanes, offers) == first
    assert _Setting(room=dict(room)).plan(_lanes(specs), fleet) == first


def test_tasks_are_read_as_they_are_needed() -> None:
    """A line of a million is not read to grant a few."""
    read = count()

    def tasks() -> Iterator[Candidate]:
        for _ in range(1_000_000):
            yield _task(f"{next(read)}")

    lane = replace(_lane("x"), tasks=tasks())
    assert len(_Setting().plan([lane], [_offer(cores=3)])) == 3
    assert next(read) <= 4
