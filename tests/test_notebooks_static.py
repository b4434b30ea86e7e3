"""All rules on all committed notebooks, and what holds between the notebooks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.expectations import EXPECTATIONS
from tests.notebook_rules import NOTEBOOKS, REPOSITORY, RULES, SOLUTIONS, kind_of, load, notebook_paths

pytestmark = pytest.mark.fast

PATHS = notebook_paths()
LESSONS = [path for path in PATHS if kind_of(path) == "lesson"]
OPTIONAL = [path for path in PATHS if kind_of(path) in ("deep dive", "reference")]


def name(path: Path) -> str:
    return path.relative_to(NOTEBOOKS).with_suffix("").as_posix()


def linked(path: Path) -> str:
    """All Markdown of a notebook, in which links are looked for."""
    return "\n".join(cell.source for cell in load(path).cells if cell.cell_type == "markdown")


def test_there_are_lessons() -> None:
    # Without them the tests below would have nothing to look at, and pass.
    assert LESSONS, f"No notebook in {NOTEBOOKS}."


@pytest.mark.parametrize("path", PATHS, ids=name)
@pytest.mark.parametrize("rule", RULES)
def test_rule(path: Path, rule: str) -> None:
    problems = RULES[rule](path, load(path))
    assert not problems, "\n" + "\n".join(problems)


def test_file_names() -> None:
    wrong = [path.name for path in LESSONS if not re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)]
    assert not wrong, f"Expected names such as 01_tasks_and_actors.ipynb, found {wrong}."
    others = [path.name for path in OPTIONAL]
    wrong = [name for name in others if not re.fullmatch(r"[a-z][a-z0-9_]+\.ipynb", name)]
    assert not wrong, f"Expected names without a number outside of the lessons, found {wrong}."
    # Deep dives have solutions, too, and all solutions lie in one folder; limits of time go by file names.
    assert len(set(others)) == len(others), f"Two notebooks have the same file name: {sorted(others)}."


def test_no_notebook_is_overlooked() -> None:
    found = {path for path in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts}
    assert found == set(PATHS), f"No test looks at {sorted(name(path) for path in found - set(PATHS))}."


def test_numbers_are_unique() -> None:
    numbers = [path.name[:2] for path in LESSONS]
    assert len(set(numbers)) == len(numbers), f"Two lessons have the same number: {numbers}."


def test_solutions_belong_to_a_lesson() -> None:
    solved = {path.name for path in PATHS if kind_of(path) == "solution"}
    lost = solved - {path.name for path in [*LESSONS, *OPTIONAL]}
    assert not lost, f"{sorted(lost)} in notebooks/{SOLUTIONS} have no lesson of that name."


@pytest.mark.parametrize("path", OPTIONAL, ids=name)
def test_a_lesson_links_to_it(path: Path) -> None:
    link = f"]({path.relative_to(NOTEBOOKS).as_posix()}"
    assert any(link in linked(lesson) for lesson in LESSONS), f"No lesson links to {name(path)}: nobody would find it."


@pytest.mark.parametrize(
    ("path", "following"), list(zip(LESSONS, LESSONS[1:], strict=False)), ids=lambda path: path.stem
)
def test_lesson_links_to_the_next(path: Path, following: Path) -> None:
    assert f"]({following.name})" in linked(path), f"{path.name} has no link to the next lesson, {following.name}."


@pytest.mark.parametrize("path", LESSONS, ids=name)
def test_readme_names_the_lesson(path: Path) -> None:
    readme = REPOSITORY / "README.md"
    assert readme.is_file(), "README.md is missing."
    link = f"notebooks/{path.name}"
    assert link in readme.read_text(encoding="utf-8"), f"README.md does not mention {link}."


def test_a_tip_of_the_autoscaler_before_the_result_is_no_result() -> None:
    (counts,) = [e for e in EXPECTATIONS if (e.notebook, e.tag) == ("01_tasks_and_actors", "counter")]
    tip = "\x1b[36m(autoscaler +46s)\x1b[0m Tip: use `ray status` to view detailed cluster status.\n"
    assert counts.problem(tip + "[1, 2, 3, 4, 5]\n") is None
    assert counts.problem(tip + "[1, 2, 3, 3, 5]\n") is not None
    assert counts.problem(tip) is not None
