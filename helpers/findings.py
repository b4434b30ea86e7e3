"""What the course's own notebooks measured for and against Ray, read from their committed outputs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


@dataclass(frozen=True)
class Finding:
    """One number in the output of a notebook, and the sentence that tells it.

    Args:
        pays: whether it speaks for Ray.
        notebook: the notebook's name without its ending.
        tags: the number is in the output of a cell that has one of these tags; the first cell that fits counts.
        pattern: regular expression whose first group is the number.
        sentence: what the number means, with {} in its place.
        at_least, at_most: the range in which the sentence is true.
    """

    pays: bool
    notebook: str
    tags: tuple[str, ...]
    pattern: str
    sentence: str
    at_least: float = 0.0
    at_most: float = float("inf")

    def number(self, folder: Path = NOTEBOOKS) -> str | None:
        """The number as the notebook shows it; None if the notebook, the cell or the number is not there."""
        path = folder / f"{self.notebook}.ipynb"
        if not path.is_file():
            return None
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if set(self.tags) & set(cell["metadata"].get("tags", [])):
                match = re.search(self.pattern, _text(cell))
                if match is not None:
                    return match.group(1)
        return None

    def holds(self, number: str) -> bool:
        """Whether the number still says what the sentence says."""
        return self.at_least <= float(number.replace(",", "")) <= self.at_most

    def told(self, number: str) -> str:
        """One line: the notebook's number, and the sentence."""
        return f"  {self.notebook[:2]}  {self.sentence.format(number)}"


# The four that a newcomer needs most, two on each side; all others stand where they are measured.
FINDINGS = (
    Finding(
        True,
        "01_tasks_and_actors",
        ("speedup",),
        r"([\d.]+) times as fast",
        "independent work on two cores: {} times as fast as in a loop",
        at_least=1.1,
    ),
    Finding(
        True,
        "01_tasks_and_actors",
        ("actor",),
        r"loaded once: ([\d.]+) times as fast",
        "a model kept in a worker: one request {} times as fast as with a task that loads it",
        at_least=2,
    ),
    Finding(
        False,
        "11_ray_and_the_others",
        ("table",),
        r"Ray Data takes ([\d,]+) times as long",
        "counting and joining the rows of a table that fits into memory: {} times as long as with Polars",
        at_least=5,
    ),
    Finding(
        False,
        "04_train_fashion_mnist",
        ("workers",),
        r"two workers: .*, ([\d.]+) times as fast",
        "a network that one process can hold: on two cores, two workers train at {} times the speed of two threads",
        at_most=1.2,
    ),
)


def course_findings(folder: Path = NOTEBOOKS) -> str:
    """What the notebooks of this course measured in their last run, for and against Ray.

    Args:
        folder: where the notebooks are. A notebook without outputs has nothing to tell, and is left out.

    Returns:
        A few lines of text; each begins with the number of the notebook.

    Source: written for this course; a test holds that notebook 00 shows what the other notebooks say today.
    """
    told: dict[bool, list[str]] = {True: [], False: []}
    for finding in FINDINGS:
        number = finding.number(folder)
        if number is not None and finding.holds(number):
            told[finding.pays].append(finding.told(number))
    if not any(told.values()):
        return "The notebooks of the course, with their outputs, are not on this machine."
    return "\n".join(["Worth it:", *told[True], "Not worth it:", *told[False]])


def _text(cell: dict[str, Any]) -> str:
    """What a cell shows as text."""
    shown = []
    for output in cell.get("outputs", []):
        text = output.get("text") or output.get("data", {}).get("text/plain", "")
        shown.append(text if isinstance(text, str) else "".join(text))
    return "\n".join(shown)
