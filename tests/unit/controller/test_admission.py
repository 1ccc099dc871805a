"""From what a caller asked to what is stored."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from controller.admission import MOST_JOBS, admit, digest
from controller.store.tables import JobId
from mediactl.v1 import job_pb2, job_service_pb2
from presets.capabilities import Requirements
from presets.catalog import Catalog
from presets.intent import Intent
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

CATALOG = Catalog.shipped()
NOW_US = 1_700_000_000_000_000
"""2023-11-14T22:13:20Z"""


def _spec(**changes: object) -> job_pb2.JobSpec:
    document: dict[str, object] = {
        "inputs": [{"uri": "file:///media/talk.wav"}],
        "preset": "loudness_podcast",
        "outputs": [{"uri": "file:///media/out/"}],
    }
    return json_format.ParseDict({**document, **changes}, job_pb2.JobSpec())


def _problems(
    *specs: job_pb2.JobSpec,
    roots: Sequence[Sequence[str]] = (),
    after: Mapping[str, JobId | Problem] | None = None,
) -> list[tuple[Reason, str]]:
    with pytest.raises(InvalidRequest) as caught:
        admit(CATALOG, specs, roots=roots, now_us=NOW_US, after=dict(after or {}))
    return [(problem.reason, problem.field) for problem in caught.value.problems]


def test_a_job_is_resolved_and_defaults_are_filled_in() -> None:
    """The newest version is pinned, names are made, and what the caller left open has its default."""
    [new] = admit(CATALOG, [_spec(labels={"show": "x"}, require={"zone": "a"})], roots=[], now_us=NOW_US)
    assert (new.kind, new.task_kind) == ("media", "transform")
    assert (new.queue, new.priority, new.max_attempts, new.verbose) == ("default", 5, 3, False)
    assert new.preset == "loudness_podcast_v1"
    assert new.preset_digest == CATALOG.preset("loudness_podcast_v1").digest
    assert (new.labels, json.loads(new.require)) == ({"show": "x"}, {"zone": "a"})
    assert json.loads(new.paths) == ["/media/talk.wav", "/media/out/talk.aac_192.m4a"]
    intent = Intent.from_json(json.loads(new.intent), new.texts)
    assert intent.parameters["target_lufs"] == -16
    needs = Requirements.from_json(json.loads(new.requirements))
    assert needs.class_key() == new.class_key
    assert frozenset({"encoder:aac", "encoder:libfdk_aac"}) in needs.alternatives[0].needs


def test_zero_is_a_priority() -> None:
    """What was set stays, 0 included; unset is the default."""
    [new] = admit(CATALOG, [_spec(priority=0, max_attempts=1, queue="night")], roots=[], now_us=NOW_US)
    assert (new.priority, new.max_attempts, new.queue) == (0, 1, "night")


def test_all_problems_of_all_jobs_at_once() -> None:
    """Each problem has the path of its field in the request; one bad job refuses all."""
    found = _problems(
        _spec(priority=10, max_attempts=0, params={"target_lufs": 3, "tempo": 2}),
        _spec(outputs=[{"uri": "file:///media/fine/"}]),
        _spec(preset="nothing", inputs=[{"uri": "C:/a.wav"}], outputs=[]),
        _spec(
            inputs=[{"role": "music", "uri": "file:///media/a.wav"}], outputs=[{"profile": "x", "uri": "file:///o/"}]
        ),
    )
    assert set(found) == {
        (Reason.INVALID_ARGUMENT, "jobs[0].priority"),
        (Reason.INVALID_ARGUMENT, "jobs[0].max_attempts"),
        (Reason.PARAMETER_OUT_OF_RANGE, "jobs[0].params.target_lufs"),
        (Reason.PARAMETER_UNKNOWN, "jobs[0].params.tempo"),
        (Reason.PRESET_NOT_FOUND, "jobs[2].preset"),
        (Reason.INPUT_UNSUPPORTED_SCHEME, "jobs[2].inputs[0].uri"),
        (Reason.INVALID_ARGUMENT, "jobs[2].outputs"),
        (Reason.ROLE_UNKNOWN, "jobs[3].inputs[0].role"),
        (Reason.ROLE_MISSING, "jobs[3].inputs"),
        (Reason.PROFILE_NOT_FOUND, "jobs[3].outputs[0].profile"),
    }
    assert len(found) == len(set(found))


def test_a_request_has_jobs_and_not_too_many() -> None:
    """None at all and more than the limit are refused."""
    assert _problems() == [(Reason.INVALID_ARGUMENT, "jobs")]
    assert _problems(*[_spec()] * (MOST_JOBS + 1)) == [(Reason.INVALID_ARGUMENT, "jobs")]


def test_jobs_of_a_request_must_not_write_one_file() -> None:
    """The second job is told which one writes there too; plans write nothing and may."""
    first, second = _spec(), _spec(inputs=[{"uri": "file:///other/talk.mp3"}])
    with pytest.raises(InvalidRequest, match=r"jobs\[0\] writes file:///media/out/talk\.aac_192\.m4a too") as caught:
        admit(CATALOG, [first, second], roots=[], now_us=NOW_US)
    assert [(p.reason, p.field) for p in caught.value.problems] == [(Reason.OUTPUT_COLLISION, "jobs[1].outputs[0].uri")]
    assert len(admit(CATALOG, [first, second], roots=[], now_us=NOW_US, kind="plan", field="job.")) == 2


def test_outputs_of_one_job_collide_with_its_own_files() -> None:
    """An output that is the input, or another output, is refused within one job."""
    same = "file:///media/talk.wav"
    assert _problems(_spec(outputs=[{"uri": same}])) == [(Reason.OUTPUT_COLLISION, "jobs[0].outputs[0].uri")]
    twice = [{"uri": "file:///media/o.m4a"}, {"uri": "file:///media/./o.m4a"}]
    assert _problems(_spec(outputs=twice)) == [(Reason.OUTPUT_COLLISION, "jobs[0].outputs[1].uri")]


def test_files_that_no_agent_reaches_are_refused() -> None:
    """Each path must lie in the roots of some agent; the message names all roots."""
    spec = _spec(inputs=[{"uri": "file:///nas/talk.wav"}])
    with pytest.raises(InvalidRequest, match="their media roots are /media, /srv") as caught:
        admit(CATALOG, [spec], roots=[("/media",), ("/srv", "/media")], now_us=NOW_US)
    assert [(p.reason, p.field) for p in caught.value.problems] == [(Reason.NO_CAPABLE_AGENT, "jobs[0].inputs[0].uri")]
    assert _problems(spec, roots=[()]) == [
        (Reason.NO_CAPABLE_AGENT, "jobs[0].inputs[0].uri"),
        (Reason.NO_CAPABLE_AGENT, "jobs[0].outputs[0].uri"),
    ]


def test_stores_that_no_agent_reaches_are_refused() -> None:
    """As files outside every root: the store is named, or the object where only part of the store is reached."""
    spec = _spec(inputs=[{"uri": "archive://takes/talk.wav"}], outputs=[{"uri": "s3://out/a/"}])
    known = [("/", "s3://out/"), ("archive://takes/", "archive://shows/")]
    assert admit(CATALOG, [spec], roots=known, now_us=NOW_US)
    with pytest.raises(InvalidRequest, match="reaches the store 'archive'; their stores are s3://out/"):
        admit(CATALOG, [spec], roots=known[:1], now_us=NOW_US)
    with pytest.raises(InvalidRequest, match=r"reaches s3://out/a/talk.aac_192.m4a; their stores are archive://takes/"):
        admit(CATALOG, [spec], roots=[("archive://takes/", "s3://other/")], now_us=NOW_US)
    assert _problems(spec, roots=[("/",)]) == [
        (Reason.NO_CAPABLE_AGENT, "jobs[0].inputs[0].uri"),
        (Reason.NO_CAPABLE_AGENT, "jobs[0].outputs[0].uri"),
    ]


def test_what_a_url_asks_is_no_part_of_its_place() -> None:
    """The place that agents are matched with is stored without a signature; what the agent fetches has it."""
    [new] = admit(
        CATALOG, [_spec(inputs=[{"uri": "https://host/talk.wav?sig=secret"}])], roots=[("/", "https://")], now_us=NOW_US
    )
    assert json.loads(new.paths) == ["https://host/talk.wav", "/media/out/talk.aac_192.m4a"]
    assert "secret" in new.intent


def test_without_any_agent_every_place_is_admitted() -> None:
    """Nobody knows yet what agents will reach: the job waits for one."""
    assert admit(CATALOG, [_spec(inputs=[{"uri": "file:///nas/talk.wav"}])], roots=[], now_us=NOW_US)


def test_plan_requests_name_their_own_fields() -> None:
    """The field path is that of PlanJobRequest, and the task is a plan."""
    with pytest.raises(InvalidRequest) as caught:
        admit(CATALOG, [_spec(preset="nothing")], roots=[], now_us=NOW_US, kind="plan", field="job.")
    assert [problem.field for problem in caught.value.problems] == ["job.preset"]
    [new] = admit(CATALOG, [_spec()], roots=[], now_us=NOW_US, kind="plan", field="job.")
    assert (new.kind, new.task_kind) == ("plan", "plan")


@pytest.mark.parametrize(
    ("given", "stored"),
    [(-18, -18.0), (-18.5, -18.5), ("-18", -18.0)],
    ids=["whole number", "fraction", "text"],
)
def test_parameters_come_as_protobuf_values(given: object, stored: float) -> None:
    """Whole numbers, which protobuf has as doubles only, fractions and text mean the same."""
    [new] = admit(CATALOG, [_spec(params={"target_lufs": given})], roots=[], now_us=NOW_US)
    assert json.loads(new.intent)["parameters"]["target_lufs"] == stored


def test_a_parameter_without_a_value_is_refused() -> None:
    """A Value whose kind was never set is no number."""
    spec = _spec()
    spec.params["target_lufs"].CopyFrom(Value())
    assert _problems(spec) == [(Reason.PARAMETER_OUT_OF_RANGE, "jobs[0].params.target_lufs")]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(number: float) -> None:
    """NaN and infinity pass the wire and fit into no JSON."""
    spec = _spec()
    spec.params["target_lufs"].number_value = number
    assert _problems(spec) == [(Reason.PARAMETER_OUT_OF_RANGE, "jobs[0].params.target_lufs")]


def test_documents_are_stored_once_and_named_by_their_digests() -> None:
    """The intent of every job names the same texts; without them it can't be read."""
    first, second = admit(CATALOG, [_spec(), _spec(outputs=[{"uri": "file:///media/b/"}])], roots=[], now_us=NOW_US)
    document = json.loads(first.intent)
    named = {document["preset"], *(output["profile"] for output in document["outputs"])}
    assert first.texts.keys() == second.texts.keys() == named
    assert all(hashlib.sha256(text.encode()).hexdigest() == digest for digest, text in first.texts.items())
    assert len(first.intent) < 1000


