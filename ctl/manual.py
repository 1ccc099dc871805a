"""The page of a preset and the index of all, as Markdown written from the documents alone."""

import re
from collections.abc import Iterator, Mapping
from typing import Final, assert_never

from ctl.markdown import code, prose, table
from ctl.procedure import plain, procedure, unit, unitless
from presets.catalog import Catalog, Preset, Profile
from presets.document import (
    AudioSpec,
    BooleanParameter,
    Check,
    ChoiceParameter,
    IntegerParameter,
    Media,
    NumberParameter,
    Parameter,
    PresetDocument,
    Role,
    TextParameter,
    VideoSpec,
)
from presets.intent import default_role

#: The file name of the index.
INDEX: Final = "README.md"
_EXTENSIONS: Final[Mapping[Media, str]] = {Media.AUDIO: "wav", Media.VIDEO: "mp4", Media.PICTURE: "jpg"}


def page_name(preset: Preset) -> str:
    """The file name of a preset's page."""
    return f"{preset.full_name}.md"


def picture_name(preset: Preset) -> str:
    """The file name of the picture beside it."""
    return f"{preset.full_name}.svg"


def page(preset: Preset, profile: Profile, *, pictured: bool) -> str:
    """A preset's page. `profile` is its default one, `pictured` whether its picture is beside the page."""
    document = preset.document
    parts = [
        f"# {prose(preset.title or preset.name)}: `{preset.full_name}`",
        "<!-- Written by `mediactl presets page` from the preset: change that, not this. -->",
        prose(preset.description),
        f"![Waveform and loudness, before and after]({picture_name(preset)})" if pictured else "",
        "## How to call it",
        _calls(preset),
        "## What goes in",
        _roles(preset),
        "## What can be set",
        _parameters(document),
        "## What is done",
        *procedure(document),
        _delivery(document, profile),
        *_promises(document),
        "## The document",
        code(preset.text, "toml"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def index(catalog: Catalog) -> str:
    """The page that links to every preset's, and lists the profiles."""
    parts = [
        "# Presets and profiles",
        "<!-- Written by `mediactl presets page` from the documents: change those, not this. -->",
        "A preset says how the result sounds or looks, a profile how it is packed. A preset goes with every profile\n"
        "that has its kinds of stream.",
        "## Presets",
        table(
            ("Preset", "What it does", "Takes", "Profile where none is named"),
            [
                (
                    f"[`{preset.full_name}`]({page_name(preset)})",
                    prose(preset.title),
                    ", ".join(
                        f"`{name}`{' (optional)' if role.optional else ''}"
                        for name, role in preset.document.roles.items()
                    ),
                    f"`{preset.document.default_profile}`",
                )
                for preset in catalog.presets
            ],
        ),
        "## Profiles",
        "The ceiling holds for presets that bring the sound to a loudness, and is measured on the encoded file.",
        table(
            ("Profile", "What it is", "File", "Picture", "Sound", "Ceiling"),
            [
                (
                    f"`{profile.full_name}`",
                    prose(profile.title),
                    _file(profile),
                    _picture(profile.document.video),
                    _sound(profile.document.audio),
                    _ceiling(profile),
                )
                for profile in catalog.profiles
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _calls(preset: Preset) -> str:
    document, roles, default = preset.document, preset.document.roles, default_role(preset)
    needed = [name for name, role in roles.items() if not role.optional] or [*roles]

    def inputs(names: list[str]) -> str:
        files = {name: f"{name}.{_EXTENSIONS[roles[name].media]}" for name in names}
        return files[names[0]] if names == [default] else " ".join(f"{name}={file}" for name, file in files.items())

    def call(given: str, *options: str) -> str:
        return " ".join(["mediactl run", given, f"--preset {document.full_name}", *options, "--output out/"])

    settings = [f"-p {name}={_typed(parameter.default)}" for name, parameter in document.parameters.items()]
    lines = [
        call(inputs(needed)),
        *([call(inputs([*roles]))] if len(needed) < len(roles) else []),
        call(inputs(needed), *settings, f"--profile {document.default_profile}"),
    ]
    told = f"The last says what holds anyway. `{document.name}` without its version is the newest one."
    return "\n\n".join([code("\n".join(lines), "sh"), told])


def _typed(value: object) -> str:
    text = plain(value)
    return text if re.fullmatch(r"[\w.+-]+", text) else "'" + text.replace("'", "'\\''") + "'"


def _roles(preset: Preset) -> str:
    rows = [_role_row(name, role, default_role(preset)) for name, role in preset.document.roles.items()]
    return table(("Role", "Takes", ""), rows)


def _role_row(name: str, role: Role, default: str | None) -> tuple[str, ...]:
    traits = [
        prose(role.description),
        "optional" if role.optional else "",
        "may be given several times" if role.repeat else "",
        "takes inputs given without a role" if name == default else "",
    ]
    return f"`{name}`", role.media.value, "; ".join(trait for trait in traits if trait)


def _parameters(document: PresetDocument) -> str:
    if not document.parameters:
        return "Nothing: it has no parameters."
    rows = [_parameter_row(name, parameter) for name, parameter in document.parameters.items()]
    return table(("Parameter", "Default", "Allowed", ""), rows)


def _parameter_row(name: str, parameter: Parameter) -> tuple[str, ...]:
    default = prose(plain(parameter.default))
    match parameter:
        case NumberParameter() | IntegerParameter():
            in_unit = f" {prose(parameter.unit)}" if parameter.unit else ""
            whole = "whole numbers, " if isinstance(parameter, IntegerParameter) else ""
            default += in_unit
            allowed = f"{whole}{plain(parameter.min)} to {plain(parameter.max)}{in_unit}"
        case BooleanParameter():
            allowed = "true, false"
        case ChoiceParameter():
            allowed = prose(", ".join(parameter.choices))
        case TextParameter():
            allowed = f"text of at most {parameter.max_length} characters"
            default = default or "empty"
        case _:
            assert_never(parameter)
    return f"`{name}`", default, allowed, prose(parameter.description)


def _delivery(document: PresetDocument, profile: Profile) -> str:
    parts = [_file(profile), _picture(profile.document.video), _sound(profile.document.audio)]
    levelled = any(step["op"] == "loudness" for chain in document.chain.values() for step in chain.steps)
    if levelled and _ceiling(profile):
        parts.append(f"true peaks at or below {_ceiling(profile)}, measured on the encoded file")
    return (
        f"The result is packed as [`{profile.full_name}`]({INDEX}#profiles) unless another profile is named: "
        f"{'; '.join(part for part in parts if part)}."
    )


def _promises(document: PresetDocument) -> Iterator[str]:
    if document.check:
        yield "## What is promised"
        yield (
            "Each line is a test against the real FFmpeg: of synthetic recordings, the file that comes out is decoded "
            "and\nmeasured."
        )
        yield "\n".join(f"- {_promise(check)}" for check in document.check)


def _promise(check: Check) -> str:
    given = [f"`{role}` {unitless(source.removeprefix('synth:'))}" for role, source in check.inputs.items()]
    given += [f"`{name}={prose(plain(value))}`" for name, value in check.parameters.items()]
    given += [f"`{check.profile}`"] if check.profile else []
    expected = [
        f"{unitless(measure)} {plain(low)}{'' if low == high else f' to {plain(high)}'}{unit(measure)}"
        for measure, (low, high) in check.expect.items()
    ]
    return f"{', '.join(given)}: {'; '.join(expected)}"


def _file(profile: Profile) -> str:
    container, extension = profile.document.container, profile.document.extension
    return f".{extension}" if extension == container else f".{extension} ({container})"


def _picture(spec: VideoSpec | None) -> str:
    if spec is None:
        return ""
    size = f", up to {spec.max_height}p" if spec.max_height else ""
    return f"{spec.codec}, quality {spec.quality}{size}, GPU: {spec.hardware.value}"


def _sound(spec: AudioSpec | None) -> str:
    if spec is None:
        return ""
    set_ = spec.model_dump(exclude={"kind", "codec", "encoders", "layouts"}, exclude_none=True)
    traits = [f"{unitless(name)} {plain(value)}{unit(name)}" for name, value in set_.items()]
    kept = [] if spec.sample_rate_hz else ["the source's sample rate"]
    return ", ".join([spec.codec, *traits, *kept, " / ".join(spec.layouts)])


def _ceiling(profile: Profile) -> str:
    ceiling = profile.document.delivery.ceiling_dbtp
    return "" if ceiling is None else f"{plain(ceiling)} dBTP"
