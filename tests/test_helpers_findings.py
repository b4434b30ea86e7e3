"""The box 'When Ray pays' of notebook 00 says what the other notebooks measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.findings import FINDINGS, NOTEBOOKS, Finding, course_findings
from tests.notebook_outputs import cell_with_tag, text_of
from tests.notebook_rules import load

pytestmark = pytest.mark.fast

START, TAG = "00_start_here", "ray-pays"
REFRESH = f"make notebooks ONLY=notebooks/{START}.ipynb"
# A measurement that is repeated comes out differently; the box is stale when it moved by more than this factor.
FACTOR = 1.6
FOUND = {finding: finding.number() for finding in FINDINGS}
TOLD = {finding: number for finding, number in FOUND.items() if number is not None}


def place(finding: Finding) -> str:
    return f"{finding.notebook[:2]}-{finding.tags[0]}"


def shown_in_box(finding: Finding) -> str | None:
    """The number that the committed output of notebook 00 has for a finding."""
    cell = cell_with_tag(load(NOTEBOOKS / f"{START}.ipynb"), TAG)
    assert cell is not None, f"{START} has no cell with the tag {TAG!r}."
    before, after = (re.escape(part) for part in finding.sentence.split("{}"))
    match = re.search(rf"{finding.notebook[:2]}  {before}([\d.,]*\d){after}", text_of(cell))
    return match.group(1) if match else None


def test_two_are_told_on_each_side() -> None:
    """More than a newcomer can use would hide them, and none may be lost because a notebook shows something else."""
    gone = [f"{f.notebook}, cell {' or '.join(f.tags)}, {f.pattern!r}" for f in FINDINGS if FOUND[f] is None]
    for pays in (True, False):
        count = sum(finding.pays is pays for finding in TOLD)
        assert count == 2, (
            f"the box {'for' if pays else 'against'} Ray has {count} findings, expected 2. Not found in the committed "
            f"outputs: {gone}. Adapt FINDINGS in helpers/findings.py to what the notebooks show now."
        )


@pytest.mark.parametrize("finding", TOLD, ids=place)
def test_what_the_notebook_shows_is_still_on_this_side(finding: Finding) -> None:
    assert finding.holds(TOLD[finding]), (
        f"{finding.notebook} now shows {TOLD[finding]}, so {finding.sentence!r} no longer says what it should "
        f"(from {finding.at_least} to {finding.at_most}): change or remove it in helpers/findings.py."
    )


@pytest.mark.parametrize("finding", FINDINGS, ids=place)
def test_the_box_is_not_stale(finding: Finding) -> None:
    shown, now = shown_in_box(finding), FOUND[finding]
    says = f"the box in {START} says {shown}, and {finding.notebook} now says {now}: {REFRESH}"
    assert (shown is None) is (now is None), says
    if shown is None or now is None:
        return
    before, after = sorted(float(number.replace(",", "")) for number in (shown, now))
    assert before == after or after <= before * FACTOR, says


# The reading itself ------------------------------------------------------------

EXAMPLE = Finding(True, "05_x", ("first", "second"), r"([\d,]+) of", "{} epochs", at_least=2)


def write(folder: Path, *cells: tuple[list[str], Any]) -> Path:
    made = [{"cell_type": "code", "metadata": {"tags": tags}, "outputs": outputs} for tags, outputs in cells]
    (folder / "05_x.ipynb").write_text(json.dumps({"cells": made}))
    return folder


def stream(text: Any) -> list[dict[str, Any]]:
    return [{"output_type": "stream", "name": "stdout", "text": text}]


@pytest.mark.parametrize(
    ("cells", "number"),
    [
        ([(["first"], stream("3 of 4"))], "3"),
        ([(["first"], stream(["3", "0 of 4"]))], "30"),
        ([(["second", "x"], [{"output_type": "execute_result", "data": {"text/plain": "1,200 of"}}])], "1,200"),
        ([(["first"], stream("nothing")), (["second"], stream("5 of 6"))], "5"),
        ([(["first"], [])], None),
        ([(["other"], stream("3 of 4"))], None),
        ([([], stream("3 of 4"))], None),
    ],
)
def test_number(tmp_path: Path, cells: Any, number: str | None) -> None:
    assert EXAMPLE.number(write(tmp_path, *cells)) == number


def test_number_of_a_notebook_that_is_not_there(tmp_path: Path) -> None:
    assert EXAMPLE.number(tmp_path) is None


@pytest.mark.parametrize(("number", "good"), [("1", False), ("2", True), ("1,200", True)])
def test_holds(number: str, good: bool) -> None:
    assert EXAMPLE.holds(number) is good


def test_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    against = Finding(False, "05_x", ("second",), r"(\d+) ms", "{} ms more")
    untrue = Finding(False, "05_x", ("second",), r"(\d+) ms", "at most 5 ms: {}", at_most=5)
    monkeypatch.setattr("helpers.findings.FINDINGS", (EXAMPLE, against, untrue))
    write(tmp_path, (["first"], stream("3 of 4")), (["second"], stream("20 ms")))
    assert course_findings(tmp_path).splitlines() == [
        "Worth it:",
        "  05  3 epochs",
        "Not worth it:",
        "  05  20 ms more",
    ]


def test_text_without_notebooks(tmp_path: Path) -> None:
    assert "not on this machine" in course_findings(tmp_path)
