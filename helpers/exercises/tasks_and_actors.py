"""Checks of the exercises of notebook 01. Ray must be running."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.actor import ActorClass

from helpers.exercises.verdict import Verdict, as_list, as_number, exercise_check, not_right, right, same, without_ray
from helpers.exercises.watched import Watched, all_together, only

PAUSE = 0.15  # seconds between the ends of two tasks, where the order in which they end must be seen


def _square(place: int, number: int) -> int:
    return number * number


@exercise_check
def parallel_map(answer: Callable[[Any, Sequence[Any]], list[Any]]) -> Verdict:
    """Exercise 1: all tasks at the same time, values in the order of the items."""
    if (missing := without_ray()) is not None:
        return missing
    task = Watched()
    try:
        for items in ([], [3, 1, 1, 4], [2, 0, 5], [0]):  # equal items too: a dict would lose one
            wrong = _judge_map(answer, task, items)
            if wrong is not None:
                return wrong
        return right("all tasks at the same time, results in order.")
    finally:
        task.finish()


def _judge_map(answer: Callable[[Any, Sequence[Any]], list[Any]], task: Watched, items: list[int]) -> Verdict | None:
    task.begin(_square, all_together(len(items)), PAUSE)
    got = answer(task, list(items))
    values, expected = as_list(got), [item * item for item in items]
    if isinstance(got, ray.ObjectRef) or any(isinstance(value, ray.ObjectRef) for value in values or []):
        return not_right("references", expected, "Trade them for values with ray.get.")
    wrong = _judge_starts(task, items)
    if wrong is not None:
        return wrong
    if task.waited_in_vain():
        hint = "Start all tasks first, then call ray.get once on the list; ray.get inside the loop waits each time."
        return not_right(f"at most {task.most} tasks at the same time", f"{len(items)}", hint)
    if not same(values, expected):
        return not_right(got, f"{expected} for the items {items}", _order_hint(values, expected))
    return None


def _judge_starts(task: Watched, items: list[int]) -> Verdict | None:
    if sorted(map(repr, task.arguments)) == sorted(map(repr, items)):
        return None
    hint = "Start one task for each item, with task.remote(item)."
    if len(task.arguments) == len(items):
        return not_right(f"tasks for {task.arguments}", f"tasks for {items}", hint)
    return not_right(f"{len(task.arguments)} tasks", f"{len(items)} tasks", hint)


def _order_hint(values: list[Any] | None, expected: list[int]) -> str:
    if values is None:
        return "Return a list of the results."
    if len(values) < len(expected):
        return "One result for each item, also where two items are equal."
    if sorted(map(str, values)) == sorted(map(str, expected)):
        return "The results must be in the order of the items, not in the order in which they finish."
    return "Return a list of the values of all items, in the order of the items."


@exercise_check
def first_answers(answer: Callable[[list[Any], int], list[Any]]) -> Verdict:
    """Exercise 2: the values of the n tasks that finish first; the others do not finish before you answer."""
    if (missing := without_ray()) is not None:
        return missing
    with suppress(ValueError):  # a stub is found out without a task; other mistakes show below
        answer([ray.put(9)], 1)
    task = Watched()
    try:
        # Items, the places of those that finish, and n. Where more have finished, any n of them are right.
        cases = (([1, 2, 3, 4], (1, 3), 2), ([5, 6, 7], (2,), 1), ([-3, 8, 3, 9, 6], (0, 2, 4), 3))
        for items, quick, n in (*cases, ([2, 7, 4, 9], (1, 2, 3), 2), ([3, 1], (0, 1), 2)):
            wrong = _judge_first(answer, task, items, quick, n)
            if wrong is not None:
                return wrong
        return right("the first answers, without waiting for the others.")
    finally:
        task.finish()


def _judge_first(
    answer: Callable[[list[Any], int], list[Any]], task: Watched, items: list[int], quick: tuple[int, ...], n: int
) -> Verdict | None:
    task.begin(_square, only(*quick), PAUSE)
    refs = [task.remote(item) for item in items]
    if len(quick) > n:
        ray.wait([refs[place] for place in quick], num_returns=len(quick))
    got = answer(list(refs), n)
    in_vain, values = task.waited_in_vain(), as_list(got)
    task.finish()
    if values is None:
        return not_right(f"a {type(got).__name__}", "a list of values", "Return a list.")
    if any(isinstance(value, ray.ObjectRef) for value in values):
        return not_right("references", "values", "Trade the references that ray.wait calls ready for values.")
    allowed = [sorted(items[place] ** 2 for place in some) for some in itertools.combinations(quick, n)]
    numbers = [as_number(value) for value in values]
    if None in numbers or sorted(numbers) not in allowed:
        hint = "ray.wait(refs, num_returns=n) tells which n are ready first; the first n of the list may be slow ones."
        if len(values) != n:
            hint = "Return n values, one of each of the first n tasks: ray.wait(refs, num_returns=n) waits for n."
        ready = sorted(items[place] ** 2 for place in quick)
        return not_right(values, f"{n} of the values {ready} of the quick tasks", hint)
    if in_vain:
        hint = "ray.get on all references waits for the slowest: ask ray.wait for the first n."
        return not_right("an answer after a slow task had ended", f"one after the first {n}", hint)
    return None


@ray.remote(num_cpus=0)
def _after(seconds: float, value: int) -> int:
    time.sleep(seconds)
    return value


@exercise_check
def in_time(answer: Callable[[list[Any], float], list[Any]]) -> Verdict:
    """Exercise 3: the values of tasks that finish in time, in the order of the references; the others are cancelled."""
    if (missing := without_ray()) is not None:
        return missing
    with suppress(ValueError):  # a stub is found out without a task; other mistakes show below
        answer([ray.put(9)], 1)
    ray.get([_after.remote(0, 0) for _ in range(3)])  # the processes have started
    # Seconds after which each task ends (None: it can never start), and its value.
    for tasks in ([(1.0, 7), (None, 1), (0, 4), (0, 4)], [(0, 3), (0, 5)], [(None, 2)]):
        never = [_after.options(resources={"a device that nobody has": 1}) for _ in tasks]
        refs = [
            _after.remote(seconds, value) if seconds is not None else start.remote(0, value)
            for start, (seconds, value) in zip(never, tasks, strict=True)
        ]
        waiting = [ref for ref, (seconds, _) in zip(refs, tasks, strict=True) if seconds is None]
        try:
            wrong = _judge_in_time(answer(list(refs), 6), tasks, waiting)
        finally:
            for ref in waiting:  # not the others: cancelling a task as it ends can crash Ray 2.60's driver
                ray.cancel(ref)
        if wrong is not None:
            return wrong
    return right("the values that came in time, in order, and nobody waits for the others any more.")


def _judge_in_time(got: Any, tasks: list[tuple[float | None, int]], waiting: list[Any]) -> Verdict | None:
    values, expected = as_list(got), [value for seconds, value in tasks if seconds is not None]
    if values is None:
        return not_right(f"a {type(got).__name__}", "a list of values", "Return a list, also an empty one.")
    if any(isinstance(value, ray.ObjectRef) for value in values):
        return not_right("references", "values", "Trade the references that are ready for values with ray.get.")
    if not same(values, expected):
        hint = "ray.wait(refs, num_returns=len(refs), timeout=seconds) waits for all of them, but not for ever."
        if sorted(map(str, values)) == sorted(map(str, expected)):
            hint = "The values must be in the order of refs, whichever task finished first."
        return not_right(values, f"{expected}, from the tasks that end", hint)
    for ref in waiting:
        try:
            ray.get(ref, timeout=10)
        except ray.exceptions.TaskCancelledError:
            continue
        except ray.exceptions.GetTimeoutError:
            pass
        return not_right("a task that still waits", "a cancelled one", "Call ray.cancel(ref) for what is not ready.")
    return None


@exercise_check
def running_mean(answer: Any) -> Verdict:
    """Exercise 4: an actor that keeps a sum and a count."""
    if not isinstance(answer, ActorClass):
        hint = "Put @ray.remote above the class, and give the class itself, without .remote()."
        return not_right(f"a {type(answer).__name__}", "an actor class", hint)
    if (missing := without_ray()) is not None:
        return missing
    first, second = answer.options(num_cpus=0).remote(), answer.options(num_cpus=0).remote()
    try:
        for name in ("add", "mean"):
            if not hasattr(first, name):
                return not_right(f"a class without {name}", "methods add and mean", f"Write the method {name}.")
        return _judge_means(first, second)
    finally:
        ray.kill(first)
        ray.kill(second)


def _judge_means(first: Any, second: Any) -> Verdict:
    empty = ray.get(first.mean.remote())
    if empty is not None:
        return not_right(empty, None, "Before the first add there is no mean: return None.")
    numbers: list[float] = []
    # 0 first: the mean 0 is no missing mean. Equal numbers, negative ones, fractions, and more than a few.
    for values in ([0], [1.5, 2, 2], [-5.5], [10], list(range(20, 60))):
        numbers += values
        for value in values:
            ray.get(first.add.remote(value))
        for _ in range(2):
            wrong = _judge_mean(ray.get(first.mean.remote()), numbers)
            if wrong is not None:
                return wrong
        if ray.get(second.mean.remote()) is not None:
            hint = "Each actor has a state of its own: set it in __init__."
            return not_right("a second actor that already has a mean", None, hint)
    return right("the state stays in the actor between calls.")


def _judge_mean(got: Any, numbers: list[float]) -> Verdict | None:
    mean, expected = as_number(got), sum(numbers) / len(numbers)
    # A mean in 32 bits has seven digits.
    if mean is not None and math.isclose(mean, expected, rel_tol=1e-5, abs_tol=1e-6):
        return None
    added = f"{numbers}" if len(numbers) < 10 else f"{len(numbers)} numbers"
    hint = "The mean is the sum of all numbers divided by how many there are; keep both in self."
    if got is None:
        hint = "There is a mean as soon as there is a number: test for 'no numbers yet' by their count."
    elif mean is None:
        hint = "mean() returns a number."
    elif math.isclose(mean, math.floor(expected)):
        hint = "The mean need not be a whole number: divide with /, not with //."
    elif math.isclose(mean, numbers[-1]):
        hint = "This is the last number alone. The mean is the sum of all divided by how many; keep both in self."
    elif math.isclose(mean, sum(set(numbers)) / len(set(numbers))):
        hint = "Equal numbers count each time: a set keeps only one of them."
    elif math.isclose(mean, sum(numbers)):
        hint = "This is the sum: divide it by how many numbers there are."
    return not_right(got, f"{expected:.6g} after adding {added}", hint)
