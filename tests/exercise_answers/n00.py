"""Answers to the exercises of notebook 00."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ray
from ray.util import ActorPool

from helpers.exercises import start_here


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


RIGHT_PARTS = {sentence: part for sentence, (part, _) in start_here.PARTS.items()}


def parts_with(sentence_start: str, part: str) -> dict[str, str]:
    return {s: part if s.startswith(sentence_start) else right for s, right in RIGHT_PARTS.items()}


def squares_in_finishing_order(numbers):
    pending, values = [slow_square.remote(x) for x in numbers], []
    while pending:
        ready, pending = ray.wait(pending)
        values += ray.get(ready)
    return values


def squares_two_by_two(numbers):
    values = []
    for i in range(0, len(numbers), 2):
        values += ray.get([slow_square.remote(x) for x in numbers[i : i + 2]])
    return values


def squares_by_number(numbers):
    refs = {x: slow_square.remote(x) for x in numbers}
    return ray.get(list(refs.values()))


def squares_that_leave_0_out(numbers):
    return [value for value in ray.get([slow_square.remote(x) for x in numbers]) if value]


def squares_of_a_pool(numbers):
    @ray.remote
    class Squarer:
        def square(self, x):
            time.sleep(0.1)
            return x * x

    pool = ActorPool([Squarer.remote() for _ in range(2)])
    return list(pool.map(lambda actor, x: actor.square.remote(x), numbers))


def squares_by_threads(numbers):
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda x: ray.get(slow_square.remote(x)), numbers))


def squares_sorted_back(numbers):
    pending = {slow_square.remote(x): place for place, x in enumerate(numbers)}
    values, waiting = [None] * len(numbers), list(pending)
    while waiting:
        (ready,), waiting = ray.wait(waiting)
        values[pending[ready]] = ray.get(ready)
    return values


def batches_of(numbers, size):
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def joined(results):
    return [value for batch in results for value in batch]


def a_task_for_each_number(task, numbers, size):
    return joined(ray.get([task.remote([number]) for number in numbers]))


def numbers_without_a_list(task, numbers, size):
    return ray.get([task.remote(number) for number in numbers])


def size_as_number_of_batches(task, numbers, size):
    length = -(-len(numbers) // size)
    return joined(ray.get([task.remote(batch) for batch in batches_of(numbers, length or 1)]))


def only_full_batches(task, numbers, size):
    starts = range(0, len(numbers) - size + 1, size)
    return joined(ray.get([task.remote(numbers[i : i + size]) for i in starts]))


def overlapping_batches(task, numbers, size):
    return joined(ray.get([task.remote(numbers[i : i + size]) for i in range(len(numbers))]))


def batch_after_batch(task, numbers, size):
    return joined(ray.get(task.remote(batch)) for batch in batches_of(numbers, size))


def lists_not_joined(task, numbers, size):
    return ray.get([task.remote(batch) for batch in batches_of(numbers, size)])


def references_of_batches(task, numbers, size):
    return [task.remote(batch) for batch in batches_of(numbers, size)]


def batches_in_finishing_order(task, numbers, size):
    pending, values = [task.remote(batch) for batch in batches_of(numbers, size)], []
    while pending:
        ready, pending = ray.wait(pending)
        values += joined(ray.get(ready))
    return values


def batches_called_directly(task, numbers, size):
    return joined(task(batch) for batch in batches_of(numbers, size))


def batches_without_tasks(task, numbers, size):
    return [number * number for number in numbers]


def batches_with_an_empty_one(task, numbers, size):
    starts = range(0, len(numbers) + 1, size)
    return joined(ray.get([task.remote(numbers[i : i + size]) for i in starts]))


def batches_by_a_loop(task, numbers, size):
    refs, rest = [], list(numbers)
    while rest:
        refs.append(task.remote(tuple(rest[:size])))
        rest = rest[size:]
    values = []
    for ref in refs:
        values.extend(ray.get(ref))
    return values


def batches_of_numpy(task, numbers, size):
    parts = np.array_split(np.array(numbers), -(-len(numbers) // size) or 1)
    results = ray.get([task.remote(part) for part in parts if len(part)])
    return np.concatenate(results) if results else []


def batches_in_the_store(task, numbers, size):
    refs = [task.remote(ray.put(batch)) for batch in batches_of(numbers, size)]
    return sum(ray.get(refs), [])


def batches_with_every_nth_number(task, numbers, size):
    count = -(-len(numbers) // size)
    values = [None] * len(numbers)
    refs = [task.remote(numbers[first::count]) for first in range(count)]
    for first, ref in enumerate(refs):
        values[first::count] = ray.get(ref)
    return values


WRONG = {
    (1, start_here.slow_squares): [
        (squares_one_by_one, "inside the loop"),
        (squares_as_references, "ray.get"),
        (squares_without_ray, "slow_square.remote"),
        (squares_in_finishing_order, "in the order"),
        (squares_two_by_two, "inside the loop"),
        (squares_by_number, "square of each number"),
        (squares_that_leave_0_out, "square of each number"),
        (lambda numbers: sorted(squares_by_threads(numbers)), "in the order"),
        (lambda numbers: None, "Return a list"),
        (lambda numbers: sys.exit("wrong"), "raised SystemExit: wrong"),
    ],
    (2, start_here.in_batches): [
        (a_task_for_each_number, "for each group of `size` numbers"),
        (numbers_without_a_list, "numbers[i : i + size]"),
        (size_as_number_of_batches, "at most `size` numbers"),
        (only_full_batches, "the last batch may be shorter"),
        (overlapping_batches, "Each number belongs into one batch"),
        (batch_after_batch, "all batches first"),
        (lists_not_joined, "join these lists"),
        (references_of_batches, "ray.get"),
        (batches_in_finishing_order, "in the order of the numbers"),
        (batches_called_directly, "task.remote(...)"),
        (batches_without_tasks, "task.remote(batch)"),
        (batches_with_an_empty_one, "none for an empty group"),
        (lambda task, numbers, size: None, "task.remote(batch)"),
    ],
    (3, start_here.parts): [
        (parts_with("Two workers", "GCS"), "one on each node"),
        (parts_with("A new machine", "raylet"), "All nodes must be able to ask"),
        (parts_with("A task", "driver"), "runs it"),
        (parts_with("Two tasks", "worker"), "no process of its own"),
        (parts_with("A loop", "worker"), "asks for the work"),
        (parts_with("A loop", "head node"), "one of the four words"),
        (parts_with("A loop", None), "one of the four words"),
        (list(RIGHT_PARTS.values()), "a word for each"),
        (dict(list(RIGHT_PARTS.items())[1:]), "Leave the questions"),
    ],
}
RIGHT = {
    (1, start_here.slow_squares): [
        lambda numbers: tuple(ray.get([slow_square.remote(x) for x in numbers])),
        squares_of_a_pool,
        squares_by_threads,
        squares_sorted_back,
        lambda numbers: [ray.get(ref) for ref in [slow_square.options(num_cpus=0.5).remote(x) for x in numbers]],
    ],
    (2, start_here.in_batches): [
        batches_by_a_loop,
        batches_of_numpy,
        batches_in_the_store,
        batches_with_every_nth_number,
        lambda task, numbers, size: tuple(joined(ray.get([task.remote(b) for b in batches_of(numbers, size)]))),
    ],
    (3, start_here.parts): [
        {sentence: f" {part.upper()} " for sentence, part in RIGHT_PARTS.items()},
        dict(reversed(RIGHT_PARTS.items())),
        {**RIGHT_PARTS, "It answers in JSON.": "nobody"},
    ],
}
