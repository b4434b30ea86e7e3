"""Answers to the exercises of notebook 10."""

from __future__ import annotations

import asyncio
import threading

import ray

from helpers.exercises import debugging


def gets_all_at_once(task, items):
    refs = {item: task.remote(item) for item in items}
    try:
        return dict(zip(items, ray.get(list(refs.values())), strict=True)), {}
    except ray.exceptions.RayError as error:
        return {}, dict.fromkeys(items, error)


def forgets_dead_processes(task, items):
    refs, values, errors = {item: task.remote(item) for item in items}, {}, {}
    for item, ref in refs.items():
        try:
            values[item] = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            errors[item] = error
    return values, errors


def one_after_another(task, items):
    values, errors = {}, {}
    for item in items:
        try:
            values[item] = ray.get(task.remote(item))
        except ray.exceptions.RayError as error:
            errors[item] = error
    return values, errors


def leaves_the_failed_out(task, items):
    refs, values = {item: task.remote(item) for item in items}, {}
    for item, ref in refs.items():
        try:
            values[item] = ray.get(ref)
        except ray.exceptions.RayError:
            continue
    return values, {}


def keeps_texts(task, items):
    values, errors = started_first(task, items)
    return values, {item: str(error) for item, error in errors.items()}


def one_dict_for_both(task, items):
    values, errors = started_first(task, items)
    return {**values, **errors}


def returns_references(task, items):
    return {item: task.remote(item) for item in items}, {}


def started_first(task, items):
    refs, values, errors = [task.remote(item) for item in items], {}, {}
    for item, ref in zip(items, refs, strict=True):
        try:
            values[item] = ray.get(ref)
        except Exception as error:
            errors[item] = error
    return values, errors


def as_they_come(task, items):
    pending = {task.remote(item): item for item in items}
    values, errors = {}, {}
    while pending:
        (ref,), _ = ray.wait(list(pending))
        item = pending.pop(ref)
        try:
            values[item] = ray.get(ref)
        except ray.exceptions.RayError as error:
            errors[item] = error
    return values, errors


def caught_in_a_function(task, items):
    def fetch(ref):
        try:
            return ray.get(ref), None
        except (ray.exceptions.RayTaskError, ray.exceptions.WorkerCrashedError) as error:
            return None, error

    fetched = list(zip(items, [fetch(ref) for ref in [task.remote(item) for item in items]], strict=True))
    return (
        {item: value for item, (value, error) in fetched if error is None},
        {item: error for item, (_, error) in fetched if error is not None},
    )


@ray.remote
class StillBlocks:
    def get_address(self):
        return "Main Street 1"

    def order(self, item, warehouse):
        return ray.get(warehouse.deliver.remote(item, ray.get_runtime_context().current_actor))


@ray.remote
class AsyncInNameOnly:
    def get_address(self):
        return "Main Street 1"

    async def order(self, item, warehouse):
        return ray.get(warehouse.deliver.remote(item, ray.get_runtime_context().current_actor))


@ray.remote(max_concurrency=2)
class TwoThreads:
    def get_address(self):
        return "Main Street 1"

    def order(self, item, warehouse):
        return ray.get(warehouse.deliver.remote(item, ray.get_runtime_context().current_actor))


@ray.remote
class ReturnsTheReference:
    def get_address(self):
        return "Main Street 1"

    def order(self, item, warehouse):
        return warehouse.deliver.remote(item, ray.get_runtime_context().current_actor)


@ray.remote
class AsksNobody:
    def get_address(self):
        return "Main Street 1"

    def order(self, item, warehouse):
        return f"{item} to Main Street 1, delivery 1"


@ray.remote
class HasMoved:
    async def get_address(self):
        return "Park Lane 5"

    async def order(self, item, warehouse):
        return await warehouse.deliver.remote(item, ray.get_runtime_context().current_actor)


@ray.remote
class AllAsync:
    async def get_address(self):
        await asyncio.sleep(0)
        return "Main Street 1"

    async def order(self, item, warehouse):
        ref = warehouse.deliver.remote(item, ray.get_runtime_context().current_actor)
        delivered = await asyncio.gather(ref)
        return delivered[0]


@ray.remote(max_concurrency=50)
class ManyThreads:
    def get_address(self):
        return "Main Street 1"

    def order(self, item, warehouse):
        return ray.get(warehouse.deliver.remote(item, ray.get_runtime_context().current_actor))


@ray.remote(concurrency_groups={"addresses": 1})
class OwnThreadForAddresses:
    @ray.method(concurrency_group="addresses")
    def get_address(self):
        return "Main Street 1"

    def order(self, item, warehouse):
        return ray.get(warehouse.deliver.remote(item, ray.get_runtime_context().current_actor))


class Simple:
    def __init__(self):
        self.lock = threading.Lock()
        self.content = []

    def add(self, item):
        with self.lock:
            self.content.append(item)

    def items(self):
        with self.lock:
            return list(self.content)


class CannotTravel(Simple):
    pass


class LosesItsItems(Simple):
    def __reduce__(self):
        return LosesItsItems, ()


class ArrivesWithoutALock(Simple):
    def __getstate__(self):
        return {"content": self.content}


class ForgetsTheLockInAdd(Simple):
    def add(self, item):
        self.content.append(item)

    def __reduce__(self):
        return filled, (ForgetsTheLockInAdd, self.items())


class ForgetsTheLockInItems(Simple):
    def items(self):
        return list(self.content)

    def __reduce__(self):
        return filled, (ForgetsTheLockInItems, self.items())


class HasNoLock(Simple):
    def __init__(self):
        self.content = []

    def add(self, item):
        self.content.append(item)

    def items(self):
        return list(self.content)


