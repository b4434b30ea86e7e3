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


@ray.remote
def slow_square_pair(x: int) -> tuple[int, int]:
    return x, x * x


def squares_one_by_one(numbers):
    return {x: ray.get(slow_square.remote(x)) for x in numbers}


def squares_in_a_loop(numbers):
    squares = {}
    for x in numbers:
        ref = slow_square.remote(x)
        squares[x] = ray.get(ref)
    return squares


def squares_as_references(numbers):
    return {x: slow_square.remote(x) for x in numbers}


def squares_with_references_as_keys(numbers):
    refs = [slow_square.remote(x) for x in numbers]
    return dict(zip(refs, ray.get(refs), strict=True))


def squares_of_a_dict(numbers):
    return ray.get({x: slow_square.remote(x) for x in numbers})


def squares_without_ray(numbers):
    return {x: x * x for x in numbers}


def squares_as_a_list(numbers):
    return ray.get([slow_square.remote(x) for x in numbers]) if numbers else {}


def squares_as_pairs(numbers):
    return list(zip(numbers, ray.get([slow_square.remote(x) for x in numbers]), strict=True)) if numbers else {}


def squares_by_place(numbers):
    return dict(enumerate(ray.get([slow_square.remote(x) for x in numbers])))


def numbers_by_square(numbers):
    return dict(zip(ray.get([slow_square.remote(x) for x in numbers]), numbers, strict=True))


def squares_in_finishing_order(numbers):
    pending, values = [slow_square.remote(x) for x in numbers], []
    while pending:
        ready, pending = ray.wait(pending)
        values += ray.get(ready)
    return dict(zip(numbers, values, strict=True))


def squares_two_by_two(numbers):
    squares = {}
    for i in range(0, len(numbers), 2):
        two = numbers[i : i + 2]
        squares.update(zip(two, ray.get([slow_square.remote(x) for x in two]), strict=True))
    return squares


def squares_that_leave_0_out(numbers):
    values = ray.get([slow_square.remote(x) for x in numbers])
    return {x: value for x, value in zip(numbers, values, strict=True) if value}


def squares_of_sorted_numbers(numbers):
    return dict(zip(numbers, ray.get([slow_square.remote(x) for x in sorted(numbers)]), strict=True))


def squares_of_references(numbers):
    refs = {x: slow_square.remote(x) for x in numbers}
    return {x: ray.get(ref) for x, ref in refs.items()}


def squares_of_a_pool(numbers):
    @ray.remote
    class Squarer:
        def square(self, x):
            time.sleep(0.1)
            return x * x

    pool = ActorPool([Squarer.remote() for _ in range(2)])
    return dict(zip(numbers, pool.map(lambda actor, x: actor.square.remote(x), numbers), strict=True))


def squares_by_threads(numbers):
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(numbers, pool.map(lambda x: ray.get(slow_square.remote(x)), numbers), strict=True))


def squares_as_they_come(numbers):
    number_of = {slow_square.remote(x): x for x in numbers}
    squares, waiting = {}, list(number_of)
    while waiting:
        (ready,), waiting = ray.wait(waiting)
        squares[number_of[ready]] = ray.get(ready)
    return squares


def sum_of_values(square, add, numbers):
    return add.remote(*ray.get([square.remote(x) for x in numbers]))


def sum_that_is_fetched(square, add, numbers):
    return ray.get(add.remote(*[square.remote(x) for x in numbers]))


def sum_of_a_list(square, add, numbers):
    return add.remote([square.remote(x) for x in numbers])


def sum_in_the_notebook(square, add, numbers):
    return ray.put(sum(ray.get([square.remote(x) for x in numbers])))


def references_of_squares(square, add, numbers):
    return [square.remote(x) for x in numbers]


def sum_without_square_tasks(square, add, numbers):
    return add.remote(*[x * x for x in numbers])


def sum_of_different_squares(square, add, numbers):
    return add.remote(*[square.remote(x) for x in set(numbers)])


def sum_without_the_first(square, add, numbers):
    return add.remote(*[square.remote(x) for x in numbers][1:])


def sum_called_directly(square, add, numbers):
    return add(*[square.remote(x) for x in numbers])


def sum_two_by_two(square, add, numbers):
    refs = [square.remote(x) for x in numbers] or [add.remote()]
    while len(refs) > 1:
        refs = [add.remote(*refs[i : i + 2]) for i in range(0, len(refs), 2)]
    return refs[0] if len(numbers) > 1 else add.remote(refs[0])


def sum_by_a_loop(square, add, numbers):
    total = add.remote()
    for x in numbers:
        total = add.remote(total, square.remote(x))
    return total


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
        (squares_as_a_list, "Return a dict"),
        (squares_in_finishing_order, "its own square"),
        (squares_without_ray, "slow_square.remote"),
        (squares_in_a_loop, "inside the loop"),
        (squares_two_by_two, "inside the loop"),
        (squares_of_a_dict, "your code raised ValueError"),
        (squares_with_references_as_keys, "ray.get"),
        (squares_as_pairs, "Return a dict"),
        (squares_by_place, "The keys are the numbers"),
        (numbers_by_square, "The keys are the numbers"),
        (squares_of_sorted_numbers, "its own square"),
        (squares_that_leave_0_out, "each of them once"),
        (lambda numbers: [], "Return a dict, also an empty one"),
        (lambda numbers: None, "Return a dict"),
        (lambda numbers: sys.exit("wrong"), "raised SystemExit: wrong"),
    ],
    (2, start_here.sum_of_squares): [
        (sum_of_values, "ray.get waits in the notebook"),
        (sum_that_is_fetched, "ray.get waits in the notebook"),
        (sum_of_a_list, "A star makes an argument of each"),
        (sum_in_the_notebook, "ray.get waits in the notebook"),
        (references_of_squares, "add.remote(...)"),
        (sum_without_square_tasks, "square.remote(number)"),
        (sum_of_different_squares, "for each number"),
        (sum_without_the_first, "each of them once"),
        (sum_called_directly, "add.remote(...)"),
        (lambda square, add, numbers: None, "square.remote(number)"),
    ],
    (3, start_here.in_batches): [
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
}
RIGHT = {
    (1, start_here.slow_squares): [
        squares_of_references,
        squares_as_they_come,
        squares_of_a_pool,
        squares_by_threads,
        lambda numbers: dict(ray.get([slow_square_pair.options(num_cpus=0.5).remote(x) for x in numbers])),
    ],
    (2, start_here.sum_of_squares): [
        sum_two_by_two,
        sum_by_a_loop,
        lambda square, add, numbers: add.options(num_cpus=0.5).remote(*map(square.remote, numbers)),
        lambda square, add, numbers: add.remote(0, *[square.options(name="x").remote(x) for x in numbers]),
    ],
    (3, start_here.in_batches): [
        batches_by_a_loop,
        batches_of_numpy,
        batches_in_the_store,
        batches_with_every_nth_number,
        lambda task, numbers, size: tuple(joined(ray.get([task.remote(b) for b in batches_of(numbers, size)]))),
    ],
}
