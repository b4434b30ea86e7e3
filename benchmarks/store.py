"""400 MB for eight tasks: Ray's object store, shared_memory, and copies by pickle."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import ray

from benchmarks.rows import Row, row
from helpers.measure import in_turns, sum_and_memory, sum_of_block
from helpers.session import ray_options

TASKS, WORKERS, ROUNDS = 8, 2, 3


def measure() -> list[Row]:
    """The rows of this group; a minute on two cores."""
    numbers = np.arange(50_000_000.0)
    ray.init(**ray_options(num_cpus=WORKERS, object_store_memory=1_000_000_000, log_to_driver=False))
    pool = ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))
    block = SharedMemory(create=True, size=numbers.nbytes)
    add_up = ray.remote(sum_and_memory)

    def with_ray() -> list[float]:
        ref = ray.put(numbers)
        return [total for total, _ in ray.get([add_up.remote(ref) for _ in range(TASKS)])]

    def with_shared_memory() -> list[float]:
        np.ndarray(numbers.shape, numbers.dtype, buffer=block.buf)[:] = numbers
        found = pool.map(sum_of_block, [block.name] * TASKS, [len(numbers)] * TASKS)
        return [total for total, _ in found]

    def with_pickle() -> list[float]:
        return [total for total, _ in pool.map(sum_and_memory, [numbers] * TASKS)]

    ways = {"pickle": with_pickle, "shared_memory": with_shared_memory, "Ray": with_ray}
    seconds, answers = in_turns(ways, ROUNDS)
    assert all(answer == [numbers.sum()] * TASKS for answer in answers.values())
    pool.shutdown()
    block.close()
    block.unlink()
    ray.shutdown()
    return [
        row(
            f"400 MB for {TASKS} tasks, put or copied for each",
            "seconds",
            {"pickle": seconds["pickle"], "Ray": seconds["Ray"]},
            at_least=20,
        ),
        row(
            f"400 MB for {TASKS} tasks, put or written into shared memory by hand",
            "seconds",
            {"shared_memory": seconds["shared_memory"], "Ray": seconds["Ray"]},
            at_least=0.9,
            note="Both write the numbers into shared memory, and eight tasks add them up; the block is the same in "
            "each round, while Ray stores a new object.",
        ),
    ]
