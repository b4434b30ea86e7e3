"""The map of the course, in the README and in notebook 00, says what the notebooks say about themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.notebook_rules import NOTEBOOKS, REPOSITORY, load

pytestmark = pytest.mark.fast

LESSONS = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
ROW = re.compile(r"^\| (?:\[|\*\*)(\d\d) [^|]*\| (\d+) \|", re.M)
MINUTES = re.compile(r"^\*\*Time:\*\* about (\d+) minutes", re.M)


def maps() -> dict[str, dict[str, int]]:
    """Name of the text -> number of each notebook -> the minutes that its map gives."""
    start = "\n".join(cell.source for cell in load(LESSONS["00"]).cells if cell.cell_type == "markdown")
    texts = {"README.md": (REPOSITORY / "README.md").read_text(encoding="utf-8"), LESSONS["00"].name: start}
    return {name: {number: int(minutes) for number, minutes in ROW.findall(text)} for name, text in texts.items()}


def own_minutes(path: Path) -> int | None:
    """The minutes that a notebook gives in its opening."""
    match = MINUTES.search(load(path).cells[0].source)
    return int(match.group(1)) if match else None


@pytest.mark.parametrize("number", LESSONS)
def test_minutes(number: str) -> None:
    own = own_minutes(LESSONS[number])
    for name, minutes in maps().items():
        assert number in minutes, f"the map in {name} has no row for notebook {number}, with its minutes."
        assert own in (None, minutes[number]), (
            f"the map in {name} gives {minutes[number]} minutes for notebook {number}, which itself says {own}."
        )


def test_hours_of_the_whole_course() -> None:
    minutes = maps()["README.md"]
    total = sum(minutes[number] for number in LESSONS) / 60
    (said,) = re.findall(r"about (\d+) hours", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert abs(int(said) - total) <= 0.5, f"README.md says {said} hours, but its map adds up to {total:.1f}."
