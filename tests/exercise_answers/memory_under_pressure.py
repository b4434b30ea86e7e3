"""Answers to the exercises of the deep dive memory_under_pressure."""

from __future__ import annotations

import random
import time

import numpy as np
import ray
import torch

from helpers.exercises import memory_under_pressure


@ray.remote
def without_a_seed(seed, n):
    return np.random.default_rng().random(n)


@ray.remote
def always_seed_zero(seed, n):
    return np.random.default_rng(0).random(n)


@ray.remote
def seed_from_the_clock(seed, n):
    return np.random.default_rng(seed + time.time_ns()).random(n)


generator = np.random.default_rng(1)


@ray.remote
def generator_from_outside(seed, n):
    return generator.random(n)


@ray.remote
def one_number(seed, n):
    return np.random.default_rng(seed).random()


@ray.remote
def normal_numbers(seed, n):
    return np.random.default_rng(seed).normal(size=n)


@ray.remote
def one_number_repeated(seed, n):
    return [np.random.default_rng(seed).random()] * n


@ray.remote
def puts_the_numbers(seed, n):
    return ray.put(np.random.default_rng(seed).random(n))


@ray.remote
def returns_nothing(seed, n):
    np.random.default_rng(seed).random(n)


def no_task(seed, n):
    return np.random.default_rng(seed).random(n)


@ray.remote
def by_the_standard_library(seed, n):
    numbers = random.Random(seed)
    return [numbers.random() for _ in range(n)]


@ray.remote
def by_the_global_generator(seed, n):
    np.random.seed(seed)
    return np.random.rand(n)


@ray.remote(max_retries=5)
def by_torch(seed, n):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)).numpy()


@ray.remote
class ReturnsTheReference:
    def squares(self, n):
        self.ref = ray.put(np.arange(n) ** 2)
        return self.ref


@ray.remote
class ReturnsAList:
    def squares(self, n):
        self.ref = ray.put(np.arange(n) ** 2)
        return [self.ref]


@ray.remote
class ReturnsADict:
    def squares(self, n):
        return {"squares": ray.put(np.arange(n) ** 2)}


@ray.remote
class ReturnsNothing:
    def squares(self, n):
        self.array = np.arange(n) ** 2


@ray.remote
class CountsFromOne:
    def squares(self, n):
        return np.arange(1, n + 1) ** 2


@ray.remote
class Doubles:
    def squares(self, n):
        return np.arange(n) * 2


class NoActor:
    def squares(self, n):
        return np.arange(n) ** 2


@ray.remote
class GetsWhatItPut:
    def squares(self, n):
        self.ref = ray.put(np.arange(n) ** 2)
        return ray.get(self.ref)


@ray.remote
class KeepsACopy:
    def __init__(self):
        self.kept = {}

    def squares(self, n):
        if n not in self.kept:
            self.kept[n] = np.arange(n) ** 2
        return self.kept[n]


@ray.remote(max_restarts=2)
class ReturnsAPlainList:
    def squares(self, n):
        return [i * i for i in range(n)]


def reserves_nothing(task, sizes):
    return ray.get([task.remote(size) for size in sizes])


def drops_the_options(task, sizes):
    refs = []
    for size in sizes:
        task.options(memory=size)
        refs.append(task.remote(size))
    return ray.get(refs)


def always_the_largest(task, sizes):
    return ray.get([task.options(memory=max(sizes)).remote(size) for size in sizes])


def in_megabytes(task, sizes):
    return ray.get([task.options(memory=size / 1e6).remote(size) for size in sizes])


def one_after_the_other(task, sizes):
    return [ray.get(task.options(memory=size).remote(size)) for size in sizes]


def more_cpus(task, sizes):
    return ray.get([task.options(num_cpus=2).remote(size) for size in sizes])


def shares_the_sum(task, sizes):
    return ray.get([task.options(memory=sum(sizes) // len(sizes)).remote(size) for size in sizes])


def returns_references(task, sizes):
    return [task.options(memory=size).remote(size) for size in sizes]


def the_smallest_first(task, sizes):
    return ray.get([task.options(memory=size).remote(size) for size in sorted(sizes)])


def passes_the_memory(task, sizes):
    return ray.get([task.remote(size, memory=size) for size in sizes])


def with_a_margin(task, sizes):
    return ray.get([task.options(memory=int(1.1 * size)).remote(size) for size in sizes])


def the_largest_first(task, sizes):
    refs = {}
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        refs[place] = task.options(num_cpus=1, memory=float(sizes[place])).remote(sizes[place])
    return ray.get([refs[place] for place in range(len(sizes))])


def as_they_finish(task, sizes):
    pending = {task.options(memory=size).remote(size): place for place, size in enumerate(sizes)}
    results = [None] * len(sizes)
    while pending:
        done, _ = ray.wait(list(pending))
        results[pending.pop(done[0])] = ray.get(done[0])
    return results


WRONG = {
    (1, memory_under_pressure.measure_again): [
        (without_a_seed, "new generator from the seed"),
        (seed_from_the_clock, "new generator from the seed"),
        (generator_from_outside, "new generator from the seed"),
        (always_seed_zero, "from the argument seed"),
        (one_number, "n numbers in one array"),
        (returns_nothing, "n numbers in one array"),
        (normal_numbers, "evenly between 0 and 1"),
        (one_number_repeated, "not one number n times"),
        (puts_the_numbers, "Return the numbers themselves"),
        (no_task, "@ray.remote above the function"),
    ],
    (2, memory_under_pressure.square_store): [
        (ReturnsTheReference, "return the array itself"),
        (ReturnsAList, "return the array itself"),
        (ReturnsADict, "return the array itself"),
        (ReturnsNothing, "Return the array of squares"),
        (CountsFromOne, "squares of 0 to n - 1"),
        (Doubles, "squares of 0 to n - 1"),
        (NoActor, "@ray.remote above the class"),
    ],
    (3, memory_under_pressure.within_memory): [
        (reserves_nothing, "Without memory=... Ray reserves none"),
        (drops_the_options, "Without memory=... Ray reserves none"),
        (always_the_largest, "what this call needs"),
        (in_megabytes, "is in bytes"),
        (one_after_the_other, "Start all tasks first"),
        (more_cpus, "Without memory=... Ray reserves none"),
        (shares_the_sum, "less than the task needs"),
        (returns_references, "Trade them for values"),
        (the_smallest_first, "in the order of the sizes"),
        (passes_the_memory, "the task takes one argument"),
    ],
}
RIGHT = {
    (1, memory_under_pressure.measure_again): [by_the_standard_library, by_the_global_generator, by_torch],
    (2, memory_under_pressure.square_store): [GetsWhatItPut, KeepsACopy, ReturnsAPlainList],
    (3, memory_under_pressure.within_memory): [with_a_margin, the_largest_first, as_they_finish],
}
