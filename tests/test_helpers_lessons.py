"""Cells of a lesson that run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers import data
from helpers.lessons import run_cells

pytestmark = pytest.mark.fast


@pytest.fixture
def lesson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "notebooks").mkdir()
    cells = [
        new_code_cell("x = start + 1", metadata={"tags": ["trial"]}),
        new_markdown_cell("no code", metadata={"tags": ["trial"]}),
        new_code_cell("x = 100"),
        new_code_cell("def twice(): return 2 * x", metadata={"tags": ["other", "trial"]}),
    ]
    write(new_notebook(cells=cells), tmp_path / "notebooks" / "09_x.ipynb")
    monkeypatch.setattr(data, "REPOSITORY", tmp_path)
    return "09_x"


def test_only_code_with_the_tag_runs_in_its_order(lesson: str) -> None:
    names: dict[str, Any] = {"start": 4}
    run_cells(lesson, "trial", names)
    assert (names["x"], names["twice"]()) == (5, 10)
    assert names["twice"].__module__ == "__main__", "Ray sends such functions by value"


def test_a_name_of_no_lesson_and_a_tag_of_no_cell_are_said(lesson: str) -> None:
    with pytest.raises(ValueError, match="name of a lesson, such as .* but got '08_x'"):
        run_cells("08_x", "trial", {})
    with pytest.raises(ValueError, match="09_x.ipynb has no code cell with the tag 'sweep'"):
        run_cells(lesson, "sweep", {})
