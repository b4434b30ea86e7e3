"""Answers to the exercises of the deep dive memory_under_pressure."""

from __future__ import annotations

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, OutOfMemoryError, OwnerDiedError, WorkerCrashedError
from ray.util.state import get_task, list_tasks

from helpers.exercises import memory_under_pressure


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


def states_of(ref):
    return [task.state for task in list_tasks(filters=[("task_id", "=", ref.task_id().hex())])]


def every_timeout_is_slowness(ref):
    try:
        ray.get(ref, timeout=1)
    except OwnerDiedError:
        return "return it"
    except WorkerCrashedError:
        return "reserve more"
    except GetTimeoutError:
        return "wait"
    return "none"


def every_timeout_is_a_lack(ref):
    found = every_timeout_is_slowness(ref)
    return "reserve less" if found == "wait" else found


def any_task_that_waits(ref):
    found = every_timeout_is_slowness(ref)
    if found == "wait" and list_tasks(filters=[("state", "=", "PENDING_NODE_ASSIGNMENT")]):
        return "reserve less"
    return found


def owner_and_kill_swapped(ref):
    try:
        ray.get(ref, timeout=1)
    except WorkerCrashedError:
        return "return it"
    except ObjectLostError:
        return "reserve more"
    except GetTimeoutError:
        return "wait" if "RUNNING" in states_of(ref) else "reserve less"
    return "none"


def a_lost_object_wants_memory(ref):
    try:
        ray.get(ref, timeout=1)
    except (ObjectLostError, WorkerCrashedError):
        return "reserve more"
    except GetTimeoutError:
        return "wait" if "RUNNING" in states_of(ref) else "reserve less"
    return "none"


def only_memory_errors(ref):
    try:
        ray.get(ref, timeout=1)
    except OutOfMemoryError:
        return "reserve more"
    return "none"


def names_the_error(ref):
    try:
        ray.get(ref, timeout=1)
    except ray.exceptions.RayError as error:
        return type(error).__name__
    return "none"


def returns_the_value(ref):
    return ray.get(ref, timeout=1)


def forgets_the_value(ref):
    try:
        ray.get(ref, timeout=1)
    except OwnerDiedError:
        return "return it"


def more_in_another_place(ref):
    states = states_of(ref)
    return "reserve more" if "FAILED" in states else "wait"


def by_name(ref):
    cures = {"OwnerDiedError": "return it", "WorkerCrashedError": "reserve more", "OutOfMemoryError": "reserve more"}
    try:
        ray.get(ref, timeout=2)
    except GetTimeoutError:
        return "reserve less" if "PENDING_NODE_ASSIGNMENT" in states_of(ref) else "wait"
    except ray.exceptions.RayError as error:
        return cures[type(error).__name__]
    return "none"


def by_waiting_first(ref):
    done, _ = ray.wait([ref], timeout=2)
    if not done:
        task = get_task(ref.task_id().hex())
        return {"PENDING_NODE_ASSIGNMENT": "reserve less"}.get(task.state, "wait")
    try:
        ray.get(ref)
    except ObjectLostError:
        return "return it"
    except ray.exceptions.RayError:
        return "reserve more"
    return "none"


def by_the_whole_list(ref):
    try:
        ray.get(ref, timeout=2)
        return "none"
    except (OutOfMemoryError, WorkerCrashedError):
        return "reserve more"
    except TimeoutError:
        tasks = {task.task_id: task for task in list_tasks(limit=1000, detail=True)}
        return "wait" if tasks[ref.task_id().hex()].state == "RUNNING" else "reserve less"
    except ObjectLostError:
        return "return it"


WRONG = {
    (1, memory_under_pressure.square_store): [
        (ReturnsTheReference, "return the array itself"),
        (ReturnsAList, "return the array itself"),
        (ReturnsADict, "return the array itself"),
        (ReturnsNothing, "Return the array of squares"),
        (CountsFromOne, "squares of 0 to n - 1"),
        (Doubles, "squares of 0 to n - 1"),
        (NoActor, "@ray.remote above the class"),
    ],
    (2, memory_under_pressure.within_memory): [
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
    (3, memory_under_pressure.cure): [
        (every_timeout_is_slowness, "alone doesn't tell"),
        (any_task_that_waits, "ask for it alone"),
        (every_timeout_is_a_lack, "ask for it alone"),
        (owner_and_kill_swapped, "return 'reserve more'"),
        (a_lost_object_wants_memory, "would belong to the caller"),
        (only_memory_errors, "an except for each kind"),
        (names_the_error, "one of these words"),
        (returns_the_value, "one of these words"),
        (forgets_the_value, "one of these words"),
        (more_in_another_place, "if ray.get has a value"),
    ],
}
RIGHT = {
    (1, memory_under_pressure.square_store): [GetsWhatItPut, KeepsACopy, ReturnsAPlainList],
    (2, memory_under_pressure.within_memory): [with_a_margin, the_largest_first, as_they_finish],
    (3, memory_under_pressure.cure): [by_name, by_waiting_first, by_the_whole_list],
}
