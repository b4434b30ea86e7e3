"""Answers to the exercises of notebook 02."""

from __future__ import annotations

import numpy as np
import ray
import torch
from ray import put

from helpers.exercises import object_store


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


def one_result_for_all(task, array, n):
    ref = ray.put(array)
    refs = [task.remote(ref) for _ in range(n)]
    return [ray.get(refs[0])] * n if refs else []


def one_call_for_all(task, array, n):
    return [ray.get(task.remote(ray.put(array)))] * n if n else []


def always_four_calls(task, array, n):
    ref = ray.put(array)
    return ray.get([task.remote(ref) for _ in range(4)])


def stores_something_else(task, array, n):
    ref = ray.put(array[: len(array) // 2])
    return ray.get([task.remote(ref) for _ in range(n)])


def stores_and_passes_the_array(task, array, n):
    ray.put(array)
    return ray.get([task.remote(array) for _ in range(n)])


def puts_without_ray(task, array, n):
    ref = put(array)
    return ray.get([task.remote(ref) for _ in range(n)])


def stored_by_a_task(task, array, n):
    @ray.remote
    def same():
        return array

    ref = same.remote()
    return ray.get([task.remote(ref) for _ in range(n)])


def stored_and_named(task, array, n):
    ref, refs = ray.put(array), []
    while len(refs) < n:
        refs.append(task.remote(array=ref))
    return tuple(ray.get(ref) for ref in refs)


@ray.remote
def fetches_all_days(days, day):
    return float(ray.get(days)[day].mean())


@ray.remote
def fetches_up_to_the_day(days, day):
    for ref in days[: day + 1]:
        values = ray.get(ref)
    return values.mean()


@ray.remote
def fetches_day_by_day(days, day):
    arrays = [ray.get(ref) for ref in days]
    return arrays[day].mean()


@ray.remote
def takes_the_reference_for_the_array(days, day):
    return days[day].mean()


@ray.remote
def adds_up_the_reference(days, day):
    return sum(days[day]) / len(days[day])


@ray.remote
def counts_days_from_one(days, day):
    return float(ray.get(days[day - 1]).mean())


@ray.remote
def returns_the_day(days, day):
    return ray.get(days[day])


@ray.remote
def puts_the_mean(days, day):
    return ray.put(ray.get(days[day]).mean())


@ray.remote
def sum_of_day(days, day):
    return float(ray.get(days[day]).sum())


@ray.remote
def mean_of_all_days(days, day):
    return float(np.concatenate(ray.get(days)).mean())


def mean_without_ray(days, day):
    return float(ray.get(days[day]).mean())


@ray.remote
def one_day_in_a_list(days, day):
    return ray.get([days[day]])[0].mean()


@ray.remote
def looks_for_the_day(days, day):
    for place, ref in enumerate(days):
        if place == day:
            values = ray.get(ref, timeout=60)
            return sum(values) / len(values)


@ray.remote
def mean_of_one(values):
    return values.mean()


@ray.remote
def asks_another_task(days, day):
    return ray.get(mean_of_one.options(num_cpus=0).remote(days[day]))


def returns_a_slice(ref, n):
    return ray.get(ref)[:n]


def asks_numpy_for_an_array(ref, n):
    return np.asarray(ray.get(ref)[:n])


def asks_for_contiguous_bytes(ref, n):
    return np.ascontiguousarray(ray.get(ref)[:n])


def slices_a_name(ref, n):
    array = ray.get(ref)
    part = array[0:n]
    array = None
    return part


def wraps_a_slice(ref, n):
    return torch.from_numpy(ray.get(ref))[:n]


def stores_the_numbers(ref, n):
    return ray.put(ray.get(ref)[:n].copy())


def takes_the_last_ones(ref, n):
    return ray.get(ref)[-n:].copy()


def forgets_to_slice(ref, n):
    return ray.get(ref).copy()


def slices_the_reference(ref, n):
    return ref


def first_by_a_new_array(ref, n):
    return np.array(ray.get(ref)[:n])


def first_as_a_list(ref, n):
    return ray.get(ref)[:n].tolist()


def first_by_indices(ref, n):
    return np.take(ray.get(ref), range(n))


@ray.remote
def front(array, n):
    return array[:n]


def first_by_a_task(ref, n):
    return ray.get(front.options(num_cpus=0).remote(ref, n))


KEPT = []


def first_and_keeps_the_reference(ref, n):
    KEPT.append(ref)
    return ray.get(ref)[:n].copy()


def first_and_keeps_the_array(ref, n):
    KEPT.append(ray.get(ref))
    return KEPT[-1][:n].copy()


def starts_all_loads(load, days):
    refs = [load.remote(day) for day in range(days)]
    return sum(float(ray.get(ref).sum()) for ref in refs)


def gets_all_days(load, days):
    arrays = ray.get([load.remote(day) for day in range(days)])
    return float(np.concatenate(arrays).sum())


def waits_but_starts_all(load, days):
    pending, total = [load.remote(day) for day in range(days)], 0.0
    while pending:
        done, pending = ray.wait(pending)
        total += float(ray.get(done[0]).sum())
    return total


def one_by_one_but_keeps_references(load, days):
    refs, total = [], 0.0
    for day in range(days):
        refs.append(load.remote(day))
        total += float(ray.get(refs[-1]).sum())
    return total


def one_by_one_but_keeps_arrays(load, days):
    arrays = []
    for day in range(days):
        arrays.append(ray.get(load.remote(day)))
    return float(sum(array.sum() for array in arrays))


def keeps_slices(load, days):
    return float(np.concatenate([ray.get(load.remote(day))[:] for day in range(days)]).sum())


def too_many_ahead(load, days):
    refs, total = [], 0.0
    for day in range(days):
        refs.append(load.remote(day))
        if len(refs) == 6:
            total += float(ray.get(refs.pop(0)).sum())
    return total + sum(float(ray.get(ref).sum()) for ref in refs)


def forgets_the_last_day(load, days):
    return sum(float(ray.get(load.remote(day)).sum()) for day in range(days - 1))


def days_from_one(load, days):
    return sum(float(ray.get(load.remote(day)).sum()) for day in range(1, days + 1))


def loads_without_remote(load, days):
    return sum(float(load(day).sum()) for day in range(days))


def sum_of_means(load, days):
    return sum(float(ray.get(load.remote(day)).mean()) for day in range(days))


def only_the_last_sum(load, days):
    for day in range(days):
        array = ray.get(load.remote(day))
    return array


def one_day_at_a_time(load, days):
    total = 0.0
    for day in range(days):
        array = ray.get(load.remote(day))
        total += array.sum()
    return total


def two_days_ahead(load, days):
    refs, total = [], 0.0
    for day in range(days):
        refs.append(load.remote(day))
        if len(refs) == 3:
            total += float(ray.get(refs.pop(0)).sum())
    while refs:
        total += float(ray.get(refs.pop(0)).sum())
    return total


@ray.remote
def add_up(array):
    return float(array.sum())


def adds_up_in_tasks(load, days):
    return sum(ray.get(add_up.options(num_cpus=0).remote(load.remote(day=day))) for day in range(days))


def in_groups_of_three(load, days):
    total = 0.0
    for start in range(0, days, 3):
        total += sum(array.sum() for array in ray.get([load.remote(d) for d in range(start, min(start + 3, days))]))
    return total


WRONG = {
    (1, object_store.share_once): [
        (passes_the_array, "ray.put it first"),
        (stores_and_passes_the_array, "ray.put it first"),
        (puts_in_the_loop, "before the loop"),
        (returns_references, "ray.get"),
        (gets_in_the_loop, "inside the loop"),
        (one_result_for_all, "one of each task"),
        (one_call_for_all, "Call it n times"),
        (always_four_calls, "Call it n times"),
        (stores_something_else, "one of each task"),
    ],
    (2, object_store.mean_of_day): [
        (fetches_all_days, "pass only that one to ray.get"),
        (fetches_up_to_the_day, "pass only that one to ray.get"),
        (fetches_day_by_day, "pass only that one to ray.get"),
        (takes_the_reference_for_the_array, "trade the one you need"),
        (adds_up_the_reference, "trade the one you need"),
        (counts_days_from_one, "counted from 0"),
        (returns_the_day, "one number"),
        (puts_the_mean, "Return the mean itself"),
        (sum_of_day, "divided by their number"),
        (mean_of_all_days, "mean of all days"),
        (mean_without_ray, "@ray.remote above the function"),
    ],
    (3, object_store.first_numbers): [
        (returns_a_slice, "Copy what you return"),
        (first_and_keeps_the_reference, "Something outlives"),
        (first_and_keeps_the_array, "Something outlives"),
        (asks_numpy_for_an_array, "Copy what you return"),
        (wraps_a_slice, "Copy what you return"),
        (takes_the_last_ones, "from the front"),
        (stores_the_numbers, "Return the numbers themselves"),
        (asks_for_contiguous_bytes, "Copy what you return"),
        (slices_a_name, "Copy what you return"),
        (forgets_to_slice, "take its first n numbers"),
        (slices_the_reference, "Return the numbers themselves"),
    ],
    (4, object_store.sum_of_days): [
        (starts_all_loads, "A reference keeps its array"),
        (one_by_one_but_keeps_arrays, "keep the sum of a day"),
        (gets_all_days, "A reference keeps its array"),
        (waits_but_starts_all, "A reference keeps its array"),
        (one_by_one_but_keeps_references, "A reference keeps its array"),
        (keeps_slices, "keep the sum of a day"),
        (too_many_ahead, "A reference keeps its array"),
        (forgets_the_last_day, "once for each day"),
        (days_from_one, "once for each day"),
        (loads_without_remote, "use load.remote(day)"),
        (sum_of_means, "all values of all days"),
        (only_the_last_sum, "Return the sum"),
    ],
}
RIGHT = {
    (1, object_store.share_once): [
        lambda task, array, n: ray.get([task.remote(array=ref) for ref in [ray.put(array)] * n]),
        puts_without_ray,
        stored_by_a_task,
        stored_and_named,
    ],
    (2, object_store.mean_of_day): [one_day_in_a_list, looks_for_the_day, asks_another_task],
    (3, object_store.first_numbers): [first_by_a_new_array, first_as_a_list, first_by_indices, first_by_a_task],
    (4, object_store.sum_of_days): [one_day_at_a_time, two_days_ahead, adds_up_in_tasks, in_groups_of_three],
}
