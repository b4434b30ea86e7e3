"""What more nodes and more workers bring on this machine, and what a computation says about many machines."""

from __future__ import annotations

import os
import statistics
import tempfile
import time

import ray
import torch

from benchmarks.rows import Row, row
from benchmarks.training import BATCH
from helpers.nodes import Node, ray_start
from helpers.session import ray_options
from scripts.train_fashion_mnist import build_model, train_step

NODES, ROUNDS = (1, 2, 4), 3
WARM_UP, STEPS = 2, 12
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
    head = ray_start("--head --num-cpus=1 --include-dashboard=false")
    ray.init(**ray_options(address=head.address, log_to_driver=False))
    others: list[Node] = []
    for nodes in NODES:
        while len(others) + 1 < nodes:
            others.append(ray_start(f"--address={head.address} --num-cpus=1 --labels=place={len(others) + 1}"))
        assert ray.cluster_resources()["CPU"] == nodes
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
            note="One process submits them all.",
        )
    )
    return rows + training()


def tasks_per_second(task: ray.remote_function.RemoteFunction, count: int) -> float:
    start = time.perf_counter()
    ray.get([task.remote() for _ in range(count)])
    return count / (time.perf_counter() - start)


@ray.remote
class Worker:
    """One of several processes, of which the first 1, 2 or all train together."""

    def __init__(self, rank: int, file: str) -> None:
        torch.set_num_threads(1)
        self.rank = rank
        torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=max(NODES))
        self.groups = {n: torch.distributed.new_group(list(range(n))) for n in NODES}

    def speed(self, workers: int) -> float:
        """Images per second of so many workers together, with as many images for each as before."""
        seconds = 1.0
        if self.rank < workers:
            model = build_model()
            if workers > 1:
                model = torch.nn.parallel.DistributedDataParallel(model, process_group=self.groups[workers])
            optimizer = torch.optim.Adam(model.parameters(), fused=True)
            images, labels = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
            for step in range(WARM_UP + STEPS):
                if step == WARM_UP:
                    start = time.perf_counter()
                train_step(model, optimizer, images, labels)
            torch.distributed.barrier(self.groups[workers])
            seconds = time.perf_counter() - start
        torch.distributed.barrier()
        return STEPS * BATCH * workers / seconds


def training() -> list[Row]:
    """Images per second of 1, 2 and 4 workers on this machine, and on paper of many machines with one worker each."""
    ray.init(**ray_options(num_cpus=max(NODES), log_to_driver=False))
    speeds: dict[int, list[float]] = {n: [] for n in NODES}
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker.remote(rank, f"{folder}/rendezvous") for rank in range(max(NODES))]
        for _ in range(ROUNDS):
            for n in NODES:
                speeds[n].append(ray.get([worker.speed.remote(n) for worker in workers])[0])
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
