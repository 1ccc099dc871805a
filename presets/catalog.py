"""The presets and profiles there are, by name and version."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Protocol, Self, TypeVar

from pydantic import ValidationError

from presets.document import Media, PresetDocument, ProfileDocument, Value
from presets.operations import OPERATIONS
from presets.parse import findings_of, load, parse, parse_preset, parse_profile
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason
from presets.semantics import profile_findings, suggestion


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset: immutable under its full name. ``digest`` covers the document and its operations' revisions."""

    full_name: str
    name: str
    version: int
    title: str
    description: str
    digest: str
    text: str
    document: PresetDocument

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that its chains use, by name."""
        return _operations(self.document)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The preset a TOML text describes.

        :raises InvalidDocument: the text is no valid preset.
        """
        document = parse_preset(text)
        revisions = {op: OPERATIONS[op].revision for op in _operations(document)}
        return cls(
            full_name=document.full_name,
            name=document.name,
            version=document.version,
            title=document.title,
            description=document.description,
            digest=_digest({"document": load(text), "revisions": revisions}),
            text=text,
            document=document,
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile, as its text says but for ``overrides``: keys of its stream and delivery that a caller set."""

    full_name: str
    name: str
    version: int
    title: str
    description: str
    digest: str
    text: str
    document: ProfileDocument
    overrides: Mapping[str, Value]

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The profile a TOML text describes.

        :raises InvalidDocument: the text is no valid profile.
        """
        document = parse_profile(text)
        return cls(
            full_name=document.full_name,
            name=document.name,
            version=document.version,
            title=document.title,
            description=document.description,
            digest=_digest({"document": load(text), "overrides": {}}),
            text=text,
            document=document,
            overrides=MappingProxyType({}),
        )

    def lacks_place_for(self, key: str) -> bool:
        """Whether ``key`` belongs to a kind of stream, or to a sort of profile, that this one is not."""
        if key in _STREAM_KEYS:
            return all(stream.kind != _STREAM_KEYS[key] for stream in self.document.stream)
        return (key in _SILENCE_KEYS) if not self.document.reports else key in _DELIVERY_KEYS

    def overridden(self, overrides: Mapping[str, Value]) -> Self:
        """This profile with keys of its streams and delivery set to other values.

        :raises InvalidRequest: a key is unknown, or the profile would not be valid: one problem each, whose field is
            ``params.profile.KEY``.
        """
        if not overrides:
            return self
        values = load(self.text)
        problems: list[Problem] = []
        for key, value in overrides.items():
            told = ""
            if key not in _KEYS:
                told = f"a profile has no {key!r}{suggestion(key, _KEYS)}"
            elif self.lacks_place_for(key):
                of = f"stream of {_STREAM_KEYS[key]}" if key in _STREAM_KEYS else "part"
                told = f"{self.full_name} has no {of}, which {key!r} belongs to"
            elif key in _STREAM_KEYS:
                for stream in values["stream"]:
                    if stream["kind"] == _STREAM_KEYS[key]:
                        stream[key] = value
            else:
                values.setdefault("delivery" if key in _DELIVERY_KEYS else "silence", {})[key] = value
            if told:
                problems.append(Problem(Reason.PARAMETER_UNKNOWN, f"params.profile.{key}", told))
        document = self.document
        try:
            document = ProfileDocument.model_validate(values)
            findings = profile_findings(document)
        except ValidationError as error:
            findings = findings_of(error, ProfileDocument)
        problems += [
            Problem(
                Reason.PARAMETER_OUT_OF_RANGE,
                f"params.profile.{_innermost(path)}",
                f"{self.full_name}: {message}",
            )
            for path, message in findings
        ]
        if problems:
            raise InvalidRequest(*problems)
        return replace(
            self,
            document=document,
            overrides=MappingProxyType(dict(overrides)),
            digest=_digest({"document": load(self.text), "overrides": dict(overrides)}),
        )


#: Keys of a stream that a caller may set -> the kind of stream they belong to.
_STREAM_KEYS: Mapping[str, Media] = MappingProxyType(
    {
        **dict.fromkeys(("bitrate_kbps", "vbr_quality", "bits", "sample_rate_hz"), Media.AUDIO),
        **dict.fromkeys(("hardware", "quality", "max_height", "gop_s"), Media.VIDEO),
    }
)
_DELIVERY_KEYS = ("ceiling_dbtp", "max_encodes", "faststart", "cover", "chapters")
_SILENCE_KEYS = ("below_dbfs", "at_least_s")
_KEYS = (*_STREAM_KEYS, *_DELIVERY_KEYS, *_SILENCE_KEYS)


class _Versioned(Protocol):
    """What presets and profiles have in common."""

    @property
    def full_name(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def digest(self) -> str: ...


_V = TypeVar("_V", bound=_Versioned)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Presets and profiles by full name; ``dialogue_clean`` alone means its newest version."""

    _presets: Mapping[str, Preset]
    _profiles: Mapping[str, Profile]

    @classmethod
    def shipped(cls) -> "Catalog":
        """The library that comes with this program."""
        return _shipped()

    @property
    def presets(self) -> tuple[Preset, ...]:
        """All presets, by name, newest version first."""
        return _sorted(self._presets)

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """All profiles, by name, newest version first."""
        return _sorted(self._profiles)

    def preset(self, name: str) -> Preset:
        """The preset of that full name, or the newest version of that name.

        :raises InvalidRequest: PRESET_NOT_FOUND.
        """
        found = _find(self._presets, name)
        if found is None:
            told = f"there is no preset {name!r}{_like(self._presets, name)}"
            raise InvalidRequest(Problem(Reason.PRESET_NOT_FOUND, "preset", told))
        return found

    def profile(self, name: str) -> Profile:
        """The profile of that full name, or the newest version of that name.

        :raises InvalidRequest: PROFILE_NOT_FOUND.
        """
        found = _find(self._profiles, name)
        if found is None:
            told = f"there is no profile {name!r}{_like(self._profiles, name)}"
            raise InvalidRequest(Problem(Reason.PROFILE_NOT_FOUND, "profile", told))
        return found

    def with_documents(self, preset_texts: Iterable[str], profile_texts: Iterable[str]) -> "Catalog":
        """This catalog and the presets and profiles of these texts.

        :raises InvalidDocument: a text is no valid document.
        :raises InvalidRequest: PRESET_CONFLICT for a changed document under a version that exists, PROFILE_NOT_FOUND
            for a default profile that does not.
        """
        presets, profiles = dict(self._presets), dict(self._profiles)
        problems: list[Problem] = []
        added = [Preset.from_text(text) for text in preset_texts]
        for profile in map(Profile.from_text, profile_texts):
            problems += _conflict(profiles, profile)
            profiles[profile.full_name] = profile
        for preset in added:
            problems += _conflict(presets, preset)
            presets[preset.full_name] = preset
        for preset in added:
            if preset.document.default_profile not in profiles:
                told = f"{preset.full_name}: no profile {preset.document.default_profile!r}"
                problems.append(
                    Problem(
                        Reason.PROFILE_NOT_FOUND,
                        "default_profile",
                        told + _like(profiles, preset.document.default_profile),
                    )
                )
        if problems:
            raise InvalidRequest(*problems)
        return Catalog(MappingProxyType(presets), MappingProxyType(profiles))


@cache
def _shipped() -> Catalog:
    texts = sorted(
        entry.read_text(encoding="utf-8")
        for entry in resources.files("presets").joinpath("library").iterdir()
        if entry.name.endswith(".toml")
    )
    presets = [text for text in texts if isinstance(parse(text), PresetDocument)]
    profiles = [text for text in texts if text not in presets]
    return Catalog(MappingProxyType({}), MappingProxyType({})).with_documents(presets, profiles)


def _conflict(known: Mapping[str, _V], new: _V) -> list[Problem]:
    old = known.get(new.full_name)
    if old is None or old.digest == new.digest:
        return []
    told = f"{new.full_name} exists with other contents; versions never change, so raise version"
    return [Problem(Reason.PRESET_CONFLICT, "version", told)]


def _find(known: Mapping[str, _V], name: str) -> _V | None:
    if name in known:
        return known[name]
    return max((v for v in known.values() if v.name == name), key=lambda v: v.version, default=None)


def _like(known: Mapping[str, _Versioned], name: str) -> str:
    names = {v.name for v in known.values()}
    if re.sub(r"_v\d+$", "", name) in names:
        versions = sorted(v.full_name for v in known.values() if name.startswith(v.name))
        return f"; there is {', '.join(versions)}"
    return suggestion(re.sub(r"_v\d+$", "", name), sorted(names))


def _sorted(known: Mapping[str, _V]) -> tuple[_V, ...]:
    return tuple(sorted(known.values(), key=lambda v: (v.name, -v.version)))


def _innermost(path: Sequence[str | int]) -> str:
    return str(next((key for key in reversed(path) if isinstance(key, str)), "profile"))


def _operations(document: PresetDocument) -> tuple[str, ...]:
    return tuple(sorted({str(step["op"]) for chain in document.chain.values() for step in chain.steps}))


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()
