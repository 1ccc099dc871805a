"""What the agent holds and owes, whatever comes twice, late or not at all."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.core.ledger import LOG_BYTES, Effect, Ledger, Phase

STREAMS = ("agent", "ffmpeg")


def _ledger(*attempts: str) -> Ledger[str, str, str]:
    ledger: Ledger[str, str, str] = Ledger()
    for attempt in attempts:
        ledger.lease(attempt)
    return ledger


def _log(ledger: Ledger[str, str, str], attempt: str, stream: str = "ffmpeg", size: int = 1) -> str | None:
    sequence = ledger.log_sequence(attempt, stream, size)
    if sequence is None:
        return None
    chunk = f"{attempt}/{stream}/{sequence}"
    ledger.owe_log(attempt, stream, sequence, size, chunk)
    return chunk


def test_a_lease_starts_once() -> None:
    """The same lease again has no effect, in every phase."""
    ledger = _ledger()
    assert ledger.lease("a") is Effect.START
    for phase in Phase:
        held = ledger.get("a")
        assert held is not None
        held.phase = phase
        assert ledger.lease("a") is Effect.NOTHING
    assert len(ledger) == 1


def test_an_attempt_ends_once() -> None:
    """What comes late for an attempt that has ended does nothing; on a new session it may be granted anew."""
    ledger = _ledger("a")
    ledger.owe_end("a", "end")
    ledger.acknowledge_end("a")
    assert ledger.lease("a") is Effect.NOTHING
    assert ledger.stop("a") is Effect.NOTHING
    ledger.begin_session()
    assert ledger.stop("a") is Effect.REPORT_STOPPED
    assert ledger.lease("a") is Effect.START


def test_an_ended_attempt_is_begun_again_where_only_its_publication_is_to_be_finished() -> None:
    """Its end came while nobody held it and was not counted; ignored, the job would be published for ever."""
    ledger = _ledger("a")
    ledger.owe_end("a", "end")
    ledger.acknowledge_end("a")
    assert ledger.lease("a", to_publish=True) is Effect.START
    assert ledger.lease("a", to_publish=True) is Effect.NOTHING


@pytest.mark.parametrize(
    ("phase", "effect"),
    [
        (Phase.ACCEPTED, Effect.STOP),
        (Phase.RUNNING, Effect.STOP),
        (Phase.STAGED, Effect.STOP),
        (Phase.PUBLISHING, Effect.NOTHING),
        (Phase.ENDED, Effect.NOTHING),
    ],
)
def test_stops_by_phase(phase: Phase, effect: Effect) -> None:
    """Until publication begins an attempt can be stopped; then it can't."""
    ledger = _ledger("a")
    held = ledger.get("a")
    assert held is not None
    held.phase = phase
    assert ledger.stop("a") is effect


def test_a_stop_of_the_unknown_is_answered() -> None:
    """The controller waits for an end, so one is reported."""
    assert _ledger().stop("a") is Effect.REPORT_STOPPED


@pytest.mark.parametrize("phase", Phase)
def test_publishing_needs_staged_outputs(phase: Phase) -> None:
    """Permission that comes twice, late or for what is not staged has no effect."""
    ledger = _ledger("a")
    held = ledger.get("a")
    assert held is not None
    held.phase = phase
    assert (ledger.publish("a") is Effect.PUBLISH) == (phase is Phase.STAGED)
    assert ledger.publish("a") is Effect.NOTHING
    assert ledger.publish("unknown") is Effect.NOTHING


def test_owed_in_the_order_in_which_it_must_be_said() -> None:
    """Logs as they were written, then the stage report or the end."""
    ledger = _ledger("a", "b")
    said = [_log(ledger, "a", "agent"), _log(ledger, "a", "ffmpeg"), _log(ledger, "a", "agent")]
    ledger.owe_stage("a", "staged a")
    ledger.owe_end("b", "ended b")
    assert list(ledger.owed()) == [*said, "staged a", "ended b"]
    ledger.owe_end("a", "ended a")
    assert list(ledger.owed()) == [*said, "ended a", "ended b"]


def test_acknowledgements_cover_all_before_them_of_one_stream() -> None:
    """Another stream and later chunks stay owed."""
    ledger = _ledger("a")
    for _ in range(3):
        _log(ledger, "a", "agent")
        _log(ledger, "a", "ffmpeg")
    ledger.acknowledge_log("a", "ffmpeg", 2)
    assert list(ledger.owed()) == ["a/agent/1", "a/agent/2", "a/agent/3", "a/ffmpeg/3"]


def test_an_acknowledged_end_is_forgotten() -> None:
    """Before the end there is nothing to acknowledge; afterwards nothing is held."""
    ledger = _ledger("a")
    ledger.acknowledge_end("a")
    assert len(ledger) == 1
    ledger.owe_end("a", "ended a")
    ledger.acknowledge_end("a")
    ledger.acknowledge_end("a")
    assert len(ledger) == 0
    assert list(ledger.owed()) == []


def test_unacknowledged_log_is_bounded() -> None:
    """Beyond the bound chunks are dropped without a hole in the numbers; an acknowledgement makes room."""
    ledger = _ledger("a", "b")
    assert _log(ledger, "a", size=LOG_BYTES - 1) == "a/ffmpeg/1"
    assert _log(ledger, "a", size=2) is None
    assert _log(ledger, "b", size=2) == "b/ffmpeg/1"
    assert _log(ledger, "a", size=1) == "a/ffmpeg/2"
    ledger.acknowledge_log("a", "ffmpeg", 1)
    assert _log(ledger, "a", size=LOG_BYTES - 1) == "a/ffmpeg/3"


