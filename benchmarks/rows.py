"""One row of `make bench`: two things, measured in turns within one run, and how many times the one is the other."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

HEAD = ("what", "unit", "first", "second", "first / second", "wanted")


@dataclass(frozen=True)
class Row:
    """A comparison.

    Attributes:
        what: the question, in a few words.
        unit: of the figures, such as "images per second".
        names: of the first and the second thing.
        first, second: their figures, one for each round.
        ratios: first / second, round by round, because a machine's speed drifts.
        at_least, at_most: what the course wants of the median of the ratios; None: it wants nothing.
        note: what a reader has to know beside it.

    Source: written for this course.
    """

    what: str
    unit: str
    names: tuple[str, str]
    first: list[float]
    second: list[float]
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    ratios: list[float] = field(init=False)

    def __post_init__(self) -> None:
        if not self.first or len(self.first) != len(self.second):
            raise ValueError(
                f"row {self.what!r}: expected as many figures of the first as of the second thing, and at least one, "
                f"but got {len(self.first)} and {len(self.second)}."
            )
        ratios = [a / b for a, b in zip(self.first, self.second, strict=True)]
        object.__setattr__(self, "ratios", ratios)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        """ "at least 0.97: yes", or no; nothing where nothing is wanted."""
        if self.at_least is not None:
            return f"at least {short(self.at_least)}: {'yes' if self.ratio >= self.at_least else 'no'}"
        if self.at_most is not None:
            return f"at most {short(self.at_most)}: {'yes' if self.ratio <= self.at_most else 'no'}"
        return ""

    def cells(self) -> tuple[str, ...]:
        """What the table shows, in the order of HEAD."""
        sides = [
            f"{name}: {short(statistics.median(figures))}"
            for name, figures in zip(self.names, (self.first, self.second), strict=True)
        ]
        spread = f" ({short(min(self.ratios))} to {short(max(self.ratios))})" if len(self.ratios) > 1 else ""
        return self.what, self.unit, *sides, short(self.ratio) + spread, self.verdict


def row(what: str, unit: str, sides: Mapping[str, Sequence[float]], **wanted: float | str) -> Row:
    """A row of two things.

    Args:
        what, unit: see `Row`.
        sides: name -> figures, of exactly two things; the first is divided by the second.
        wanted: at_least, at_most, note.

    Raises:
        ValueError: there are not two things, or they do not have equally many figures.

    Source: written for this course.
    """
    if len(sides) != 2:
        raise ValueError(f"row {what!r}: expected two things to compare, but got {len(sides)}.")
    names, figures = zip(*sides.items(), strict=True)
    return Row(what, unit, names, list(figures[0]), list(figures[1]), **wanted)


def short(number: float) -> str:
    """Three significant digits, and thousands with a comma."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table, and their notes below it."""
    lines = ["| " + " | ".join(HEAD) + " |", "|---|---|---|---|---|---|"]
    notes = []
    for one in rows:
        what, *others = one.cells()
        if one.note:
            notes.append(one.note)
            what += f" [{len(notes)}]"
        lines.append("| " + " | ".join([what, *others]) + " |")
    return "\n".join([*lines, "", *(f"[{i}] {note}  " for i, note in enumerate(notes, start=1))]).rstrip() + "\n"
