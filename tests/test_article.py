"""The page on the article: no row is empty, and each cell that it points at is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.notebook_rules import NOTEBOOKS, load

pytestmark = pytest.mark.fast
PAGE = NOTEBOOKS / "reference" / "the_article.md"
SEEN = ("taught", "holds here", "does not hold here")  # verdicts that a cell has to show
VERDICTS = (
    *SEEN,
    "outdated",
    "cannot be measured on one machine",
    "own account",
    "no account by the company itself was found",
)
WHERE = re.compile(r"\[[\w ]+\]\((?P<path>[\w./]+)\)(?: `(?P<tag>[\w-]+)`| \*(?P<heading>.+)\*)?")


def rows() -> list[list[str]]:
    """The four cells of each row about a statement."""
    lines = PAGE.read_text().partition("\n## ")[2].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("| ")]
    return [row for row in cells if row[0] != "the article says"]


def missing(path: Path, tag: str | None, heading: str | None) -> str | None:
    """What is not there of a place: the notebook, the tag or the section."""
    if not path.is_file():
        return f"no notebook {path.name}"
    cells = load(path).cells
    if tag and not any(tag in cell.metadata.get("tags", []) for cell in cells):
        return f"no cell of {path.name} has the tag {tag!r}"
    lines = [line for cell in cells for line in cell.source.splitlines()]
    if heading and not any(re.fullmatch(rf"#+ {re.escape(heading)}", line) for line in lines):
        return f"{path.name} has no section {heading!r}"
    return None


def test_no_row_is_empty():
    found = rows()
    assert len(found) > 100
    assert [row for row in found if len(row) != 4 or not row[0] or row[1] not in VERDICTS or not row[3]] == []


def test_every_cell_that_a_row_points_at_is_there():
    problems = []
    for says, verdict, where, _ in rows():
        place = WHERE.fullmatch(where)
        if where and place is None:
            problems.append(f"{says!r}: cannot read {where!r}")
        elif place is not None:
            wrong = missing((PAGE.parent / place["path"]).resolve(), place["tag"], place["heading"])
            problems += [f"{says!r}: {wrong}"] if wrong else []
        elif verdict in SEEN:
            problems.append(f"{says!r}: {verdict}, but no cell shows it")
    assert problems == []


@pytest.mark.parametrize(
    ("tag", "heading", "wrong"), [("nowhere", None, "has the tag"), (None, "Nowhere", "no section")]
)
def test_a_place_that_is_not_there_is_found(tag: str | None, heading: str | None, wrong: str):
    assert wrong in (missing(NOTEBOOKS / "00_start_here.ipynb", tag, heading) or "")
