"""Answers to the exercises of notebook 00."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor

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
    (2, start_here.parts): [
        (parts_with("It decides", "GCS"), "one on each node"),
        (parts_with("It knows", "raylet"), "All nodes must be able to ask"),
        (parts_with("It runs", "driver"), "runs it"),
        (parts_with("It holds", "worker"), "no process of its own"),
        (parts_with("It calls", "worker"), "asks for the work"),
        (parts_with("It calls", "head node"), "one of the four words"),
        (parts_with("It calls", None), "one of the four words"),
        (list(RIGHT_PARTS.values()), "a word for each"),
        (dict(list(RIGHT_PARTS.items())[1:]), "Leave the sentences"),
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
    (2, start_here.parts): [
        {sentence: f" {part.upper()} " for sentence, part in RIGHT_PARTS.items()},
        dict(reversed(RIGHT_PARTS.items())),
        {**RIGHT_PARTS, "It answers in JSON.": "nobody"},
    ],
}
