"""`mediactl presets …` and `mediactl profiles …`: what the controller knows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from ctl import documents, render
from ctl.connection import with_client
from ctl.settings import Format, Settings
from ctl.tree import command
from mediactl.v1 import preset_service_pb2

_NAME: Final = click.argument("name", metavar="NAME")
_FILES: Final = click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(dir_okay=False, path_type=Path)
)


@command("list")
def list_presets(settings: Settings) -> int:
    """Show the presets there are.

    \b
    Example:
      mediactl presets list
    """
    presets = with_client(settings, lambda client: client.presets())
    if settings.format is not Format.TABLE:
        render.write(render.data(preset_service_pb2.ListPresetsResponse(presets=presets)), settings)
        return 0
    render.table(
        settings,
        ("NAME", "TITLE", "PARAMETERS", "PROFILE"),
        [
            (
                preset.full_name,
                preset.title,
                ", ".join(parameter.name for parameter in preset.parameters),
                preset.default_profile,
            )
            for preset in presets
        ],
        empty="no presets",
    )
    return 0


@command("show")
@_NAME
def show_preset(settings: Settings, *, name: str) -> int:
    """Show a preset's roles, parameters and document. Without version, the newest.

    \b
    Example:
      mediactl presets show loudness_podcast
    """
    preset = with_client(settings, lambda client: client.preset(name))
    if settings.format is not Format.TABLE:
        render.write(render.data(preset), settings)
        return 0
    render.details(
        settings,
        [
            ("name", preset.full_name),
            ("title", preset.title),
            ("description", preset.description),
            ("digest", preset.digest),
            ("default profile", preset.default_profile),
            *(("role", _role(role)) for role in preset.roles),
            *(("parameter", _parameter(parameter)) for parameter in preset.parameters),
        ],
    )
    print(f"\n{preset.document.rstrip()}")
    return 0


def _role(role: preset_service_pb2.Role) -> str:
    traits = [
        role.media,
        "optional" if role.optional else "required",
        "takes inputs given without a role" if role.default else "",
        "may be given several times" if role.repeated else "",
    ]
    told = f"; {role.description}" if role.description else ""
    return f"{role.name}: {', '.join(trait for trait in traits if trait)}{told}"


def _parameter(parameter: preset_service_pb2.Parameter) -> str:
    allowed = ", ".join(parameter.choices)
    if parameter.HasField("min") or parameter.HasField("max"):
        low = f"{parameter.min:g}" if parameter.HasField("min") else "…"
        high = f"{parameter.max:g}" if parameter.HasField("max") else "…"
        allowed = f"{low} to {high}"
    default = f"default {parameter.default_json}" if parameter.default_json else "required"
    words = [
        f"{parameter.type}{f' in {parameter.unit}' if parameter.unit else ''}",
        allowed,
        default,
        parameter.description,
    ]
    return f"{parameter.name}: {'; '.join(word for word in words if word)}"


@command("add")
@_FILES
def add_preset(settings: Settings, *, files: Sequence[Path]) -> int:
    """Add presets from files. The same document again is harmless; a changed one needs a new version.

    \b
    Example:
      mediactl presets add house_sound_v1.toml
    """
    texts = [documents.checked(documents.Kind.PRESET, file) for file in files]
    added = with_client(settings, lambda client: [client.add_preset(text) for text in texts])
    _tell_added(added, settings)
    return 0


@command("list")
def list_profiles(settings: Settings) -> int:
    """Show the profiles there are.

    \b
    Example:
      mediactl profiles list
    """
    profiles = with_client(settings, lambda client: client.profiles())
    if settings.format is not Format.TABLE:
        render.write(render.data(preset_service_pb2.ListProfilesResponse(profiles=profiles)), settings)
        return 0
    render.table(
        settings,
        ("NAME", "TITLE", "CONTAINER", "EXTENSION"),
        [(profile.full_name, profile.title, profile.container, profile.extension) for profile in profiles],
        empty="no profiles",
    )
    return 0


@command("show")
@_NAME
def show_profile(settings: Settings, *, name: str) -> int:
    """Show a profile's document. Without version, the newest.

    \b
    Example:
      mediactl profiles show aac_192
    """
    profile = with_client(settings, lambda client: client.profile(name))
    if settings.format is not Format.TABLE:
        render.write(render.data(profile), settings)
        return 0
    render.details(
        settings,
        [
            ("name", profile.full_name),
            ("title", profile.title),
            ("description", profile.description),
            ("digest", profile.digest),
            ("container", profile.container),
            ("extension", profile.extension),
        ],
    )
    print(f"\n{profile.document.rstrip()}")
    return 0


@command("add")
@_FILES
def add_profile(settings: Settings, *, files: Sequence[Path]) -> int:
    """Add profiles from files. The same document again is harmless; a changed one needs a new version.

    \b
    Example:
      mediactl profiles add radio_mp2_v1.toml
    """
    texts = [documents.checked(documents.Kind.PROFILE, file) for file in files]
    added = with_client(settings, lambda client: [client.add_profile(text) for text in texts])
    _tell_added(added, settings)
    return 0


def _tell_added(added: Sequence[preset_service_pb2.Preset | preset_service_pb2.Profile], settings: Settings) -> None:
    if settings.format is Format.TABLE:
        for one in added:
            print(one.full_name)
        return
    shown = [render.data(one) for one in added]
    render.write(shown[0] if len(shown) == 1 else shown, settings)
