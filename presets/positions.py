"""Where each key and value of a TOML text stands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

#: Keys and array indices from the document's root down.
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """Line and column, both from 1; the column counts characters."""

    line: int
    column: int


@cache
def _parser() -> "Parser":
    # Only refused documents need it, and no agent ever sees one.
    import tree_sitter_toml  # noqa: PLC0415
    from tree_sitter import Language, Parser  # noqa: PLC0415

    return Parser(Language(tree_sitter_toml.language()))


def positions(text: str) -> Mapping[Path, Position]:
    """The position of every key (for table entries) and every element (for arrays) of a valid TOML text."""
    found: dict[Path, Position] = {}
    lines = text.encode().split(b"\n")
    elements: dict[Path, int] = {}

    def note(path: Path, node: "Node") -> None:
        row, offset = node.start_point
        found.setdefault(path, Position(row + 1, len(lines[row][:offset].decode(errors="replace")) + 1))

    def resolve(keys: list[tuple[str, "Node"]]) -> Path:
        # A header such as [a.b] below [[a]] means the last element of a.
        path: Path = ()
        for key, node in keys:
            path = (*path, key)
            note(path, node)
            if path in elements:
                path = (*path, elements[path])
        return path

    def pairs(parent: "Node", base: Path) -> None:
        for pair in parent.named_children:
            if pair.type != "pair":
                continue
            path = base
            for key, node in _keys(pair.named_children[0]):
                path = (*path, key)
                note(path, node)
            value(pair.named_children[-1], path)

    def value(node: "Node", path: Path) -> None:
        if node.type == "inline_table":
            pairs(node, path)
        elif node.type == "array":
            for index, element in enumerate(n for n in node.named_children if n.type != "comment"):
                note((*path, index), element)
                value(element, (*path, index))

    root = _parser().parse(text.encode()).root_node
    pairs(root, ())
    for table in root.named_children:
        if table.type not in ("table", "table_array_element"):
            continue
        keys = list(_keys(table.named_children[0]))
        if table.type == "table":
            pairs(table, resolve(keys))
        else:
            *parents, (last, node) = keys
            array = (*resolve(parents), last)
            note(array, node)
            elements[array] = elements.get(array, -1) + 1
            note((*array, elements[array]), node)
            pairs(table, (*array, elements[array]))
    return found


def _keys(node: "Node") -> Iterator[tuple[str, "Node"]]:
    if node.type == "dotted_key":
        for child in node.named_children:
            yield from _keys(child)
    else:
        key = (node.text or b"").decode()
        yield (key[1:-1] if node.type == "quoted_key" else key), node
