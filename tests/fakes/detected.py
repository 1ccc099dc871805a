"""What an agent learns of the FFmpegs of this machine, for agents that need not learn it anew."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from agent.detect import detect


def know_ffmpegs(data_dir: Path, *, trials: bool = True) -> None:
    """Puts into an agent's data directory what a start there would have learnt, unless something is there.

    Proving the FFmpegs takes longer than all the rest of a start. Without `trials` of devices, each is made anew.
    """
    file = data_dir / "detected.json"
    if not file.exists():
        document = json.loads(_detection())
        file.write_text(json.dumps(document if trials else document | {"trials": {}}))


@cache
def _detection() -> str:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "detected.json"
        detect(scratch=Path(folder), media_roots=(), cache_file=file)
        return file.read_text()
