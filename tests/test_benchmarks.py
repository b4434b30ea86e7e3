"""`make bench`: what a row says, and that each group can be measured."""

from __future__ import annotations

import importlib
import json
import re

import pytest

from benchmarks.__main__ import GROUPS
from benchmarks.rows import HEAD, Row, markdown, row, short
from benchmarks.scaling import on_paper
from helpers import data

pytestmark = pytest.mark.fast


def test_ratio_is_the_median_of_the_rounds() -> None:
    """The machine was four times as slow in the second round, which hit both alike."""
    found = row("a question", "seconds", {"one": [2.0, 8.0, 3.0], "other": [1.0, 4.0, 1.0]}, at_least=2)
    assert found.ratios == [2.0, 2.0, 3.0]
    assert found.ratio == 2.0
    assert found.cells() == ("a question", "seconds", "one: 3", "other: 1", "2 (2 to 3)", "at least 2: yes")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"at_least": 2.01}, "at least 2.01: no"),
        ({"at_least": 2.0}, "at least 2: yes"),
        ({"at_most": 2.0}, "at most 2: yes"),
        ({"at_most": 1.99}, "at most 1.99: no"),
        ({}, ""),
    ],
)
def test_verdict(wanted: dict[str, float], said: str) -> None:
    assert row("a question", "seconds", {"one": [4.0], "other": [2.0]}, **wanted).verdict == said


@pytest.mark.parametrize("figures", [{"one": [1.0], "other": []}, {"one": [], "other": []}])
def test_figures_that_do_not_belong_together(figures: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="row 'a question': expected as many figures"):
        row("a question", "seconds", figures)


def test_three_things_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="expected two things to compare, but got 3"):
        row("a question", "seconds", {"one": [1.0], "two": [1.0], "three": [1.0]})


@pytest.mark.parametrize(("number", "text"), [(0.04567, "0.0457"), (2.0, "2"), (99.96, "100"), (12345.6, "12,346")])
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


def test_notes_stand_below_the_table() -> None:
    rows = [row(f"question {i}", "s", {"a": [1.0], "b": [2.0]}, note=f"note {i}" if i else "") for i in range(3)]
    lines = markdown(rows).splitlines()
    assert lines[0] == "| " + " | ".join(HEAD) + " |"
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| question 0", "| question 1 [1]", "| question 2 [2]"]
    assert [line.strip() for line in lines[6:]] == ["[1] note 1", "[2] note 2"]


def test_many_machines_on_paper() -> None:
    """One machine needs no ring; with many, each sends its gradients about twice."""
    assert on_paper(1, 0.5, 10**9) == pytest.approx(64 / 0.5)
    step, size = 0.5, 45_000_000
    wire = 2 * size * 8 / 10e9
    assert on_paper(256, step, size) == pytest.approx(256 * 64 / (step + wire + 510 * 50e-6), rel=0.01)


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_measures(group: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{group}").measure)


# The stored table, and what the README quotes of it -----------------------------

FOLDER = data.REPOSITORY / "benchmarks"


def stored_rows() -> list[Row]:
    entries = json.loads((FOLDER / "table.json").read_text())
    for entry in entries:
        entry["names"] = tuple(entry["names"])
        entry.pop("ratios")
    return [Row(**entry) for entry in entries]


def test_the_stored_table_is_made_of_its_figures() -> None:
    text, rows = (FOLDER / "table.md").read_text(), stored_rows()
    assert markdown(rows) in text
    assert len(rows) >= 20
    assert re.search(r"(?m)^Measured in \d+ minutes\.$", text)


def test_the_readme_quotes_only_what_was_measured() -> None:
    section = (data.REPOSITORY / "README.md").read_text().partition("## How fast it is\n")[2].partition("\n## ")[0]
    quoted = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    possible = {quote(row) for row in stored_rows()}
    assert len(quoted) >= 5 and not set(quoted) - possible, f"of the table there are {sorted(possible)}"
    prose = [line for line in section.splitlines() if not line.startswith("|")]
    assert not re.search(r"\d", "".join(prose)), "numbers belong into the table"


def quote(row: Row) -> str:
    """A line of the README's table."""
    what, _, first, second, ratio, _ = row.cells()
    return f"| {what} | {first} | {second} | {ratio} |"
