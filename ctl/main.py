"""The console script: the tree of commands, and how every failure leaves the program."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

from ctl.tree import LazyGroup, Leaf, shared_options

_EPILOG: Final = """\b
Examples:
  mediactl run talk.wav --preset dialogue_clean --output out/
  mediactl submit *.wav --preset loudness_podcast -p target_lufs=-19 --profile mp3_192 --output out/
  mediactl jobs list --state DEAD
  mediactl doctor
"""

_QUEUE_EPILOG: Final = """\b
Examples:
  mediactl queue
  mediactl queue -o json
  mediactl queue set news --weight 3
  mediactl queue limit label:customer 2
"""

_JOBS: Final = LazyGroup(
    "jobs",
    {
        "list": Leaf("ctl.jobs:list_jobs", "Show jobs, newest first."),
        "get": Leaf("ctl.jobs:get", "Show jobs in detail."),
        "watch": Leaf("ctl.jobs:watch", "Print what happens to jobs as it happens."),
        "logs": Leaf("ctl.jobs:logs", "Print what FFmpeg and the agent said."),
        "events": Leaf("ctl.jobs:events", "Show a job's history."),
        "explain": Leaf("ctl.jobs:explain", "Say why a job waits."),
        "artifacts": Leaf("ctl.artifacts:artifacts", "Show what a job published, download it, or get URLs of it."),
        "cancel": Leaf("ctl.interventions:cancel", "Stop jobs."),
        "retry": Leaf("ctl.interventions:retry", "Put DEAD jobs in line again."),
        "replay": Leaf("ctl.interventions:replay", "Do jobs again with the same inputs and presets, as new jobs."),
        "hold": Leaf("ctl.interventions:hold", "Pause jobs that wait."),
        "release": Leaf("ctl.interventions:release", "End the pause."),
    },
    help="Look at jobs, stop, pause and repeat them.",
)
_QUEUE: Final = LazyGroup(
    "queue",
    {
        "set": Leaf("ctl.queue:set_queue", "Set the weight of a queue."),
        "limit": Leaf("ctl.queue:limit", "Set or remove a limit on what runs at once."),
    },
    alone=Leaf("ctl.queue:overview", ""),
    help="Show what waits and runs, and the limits; set weights and limits.",
    epilog=_QUEUE_EPILOG,
)
_PRESETS: Final = LazyGroup(
    "presets",
    {
        "list": Leaf("ctl.presets:list_presets", "Show the presets there are."),
        "show": Leaf("ctl.presets:show_preset", "Show a preset's roles, parameters and document."),
        "page": Leaf("ctl.pages:page", "Write a page about a preset, with a picture of what it does."),
        "validate": Leaf("ctl.documents:validate_preset", "Check a preset file; needs no server."),
        "add": Leaf("ctl.presets:add_preset", "Add a preset from a file."),
    },
    help="Presets: how a result sounds or looks.",
)
_PROFILES: Final = LazyGroup(
    "profiles",
    {
        "list": Leaf("ctl.presets:list_profiles", "Show the profiles there are."),
        "show": Leaf("ctl.presets:show_profile", "Show a profile's document."),
        "validate": Leaf("ctl.documents:validate_profile", "Check a profile file; needs no server."),
        "add": Leaf("ctl.presets:add_profile", "Add a profile from a file."),
    },
    help="Profiles: how a result is packed.",
)
_AGENTS: Final = LazyGroup(
    "agents",
    {
        "list": Leaf("ctl.agents:list_agents", "Show the agents there are."),
        "get": Leaf("ctl.agents:get", "Show what an agent has proved that it can do."),
        "drain": Leaf("ctl.agents:drain", "Have an agent finish what it has and take nothing new."),
        "resume": Leaf("ctl.agents:resume", "Let a drained agent take work again."),
        "remove": Leaf("ctl.agents:remove", "Forget an agent that is LOST."),
    },
    help="The machines that do the work.",
)

cli: Final = LazyGroup(
    "mediactl",
    {
        "run": Leaf("ctl.run:run", "Process files now and wait; needs no server."),
        "up": Leaf("ctl.up:up", "Run a single box in the foreground: a controller and an agent."),
        "submit": Leaf("ctl.submit:submit", "Put jobs into the queue."),
        "plan": Leaf("ctl.submit:plan", "Show what would be run for a job, and why."),
        "jobs": _JOBS,
        "queue": _QUEUE,
        "stats": Leaf("ctl.stats:stats", "Show how jobs fared lately, by preset and by operation."),
        "presets": _PRESETS,
        "profiles": _PROFILES,
        "agents": _AGENTS,
        "doctor": Leaf("ctl.doctor:doctor", "Say what this machine can do and what is missing."),
        "version": Leaf("ctl.about:version", "Print the version."),
        "completion": Leaf("ctl.about:completion", "Print the completion script of a shell."),
    },
    params=shared_options(),
    help="Media jobs on your own machines: say what you want, not how FFmpeg is called.",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code; what went wrong is one line on stderr."""
    # gRPC's C core writes its own remarks on lost connections to stderr, where they tell a person nothing.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        result = cli.main(None if arguments is None else [*arguments], prog_name="mediactl", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has gone (`| head`). Python's own flush at exit would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("MEDIACTL_DEBUG") == "1":
            raise
        # By name, as it loads gRPC, which most runs that come this far have loaded already.
        code: int = import_module("ctl.failures").report(error)
        return code
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of `mediactl`."""
    sys.exit(invoke())


if __name__ == "__main__":
    main()
