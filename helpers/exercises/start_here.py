"""Checks of the exercises of notebook 00. Ray must be running, with two CPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import ray

from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right

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


@exercise_check
def slow_squares(answer: Callable[[Sequence[int]], list[int]]) -> Verdict:
    """Exercise 1: squares of 0.5 s each, on two CPUs at the same time."""
    answer([1, 2])  # the processes start here
    numbers = [5, 3, 4, 2]
    start = time.perf_counter()
    got = answer(numbers)
    seconds = time.perf_counter() - start
    expected = [25, 9, 16, 4]
    values = as_list(got)
    if isinstance(got, ray.ObjectRef) or any(isinstance(value, ray.ObjectRef) for value in values or []):
        return not_right("references", expected, "Trade them for values with ray.get.")
    if values != expected:
        return not_right(got, expected, "Return a list with the square of each number, in the order of the numbers.")
    if seconds < 0.45:
        hint = "Call slow_square.remote for each number: each takes 0.5 s, and Ray has two CPUs."
        return not_right(f"{seconds:.1f} s for four squares", "about 1.0 s", hint)
    if seconds > 1.8:
        hint = "ray.get inside the loop waits for each task; start them all, then call ray.get once on the list."
        return not_right(f"{seconds:.1f} s for four squares", "about 1.0 s on two CPUs", hint)
    return right(f"four squares of 0.5 s each took {seconds:.1f} s on two CPUs.")


@exercise_check
def parts(answer: Mapping[str, str]) -> Verdict:
    """Exercise 2: which part of Ray does what."""
    if any(value is ... for value in answer.values()):
        raise NotImplementedError
    for sentence, (expected, hint) in PARTS.items():
        got = answer.get(sentence)
        if str(got).strip().lower() != expected.lower():
            # The expected word would give the answer away.
            if str(got).strip().lower() not in {"driver", "worker", "raylet", "gcs"}:
                return not_right(f"{got!r}", "driver, worker, raylet or GCS", f"Use one of the four words. {hint}")
            return not_right(f"{got!r} for '{sentence}'", "another part", hint)
    return right("you know who does what.")