def filled(kind, content):
    basket = kind()
    basket.content = list(content)
    return basket


class Reduced(Simple):
    def __reduce__(self):
        return filled, (Reduced, self.items())


class WithState(Simple):
    def __getstate__(self):
        return {"content": self.items()}

    def __setstate__(self, state):
        self.__init__()
        self.content = state["content"]


class WithoutTheLockInItsState(Simple):
    def __getstate__(self):
        state = dict(self.__dict__)
        del state["lock"]
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.lock = threading.Lock()


class WithNamesOfItsOwn:
    def __init__(self, *items):
        self.lock, self.things = threading.Lock(), list(items)

    def add(self, item):
        with self.lock:
            self.things.append(item)

    def items(self):
        with self.lock:
            return self.things[:]

    def __reduce__(self):
        return WithNamesOfItsOwn, tuple(self.items())


class GivenItsItems(Simple):
    def __init__(self, content=()):
        self.lock = threading.RLock()
        self.content = list(content)

    def __reduce__(self):
        return GivenItsItems, (self.items(),)


@ray.remote
def keep_odd(rows):
    return [row for row in rows if row % 2]


@ray.remote
def count(*parts):
    return sum(len(part) for part in parts)


class Loads:
    def load(self, day):
        return list(range(day))


def program(loader, days, keep=keep_odd, timeout=5):
    loaders = [loader.remote() for _ in range(2)]
    parts = [keep.remote(loaders[day % 2].load.remote(day)) for day in range(days)]
    return ray.get(count.remote(*parts), timeout=timeout)


def as_it_was(days):
    return program(ray.remote(num_cpus=1)(Loads), days)


def lends_a_part(days):
    return program(ray.remote(num_cpus=0.75)(Loads), days, keep_odd.options(num_cpus=0.75))


def counts_one_day_more(days):
    return program(ray.remote(num_cpus=0)(Loads), days + 1)


@ray.remote
def keep_all(rows):
    return rows


def counts_all_rows(days):
    return program(ray.remote(num_cpus=0)(Loads), days, keep_all)


def counts_by_itself(days):
    return sum(day // 2 for day in range(days))


def gives_a_reference(days):
    loader = ray.remote(num_cpus=0)(Loads).remote()
    return count.remote(*[keep_odd.remote(loader.load.remote(day)) for day in range(days)])


def gives_up(days):
    try:
        return as_it_was(days)
    except ray.exceptions.GetTimeoutError:
        return 0


def without_a_cpu(days):
    return program(ray.remote(num_cpus=0)(Loads), days)


def with_the_default(days):
    return program(ray.remote(Loads), days)


def half_a_cpu_each(days):
    return program(ray.remote(num_cpus=0.5)(Loads), days)


def tasks_without_a_cpu(days):
    loaders = [ray.remote(num_cpus=1)(Loads).remote() for _ in range(2)]
    parts = [keep_odd.options(num_cpus=0).remote(loaders[day % 2].load.remote(day)) for day in range(days)]
    return ray.get(count.options(num_cpus=0).remote(*parts), timeout=20)


def ends_the_loaders(days):
    loaders = [ray.remote(num_cpus=1)(Loads).remote() for _ in range(2)]
    rows = [loaders[day % 2].load.remote(day) for day in range(days)]
    ray.wait(rows, num_returns=days)
    del loaders
    return ray.get(count.remote(*[keep_odd.remote(part) for part in rows]), timeout=20)


WRONG = {
    (1, debugging.try_all): [
        (gets_all_at_once, "one exception must not hide"),
        (forgets_dead_processes, "WorkerCrashedError"),
        (one_after_another, "start all of them first"),
        (leaves_the_failed_out, "RayError covers both"),
        (keeps_texts, "Keep the exception itself"),
        (one_dict_for_both, "Return two dicts"),
        (returns_references, "ray.get"),
    ],
    (2, debugging.open_the_circle): [
        (StillBlocks, "must be free while it waits"),
        (AsyncInNameOnly, "must be free while it waits"),
        (TwoThreads, "used up by as many orders"),
        (ReturnsTheReference, "Await the reference"),
        (AsksNobody, "Let the warehouse deliver"),
        (HasMoved, "same address"),
    ],
    (3, debugging.basket): [
        (CannotTravel, "__reduce__"),
        (LosesItsItems, "have to travel along"),
        (ArrivesWithoutALock, "needs a lock"),
        (ForgetsTheLockInAdd, "with self.lock"),
        (ForgetsTheLockInItems, "with self.lock"),
        (HasNoLock, "self.lock"),
    ],
    (4, debugging.count_odd): [
        (as_it_was, "Who keeps the CPUs"),
        (counts_one_day_more, "from 0 to days - 1"),
        (counts_all_rows, "only the waiting was wrong"),
        (counts_by_itself, "Leave the work to the tasks"),
        (gives_a_reference, "ray.get"),
        (gives_up, "only the waiting was wrong"),
        (lends_a_part, "Who keeps the CPUs"),
    ],
}
RIGHT = {
    (1, debugging.try_all): [started_first, as_they_come, caught_in_a_function],
    (2, debugging.open_the_circle): [AllAsync, ManyThreads, OwnThreadForAddresses],
    (3, debugging.basket): [WithNamesOfItsOwn, Reduced, WithState, WithoutTheLockInItsState, GivenItsItems],
    (4, debugging.count_odd): [
        without_a_cpu,
        with_the_default,
        half_a_cpu_each,
        tasks_without_a_cpu,
        ends_the_loaders,
    ],
}
