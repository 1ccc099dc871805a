"""`mediactl queue` against a controller with invented answers."""

import json

import pytest

from ctl.queue import _class_words
from tests.fakes.controller import FakeController
from tests.unit.ctl.conftest import Mediactl


@pytest.fixture
def busy(fake: FakeController) -> FakeController:
    """Two queues, two limits, one running task, one blocked pair."""
    queue = fake.queue.queues.add(tenant="default", name="default", weight=1, cores=6)
    queue.depth.update({"PENDING": 12_000, "BLOCKED": 4, "RUNNING": 3, "HELD": 0})
    queue.oldest_wait.FromSeconds(372)
    fake.queue.queues.add(tenant="default", name="news", weight=2.5)
    fake.queue.limits.add(key="global", maximum=64, running={"global": 3})
    fake.queue.limits.add(key="label:customer", maximum=2, running={"b": 1, "a": 2, "c": 0})
    task = fake.queue.running.add(
        job_id="j1", agent_name="box", queue="news", preset="convert_v1", state="running", cores=2, progress=0.42
    )
    task.lease_time.GetCurrentTime()
    fake.queue.blocks.add(
        agent_id="g2",
        class_key='[[["encoder:aac","encoder:libfdk_aac"],["filter:loudnorm"]],[2,536870912,0,0,0]]',
        task_ids=["t1", "t2"],
    )
    return fake


def rows(text: str) -> list[list[str]]:
    """Cells of the lines of tables."""
    return [[cell for cell in line.split("  ") if cell] for line in text.splitlines()]


def test_overview(mediactl: Mediactl, busy: FakeController) -> None:
    """Depth by state, oldest wait, weights, limits, what runs where, and who is left out."""
    ended = mediactl("queue")
    assert (ended.code, ended.err) == (0, "")
    lines = rows(ended.out)
    assert [cell.strip() for cell in lines[0]] == [
        *("QUEUE", "WEIGHT", "PENDING", "BLOCKED", "RUNNING", "OLDEST WAIT", "CORES")
    ]
    assert [cell.strip() for cell in lines[1]] == ["default", "1", "12000", "4", "3", "6:12", "6"]
    assert [cell.strip() for cell in lines[2]] == ["news", "2.5", "0", "0", "0", "0"]
    for text in ("label:customer  a: 2, b: 1  2", "j1   running  42%", "2 cores  t1, t2"):
        assert text in ended.out


def test_overview_as_data(mediactl: Mediactl, busy: FakeController) -> None:
    """The API's answer, wherever the option stands."""
    answer = mediactl("queue", "-o", "json").json
    assert answer["queues"][0]["depth"]["PENDING"] == "12000"
    assert answer["queues"][0]["oldestWait"] == "372s"
    assert answer == mediactl("-o", "json", "queue").json


def test_an_empty_queue_is_a_remark(mediactl: Mediactl, fake: FakeController) -> None:
    """Nothing on stdout."""
    ended = mediactl("queue")
    assert (ended.code, ended.out, ended.err) == (0, "", "nothing waits and nothing runs\n")


def test_tenants_are_told_apart(mediactl: Mediactl, fake: FakeController) -> None:
    """Only where there are any."""
    fake.queue.queues.add(tenant="acme", name="default", weight=1)
    assert mediactl("queue").out.startswith("TENANT")


def test_set(mediactl: Mediactl, fake: FakeController) -> None:
    """The weight reaches the controller and is printed."""
    assert rows(mediactl("queue", "set", "news", "--weight", "2.5").out)[1] == ["news", " 2.5"]
    assert mediactl("queue", "set", "news", "--weight", "3", "-o", "json").json["weight"] == 3
    assert fake.named("SetQueue")[0].weight == 2.5
    for weight in ("0", "-1", "1001", "nan", "x"):
        assert mediactl("queue", "set", "news", "--weight", weight).code == 2
    assert mediactl("queue", "set", "news").code == 2
    assert len(fake.named("SetQueue")) == 2


def test_limit(mediactl: Mediactl, fake: FakeController) -> None:
    """A number sets it, 0 too; none removes it."""
    assert rows(mediactl("queue", "limit", "label:customer", "2").out)[1] == ["label:customer", "2"]
    assert mediactl("queue", "limit", "global", "0", "-o", "json").json["maximum"] == 0
    removed = mediactl("queue", "limit", "global", "none")
    assert (removed.code, removed.out, removed.err) == (0, "", "global has no limit\n")
    assert mediactl("queue", "limit", "global", "none", "-o", "json").json == {}
    assert [one.HasField("maximum") for one in fake.named("SetLimit")] == [True, True, False, False]
    for maximum in ("x", "1.5", "99999999999", "None"):
        assert mediactl("queue", "limit", "global", maximum).code == 2


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (json.dumps([[["encoder:aac"]], [1, 1, 0]]), "encoder:aac; 1 core"),
        (json.dumps([[], [4, 1, 0]]), "4 cores"),
        ("something newer", "something newer"),
        ("{}", "{}"),
        ("[1,2]", "[1,2]"),
    ],
)
def test_classes_in_words(key: str, words: str) -> None:
    """What it needs and how many cores; what reads otherwise than expected is shown as it is."""
    assert _class_words(key) == words
