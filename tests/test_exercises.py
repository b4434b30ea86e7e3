"""Wrong answers that learners really give are refused, each with a hint that fits it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import ray
import torch

from helpers.exercises import object_store, start_here, tasks_and_actors, train
from helpers.exercises.verdict import Verdict

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


# 00 --------------------------------------------------------------------------


@ray.remote
def slow_square(x: int) -> int:
    time.sleep(0.5)
    return x * x


def squares_one_by_one(numbers):
    return [ray.get(slow_square.remote(x)) for x in numbers]


def squares_as_references(numbers):
    return [slow_square.remote(x) for x in numbers]


def squares_without_ray(numbers):
    return [x * x for x in numbers]


def squares_as_they_finish(numbers):
    pending, values = [slow_square.remote(x) for x in numbers], []
    while pending:
        ready, pending = ray.wait(pending)
        values += ray.get(ready)
    return values[::-1]


RIGHT_PARTS = {sentence: part for sentence, (part, _) in start_here.PARTS.items()}


def parts_with(sentence_start: str, part: str) -> dict[str, str]:
    return {s: part if s.startswith(sentence_start) else right for s, right in RIGHT_PARTS.items()}


# 01 --------------------------------------------------------------------------


def get_in_the_loop(task, items):
    return [ray.get(task.remote(item)) for item in items]


def forgets_get(task, items):
    return [task.remote(item) for item in items]


def in_finishing_order(task, items):
    pending, values = [task.remote(item) for item in items], []
    while pending:
        ready, pending = ray.wait(pending)
        values += ray.get(ready)
    return values


def map_without_tasks(task, items):
    return [number * number for number, _ in items]


def two_whatever_n_is(refs, n):
    return ray.get(ray.wait(refs, num_returns=2)[0])


def first_in_the_list(refs, n):
    return ray.get(refs[:n])


def waits_for_all(refs, n):
    ready, _ = ray.wait(refs, num_returns=n)
    ray.get(refs)
    return ray.get(ready)


def ready_references(refs, n):
    return ray.wait(refs, num_returns=n)[0]


class PlainMean:
    def add(self, value): ...

    def mean(self): ...


@ray.remote
class ZeroWhenEmpty:
    def __init__(self):
        self.total, self.count = 0, 0

    def add(self, value):
        self.total, self.count = self.total + value, self.count + 1

    def mean(self):
        return self.total / max(1, self.count)


@ray.remote
class LastValue:
    def __init__(self):
        self.last = None

    def add(self, value):
        self.last = value

    def mean(self):
        return self.last


@ray.remote
class WholeNumbers:
    def __init__(self):
        self.total, self.count = 0, 0

    def add(self, value):
        self.total, self.count = self.total + value, self.count + 1

    def mean(self):
        return self.total // self.count if self.count else None


@ray.remote
class NoneWhenZero:
    def __init__(self):
        self.total, self.count = 0, 0

    def add(self, value):
        self.total, self.count = self.total + value, self.count + 1

    def mean(self):
        return self.total / self.count if self.total else None


def without_limit(task, items, limit):
    return ray.get([task.remote(item) for item in items])


def one_at_a_time(task, items, limit):
    return [ray.get(task.remote(item)) for item in items]


def always_three(task, items, limit):
    return right_bounded(task, items, 3)


def limit_minus_one(task, items, limit):
    return right_bounded(task, items, max(1, limit - 1))


def right_bounded(task, items, limit):
    refs, pending = [], []
    for item in items:
        if len(pending) >= limit:
            _, pending = ray.wait(pending)
        refs.append(task.remote(item))
        pending.append(refs[-1])
    return ray.get(refs)


def bounded_but_unordered(task, items, limit):
    pending, values = [], []
    for item in items:
        if len(pending) == limit:
            ready, pending = ray.wait(pending)
            values += ray.get(ready)
        pending.append(task.remote(item))
    return values + ray.get(pending)


# 02 --------------------------------------------------------------------------


@ray.remote
def gets_its_argument(matrix):
    return ray.get(matrix).mean(axis=0)


@ray.remote
def mean_of_rows(matrix):
    return matrix.mean(axis=1)


@ray.remote
def mean_of_all(matrix):
    return matrix.mean()


@ray.remote
def median_of_columns(matrix):
    return np.median(matrix, axis=0)


def always_sixty(picture, amount):
    return (picture.astype(int) + 60).clip(0, 255).astype(np.uint8)


def makes_writeable(picture, amount):
    picture.setflags(write=True)
    return brighten_in_place(picture, amount)


def brighten_in_place(picture, amount):
    picture += amount
    return picture


def brighten_and_overflow(picture, amount):
    return picture + np.uint8(amount)


def brighten_to_integers(picture, amount):
    return (picture.astype(int) + amount).clip(0, 255)


def passes_the_array(task, array, n):
    return ray.get([task.remote(array) for _ in range(n)])


def puts_in_the_loop(task, array, n):
    return ray.get([task.remote(ray.put(array)) for _ in range(n)])


def gets_in_the_loop(task, array, n):
    ref = ray.put(array)
    return [ray.get(task.remote(ref)) for _ in range(n)]


def returns_references(task, array, n):
    ref = ray.put(array)
    return [task.remote(ref) for _ in range(n)]


# 04 --------------------------------------------------------------------------


def mean_of_accuracies(reports):
    accuracies = [r["correct"] / r["count"] for r in reports]
    return sum(accuracies) / len(accuracies)


def first_worker_only(reports):
    return reports[0]["correct"] / reports[0]["count"]


def ignores_the_workers(pictures, workers, batch):
    return math.ceil(pictures / batch)


def drops_the_last_batch(pictures, workers, batch):
    return math.ceil(pictures / workers) // batch


def rounds_the_share_down(pictures, workers, batch):
    return math.ceil((pictures // workers) / batch)


def strips_letters(path, model):
    state = torch.load(path, weights_only=True)
    model.load_state_dict({name.lstrip("module."): value for name, value in state.items()}, strict=False)  # noqa: B005


def replaces_everywhere(path, model):
    state = torch.load(path, weights_only=True)
    model.load_state_dict({name.replace("module.", ""): value for name, value in state.items()}, strict=False)


def forgets_the_buffers(path, model):
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[f"module.{name}"])


def loads_nothing(path, model):
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)


def loads_anything(path, model):
    state = torch.load(path, weights_only=False)
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def keeps_the_prefix(path, model):
    model.load_state_dict(torch.load(path, weights_only=True))


# notebook, exercise: its check, and (wrong answer, a fragment of the hint that it must get)
WRONG: dict[tuple[str, int], tuple[Callable[[Any], Verdict], list[tuple[Any, str]]]] = {
    ("00_start_here", 1): (
        start_here.slow_squares,
        [
            (squares_one_by_one, "inside the loop"),
            (squares_as_references, "ray.get"),
            (squares_without_ray, "slow_square.remote"),
            (squares_as_they_finish, "in the order"),
        ],
    ),
    ("00_start_here", 2): (
        start_here.parts,
        [
            (parts_with("It decides", "GCS"), "one on each node"),
            (parts_with("It knows", "raylet"), "All nodes must be able to ask"),
            (parts_with("It runs", "driver"), "runs it"),
        ],
    ),
    ("01_tasks_and_actors", 1): (
        tasks_and_actors.parallel_map,
        [
            (get_in_the_loop, "inside the loop"),
            (forgets_get, "ray.get"),
            (in_finishing_order, "order of the items"),
            (map_without_tasks, "one task for each"),
        ],
    ),
    ("01_tasks_and_actors", 2): (
        tasks_and_actors.first_answers,
        [
            (first_in_the_list, "may be slow"),
            (waits_for_all, "the slowest"),
            (ready_references, "values"),
            (two_whatever_n_is, "num_returns=n"),
        ],
    ),
    ("01_tasks_and_actors", 3): (
        tasks_and_actors.running_mean,
        [
            (PlainMean, "@ray.remote"),
            (ZeroWhenEmpty, "return None"),
            (LastValue, "their sum divided"),
            (WholeNumbers, "their sum divided"),
            (NoneWhenZero, "0 is a number"),
        ],
    ),
    ("01_tasks_and_actors", 4): (
        tasks_and_actors.bounded_map,
        [
            (without_limit, "wait for one"),
            (one_at_a_time, "wait only when"),
            (bounded_but_unordered, "in the order"),
            (always_three, "wait for one"),
            (limit_minus_one, "wait only when"),
        ],
    ),
    ("02_object_store", 1): (
        object_store.column_means,
        [
            (gets_its_argument, "leave out ray.get"),
            (mean_of_rows, "axis=0"),
            (mean_of_all, "axis=0"),
            (median_of_columns, "sum divided"),
            (np.mean, "@ray.remote"),
        ],
    ),
    ("02_object_store", 2): (
        object_store.brighten,
        [
            (brighten_in_place, "make a new array"),
            (brighten_and_overflow, "larger type"),
            (brighten_to_integers, "astype"),
            (always_sixty, "cut at 255"),
            (makes_writeable, "make a new array"),
        ],
    ),
    ("02_object_store", 3): (
        object_store.share_once,
        [
            (passes_the_array, "ray.put it first"),
            (puts_in_the_loop, "before the loop"),
            (returns_references, "ray.get"),
            (gets_in_the_loop, "inside the loop"),
        ],
    ),
    ("04_train_fashion_mnist", 1): (
        train.overall_accuracy,
        [(mean_of_accuracies, "divide once"), (first_worker_only, "first worker alone")],
    ),
    ("04_train_fashion_mnist", 2): (
        train.steps_per_epoch,
        [
            (ignores_the_workers, "one worker alone"),
            (drops_the_last_batch, "is a step as well"),
            (rounds_the_share_down, "rounded up"),
        ],
    ),
    ("04_train_fashion_mnist", 3): (
        train.load_wrapped,
        [
            (loads_nothing, "remove the prefix"),
            (loads_anything, "weights_only=True"),
            (keeps_the_prefix, "raised"),
            (strips_letters, "at the start"),
            (replaces_everywhere, "at the start"),
            (forgets_the_buffers, "did not change"),
        ],
    ),
}
CASES = [(*exercise, wrong, hint) for exercise, (_, cases) in WRONG.items() for wrong, hint in cases]


@pytest.mark.parametrize(("notebook", "number", "wrong", "hint"), CASES)
def test_wrong_answer_is_refused_with_a_hint(
    ray_session: None, notebook: str, number: int, wrong: Any, hint: str
) -> None:
    verdict = WRONG[notebook, number][0](wrong)
    assert verdict.status == "not right", verdict
    assert hint in verdict.message, verdict


def bounded_by_threads(task, items, limit):
    with ThreadPoolExecutor(limit) as pool:
        return list(pool.map(lambda item: ray.get(task.remote(item)), items))


OTHER_RIGHT = [
    (start_here.slow_squares, lambda numbers: tuple(ray.get([slow_square.remote(x) for x in numbers]))),
    (start_here.slow_squares, lambda numbers: np.array(ray.get(list(map(slow_square.remote, numbers))))),
    (tasks_and_actors.parallel_map, lambda task, items: ray.get(list(map(task.remote, items)))),
    (tasks_and_actors.parallel_map, lambda task, items: tuple(ray.get([task.remote(item) for item in items]))),
    (tasks_and_actors.first_answers, lambda refs, n: tuple(map(ray.get, ray.wait(refs, num_returns=n)[0]))),
    (tasks_and_actors.bounded_map, bounded_by_threads),
    (object_store.share_once, lambda task, array, n: ray.get([task.remote(array=r) for r in [ray.put(array)] * n])),
    (train.overall_accuracy, lambda rs: torch.tensor(sum(r["correct"] for r in rs) / sum(r["count"] for r in rs))),
    (train.steps_per_epoch, lambda n, workers, batch: len(range(0, len(range(0, n, workers)), batch))),
]


@pytest.mark.parametrize(("check", "answer"), OTHER_RIGHT)
def test_other_right_answers_are_accepted(ray_session: None, check: Callable, answer: Callable) -> None:
    verdict = check(answer)
    assert verdict.status == "right", verdict


@pytest.mark.fast
def test_every_exercise_has_two_wrong_answers() -> None:
    exercises = {
        (path.stem, int(tag.removeprefix("exercise-")))
        for path in NOTEBOOKS.glob("*.ipynb")
        for cell in nbformat.read(path, 4).cells
        for tag in cell.metadata.get("tags", [])
        if tag.startswith("exercise-")
    }
    assert exercises, "no exercise was found in the notebooks"
    enough = {exercise for exercise, (_, cases) in WRONG.items() if len(cases) >= 2}
    assert exercises <= enough, f"fewer than two wrong answers for {sorted(exercises - enough)}"
