"""Sizes as people write them."""

import re
from typing import Final

import click

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b?|b)?", re.IGNORECASE | re.ASCII)
_POWERS: Final = "bkmgt"


class Size(click.ParamType[int]):
    """Bytes, from e.g. `500MB`, `1.5 GiB` or `0`. Units with an i are binary, the others decimal."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """In bytes."""
        match = _SIZE.fullmatch(str(value))
        if match is None:
            self.fail(f"expected a size such as 500MB or 5GiB, not {value!r}", param, ctx)
        unit = (match[2] or "b").lower()
        return int(float(match[1]) * (1024 if "i" in unit else 1000) ** _POWERS.index(unit[0]))
