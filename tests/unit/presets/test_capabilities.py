"""What tasks need and what binaries can."""

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from presets.capabilities import (
    SAME_BINARY_S,
    Alternative,
    Binary,
    Requirements,
    Resources,
    binary,
    choose_binary,
    encoder,
    hwaccel,
    missing,
    tried,
)

AAC = Alternative((frozenset({"encoder:aac", "encoder:libfdk_aac"}), frozenset({"filter:ebur128"})))


def _binary(path: str, version: str, *capabilities: str, start_ms: float = 10) -> Binary:
    return Binary(path, version, path, frozenset(capabilities), start_ms)


def test_one_of_each_need_is_enough() -> None:
    """An any-of set is met by any of its members, and every set must be."""
    assert missing(AAC, frozenset({"encoder:libfdk_aac", "filter:ebur128"})) == ()
    assert missing(AAC, frozenset({"encoder:aac"})) == (frozenset({"filter:ebur128"}),)


def test_the_newest_feasible_binary_is_chosen_then_the_quickest() -> None:
    """A newer one that lacks something loses; of the same major version the one that starts faster wins."""
    able = ("encoder:aac", "filter:ebur128")
    old, slow = _binary("a", "5.1.9-0+deb12u1", *able), _binary("b", "9.0.2-static", *able, start_ms=54)
    quick, unable = _binary("c", "9.1", *able, start_ms=10), _binary("d", "10.0", "encoder:aac")
    assert choose_binary([old, slow, quick, unable], AAC) == quick
    assert choose_binary([unable], AAC) is None


def test_versions_of_every_spelling_are_compared() -> None:
    """Releases with and without n, and snapshots, which count as oldest."""
    spelled = ["5.1.9-0+deb12u1", "n7.1", "8", "N-112233-gabcdef"]
    assert [_binary("x", version).major_version for version in spelled] == [5, 7, 8, 0]


@given(
    st.lists(st.frozensets(st.sampled_from(["encoder:a", "encoder:b", "filter:c"]), min_size=1), max_size=4),
    st.integers(1, 64),
    st.integers(0, 1 << 40),
    st.randoms(),
)
def test_a_class_depends_on_neither_order_nor_small_differences(
    needs: list[frozenset[str]], cores: int, scratch: int, order: Random
) -> None:
    """Equal needs in another order, and resources that round to the same powers of two, are one class."""
    shuffled = list(needs)
    order.shuffle(shuffled)
    one = Alternative(tuple(needs), Resources(cores, 1000, scratch))
    other = Alternative(tuple(shuffled), one.resources.rounded_up())
    assert one.class_key() == other.class_key()
    rounded = one.resources.rounded_up()
    assert cores <= rounded.cores < 2 * cores
    assert scratch <= rounded.scratch_bytes <= max(2 * scratch - 1, 0)


def test_requirements_survive_json() -> None:
    """What the store keeps is what was required."""
    required = Requirements((AAC, Alternative((), Resources(4, 1 << 30, 5), open_after_s=30)))
    restored = Requirements.from_json(json.loads(json.dumps(required.to_json())))
    assert restored.class_key() == required.class_key()
    assert restored == required


def test_what_a_trial_proves() -> None:
    """Encoders are tried by their bare names, as they always were; everything else by the capability's."""
    assert tried("h264_nvenc") == encoder("h264_nvenc") == "encoder:h264_nvenc"
    assert tried("hwaccel:cuda") == hwaccel("cuda") == "hwaccel:cuda"


def test_after_a_gpu_failed() -> None:
    """What does without one opens at once, behind the GPUs; the next time it comes before them, and stays there."""
    gpus = tuple(Alternative((), Resources(cores=cores, encoder_sessions=1)) for cores in (2, 1))
    processor = tuple(Alternative((), Resources(cores=cores), open_after_s=30.0) for cores in (4, 1))
    opened = tuple(Alternative((), way.resources) for way in processor)
    first = Requirements((*gpus, *processor)).after_gpu_failure()
    assert first == Requirements((*gpus, *opened))
    second = first.after_gpu_failure()
    assert second == Requirements((*opened, *gpus))
    assert second.after_gpu_failure() == second
    assert Requirements(gpus).after_gpu_failure() == Requirements(gpus)
    assert Requirements(opened).after_gpu_failure() == Requirements(opened)


def test_a_replay_asks_for_the_same_ffmpeg_and_threads() -> None:
    """On that binary first, on any other after a while; a replay of a replay asks for no more than that."""
    ways = tuple(Alternative(AAC.needs, Resources(cores=cores)) for cores in (4, 2, 1))
    again = Requirements(ways).again("abc", 2)
    same, other = again.alternatives
    assert same == Alternative((*AAC.needs, frozenset({binary("abc")})), Resources(cores=2))
    assert other == Alternative(AAC.needs, Resources(cores=2), open_after_s=SAME_BINARY_S)
    assert again.again("abc", 2) == again
    assert again.again("xyz", 2).alternatives[1] == other
    assert len(Requirements(ways).again("abc", 16).alternatives) == 6


def test_a_replay_takes_the_older_ffmpeg_where_that_is_the_one() -> None:
    """Though the newest is otherwise preferred."""
    old = _binary("/old", "5.1", *map("encoder:{}".format, ["aac"]), "filter:ebur128", binary("abc"))
    new = _binary("/new", "9.0", *map("encoder:{}".format, ["aac"]), "filter:ebur128", binary("xyz"))
    same, other = Requirements((AAC,)).again("abc", 1).alternatives
    assert choose_binary([old, new], same) is old
    assert choose_binary([old, new], other) is new
