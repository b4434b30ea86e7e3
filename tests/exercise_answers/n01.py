"""Answers to the exercises of notebook 01."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ray

from helpers.exercises import tasks_and_actors


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
    return [number * number for number in items]


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


def map_by_item(task, items):
    refs = {item: task.remote(item) for item in items}
    return ray.get(list(refs.values()))


def map_two_by_two(task, items):
    values = []
    for i in range(0, len(items), 2):
        values += ray.get([task.remote(item) for item in items[i : i + 2]])
    return values


def map_of_distinct_items(task, items):
    return ray.get([task.remote(item) for item in sorted(set(items))])


def map_that_waits_for_the_first(task, items):
    if not items:
        return []
    first = ray.get(task.remote(items[0]))
    return [first, *ray.get([task.remote(item) for item in items[1:]])]


def map_that_leaves_0_out(task, items):
    return [value for value in ray.get([task.remote(item) for item in items]) if value]


def map_that_pops(task, items):
    refs = []
    while items:
        refs.append(task.remote(items.pop(0)))
    return ray.get(refs)


def map_by_threads(task, items):
    with ThreadPoolExecutor(max(1, len(items))) as pool:
        return list(pool.map(lambda item: ray.get(task.remote(item)), items))


def map_with_wait(task, items):
    refs = [task.remote(item) for item in items]
    if refs:
        ray.wait(refs, num_returns=len(refs))
    return [ray.get(ref) for ref in refs]


def the_first_answer_twice(refs, n):
    (ready,), _ = ray.wait(refs, num_returns=1)
    return [ray.get(ready)] * n


def answers_that_wait_a_while(refs, n):
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=1)
    return ray.get(ready)


def hasty_answers(refs, n):
    ready, _ = ray.wait(refs, num_returns=n, timeout=0)
    return ray.get(ready)


def different_answers(refs, n):
    ready, _ = ray.wait(refs, num_returns=n)
    return list(set(ray.get(ready)))


def one_answer(refs, n):
    return ray.get(ray.wait(refs)[0])


def answers_one_by_one(refs, n):
    values = []
    while len(values) < n:
        ready, refs = ray.wait(refs)
        values += ray.get(ready)
    return values


def answers_by_asking_again(refs, n):
    ready = []
    while len(ready) < n:
        ready, _ = ray.wait(refs, num_returns=n, timeout=0.05)
    return [ray.get(ref) for ref in ready]


def answers_that_remove(refs, n):
    values = []
    for _ in range(n):
        (ready,), _ = ray.wait(refs)
        refs.remove(ready)
        values.append(ray.get(ready))
    return values


@ray.remote
class MeanOfTheLastTwo:
    def __init__(self):
        self.numbers = []

    def add(self, value):
        self.numbers = [*self.numbers, value][-2:]

    def mean(self):
        return sum(self.numbers) / len(self.numbers) if self.numbers else None


@ray.remote
class MeanOfTheDifferent:
    def __init__(self):
        self.numbers = set()

    def add(self, value):
        self.numbers.add(value)

    def mean(self):
        return sum(self.numbers) / len(self.numbers) if self.numbers else None


@ray.remote
class ForgetsWhenAsked:
    def __init__(self):
        self.numbers = []

    def add(self, value):
        self.numbers.append(value)

    def mean(self):
        numbers, self.numbers = self.numbers, []
        return sum(numbers) / len(numbers) if numbers else None


@ray.remote
class MeanOfMeans:
    def __init__(self):
        self.value = None

    def add(self, value):
        self.value = value if self.value is None else (self.value + value) / 2

    def mean(self):
        return self.value


@ray.remote
class SumOnly:
    def __init__(self):
        self.total = None

    def add(self, value):
        self.total = (self.total or 0) + value

    def mean(self):
        return self.total


@ray.remote
class WithoutMean:
    def add(self, value): ...


@ray.remote
class MeanInWords:
    def __init__(self):
        self.numbers = []

    def add(self, value):
        self.numbers.append(value)

    def mean(self):
        return f"{sum(self.numbers) / len(self.numbers):.3f}" if self.numbers else None


@ray.remote
def mean_function(values):
    return sum(values) / len(values)


@ray.remote
class MeanIn32Bits:
    def __init__(self):
        self.numbers = []

    def add(self, value):
        self.numbers.append(value)

    def mean(self):
        return np.mean(self.numbers, dtype=np.float32) if self.numbers else None


@ray.remote
class AsyncMean:
    def __init__(self):
        self.numbers = []

    async def add(self, value):
        self.numbers.append(value)

    async def mean(self):
        return statistics.fmean(self.numbers) if self.numbers else None


@ray.remote
class WelfordMean:
    def __init__(self):
        self.current, self.count = None, 0

    def add(self, value):
        self.count += 1
        self.current = (self.current or 0) + (value - (self.current or 0)) / self.count
        return self.current

    def mean(self):
        return self.current


def split_in_time(refs, seconds):
    return ray.wait(refs, num_returns=len(refs), timeout=seconds)


def in_time_without_cancelling(refs, seconds):
    ready, _ = split_in_time(refs, seconds)
    return ray.get([ref for ref in refs if ref in ready])


def in_time_as_references(refs, seconds):
    ready, late = split_in_time(refs, seconds)
    for ref in late:
        ray.cancel(ref)
    return ready


def in_finishing_order_in_time(refs, seconds):
    values, pending, end = [], refs, time.monotonic() + seconds
    while pending and time.monotonic() < end:
        ready, pending = ray.wait(pending, timeout=max(0, end - time.monotonic()))
        values += ray.get(ready)
    for ref in pending:
        ray.cancel(ref)
    return values


def in_time_all_or_nothing(refs, seconds):
    return ray.get(refs, timeout=seconds)


def in_time_only_one(refs, seconds):
    ready, late = ray.wait(refs, timeout=seconds)
    for ref in late:
        ray.cancel(ref)
    return ray.get(ready)


def in_time_cancels_all(refs, seconds):
    time.sleep(seconds)
    for ref in refs:
        ray.cancel(ref)
    return []


def in_time_one_by_one(refs, seconds):
    values, end = [], time.monotonic() + seconds
    for ref in refs:
        try:
            values.append(ray.get(ref, timeout=max(0, end - time.monotonic())))
        except ray.exceptions.GetTimeoutError:
            ray.cancel(ref)
    return values


def in_time_by_asking_again(refs, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and split_in_time(refs, 0)[1]:
        time.sleep(0.1)
    ready, late = split_in_time(refs, 0)
    for ref in late:
        ray.cancel(ref, force=True)
    return [ray.get(ref) for ref in refs if ref in ready]


def in_time_as_a_tuple(refs, seconds):
    ready, late = split_in_time(refs, seconds)
    [ray.cancel(ref) for ref in late]
    return tuple(ray.get(sorted(ready, key=refs.index)))


WRONG = {
    (1, tasks_and_actors.parallel_map): [
        (get_in_the_loop, "inside the loop"),
        (forgets_get, "ray.get"),
        (in_finishing_order, "order of the items"),
        (map_without_tasks, "one task for each"),
        (map_by_item, "two items are equal"),
        (map_two_by_two, "inside the loop"),
        (map_of_distinct_items, "one task for each"),
        (map_that_waits_for_the_first, "inside the loop"),
        (map_that_leaves_0_out, "One result for each item"),
        (lambda task, items: [task(item) for item in items], "task.remote"),
        (lambda task, items: None, "Return a list"),
    ],
    (2, tasks_and_actors.first_answers): [
        (first_in_the_list, "may be slow"),
        (waits_for_all, "the slowest"),
        (ready_references, "values"),
        (two_whatever_n_is, "num_returns=n"),
        (the_first_answer_twice, "may be slow"),
        (answers_that_wait_a_while, "Return n values"),
        (hasty_answers, "Return n values"),
        (different_answers, "Return n values"),
        (one_answer, "Return n values"),
        (lambda refs, n: ray.get(refs)[:n], "may be slow"),
        (lambda refs, n: ray.get(ray.wait(refs, num_returns=n)[0])[0], "Return a list"),
        (lambda refs, n: ray.get(ray.wait(refs, num_returns=n)[1]), "num_returns=n"),
    ],
    (3, tasks_and_actors.in_time): [
        (in_time_without_cancelling, "ray.cancel"),
        (in_time_as_references, "with ray.get"),
        (in_finishing_order_in_time, "in the order of refs"),
        (in_time_all_or_nothing, "GetTimeoutError"),
        (in_time_only_one, "num_returns"),
        (in_time_cancels_all, "num_returns"),
        (lambda refs, seconds: None, "Return a list"),
    ],
    (4, tasks_and_actors.running_mean): [
        (PlainMean, "@ray.remote"),
        (mean_function, "an actor class"),
        (ZeroWhenEmpty, "return None"),
        (LastValue, "divided by how many"),
        (WholeNumbers, "with /, not with //"),
        (NoneWhenZero, "by their count"),
        (MeanOfTheLastTwo, "sum of all"),
        (MeanOfTheDifferent, "Equal numbers count"),
        (ForgetsWhenAsked, "as soon as there is a number"),
        (MeanOfMeans, "sum of all"),
        (SumOnly, "This is the sum"),
        (WithoutMean, "Write the method mean"),
        (MeanInWords, "returns a number"),
    ],
}
RIGHT = {
    (1, tasks_and_actors.parallel_map): [
        lambda task, items: ray.get(list(map(task.remote, items))),
        lambda task, items: tuple(ray.get([task.remote(item) for item in items])),
        lambda task, items: np.array(ray.get([task.options(num_cpus=0.1).remote(item) for item in items])),
        map_that_pops,
        map_by_threads,
        map_with_wait,
    ],
    (2, tasks_and_actors.first_answers): [
        lambda refs, n: tuple(map(ray.get, ray.wait(refs, num_returns=n)[0])),
        answers_one_by_one,
        answers_by_asking_again,
        answers_that_remove,
    ],
    (3, tasks_and_actors.in_time): [in_time_one_by_one, in_time_by_asking_again, in_time_as_a_tuple],
    (4, tasks_and_actors.running_mean): [MeanIn32Bits, AsyncMean, WelfordMean],
}
