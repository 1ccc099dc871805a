"""Detection, probing, running and publishing with the real FFmpeg, as an agent strings them together."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.detect import binaries, detect
from agent.media.failure import failure_of
from agent.media.guards import Bounds
from agent.media.logs import Tail
from agent.media.probe import probe
from agent.media.runner import LOG_NAME, Ran, Relay, run
from agent.storage import Stores
from agent.workspace import Workspace
from mediactl.v1 import fleet_service_pb2
from presets.capabilities import Binary, tried
from presets.facts import MediaFacts
from presets.formats import FORMAT_WHITELIST
from presets.plan import Invocation, Purpose
from presets.problems import MediaFailure
from presets.reasons import Reason
from presets.uris import path_to_uri

pytestmark = pytest.mark.skipif(shutil.which("ffprobe") is None, reason="no ffprobe on PATH")

_GLOBAL = ("-hide_banner", "-nostdin", "-y", "-loglevel", "level+info", "-nostats", "-progress", "pipe:1", "-xerror")
_INPUT = ("-protocol_whitelist", "file,pipe", "-format_whitelist", FORMAT_WHITELIST, "-i", "in/0")


@pytest.fixture(scope="session")
def capabilities(tmp_path_factory: pytest.TempPathFactory) -> fleet_service_pb2.Capabilities:
    return detect(scratch=tmp_path_factory.mktemp("scratch"), media_roots=["/"])


@pytest.fixture(params=["slowest to start", "quickest to start"])
def binary(request: pytest.FixtureRequest, capabilities: fleet_service_pb2.Capabilities) -> Binary:
    """Every kind of binary that the machine has, such as the distribution's and the static one."""
    ordered = sorted(binaries(capabilities), key=lambda one: -one.start_ms)
    if request.param == "quickest to start" and len(ordered) < 2:
        pytest.skip("only one FFmpeg binary on this machine")
    return ordered[0 if request.param == "slowest to start" else -1]


@pytest.fixture
def ffprobe(capabilities: fleet_service_pb2.Capabilities) -> str:
    return capabilities.ffprobe_path


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "scratch", "a1")
    made.create()
    yield made
    made.remove()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small volume can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def synthesise(path: Path, *arguments: str) -> Path:
    """Makes a file with FFmpeg's own sources; ``path`` ends the command line."""
    command = [
        "ffmpeg",
        "-hide_banner",
        "-loglevel",
        "error",
        "-nostdin",
        "-y",
        *arguments,
        "-bitexact",
        f"file:{path}",
    ]
    subprocess.run(command, check=True)
    return path


def tone(path: Path, seconds: float = 2.0, *arguments: str) -> Path:
    if not path.suffix:
        arguments = (*arguments, "-f", "wav")
    return synthesise(path, "-f", "lavfi", "-i", f"sine=frequency=997:duration={seconds}:sample_rate=48000", *arguments)


def encode(*arguments: str, purpose: Purpose = Purpose.ENCODE, writes: tuple[str, ...] = ("out/x.wav",)) -> Invocation:
    argv = (*_GLOBAL, *_INPUT, *(arguments or ("-map", "0:a:0", "-c:a", "pcm_s16le", "-f", "wav", "out/x.wav")))
    return Invocation("encode", purpose, argv, writes, None, None, 1.0, False)


async def carry_out(
    binary: Binary,
    workspace: Workspace,
    step: Invocation,
    stop: asyncio.Event | None = None,
    on_progress: Callable[[float, float], None] = lambda *_: None,
) -> Ran:
    with closing(Relay()) as relay:
        return await run(
            [binary.path, *step.argv],
            step,
            workspace=workspace.path,
            directory=workspace.steps / "01-encode",
            on_begin=lambda _: None,
            on_progress=on_progress,
            stop=stop or asyncio.Event(),
            bounds=Bounds(),
            relay=relay,
        )


