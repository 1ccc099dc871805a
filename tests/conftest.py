"""What every test may rely on: the folder of real recordings, a PostgreSQL, an S3 server, patience of Hypothesis."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes.blob_server import BlobServer, BlobServerAbsent
from tests.fakes.object_server import ObjectServer, ObjectServerAbsent
from tests.fakes.postgres import Postgres, PostgresAbsent

# A server that is started as another user is forked, and gRPC's handlers for that can spoil the child's descriptors.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Read once in a process: what gRPC logs of one test's connections would be on the stderr that another one looks at.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# Hundreds of processes are started, and each worker rewrites every assertion: what is compiled is kept, whatever the
# environment says.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Other tests share the cores: how long one example took says nothing about the code.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

_TESTS = Path(__file__).resolve().parent
_ROOT = _TESTS.parent
_CORPUS = Path(os.environ.get("MEDIA_CORPUS") or _ROOT.parent / "shared" / "media")
_NO_CORPUS = f"no recordings at {_CORPUS}: set MEDIA_CORPUS to a folder of media files"


_LONGEST_FIRST = (
    "systemd",
    "simulation",
    "acceptance",
    "corpus",
    "integration/test_presets_ffmpeg.py",
    "integration/test_audio_inputs.py",
    "integration/test_video_ffmpeg.py",
    "integration/test_operations_voice.py",
    "integration/test_loudness_ffmpeg.py",
    "integration",
    "contract",
)
"""Folders and files by how long they take; what is not named here takes seconds."""


@pytest.fixture(scope="session")
def media_corpus() -> Path:
    """The folder of real recordings (MEDIA_CORPUS, by default ../shared/media); skips where it is absent."""
    if not _CORPUS.is_dir():
        pytest.skip(_NO_CORPUS)
    return _CORPUS


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server, the same for all tests of a worker, which leave it running; skips where there can be none."""
    with _postgres() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A running server of the test's own, to stop and to kill; skips where there can be none."""
    with _postgres() as server:
        yield server


@contextmanager
def _postgres() -> Iterator[Postgres]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(Postgres())
        except PostgresAbsent as absent:
            pytest.skip(str(absent))
        yield server


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """A running S3 server, the same for all tests of a worker: each makes buckets of its own; skips where absent."""
    with _object_server() as server:
        yield server


@pytest.fixture
def own_object_server() -> Iterator[ObjectServer]:
    """A running S3 server of the test's own, to kill; skips where there can be none."""
    with _object_server() as server:
        yield server


@pytest.fixture(scope="session")
def blob_server() -> Iterator[BlobServer]:
    """A running server that talks like Azure's, the same for all tests of a worker; skips where there can be none."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(BlobServer())
        except BlobServerAbsent as absent:
            pytest.skip(str(absent))
        yield server


@contextmanager
def _object_server() -> Iterator[ObjectServer]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(ObjectServer())
        except ObjectServerAbsent as absent:
            pytest.skip(str(absent))
        yield server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that takes `corpus_clip` once for each file of the corpus (a Path), whatever it is."""
    if "corpus_clip" not in metafunc.fixturenames:
        return
    clips = sorted(path for path in _CORPUS.glob("*") if path.is_file() and path.name != "README.md")
    if clips:
        metafunc.parametrize("corpus_clip", clips, ids=lambda path: str(path.name))
    else:
        absent = pytest.param(None, marks=pytest.mark.skip(reason=_NO_CORPUS), id="absent")
        metafunc.parametrize("corpus_clip", [absent])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what uses the corpus, so that `-m corpus` selects it without anyone having to remember.

    Begins with the files that take longest, so that the workers end together: the short ones fill the gaps.
    """
    for item in items:
        if {"media_corpus", "corpus_clip"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.corpus)
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    path = item.path.relative_to(_TESTS).as_posix()
    return next((n for n, begins in enumerate(_LONGEST_FIRST) if path.startswith(begins)), len(_LONGEST_FIRST))
