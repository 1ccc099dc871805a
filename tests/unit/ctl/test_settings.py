"""Flags, environment, files, defaults: in this order."""

from pathlib import Path

import click
import pytest

from ctl.settings import Format, config_files, resolve


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_defaults(home: Path) -> None:
    """Without anything said: the user's box, tables, colours."""
    settings = resolve({}, {}, ())
    assert (settings.controller, settings.format, settings.color, settings.quiet) == (
        None,
        Format.TABLE,
        True,
        False,
    )
    assert settings.data_dir == home / ".local/share/mediactl"


def test_the_nearer_source_wins(tmp_path: Path) -> None:
    """A flag beats the environment, which beats the user's file, which beats the machine's."""
    user = written(tmp_path / "user.toml", 'controller = "user:1"\ntoken_file = "t"\n')
    machine = written(tmp_path / "machine.toml", 'controller = "machine:1"\nformat = "yaml"\n')
    files = (user, machine)
    settled = resolve({}, {}, files)
    assert (settled.controller, settled.format) == ("user:1", Format.YAML)
    assert resolve({}, {"MEDIACTL_CONTROLLER": "env:1"}, files).controller == "env:1"
    flags = {"controller": "flag:1", "format": "json"}
    settled = resolve(flags, {"MEDIACTL_CONTROLLER": "env:1"}, files)
    assert (settled.controller, settled.format) == ("flag:1", Format.JSON)


def test_paths_are_relative_to_where_they_are_written(tmp_path: Path, home: Path) -> None:
    """In a file to the file, elsewhere to the working directory; ~ is the home folder."""
    file = written(tmp_path / "a/config.toml", 'token_file = "t"\ntls_ca = "~/ca.pem"\n')
    settings = resolve({"data_dir": "d"}, {"MEDIACTL_TLS_KEY": "k"}, (file,))
    assert settings.token_file == tmp_path / "a/t"
    assert settings.tls_ca == home / "ca.pem"
    assert (settings.data_dir, settings.tls_key) == (Path.cwd() / "d", Path.cwd() / "k")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("controler = 'x'", "unknown setting 'controler'"),
        ("controller = 3", "expected text, not 3"),
        ("quiet = 'yes'", "expected true or false"),
        ("format = 'xml'", "expected table, json, yaml"),
        ("quiet = true\ncontroller = x", "line 2"),
    ],
)
def test_wrong_files_are_told(tmp_path: Path, text: str, says: str) -> None:
    """A mistake in a file is an error with the file's name, never ignored."""
    file = written(tmp_path / "config.toml", text)
    with pytest.raises(click.UsageError) as caught:
        resolve({}, {}, (file,))
    assert says in str(caught.value)
    assert str(file) in str(caught.value)


def test_flags_in_the_environment() -> None:
    """NO_COLOR as no-color.org says; yes and no for our own."""
    assert not resolve({}, {"NO_COLOR": "1"}, ()).color
    assert resolve({}, {"NO_COLOR": ""}, ()).color
    assert resolve({}, {"MEDIACTL_QUIET": "1"}, ()).quiet
    with pytest.raises(click.UsageError, match="MEDIACTL_QUIET"):
        resolve({}, {"MEDIACTL_QUIET": "perhaps"}, ())


def test_where_files_are_looked_for(home: Path) -> None:
    """XDG for the user, /etc for the machine."""
    assert config_files({}) == (home / ".config/mediactl/config.toml", Path("/etc/mediactl/config.toml"))
    assert config_files({"XDG_CONFIG_HOME": "/x"})[0] == Path("/x/mediactl/config.toml")
