"""Kill workers, replicas and nodes at random under tasks, serving, training and tuning, and count what goes wrong.

    make chaos                               # ten minutes on two cores
    make chaos ARGS="--minutes 30 --seed 7"

A head, which is spared, and three nodes run on this machine. Whatever a program can do to survive is in
`tools.chaos_work`: retries, checkpoints, a fit that is called again, and clients that ask again. The table says what
was lost all the same.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from helpers import data
from helpers.nodes import Node, ray_start
from helpers.session import ray_options
from tools.chaos_work import Amounts, Work, serve_numbers, train_model, tune_rates, work_through_tasks

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "chaos.md"
NODES, CPUS_OF_NODE = 3, 2
LONG = Amounts(tasks=300, requests_s=40, epochs=10, trials=6, steps=8, kills=None)
SHORT = Amounts(tasks=60, requests_s=12, epochs=3, trials=2, steps=4, kills=2)
BAG = ("worker", "worker", "worker", "node")  # shuffled, and emptied before the next one
LIMIT_S = 900  # of one workload; what has not ended then waits for something that never comes
HEAD = ("under", "rounds", "done", "workers killed", "nodes killed", "lost", "failed", "wrong")


@dataclass(frozen=True)
class Workload:
    """Something that runs while processes are killed.

    Attributes:
        name: for the table.
        run: does it once, in a folder of its own, and counts; it calls what it is given when the killing may begin.
        pause_s: the shortest and the longest time between two kills; what starts slowly gets longer ones, or it
            would never come to an end.
    """

    name: str
    run: Callable[[Amounts, Path, Callable[[], None]], Work]
    pause_s: tuple[float, float]


WORKLOADS = (
    Workload("tasks and actor calls", work_through_tasks, (2, 5)),
    Workload("requests to Serve", serve_numbers, (3, 7)),
    Workload("epochs of Ray Train", train_model, (20, 35)),
    Workload("trials of Tune", tune_rates, (8, 14)),
)


@dataclass
class Row:
    """What happened to one workload, over all rounds."""

    name: str
    rounds: int = 0
    done: int = 0
    workers: int = 0
    nodes: int = 0
    lost: int = 0
    failed: int = 0
    wrong: int = 0

    def add(self, work: Work, killed: Mapping[str, int]) -> None:
        self.rounds += 1
        self.done += work.done
        self.lost += work.lost
        self.failed += work.failed
        self.wrong += work.wrong
        self.workers += killed["worker"]
        self.nodes += killed["node"]

    def problems(self) -> list[str]:
        """Why this row is not good; empty if it is."""
        counts = {"lost": self.lost, "failed": self.failed, "wrong": self.wrong}
        found = [f"{self.name}: {count} {what}" for what, count in counts.items() if count]
        if self.done == 0:
            found.append(f"{self.name}: nothing was done")
        if self.workers + self.nodes == 0:
            found.append(f"{self.name}: nothing was killed, so nothing was shown")
        return found

    def cells(self) -> tuple[object, ...]:
        return self.name, self.rounds, self.done, self.workers, self.nodes, self.lost, self.failed, self.wrong


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row.cells())) + " |" for row in rows]) + "\n"


class Nodes:
    """The nodes that may be killed; a new one takes the place of each."""

    def __init__(self, address: str) -> None:
        self._address, self._started = address, 0
        self._alive: list[Node] = []
        for _ in range(NODES):
            self._start()

    def _start(self) -> None:
        self._started += 1
        options = f"--address={self._address} --num-cpus={CPUS_OF_NODE} --labels=place=node-{self._started}"
        self._alive.append(ray_start(options))

    def kill_node(self, chance: random.Random) -> bool:
        """Kill a node where something runs, and start another one; False: nothing ran."""
        busy = [node for node in self._alive if node.workers()]
        if not busy:
            return False
        victim = chance.choice(busy)
        self._alive.remove(victim)
        victim.cut_off()
        print(f"  killed a node, {victim.options.partition('place=')[2]}", flush=True)
        self._start()
        return True

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill a process in which a task or an actor runs; False: there was none."""
        running = [process for node in self._alive for process in node.workers()]
        with suppress(psutil.NoSuchProcess, IndexError):
            victim = chance.choice(running)
            name = " ".join(victim.cmdline()).strip()
            victim.kill()
            print(f"  killed {name}", flush=True)
            return True
        return False


