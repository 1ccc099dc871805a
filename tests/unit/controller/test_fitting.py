"""Whether an agent has what a task asks, and room for it, in words."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from controller.core.fitting import (
    Candidate,
    Gpu,
    Offer,
    beneath,
    charge,
    choose_gpu,
    fits,
    full,
    infeasible,
    never,
    opened_in,
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


def _verdict(candidate: Candidate, offer: Offer, *others: Offer, **apart: bool) -> list[str]:
    """In a fleet of these agents."""
    return verdict(candidate, offer, opened_in(candidate, [offer, *others]), **apart)


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


def test_words_for_stores() -> None:
    """A store that the agent does not have is named; of one that it has in part, what it can't reach."""
    task = _task(paths=("/media/x", "archive://takes/in.wav"))
    assert _why(task, _offer(roots=("/media", "archive://takes/", "s3://"))) == []
    assert _why(task, _offer(roots=("/media", "s3://"))) == ["can't reach the store 'archive' (its stores: s3://)"]
    assert _why(task, _offer(roots=("/media",))) == ["can't reach the store 'archive' (its stores: none)"]
    assert _why(task, _offer(roots=("/media", "archive://shows/"))) == [
        "can't reach archive://takes/in.wav (its stores: archive://shows/)"
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
    assert _verdict(_task(*ways), _offer()) == ["has 4 cores, 9 are needed"]
    assert _verdict(_task(_way(NVENC), _way(AAC)), _offer()) == []
    busy = replace(_offer(), free_tasks=0)
    assert _verdict(_task(), busy) == ["runs as many tasks as it may"]


def test_an_alternative_that_is_not_open_says_so() -> None:
    """As long as some agent, however busy, could do it by one that opens before; alternatives that open together don't
    wait for one another.
    """
    task = _task(_way(NVENC), _way(AAC, cores=9, after=30.0), _way(AAC, after=30.0), waited=3.0)
    able = _offer("gpu", binaries=(NVENC,))
    closed = ["may take it from 30 s after submission on, if none preferred has by then"]
    assert _verdict(task, _offer()) == []
    assert _verdict(task, _offer(), replace(able, free=Resources(0), free_tasks=0)) == closed
    assert _verdict(task, _offer(), replace(able, media_roots=("/nas",))) == []
    assert _verdict(replace(task, waited_s=30.0), _offer(), able) == []


def test_never_looks_at_every_way() -> None:
    """A first way that an agent can't go is no word against it where it can go the second; else the nearest is told."""
    assert never(_task(_way(AAC, cores=8), _way(AAC, cores=2)), _offer()) == []
    assert never(_task(_way(NVENC, AAC, cores=9), _way(AAC, cores=9)), _offer()) == ["has 4 cores, 9 are needed"]


def test_charging_takes_resources_and_a_place() -> None:
    """What is granted is gone."""
    left = charge(_offer(), Resources(3, 96 * MIB, 24 * MIB))
    assert left.free == Resources(1, 4000 * MIB, 1000 * MIB)
    assert left.free_tasks == 3
    assert left.total == _offer().total


def test_scratch_and_gpu_are_charged_like_the_rest() -> None:
    """Sessions and memory come off the one GPU that was chosen."""
    offer = replace(_offer(), gpus=(Gpu(0, 3, 900), Gpu(1, 2, 800)))
    left = charge(offer, Resources(1, 0, 24 * MIB, encoder_sessions=2, gpu_memory_bytes=500), 0)
    assert left.free.scratch_bytes == 1000 * MIB
    assert left.gpus == (Gpu(0, 1, 400), Gpu(1, 2, 800))


def test_one_gpu_must_have_it_all() -> None:
    """Sessions of one and memory of another don't add up; the words say what is asked of one."""
    way = Alternative((AAC,), Resources(1, 0, 0, encoder_sessions=2, gpu_memory_bytes=512 * MIB))
    split = replace(_offer(), gpus=(Gpu(0, 1, 1024 * MIB), Gpu(1, 8, 256 * MIB)))
    assert choose_gpu(split, way.resources) is None
    assert full(split, way) == ["has no GPU with 2 encoder sessions and 512 MiB of memory free"]
    assert infeasible(_task(way), split, way) == []
    known = replace(split, gpus=(Gpu(0, 1, 1024 * MIB, 1, 2048 * MIB), Gpu(1, 8, 256 * MIB, 8, 256 * MIB)))
    assert infeasible(_task(way), known, way) == ["has no GPU with 2 encoder sessions and 512 MiB of memory"]
    assert infeasible(_task(way), _offer(), way) == ["has no GPU"]


def test_the_gpu_with_most_sessions_is_chosen() -> None:
    """Then the one with most memory, then the first; no GPU where none is asked for."""
    asked = Resources(encoder_sessions=1)
    gpus = (Gpu(0, 1, 900), Gpu(1, 3, 100), Gpu(3, 3, 200), Gpu(2, 3, 200))
    assert choose_gpu(replace(_offer(), gpus=gpus), asked) == 2
    assert choose_gpu(replace(_offer(), gpus=gpus), Resources()) is None


def test_no_task_starts_without_a_core_free() -> None:
    """Not even one that asks for none."""
    busy = replace(_offer(), free=replace(_offer().free, cores=0))
    assert full(busy, _way(cores=0)) == ["has 0 of 4 cores free, 1 are needed"]


def test_verdict_knows_what_is_kept_apart() -> None:
    """A blocklisted agent and one that declined say so, unless it could not do the task anyway."""
    assert _verdict(_task(), _offer(), blocked=True) == ["is blocklisted for such tasks: different ones failed there"]
    assert _verdict(_task(), _offer(), shunned=True) == ["declined such a task a moment ago"]
    assert _verdict(_task(_way(NVENC)), _offer(), blocked=True) == ["lacks encoder:h264_nvenc"]
    nothing = replace(_task(), requirements=Requirements(()))
    assert _verdict(nothing, _offer()) == ["the task names no way to do it"]


_amounts = st.integers(0, 3)
_resources = st.builds(Resources, _amounts, _amounts, _amounts, _amounts, _amounts)


@given(_resources, _resources, st.lists(st.tuples(_amounts, _amounts), max_size=2), st.integers(0, 1))
def test_the_quick_look_agrees_with_the_words(
    asked: Resources, free: Resources, gpus: list[tuple[int, int]], places: int
) -> None:
    """An agent fits exactly where `full` says nothing."""
    cards = tuple(Gpu(index, *amounts) for index, amounts in enumerate(gpus))
    offer = replace(_offer(), free=free, free_tasks=places, gpus=cards)
    assert fits(offer, asked) == (full(offer, Alternative((), asked)) == [])
