"""What more nodes and more workers bring on this machine, and what a computation says about many machines."""

from __future__ import annotations

import os
import statistics
import time

os.environ["RAY_AUTH_MODE"] = "token"  # before `import ray`
import ray
import torch

from benchmarks.rows import Row, row
from benchmarks.training import BATCH, build_model, images_per_second
from helpers.nodes import ray_start
from helpers.session import ray_options

NODES, ROUNDS = (1, 2, 4), 3
PAUSE_S, TASKS = 0.05, 60
MANY = (16, 256)
GIGABITS, LATENCY_S = 10, 50e-6  # of a network between machines; an assumption


@ray.remote
def pause() -> None:
    time.sleep(PAUSE_S)


@ray.remote
def nothing() -> None: ...


def measure() -> list[Row]:
    """The rows of this group; three minutes on two cores."""
    waits: dict[int, list[float]] = {}
    empty: dict[int, list[float]] = {}
    for nodes in NODES:
        head = ray_start("--head --num-cpus=1 --include-dashboard=false")
        others = [ray_start(f"--address={head.address} --num-cpus=1 --labels=place={i}") for i in range(1, nodes)]
        ray.init(**ray_options(address=head.address, log_to_driver=False))
        tasks_per_second(pause, TASKS * nodes)  # starts the processes
        waits[nodes] = [tasks_per_second(pause, TASKS * nodes) for _ in range(ROUNDS)]
        empty[nodes] = [tasks_per_second(nothing, 1000) for _ in range(ROUNDS)]
        print(nodes, "nodes:", statistics.median(waits[nodes]), statistics.median(empty[nodes]), flush=True)
        ray.shutdown()
        for node in [*others, head]:
            node.stop()
    rows = [
        row(
            f"tasks that wait {1000 * PAUSE_S:.0f} ms, {nodes} nodes with one CPU each, or one node",
            "tasks per second",
            {f"{nodes} nodes": waits[nodes], "1 node": waits[1]},
            note=f"The ideal is {nodes}. All nodes are on this machine." if nodes == NODES[-1] else "",
        )
        for nodes in NODES[1:]
    ]
    rows.append(
        row(
            f"tasks that do nothing, {NODES[-1]} nodes or one",
            "tasks per second",
            {f"{NODES[-1]} nodes": empty[NODES[-1]], "1 node": empty[1]},
            note="Nothing to gain here: who submits the tasks is one process.",
        )
    )
    return rows + training()


def tasks_per_second(task: ray.remote_function.RemoteFunction, count: int) -> float:
    start = time.perf_counter()
    ray.get([task.remote() for _ in range(count)])
    return count / (time.perf_counter() - start)


@ray.remote
class Worker:
    """One of several processes that train together, with as many images for each as before."""

    def join(self, rank: int, workers: int, file: str) -> None:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=workers)

    def speed(self) -> float:
        model = build_model()
        if torch.distributed.get_world_size() > 1:
            model = torch.nn.parallel.DistributedDataParallel(model)
        images, labels = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
        return images_per_second(model, iter([(images, labels)] * 1000))


def training() -> list[Row]:
    """Images per second of 1, 2 and 4 workers on this machine, and on paper of many machines with one worker each."""
    import tempfile

    ray.init(**ray_options(num_cpus=max(NODES), log_to_driver=False))
    speeds: dict[int, list[float]] = {n: [] for n in NODES}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS):
            for n in NODES:
                workers = [Worker.remote() for _ in range(n)]
                ray.get([w.join.remote(i, n, f"{folder}/{turn}-{n}") for i, w in enumerate(workers)])
                speeds[n].append(ray.get([w.speed.remote() for w in workers])[0])
                for worker in workers:
                    ray.kill(worker)
    ray.shutdown()
    size = sum(p.numel() * p.element_size() for p in build_model().parameters())
    alone = statistics.median(speeds[1])
    rows = [
        row(
            f"ResNet-18, {n} workers or one, {BATCH} images each",
            "images per second",
            {f"{n} workers": speeds[n], "1 worker": speeds[1]},
            note=f"This machine has {os.cpu_count()} cores." if n == NODES[-1] else "",
        )
        for n in NODES[1:]
    ]
    for n in MANY:
        note = (
            f"Computed, not measured: a step takes as long as here with one worker, and then a ring of {n} machines "
            f"with {GIGABITS} Gbit/s and {1e6 * LATENCY_S:.0f} microseconds per message adds up {size / 1e6:.0f} MB of "
            "gradients, without any overlap. A GPU calculates far faster, so there the network counts for more."
        )
        computed = on_paper(n, BATCH / alone, size)
        sides = {f"{n} machines": [computed], f"{n} times one": [n * alone]}
        rows.append(row(f"ResNet-18 on {n} machines, on paper", "images per second", sides, note=note))
    return rows


def on_paper(machines: int, step_s: float, gradient_bytes: int) -> float:
    """Images per second if each step ends with a ring all-reduce.

    Each machine sends the gradients about twice, in pieces: 2 (n - 1) messages of 1/n of them.
    """
    messages = 2 * (machines - 1)
    ring = messages * (gradient_bytes / machines * 8 / (GIGABITS * 1e9) + LATENCY_S)
    return machines * BATCH / (step_s + ring)
