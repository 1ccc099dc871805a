"""From words on the command line and spec files to job specs."""

import io
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctl.submission import Request, build, input_uri, output_uri, parse_documents
from mediactl.v1 import job_pb2

BASE = Path("/base")


def request(*inputs: str, **fields: object) -> Request:
    values = {"inputs": inputs, "preset": "p", "output": "out/", **fields}
    return Request(**values)  # type: ignore[arg-type]  # tests name the fields they mean


def test_each_plain_input_is_a_job() -> None:
    """Several inputs without roles: several jobs, alike but for the input."""
    specs = build(request("a.wav", "/b.wav", "s3://bucket/c.wav", profiles=("x", "y")), cwd=BASE)
    assert [spec.inputs[0].uri for spec in specs] == [
        "file:///base/a.wav",
        "file:///b.wav",
        "s3://bucket/c.wav",
    ]
    assert [[output.profile for output in spec.outputs] for spec in specs] == [["x", "y"]] * 3


def test_inputs_with_roles_are_one_job() -> None:
    """role=URI inputs together make one job."""
    (spec,) = build(request("voice=a.wav", "music=s3://b/c=d.wav"), cwd=BASE)
    assert [(one.role, one.uri) for one in spec.inputs] == [
        ("voice", "file:///base/a.wav"),
        ("music", "s3://b/c=d.wav"),
    ]


def test_roles_are_not_mixed_with_plain_inputs() -> None:
    """Nobody can know what was meant."""
    with pytest.raises(click.UsageError, match="can't be mixed"):
        build(request("voice=a.wav", "b.wav"), cwd=BASE)


def test_a_path_may_contain_an_equals_sign() -> None:
    """./a=b.wav is a file; so is anything whose part before = is no role."""
    specs = build(request("./a=b.wav", "/x/a=b.wav", "Take=1.wav"), cwd=BASE)
    assert [(spec.inputs[0].role, spec.inputs[0].uri) for spec in specs] == [
        ("", "file:///base/a%3Db.wav"),
        ("", "file:///x/a%3Db.wav"),
        ("", "file:///base/Take%3D1.wav"),
    ]


def test_an_existing_folder_is_a_prefix(tmp_path: Path) -> None:
    """A slash at the end or a folder that is there makes a prefix; anything else is a name."""
    (tmp_path / "there").mkdir()
    assert output_uri("there", tmp_path) == f"file://{tmp_path}/there/"
    assert output_uri("new/", tmp_path) == f"file://{tmp_path}/new/"
    assert output_uri("new", tmp_path) == f"file://{tmp_path}/new"
    assert output_uri("s3://b/x", tmp_path) == "s3://b/x"


def test_dots_are_resolved_by_the_file_system(tmp_path: Path) -> None:
    """`..` after a symbolic link is where the system says, not where the text says."""
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real/deep")
    assert input_uri("link/../x.wav", tmp_path) == f"file://{tmp_path}/real/x.wav"


@given(st.text(min_size=1).filter(lambda text: "\0" not in text and "/" not in text and text not in {".", ".."}))
def test_any_file_name_survives_the_uri(name: str) -> None:
    """Every name a file may have comes back from its URI, which is plain ASCII."""
    try:
        uri = input_uri(f"./{name}", BASE)
    except UnicodeEncodeError:
        return
    assert uri.isascii()
    assert unquote(urlsplit(uri).path) == f"/base/{name}"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"preset": None}, "missing --preset"),
        ({"output": None}, "missing --output"),
        ({"inputs": ()}, "missing INPUT"),
        ({"params": ("x",)}, "-p: expected KEY=VALUE"),
        ({"params": ("x=1", "x=2")}, "given twice"),
        ({"labels": ("=1",)}, "--label: expected KEY=VALUE"),
        ({"inputs": ("",)}, "not a path"),
        ({"spec": "jobs.json"}, "--spec says what INPUT says"),
    ],
)
def test_wrong_usage_is_told(fields: dict[str, object], says: str) -> None:
    """What is missing or malformed is named."""
    with pytest.raises(click.UsageError) as caught:
        build(request("a.wav", **fields) if "inputs" not in fields else request(**fields), cwd=BASE)
    assert says in caught.value.message


