"""A caller's request, checked and resolved: everything an agent needs to compile it without a catalog of its own."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from presets import tags
from presets.catalog import Catalog, Preset, Profile
from presets.document import Media, Value
from presets.parameters import expected, from_text
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason
from presets.semantics import last_chain, reworded, suggestion
from presets.steps import operations
from presets.tags import Tags
from presets.uris import WEB, Place, UnsupportedScheme, join, place, same_place, shown, stem

_T = TypeVar("_T")

_PROFILE_PREFIX = "profile."


@dataclass(frozen=True, slots=True)
class InputRef:
    """An input in its role."""

    role: str
    uri: str


@dataclass(frozen=True, slots=True)
class OutputRef:
    """An output: its profile with the caller's overrides, its exact URI, and a name unique in the job and safe."""

    profile: Profile
    uri: str
    name: str


@dataclass(frozen=True, slots=True)
class Intent:
    """What a job is to make of what; ``parameters`` holds every parameter of the preset.

    ``reuse``: what an earlier job made of the same will do.
    """

    preset: Preset
    inputs: tuple[InputRef, ...]
    parameters: Mapping[str, Value]
    outputs: tuple[OutputRef, ...]
    overwrite: bool
    tags: Tags = field(default_factory=Tags)
    reuse: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; the preset and the profiles stand there as the keys of :meth:`texts`."""
        return {
            "preset": text_digest(self.preset.text),
            "inputs": [{"role": i.role, "uri": i.uri} for i in self.inputs],
            "parameters": dict(self.parameters),
            "outputs": [
                {
                    "profile": text_digest(o.profile.text),
                    "overrides": dict(o.profile.overrides),
                    "uri": o.uri,
                    "name": o.name,
                }
                for o in self.outputs
            ],
            "overwrite": self.overwrite,
            "tags": self.tags.to_json(),
            "reuse": self.reuse,
        }

    def texts(self) -> dict[str, str]:
        """The documents of the preset and the profiles by their SHA-256."""
        return {text_digest(text): text for text in (self.preset.text, *(o.profile.text for o in self.outputs))}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], texts: Mapping[str, str]) -> Self:
        """The inverse of :meth:`to_json` and :meth:`texts`.

        :raises InvalidDocument: a text is not valid here, for instance because it needs a newer program.
        """
        return cls(
            preset=Preset.from_text(texts[document["preset"]]),
            inputs=tuple(InputRef(i["role"], i["uri"]) for i in document["inputs"]),
            parameters=MappingProxyType(dict(document["parameters"])),
            outputs=tuple(
                OutputRef(
                    profile=Profile.from_text(texts[o["profile"]]).overridden(o["overrides"]),
                    uri=o["uri"],
                    name=o["name"],
                )
                for o in document["outputs"]
            ),
            overwrite=bool(document["overwrite"]),
            tags=Tags.from_json(document["tags"]) if "tags" in document else Tags(),
            reuse=bool(document.get("reuse")),
        )


MANIFEST = "job.json"
"""What the manifest of a job is called, behind the job's id. No output's name has a full stop."""


def manifest_uri(outputs: Sequence[str], job_id: str) -> str | None:
    """Beside the first of the outputs' URIs; None: the job makes no set, for one artifact tells that it is complete."""
    return f"{outputs[0].rpartition('/')[0]}/{job_id}.{MANIFEST}" if len(outputs) > 1 else None


@lru_cache(maxsize=1024)
def text_digest(text: str) -> str:
    """SHA-256 of a document's text, hexadecimal: what an intent names it by."""
    return hashlib.sha256(text.encode()).hexdigest()


