"""Which task goes to which agent."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from controller.core.matching import (
    Candidate,
    Grant,
    Offer,
    beneath,
    charge,
    choose,
    full,
    infeasible,
    plan,
    verdict,
)
from presets.capabilities import Alternative, Requirements, Resources

MIB = 2**20
AAC = frozenset({"encoder:libfdk_aac", "encoder:aac"})
NVENC = frozenset({"encoder:h264_nvenc"})


def _offer(
    agent_id: str = "a",
    *,
    cores: int = 4,
    memory: int = 4096 * MIB,
    scratch: int = 1024 * MIB,
    tasks: int = 4,
    binaries: tuple[frozenset[str], ...] = (frozenset({"encoder:aac"}),),
    labels: dict[str, str] | None = None,
    roots: tuple[str, ...] = ("/media",),
    failed: dict[str, str] | None = None,
) -> Offer:
    whole = Resources(cores=cores, memory_bytes=memory, scratch_bytes=scratch)
    return Offer(agent_id, f"box-{agent_id}", labels or {}, roots, binaries, failed or {}, whole, whole, tasks)


def _way(
    *needs: frozenset[str], cores: int = 1, memory: int = 256 * MIB, scratch: int = 0, after: float = 0.0
) -> Alternative:
    return Alternative(needs, Resources(cores, memory, scratch), after)


def _task(
    *ways: Alternative,
    task_id: str = "t",
    waited: float = 0.0,
    require: dict[str, str] | None = None,
    paths: tuple[str, ...] = ("/media/a.wav",),
) -> Candidate:
    return Candidate(task_id, Requirements(ways or (_way(AAC),)), require or {}, paths, waited)


def _why(candidate: Candidate, offer: Offer) -> list[str]:
    return infeasible(candidate, offer, candidate.requirements.alternatives[0])


def test_an_agent_that_has_everything_is_feasible() -> None:
    """One of each set of capabilities is enough, in one binary."""
    assert _why(_task(), _offer()) == []


def test_capabilities_are_of_one_binary() -> None:
    """Two binaries that each lack something do not make one that has it all; the better one is told of."""
    task = _task(_way(AAC, frozenset({"filter:ebur128"}), frozenset({"muxer:mp4"})))
    offer = _offer(binaries=(frozenset({"encoder:aac", "filter:ebur128"}), frozenset({"muxer:mp4"})))
    assert _why(task, offer) == ["lacks muxer:mp4"]


def test_words_for_what_is_lacking() -> None:
    """Every lack is told: any of a set, with the failed trial's words, too few cores, too little memory."""
    task = _task(_way(AAC, NVENC, cores=8, memory=8192 * MIB))
    offer = _offer(binaries=(frozenset(),), failed={"encoder:h264_nvenc": "No capable devices found"})
    assert _why(task, offer) == [
        "lacks encoder:aac or encoder:libfdk_aac",
        "lacks encoder:h264_nvenc (trial failed: No capable devices found)",
        "has 4 cores, 8 are needed",
        "has 4096 MiB of memory, 8192 MiB are needed",
    ]


def test_an_agent_without_ffmpeg() -> None:
    """That says it all about capabilities."""
    assert _why(_task(), _offer(binaries=())) == ["has no FFmpeg"]


def test_words_for_labels_and_places() -> None:
    """A label may be missing or other; a path outside every root is named with the roots."""
    task = _task(require={"zone": "a", "disk": "ssd"}, paths=("/media/x", "/nas/in.wav", "/nas/out.wav"))
    assert _why(task, _offer(labels={"zone": "b"}, roots=("/media", "/srv"))) == [
        "label zone is 'b', 'a' is required",
        "has no label disk=ssd",
        "can't reach /nas/in.wav (its media roots: /media, /srv)",
    ]
    assert _why(task, _offer(labels={"zone": "a", "disk": "ssd"}, roots=())) == [
        "can't reach /media/x (its media roots: none)"
    ]


def test_beneath_means_whole_components() -> None:
    """A folder's name that merely begins alike is another folder."""
    assert beneath("/media/a", ["/media"])
    assert beneath("/media", ["/media"])
    assert beneath("/media/a", ["/media/"])
    assert beneath("/anything", ["/"])
    assert not beneath("/media2/a", ["/media"])
    assert not beneath("/medi", ["/media"])
    assert not beneath("/media/a", [])


def test_words_for_room() -> None:
    """Cores, memory, scratch and the number of tasks are each told; an agent with room has no words."""
    busy = replace(_offer(), free=Resources(1, 100 * MIB, 10 * MIB), free_tasks=0)
    assert full(busy, _way(cores=2, memory=256 * MIB, scratch=20 * MIB)) == [
        "runs as many tasks as it may",
        "has 1 of 4 cores free, 2 are needed",
        "has 100 MiB of memory free, 256 MiB are needed",
        "has 10 MiB of scratch free, 20 MiB are needed",
    ]
    assert full(_offer(), _way(cores=4, memory=4096 * MIB, scratch=1024 * MIB)) == []


def test_verdict_prefers_the_nearest_miss() -> None:
    """Of several ways the one that lacks least is told; infeasible comes before full; none lacking is no word."""
    ways = (_way(NVENC, AAC, cores=9), _way(AAC, cores=9))
    assert verdict(_task(*ways), _offer()) == ["has 4 cores, 9 are needed"]
    assert verdict(_task(_way(NVENC), _way(AAC)), _offer()) == []
    busy = replace(_offer(), free_tasks=0)
    assert verdict(_task(), busy) == ["runs as many tasks as it may"]
    assert verdict(_task(_way(AAC, after=30.0), waited=3.0), _offer()) == [
        "this alternative opens 30 s after submission"
    ]


