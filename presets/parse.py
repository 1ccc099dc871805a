"""TOML text to documents, and for what is wrong the line, the field and what was expected."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from presets.document import Document, PresetDocument, ProfileDocument
from presets.positions import Path, Position, positions
from presets.semantics import Finding, preset_findings, profile_findings, reworded, suggestion

_D = TypeVar("_D", bound=Document)


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing wrong with a document; line and column count from 1, ``field`` is a path like ``roles.voice``."""

    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.field or 'document'}: {self.message}"


class InvalidDocument(Exception):
    """A text is no valid preset or profile, for every reason in ``complaints``, in the order of the text."""

    def __init__(self, complaints: Sequence[Complaint]) -> None:
        super().__init__("\n".join(map(str, complaints)))
        self.complaints: tuple[Complaint, ...] = tuple(complaints)


def parse_preset(text: str) -> PresetDocument:
    """The preset a TOML text describes.

    :raises InvalidDocument: with everything that is wrong; problems of meaning are looked for once the shape is right.
    """
    document = _shaped(text, PresetDocument)
    _refuse(text, preset_findings(document))
    return document


def parse_profile(text: str) -> ProfileDocument:
    """The profile a TOML text describes.

    :raises InvalidDocument: as :func:`parse_preset`.
    """
    document = _shaped(text, ProfileDocument)
    _refuse(text, profile_findings(document))
    return document


def parse(text: str) -> PresetDocument | ProfileDocument:
    """The preset or profile a TOML text describes: one with a container or a stream is a profile.

    :raises InvalidDocument: as :func:`parse_preset`.
    """
    is_profile = not {"container", "stream"}.isdisjoint(load(text))
    return parse_profile(text) if is_profile else parse_preset(text)


def load(text: str) -> dict[str, Any]:
    """The values of a TOML text.

    :raises InvalidDocument: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        told = str(error)
        at = re.search(r" \(at line (\d+), column (\d+)\)$", told)
        if at is None:  # the error is at the end of the text
            line, column, message = text.count("\n") + 1, 1, re.sub(r" \(at end of document\)$", "", told)
        else:
            line, column, message = int(at[1]), int(at[2]), told[: at.start()]
        raise InvalidDocument([Complaint(line, column, "", f"not TOML: {message}")]) from error
    except (ValueError, RecursionError) as error:
        # What the reader trips over without saying where: numbers of thousands of digits, brackets thousands deep.
        raise InvalidDocument([Complaint(1, 1, "", "a number is too long or brackets are nested too deep")]) from error


def findings_of(error: ValidationError, model: type[Document]) -> list[Finding]:
    """A validation's errors as paths and what was expected."""
    details = error.errors()
    return [
        (_place(detail), _expectation(detail, model))
        for detail in details
        # A list is also called too short when its only element was refused, which is said already.
        if not (detail["type"] == "too_short" and any(_below(other["loc"], detail["loc"]) for other in details))
    ]


def _place(detail: Any) -> Path:
    """Where an error is: for a table of an unknown kind, the key that tells its kind."""
    path: Path = detail["loc"]
    return (*path, _discriminator(detail)) if detail["type"] == "union_tag_invalid" else path


def _below(path: Path, ancestor: Path) -> bool:
    return len(path) > len(ancestor) and path[: len(ancestor)] == ancestor


def _shaped(text: str, model: type[_D]) -> _D:
    values = load(text)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        _refuse(text, findings_of(error, model))
        raise  # a validation error without details does not happen


def _refuse(text: str, findings: Iterable[Finding]) -> None:
    findings = list(findings)
    known = positions(text) if findings else {}
    complaints = sorted(
        (_complaint(known, path, message) for path, message in findings), key=lambda c: (c.line, c.column)
    )
    if complaints:
        raise InvalidDocument(list(dict.fromkeys(complaints)))


def _complaint(known: Mapping[Path, Position], path: Path, message: str) -> Complaint:
    """Where ``path`` stands: at its longest prefix that the text has, past names that only the models know."""
    place: Path = ()
    field: list[str | int] = []
    for number, key in enumerate(path):
        if (*place, key) in known:
            place = (*place, key)
            field.append(key)
        elif number == len(path) - 1 and isinstance(key, str) and key not in ("[key]", "is_"):
            field.append(key)
    at = known.get(place, Position(1, 1))
    return Complaint(at.line, at.column, _dotted(field), message)


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _expectation(detail: Any, model: type[Document]) -> str:
    kind, path, message = detail["type"], detail["loc"], str(detail["msg"])
    if kind == "missing" and isinstance(path[-1], int):
        return "this list is too short: expected [lowest, highest]"
    if kind == "missing":
        return "this field is needed and absent"
    if kind == "extra_forbidden":
        fields = [f.alias or name for name, f in model.model_fields.items()] if len(path) == 1 else []
        return "this field is not known" + suggestion(str(path[-1]), fields)
    if kind == "string_pattern_mismatch":
        return f"expected text like {detail['ctx']['pattern']}"
    if kind == "union_tag_invalid":
        return f"{_discriminator(detail)} must be one of {detail['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        tag = _discriminator(detail)
        return f"{tag} is needed: " + (
            "audio or video" if tag == "kind" else "number, integer, boolean, choice or text"
        )
    return reworded(message)


def _discriminator(detail: Any) -> str:
    return str(detail["ctx"]["discriminator"]).strip("'")
