"""Each operation through the real FFmpeg: what it does to samples, measured without our own parsers."""

from pathlib import Path

import pytest

from presets.capabilities import Binary
from presets.problems import MediaFailure
from presets.reasons import Reason
from tests.fakes.chains import process
from tests.fakes.synth import synthesise


@pytest.fixture(scope="session")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of 997 Hz at -21 dBFS RMS."""
    return synthesise("tone", tmp_path_factory.mktemp("tone"))


def test_fades_begin_and_end_in_silence_and_leave_the_middle(tone: Path, binary: Binary, tmp_path: Path) -> None:
    """One second in, two out, counted from the end that was measured."""
    heard = process([{"op": "fade", "in_s": 1, "out_s": 2, "curve": "linear"}], tone, binary, tmp_path / "w")
    middle = heard.rms_db(1.5, 2.5)
    assert heard.rms_db(0, 0.01) < middle - 35
    assert heard.rms_db(0.49, 0.51) == pytest.approx(middle - 6, abs=0.3)
    assert heard.rms_db(3.99, 4.01) == pytest.approx(middle - 6, abs=0.3)
    assert heard.rms_db(4.99, 5) < middle - 35
    assert middle == pytest.approx(process([], tone, binary, tmp_path / "dry").rms_db(1.5, 2.5), abs=0.01)


def test_fades_longer_than_the_signal_are_shortened_and_said_to_be(tone: Path, binary: Binary, tmp_path: Path) -> None:
    """Ten seconds in and ten out of five seconds of tone meet in the middle."""
    heard = process([{"op": "fade", "in_s": 10, "out_s": 10, "curve": "linear"}], tone, binary, tmp_path / "w")
    assert heard.rms_db(1.24, 1.26) == pytest.approx(heard.rms_db(3.74, 3.76), abs=0.3)
    assert any(decision.subject == "out: fade" for decision in heard.done.plan.decisions)


def test_a_part_is_kept_to_the_sample(tone: Path, binary: Binary, tmp_path: Path) -> None:
    """From 1.25 to 3 seconds: those samples and no other."""
    heard = process([{"op": "trim", "start_s": 1.25, "end_s": 3}], tone, binary, tmp_path / "w")
    whole = process([], tone, binary, tmp_path / "dry")
    assert heard.channels[0] == whole.channels[0][60_000:144_000]


def test_a_part_behind_the_end_is_refused(tone: Path, binary: Binary, tmp_path: Path) -> None:
    """Nothing lies 9 seconds into 5 seconds of tone."""
    with pytest.raises(MediaFailure, match=r"begins at 9 s") as caught:
        process([{"op": "trim", "start_s": 9}], tone, binary, tmp_path / "w")
    assert caught.value.reason is Reason.UNSUPPORTED_COMBINATION