def test_times_are_kept_in_microseconds() -> None:
    """What is not given is None."""
    [new] = admit(
        CATALOG,
        [_spec(notBefore="2023-11-14T23:00:00Z", timeout="90s", deadline="2023-11-15T00:00:00.000001Z")],
        roots=[],
        now_us=NOW_US,
    )
    assert (new.not_before_us, new.timeout_us, new.deadline_us) == (
        1_700_002_800_000_000,
        90_000_000,
        1_700_006_400_000_001,
    )
    [plain] = admit(CATALOG, [_spec()], roots=[], now_us=NOW_US)
    assert (plain.not_before_us, plain.timeout_us, plain.deadline_us, plain.hold) == (None, None, None, False)


@pytest.mark.parametrize(
    ("times", "field"),
    [
        ({"deadline": "2023-11-14T22:13:20Z"}, "deadline"),
        ({"deadline": "2023-11-15T00:00:00Z", "notBefore": "2023-11-15T00:00:00Z"}, "deadline"),
        ({"timeout": "0s"}, "timeout"),
        ({"timeout": "-5s"}, "timeout"),
        ({"notBefore": "2201-01-01T00:00:00Z"}, "not_before"),
        ({"notBefore": "1969-01-01T00:00:00Z"}, "not_before"),
    ],
)
def test_times_that_make_no_sense_are_refused(times: Mapping[str, str], field: str) -> None:
    """A deadline must lie ahead, and behind the appointed time."""
    assert _problems(_spec(**times)) == [(Reason.INVALID_ARGUMENT, f"jobs[0].{field}")]


