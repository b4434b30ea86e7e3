"""Checks of the exercises of notebook 00. Ray must be running."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from helpers.exercises import watched
from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right, same, without_ray
from helpers.exercises.watched import Rule, Stage

PARTS = {
    "It runs the code of a task.": ("worker", "The raylet starts it, and it imports your function and runs it."),
    "It decides which process of its node runs a task.": (
        "raylet",
        "There is one on each node, with the scheduler in it.",
    ),
    "It knows on which node a named actor lives.": ("GCS", "All nodes must be able to ask it, so it is on the head."),
    "It holds the object store of its node.": (
        "raylet",
        "The store has no process of its own: it lives in the part that also schedules.",
    ),
    "It calls ray.get in this notebook.": ("driver", "It is the program that asks for the work: this notebook."),
}


class _Traced(int):
    """A number that tells the check when it is squared; so the check sees what happens inside of your task."""

    stage: Any = None
    place: int = 0
    driver: str = ""

    def __mul__(self, other: int) -> int:
        if ray.get_runtime_context().get_worker_id() != self.driver:
            ray.get(self.stage.run.remote(self.place, None))
        return int(self) * int(other)

    def __pow__(self, power: int) -> int:
        return self * self if power == 2 else int(self) ** power


def _traced(numbers: Sequence[int], stage: Any) -> list[int]:
    traced = [_Traced(number) for number in numbers]
    for place, number in enumerate(traced):
        number.stage, number.place = stage, place
        number.driver = ray.get_runtime_context().get_worker_id()
    return traced


def _first_ends_last(total: int) -> Rule:
    return lambda started, ended: [place for place in started if place > 0 or len(ended) == total - 1]


@exercise_check
def slow_squares(answer: Callable[[Sequence[int]], list[int]]) -> Verdict:
    """Exercise 1: all squares at the same time, in the order of the numbers.

    The first square is not ready before all others are. Whoever waits for it before starting
    the others waits in vain; whoever takes results as they come gets them in another order.
    """
    if (missing := without_ray()) is not None:
        return missing
    nothing = answer([])
    if as_list(nothing) != []:
        return not_right(nothing, "[] for no numbers", "Return a list, also an empty one.")
    stage = Stage.remote()
    try:
        for numbers in ([5, 3, 3, 0], [7]):  # equal numbers too: a dict would lose one
            wrong = _judge_squares(answer, numbers, stage)
            if wrong is not None:
                return wrong
        return right("all squares were under way at the same time, and came back in order.")
    finally:
        ray.get(stage.open.remote())  # what the answer left behind can end


def _judge_squares(answer: Callable[[Sequence[int]], list[int]], numbers: list[int], stage: Any) -> Verdict | None:
    ray.get(stage.begin.remote(lambda *_: None, _first_ends_last(len(numbers)), 0.1, watched.PATIENCE))
    got = answer(_traced(numbers, stage))
    expected = [number * number for number in numbers]
    values = as_list(got)
    if isinstance(got, ray.ObjectRef) or any(isinstance(value, ray.ObjectRef) for value in values or []):
        return not_right("references", expected, "Trade them for values with ray.get.")
    if ray.get(stage.in_vain.remote()):
        hint = "ray.get inside the loop waits for each task; start them all, then call ray.get once on the list."
        return not_right("a wait for one square before others were under way", "all under way first", hint)
    if not same(values, expected):
        hint = "Return a list with the square of each number, in the order of the numbers."
        return not_right(got, f"{expected} for {numbers}", hint)
    in_tasks = len(ray.get(stage.started.remote()))
    if in_tasks != len(numbers):
        hint = "Call slow_square.remote for each number, and leave slow_square as it is."
        return not_right(f"{in_tasks} squares in tasks of Ray, for {numbers}", f"{len(numbers)}", hint)
    return None


@exercise_check
def parts(answer: Mapping[str, str]) -> Verdict:
    """Exercise 2: which part of Ray does what."""
    if not isinstance(answer, Mapping):
        return not_right(f"a {type(answer).__name__}", "the dict of the cell above", "Write a word for each `...`.")
    if any(value is ... for value in answer.values()):
        raise NotImplementedError
    for sentence, (expected, hint) in PARTS.items():
        if sentence not in answer:
            return not_right("no answer", f"one for '{sentence}'", "Leave the sentences as they are.")
        got = str(answer[sentence]).strip().lower()
        if got not in {"driver", "worker", "raylet", "gcs"}:
            # The expected word would give the answer away.
            hint = f"Use one of the four words. {hint}"
            return not_right(f"{answer[sentence]!r}", "driver, worker, raylet or GCS", hint)
        if got != expected.lower():
            return not_right(f"{answer[sentence]!r} for '{sentence}'", "another part", hint)
    return right("you know who does what.")
