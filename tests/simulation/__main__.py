"""Play seeds by hand: `python -m tests.simulation SEED [--trace]`, or `FIRST-LAST` for many."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.world import simulate


def main() -> int:
    """Returns 1 where a seed fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", help="a seed, or FIRST-LAST")
    parser.add_argument("--trace", action="store_true", help="print every step, not only the last ones of a failure")
    asked = parser.parse_args()
    first, _, last = asked.seeds.partition("-")
    failed = 0
    for seed in range(int(first), int(last or first) + 1):
        outcome = simulate(seed, whole_trace=asked.trace)
        if asked.trace:
            sys.stdout.write(outcome.trace + "\n")
        if outcome.problems:
            failed += 1
            problems = "\n".join(f"  * {problem}" for problem in outcome.problems)
            sys.stdout.write(outcome.told() + "\n" if not last and not asked.trace else f"seed {seed}:\n{problems}\n")
        elif not last:
            sys.stdout.write(f"seed {seed}: {outcome.steps} steps, {outcome.commits} commits, {outcome.states}\n")
    if last:
        sys.stdout.write(f"{failed} of {int(last) - int(first) + 1} seeds fail\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
