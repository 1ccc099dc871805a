"""What benchmarks print: figures beside their baseline of the same run and beside their target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `at_most`: less is better, for value and target alike. `note` says what else was seen."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    baseline_name: str = ""
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """To the baseline; above 1 is better whichever way the figure counts."""
        if not self.baseline or not self.value:
            return None
        return self.baseline / self.value if self.at_most else self.value / self.baseline

    @property
    def met(self) -> bool | None:
        """Whether the target is; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


@dataclass(slots=True)
class Sheet:
    """Figures in the order in which they were taken; each is printed at once, so that a run cut short has told them."""

    figures: list[Figure] = field(default_factory=list)

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        print(_line(figure), flush=True)

    def table(self) -> str:
        """All of them again, aligned."""
        rows = [("figure", "value", "baseline", "ratio", "target", "")]
        for figure in self.figures:
            sign = "≤" if figure.at_most else "≥"
            rows.append(
                (
                    figure.name,
                    f"{_number(figure.value)} {figure.unit}",
                    f"{_number(figure.baseline)} {figure.baseline_name}" if figure.baseline is not None else "",
                    f"{figure.ratio:.2f}" if figure.ratio is not None else "",
                    f"{sign} {_number(figure.target)}" if figure.target is not None else "",
                    {True: "met", False: "MISSED", None: ""}[figure.met],
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def write(self, path: Path) -> None:
        """As JSON: a list of the figures with `ratio` and `met`."""
        path.write_text(
            json.dumps(
                [asdict(figure) | {"ratio": figure.ratio, "met": figure.met} for figure in self.figures], indent=1
            )
            + "\n"
        )


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share (0 to 1) of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _line(figure: Figure) -> str:
    parts = [f"{figure.name}: {_number(figure.value)} {figure.unit}"]
    if figure.ratio is not None and figure.baseline is not None:
        parts.append(f"{figure.ratio:.2f} × {figure.baseline_name} ({_number(figure.baseline)})")
    if figure.target is not None:
        parts.append(
            f"target {'≤' if figure.at_most else '≥'} {_number(figure.target)}: {'met' if figure.met else 'MISSED'}"
        )
    if figure.note:
        parts.append(figure.note)
    return "; ".join(parts)
