"""Data on stdout: tables for people; for programs the canonical protobuf JSON of the API's messages, or YAML."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, assert_never
from urllib.parse import unquote, urlsplit

import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ctl.settings import Format, Settings
from mediactl.v1 import job_pb2

# Wide enough that nothing is wrapped or cut off.
_UNBOUNDED: Final = 10_000

_STYLES: Final[Mapping[int, str]] = {
    job_pb2.JOB_STATE_COMPLETED: "green",
    job_pb2.JOB_STATE_DEAD: "red",
    job_pb2.JOB_STATE_FAILED: "yellow",
    job_pb2.JOB_STATE_PROCESSING: "cyan",
    job_pb2.JOB_STATE_HELD: "magenta",
}


def data(message: Message) -> dict[str, Any]:
    """The canonical protobuf JSON form: lowerCamelCase, enum names, zero values included, int64 as text."""
    document: dict[str, Any] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return document


def structured(document: object, form: Format) -> str:
    """JSON or YAML text of plain data."""
    match form:
        case Format.JSON:
            return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        case Format.YAML:
            text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
            return text
        case Format.TABLE:
            raise ValueError("a table is not structured data")
        case _:
            assert_never(form)


def write(document: object, settings: Settings) -> None:
    """Prints plain data as JSON or YAML."""
    print(structured(document, settings.format), end="")


def write_line(message: Message, settings: Settings) -> None:
    """Prints one message of a stream: an object on one line, or a YAML document."""
    if settings.format is Format.YAML:
        print("---\n" + structured(data(message), Format.YAML), end="", flush=True)
    else:
        print(json.dumps(data(message), ensure_ascii=False), flush=True)


def jobs_data(jobs: Sequence[job_pb2.Job], *, several: bool) -> dict[str, Any]:
    """One job as itself, several as `{"jobs": [...]}`."""
    return {"jobs": [data(job) for job in jobs]} if several else data(jobs[0])


def console(settings: Settings, *, stderr: bool = False) -> Console:
    """A console for tables and remarks."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        no_color=not settings.color,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
        width=None if stream.isatty() else _UNBOUNDED,
    )


def plain(text: str) -> str:
    """Text from elsewhere, made harmless for a terminal: control characters are shown, not obeyed."""
    return "".join(char if char.isprintable() or char == "\n" else _shown(char) for char in text)


def _shown(char: str) -> str:
    return " " if char == "\t" else char.encode("unicode_escape", "backslashreplace").decode("ascii")


def table(settings: Settings, heads: Sequence[str], rows: Iterable[Sequence[str | Text]], *, empty: str) -> None:
    """Prints a table on stdout; where there are no rows, `empty` as a remark on stderr."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        grid.add_column(head, overflow="fold")
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row))
    if grid.row_count:
        _show(grid, settings)
    elif not settings.quiet:
        console(settings, stderr=True).print(Text(empty))


def details(settings: Settings, rows: Iterable[tuple[str, str | Text]]) -> None:
    """Prints names and values, one pair a line; pairs with an empty value are left out."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value:
            grid.add_row(name, value if isinstance(value, Text) else Text(plain(value)))
    _show(grid, settings)


def _show(grid: Table, settings: Settings) -> None:
    out = console(settings)
    # Long lines are the terminal's to wrap: a path folded into its column can't be copied.
    out.width = _UNBOUNDED
    with out.capture() as captured:
        out.print(grid)
    # Columns are padded to their width, the last one too.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def state(value: int) -> Text:
    """A state in a word."""
    return Text(state_word(value), style=_STYLES.get(value, ""))


def state_word(value: int) -> str:
    """E.g. `COMPLETED`; the number of one that only a newer server knows."""
    known = job_pb2.JobState.DESCRIPTOR.values_by_number.get(value)
    return known.name.removeprefix("JOB_STATE_") if known else str(value)


def place(uri: str) -> str:
    """A `file:` URI as its path, any other as it is."""
    parts = urlsplit(uri)
    return unquote(parts.path, errors="surrogateescape") if parts.scheme == "file" else uri


def moment(timestamp: Timestamp) -> str:
    """Local time to the second; empty where unset."""
    if not timestamp.ByteSize():
        return ""
    return timestamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age_s(timestamp: Timestamp) -> float:
    """Seconds since."""
    return (datetime.now(UTC) - timestamp.ToDatetime(UTC)).total_seconds()


def duration(seconds: float) -> str:
    """E.g. `8.4 s`, `6:12`, `1:02:03`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def size(count: int) -> str:
    """Bytes with a binary unit, e.g. `3.4 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
