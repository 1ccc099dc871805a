"""Sizes as people write them."""

import click
from pydantic import ByteSize, TypeAdapter, ValidationError

_SIZE = TypeAdapter(ByteSize)


class Size(click.ParamType[int]):
    """Bytes, from e.g. `500MB`, `1.5 GiB` or `0`."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """In bytes."""
        try:
            size = int(_SIZE.validate_python(value))
        except ValidationError:
            size = -1
        if size < 0:
            self.fail(f"expected a size such as 500MB or 5GiB, not {value!r}", param, ctx)
        return size
