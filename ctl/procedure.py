"""What a preset does, in words: its chains, their steps, and what each operation says of itself."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, assert_never

from ctl.markdown import prose
from presets.document import Condition, Given, Has, Media, NotGiven, ParameterIs, PresetDocument
from presets.operations import OPERATIONS, Operation

#: How the names of settings and measures end -> the unit they are in.
_UNITS: Final[Mapping[str, str]] = {
    "db": "dB",
    "dbfs": "dBFS",
    "dbtp": "dBTP",
    "hz": "Hz",
    "kbps": "kbit/s",
    "lu": "LU",
    "lufs": "LUFS",
    "ms": "ms",
    "percent": "%",
    "s": "s",
}


def procedure(document: PresetDocument) -> Iterator[str]:
    """Paragraphs and lists of Markdown about the chains in their order. An operation is explained where it is first
    met."""
    explained: set[str] = set()
    for name, chain in document.chain.items():
        sources = " and ".join(f"`{source}`" for source in chain.from_)
        kind = "the picture" if chain.media is Media.VIDEO else "the sound"
        yield f"**`{name}`** is {kind} of {sources}{_condition(chain.when)}{':' if chain.steps else ', as it is.'}"
        if chain.steps:
            yield "\n".join(_step(*numbered, document, explained) for numbered in enumerate(chain.steps, start=1))


def unit(name: str) -> str:
    """The unit of a setting or measure of that name, after a space; empty where it has none."""
    known = _UNITS.get(name.rpartition("_")[2])
    return f" {known}" if known else ""


def unitless(name: str) -> str:
    """A setting's or measure's name in words, without its unit: `true peak` of `true_peak_dbtp`."""
    words = name.split("_")
    return " ".join(words[:-1] if len(words) > 1 and words[-1] in _UNITS else words)


def plain(value: object) -> str:
    """A value as one would type it."""
    match value:
        case str():
            return str(value)
        case float():
            return f"{value:.10g}"
        case _:
            return json.dumps(value, ensure_ascii=False, default=str)


def _condition(condition: Condition | None) -> str:
    match condition:
        case None:
            return ""
        case Given():
            return f", where `{condition.given}` is given"
        case NotGiven():
            return f", where `{condition.not_given}` is not given"
        case ParameterIs():
            return f", where `{condition.parameter}` is {prose(plain(condition.is_))}"
        case Has():
            return f", where `{condition.role}` has {condition.has.value}"
        case _:
            assert_never(condition)


def _step(number: int, step: Mapping[str, Any], document: PresetDocument, explained: set[str]) -> str:
    op = str(step["op"])
    operation = OPERATIONS[op]
    says = "" if op in explained else f": {_documentation(operation)}"
    explained.add(op)
    stated = {name: value for name, value in step.items() if name != "op"}
    lines = [f"{number}. **`{op}`**{says}"]
    lines += [f"- `{name}`: {_setting(name, value, document)}" for name, value in stated.items()]
    lines += [
        f"- `{name}`: {_setting(name, value, document)} (the operation's own default)"
        for name, value in _defaults(operation).items()
        if name not in stated
    ]
    indent = " " * (len(str(number)) + 2)
    return re.sub(r"\n(?!\n)", f"\n{indent}", "\n".join(lines))


def _defaults(operation: type[Operation]) -> dict[str, object]:
    found = {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in operation.model_fields.items()
        if name != "op" and not field.is_required()
    }
    # Nothing given is nothing to tell.
    return {name: value for name, value in found.items() if value is not None and value not in ("", (), [], {})}


def _setting(name: str, value: object, document: PresetDocument) -> str:
    match value:
        case str() if value.startswith("$"):
            default = plain(document.parameters[value[1:]].default)
            return f"parameter `{value[1:]}`, by default {f'{prose(default)}{unit(name)}' if default else 'empty'}"
        case dict():
            # Of { bed = -6 } the setting names the unit, of { hz = 100 } the key does.
            named = {key: _setting(key if unit(key) else name, one, document) for key, one in value.items()}
            return ", ".join(f"`{key}` {one}" for key, one in named.items())
        case list() | tuple():
            return "; ".join(_setting(name, one, document) for one in value)
        case _:
            return f"{prose(plain(value))}{unit(name)}"


def _documentation(operation: type[Operation]) -> str:
    paragraphs = inspect.cleandoc(operation.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    # Docstrings are written for Sphinx: :class:`a.b.Name` and ``code``.
    return re.sub(r":[a-z]+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text).replace("``", "`")