def resolve(
    catalog: Catalog,
    *,
    inputs: Sequence[tuple[str, str]],
    preset: str,
    params: Mapping[str, str],
    outputs: Sequence[tuple[str, str]],
    overwrite: bool = False,
    reuse: bool = False,
) -> Intent:
    """Check a request against the catalog and fill in what it leaves open.

    :param inputs: (role, URI); the role "" means the preset's default role.
    :param preset: a preset's name, with or without version.
    :param params: the preset's parameters as text, and ``profile.KEY`` to override a key of every profile that has a
        stream of the kind which the key belongs to, and ``tag.NAME`` for what the files say of themselves.
    :param outputs: (profile, URI); the profile "" means the preset's default. A URI that ends in ``/`` is a prefix:
        the name becomes ``{stem of the default role's input}.{profile}.{extension}``.
    :raises InvalidRequest: with every problem found. Fields are paths: ``inputs[0].role``, ``params.target_lufs``,
        ``outputs[0].uri``.
    """
    problems: list[Problem] = []

    def attempt(field: str, make: Callable[[], _T]) -> _T | None:
        try:
            return make()
        except InvalidRequest as error:
            problems.extend(Problem(p.reason, field or p.field, p.message) for p in error.problems)
        except UnsupportedScheme as error:
            problems.append(Problem(Reason.INPUT_UNSUPPORTED_SCHEME, field, str(error)))
        except ValueError as error:
            problems.append(Problem(Reason.INVALID_ARGUMENT, field, str(error)))
        return None

    for index, (_, uri) in enumerate(inputs):
        at = attempt(f"inputs[{index}].uri", partial(place, uri))
        if at is not None and at.path.endswith("/") and at.store not in WEB:
            problems.append(Problem(Reason.INVALID_ARGUMENT, f"inputs[{index}].uri", f"{uri!r} names a directory"))
    valid_outputs = [
        attempt(f"outputs[{index}].uri", partial(_writable, uri)) is not None for index, (_, uri) in enumerate(outputs)
    ]
    if not outputs:
        problems.append(Problem(Reason.INVALID_ARGUMENT, "outputs", "at least one output is needed"))

    chosen = attempt("preset", partial(catalog.preset, preset))
    refs: tuple[InputRef, ...] = ()
    parameters: Mapping[str, Value] = {}
    if chosen is not None:
        refs = _roles(chosen, inputs, problems)
        parameters = _parameters(chosen, params, problems)

    said, unfit = tags.from_parameters(params)
    problems += unfit
    overrides = {
        key.removeprefix(_PROFILE_PREFIX): _literal(text)
        for key, text in params.items()
        if key.startswith(_PROFILE_PREFIX)
    }
    found: list[Profile | None] = []
    for index, (name, _) in enumerate(outputs):
        wanted = name or (chosen.document.default_profile if chosen else "")
        found.append(attempt(f"outputs[{index}].profile", partial(catalog.profile, wanted)) if wanted else None)
    profiles: list[Profile | None] = []
    for index, known in enumerate(found):
        profile = known and attempt("", partial(known.overridden, _meant_for(known, found, overrides)))
        if chosen is not None and profile is not None and (told := _misfit(chosen, profile)):
            problems.append(Problem(Reason.UNSUPPORTED_COMBINATION, f"outputs[{index}].profile", told))
        profiles.append(profile)

    stems = _stems(chosen, refs) if not problems else ()
    made: list[OutputRef] = []
    names: Counter[str] = Counter()
    for index, ((_, uri), profile) in enumerate(zip(outputs, profiles, strict=True)):
        if profile is None or not valid_outputs[index]:
            continue
        names[profile.name] += 1
        suffix = f"-{names[profile.name]}" if names[profile.name] > 1 else ""
        name = profile.name + suffix
        exact = uri
        if uri.endswith("/"):
            exact = join(uri, f"{stems[0]}.{profile.name}.{profile.document.extension}") if stems else ""
        if exact:
            before = len(problems)
            _collisions(index, exact, [i.uri for i in refs], [o.uri for o in made], problems)
            made.append(OutputRef(profile, exact, name))
            if len(problems) == before and (told := _misnamed(catalog, exact, profile)):
                problems.append(Problem(Reason.UNSUPPORTED_COMBINATION, f"outputs[{index}].uri", told))
    if problems or chosen is None:
        raise InvalidRequest(*dict.fromkeys(problems))
    return Intent(chosen, refs, MappingProxyType(dict(parameters)), tuple(made), overwrite, said, reuse)


def _meant_for(profile: Profile, all_: Sequence[Profile | None], overrides: Mapping[str, Value]) -> Mapping[str, Value]:
    """What is for pictures leaves a file of sound or a report as it is, unless no other profile could be meant."""
    return {
        key: value
        for key, value in overrides.items()
        if not profile.lacks_place_for(key) or all(p is None or p.lacks_place_for(key) for p in all_)
    }


def _misnamed(catalog: Catalog, uri: str, profile: Profile) -> str:
    """Why a name promises another kind of file than the profile makes; empty: it does not.

    An ending that no profile has promises nothing, nor does one that several containers share.
    """
    _, dot, ending = uri.rpartition("/")[2].lower().rpartition(".")
    fitting = [one for one in catalog.profiles if dot and one.document.extension == ending]
    if not fitting or any(one.document.container == profile.document.container for one in fitting):
        return ""
    names = ", ".join(sorted({one.name for one in fitting}))
    return (
        f"{profile.full_name} makes .{profile.document.extension} files, and the name ends in .{ending}: ask for "
        f"{names}, for another name, or for a folder ending in /, where it is named rightly"
    )


