"""What a replay is said to be."""

from ctl.replays import outcome
from mediactl.v1 import job_pb2


def _job(
    sha256: str, *, version: str = "5.1.6", binary: str = "a" * 64, threads: int = 2, gain: str = "1"
) -> job_pb2.Job:
    plan = job_pb2.Plan(binary_version=version, binary_sha256=binary, threads=threads)
    plan.steps.add(id="encode.wav.1", arguments=["-af", f"volume={gain}dB"])
    return job_pb2.Job(
        artifacts=[job_pb2.Artifact(name="wav", sha256=sha256)], attempts=[job_pb2.Attempt(number=1, plan=plan)]
    )


def test_the_same_bytes_are_said_to_be_the_same_whatever_made_them() -> None:
    """That another FFmpeg made them is nobody's concern then."""
    assert outcome(_job("x", version="9.0", binary="b" * 64), _job("x")) == "bit-identical"


def test_other_bytes_are_explained_by_what_was_different() -> None:
    """The FFmpeg, the threads, the arguments."""
    told = outcome(_job("y", version="9.0", binary="b" * 64, threads=4, gain="2"), _job("x"))
    assert told.startswith("the bytes differ; FFmpeg 9.0 (bbbbbbbbbbbb), not 5.1.6 (aaaaaaaaaaaa); 4 threads, not 2; ")
    assert "other arguments" in told


def test_other_bytes_of_the_same_run_are_blamed_on_the_encoder() -> None:
    """Nothing else is left."""
    assert "never promise" in outcome(_job("y"), _job("x"))


def test_nothing_is_said_before_both_have_artifacts() -> None:
    """And a lost plan is said to be lost."""
    assert outcome(job_pb2.Job(), _job("x")) == ""
    bare = job_pb2.Job(artifacts=[job_pb2.Artifact(name="wav", sha256="z")])
    assert "not known any more" in outcome(bare, _job("x"))
