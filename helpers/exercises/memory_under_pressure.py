"""Checks of the exercises of the deep dive memory_under_pressure. Ray must be running."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
from ray.actor import ActorClass
from ray.remote_function import RemoteFunction

from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right, without_ray

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
