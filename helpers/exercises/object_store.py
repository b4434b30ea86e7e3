"""Checks of the exercises of notebook 02. Ray must be running."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right


@exercise_check
def column_means(answer: Any) -> Verdict:
    """Exercise 1: a remote function that gets the matrix behind a reference."""
    if not hasattr(answer, "remote"):
        hint = "Put @ray.remote above the function, and replace the `...` by it."
        return not_right(f"a {type(answer).__name__}", "a remote function", hint)
    matrix = np.arange(12.0).reshape(3, 4)
    try:
        got = ray.get(answer.options(num_cpus=0).remote(ray.put(matrix)))
    except ValueError as error:
        if "object refs" not in str(error):
            raise
        hint = "The argument already is the matrix: leave out ray.get inside the function."
        return not_right("an error from ray.get on a matrix", "the means", hint)
    expected = [4.0, 5.0, 6.0, 7.0]
    if np.shape(got) != (4,) or not np.allclose(got, expected):
        hint = "The matrix has 3 rows and 4 columns; axis=0 goes down the rows, one mean for each column."
        return not_right(got, expected, hint)
    return right("the reference arrived as the matrix.")


@exercise_check
def brighten(answer: Callable[[np.ndarray, int], np.ndarray]) -> Verdict:
    """Exercise 2: a changed copy of a read-only picture, without overflow."""
    picture = ray.get(ray.put(np.array([[0, 100], [200, 255]], dtype=np.uint8)))
    try:
        got = answer(picture, 60)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        hint = "Arrays from the store cannot be written to: make a new array."
        return not_right("an error, because the picture is read-only", "a new picture", hint)
    expected = np.array([[60, 160], [255, 255]], dtype=np.uint8)
    if not isinstance(got, np.ndarray) or got.shape != expected.shape:
        return not_right(got, "an array of the same shape", "Return the new picture.")
    if not np.array_equal(got, expected):
        hint = "uint8 starts again at 0 after 255: add in a larger type, such as int, and cut at 255."
        return not_right(got.tolist(), expected.tolist(), hint)
    if got.dtype != np.uint8:
        return not_right(f"type {got.dtype}", "uint8", "Turn the result back into a picture with .astype(np.uint8).")
    return right("a new picture; the stored one is untouched.")


class _Recorder:
    """Stands in for a remote function and remembers what it was called with."""

    def __init__(self) -> None:
        self.arguments: list[Any] = []

    def remote(self, argument: Any) -> ray.ObjectRef:
        self.arguments.append(argument)
        return ray.put(float(np.sum(ray.get(argument) if isinstance(argument, ray.ObjectRef) else argument)))


@exercise_check
def share_once(answer: Callable[[Any, np.ndarray, int], list[Any]]) -> Verdict:
    """Exercise 3: one stored array, many tasks."""
    task, array = _Recorder(), np.ones(1000)
    got = answer(task, array, 4)
    if len(task.arguments) != 4:
        return not_right(f"{len(task.arguments)} calls of task.remote", "4, one for each result", "Call it n times.")
    if not all(isinstance(argument, ray.ObjectRef) for argument in task.arguments):
        hint = "Passing the array itself stores it again for each call: ray.put it first, and pass the reference."
        return not_right("an array as the argument", "a reference", hint)
    stored = len(set(task.arguments))
    if stored != 1:
        hint = "Call ray.put once, before the loop."
        return not_right(f"an array that was stored {stored} times", "once", hint)
    if isinstance(got, list) and any(isinstance(value, ray.ObjectRef) for value in got):
        return not_right("references", "results", "Trade the references of the results with ray.get.")
    if got != [1000.0] * 4:
        return not_right(got, [1000.0] * 4, "Return the list of the n results.")
    return right("one stored array, four tasks.")
