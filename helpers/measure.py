"""Fair timing on a noisy machine, and the memory of what really is in use."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
import psutil

from helpers.machine import used_and_total_memory

if TYPE_CHECKING:
    pass

Result = TypeVar("Result")


def in_turns(
    ways: Mapping[str, Callable[[], Result]], rounds: int = 3, warm_up: bool = True
) -> tuple[dict[str, list[float]], dict[str, Result]]:
    """Time several ways of doing the same work, in turns.

    A machine's speed drifts. Taking turns (A B C, A B C, ...) lets the drift hit
    every way alike, so the ratios can be trusted more than the seconds.

    Args:
        ways: name -> a function without arguments that does the work once.
        rounds: how often each is timed.
        warm_up: whether each is called once before, without being timed.

    Returns:
        name -> the seconds of each round, and name -> what its last call returned, to compare the answers.

    Raises:
        ValueError: there are no ways, or fewer than one round.

    Source: written for this course.
    """
    if not ways or rounds < 1:
        raise ValueError(f"expected at least one way and one round, but got {len(ways)} ways and {rounds} rounds.")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Result] = {}
    for turn in range(-1 if warm_up else 0, rounds):
        for name, work in ways.items():
            start = time.perf_counter()
            answers[name] = work()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds, answers


def compare(ways: Mapping[str, Callable[[], object]], rounds: int = 3) -> pd.DataFrame:
    """Time several ways of doing the same work with `in_turns`, and compare their medians.

    Args:
        ways: name -> a function without arguments that does the work once.
        rounds: how often each is run.

    Returns:
        One row for each way: "seconds" (the median) and "times the first"
        (its median divided by that of the first way).

    Raises:
        ValueError: there are no ways, or fewer than one round.

    Source: written for this course.
    """
    seconds, _ = in_turns(ways, rounds, warm_up=False)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    return pd.DataFrame(
        {"seconds": medians.values(), "times the first": [m / first for m in medians.values()]}, index=list(medians)
    ).round(6)


def sum_and_memory(array: np.ndarray) -> tuple[float, float]:
    """Add up an array, and say how much memory this process has for itself.

    It lives here, and not in a notebook, because a process that
    `multiprocessing` starts can only run functions that it can import.

    Args:
        array: any numbers.

    Returns:
        The sum, and the memory that only this process uses, in MB (10**6 bytes).

    Source: the unique set size of psutil's memory_full_info.
    """
    return float(array.sum()), psutil.Process().memory_full_info().uss / 1e6


def sum_of_block(name: str, length: int) -> tuple[float, float]:
    """Do what sum_and_memory does, with numbers that lie in a block of shared memory.

    It lives here for the same reason: another process has to import it.

    Args:
        name: the name of a `multiprocessing.shared_memory.SharedMemory`.
        length: how many float64 numbers it holds, from its start.

    Returns:
        The sum, and the memory that only this process uses, in MB (10**6 bytes).

    Raises:
        FileNotFoundError: there is no block of that name.

    Source: written for this course.
    """
    block = SharedMemory(name)
    try:
        return sum_and_memory(np.ndarray(length, np.float64, buffer=block.buf))
    finally:
        block.close()


def memory_gb(processes: Iterable[psutil.Process]) -> float:
    """Add up the memory of processes; what several share is counted once where the system tells it (Linux).

    Args:
        processes: those that have ended meanwhile count nothing.

    Returns:
        GB (10**9 bytes).

    Source: the proportional set size of psutil's memory_full_info.
    """
    total = 0
    for process in processes:
        try:
            info = process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += getattr(info, "pss", info.rss)
    return total / 1e9


def folder_mb(folder: str | Path) -> float:
    """Add up the sizes of all files in a folder and in the folders below it.

    Args:
        folder: it may change meanwhile; files that are deleted while we look count nothing.

    Returns:
        MB (10**6 bytes); 0 if there is no such folder.

    Source: written for this course.
    """
    total = 0
    for path in Path(folder).rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total / 1e6


def free_memory() -> None:
    """Give memory that this process no longer needs back to the system.

    The C library keeps freed memory for later. After heavy work in a notebook
    that can be a gigabyte, which other processes of this machine, such as
    Ray's workers, can use better. It does nothing where the C library is not glibc.

    Source: malloc_trim of the GNU C library.
    """
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def memory_over_time(work: Callable[[], Result], pause: float = 0.05) -> tuple[Result, list[float], list[float]]:
    """Do some work, and note meanwhile how much memory of this machine is in use.

    All programs of the machine count, as they do for Ray when it decides that memory runs out.

    Args:
        work: a function without arguments.
        pause: seconds between two looks; what is shorter may be missed.

    Returns:
        What the work returned; the seconds since its start, one for each look; and the memory in use then, in GB
        (10**9 bytes).

    Source: written for this course, on `used_and_total_memory`.
    """
    return _over_time(work, lambda: used_and_total_memory()[0] / 1e9, pause)


def object_store_over_time(work: Callable[[], Result], pause: float = 0.1) -> tuple[Result, list[float], list[float]]:
    """Do some work, and note meanwhile how much of Ray's object store is in use.

    The stores of all machines of the cluster count, and whatever is in them, also what somebody has put there before.

    Args:
        work: a function without arguments.
        pause: seconds between two looks; what is shorter may be missed.

    Returns:
        What the work returned; the seconds since its start, one for each look; and the memory in use then, in MB
        (10**6 bytes).

    Raises:
        RuntimeError: Ray has not been started.

    Source: what the cluster has of the resource "object_store_memory", less what ray.available_resources() says.
    """
    import ray

    if not ray.is_initialized():
        raise RuntimeError(
            "object_store_over_time asks the cluster, but Ray has not been started: call ray.init first."
        )
    name = "object_store_memory"

    def used_mb() -> float:
        return (ray.cluster_resources().get(name, 0) - ray.available_resources().get(name, 0)) / 1e6

    return _over_time(work, used_mb, pause)


def _over_time(
    work: Callable[[], Result], look: Callable[[], float], pause: float
) -> tuple[Result, list[float], list[float]]:
    """Do some work, and look at a number meanwhile; returns the result, the seconds of the looks, and the numbers."""
    seconds: list[float] = []
    numbers: list[float] = []
    done = threading.Event()
    start = time.monotonic()

    def watch() -> None:
        while True:
            numbers.append(look())
            seconds.append(time.monotonic() - start)
            if done.wait(pause):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        result = work()
    finally:
        done.set()
        watcher.join()
    return result, seconds, numbers


def cpu_seconds(pids: Mapping[str, int]) -> pd.Series:
    """Ask processes how much CPU time they have used since they started.

    Args:
        pids: name -> number of a process on this machine.

    Returns:
        name -> seconds, of user and system time together; the difference of two calls is what
        was used in between.

    Raises:
        psutil.NoSuchProcess: one of them has ended.

    Source: psutil's cpu_times.
    """
    times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    return pd.Series({name: t.user + t.system for name, t in times.items()}, dtype=float)
