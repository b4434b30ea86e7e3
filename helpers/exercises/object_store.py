"""Checks of the exercises of notebook 02. Ray must be running."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import ray

from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right
from helpers.exercises.watched import Watched


@exercise_check
def column_means(answer: Any) -> Verdict:
    """Exercise 1: a remote function that gets the matrix behind a reference."""
    if not hasattr(answer, "remote"):
        hint = "Put @ray.remote above the function, and replace the `...` by it."
        return not_right(f"a {type(answer).__name__}", "a remote function", hint)
    for rows in ([[1.0, 2.0, 9.0], [3.0, 2.0, 0.0], [8.0, 2.0, 0.0], [0.0, 2.0, 3.0]], [[1.0, 5.0], [2.0, 9.0]]):
        matrix = np.array(rows)
        try:
            got = ray.get(answer.options(num_cpus=0).remote(ray.put(matrix)))
        except ValueError as error:
            if "object refs" not in str(error):
                raise
            hint = "The argument already is the matrix: leave out ray.get inside the function."
            return not_right("an error from ray.get on a matrix", "the means", hint)
        expected = matrix.mean(axis=0)
        values = as_list(got)
        if values is None or np.shape(values) != expected.shape:
            shape = f"The matrix has {len(matrix)} rows and {len(expected)} columns"
            hint = f"{shape}; axis=0 goes down the rows. Return one number for each column."
            return not_right(got, expected.tolist(), hint)
        if not np.allclose(values, expected):
            hint = "The mean of a column is its sum divided by the number of rows: mean(axis=0)."
            return not_right(values, expected.tolist(), hint)
    return right("the reference arrived as the matrix.")


@exercise_check
def brighten(answer: Callable[[np.ndarray, int], np.ndarray]) -> Verdict:
    """Exercise 2: a changed copy of a read-only picture, without overflow."""
    stored = ray.put(np.array([[0, 100], [200, 255]], dtype=np.uint8))
    for amount, expected in ((60, [[60, 160], [255, 255]]), (7, [[7, 107], [207, 255]])):
        try:
            got = answer(ray.get(stored), amount)
        except ValueError as error:
            if "read-only" not in str(error) and "WRITEABLE" not in str(error):
                raise
            hint = "Arrays from the store cannot be written to: make a new array."
            return not_right("an error, because the picture is read-only", "a new picture", hint)
        if not isinstance(got, np.ndarray) or got.shape != (2, 2):
            return not_right(got, "an array of the same shape", "Return the new picture.")
        if got.tolist() != expected:
            hint = "uint8 starts again at 0 after 255: add in a larger type, such as int, and cut at 255."
            return not_right(got.tolist(), f"{expected} for amount={amount}", hint)
        if got.dtype != np.uint8:
            return not_right(f"type {got.dtype}", "uint8", "Turn the result back into a picture: .astype(np.uint8).")
    return right("a new picture; the stored one is untouched.")


@ray.remote(num_cpus=0)
def _slow_sum(array: np.ndarray) -> float:
    time.sleep(0.2)
    return float(np.sum(array))


@exercise_check
def share_once(answer: Callable[[Any, np.ndarray, int], list[Any]]) -> Verdict:
    """Exercise 3: one stored array, many tasks at the same time."""
    task, array, n = Watched(_slow_sum.remote), np.ones(1000), 4
    with mock.patch.object(ray, "put", wraps=ray.put) as put:
        got = answer(task, array, n)
    if len(task.refs) != n:
        return not_right(f"{len(task.refs)} calls of task.remote", f"{n}, one for each result", "Call it n times.")
    if not all(isinstance(argument, ray.ObjectRef) for argument in task.arguments):
        hint = "Passing the array itself stores it again for each call: ray.put it first, and pass the reference."
        return not_right("an argument that is no reference", "a reference", hint)
    if put.call_count != 1:
        hint = "Call ray.put once, before the loop."
        return not_right(f"an array that was stored {put.call_count} times", "once", hint)
    values = as_list(got)
    if values is not None and any(isinstance(value, ray.ObjectRef) for value in values):
        return not_right("references", "results", "Trade the references of the results with ray.get.")
    if values != [1000.0] * n:
        return not_right(got, [1000.0] * n, "Return the list of the n results.")
    if task.most < n:
        hint = "Start all tasks, then call ray.get once on the list; ray.get inside the loop waits each time."
        return not_right(f"at most {task.most} tasks at the same time", f"{n}", hint)
    return right("one stored array, four tasks at the same time.")