def _misfit(preset: Preset, profile: Profile) -> str:
    """Why this preset cannot fill this profile; empty: it can. Beside a picture, sound may be absent."""
    media = Media.VIDEO if profile.document.video is not None else Media.AUDIO
    if last_chain(preset.document, media) is not None:
        return ""
    return f"{profile.full_name} has a stream of {media}, and {preset.full_name} makes none"


def _roles(preset: Preset, inputs: Sequence[tuple[str, str]], problems: list[Problem]) -> tuple[InputRef, ...]:
    roles = preset.document.roles
    default = default_role(preset)
    refs: list[InputRef] = []
    taken: Counter[str] = Counter()
    for index, (given, uri) in enumerate(inputs):
        field = f"inputs[{index}].role"
        role = given or default
        if role is None:
            told = f"{preset.full_name} has no default role: say one of {', '.join(roles)}"
            problems.append(Problem(Reason.ROLE_MISSING, field, told))
        elif role not in roles:
            told = f"{preset.full_name} has no role {role!r}{suggestion(role, list(roles))}"
            problems.append(Problem(Reason.ROLE_UNKNOWN, field, told))
        else:
            taken[role] += 1
            if taken[role] == 2 and not roles[role].repeat:
                told = f"the role {role!r} of {preset.full_name} takes one input"
                problems.append(Problem(Reason.ROLE_REPEATED, field, told))
            refs.append(InputRef(role, uri))
    for name, declared in roles.items():
        if not declared.optional and not taken[name]:
            told = f"{preset.full_name} needs an input for its role {name!r}"
            problems.append(Problem(Reason.ROLE_MISSING, "inputs", told))
    if not inputs and all(declared.optional for declared in roles.values()):
        problems.append(Problem(Reason.ROLE_MISSING, "inputs", "at least one input is needed"))
    return tuple(refs)


def default_role(preset: Preset) -> str | None:
    """The role an input without one takes: the one marked so, or the only one."""
    roles = preset.document.roles
    marked = next((name for name, role in roles.items() if role.default), None)
    return marked or (next(iter(roles)) if len(roles) == 1 else None)


def _parameters(preset: Preset, params: Mapping[str, str], problems: list[Problem]) -> Mapping[str, Value]:
    declared = preset.document.parameters
    values = {name: parameter.default for name, parameter in declared.items()}
    for key, text in params.items():
        if key.startswith((_PROFILE_PREFIX, tags.PREFIX)):
            continue
        if key not in declared:
            told = f"{preset.full_name} has no parameter {key!r}"
            told += suggestion(key, list(declared)) if declared else "; it takes none"
            problems.append(Problem(Reason.PARAMETER_UNKNOWN, f"params.{key}", told))
            continue
        value = from_text(declared[key], text)
        if value is None:
            told = f"{text!r} is not {expected(declared[key])}"
            problems.append(Problem(Reason.PARAMETER_OUT_OF_RANGE, f"params.{key}", told))
        else:
            values[key] = value
    # Steps accept both ends of every parameter's range, but some take only certain values between them.
    for chain in preset.document.chain:
        try:
            operations(preset.document, chain, values)
        except ValidationError as error:
            told = f"chain {chain}: " + "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {reworded(e['msg'])}" for e in error.errors()
            )
            problems.append(Problem(Reason.PARAMETER_OUT_OF_RANGE, "params", told))
    return values


def _stems(preset: Preset | None, refs: Sequence[InputRef]) -> tuple[str, ...]:
    default = default_role(preset) if preset else None
    ordered = sorted(refs, key=lambda ref: ref.role != default)
    return tuple(stem(ref.uri) for ref in ordered)


def _collisions(index: int, uri: str, inputs: Sequence[str], outputs: Sequence[str], problems: list[Problem]) -> None:
    for kind, others in (("input", inputs), ("output", outputs)):
        if any(_same(uri, other) for other in others):
            told = f"{uri} is also an {kind} of this job; give each output a name of its own"
            problems.append(Problem(Reason.OUTPUT_COLLISION, f"outputs[{index}].uri", told))


def _same(first: str, second: str) -> bool:
    try:
        return same_place(first, second)
    except ValueError:
        return False  # a malformed URI has its own problem already


def _writable(uri: str) -> Place:
    at = place(uri)
    if at.store in WEB:
        raise UnsupportedScheme(f"{shown(uri)!r}: {at.store}: is for inputs; outputs go to file: or a store of objects")
    return at


def _literal(text: str) -> Value:
    """A profile key's value as a caller wrote it; the profile's own model decides whether it fits."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(r"[+-]?\d{1,9}", text):
        return int(text)
    if re.fullmatch(r"[+-]?\d{1,9}\.\d{1,9}", text):
        return float(text)
    return text
