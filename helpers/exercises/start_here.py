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


class _Adding:
    """Has `.remote(*numbers)` like a remote function that adds numbers, and remembers what it was given."""

    def __init__(self) -> None:
        self.arguments: list[tuple[Any, ...]] = []
        self._task = ray.remote(num_cpus=0)(lambda *numbers: sum(numbers))

    def remote(self, *numbers: Any) -> ray.ObjectRef:
        self.arguments.append(numbers)
        return self._task.remote(*numbers)

    def options(self, **options: Any) -> _Adding:
        return self

    def __call__(self, *numbers: Any) -> None:
        raise TypeError("a remote function cannot be called directly: use add.remote(...)")


@exercise_check
def sum_of_squares(answer: Callable[[Any, Any, list[int]], Any]) -> Verdict:
    """Exercise 2: squares in tasks, their sum in another one, and nobody waits: the answer is a reference."""
    if (missing := without_ray()) is not None:
        return missing
    square = Watched()
    with _sent_along():
        try:
            for numbers in ([2, 2, 5, 0, -3], [7], []):
                wrong = _judge_sum(answer, square, numbers)
                if wrong is not None:
                    return wrong
            return right("you had the reference to the sum before any square was ready.")
        finally:
            square.finish()


def _judge_sum(answer: Callable[[Any, Any, list[int]], Any], square: Watched, numbers: list[int]) -> Verdict | None:
    add, expected = _Adding(), sum(number * number for number in numbers)
    square.begin(_square, watched.only())  # no square is ready before the answer has returned
    got = answer(square, add, list(numbers))
    if square.waited_in_vain():
        hint = "ray.get waits in the notebook: give the references of the squares to add.remote instead."
        return not_right("a wait for the squares", "a reference that comes at once", hint)
    if sorted(map(repr, square.arguments)) != sorted(map(repr, numbers)):
        hint = "Start one task with square.remote(number) for each number."
        return not_right(f"{len(square.arguments)} squares in tasks, for {numbers}", f"{len(numbers)}", hint)
    if not add.arguments:
        return not_right("no sum in a task", "one", "Let a task add them up, too: add.remote(...).")
    if any(as_list(argument) is not None for arguments in add.arguments for argument in arguments):
        hint = "Inside a list, references stay references. A star makes an argument of each: add.remote(*refs)."
        return not_right("a list as the argument of add", "one argument for each square", hint)
    if not isinstance(got, ray.ObjectRef):
        hint = "Return what add.remote(...) returns; whoever needs the number calls ray.get."
        return not_right(got, "a reference to the sum", hint)
    square.finish()
    total = ray.get(got)
    if not same(total, expected):
        hint = "Give add.remote the reference of each square, each of them once."
        return not_right(f"a reference to {total}", f"one to {expected}, for {numbers}", hint)
    return None


def _square(place: int, number: int) -> int:
    return number * number


@exercise_check
def in_batches(answer: Callable[[Any, list[int], int], list[int]]) -> Verdict:
    """Exercise 3: one task for each batch of numbers, all at the same time, and one list of results."""
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
