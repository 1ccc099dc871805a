"""What a caller wants said in a file about itself: title, artist and the like, which any preset takes."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from presets.problems import Problem
from presets.reasons import Reason

#: Before a tag's name among the parameters of a request.
PREFIX = "tag."

#: ``tag.keep=false`` drops what the source says of itself.
KEEP = "keep"

#: As FFmpeg names them; every container has its own names for them, and some have no place for one or the other.
NAMES = (
    *("title", "artist", "album", "album_artist", "composer", "genre", "date", "track", "disc"),
    *("description", "comment", "copyright"),
)

MAX_LENGTH = 1000
"""In characters."""

#: Control characters, halves of surrogate pairs, and what breaks a line.
_REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})

_SWITCH: Mapping[str, bool] = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Tags:
    """``values`` by name, of which an empty one removes a tag; ``keep``: whatever else the source says is kept."""

    keep: bool = True
    values: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"keep": self.keep, "values": dict(self.values)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(bool(document["keep"]), dict(document["values"]))


def from_parameters(params: Mapping[str, str]) -> tuple[Tags, list[Problem]]:
    """The tags among the parameters of a request, and what is wrong with them."""
    keep, values, problems = True, dict[str, str](), list[Problem]()
    for key, text in params.items():
        if not key.startswith(PREFIX):
            continue
        name, field_ = key.removeprefix(PREFIX), f"params.{key}"
        if name == KEEP:
            if (switch := _SWITCH.get(text.strip().lower())) is None:
                problems.append(Problem(Reason.PARAMETER_OUT_OF_RANGE, field_, f"{text!r} is not true or false"))
            else:
                keep = switch
        elif name not in NAMES:
            told = f"there is no tag {name!r}; expected one of {', '.join((*NAMES, KEEP))}"
            problems.append(Problem(Reason.PARAMETER_UNKNOWN, field_, told))
        elif told := _unfit(text):
            problems.append(Problem(Reason.PARAMETER_OUT_OF_RANGE, field_, told))
        else:
            values[name] = text
    return Tags(keep, values), problems


def _unfit(text: str) -> str:
    if len(text) > MAX_LENGTH:
        return f"a tag has at most {MAX_LENGTH} characters, this one has {len(text)}"
    odd = next((character for character in text if unicodedata.category(character) in _REFUSED), None)
    return "" if odd is None else f"a tag is one line without control characters, and this one has {odd!a}"
