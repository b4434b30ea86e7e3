"""What each notebook must show when it has run: time, memory and results.

One line for each promise. A notebook is named by its file name without ending;
the notebook with its solutions is named "solutions/<same name>".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Seconds that all cells of a notebook may take together on an idle 2-core machine.
SECONDS: dict[str, float] = {
    "00_start_here": 120,
    "01_tasks_and_actors": 120,
    "02_object_store": 120,
    "04_train_fashion_mnist": 240,
}
SECONDS_OF_OTHERS = 240

# GB (10**9 bytes) that the kernel and everything it started may use together.
MEMORY_GB = 6.0


@dataclass(frozen=True)
class Expectation:
    """A number in the output of one tagged cell, and the range it must be in.

    Args:
        notebook: the notebook's name, for example "04_train_fashion_mnist".
        tag: tag of the cell whose output is read.
        pattern: regular expression whose first group is the number (thousands
            separated by commas are fine) or, with `equals`, any text.
        says: what the number is, as the subject of a sentence.
        at_least: the smallest number that is good.
        at_most: the largest number that is good.
        equals: the text that the group must be.
    """

    notebook: str
    tag: str
    pattern: str
    says: str
    at_least: float | None = None
    at_most: float | None = None
    equals: str | None = None

    def __post_init__(self) -> None:
        if re.compile(self.pattern).groups < 1:
            raise ValueError(f"{self._place()}: the pattern {self.pattern!r} needs a group (...) around the number.")
        if self.at_least is None and self.at_most is None and self.equals is None:
            raise ValueError(f"{self._place()}: give at_least, at_most or equals, or it can never fail.")

    def problem(self, output: str | None) -> str | None:
        """What is wrong with the cell's output (None: no cell has the tag), or None if nothing is."""
        if output is None:
            return f"no cell has the tag {self.tag!r}, but {self.says} is expected there ({self._range()})."
        match = re.search(self.pattern, output)
        if match is None:
            return f"cell {self.tag!r}: expected {self.says} as {self.pattern!r}, found {_short(output)}."
        found = match.group(1)
        return None if self._is_good(found) else f"cell {self.tag!r}: {self.says} is {found}, expected {self._range()}."

    def _is_good(self, found: str) -> bool:
        if self.equals is not None and found != self.equals:
            return False
        if self.at_least is None and self.at_most is None:
            return True
        try:
            number = float(found.replace(",", ""))
        except ValueError:
            return False
        # A NaN compares false with everything, so it is never good.
        above = self.at_least is None or number >= self.at_least
        return above and (self.at_most is None or number <= self.at_most)

    def _range(self) -> str:
        parts = (("at least", self.at_least), ("at most", self.at_most), ("exactly", self.equals))
        return " and ".join(f"{word} {value}" for word, value in parts if value is not None)

    def _place(self) -> str:
        return f"Expectation of {self.notebook}, cell {self.tag!r}"


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 200 else text[:200] + "...") if text else "no text"


EXPECTATIONS: list[Expectation] = [
    Expectation("00_start_here", "speedup", r"same results: (\w+)", "same results as plain Python", equals="True"),
    # Two busy cores of a shared machine slow each other down, so 2.0 is not to be had everywhere.
    Expectation(
        "01_tasks_and_actors", "speedup", r"([\d.]+) times as fast", "the speed-up by two workers", at_least=1.1
    ),
    Expectation("01_tasks_and_actors", "speedup", r"same results: (\w+)", "same results as in a loop", equals="True"),
    Expectation("02_object_store", "sharing", r"([\d.]+) times as fast", "sharing against pickling", at_least=2),
    Expectation("02_object_store", "sharing", r"same sums: (\w+)", "same sums both ways", equals="True"),
    Expectation("02_object_store", "spilling", r"(\d+ of \d+) arrays are right", "right arrays", equals="12 of 12"),
    Expectation("02_object_store", "spilling", r"Spilled ([\d,]+) MiB", "what was spilled", at_least=100),
    Expectation("02_object_store", "spilling", r"Restored ([\d,]+) MiB", "what was restored", at_least=100),
    Expectation("02_object_store", "rebuilt", r"got (\d+)", "the value of the lost object", equals="42"),
    Expectation("02_object_store", "out-of-memory", r"6000 MB: (\w+)", "the error", equals="OutOfMemoryError"),
    Expectation("04_train_fashion_mnist", "test-accuracy", r"([0-9]*\.[0-9]+)", "the test accuracy", at_least=0.85),
    # The killed worker: the run went on from its own checkpoint, not from the start ...
    Expectation("04_train_fashion_mnist", "recovery", r"a worker died\s+(\d+)", "the step it resumed at", at_least=1),
    # ... and ended with the same weights as the run that nothing happened to.
    Expectation("04_train_fashion_mnist", "same-weights", r"weights: (\S+)", "their difference", at_most=1e-6),
]