def test_jobs_to_wait_for_are_resolved_and_named_once() -> None:
    """Two prefixes of one id are one parent."""
    spec = _spec(after=["ab", "abc", "ff"], afterAnyEnd=True, hold=True)
    known = {"ab": JobId("abcd"), "abc": JobId("abcd"), "ff": JobId("ffff")}
    [new] = admit(CATALOG, [spec], roots=[], now_us=NOW_US, after=known)
    assert (new.after, new.after_any_end, new.hold) == (("abcd", "ffff"), True, True)


def test_jobs_to_wait_for_that_nobody_knows_are_refused() -> None:
    """Each by its place in the request, together with all other problems."""
    unknown = Problem(Reason.JOB_NOT_FOUND, "", "no job has the id zz")
    found = _problems(_spec(after=["ff", "zz"], priority=10), after={"ff": JobId("ffff"), "zz": unknown})
    assert found == [(Reason.INVALID_ARGUMENT, "jobs[0].priority"), (Reason.JOB_NOT_FOUND, "jobs[0].after[1]")]


@pytest.mark.parametrize(
    ("names", "field"),
    [
        ({"queue": " night"}, "queue"),
        ({"labels": {"a b": "x"}}, "labels"),
        ({"labels": {"a": "x\n"}}, "labels.a"),
        ({"require": {"zone": "z" * 257}}, "require.zone"),
    ],
)
def test_names_that_nobody_could_type_are_refused(names: Mapping[str, object], field: str) -> None:
    """Of queues, labels and what is required."""
    assert _problems(_spec(**names)) == [(Reason.INVALID_ARGUMENT, f"jobs[0].{field}")]


