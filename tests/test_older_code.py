"""The reference of older code: its committed outputs say what tests/older_code.py states, and a change goes red.

The rows themselves run with the notebook, in `make test`; tests/expectations.py then looks at them in the same way.
"""

from __future__ import annotations

import re

import nbformat
import pytest

from tests import expectations, notebook_outputs, older_code
from tests.notebook_rules import NOTEBOOKS

pytestmark = pytest.mark.fast

PATH = NOTEBOOKS / f"{older_code.NOTEBOOK}.ipynb"
EXPECTED = [e for e in expectations.EXPECTATIONS if e.notebook == older_code.NOTEBOOK]


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(PATH, 4)


def test_every_row_is_stated_and_says_so(notebook: nbformat.NotebookNode) -> None:
    assert notebook_outputs.expectation_problems(notebook, EXPECTED) == []
    tables = [cell for cell in notebook.cells if cell.cell_type == "code" and "\n    today: " in show(cell)]
    assert {cell.metadata.tags[0] for cell in tables} == set(older_code.ANSWERS)
    assert sum(show(cell).count("\n    today: ") for cell in tables) == sum(map(len, older_code.ANSWERS.values())) > 80


def show(cell: nbformat.NotebookNode) -> str:
    return notebook_outputs.text_of(cell)


def test_each_section_of_the_course_has_rows(notebook: nbformat.NotebookNode) -> None:
    sections = [
        "Starting Ray", "Tasks and actors", "Objects", "Ray Data", "Ray Train", "Ray Tune", "Ray Serve",
        "Fine-tuning and serving language models", "Without a cell",
    ]  # fmt: skip
    found: dict[str, int] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for heading in re.findall(r"(?m)^## (.*)", cell.source):
                found[heading] = 0
        elif "\n    today: " in show(cell):
            found[list(found)[-1]] += 1
    assert list(found) == sections
    assert all(found[name] for name in sections[:-1])


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("today: AttributeError", "today: works", "what `ds.to_torch(batch_size=2)` says is works, expected exactly"),
        (
            "every replacement works",
            "1 of the replacements fail: ['x']",
            "expected the number of rows whose replacements work",
        ),
        ("ds.to_torch(batch_size=2)\n", "ds.to_tensors()\n", "expected what `ds.to_torch(batch_size=2)` says"),
    ],
)
def test_a_row_that_changes_goes_red(notebook: nbformat.NotebookNode, old: str, new: str, words: str) -> None:
    cell = notebook_outputs.cell_with_tag(notebook, "data-removed")
    table = next(output for output in cell.outputs if "data" in output)
    assert old in table.data["text/plain"]
    table.data["text/plain"] = table.data["text/plain"].replace(old, new)
    assert any(words in problem for problem in notebook_outputs.expectation_problems(notebook, EXPECTED))
