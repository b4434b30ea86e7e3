"""Checks of the exercises of the deep dive memory_under_pressure. Ray must be running."""

from __future__ import annotations

import io
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import ray
from ray.actor import ActorClass
from ray.util.state import list_tasks
from ray.util.state.exception import RayStateApiException

from helpers.exercises.verdict import Verdict, as_list, as_number, exercise_check, not_right, right, same, without_ray
from helpers.exercises.watched import Watched, all_together


@exercise_check
def square_store(answer: Any) -> Verdict:
    """Exercise 1: an actor whose results outlive it."""
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
    """Exercise 2: every call reserves the memory that it needs, and all are started before one is waited for."""
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


CURES = ("return it", "reserve more", "reserve less", "wait", "none")
MORE_THAN_ANY_NODE = 10**14  # bytes
NEWS = 60.0  # seconds within which Ray has told everybody what happened, also on a slow machine


@ray.remote(num_cpus=0)
class _Putter:
    def put(self) -> list[ray.ObjectRef]:
        return [ray.put(np.ones(200_000))]


@ray.remote(num_cpus=0, max_retries=0)
def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@ray.remote(num_cpus=0, memory=MORE_THAN_ANY_NODE)
def _too_large() -> None: ...


@ray.remote(num_cpus=0, max_retries=0)
def _slow() -> None:
    for _ in range(3000):
        time.sleep(0.1)


def _without_owner() -> ray.ObjectRef:
    """A reference whose owner has died, when everybody knows it."""
    actor = _Putter.remote()
    ref = ray.get(actor.put.remote())[0]
    ray.kill(actor)
    end = time.monotonic() + NEWS
    while time.monotonic() < end:
        try:
            ray.get(ref, timeout=1)
        except ray.exceptions.OwnerDiedError:
            break
        except ray.exceptions.GetTimeoutError:
            continue
        time.sleep(0.2)
    return ref


def _of_a_killed_task() -> ray.ObjectRef:
    with redirect_stdout(io.StringIO()):  # Ray prints a line about it, which would tell what happened
        ref = _killed.remote()
        ray.wait([ref], timeout=NEWS)
        time.sleep(0.5)  # the line can come later than the error
    return ref


def _in_state(ref: ray.ObjectRef, state: str) -> ray.ObjectRef:
    """The same reference, when Ray's list of tasks shows this state; the list is about a second behind."""
    end = time.monotonic() + NEWS
    while time.monotonic() < end:
        try:
            tasks = list_tasks(filters=[("task_id", "=", ref.task_id().hex())], raise_on_missing_output=False)
        except RayStateApiException:
            tasks = []
        if any(task.state == state for task in tasks):
            break
        time.sleep(0.2)
    return ref


def _waiting() -> ray.ObjectRef:
    return _in_state(_too_large.remote(), "PENDING_NODE_ASSIGNMENT")


@contextmanager
def _cancelled_at_the_end(ref: ray.ObjectRef) -> Iterator[ray.ObjectRef]:
    try:
        yield ref
    finally:
        ray.cancel(ref)


def three_failures() -> list[ray.ObjectRef]:
    """Let three calls go wrong in different ways: an owner dies, a task is killed, a task asks for too much.

    Returns:
        Their references, in random order. One of the tasks waits until Ray is shut down.

    Source: written for this course.
    """
    return random.sample([_without_owner(), _of_a_killed_task(), _waiting()], 3)


@exercise_check
def cure(answer: Callable[[ray.ObjectRef], str]) -> Verdict:
    """Exercise 3: a function that finds out for a reference what went wrong, and names the cure."""
    if (missing := without_ray()) is not None:
        return missing
    wrong = _judge_cure(answer, ray.put(1), "none", "a reference with a value", "Return 'none' if ray.get has a value.")
    if wrong is not None:
        return wrong
    hint = "WorkerCrashedError says that the process is gone, and Linux often kills for memory: return 'reserve more'."
    wrong = _judge_cure(answer, _of_a_killed_task(), "reserve more", "a task whose process was killed", hint)
    if wrong is not None:
        return wrong
    hint = "OwnerDiedError: who put the value has ended, and a returned value would belong to the caller."
    wrong = _judge_cure(answer, _without_owner(), "return it", "an object whose owner has ended", hint)
    if wrong is not None:
        return wrong
    with _cancelled_at_the_end(_waiting()) as waiting:
        hint = "A GetTimeoutError alone doesn't tell: list_tasks has this task as PENDING_NODE_ASSIGNMENT."
        wrong = _judge_cure(answer, waiting, "reserve less", "a task for which no node is large enough", hint)
        if wrong is not None:
            return wrong
        with _cancelled_at_the_end(_in_state(_slow.remote(), "RUNNING")) as slow:
            hint = (
                "list_tasks has this task as RUNNING: ask for it alone, by the id of the task that the reference has."
            )
            wrong = _judge_cure(answer, slow, "wait", "a task that is only slow", hint)
            if wrong is not None:
                return wrong
    return right("you can tell an owner's end, a kill, a lack of room and mere slowness from each other.")


def _judge_cure(answer: Callable[..., str], ref: ray.ObjectRef, expected: str, case: str, hint: str) -> Verdict | None:
    try:
        got = answer(ref)
    except ray.exceptions.RayError as error:
        hint = "Call ray.get inside of try, with a timeout, and let an except for each kind of error return a word."
        return not_right(f"the error {type(error).__name__} for {case}", f"{expected!r}", hint)
    if isinstance(got, str) and got == expected:
        return None
    if not isinstance(got, str) or got not in CURES:
        hint = f"Return one of these words: {', '.join(CURES)}."
        return not_right(f"{got!r} for {case}", f"{expected!r}", hint)
    return not_right(f"{got!r} for {case}", f"{expected!r}", hint)