def _digest(*specs: job_pb2.JobSpec) -> str:
    return digest(job_service_pb2.SubmitJobsRequest(jobs=specs))


def test_the_digest_is_of_what_was_set() -> None:
    """The order of map entries is no difference; a field set to its default in words is one."""
    first = _spec(labels={"a": "1", "b": "2"}, params={"target_lufs": -18, "over_peaks": "limit"})
    second = _spec(params={"over_peaks": "limit", "target_lufs": -18}, labels={"b": "2", "a": "1"})
    assert _digest(first) == _digest(second)
    others = [
        [_spec()],
        [_spec(priority=5)],
        [_spec(priority=0)],
        [_spec(), _spec()],
        [first, _spec()],
        [_spec(), first],
    ]
    digests = {_digest(*specs) for specs in others}
    assert len(digests) == len(others)
    assert _digest(first) not in digests


def test_the_digest_is_of_one_kind_of_request() -> None:
    """Requests of different kinds that look alike on the wire are not the same."""
    assert digest(job_service_pb2.GetJobRequest(job_id="x")) != digest(job_pb2.Failure(reason="x"))


def test_what_lies_in_the_controllers_own_store() -> None:
    """Is read by any agent, if it is there; results go there without being asked for."""
    uri = "controller://uploads/1f/my%20talk.wav"
    spec = _spec(inputs=[{"uri": uri}], outputs=[{"uri": "controller://results/2e/"}])
    [new] = admit(CATALOG, [spec], roots=[("/media",)], now_us=NOW_US, deposited={"uploads/1f/my talk.wav"})
    assert (json.loads(new.paths), json.loads(new.deposits or "")) == ([], ["uploads/1f/my talk.wav"])
    intent = Intent.from_json(json.loads(new.intent), new.texts)
    assert intent.outputs[0].uri == "controller://results/2e/my%20talk.aac_192.m4a"
    [other] = admit(CATALOG, [_spec()], roots=[], now_us=NOW_US)
    assert other.deposits is None
    assert _problems(spec) == [(Reason.DEPOSIT_NOT_FOUND, "jobs[0].inputs[0].uri")]


def test_what_uploading_does_not_mend_comes_first() -> None:
    """So that it is heard of before anything is uploaded."""
    missing = _spec(inputs=[{"uri": "controller://uploads/-/talk.wav"}], outputs=[{"uri": "controller://results/2e/"}])
    wrong = _spec(preset="unheard_of")
    assert [reason for reason, _ in _problems(missing, wrong)] == [Reason.PRESET_NOT_FOUND, Reason.DEPOSIT_NOT_FOUND]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("inputs[0].uri", {"inputs": [{"uri": "controller://talk.wav"}]}),
        ("inputs[0].uri", {"inputs": [{"uri": "controller://staged/1f/talk.wav"}]}),
        ("inputs[0].uri", {"inputs": [{"uri": "controller://uploads/../1f/talk.wav"}]}),
        ("outputs[0].uri", {"outputs": [{"uri": "controller://uploads/1f/"}]}),
        ("outputs[0].uri", {"outputs": [{"uri": "controller://elsewhere/1f/"}]}),
        ("keep", {"keep": "0s"}),
        ("keep", {"keep": "-5s"}),
        ("keep", {"keep": "400000000s"}),
    ],
)
def test_places_and_times_that_the_controllers_store_has_not(field: str, changes: Mapping[str, object]) -> None:
    """Each with its field."""
    assert _problems(_spec(**changes)) == [(Reason.INVALID_ARGUMENT, f"jobs[0].{field}")]
