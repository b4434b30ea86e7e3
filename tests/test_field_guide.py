"""The field guide: a cell causes each of its rows, here or in the notebook that it links to, and a test looks at it."""

from __future__ import annotations

import re

import pytest

from tests import field_guide
from tests.expectations import EXPECTATIONS
from tests.notebook_rules import NOTEBOOKS, load

pytestmark = pytest.mark.fast


def rows_of_the_guide() -> dict[str, str]:
    """First cell of each row of a table -> the whole row."""
    guide = load(NOTEBOOKS / f"{field_guide.NOTEBOOK}.ipynb")
    text = "\n".join(cell.source for cell in guide.cells if cell.cell_type == "markdown")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| what you see")]
    return {line.split(" | ")[0].removeprefix("| "): line for line in rows}


def test_every_row_has_its_cell_and_every_cell_its_row():
    assert sorted(rows_of_the_guide()) == sorted(field_guide.ROWS)


@pytest.mark.parametrize("symptom", field_guide.ROWS)
def test_row_is_looked_at(symptom: str):
    notebook, tag = field_guide.ROWS[symptom]
    assert any(found.notebook == notebook and found.tag == tag for found in EXPECTATIONS), f"nothing looks at {tag!r}"
    links = dict(re.findall(r"\]\(\.\./([\w/]+)\.ipynb(?:#([^)]*))?\)", rows_of_the_guide()[symptom]))
    if notebook != field_guide.NOTEBOOK:
        assert links.get(notebook) == anchor_above(notebook, tag), f"the row must link to this section of {notebook}"


def anchor_above(notebook: str, tag: str) -> str:
    """The section in which a cell stands, as JupyterLab names it in an address."""
    heading = ""
    for cell in load(NOTEBOOKS / f"{notebook}.ipynb").cells:
        if tag in cell.metadata.get("tags", []):
            return heading.replace(" ", "-")
        if cell.cell_type == "markdown":
            heading = next(reversed(re.findall(r"(?m)^##+ (.*)", cell.source)), heading)
    raise AssertionError(f"{notebook} has no cell {tag!r}")
