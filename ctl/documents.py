"""`presets validate` and `profiles validate`: checking files here, without a server."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, assert_never

import click

from ctl.settings import Settings
from ctl.tree import command
from presets.parse import InvalidDocument, parse_preset, parse_profile

_FILES: Final = click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(dir_okay=False, path_type=Path)
)


class Kind(StrEnum):
    """What a file is expected to be."""

    PRESET = "preset"
    PROFILE = "profile"


class InvalidFile(click.ClickException):
    """A file is no valid document; each complaint is a line `FILE:LINE:COLUMN: field: message`."""

    exit_code = 2

    def __init__(self, path: Path, error: InvalidDocument) -> None:
        super().__init__(
            "\n".join(
                f"{path}:{one.line}:{one.column}: {f'{one.field}: ' if one.field else ''}{one.message}"
                for one in error.complaints
            )
        )

    def show(self, file: object = None) -> None:
        """Without a prefix, so that editors can jump to the places."""
        print(self.message, file=sys.stderr)


def checked(kind: Kind, path: Path) -> str:
    """The text of a valid document.

    Raises InvalidFile, or click.UsageError where the file can't be read.
    """
    return _check(kind, path)[0]


def _check(kind: Kind, path: Path) -> tuple[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"can't read {path}: {error}") from None
    try:
        match kind:
            case Kind.PRESET:
                preset = parse_preset(text)
                return text, f"{preset.name}_v{preset.version}"
            case Kind.PROFILE:
                profile = parse_profile(text)
                return text, f"{profile.name}_v{profile.version}"
            case _:
                assert_never(kind)
    except InvalidDocument as error:
        raise InvalidFile(path, error) from None


def _validate(kind: Kind, files: Sequence[Path], settings: Settings) -> int:
    code = 0
    for path in files:
        try:
            name = _check(kind, path)[1]
        except InvalidFile as error:
            error.show()
            code = error.exit_code
        else:
            if not settings.quiet:
                print(f"{path}: {name} is a valid {kind}")
    return code


@command("validate")
@_FILES
def validate_preset(settings: Settings, *, files: Sequence[Path]) -> int:
    """Check preset files. Everything wrong is told as FILE:LINE:COLUMN: field: what was expected.

    \b
    Example:
      mediactl presets validate house_sound_v1.toml
    """
    return _validate(Kind.PRESET, files, settings)


@command("validate")
@_FILES
def validate_profile(settings: Settings, *, files: Sequence[Path]) -> int:
    """Check profile files. Everything wrong is told as FILE:LINE:COLUMN: field: what was expected.

    \b
    Example:
      mediactl profiles validate radio_mp2_v1.toml
    """
    return _validate(Kind.PROFILE, files, settings)
