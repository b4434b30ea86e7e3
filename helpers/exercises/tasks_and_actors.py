"""Checks of the exercises of notebook 01. Ray must be running, with two CPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right


@ray.remote(num_cpus=0)
def _slow_square(item: tuple[int, float]) -> int:
    number, seconds = item
    time.sleep(seconds)
    return number * number


class _Watched:
    """Stands in for a remote function and counts how many of its tasks are under way."""

    def __init__(self) -> None:
        self.refs: list[ray.ObjectRef] = []
        self.most = 0

    def remote(self, item: int) -> ray.ObjectRef:
        unfinished = ray.wait(self.refs, num_returns=len(self.refs), timeout=0)[1] if self.refs else []
        self.most = max(self.most, len(unfinished) + 1)
        self.refs.append(_slow_square.remote((item, 0.1 if item % 2 else 0.3)))
        return self.refs[-1]


def _warm_up(processes: int) -> None:
    """Let Ray start the worker processes, so that a check measures only the answer."""
    ray.get([_slow_square.remote((0, 0.3)) for _ in range(processes)])


@exercise_check
def parallel_map(answer: Callable[[Any, Sequence[Any]], list[Any]]) -> Verdict:
    """Exercise 1: all tasks at the same time, values in the order of the items."""
    answer(_slow_square, [])
    _warm_up(4)
    items = [(1, 0.8), (2, 0.6), (3, 0.4), (4, 0.2)]
    start = time.perf_counter()
    got = answer(_slow_square, items)
    seconds = time.perf_counter() - start
    expected = [1, 4, 9, 16]
    if isinstance(got, list) and any(isinstance(value, ray.ObjectRef) for value in got):
        return not_right("references", expected, "Trade them for values with ray.get.")
    if got != expected:
        hint = "The results must be a list in the order of the items, not in the order in which they finish."
        return not_right(got, expected, hint)
    if seconds > 1.5:
        hint = "Start all tasks first, then call ray.get once on the list; ray.get inside the loop waits each time."
        return not_right(f"{seconds:.1f} s for four tasks", "about 0.8 s, the time of the longest", hint)
    return right(f"four tasks of 2.0 s in sum took {seconds:.1f} s.")


@exercise_check
def first_answers(answer: Callable[[list[Any], int], list[Any]]) -> Verdict:
    """Exercise 2: the values of the n tasks that finish first."""
    _warm_up(4)
    delays = [(1, 4.0), (2, 0.1), (3, 4.0), (4, 0.4)]
    refs = [_slow_square.remote(item) for item in delays]
    start = time.perf_counter()
    try:
        got = answer(refs, 2)
        seconds = time.perf_counter() - start
    finally:
        for ref in refs:
            ray.cancel(ref)
    if isinstance(got, (list, tuple)) and any(isinstance(value, ray.ObjectRef) for value in got):
        return not_right("references", "values", "Trade the references that ray.wait calls ready for values.")
    if not isinstance(got, (list, tuple)) or sorted(got) != [4, 16]:
        hint = "ray.wait(refs, num_returns=n) tells which n are ready first; the first n of the list may be slow ones."
        return not_right(got, "the values 4 and 16, of the two quick tasks", hint)
    if seconds > 3:
        hint = "ray.get on all references waits for the slowest: ask ray.wait for the first n."
        return not_right(f"an answer after {seconds:.1f} s", "one after about 0.4 s", hint)
    return right(f"two of four answers, after {seconds:.1f} s.")


@exercise_check
def running_mean(answer: Any) -> Verdict:
    """Exercise 3: an actor that keeps a sum and a count."""
    if not hasattr(answer, "remote"):
        hint = "Put @ray.remote above the class, and replace the `...` by the class itself."
        return not_right(f"a {type(answer).__name__}", "an actor class", hint)
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
    for value in (3, 4, 8):
        ray.get(first.add.remote(value))
    got = ray.get(first.mean.remote())
    if got != 5:
        hint = "After adding 3, 4 and 8 the mean is their sum divided by their number; keep both in self."
        return not_right(got, 5, hint)
    if ray.get(second.mean.remote()) is not None:
        hint = "Each actor has a state of its own: set it in __init__."
        return not_right("a second actor that already has a mean", None, hint)
    ray.get(first.add.remote(-15))
    got = ray.get(first.mean.remote())
    if got != 0:
        return not_right(got, 0, "A mean of 0 is a number as well: test for 'no numbers yet' by their count.")
    return right("the state stays in the actor between calls.")


@exercise_check
def bounded_map(answer: Callable[[Any, Sequence[Any], int], list[Any]]) -> Verdict:
    """Exercise 4: never more than `limit` tasks under way, results in order."""
    task, items, limit = _Watched(), [5, 2, 9, 4, 7, 6, 1], 3
    answer(task, [], limit)
    got = answer(task, items, limit)
    if task.most > limit:
        hint = "Before starting another task while limit of them are pending, wait for one with ray.wait."
        return not_right(f"{task.most} tasks under way at once", f"at most {limit}", hint)
    expected = [item * item for item in items]
    if got != expected:
        return not_right(got, expected, "Return the values of all items, in the order of the items.")
    if task.most == 1:
        hint = f"Only one task was under way at a time; {limit} may be: wait only when {limit} are pending."
        return not_right("one task at a time", f"up to {limit}", hint)
    return right(f"{len(items)} tasks, never more than {task.most} of them at once.")
