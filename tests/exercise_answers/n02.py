"""Answers to the exercises of notebook 02."""

from __future__ import annotations

import numpy as np
import ray
from ray import put

from helpers.exercises import object_store


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


@ray.remote
def whole_means(matrix):
    return matrix.sum(axis=0) // len(matrix)


@ray.remote
def means_in_place(matrix):
    matrix /= len(matrix)
    return matrix.sum(axis=0)


@ray.remote
def means_as_a_reference(matrix):
    return ray.put(matrix.mean(axis=0))


@ray.remote
def means_in_a_row(matrix):
    return matrix.mean(axis=0, keepdims=True)


@ray.remote
def sums_of_columns(matrix):
    return matrix.sum(axis=0)


@ray.remote
class ColumnMeans:
    def means(self, matrix):
        return matrix.mean(axis=0)


@ray.remote
def means_in_a_list(matrix):
    return [float(sum(column)) / len(column) for column in zip(*matrix, strict=True)]


@ray.remote
def means_by_a_product(matrix):
    return np.ones(len(matrix)) @ matrix / len(matrix)


@ray.remote(num_cpus=1)
def means_of_rows_turned(matrix):
    return np.mean(matrix.T, axis=1)


def adds_without_a_limit(picture, amount):
    return picture.astype(int) + amount


def cuts_before_adding(picture, amount):
    return picture.clip(0, 255 - amount) + np.uint8(amount)


def cuts_at_254(picture, amount):
    return np.minimum(picture.astype(int) + amount, 254).astype(np.uint8)


def brighten_by_comparing(picture, amount):
    return np.where(picture > 255 - amount, np.uint8(255), picture + np.uint8(amount))


def brighten_a_copy(picture, amount):
    brighter = picture.astype(np.int16)
    brighter += amount
    brighter[brighter > 255] = 255
    return brighter.astype("uint8")


def brighten_by_a_table(picture, amount):
    return np.minimum(np.arange(256) + amount, 255).astype(np.uint8)[picture]


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


WRONG = {
    (1, object_store.column_means): [
        (gets_its_argument, "leave out ray.get"),
        (mean_of_rows, "axis=0"),
        (mean_of_all, "axis=0"),
        (median_of_columns, "sum divided"),
        (np.mean, "@ray.remote"),
        (whole_means, "need not be whole"),
        (means_in_place, "make a new array"),
        (means_as_a_reference, "Return the array itself"),
        (means_in_a_row, "keepdims"),
        (sums_of_columns, "divided by the number of rows"),
        (ColumnMeans, "@ray.remote above the function"),
        (None, "@ray.remote above the function"),
    ],
    (2, object_store.brighten): [
        (brighten_in_place, "make a new array"),
        (brighten_and_overflow, "larger type"),
        (brighten_to_integers, "astype"),
        (always_sixty, "what would be more than 255"),
        (makes_writeable, "make a new array"),
        (adds_without_a_limit, "cut what is above"),
        (cuts_at_254, "becomes 255"),
        (lambda picture, amount: picture, "as it was"),
        (lambda picture, amount: (picture.astype(int) + amount).clip(0, 255).tolist(), "Return the new picture"),
        (lambda picture, amount: None, "Return the new picture"),
        (lambda picture, amount: (picture.astype(int) + amount).clip(0, 255).astype(np.uint8).ravel(), "new picture"),
    ],
    (3, object_store.share_once): [
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
}
RIGHT = {
    (1, object_store.column_means): [means_in_a_list, means_by_a_product, means_of_rows_turned],
    (2, object_store.brighten): [cuts_before_adding, brighten_by_comparing, brighten_a_copy, brighten_by_a_table],
    (3, object_store.share_once): [
        lambda task, array, n: ray.get([task.remote(array=ref) for ref in [ray.put(array)] * n]),
        puts_without_ray,
        stored_by_a_task,
        stored_and_named,
    ],
}
