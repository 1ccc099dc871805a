"""Short commands that detection asks questions with."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from agent.media.environment import child_environment

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said; ``code`` is None where it could not be started or did not end in time."""

    code: int | None
    stdout: str
    stderr: str


def ask(argv: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> Answer:
    """Runs a command for at most ``timeout_s`` seconds; whatever goes wrong is told in the answer's ``stderr``."""
    try:
        done = subprocess.run(
            argv,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            # A terminal's Ctrl-C is for the agent to act upon.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return Answer(None, "", f"{argv[0]} did not end within {timeout_s:g} s")
    except OSError as error:
        return Answer(None, "", f"{argv[0]} cannot be started: {error.strerror}")
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
