"""Hints and the scoring page of the capstone; its checks are tested with the other exercises."""

from __future__ import annotations

from collections import Counter

import pytest

from helpers.exercises import capstone
from helpers.exercises.capstone_hints import HINTS
from helpers.exercises.verdict import Verdict
from tests.notebook_rules import NOTEBOOKS, load

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def new_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capstone, "_verdicts", {})
    monkeypatch.setattr(capstone, "_hints", Counter())


def test_hints_say_more_each_time_and_do_not_run_out() -> None:
    for step, hints in HINTS.items():
        said = [repr(capstone.hint(step)) for _ in range(len(hints) + 1)]
        assert said[0].startswith(f"Hint 1 of {len(hints)}") and "notebook 0" in said[0]
        assert len(set(said)) == len(hints) and said[-1] == said[-2]
        assert all(hint in text for hint, text in zip(hints, said, strict=False))


def test_hints_name_sections_that_there_are() -> None:
    headings = "\n".join(
        cell.source
        for path in NOTEBOOKS.glob("0[3-6]_*.ipynb")
        for cell in load(path).cells
        if cell.cell_type == "markdown"
    )
    for hints in HINTS.values():
        named = hints[0].replace("\n", " ").split("'")[1::2]
        sections = [name for name in named if name[0].isupper()]
        assert sections or "exercise" in hints[0]
        for name in sections:
            assert f"# {name}\n" in headings, name


def test_no_such_step() -> None:
    with pytest.raises(ValueError, match="no step 6"):
        capstone.hint(6)


def test_page_of_a_beginner() -> None:
    assert repr(capstone.score()).startswith("0 of 5 steps")
    assert repr(capstone.score()).count("not tried yet") == 5


def test_page_keeps_count() -> None:
    right = Verdict("right", "well done.")

    def judge(answer: object) -> Verdict:
        return right if answer == 1 else Verdict("not right", "got 2, expected 1.")

    checks = [capstone.step(number, seconds=5)(judge) for number in range(1, 6)]
    for check in checks[:3]:
        check(1)
    checks[3](2)
    checks[4](...)
    capstone.hint(2)
    page = repr(capstone.score())
    assert page.startswith("3 of 5 steps") and "not right: got 2" in page and "not solved yet" in page
    assert page.count("[hints: 1]") == 1
    checks[0](2)  # the newest answer counts
    assert repr(capstone.score()).startswith("2 of 5 steps")
    for check in checks:
        check(1)
    assert repr(capstone.score()).startswith("5 of 5 steps")


def test_a_check_may_have_a_limit_of_its_own() -> None:
    def wait(answer: object) -> Verdict:
        while True:
            pass

    found = capstone.step(1, seconds=0.2)(wait)(1)
    assert found.status == "not right" and "still busy" in found.message