def test_detection_is_quick(tmp_path: Path) -> None:
    """The second start costs no process; what it finds is the same, and holds what the presets need."""
    cache_file = tmp_path / "detected.json"
    first = detect(scratch=tmp_path, media_roots=["/"], cache_file=cache_file)
    started = time.perf_counter()
    second = detect(scratch=tmp_path, media_roots=["/"], cache_file=cache_file)
    assert time.perf_counter() - started < 0.5
    assert second.revision == first.revision
    assert second.binaries == first.binaries
    assert second.ffprobe_path
    for binary in binaries(second):
        needed = {"encoder:aac", "encoder:flac", "encoder:pcm_s24le", "filter:ebur128", "filter:alimiter", "muxer:mp4"}
        assert needed <= binary.capabilities
        assert binary.digest == hashlib.sha256(Path(binary.path).read_bytes()).hexdigest()
        assert 0 < binary.start_ms < 5000


def test_hardware_is_proved_or_explained(capabilities: fleet_service_pb2.Capabilities) -> None:
    """What was tried is a capability exactly where a trial worked; every trial that failed has a reason."""
    assert capabilities.gpus or capabilities.gpu_message
    for binary in capabilities.binaries:
        for trial in binary.trials:
            alike = [other.works for other in binary.trials if other.encoder == trial.encoder]
            assert (tried(trial.encoder) in binary.capabilities) == any(alike)
            assert trial.works or trial.message
        tried_encoders = {trial.encoder for trial in binary.trials}
        assert not {name for name in binary.capabilities if name.endswith("_nvenc")} - set(map(tried, tried_encoders))
        assert not [name for name in binary.capabilities if name.endswith(("_vaapi", "_qsv", "_v4l2m2m", "_cuda"))]


@pytest.mark.parametrize("name", ["a:'[b],%.wav", "-i.wav", "ü 音.wav", "new\nline.wav", "http:__x.wav"])
async def test_hostile_names(ffprobe: str, workspace: Workspace, tmp_path: Path, name: str) -> None:
    """Whatever an input is called, it is fetched under a safe name and probed."""
    tone(tmp_path / name)
    uri = path_to_uri(str(tmp_path / name))
    await Stores([tmp_path]).store_for(uri).fetch(uri, workspace.inputs / "0")
    facts = await probe(ffprobe, Path("in/0"), cwd=workspace.path)
    assert facts.duration_s == pytest.approx(2.0)
    assert facts.audio[0].sample_rate_hz == 48000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"This is no recording.\n" * 100, Reason.INPUT_CORRUPT),
        (b"", Reason.INPUT_EMPTY),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.wav\n#EXT-X-ENDLIST\n", Reason.INPUT_CORRUPT),
        (b"ffconcat version 1.0\nfile secret.wav\n", Reason.INPUT_CORRUPT),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n", Reason.INPUT_CORRUPT),
    ],
    ids=["text", "nothing", "playlist", "concat list", "session description"],
)
async def test_what_is_no_media(
    ffprobe: str, binary: Binary, workspace: Workspace, content: bytes, reason: Reason
) -> None:
    """Text, nothing and files that refer to others are refused by ffprobe and FFmpeg alike."""
    tone(workspace.inputs / "secret.wav")
    put(workspace.inputs / "0", content)
    with pytest.raises(MediaFailure) as caught:
        await probe(ffprobe, Path("in/0"), cwd=workspace.path)
    assert caught.value.reason is reason
    ran = await carry_out(binary, workspace, encode())
    assert not ran.succeeded
    if content:
        assert failure_of(ran, encode()).reason is Reason.INPUT_CORRUPT


async def test_a_run(binary: Binary, workspace: Workspace) -> None:
    """A real encode reports its output time, CPU time and memory; its log can be tailed."""
    tone(workspace.inputs / "0", 5)
    ran = await carry_out(binary, workspace, encode())
    assert ran.succeeded, ran.stderr_tail
    assert ran.result.out_time_s == pytest.approx(5.0, abs=0.05)
    assert 0 < ran.used.cpu_seconds < 30
    assert ran.used.peak_memory_bytes > 4_000_000
    assert b"Input #0" in Tail(workspace.steps / "01-encode" / LOG_NAME).read(final=True)
    assert duration_of(workspace.outputs / "x.wav") == pytest.approx(5.0)


