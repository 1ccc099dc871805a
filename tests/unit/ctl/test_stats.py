"""`mediactl stats` against a controller with invented figures."""

from tests.fakes.controller import FakeController
from tests.unit.ctl.conftest import Mediactl


def test_figures_by_preset_and_by_operation(mediactl: Mediactl, fake: FakeController) -> None:
    """Shares of what failed, median and 95 %, speed and CPU by media; what is not known is left empty."""
    figures = fake.statistics.presets.add(name="dialogue_clean_v1", attempts=5, cpu_seconds=30, media_seconds=600)
    figures.jobs.update({"COMPLETED": 3, "DEAD": 1})
    figures.failed_attempts.update({"STALLED": 1, "FFMPEG_FAILED": 2})
    figures.real_time_factor = 48.5
    figures.queue_wait.median.FromMilliseconds(200)
    figures.queue_wait.p95.FromSeconds(75)
    fake.statistics.operations.add(name="loudness", attempts=1).jobs.update({"CANCELLED": 1})
    shown = mediactl("stats")
    assert shown.code == 0
    first, second = shown.out.strip().split("\n\n")
    waits = ["0.2", "s", "/", "1:15"]
    row = first.splitlines()[1]
    assert row.split()[:-4] == ["dialogue_clean_v1", "4", "1", "(25%)", "5", "3", "(60%)", *waits, "48.5x", "0.050"]
    assert row.endswith("FFMPEG_FAILED 2, STALLED 1")
    assert second.splitlines()[1].split() == ["loudness", "1", "0", "1", "0"]


def test_what_is_asked_for_is_told(mediactl: Mediactl, fake: FakeController) -> None:
    """The window, the preset and the queue; as data the answer of the API."""
    asked = mediactl("stats", "--since", "7d", "--preset", "mono", "--queue", "q", "-o", "json")
    assert (asked.code, asked.json) == (0, {"presets": [], "operations": []})
    request = fake.named("GetStatistics")[0]
    assert (request.window.seconds, request.preset, request.queue) == (7 * 86400, "mono", "q")


def test_nothing_ended(mediactl: Mediactl, fake: FakeController) -> None:
    """A remark, and no empty table."""
    shown = mediactl("stats")
    assert (shown.code, shown.out.strip()) == (0, "")
    assert "no job ended since" in shown.err
    assert mediactl("stats", "--since", "soon").code == 2
