"""Values of parameters: which are allowed, how a caller's text becomes one, and where ``$name`` stands for one."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, assert_never

from presets.document import (
    BooleanParameter,
    ChoiceParameter,
    IntegerParameter,
    NumberParameter,
    Parameter,
    TextParameter,
    Value,
)

_BOOLEANS: Mapping[str, bool] = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def expected(parameter: Parameter) -> str:
    """What the parameter takes, in words."""
    match parameter:
        case NumberParameter():
            return f"a number from {parameter.min:g} to {parameter.max:g} {parameter.unit}".rstrip()
        case IntegerParameter():
            return f"a whole number from {parameter.min} to {parameter.max} {parameter.unit}".rstrip()
        case BooleanParameter():
            return "true or false"
        case ChoiceParameter():
            return "one of " + ", ".join(parameter.choices)
        case TextParameter():
            return f"text of at most {parameter.max_length} characters"
        case _:
            assert_never(parameter)


def allows(parameter: Parameter, value: Any) -> bool:
    """Whether ``value`` has the parameter's type and is within its range."""
    match parameter:
        case NumberParameter():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and math.isfinite(value) and parameter.min <= value <= parameter.max
        case IntegerParameter():
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole and parameter.min <= value <= parameter.max
        case BooleanParameter():
            return isinstance(value, bool)
        case ChoiceParameter():
            return isinstance(value, str) and value in parameter.choices
        case TextParameter():
            return isinstance(value, str) and len(value) <= parameter.max_length
        case _:
            assert_never(parameter)


def from_text(parameter: Parameter, text: str) -> Value | None:
    """The value that a caller wrote as ``text``; None where it is not one the parameter allows."""
    value: Value | None
    match parameter:
        case NumberParameter():
            value = _number(text)
        case IntegerParameter():
            value = _integer(text)
        case BooleanParameter():
            value = _BOOLEANS.get(text.strip().lower())
        case ChoiceParameter() | TextParameter():
            value = text
        case _:
            assert_never(parameter)
    return value if allows(parameter, value) else None


def extremes(parameter: Parameter) -> tuple[Value, ...]:
    """Values between which, or of which, every allowed value is."""
    match parameter:
        case NumberParameter() | IntegerParameter():
            return (parameter.min, parameter.max)
        case BooleanParameter():
            return (False, True)
        case ChoiceParameter():
            return parameter.choices
        case TextParameter():
            return ("", "x" * parameter.max_length)
        case _:
            assert_never(parameter)


def references(value: Any) -> Iterator[str]:
    """The names of the parameters that ``value`` refers to with ``$name``, at any depth."""
    if isinstance(value, str) and value.startswith("$"):
        yield value[1:]
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from references(inner)


def substitute(value: Any, values: Mapping[str, Value]) -> Any:
    """``value`` with every ``$name`` replaced by the parameter's value.

    :raises KeyError: a name has no value; documents that were parsed have none such.
    """
    if isinstance(value, str) and value.startswith("$"):
        return values[value[1:]]
    if isinstance(value, Mapping):
        return {key: substitute(inner, values) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [substitute(inner, values) for inner in value]
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
