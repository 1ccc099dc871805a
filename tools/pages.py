"""`make pages`: docs/presets anew; the pictures show the synthetic recordings of each preset's first check."""

import sys
import tempfile
from pathlib import Path

from ctl.procedure import plain
from presets.catalog import Catalog
from tests.fakes.cli import living_with_box
from tests.fakes.synth import synthesise

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "presets"


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in [*FOLDER.glob("*.md"), *FOLDER.glob("*.svg")]:
        old.unlink()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with living_with_box(scratch / "box") as home:
            for preset in Catalog.shipped().presets:
                call: list[object] = ["presets", "page", "--output", FOLDER]
                for check in preset.document.check[:1]:
                    call += [f"--profile={check.profile}"] if check.profile else []
                    call += [f"-p{key}={plain(value)}" for key, value in check.parameters.items()]
                    call += [preset.full_name]
                    call += [f"{role}={synthesise(source, scratch)}" for role, source in check.inputs.items()]
                    print(home.run(*call).stdout, end="", flush=True)
            print(home.run("presets", "page", "--output", FOLDER).stdout, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