async def test_a_stopped_run(binary: Binary, workspace: Workspace) -> None:
    """FFmpeg in the middle of hours of work ends within the two seconds that cancelling may take."""
    tone(workspace.inputs / "0", 1)
    endless = encode("-map", "0:a:0", "-af", "aloop=loop=-1:size=48000", "-c:a", "flac", "-f", "flac", "out/x.flac")
    stop = asyncio.Event()
    asked: list[float] = []

    def after_a_while(_out_time_s: float, _speed: float) -> None:
        asked.append(time.monotonic())
        stop.set()

    ran = await carry_out(binary, workspace, endless, stop, after_a_while)
    assert ran.stopped
    assert time.monotonic() - asked[0] < 2.0


async def test_a_cut_file(binary: Binary, workspace: Workspace, tmp_path: Path) -> None:
    """An MP4 that ends before its index says fails as truncated or damaged, not as FFmpeg's own fault."""
    source = tone(tmp_path / "whole.m4a", 20, "-c:a", "aac", "-movflags", "+faststart")
    cut(source, workspace.inputs / "0", 0.6)
    ran = await carry_out(binary, workspace, encode())
    # Some versions end well with a short output, which is for the plan to notice by its duration.
    if ran.succeeded:
        assert ran.result.out_time_s is not None
        assert ran.result.out_time_s < 19
    else:
        assert failure_of(ran, encode()).reason in {Reason.INPUT_TRUNCATED, Reason.INPUT_CORRUPT}


@pytest.mark.root
async def test_full_scratch(binary: Binary, small_volume: Path) -> None:
    """A scratch volume that fills up is the machine's fault: SCRATCH_FULL."""
    workspace = Workspace(small_volume, "a1")
    workspace.create()
    tone(workspace.inputs / "0", 1)
    endless = encode("-map", "0:a:0", "-af", "aloop=loop=-1:size=48000", "-c:a", "pcm_s16le", "-f", "wav", "out/x.wav")
    ran = await carry_out(binary, workspace, endless)
    assert not ran.succeeded
    assert failure_of(ran, endless).reason is Reason.SCRATCH_FULL


async def test_from_input_to_publication(binary: Binary, ffprobe: str, workspace: Workspace, tmp_path: Path) -> None:
    """Fetched, probed, run, staged, completed: the published file is the one made, and the workspace can go."""
    source, target = tone(tmp_path / "talk.wav"), tmp_path / "masters" / "talk.wav"
    stores = Stores([tmp_path])
    uri, target_uri = path_to_uri(str(source)), path_to_uri(str(target))
    store = stores.store_for(uri)
    await store.check_target(target_uri, overwrite=False)
    identity = await store.fetch(uri, workspace.inputs / "0")
    await probe(ffprobe, Path("in/0"), cwd=workspace.path)
    ran = await carry_out(binary, workspace, encode())
    assert ran.succeeded, ran.stderr_tail
    workspace.record({"step": "encode"})
    made = digest(workspace.outputs / "x.wav")
    assert await store.identify(uri) == identity
    staged = await store.stage(workspace.outputs / "x.wav", target_uri, workspace.attempt_id)
    workspace.remove()
    await store.complete(target_uri, staged.staged_uri, sha256=staged.sha256, size=staged.size, overwrite=False)
    assert digest(target) == made == staged.sha256
    assert names_in(target.parent) == ["talk.wav"]


async def test_every_recording_is_probed_or_refused(corpus_clip: Path, ffprobe: str, tmp_path: Path) -> None:
    """Real files, broken ones among them, give facts or a reason that blames the input."""
    outcome: MediaFacts | Reason
    try:
        outcome = await probe(ffprobe, corpus_clip, cwd=tmp_path)
    except MediaFailure as failure:
        outcome = failure.reason
    if isinstance(outcome, MediaFacts):
        assert outcome.size_bytes == size_of(corpus_clip)
    else:
        assert outcome is Reason.INPUT_CORRUPT


def duration_of(path: Path) -> float:
    """In seconds, by ffprobe."""
    command = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "json", str(path)]
    described = subprocess.run(command, check=True, capture_output=True)
    return float(json.loads(described.stdout)["format"]["duration"])


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def cut(source: Path, target: Path, share: float) -> None:
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])


def make_folder(path: Path) -> None:
    path.mkdir()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def size_of(path: Path) -> int:
    return path.stat().st_size


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
