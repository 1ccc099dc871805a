"""Prints the part of requirements.lock that an installation needs: `runtime_lock.py FILE`.

Those are the project's own requirements, what builds it, and whatever they need in turn. The file says of each package
who wants it ("# via"); packages that only development wants are left out. The standard library suffices.
"""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

PROJECT = "mediactl (pyproject.toml)"
BUILDERS = frozenset({"hatchling", "pip"})


def parts(lock: str) -> dict[str, tuple[str, frozenset[str]]]:
    """The lines of each package, and who wants it."""
    found = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()):
        name = re.split(r"[=\[ ]", block, maxsplit=1)[0]
        wanted_by = (line.strip(" #").removeprefix("via ") for line in block.splitlines() if line.startswith("    #"))
        found[name] = (block, frozenset(wanted_by))
    return found


def needed(packages: dict[str, tuple[str, frozenset[str]]], by: Iterable[str] = (PROJECT,)) -> list[str]:
    """Names of those that are wanted by these, or by what these want."""
    wanters, names = {*by}, set(BUILDERS)
    while more := {name for name, (_, wanted_by) in packages.items() if wanted_by & wanters or name in names} - wanters:
        wanters |= more
        names |= more
    return sorted(names)


def main() -> None:
    packages = parts(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n".join(packages[name][0] for name in needed(packages)))


if __name__ == "__main__":
    main()
