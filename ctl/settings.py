"""What every command goes by: flags, then the environment, then files, then defaults."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Final

import click

from mediactl.places import default_data_dir

SYSTEM_FILE: Final = Path("/etc/mediactl/config.toml")


class Format(StrEnum):
    """How data is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one run of the command line. `controller` is None where the user's own box is meant."""

    controller: str | None
    data_dir: Path
    format: Format
    quiet: bool
    color: bool
    tls_ca: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    token_file: Path | None


_PATHS: Final = frozenset({"data_dir", "tls_ca", "tls_cert", "tls_key", "token_file"})
_FLAGS: Final = frozenset({"quiet", "color"})
_NAMES: Final = tuple(field.name for field in fields(Settings))


def resolve(
    flags: Mapping[str, object], environment: Mapping[str, str], files: tuple[Path, ...] | None = None
) -> Settings:
    """Settles every setting. `flags` holds only what was given.

    Raises click.UsageError where a value or a file is wrong, naming where it stands.
    """
    found: dict[str, object] = {}
    for path in reversed(config_files(environment) if files is None else files):
        found.update(_from_file(path))
    for name in _NAMES:
        given = environment.get(f"MEDIACTL_{name.upper()}", "")
        if given:
            found[name] = _checked(name, _as_flag(name, given), f"MEDIACTL_{name.upper()}", Path.cwd())
    if environment.get("NO_COLOR"):
        found["color"] = False
    for name, value in flags.items():
        found[name] = _checked(name, value, f"--{name.replace('_', '-')}", Path.cwd())
    values: dict[str, object] = {
        "controller": None,
        "data_dir": default_data_dir(),
        "format": Format.TABLE,
        "quiet": False,
        "color": True,
        **dict.fromkeys(("tls_ca", "tls_cert", "tls_key", "token_file")),
        **found,
    }
    return Settings(**values)  # type: ignore[arg-type]  # each value went through _checked, by name


def config_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The user's file, then the machine's; the first one to name a setting wins."""
    base = environment.get("XDG_CONFIG_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".config"
    return (home / "mediactl" / "config.toml", SYSTEM_FILE)


def _from_file(path: Path) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"can't read {path}: {error}") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"{path}: {error}") from None
    unknown = sorted(values.keys() - set(_NAMES))
    if unknown:
        raise click.UsageError(f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(_NAMES)}")
    return {name: _checked(name, value, f"{path}: {name}", path.parent) for name, value in values.items()}


def _as_flag(name: str, given: str) -> object:
    if name not in _FLAGS:
        return given
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    return words.get(given.lower(), given)


def _checked(name: str, value: object, where: str, base: Path) -> object:
    if name in _FLAGS:
        if not isinstance(value, bool):
            raise click.UsageError(f"{where}: expected true or false, not {value!r}")
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise click.UsageError(f"{where}: expected text, not {value!r}")
    if name == "format":
        if value not in {member.value for member in Format}:
            raise click.UsageError(f"{where}: expected {', '.join(Format)}, not {value!r}")
        return Format(value)
    return base.absolute() / Path(value).expanduser() if name in _PATHS else value