def test_the_agent_with_most_free_cores_is_chosen() -> None:
    """Work spreads; between equals the id decides."""
    offers = [_offer("b", cores=2), _offer("d", cores=8), _offer("c", cores=8), _offer("a", cores=4)]
    assert choose(_task(), offers) == Grant("t", "c", 0, Resources(1, 256 * MIB, 0))


def test_the_first_alternative_wins_wherever_it_fits() -> None:
    """A preferred way on a small agent comes before the second way on a big one."""
    gpu = _offer("gpu", cores=1, binaries=(frozenset({"encoder:h264_nvenc"}),))
    cpu = _offer("cpu", cores=64)
    task = _task(_way(NVENC), _way(AAC))
    assert choose(task, [cpu, gpu]) == Grant("t", "gpu", 0, Resources(1, 256 * MIB, 0))
    assert choose(task, [cpu]) == Grant("t", "cpu", 1, Resources(1, 256 * MIB, 0))


def test_an_alternative_opens_after_its_delay() -> None:
    """Until then the task waits for the preferred way, though another agent is idle."""
    task = _task(_way(NVENC), _way(AAC, after=30.0))
    assert choose(replace(task, waited_s=29.9), [_offer()]) is None
    assert choose(replace(task, waited_s=30.0), [_offer()]) == Grant("t", "a", 1, Resources(1, 256 * MIB, 0))


def test_a_task_that_fits_nowhere_blocks_nobody() -> None:
    """Infeasible and too big ones are passed over, in order."""
    queue = [
        _task(_way(NVENC), task_id="hopeless"),
        _task(_way(AAC, cores=64), task_id="huge"),
        _task(task_id="first"),
        _task(_way(AAC, cores=4), task_id="no room any more"),
        _task(task_id="second"),
    ]
    assert [grant.task_id for grant in plan(queue, [_offer()])] == ["first", "second"]


def test_charging_takes_resources_and_a_place() -> None:
    """What is granted is gone."""
    left = charge(_offer(), Resources(3, 96 * MIB, 24 * MIB))
    assert left.free == Resources(1, 4000 * MIB, 1000 * MIB)
    assert left.free_tasks == 3
    assert left.total == _offer().total


_ways = st.builds(
    _way,
    st.sampled_from([AAC, NVENC]),
    cores=st.integers(1, 6),
    memory=st.integers(1, 6).map(lambda n: n * 512 * MIB),
    scratch=st.integers(0, 4).map(lambda n: n * 256 * MIB),
    after=st.sampled_from([0.0, 10.0]),
)
_queues = st.lists(st.lists(_ways, min_size=1, max_size=3), max_size=12).flatmap(
    lambda queue: st.tuples(
        *(
            st.builds(
                _task,
                *map(st.just, ways),
                task_id=st.just(f"t{number}"),
                waited=st.sampled_from([0.0, 20.0]),
                require=st.sampled_from([{}, {"zone": "a"}]),
                paths=st.sampled_from([("/media/x",), ("/nas/x",)]),
            )
            for number, ways in enumerate(queue)
        )
    )
)
_fleets = st.lists(
    st.builds(
        _offer,
        cores=st.integers(1, 8),
        memory=st.integers(1, 8).map(lambda n: n * 512 * MIB),
        scratch=st.integers(0, 4).map(lambda n: n * 256 * MIB),
        tasks=st.integers(0, 4),
        binaries=st.sampled_from(
            [(), (frozenset({"encoder:aac"}),), (frozenset({"encoder:aac"}), frozenset({"encoder:h264_nvenc"}))]
        ),
        labels=st.sampled_from([{}, {"zone": "a"}]),
        roots=st.sampled_from([("/media",), ("/media", "/nas")]),
    ),
    max_size=4,
).map(lambda fleet: [replace(offer, agent_id=f"a{number}") for number, offer in enumerate(fleet)])


@given(_queues, _fleets)
def test_plans_never_overcommit(queue: tuple[Candidate, ...], fleet: list[Offer]) -> None:
    """Each task once; each grant feasible and open; each agent within its cores, memory, scratch and places."""
    grants = plan(queue, fleet)
    tasks = {candidate.task_id: candidate for candidate in queue}
    assert len({grant.task_id for grant in grants}) == len(grants)
    for offer in fleet:
        mine = [grant for grant in grants if grant.agent_id == offer.agent_id]
        assert len(mine) <= offer.free_tasks
        assert sum(grant.resources.cores for grant in mine) <= offer.total.cores
        assert sum(grant.resources.memory_bytes for grant in mine) <= offer.total.memory_bytes
        assert sum(grant.resources.scratch_bytes for grant in mine) <= offer.total.scratch_bytes
        for grant in mine:
            task = tasks[grant.task_id]
            chosen = task.requirements.alternatives[grant.alternative]
            assert infeasible(task, offer, chosen) == []
            assert chosen.resources == grant.resources
            assert task.waited_s >= chosen.open_after_s


@given(_queues, _fleets, st.randoms())
def test_plans_leave_nothing_that_fits(queue: tuple[Candidate, ...], fleet: list[Offer], dice: Random) -> None:
    """What is not granted fits nowhere any more; the agents' order does not matter; explaining agrees with granting."""
    grants = plan(queue, fleet)
    shuffled = list(fleet)
    dice.shuffle(shuffled)
    assert plan(queue, shuffled) == grants
    left = {offer.agent_id: offer for offer in fleet}
    for grant in grants:
        left[grant.agent_id] = charge(left[grant.agent_id], grant.resources)
    granted = {grant.task_id for grant in grants}
    for candidate in queue:
        if candidate.task_id not in granted:
            assert choose(candidate, list(left.values())) is None
            assert all(verdict(candidate, offer) for offer in left.values())
