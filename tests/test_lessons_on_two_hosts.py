"""Lessons on a cluster of two hosts: they end, or say soon what they lack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests.hosts import (
    IMPOSSIBLE,
    LESSONS,
    SAYS_IT,
    Host,
    Ran,
    execute,
    hosts_are_possible,
    joined,
    run_lesson,
    table,
    two_hosts,
)

# What make test runs of them: of 04 one epoch instead of two, and not the run that loses a worker, which the notebook's
# own run has. The others take most of an hour.
SHORT = {
    "00_start_here": {},
    "01_tasks_and_actors": {},
    "03_ray_data": {},
    "04_train_fashion_mnist": {"RAY_COURSE_SETTINGS": json.dumps({"epochs": 1}), "until": "start-up"},
}


@pytest.fixture(scope="module")
def head() -> Iterator[Host]:
    if not hosts_are_possible():
        pytest.skip(IMPOSSIBLE)
    with two_hosts() as (first, second):
        joined(first, second)
        yield first


@pytest.mark.timeout(900)
@pytest.mark.parametrize("lesson", SHORT)
def test_first_lessons_run_to_their_end(head: Host, lesson: str, tmp_path: Path) -> None:
    ran = run_lesson(head, LESSONS[0].parent / f"{lesson}.ipynb", tmp_path, **SHORT[lesson])
    assert not ran.said, ran


@pytest.mark.long
@pytest.mark.parametrize("path", [path for path in LESSONS if path.stem not in SHORT], ids=lambda path: path.stem)
def test_a_lesson_ends_or_says_what_it_lacks(head: Host, path: Path, tmp_path: Path) -> None:
    ran = run_lesson(head, path, tmp_path)
    assert ran.is_good(), ran


@pytest.mark.fast
@pytest.mark.parametrize(
    ("said", "seconds", "good"),
    [
        ("", 500, True),
        (f"RuntimeError: {SAYS_IT} a GPU", 20, True),
        (f"RuntimeError: {SAYS_IT} a GPU", 40, False),
        ("NameError: name 'x' is not defined", 2, False),
    ],
)
def test_what_is_good(said: str, seconds: float, good: bool) -> None:
    assert Ran("x", 600, said, seconds, "fit()").is_good() == good


@pytest.mark.fast
def test_a_lesson_that_fails_is_told_with_its_cell(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "x / 0", "1 / 0")]
    path = tmp_path / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    ran = execute(path)
    assert (ran.lesson, ran.said, ran.cell) == ("lesson", "ZeroDivisionError: division by zero", "x / 0")


@pytest.mark.fast
def test_rows_of_lessons_that_ran_again_are_replaced() -> None:
    old = table([Ran("00_a", 10, "", 5, "x"), Ran("01_b", 20, "Error: no", 2, "y")])
    new = table([Ran("01_b", 30, "", 9, "y"), Ran("02_c", 40, "", 9, "z")], f"# Title\n\n{old}")
    assert new.splitlines()[2:] == [
        "| 00_a | runs to its end | 10 |",
        "| 01_b | runs to its end | 30 |",
        "| 02_c | runs to its end | 40 |",
    ]


@pytest.mark.fast
def test_a_lesson_may_end_at_a_tag(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "x = 2", "1 / 0")]
    cells[1].metadata["tags"] = ["enough"]
    path = tmp_path / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert execute(path, "enough").said == ""
    assert execute(path, "no such tag").said == "ZeroDivisionError: division by zero"
