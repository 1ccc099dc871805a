"""Pieces of Markdown (GitHub's), from text that anybody may have written."""

import re
from collections.abc import Sequence


def prose(text: str) -> str:
    """Text that stays text: no HTML, link, picture, emphasis or heading comes of it. Code in backticks stays code."""
    harmless = re.sub(r"([<*\[\]\\])", r"\\\1", text.strip())
    return re.sub(r"(?m)^(\s*)([#>+=-]|\d+[.)])(?=\s|$|[=-])", r"\1\\\2", harmless)


def code(text: str, language: str) -> str:
    """A block of code, whatever is in it."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; each cell is one line of Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
