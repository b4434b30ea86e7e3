"""Answers to the exercise of the deep dive actor_patterns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import ray

from helpers.exercises import tasks_and_actors


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


def bounded_in_groups(task, items, limit):
    values = []
    for i in range(0, len(items), limit):
        values += ray.get([task.remote(item) for item in items[i : i + limit]])
    return values


def bounded_by_the_oldest(task, items, limit):
    refs = []
    for place, item in enumerate(items):
        if place >= limit:
            ray.get(refs[place - limit])
        refs.append(task.remote(item))
    return ray.get(refs)


def bounded_by_the_newest(task, items, limit):
    refs, pending = [], []
    for item in items:
        if len(pending) == limit:
            ray.get(pending.pop())
        refs.append(task.remote(item))
        pending.append(refs[-1])
    return ray.get(refs)


def bounded_by_all_pending(task, items, limit):
    refs, pending = [], []
    for item in items:
        if len(pending) == limit:
            ray.wait(pending, num_returns=len(pending))
            pending = []
        refs.append(task.remote(item))
        pending.append(refs[-1])
    return ray.get(refs)


def one_too_many(task, items, limit):
    return right_bounded(task, items, limit + 1)


def bounded_by_item(task, items, limit):
    refs, pending = {}, []
    for item in items:
        if len(pending) == limit:
            _, pending = ray.wait(pending)
        refs[item] = task.remote(item)
        pending.append(refs[item])
    return ray.get(list(refs.values()))


def bounded_references(task, items, limit):
    refs, pending = [], []
    for item in items:
        if len(pending) == limit:
            _, pending = ray.wait(pending)
        refs.append(task.remote(item))
        pending.append(refs[-1])
    return refs


def bounded_by_threads(task, items, limit):
    with ThreadPoolExecutor(limit) as pool:
        return list(pool.map(lambda item: ray.get(task.remote(item)), items))


def bounded_that_pops(task, items, limit):
    values, places = {}, {}
    count = len(items)
    while items or places:
        while items and len(places) < limit:
            place = count - len(items)
            places[task.remote(items.pop(0))] = place
        (ready,), _ = ray.wait(list(places))
        values[places.pop(ready)] = ray.get(ready)
    return [values[place] for place in range(count)]


def bounded_by_a_semaphore(task, items, limit):
    free, values = threading.Semaphore(limit), [None] * len(items)

    def one(place, item):
        with free:
            values[place] = ray.get(task.remote(item))

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(items)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return values


WRONG = {
    (1, tasks_and_actors.bounded_map): [
        (without_limit, "wait for one"),
        (one_at_a_time, "wait only when"),
        (bounded_but_unordered, "in the order"),
        (always_three, "wait for one"),
        (limit_minus_one, "wait only when"),
        (bounded_in_groups, "not for the oldest"),
        (bounded_by_the_oldest, "not for the oldest"),
        (bounded_by_the_newest, "not for the oldest"),
        (bounded_by_all_pending, "not for the oldest"),
        (one_too_many, "wait for one"),
        (bounded_by_item, "two items are equal"),
        (bounded_references, "ray.get"),
        (lambda task, items, limit: [item * item for item in items], "one task for each"),
    ],
}
RIGHT = {
    (1, tasks_and_actors.bounded_map): [
        bounded_by_threads,
        bounded_that_pops,
        bounded_by_a_semaphore,
        right_bounded,
    ],
}