@dataclass
class _Truth:
    """What one attempt did, told apart from the ledger."""

    phase: Phase = Phase.ACCEPTED
    written: dict[str, int] = field(default_factory=dict)


class LedgerMachine(RuleBasedStateMachine):
    """A controller that repeats itself and acknowledges late over a link that breaks, and attempts that go on.

    `_wire` holds what was said on this session and not read yet; a break loses it. The controller stores what it
    reads and may acknowledge it at any time later, also to a session after the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ledger: Ledger[tuple[str, str, int], str, str] = Ledger()
        self._held: dict[str, _Truth] = {}
        self._wire: list[tuple[str, str, int] | str] = []
        self._stored: set[tuple[str, str, int]] = set()
        self._all: list[tuple[str, str, int]] = []
        self._lives = 0
        self._starts: dict[str, int] = {}
        self._publishes: dict[str, int] = {}
        self._ends_stored: set[str] = set()

    def _live(self, *phases: Phase) -> list[str]:
        return [one for one, truth in self._held.items() if truth.phase in phases]

    @rule()
    def lease_a_new_attempt(self) -> None:
        self._lives += 1
        attempt = f"t.{self._lives}"
        assert self._ledger.lease(attempt) is Effect.START
        self._held[attempt] = _Truth()
        self._starts[attempt] = 1

    @precondition(lambda self: self._held)
    @rule(data=st.data())
    def lease_again(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(sorted(self._held)))
        assert self._ledger.lease(attempt) is Effect.NOTHING

    @precondition(lambda self: self._live(Phase.ACCEPTED, Phase.STAGED, Phase.PUBLISHING))
    @rule(data=st.data(), stream=st.sampled_from(STREAMS))
    def write_log(self, data: st.DataObject, stream: str) -> None:
        attempt = data.draw(st.sampled_from(self._live(Phase.ACCEPTED, Phase.STAGED, Phase.PUBLISHING)))
        sequence = self._ledger.log_sequence(attempt, stream, 10)
        truth = self._held[attempt]
        truth.written[stream] = truth.written.get(stream, 0) + 1
        assert sequence == truth.written[stream]
        chunk = (attempt, stream, sequence)
        self._ledger.owe_log(attempt, stream, sequence, 10, chunk)
        self._wire.append(chunk)
        self._all.append(chunk)

    @precondition(lambda self: self._live(Phase.ACCEPTED))
    @rule(data=st.data())
    def stage(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self._live(Phase.ACCEPTED)))
        self._ledger.owe_stage(attempt, f"staged {attempt}")
        self._held[attempt].phase = Phase.STAGED
        self._wire.append(f"staged {attempt}")

    @precondition(lambda self: self._held)
    @rule(data=st.data())
    def permit_to_publish(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(sorted(self._held)))
        truth = self._held[attempt]
        expected = Effect.PUBLISH if truth.phase is Phase.STAGED else Effect.NOTHING
        assert self._ledger.publish(attempt) is expected
        if expected is Effect.PUBLISH:
            truth.phase = Phase.PUBLISHING
            self._publishes[attempt] = self._publishes.get(attempt, 0) + 1

    @precondition(lambda self: self._live(Phase.ACCEPTED, Phase.STAGED, Phase.PUBLISHING))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self._live(Phase.ACCEPTED, Phase.STAGED, Phase.PUBLISHING)))
        self._ledger.owe_end(attempt, f"ended {attempt}")
        self._held[attempt].phase = Phase.ENDED
        self._wire.append(f"ended {attempt}")

    @rule(most=st.integers(1, 6))
    def controller_reads(self, most: int) -> None:
        said, self._wire = self._wire[:most], self._wire[most:]
        for message in said:
            if isinstance(message, tuple):
                self._stored.add(message)
                self._check_no_gap(message)
            elif message.startswith("ended "):
                attempt = message.removeprefix("ended ")
                self._ends_stored.add(attempt)
                missing = [chunk for chunk in self._all if chunk[0] == attempt and chunk not in self._stored]
                assert not missing, "an end was told before the log that came before it"

    def _check_no_gap(self, chunk: tuple[str, str, int]) -> None:
        attempt, stream, sequence = chunk
        assert all((attempt, stream, number) in self._stored for number in range(1, sequence))

    @precondition(lambda self: self._stored)
    @rule(data=st.data())
    def acknowledge_log(self, data: st.DataObject) -> None:
        attempt, stream, sequence = data.draw(st.sampled_from(sorted(self._stored)))
        self._ledger.acknowledge_log(attempt, stream, sequence)

    @precondition(lambda self: self._ends_stored)
    @rule(data=st.data())
    def acknowledge_end(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(sorted(self._ends_stored)))
        self._ledger.acknowledge_end(attempt)
        self._held.pop(attempt, None)

    @rule()
    def the_link_breaks(self) -> None:
        self._wire = list(self._ledger.owed())

    @invariant()
    def held_is_what_was_leased_and_not_acknowledged(self) -> None:
        assert {one.attempt_id: one.phase for one in self._ledger} == {
            attempt: truth.phase for attempt, truth in self._held.items()
        }

    @invariant()
    def nothing_unstored_is_forgotten(self) -> None:
        owed = set(self._ledger.owed())
        assert {chunk for chunk in self._all if chunk not in self._stored} <= owed
        for attempt, truth in self._held.items():
            assert (f"staged {attempt}" in owed) == (truth.phase is Phase.STAGED)
            assert (f"ended {attempt}" in owed) == (truth.phase is Phase.ENDED)

    @invariant()
    def nothing_happens_twice(self) -> None:
        assert all(count == 1 for count in (*self._starts.values(), *self._publishes.values()))


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase
