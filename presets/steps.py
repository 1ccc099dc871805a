"""A chain's steps as operations."""

from collections.abc import Mapping

from presets.document import PresetDocument, Value
from presets.operations import OPERATIONS, Operation
from presets.parameters import substitute


def operations(document: PresetDocument, chain: str, parameters: Mapping[str, Value]) -> tuple[Operation, ...]:
    """The operations of a chain with the parameters' values filled in.

    :raises pydantic.ValidationError: an operation does not take a value, as a request that was resolved never has.
    """
    return tuple(
        OPERATIONS[str(step["op"])].model_validate(substitute(dict(step), parameters))
        for step in document.chain[chain].steps
    )
