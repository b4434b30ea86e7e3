"""Checks of the exercises of notebook 01. Ray must be running, with two CPUs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right
from helpers.exercises.watched import Watched


@ray.remote(num_cpus=0)
def _slow_square(item: tuple[int, float]) -> int:
    number, seconds = item
    time.sleep(seconds)
    return number * number


@ray.remote(num_cpus=0)
class _Gate:
    """Holds tasks until the check has seen enough. Source: written for this course."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()

    async def open(self) -> None:
        self._opened.set()

    async def wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._opened.wait(), seconds)
        except TimeoutError:
            return


@ray.remote(num_cpus=0)
def _held_square(item: tuple[int, float], gate: Any) -> int:
    """The square of the number, after so many seconds or when the gate opens.

    Without the gate the check would have to cancel the slow tasks, and Ray 2.60
    can crash the whole driver when a task ends at the moment it is cancelled.
    """
    number, seconds = item
    ray.get(gate.wait.remote(seconds))
    return number * number


def _warm_up(processes: int) -> None:
    """Let Ray start the worker processes, so that a check measures only the answer."""
    ray.get([_slow_square.remote((0, 0.3)) for _ in range(processes)])


@exercise_check
def parallel_map(answer: Callable[[Any, Sequence[Any]], list[Any]]) -> Verdict:
    """Exercise 1: all tasks at the same time, values in the order of the items."""
    answer(Watched(_slow_square.remote), [])
    task, items, expected = Watched(_slow_square.remote), [(3, 0.8), (1, 0.6), (4, 0.4), (2, 0.3)], [9, 1, 16, 4]
    got = answer(task, items)
    values = as_list(got)
    if values is not None and any(isinstance(value, ray.ObjectRef) for value in values):
        return not_right("references", expected, "Trade them for values with ray.get.")
    if len(task.refs) != len(items):
        hint = "Start one task for each item, with task.remote(item)."
        return not_right(f"{len(task.refs)} tasks", f"{len(items)} tasks", hint)
    if values != expected:
        hint = "The results must be a list in the order of the items, not in the order in which they finish."
        return not_right(got, expected, hint)
    if task.most < len(items):
        hint = "Start all tasks first, then call ray.get once on the list; ray.get inside the loop waits each time."
        return not_right(f"at most {task.most} tasks at the same time", f"{len(items)}", hint)
    return right(f"{len(items)} tasks at the same time, results in order.")


@exercise_check
def first_answers(answer: Callable[[list[Any], int], list[Any]]) -> Verdict:
    """Exercise 2: the values of the n tasks that finish first."""
    _warm_up(4)
    wrong = _judge_first(answer, [(1, 4.0), (2, 0.1), (3, 4.0), (4, 0.4)], 2)
    wrong = wrong or _judge_first(answer, [(5, 0.1), (6, 4.0), (7, 4.0), (8, 0.3)], 1)
    return wrong or right("the first answers, without waiting for the others.")


def _judge_first(
    answer: Callable[[list[Any], int], list[Any]], items: list[tuple[int, float]], n: int
) -> Verdict | None:
    gate = _Gate.remote()
    ray.get(gate.wait.remote(0))
    refs = [_held_square.remote(item, gate) for item in items]
    quick = {number * number for number, seconds in items if seconds < 1}
    slow = [ref for ref, (_, seconds) in zip(refs, items, strict=True) if seconds > 1]
    try:
        got = answer(refs, n)
        finished, _ = ray.wait(slow, num_returns=len(slow), timeout=0)
    finally:
        ray.get(gate.open.remote())
        ray.wait(refs, num_returns=len(refs), timeout=10)
    values = as_list(got)
    if values is None:
        return not_right(f"a {type(got).__name__}", "a list of values", "Return a list.")
    if any(isinstance(value, ray.ObjectRef) for value in values):
        return not_right("references", "values", "Trade the references that ray.wait calls ready for values.")
    if len(values) != n or not set(values) <= quick:
        hint = "ray.wait(refs, num_returns=n) tells which n are ready first; the first n of the list may be slow ones."
        return not_right(values, f"{n} of the values {sorted(quick)}, of the quick tasks", hint)
    if finished:
        hint = "ray.get on all references waits for the slowest: ask ray.wait for the first n."
        return not_right("an answer after a slow task had ended", f"one after the first {n}", hint)
    return None


@exercise_check
def running_mean(answer: Any) -> Verdict:
    """Exercise 3: an actor that keeps a sum and a count."""
    if not hasattr(answer, "remote"):
        hint = "Put @ray.remote above the class, and give the class itself, without .remote()."
        return not_right("a plain class or an actor", "an actor class", hint)
    first, second = answer.options(num_cpus=0).remote(), answer.options(num_cpus=0).remote()
    try:
        return _judge_means(first, second)
    finally:
        ray.kill(first)
        ray.kill(second)


def _judge_means(first: Any, second: Any) -> Verdict:
    empty = ray.get(first.mean.remote())
    if empty is not None:
        return not_right(empty, None, "Before the first add there is no mean: return None.")
    for value in (1.5, 2, 2):
        ray.get(first.add.remote(value))
    got = ray.get(first.mean.remote())
    if not isinstance(got, (int, float)) or not math.isclose(got, 5.5 / 3):
        hint = "After adding 1.5, 2 and 2 the mean is their sum divided by their number; keep both in self."
        return not_right(got, 5.5 / 3, hint)
    if ray.get(second.mean.remote()) is not None:
        hint = "Each actor has a state of its own: set it in __init__."
        return not_right("a second actor that already has a mean", None, hint)
    ray.get(first.add.remote(-5.5))
    got = ray.get(first.mean.remote())
    if got is None or abs(got) > 1e-9:
        return not_right(got, 0, "A mean of 0 is a number as well: test for 'no numbers yet' by their count.")
    return right("the state stays in the actor between calls.")


@exercise_check
def bounded_map(answer: Callable[[Any, Sequence[Any], int], list[Any]]) -> Verdict:
    """Exercise 4: never more than `limit` tasks under way, results in order."""
    answer(Watched(_slow_square.remote), [], 3)
    items = [(5, 0.1), (2, 0.3), (9, 0.1), (4, 0.3), (7, 0.1), (6, 0.2), (1, 0.1)]
    for limit in (3, 2, 1):
        wrong = _judge_bounded(answer, items, limit)
        if wrong:
            return wrong
    return right(f"{len(items)} tasks, never more than the limit at once, tried with 3, 2 and 1.")


def _judge_bounded(answer: Callable[..., list[Any]], items: list[tuple[int, float]], limit: int) -> Verdict | None:
    task = Watched(_slow_square.remote)
    got = answer(task, items, limit)
    if len(task.refs) != len(items):
        hint = "Start one task for each item, with task.remote(item)."
        return not_right(f"{len(task.refs)} tasks", f"{len(items)} tasks", hint)
    if task.most > limit:
        hint = "Before starting another task while limit of them are pending, wait for one with ray.wait."
        return not_right(f"{task.most} tasks under way at once", f"at most {limit}", hint)
    expected = [number * number for number, _ in items]
    if as_list(got) != expected:
        return not_right(got, expected, "Return a list of the values of all items, in the order of the items.")
    if task.most < limit:
        hint = f"With a limit of {limit}, {limit} may be under way: wait only when {limit} are pending."
        return not_right(f"at most {task.most} at a time", f"up to {limit}", hint)
    return None
