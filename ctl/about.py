"""`mediactl version` and `mediactl completion`."""

from importlib.metadata import version as version_of

import click
from click.shell_completion import get_completion_class

from ctl.settings import Format, Settings
from ctl.tree import command


@command("version")
def version(settings: Settings) -> int:
    """Print the version."""
    number = version_of("mediactl")
    match settings.format:
        case Format.TABLE:
            print(f"mediactl {number}")
        case Format.JSON:
            print(f'{{"version": "{number}"}}')
        case Format.YAML:
            print(f"version: {number}")
    return 0


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(settings: Settings, shell: str) -> int:
    """Print the script that completes commands and options in a shell.

    \b
    Examples:
      mediactl completion bash > ~/.local/share/bash-completion/completions/mediactl
      mediactl completion fish > ~/.config/fish/completions/mediactl.fish
      mediactl completion zsh > "${fpath[1]}/_mediactl"
    """
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    root = click.get_current_context().find_root().command
    print(found(root, {}, "mediactl", "_MEDIACTL_COMPLETE").source())
    return 0
