"""Data directories as a run before left them: what takes longer than all the rest of a first start is done."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.detect import detect
from tests.fakes.running import empty_sqlite


def know_ffmpegs(data_dir: Path, *, trials: bool = True) -> None:
    """Puts into an agent's data directory what it learnt of the FFmpegs of this machine, unless something is there.

    Without `trials` of devices, each of them is made anew.
    """
    file = data_dir / "detected.json"
    if not file.exists():
        document = json.loads(_detection())
        file.write_text(json.dumps(document if trials else document | {"trials": {}}))


def have_tables(data_dir: Path) -> None:
    """Puts a database without jobs into a controller's data directory, unless there is one."""
    file = data_dir / "mediactl.db"
    if not file.exists():
        file.write_bytes(empty_sqlite())


@cache
def _detection() -> str:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "detected.json"
        detect(scratch=Path(folder), media_roots=(), cache_file=file)
        return file.read_text()
