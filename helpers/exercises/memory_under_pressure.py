"""Checks of the exercises of the deep dive memory_under_pressure. Ray must be running."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
from ray.actor import ActorClass
from ray.remote_function import RemoteFunction

from helpers.exercises.verdict import Verdict, as_list, as_number, exercise_check, not_right, right, same, without_ray
from helpers.exercises.watched import Watched, all_together

SAME = "The same arguments must give the same numbers: make a new generator from the seed inside of the task."


@exercise_check
def measure_again(answer: Any) -> Verdict:
    """Exercise 1: a task that returns the same whenever Ray runs it again."""
    if not isinstance(answer, RemoteFunction):
        hint = "Keep @ray.remote above the function, so that it runs as a task, and do not call it yet."
        return not_right(f"a {type(answer).__name__}", "a remote function", hint)
    if (missing := without_ray()) is not None:
        return missing
    task = answer.options(num_cpus=0)
    for seed, n in ((3, 5), (8, 2), (0, 1000)):
        first = ray.get(task.remote(seed, n))
        wrong = _judge_numbers(first, n)
        if wrong is not None:
            return wrong
        for _ in range(3):  # one after the other: a generator that lives in a process then goes on
            if not np.array_equal(first, ray.get(task.remote(seed, n))):
                return not_right(f"other numbers in a second run with seed={seed}", "the same numbers", SAME)
    if np.array_equal(ray.get(task.remote(1, 50)), ray.get(task.remote(2, 50))):
        hint = "Make the generator from the argument seed, or all measurements will be equal."
        return not_right("the same numbers for seed=1 and seed=2", "other numbers for another seed", hint)
    return right("whenever it runs again, it returns the same.")


def _judge_numbers(got: Any, n: int) -> Verdict | None:
    if isinstance(got, ray.ObjectRef):
        return not_right("a reference", f"{n} numbers", "Return the numbers themselves, or they die with their owner.")
    values = as_list(got)
    if values is None or np.shape(values) != (n,):
        found = f"a {type(got).__name__}" if values is None else f"the shape {np.shape(values)}"
        return not_right(found, f"{n} numbers for n={n}", "Return n numbers in one array.")
    numbers = np.array(values, dtype=float)
    if not (numbers.min() >= 0 and numbers.max() <= 1):
        hint = "Draw them evenly between 0 and 1: the method random of a generator does that."
        return not_right(f"numbers from {numbers.min():.2f} to {numbers.max():.2f}", "numbers between 0 and 1", hint)
    if n > 100 and len(np.unique(numbers)) < n / 2:
        return not_right("nearly all numbers the same", "random numbers", "Draw n numbers, not one number n times.")
    return None


@exercise_check
def square_store(answer: Any) -> Verdict:
    """Exercise 2: an actor whose results outlive it."""
    if not isinstance(answer, ActorClass):
        hint = "Keep @ray.remote above the class, and do not make an actor of it yet."
        return not_right(f"a {type(answer).__name__}", "a remote class", hint)
    if (missing := without_ray()) is not None:
        return missing
    for n in (5, 200_000):
        actor = answer.options(num_cpus=0).remote()
        ref = actor.squares.remote(n)
        try:
            wrong = _judge_squares(ray.get(ref), n)
        finally:
            ray.kill(actor)
        wrong = wrong or _judge_squares(ray.get(ref), n)
        if wrong is not None:
            return wrong
    return right("the array belongs to the caller, and outlives the actor.")


def _judge_squares(got: Any, n: int) -> Verdict | None:
    inside = list(got.values()) if isinstance(got, dict) else got if isinstance(got, (list, tuple)) else [got]
    if any(isinstance(value, ray.ObjectRef) for value in inside):
        hint = "The actor owns what it puts, so this reference dies with it: return the array itself."
        return not_right("a reference that the actor made", "the array", hint)
    values = as_list(got)
    if values is None:
        return not_right(f"a {type(got).__name__}", "the array", "Return the array of squares from the method.")
    if np.shape(values) != (n,) or not np.array_equal(values, np.arange(n) ** 2):
        hint = "Return np.arange(n) ** 2: the squares of 0 to n - 1."
        return not_right(values[:5], f"{[i * i for i in range(min(n, 5))]} and so on, {n} in all", hint)
    return None


class Reserving:
    """A task like `Watched`, which also notes how much memory each call reserves."""

    def __init__(self, task: Watched, reserved: list[Any], memory: Any = None) -> None:
        self._task, self._reserved, self._memory = task, reserved, memory

    def options(self, **options: Any) -> Reserving:
        return Reserving(self._task, self._reserved, options.get("memory", self._memory))

    def remote(self, *args: Any, **kwargs: Any) -> ray.ObjectRef:
        ref = self._task.remote(*args, **kwargs)
        self._reserved.append(self._memory)
        return ref

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("a remote function cannot be called directly: use task.remote(...)")


def _thousands(place: int, size: int) -> int:
    return size // 1000


@exercise_check
def within_memory(answer: Callable[[Any, Sequence[int]], list[Any]]) -> Verdict:
    """Exercise 3: every call reserves the memory that it needs, and all are started before one is waited for."""
    if (missing := without_ray()) is not None:
        return missing
    task = Watched()
    try:
        for sizes in ([300_000_000, 1_200_000_000, 50_000_000], [], [700_000_000]):
            wrong = _judge_reserved(answer, task, sizes)
            if wrong is not None:
                return wrong
        return right("Ray starts each task only where its memory is not reserved by others.")
    finally:
        task.finish()


def _judge_reserved(answer: Callable[..., list[Any]], task: Watched, sizes: list[int]) -> Verdict | None:
    reserved: list[Any] = []
    task.begin(_thousands, all_together(len(sizes)))
    got = answer(Reserving(task, reserved), list(sizes))
    values, expected = as_list(got), [size // 1000 for size in sizes]
    if isinstance(got, ray.ObjectRef) or any(isinstance(value, ray.ObjectRef) for value in values or []):
        return not_right("references", "the results", "Trade them for values with ray.get.")
    if sorted(task.arguments) != sorted(sizes):
        hint = "Call task.options(memory=...).remote(size) once for each size."
        return not_right(f"tasks for the sizes {task.arguments}", f"tasks for {sizes}", hint)
    wrong = _judge_amounts(task.arguments, reserved)
    if wrong is not None:
        return wrong
    if task.waited_in_vain():
        hint = "Start all tasks first, then call ray.get once: Ray itself lets a task wait until there is room."
        return not_right(f"at most {task.most} tasks waiting or running", f"{len(sizes)}", hint)
    if not same(values, expected):
        return not_right(got, expected, "Return the list of all results, in the order of the sizes.")
    return None


def _judge_amounts(sizes: list[int], reserved: list[Any]) -> Verdict | None:
    if all(memory is None for memory in reserved) and sizes:
        hint = "Without memory=... Ray reserves none: task.options(memory=size).remote(size)."
        return not_right("calls that reserve no memory", "memory reserved by each call", hint)
    for size, memory in zip(sizes, reserved, strict=True):
        amount = as_number(memory)
        if amount is None or not math.isfinite(amount):
            return not_right(f"memory={memory!r}", f"memory={size}", "Each call needs a number of bytes.")
        if amount < size:
            hint = "It is less than the task needs. memory= is in bytes, as the sizes are."
            return not_right(f"memory={memory} for a task of {size}", f"memory={size}", hint)
        if amount > 1.5 * size:
            hint = "Reserve for each call what this call needs: with more, tasks wait that would have had room."
            return not_right(f"memory={memory} for a task of {size}", f"memory={size}", hint)
    return None
