"""What both long-running programs share at their start: log format, settings file, options of the connection."""

import logging
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import structlog

from mediactl.channel import Credentials

CONFIG_DIR = Path("/etc/mediactl")

_F = TypeVar("_F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)


def configure_logging(*, verbose: bool) -> None:
    """One line an event on stderr; JSON where nobody is looking."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(
                [structlog.dev.ConsoleRenderer()]
                if terminal
                else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def config_option(program: str) -> Callable[[_F], _F]:
    """`--config FILE`: a TOML file whose keys are the command's options. Flags and the environment come before it."""
    default = CONFIG_DIR / f"{program}.toml"

    def read(context: click.Context, _: click.Parameter, given: Path | None) -> None:
        chosen = given or (default if default.is_file() else None)
        if chosen is None:
            return
        try:
            table = tomllib.loads(chosen.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise click.UsageError(f"can't read {chosen}: {error}") from None
        known = {name.removeprefix("--"): option.name for option in context.command.params for name in option.opts}
        if unknown := sorted(table.keys() - known.keys()):
            expected = ", ".join(sorted(known))
            raise click.UsageError(f"{chosen}: unknown setting {unknown[0]!r}; expected some of {expected}")
        context.default_map = {known[name]: value for name, value in table.items()}

    return click.option(
        "--config",
        type=_FILE,
        is_eager=True,
        expose_value=False,
        callback=read,
        help=f"TOML file with these options, named as here without dashes before them. Default: {default}.",
    )


def credential_options(*, listening: bool) -> Callable[[_F], _F]:
    """The TLS files and the token; the command gets them as one `credentials`."""
    options = (
        ("--tls-cert", "PEM file with the own certificate" + (", needed for TLS." if listening else ".")),
        ("--tls-key", "PEM file with its key."),
        ("--tls-ca", "PEM file: the other end must show a certificate signed by it."),
        ("--token-file", f"File with the bearer token {'that every call must bring' if listening else 'to show'}."),
    )

    def decorate(command: _F) -> _F:
        def gather(**values: Any) -> None:
            given = {name: values.pop(name) for name in ("tls_cert", "tls_key", "tls_ca", "token_file")}
            command(credentials=Credentials(**given), **values)

        gather.__doc__ = command.__doc__
        gather.__name__ = command.__name__
        # Options that stand above this one on the command are attached to what it returns.
        gather.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined] # click's
        decorated: Any = gather
        for name, text in reversed(options):
            decorated = click.option(name, type=_FILE, help=text)(decorated)
        return decorated  # type: ignore[no-any-return] # a decorator of click keeps the function's type

    return decorate
