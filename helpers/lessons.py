"""Cells of one notebook, run in another one or in a script, so that their code exists once."""

from __future__ import annotations

from typing import Any

import nbformat

from helpers import data


def run_cells(notebook: str, tag: str, names: dict[str, Any]) -> None:
    """Run the code cells of a lesson that have a tag, in their order.

        lesson = SimpleNamespace(ray=ray, tune=tune)  # what the cells expect of those without the tag
        run_cells("05_tune_asha", "trial", vars(lesson))
        lesson.train_trial

    Functions that the cells define belong to `__main__`, so Ray sends them to its workers by value.

    Args:
        notebook: file name of a lesson without its ending.
        tag: what the cells are tagged with.
        names: where they find and leave their variables, such as `vars` of a namespace.

    Raises:
        ValueError: there is no such notebook, or no code cell in it has the tag.

    Source: written for this course.
    """
    path = data.REPOSITORY / "notebooks" / f"{notebook}.ipynb"
    if not path.is_file():
        raise ValueError(f"run_cells expected the name of a lesson, such as '05_tune_asha', but got {notebook!r}.")
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and tag in c.metadata.get("tags", [])]
    if not cells:
        raise ValueError(f"{path.name} has no code cell with the tag {tag!r}.")
    names.setdefault("__name__", "__main__")
    for cell in cells:
        # Without this module's own `from __future__ import annotations`, as in a notebook.
        exec(compile(cell.source, f"{path.name}, cell {cell.id}", "exec", dont_inherit=True), names)
