"""The check of the last exercise in notebook 11: four jobs, a tool for each, and a reason that can be measured."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from joblib import Parallel, delayed

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right, same, without_ray

REASONS = ("faster", "survives", "fewer loads")
ROUNDS = 2
FAR_BEHIND = 3.0  # who chooses for speed may not take so many times as long as the quickest way
CALLS, WAITS, REQUESTS, LOAD_S = 2000, 16, 6, 0.2
Way = Callable[[Path], list[int]]  # gets a folder of its own, in which it may leave files


@dataclass(frozen=True)
class Outcome:
    """What came of one way to do a job: its last results or its error, seconds of each round, and loads of a model."""

    results: Any
    error: str | None
    seconds: list[float]
    loads: int

    def said(self) -> str:
        if self.error is not None:
            return f"raised {self.error}"
        return f"took {min(self.seconds):.3g} to {max(self.seconds):.3g} s, with {self.loads} loads"


def square(number: int) -> int:
    """A call far too short for a task."""
    return number * number


def ask(number: int) -> int:
    """A call that waits for a server, and uses no processor."""
    time.sleep(0.1)
    return number


def crash_once(folder: Path, number: int) -> int:
    """A call whose process dies with piece 3, the first time."""
    if number == 3 and not (folder / "died").exists():
        (folder / "died").touch()
        os._exit(1)
    return number


def load(folder: Path) -> None:
    """A model that takes a while to load, and notes that it was loaded."""
    time.sleep(LOAD_S)
    (folder / f"load-{time.time_ns()}-{os.getpid()}").touch()


def load_and_answer(folder: Path, number: int) -> int:
    load(folder)
    return number


class Model:
    """Loads once, and answers."""

    def __init__(self, folder: Path) -> None:
        load(folder)

    def answer(self, number: int) -> int:
        return number


def in_a_loop(function: Callable[[int], int], numbers: Sequence[int], folder: Path) -> list[int]:
    return [function(number) for number in numbers]


def in_threads(function: Callable[[int], int], numbers: Sequence[int], folder: Path) -> list[int]:
    with ThreadPoolExecutor(WAITS) as threads:
        return list(threads.map(function, numbers))


def with_joblib(function: Callable[[int], int], numbers: Sequence[int], folder: Path) -> list[int]:
    return Parallel(n_jobs=2)(delayed(function)(number) for number in numbers)


def with_ray(function: Callable[[int], int], numbers: Sequence[int], folder: Path) -> list[int]:
    task = ray.remote(function)
    return ray.get([task.remote(number) for number in numbers])


def crash_with_joblib(folder: Path) -> list[int]:
    return Parallel(n_jobs=2)(delayed(crash_once)(folder, number) for number in range(8))


def crash_with_ray(folder: Path) -> list[int]:
    task = ray.remote(crash_once)
    return ray.get([task.remote(folder, number) for number in range(8)])


def requests_with_joblib(folder: Path) -> list[int]:
    """Requests come one after the other, so each is a list of one."""
    return [Parallel(n_jobs=2)([delayed(load_and_answer)(folder, n)])[0] for n in range(REQUESTS)]


def requests_with_tasks(folder: Path) -> list[int]:
    task = ray.remote(load_and_answer)
    return [ray.get(task.remote(folder, number)) for number in range(REQUESTS)]


def requests_with_an_actor(folder: Path) -> list[int]:
    model = ray.remote(Model).remote(folder)
    return [ray.get(model.answer.remote(number)) for number in range(REQUESTS)]


def _general(function: Callable[[int], int], count: int) -> dict[str, Way]:
    ways = {"loop": in_a_loop, "threads": in_threads, "joblib": with_joblib, "Ray": with_ray}
    return {name: partial(way, function, range(count)) for name, way in ways.items()}


# Threads are no way for the crash: they would take this very process with them.
JOBS: dict[str, dict[str, Way]] = {
    "tiny calls": _general(square, CALLS),
    "slow server": _general(ask, WAITS),
    "crash": {"joblib": crash_with_joblib, "Ray": crash_with_ray},
    "slow load": {
        "joblib": requests_with_joblib,
        "Ray tasks": requests_with_tasks,
        "Ray actor": requests_with_an_actor,
    },
}
EXPECTED: dict[str, list[int]] = {
    "tiny calls": [number * number for number in range(CALLS)],
    "slow server": list(range(WAITS)),
    "crash": list(range(8)),
    "slow load": list(range(REQUESTS)),
}


@exercise_check
def four_jobs(choices: Mapping[str, Sequence[str]]) -> Verdict:
    """Exercise 3: for each job a tool, what it is better than, and why; all ways are run, and the reason is looked for.

    Args:
        choices: job -> (tool, another tool, one of REASONS).
    """
    if (missing := without_ray()) is not None:
        return missing
    if (wrong := _judge_form(choices)) is not None:
        return wrong
    for job, (tool, other, reason) in choices.items():
        outcomes = {name: _outcome(way, job) for name, way in JOBS[job].items()}
        if (wrong := _judge_choice(job, tool, other, reason, outcomes)) is not None:
            return wrong
    return right("each of your reasons was measured just now, and no other way was far ahead of your choice.")


def _judge_form(choices: Any) -> Verdict | None:
    if not isinstance(choices, Mapping) or set(choices) != set(JOBS):
        got = sorted(map(str, choices)) if isinstance(choices, Mapping) else choices
        return not_right(got, f"a dict with the keys {', '.join(JOBS)}", "One choice for each of the four jobs.")
    for job, choice in choices.items():
        if any(part is ... for part in (choice if isinstance(choice, (list, tuple)) else [choice])):
            raise NotImplementedError
        if not isinstance(choice, (list, tuple)) or len(choice) != 3:
            return not_right(f"{choice!r} for {job!r}", "(tool, another tool, reason)", "Three texts for each job.")
        tool, other, reason = choice
        for name in (tool, other):
            if name not in JOBS[job]:
                return not_right(f"{name!r} for {job!r}", f"one of {', '.join(JOBS[job])}", "See the table above.")
        if tool == other:
            return not_right(f"{tool!r} twice for {job!r}", "two tools", "What is your choice better than?")
        if reason not in REASONS:
            return not_right(f"{reason!r} for {job!r}", f"one of {', '.join(REASONS)}", "Why did you choose it?")
    return None


def _outcome(way: Way, job: str) -> Outcome:
    """The way is run once to warm up (unless its process dies), and then ROUNDS times."""
    seconds: list[float] = []
    results: Any = None
    loads = 0
    rounds = range(1) if job == "crash" else range(-1, ROUNDS)
    for turn in rounds:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            try:
                results = way(Path(folder))
            except Exception as error:
                return Outcome(None, type(error).__name__, [], 0)
            if turn >= 0:
                seconds.append(time.perf_counter() - start)
            loads = len(list(Path(folder).glob("load-*")))
    return Outcome(results, None, seconds, loads)


def _judge_choice(job: str, tool: str, other: str, reason: str, outcomes: Mapping[str, Outcome]) -> Verdict | None:
    mine, theirs = outcomes[tool], outcomes[other]
    evidence = f"{tool} {mine.said()}; {other} {theirs.said()}"
    if mine.error is not None or not same(mine.results, EXPECTED[job]):
        return not_right(f"{tool!r} for {job!r}", "a way that returns all results", f"We ran it: it {mine.said()}.")
    true = {
        "faster": theirs.error is None and 1.2 * max(mine.seconds) < min(theirs.seconds),
        "survives": theirs.error is not None,
        "fewer loads": theirs.error is None and mine.loads < theirs.loads,
    }
    if not true[reason]:
        hint = f"We ran both: {evidence}. Choose a reason that this shows, or another tool."
        return not_right(f"{reason!r} for {tool!r} beside {other!r}", "a reason that is true", hint)
    quickest = min((name for name in outcomes if outcomes[name].error is None), key=lambda n: min(outcomes[n].seconds))
    # Other reasons are judged by what happened alone: where a machine is busy, the start of an actor takes seconds.
    if reason == "faster" and min(mine.seconds) > FAR_BEHIND * min(outcomes[quickest].seconds):
        hint = f"Your reason is true ({evidence}), but {quickest} {outcomes[quickest].said()}."
        return not_right(f"{tool!r} for {job!r}", "a tool that no other one leaves far behind", hint)
    return None
