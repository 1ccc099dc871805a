"""Commands that load when they are called, and options which every command takes."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import click

from ctl.settings import Format, Settings, resolve

_GIVEN: Final = "ctl.given"


@dataclass(frozen=True, slots=True)
class Leaf:
    """Where a command is defined (`module:attribute`), and its line in the help of its group."""

    home: str
    summary: str


def _load(leaf: Leaf) -> click.Command:
    module, _, attribute = leaf.home.partition(":")
    command = getattr(import_module(module), attribute)
    if not isinstance(command, click.Command):
        raise TypeError(f"{leaf.home} is not a command")
    return command


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called. `alone` is what its own name without one does."""

    def __init__(
        self, name: str, leaves: Mapping[str, "Leaf | LazyGroup"], *, alone: Leaf | None = None, **attributes: Any
    ) -> None:
        if alone is not None:

            def call() -> object:
                ctx = click.get_current_context()
                return ctx.invoke(_load(alone)) if ctx.invoked_subcommand is None else None

            attributes |= {"callback": call, "invoke_without_command": True, "params": shared_options()}
        super().__init__(name, **attributes)
        self._leaves = leaves

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of their declaration."""
        return [*self._leaves]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command."""
        match self._leaves.get(cmd_name):
            case Leaf() as leaf:
                return _load(leaf)
            case other:
                return other

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, written without importing anything."""
        rows = [
            (name, leaf.summary if isinstance(leaf, Leaf) else leaf.get_short_help_str(limit=72))
            for name, leaf in self._leaves.items()
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _note(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if param.name and ctx.get_parameter_source(param.name) is click.core.ParameterSource.COMMANDLINE:
        given: dict[str, object] = ctx.find_root().meta.setdefault(_GIVEN, {})
        given[param.name] = value


def shared_options() -> list[click.Option]:
    """Options that are accepted before and after the command's name."""

    def option(*names: str, **attributes: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_note, **attributes)

    file = click.Path(exists=True, dir_okay=False)
    return [
        option(
            "--controller",
            metavar="ADDR[,ADDR...]",
            help="unix:PATH or HOST:PORT; without it your own box. Of several, which share one database, the first "
            "that answers, and another where it goes away.",
        ),
        option(
            "-o",
            "format",
            type=click.Choice([member.value for member in Format]),
            help="How data is printed; table where not given.",
        ),
        option("--data-dir", type=click.Path(file_okay=False), help="Where your own box keeps its data."),
        option("--quiet", is_flag=True, help="No progress and no remarks."),
        option("--no-color", "color", is_flag=True, flag_value=False, help="No colours."),
        option("--tls-ca", type=file, help="CA of the other end (PEM)."),
        option("--tls-cert", type=file, help="Own certificate (PEM)."),
        option("--tls-key", type=file, help="Its key (PEM)."),
        option("--token-file", type=file, help="File with the bearer token."),
    ]


def settings_of(ctx: click.Context) -> Settings:
    """What this run goes by."""
    return resolve(ctx.find_root().meta.get(_GIVEN, {}), os.environ)


class Command(click.Command):
    """A command that takes the shared options too, listed apart in its help."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._shared = shared_options()
        self.params.extend(self._shared)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Own options first."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                (shared if param in self._shared else own).append(record)
        for title, rows in (("Options", own), ("Options of every command", shared)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def command(name: str) -> Callable[[Callable[..., object]], click.Command]:
    """Declares a command; its first parameter receives the Settings."""

    def declare(function: Callable[..., object]) -> click.Command:
        def call(*args: Any, **values: Any) -> object:
            return function(settings_of(click.get_current_context()), *args, **values)

        call.__doc__ = function.__doc__
        call.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # click's own way of stacking decorators
        return click.command(name, cls=Command)(call)

    return declare
