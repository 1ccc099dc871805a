"""Shares by weight, of tenants and of their queues."""

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.core.fairness import WHOLE, ShareKey, Shares, Standing, correction
from controller.core.matching import Candidate, Feasibility, Lane, Offer, Rules, charge, plan
from presets.capabilities import Alternative, Requirements, Resources

ONE, TWO = ("t", "one"), ("t", "two")


def test_a_charge_counts_on_both_levels() -> None:
    """By the weight of each; the virtual times follow to where the share stood when it was served."""
    shares = Shares({("t", ""): Standing(weight=2.0), TWO: Standing(weight=4.0)})
    shares.enter({ONE, TWO})
    shares.charge(TWO, 8.0)
    assert shares.rank(ONE) == (4.0, 0.0)
    assert shares.rank(TWO) == (4.0, 2.0)
    shares.charge(TWO, 8.0)
    assert shares.changed()["t", ""] == Standing(2.0, 8.0, 2.0, active=True)
    assert shares.changed()[WHOLE].virtual_time == 4.0


def test_what_was_given_is_left_alone() -> None:
    """Only what differs is told, and the caller's standings are copies apart."""
    keys: tuple[ShareKey, ...] = (WHOLE, ("t", ""), ONE)
    standings = {key: Standing(active=True) for key in keys} | {TWO: Standing(passed=3.0)}
    shares = Shares(standings)
    shares.enter({ONE})
    assert shares.changed() == {}
    shares.charge(ONE, 1.0)
    assert shares.changed() == {key: Standing(passed=1.0, active=True) for key in (("t", ""), ONE)}
    assert standings[ONE].passed == 0.0


def test_who_was_idle_enters_at_the_virtual_time() -> None:
    """No credit for idle time, and no pardon for what was used before it."""
    standings: dict[ShareKey, Standing] = {
        ("t", ""): Standing(passed=100.0, virtual_time=70.0, active=True),
        ("t", "idle"): Standing(passed=5.0),
        ("t", "spender"): Standing(passed=90.0),
        ("t", "waiting"): Standing(passed=5.0, active=True),
    }
    shares = Shares(standings)
    shares.enter({("t", "idle"), ("t", "spender"), ("t", "waiting"), ("t", "new")})
    ranks = {queue: shares.rank(("t", queue))[1] for queue in ("idle", "spender", "waiting", "new")}
    assert ranks == {"idle": 70.0, "spender": 90.0, "waiting": 5.0, "new": 70.0}


def test_a_tenant_is_idle_when_all_its_queues_are() -> None:
    """It then enters again like a queue does."""
    shares = Shares({WHOLE: Standing(virtual_time=9.0), ("t", ""): Standing(active=True), ONE: Standing(active=True)})
    shares.enter({("u", "q")})
    assert not shares.changed()["t", ""].active
    assert not shares.changed()[ONE].active
    shares.enter({ONE})
    assert shares.rank(ONE) == (9.0, 0.0)


def test_who_never_entered_enters_when_asked_about() -> None:
    """A share that was forgotten does not start from nothing before all others."""
    shares = Shares({WHOLE: Standing(virtual_time=9.0), ("t", ""): Standing(virtual_time=4.0)})
    assert shares.rank(ONE) == (0.0, 4.0)
    assert shares.rank(("u", "q")) == (9.0, 0.0)


def test_corrections() -> None:
    """The rest is charged or refunded, and a lease that was handed back costs nothing."""
    assert correction(10.0, 25.0, 3.0) == 5.0
    assert correction(10.0, 0.0, 2.0) == -5.0
    shares = Shares({ONE: Standing(weight=2.0)})
    shares.charge(ONE, 10.0)
    assert shares.rank(ONE)[1] + correction(10.0, 0.0, 2.0) == 0.0


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_weights_are_above_nothing(weight: float) -> None:
    """Anything else is refused, by name."""
    with pytest.raises(ValueError, match="one"):
        Shares({ONE: Standing(weight=weight)})


@given(st.lists(st.tuples(st.sampled_from("tu"), st.sampled_from("pqr"), st.floats(0.01, 50.0)), max_size=60))
def test_virtual_time_never_goes_back(served: list[tuple[str, str, float]]) -> None:
    """However charges fall, passes and virtual times only rise."""
    standings: dict[ShareKey, Standing] = {}
    for tenant, queue, cost in served:
        shares = Shares(standings)
        shares.enter({(tenant, queue)})
        shares.charge((tenant, queue), cost)
        for key, after in shares.changed().items():
            before = standings.get(key, Standing())
            assert after.passed >= before.passed
            assert after.virtual_time >= before.virtual_time
        standings |= shares.changed()