@contextmanager
def killing(
    nodes: Nodes,
    chance: random.Random,
    pause_s: tuple[float, float],
    begin: threading.Event,
    kills: int | None = None,
) -> Iterator[dict[str, int]]:
    """Kill while the block runs, once it has begun, at most so often; the dict counts the killed workers and nodes."""
    over, killed = threading.Event(), {"worker": 0, "node": 0}
    problems: list[BaseException] = []

    def kill_until_over() -> None:
        bag: list[str] = []
        begin.wait()
        while sum(killed.values()) != kills and not over.wait(chance.uniform(*pause_s)):
            bag = bag or chance.sample(BAG, len(BAG))
            kill = nodes.kill_node if bag[-1] == "node" else nodes.kill_worker
            try:
                while not kill(chance):
                    if over.wait(0.1):
                        return
            except Exception as error:
                problems.append(error)
                return
            killed[bag.pop()] += 1

    thread = threading.Thread(target=kill_until_over)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        begin.set()
        thread.join()
    if problems:
        raise RuntimeError("The thread that kills failed, so the figures would say too little.") from problems[0]


def run(amounts: Amounts, seconds: float, seed: int) -> list[Row]:
    """Go through all workloads, again and again until the time is over, and at least once."""
    chance, rows = random.Random(seed), [Row(workload.name) for workload in WORKLOADS]
    start = time.monotonic()
    head = ray_start("--head --num-cpus=0 --include-dashboard=false")
    try:
        ray.init(**ray_options(address=head.address, log_to_driver=False))
        nodes = Nodes(head.address)
        while True:
            for workload, row in zip(WORKLOADS, rows, strict=True):
                print(f"{workload.name}, round {row.rounds + 1}", flush=True)
                begin = threading.Event()
                disturbed = killing(nodes, chance, workload.pause_s, begin, amounts.kills)
                with tempfile.TemporaryDirectory() as folder, disturbed as killed:
                    limit = threading.Timer(LIMIT_S, give_up, [workload.name])
                    limit.start()
                    try:
                        work = workload.run(amounts, Path(folder), begin.set)
                    finally:
                        limit.cancel()
                row.add(work, killed)
                print(f"  {work}", flush=True)
            if time.monotonic() - start >= seconds:
                return rows
    finally:
        ray.shutdown()
        head.stop()


def give_up(name: str) -> None:
    """End the program where a workload hangs; the nodes end with it."""
    print(f"{name} did not end within {LIMIT_S} s: it is lost, and no table is made.", file=sys.stderr, flush=True)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="rounds begin until then; default: 10")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed, and when; default: 0")
    parser.add_argument("--short", action="store_true", help="one round with little work and few kills")
    parser.add_argument("--keep", action="store_true", help=f"store the table in benchmarks/{FILE.name}")
    asked = parser.parse_args()
    if os.environ.get("RAY_AUTH_MODE") != "token":
        parser.error("RAY_AUTH_MODE has to be 'token' before Python starts, because Ray reads it once: run make chaos.")
    start = time.monotonic()
    rows = run(SHORT, 0, asked.seed) if asked.short else run(LONG, asked.minutes * 60, asked.seed)
    minutes = (time.monotonic() - start) / 60
    about = f"{NODES} nodes with {CPUS_OF_NODE} CPUs on one machine, seed {asked.seed}, {minutes:.0f} minutes."
    text = f"{table(rows)}\n{about}\n"
    print("\n" + text)
    problems = [problem for row in rows for problem in row.problems()]
    if asked.keep and not problems:
        FILE.write_text(f"# What `make chaos` counted\n\n{text}")
        print(f"stored in {FILE.relative_to(data.REPOSITORY)}")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