def test_options_reach_the_spec() -> None:
    """Everything given is in the spec; parameters stay text, as the preset knows their types."""
    (spec,) = build(
        request(
            "a",
            params=("target_lufs=-19", "note=a=b"),
            priority=0,
            queue="q",
            labels=("k=v",),
            require=("gpu=yes",),
            max_attempts=1,
            overwrite=True,
            verbose=True,
        ),
        cwd=BASE,
    )
    assert {key: value.string_value for key, value in spec.params.items()} == {
        "target_lufs": "-19",
        "note": "a=b",
    }
    assert spec.HasField("priority")
    assert (spec.priority, spec.queue, spec.max_attempts, spec.overwrite, spec.verbose) == (0, "q", 1, True, True)
    assert (dict(spec.labels), dict(spec.require)) == ({"k": "v"}, {"gpu": "yes"})


JOB = {"inputs": [{"uri": "a.wav"}], "preset": "p", "outputs": [{"uri": "out/"}]}
YAML = "inputs: [{uri: a.wav}]\npreset: p\noutputs: [{uri: out/}]\n"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (json.dumps(JOB), 1),
        (json.dumps(JOB, indent=2), 1),
        (json.dumps([JOB, JOB]), 2),
        (f"{json.dumps(JOB)}\n{json.dumps(JOB)}\n\n", 2),
        (YAML, 1),
        (f"{YAML}---\n{YAML}", 2),
        (f"# two\n- {json.dumps(JOB)}\n- {json.dumps(JOB)}\n", 2),
    ],
)
def test_spec_files(tmp_path: Path, text: str, count: int) -> None:
    """JSON, an array, JSON lines and YAML; paths are relative to the file."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/jobs").write_text(text)
    specs = build(Request(spec="sub/jobs", labels=("a=b",)), cwd=tmp_path)
    assert (
        specs
        == [
            job_pb2.JobSpec(
                inputs=[job_pb2.Input(uri=f"file://{tmp_path}/sub/a.wav")],
                preset="p",
                outputs=[job_pb2.Output(uri=f"file://{tmp_path}/sub/out/")],
                labels={"a": "b"},
            )
        ]
        * count
    )


def test_a_spec_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads it; paths are relative to the working directory."""
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(JOB)))
    (spec,) = build(Request(spec="-"), cwd=tmp_path)
    assert spec.inputs[0].uri == f"file://{tmp_path}/a.wav"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"inputs": [}', "line 1, column 13"),
        ('{"a": 1}\n{"b": ', "line 2"),
        ("b: 1\na: [", "line 2, column 5"),
        ("a: \x01", "not allowed"),
        ("just words", "expected objects"),
        ("", "no job in it"),
        ('{"prest": "x"}', "job 1"),
        ("preset: 2020-01-01", "job 1"),
    ],
)
def test_wrong_specs_are_told(tmp_path: Path, text: str, says: str) -> None:
    """The file and the line, or the number of the job."""
    (tmp_path / "jobs").write_text(text)
    with pytest.raises(click.UsageError) as caught:
        build(Request(spec="jobs"), cwd=tmp_path)
    assert says in caught.value.message
    assert "jobs" in caught.value.message


def test_unreadable_specs_are_told(tmp_path: Path) -> None:
    """A file that is not there is wrong usage."""
    with pytest.raises(click.UsageError, match="can't read absent"):
        build(Request(spec="absent"), cwd=tmp_path)


@given(st.lists(st.dictionaries(st.text(), st.integers()), min_size=1))
def test_json_lines_come_back(documents: list[dict[str, int]]) -> None:
    """Objects written line by line are read as they were."""
    text = "\n".join(json.dumps(document) for document in documents)
    assert parse_documents(text, "x") == documents