class _World:
    """A virtual clock, one box, and queues that always have work while they are told to; the store's part is played.

    How long a task takes the scheduler learns only at its end; until then it goes by a moving average.
    """

    def __init__(self, weights: dict[ShareKey, float], seconds: dict[ShareKey, float], guess: float) -> None:
        self.seconds = seconds
        self.used = dict.fromkeys(seconds, 0.0)
        self._standings = {key: Standing(weight=weight) for key, weight in weights.items()}
        self._guess = dict.fromkeys(("t/" + key[1] for key in seconds), guess)
        self._running: list[tuple[float, int, ShareKey, float, float]] = []
        self._now = 0.0
        self._numbers = count()
        self._dice = Random(7)  # noqa: S311 - a seeded run, not a secret
        self._known = Feasibility()

    def run(self, until: float, waiting: Iterable[ShareKey]) -> None:
        """Go on until then, these shares having work without end."""
        waiting = list(waiting)
        while self._now < until:
            self._grant(waiting)
            self._now, _, share, charged, took = heappop(self._running)
            self.used[share] += took
            more = correction(charged, took, self._standings[share].weight)
            self._standings[share].passed += more
            tenant = self._standings[share[0], ""]
            tenant.passed += correction(charged, took, tenant.weight)
            name = f"{share[0]}/{share[1]}"
            self._guess[name] += 0.2 * (took - self._guess[name])

    def _grant(self, waiting: list[ShareKey]) -> None:
        whole = Resources(8, 8)
        box = Offer("box", "box", {}, (), (frozenset(),), {}, whole, whole, 8, "r")
        for _ in self._running:
            box = charge(box, Resources(1, 1))
        needs = Requirements((Alternative((), Resources(1, 1)),))
        lanes = [
            Lane(
                f"{share}",
                f"{share[0]}/{share[1]}",
                "any",
                share,
                5,
                (),
                1.0,
                iter([Candidate(f"{share} {n}", needs, {}, (), 1.0) for n in range(9)]),
            )
            for share in waiting
        ]
        shares = Shares(self._standings)
        shares.enter(waiting)
        guess = dict(self._guess)
        grants = plan(
            lanes,
            [box],
            shares=shares,
            room={},
            costs=guess.__getitem__,
            blocked=(),
            rules=Rules(),
            feasibility=self._known,
        )
        self._standings |= shares.changed()
        by_name = {f"{share}": share for share in waiting}
        for grant in grants:
            share = by_name[grant.task_id.rpartition(" ")[0]]
            took = self.seconds[share] * self._dice.uniform(0.5, 1.5)
            ends = self._now + took
            heappush(self._running, (ends, next(self._numbers), share, guess[f"{share[0]}/{share[1]}"], took))


@pytest.mark.parametrize("guess", [0.1, 10.0, 500.0])
@pytest.mark.parametrize(("one_s", "two_s"), [(1.0, 20.0), (20.0, 1.0), (5.0, 5.0)])
def test_queues_converge_to_their_weights(guess: float, one_s: float, two_s: float) -> None:
    """Weights 1 and 3, unequal costs, estimates that start wrong: 25 and 75 % of the core-seconds within 2 points."""
    world = _World({ONE: 1.0, TWO: 3.0}, {ONE: one_s, TWO: two_s}, guess)
    world.run(3_000.0, [ONE, TWO])
    assert world.used[ONE] / sum(world.used.values()) == pytest.approx(0.25, abs=0.02)


def test_coming_back_brings_no_credit() -> None:
    """A queue that was idle for long gets its share from then on, and not what it could have had."""
    world = _World({ONE: 1.0, TWO: 1.0}, {ONE: 2.0, TWO: 2.0}, 2.0)
    world.run(200.0, [ONE, TWO])
    world.run(700.0, [TWO])
    before = dict(world.used)
    world.run(1_300.0, [ONE, TWO])
    gained = {key: world.used[key] - before[key] for key in before}
    assert gained[ONE] / sum(gained.values()) == pytest.approx(0.5, abs=0.02)
