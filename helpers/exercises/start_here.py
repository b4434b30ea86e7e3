"""Checks of the exercises of notebook 00. Ray must be running."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from helpers.exercises import verdict, watched
from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right, same, without_ray
from helpers.exercises.watched import Rule, Stage, Watched, all_together

PAUSE = 0.15  # seconds between the ends of two tasks, so that the order in which they end can be seen

PARTS = {
    "A task divides by zero. Where is the error raised first?": (
        "worker",
        "The raylet starts it, and it unpacks your function and runs it.",
    ),
    "Two workers of a node are free. What picks one for the next task?": (
        "raylet",
        "There is one on each node, with the scheduler in it.",
    ),
    "A new machine joins. Where can all others learn of it?": (
        "GCS",
        "All nodes must be able to ask it, so it is on the head.",
    ),
    "Two tasks of a node read the same large array. What keeps it for them?": (
        "raylet",
        "The store has no process of its own: it lives in the part that also schedules.",
    ),
    "A loop calls ray.get too early. What has to wait?": (
        "driver",
        "It is the program that asks for the work: this notebook.",
    ),
}


@contextmanager
def _sent_along() -> Iterator[None]:
    """Send the code of a check to the workers: the nodes of a cluster that plain `ray.init` joins lack this package."""
    modules = (sys.modules[__name__], verdict, watched)
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            ray.cloudpickle.unregister_pickle_by_value(module)


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


def _out_of_order(total: int) -> Rule:
    """The first square waits until the second one has begun, and the second one until the third is ready.

    Whoever starts a square only after the one before is ready waits in vain, and so does whoever
    waits for two at a time; whoever takes squares as they come gets them in another order.
    """

    def may_end(started: list[int], ended: list[int]) -> list[int]:
        held = []
        if total > 1 and 1 not in started:
            held.append(0)
        if total > 2 and 2 not in ended:
            held.append(1)
        return [place for place in started if place not in held]

    return may_end


@exercise_check
def slow_squares(answer: Callable[[Sequence[int]], dict[int, int]]) -> Verdict:
    """Exercise 1: a dict from each number to its square, with all squares under way at the same time."""
    if (missing := without_ray()) is not None:
        return missing
    nothing = answer([])
    if not isinstance(nothing, Mapping) or nothing:
        return not_right(nothing, "{} for no numbers", "Return a dict, also an empty one.")
    with _sent_along():
        stage = Stage.remote()
        try:
            for numbers in ([5, 4, 0, -3], [7]):
                wrong = _judge_squares(answer, numbers, stage)
                if wrong is not None:
                    return wrong
            return right("all squares were under way at the same time, and each number has its own.")
        finally:
            ray.get(stage.open.remote())  # what the answer left behind can end


def _judge_squares(answer: Callable[[Sequence[int]], dict[int, int]], numbers: list[int], stage: Any) -> Verdict | None:
    ray.get(stage.begin.remote(lambda *_: None, _out_of_order(len(numbers)), 0.1, watched.PATIENCE))
    got = answer(_traced(numbers, stage))
    expected = {number: number * number for number in numbers}
    parts = [*got, *got.values()] if isinstance(got, Mapping) else as_list(got) or [got]
    if any(isinstance(part, ray.ObjectRef) for part in parts):
        return not_right("references", expected, "Trade them for values with ray.get, which takes a list of them.")
    if ray.get(stage.in_vain.remote()):
        hint = "ray.get inside the loop waits for each task: start all of them first, and call ray.get afterwards."
        return not_right("a wait for one square before others were under way", "all under way first", hint)
    if not isinstance(got, Mapping):
        return not_right(got, f"{expected} for {numbers}", "Return a dict: each number is a key, its square the value.")
    if not same(dict(got), expected):
        return not_right(dict(got), f"{expected} for {numbers}", _dict_hint(got, expected))
    in_tasks = len(ray.get(stage.started.remote()))
    if in_tasks != len(numbers):
        hint = "Call slow_square.remote for each number, and leave slow_square as it is."
        return not_right(f"{in_tasks} squares in tasks of Ray, for {numbers}", f"{len(numbers)}", hint)
    return None


def _dict_hint(got: Mapping[Any, Any], expected: dict[int, int]) -> str:
    if set(got) != set(expected):
        return "The keys are the numbers themselves, each of them once."
    return (
        "Each number belongs with its own square: results come in the order of the references, so pair them like that."
    )


@exercise_check
def in_batches(answer: Callable[[Any, list[int], int], list[int]]) -> Verdict:
    """Exercise 2: one task for each batch of numbers, all at the same time, and one list of results."""
    if (missing := without_ray()) is not None:
        return missing
    task = Watched()
    with _sent_along():
        try:
            for numbers, size in (([3, 1, 1, 4], 2), ([2, 0, 5, 7, 7, 6, 9], 2), ([8, 6], 5), ([], 2)):
                wrong = _judge_batches(answer, task, numbers, size)
                if wrong is not None:
                    return wrong
            return right("one task for each batch, all at the same time, and the results in order.")
        finally:
            task.finish()


def _squares(place: int, batch: Any) -> Any:
    if as_list(batch) is None:  # a number, whose task should not fail before the check can say so
        return batch
    return [number * number for number in batch]


def _judge_batches(
    answer: Callable[[Any, list[int], int], list[int]], task: Watched, numbers: list[int], size: int
) -> Verdict | None:
    total = -(-len(numbers) // size)
    task.begin(_squares, all_together(total), PAUSE)
    got = answer(task, list(numbers), size)
    values, expected = as_list(got), [number * number for number in numbers]
    if isinstance(got, ray.ObjectRef) or any(isinstance(value, ray.ObjectRef) for value in values or []):
        return not_right("references", expected, "Trade them for values with ray.get.")
    batches = [as_list(ray.get(a) if isinstance(a, ray.ObjectRef) else a) for a in task.arguments]
    wrong = _judge_division(batches, numbers, size, total)
    if wrong is not None:
        return wrong
    if task.waited_in_vain():
        hint = "Start the tasks of all batches first, then call ray.get once on the list of their references."
        return not_right(f"at most {task.most} tasks at the same time", f"{total}", hint)
    if values and any(as_list(value) is not None for value in values):
        return not_right(got, expected, "Each task returns a list: join these lists into one.")
    if not same(values, expected):
        hint = "Return one list, with the result of each number, in the order of the numbers."
        return not_right(got, f"{expected} for {numbers}", hint)
    return None


def _judge_division(batches: list[list[object] | None], numbers: list[int], size: int, total: int) -> Verdict | None:
    """Whether each number went into one batch, and no batch is larger than it may be."""
    case = f"for {len(numbers)} numbers and size={size}"
    if numbers and not batches:
        return not_right("no task", f"{total} {case}", "Start the work of each batch with task.remote(batch).")
    if any(batch is None for batch in batches):
        return not_right("a task that was given no list", "a list", "Give each task a slice: numbers[i : i + size].")
    if any(len(batch) > size for batch in batches):
        longest = max(len(batch) for batch in batches)
        return not_right(f"a batch of {longest} {case}", f"at most {size}", "A batch holds at most `size` numbers.")
    if sorted(str(number) for batch in batches for number in batch) != sorted(map(str, numbers)):
        hint = "Each number belongs into one batch; the last batch may be shorter than the others."
        return not_right(f"batches {batches} for {numbers}", "each number once", hint)
    if len(batches) != total:
        hint = "Start one task with task.remote(batch) for each group of `size` numbers, and none for an empty group."
        return not_right(f"{len(batches)} tasks {case}", f"{total}", hint)
    return None


@exercise_check
def parts(answer: Mapping[str, str]) -> Verdict:
    """Exercise 3: which part of Ray does what."""
    if not isinstance(answer, Mapping):
        return not_right(f"a {type(answer).__name__}", "the dict of the cell above", "Write a word for each `...`.")
    if any(value is ... for value in answer.values()):
        raise NotImplementedError
    for sentence, (expected, hint) in PARTS.items():
        if sentence not in answer:
            return not_right("no answer", f"one for '{sentence}'", "Leave the questions as they are.")
        got = str(answer[sentence]).strip().lower()
        if got not in {"driver", "worker", "raylet", "gcs"}:
            # The expected word would give the answer away.
            hint = f"Use one of the four words. {hint}"
            return not_right(f"{answer[sentence]!r}", "driver, worker, raylet or GCS", hint)
        if got != expected.lower():
            return not_right(f"{answer[sentence]!r} for '{sentence}'", "another part", hint)
    return right("you know who does what.")
