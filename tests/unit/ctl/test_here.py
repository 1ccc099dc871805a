"""What a request to a remote controller says of files of this machine."""

from pathlib import Path

import pytest

from ctl.connection import remote
from ctl.here import Here
from ctl.settings import resolve
from ctl.submission import Request, build

BASE = Path("/home/me")


def _request(*inputs: str, output: str = "out/") -> Request:
    return Request(inputs=inputs, preset="p", output=output, profiles=("a", "b"))


def test_paths_are_of_this_machine_and_uris_are_not() -> None:
    """An input stands for a file to be uploaded, an output for a place that the controller has."""
    here = Here("r")
    specs = build(_request("a talk.wav", "file:///srv/b.wav", "s3://bucket/c.wav"), cwd=BASE, here=here)
    assert [spec.inputs[0].uri for spec in specs] == [
        "here:///home/me/a%20talk.wav",
        "file:///srv/b.wav",
        "s3://bucket/c.wav",
    ]
    [output] = {one.uri for spec in specs for one in spec.outputs}
    assert output.startswith("controller://results/")
    assert output.endswith("/")
    assert here.folders == {BASE / "out": output}


def test_uris_of_outputs_stay() -> None:
    """Nothing is to be fetched then."""
    here = Here("r")
    [spec] = build(_request("talk.wav", output="s3://bucket/out/"), cwd=BASE, here=here)
    assert {one.uri for one in spec.outputs} == {"s3://bucket/out/"}
    assert here.folders == {}


@pytest.mark.parametrize("output", ["out/", "out/take 2?.flac", "/elsewhere/x.flac"])
def test_results_come_to_the_names_that_were_asked_for(output: str) -> None:
    """Whatever is in them; what is elsewhere comes nowhere."""
    here = Here("r")
    [spec] = build(_request("talk.wav", output=output), cwd=BASE, here=here)
    uri = spec.outputs[0].uri
    wanted = BASE / output
    if uri.endswith("/"):
        uri, wanted = uri + "talk.flac", wanted / "talk.flac"
    assert here.target(uri) == wanted
    assert here.target("controller://results/other/talk.flac") is None
    assert here.target("s3://bucket/talk.flac") is None


def test_the_same_request_means_the_same_places() -> None:
    """A repeat under its id must be the same; another one has places of its own."""
    uris = [
        build(_request("talk.wav"), cwd=BASE, here=Here(request_id))[0].outputs[0].uri for request_id in ("r", "r", "s")
    ]
    assert uris[0] == uris[1] != uris[2]


def test_folders_apart_stay_apart(tmp_path: Path) -> None:
    """Those of several jobs of a spec file."""
    (tmp_path / "jobs.yaml").write_text(
        "- {inputs: [{uri: x.wav}], preset: p, outputs: [{uri: a/}]}\n"
        "- {inputs: [{uri: x.wav}], preset: p, outputs: [{uri: b/}, {uri: a/y.flac}]}\n"
    )
    here = Here("r")
    first, second = build(Request(spec=str(tmp_path / "jobs.yaml")), cwd=BASE, here=here)
    assert first.inputs[0].uri == f"here://{tmp_path}/x.wav"
    assert len(here.folders) == 2
    assert here.target(second.outputs[1].uri) == tmp_path / "a" / "y.flac"
    assert second.outputs[1].uri == first.outputs[0].uri + "y.flac"
    assert here.target(second.outputs[0].uri + "z") == tmp_path / "b" / "z"


@pytest.mark.parametrize(
    ("controller", "uploads"),
    [
        (None, False),
        ("unix:/run/c.sock", False),
        ("localhost:7420", True),
        ("controller.example", True),
        ("unix:/run/c.sock,far.example:7420", True),
    ],
)
def test_who_is_remote(controller: str | None, uploads: bool) -> None:
    """Whoever is reached over a network; one's own box and sockets are of this machine."""
    flags = {} if controller is None else {"controller": controller}
    assert remote(resolve(flags, {}, files=())) is uploads
