"""Short commands that detection asks questions with."""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from agent.media.environment import child_environment

TIMEOUT_S = 10.0
_DYING_S = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said; ``code`` is None where it could not be started or did not end in time."""

    code: int | None
    stdout: str
    stderr: str


def ask(argv: Sequence[str], *, timeout_s: float = TIMEOUT_S, environment: Mapping[str, str] | None = None) -> Answer:
    """Runs a command for at most ``timeout_s`` seconds; whatever goes wrong is told in the answer's ``stderr``.

    ``environment``: by default what programs of others may see of this one's.
    """
    try:
        process = subprocess.Popen(
            argv,
            env=child_environment() if environment is None else environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A terminal's Ctrl-C is for the agent to act upon.
            start_new_session=True,
        )
    except OSError as error:
        return Answer(None, "", f"{argv[0]} cannot be started: {error.strerror}")
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        # What hangs in the kernel, as with a wedged driver, does not even die: nobody waits for it.
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_DYING_S)
        return Answer(None, "", f"{argv[0]} did not end within {timeout_s:g} s")
    return Answer(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))
