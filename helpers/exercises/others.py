"""Checks of the exercises in notebook 11."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from helpers.exercises.meeting import Meeting
from helpers.exercises.verdict import (
    Verdict,
    as_list,
    exercise_check,
    not_right,
    right,
    same,
    without_ray,
)
from helpers.exercises.watched import PATIENCE


def _piece(pause: float) -> Callable[[int], tuple[int, str | None, float, float]]:
    """A function that takes so many seconds, and tells in which task it ran (None: in this process) and when."""
    here = os.getpid()

    def work(number: int) -> tuple[int, str | None, float, float]:
        start = time.monotonic()
        time.sleep(pause)
        task = None if os.getpid() == here else ray.get_runtime_context().get_task_id()
        return number * number, task, start, time.monotonic()

    return work


@exercise_check
def in_bundles(answer: Callable[[Any, list[int], float], list[Any]]) -> Verdict:
    """Exercise 1: pieces in tasks that take about so many seconds, whatever a piece takes."""
    if (missing := without_ray()) is not None:
        return missing
    nothing = answer(_piece(0.0), [], 0.1)
    if as_list(nothing) != []:
        return not_right(nothing, "[] for no pieces", "No pieces, no first piece to time.")
    _start_two_workers()
    cases = ((0.02, 0.2, 61), (0.001, 0.2, 801), (0.1, 0.02, 5))  # seconds of a piece, of a task; pieces
    for pause, seconds, count in cases:
        wrong = _judge_bundles(answer, pause, seconds, count)
        if wrong is not None:
            return wrong
    return right("each task takes about as long as it should, whatever a piece takes, and all of them start at once.")


@ray.remote
def _meet(meeting: Any) -> int:
    return ray.get(meeting.arrive.remote("here"))


def _start_two_workers() -> None:
    """Both processes have started before anything is judged by what runs at the same time."""
    meeting = Meeting.remote(2, PATIENCE)
    ray.get([_meet.remote(meeting) for _ in range(2)])


def _judge_bundles(answer: Callable[..., list[Any]], pause: float, seconds: float, count: int) -> Verdict | None:
    numbers = list(range(count, 0, -1))
    got = answer(_piece(pause), list(numbers), seconds)
    case = f"for {count} pieces of {pause} s and seconds={seconds}"
    values = as_list(got)
    if isinstance(got, ray.ObjectRef) or any(isinstance(value, ray.ObjectRef) for value in values or []):
        return not_right("references", "results", "Trade them for values with ray.get.")
    if values is not None and values and any(isinstance(value, list) for value in values):
        return not_right("a list of lists", "one list", "Each task returns a list: join these lists into one.")
    found = [value[0] for value in values or [] if isinstance(value, tuple) and len(value) == 4]
    expected = [number * number for number in numbers]
    if not same(sorted(found), sorted(expected)):
        hint = "Each piece belongs into one bundle, and the piece that you timed has a result, too."
        return not_right(f"{len(found)} results {case}", f"{count}, one for each piece", hint)
    if not same(found, expected):
        hint = "Keep the order of the pieces: the one that you timed, then one bundle after the other."
        return not_right("results in another order", "the order of the pieces", hint)
    return _judge_sizes(values or [], pause, seconds, case)


def _judge_sizes(values: list[Any], pause: float, seconds: float, case: str) -> Verdict | None:
    bundles: dict[str, list[tuple[float, float]]] = {}
    for _, task, start, end in values:
        if task is not None:
            bundles.setdefault(task, []).append((start, end))
    if not bundles:
        return not_right(f"no task {case}", "tasks of Ray", "Run the bundles with a remote function.")
    ideal = max(1.0, seconds / pause)
    longest, tasks = max(map(len, bundles.values())), len(bundles)
    if longest > 2 * ideal:
        hint = "How many pieces fit into the seconds? Divide them by what one piece takes, and take at least one."
        return not_right(f"{longest} pieces in one task {case}", f"about {ideal:.0f}", hint)
    # A busy machine makes a piece look longer than it is, so half as many may be right.
    if tasks > 4 * len(values) / ideal:
        hint = "Divide the seconds by what one piece takes, and give each task so many pieces."
        return not_right(f"{tasks} tasks {case}", f"about {len(values) / ideal:.0f}", hint)
    spans = [(min(start for start, _ in times), max(end for _, end in times)) for times in bundles.values()]
    spans.sort()
    apart = all(later[0] >= earlier[1] for earlier, later in zip(spans, spans[1:], strict=False))
    if tasks > 1 and apart:
        hint = "Start the tasks of all bundles first, and call ray.get once on the list of their references."
        return not_right(f"one task after another {case}", "all started before the first ray.get", hint)
    return None


@ray.remote(num_cpus=0)
class _Gate:
    """Holds one value back until so many pairs have been combined."""

    def __init__(self, needed: int) -> None:
        self._needed, self._combined, self._in_vain = needed, 0, False

    async def combined(self) -> None:
        self._combined += 1

    async def wait(self) -> None:
        seen, since = 0, time.monotonic()
        while self._combined < self._needed and not self._in_vain:
            if self._combined > seen:
                seen, since = self._combined, time.monotonic()
            self._in_vain = time.monotonic() - since > PATIENCE
            await asyncio.sleep(0.02)

    async def in_vain(self) -> bool:
        return self._in_vain


@ray.remote(num_cpus=0)
def _late(gate: Any, value: list[int]) -> list[int]:
    ray.get(gate.wait.remote())
    return value


class _Combining:
    """Has `.remote(one, other)` like a remote function that joins two lists, and counts its calls."""

    def __init__(self, note: Callable[[], object]) -> None:
        self.calls: list[tuple[Any, ...]] = []

        def combine(one: list[int], other: list[int]) -> list[int]:
            note()
            return [*one, *other]

        self._task = ray.remote(num_cpus=0)(combine)

    def remote(self, *values: Any) -> ray.ObjectRef:
        self.calls.append(values)
        return self._task.remote(*values)

    def options(self, **options: Any) -> _Combining:
        return self

    def __call__(self, *values: Any) -> None:
        raise TypeError("a remote function cannot be called directly: use combine.remote(one, other)")


@exercise_check
def combine_all(answer: Callable[[Any, Sequence[ray.ObjectRef]], Any]) -> Verdict:
    """Exercise 2: values are combined by twos, each as soon as it is there."""
    if (missing := without_ray()) is not None:
        return missing
    wrong = _judge_one(answer) or _judge_late(answer, 0) or _judge_late(answer, 3) or _judge_two_at_a_time(answer)
    return wrong or right("a late value holds nobody up, and two pairs were combined at the same time.")


def _judge_one(answer: Callable[..., Any]) -> Verdict | None:
    combine = _Combining(lambda: None)
    return _judge_total(answer(combine, [ray.put([7])]), combine, 1, [7])


def _judge_late(answer: Callable[..., Any], late: int) -> Verdict | None:
    total = 6
    gate = _Gate.remote(total - 2)
    combine = _Combining(lambda: ray.get(gate.combined.remote()))
    refs = [_late.remote(gate, [n]) if n == late else ray.put([n]) for n in range(total)]
    got = answer(combine, list(refs))
    wrong = _judge_total(got, combine, total, list(range(total)))
    if wrong is None and ray.get(gate.in_vain.remote()):
        hint = "Ask ray.wait for two values that are ready, combine them, and put the new reference to the others."
        found = f"a wait for value {late}, which was late, before the others were combined"
        return not_right(found, "all others combined meanwhile", hint)
    return wrong


def _judge_two_at_a_time(answer: Callable[..., Any]) -> Verdict | None:
    meeting = Meeting.remote(2, PATIENCE)
    combine = _Combining(lambda: ray.get(meeting.arrive.remote("here")))
    wrong = _judge_total(answer(combine, [ray.put([n]) for n in range(4)]), combine, 4, list(range(4)))
    if wrong is None and ray.get(meeting.in_vain.remote()):
        hint = "Two other values are ready while the first pair is being combined: do not wait for the sum so far."
        return not_right("one pair combined after the other", "two pairs at the same time", hint)
    return wrong


def _judge_total(got: Any, combine: _Combining, total: int, expected: list[int]) -> Verdict | None:
    if not isinstance(got, ray.ObjectRef):
        hint = "Return the last reference; whoever needs the value calls ray.get."
        return not_right(got, "a reference to the result", hint)
    if any(len(values) != 2 for values in combine.calls):
        return not_right("a call of combine with other than two values", "two", "combine.remote(one, other)")
    if len(combine.calls) != total - 1:
        hint = "Each call makes one value of two, so for n values there are n - 1 of them."
        return not_right(f"{len(combine.calls)} calls of combine for {total} values", f"{total - 1}", hint)
    value = ray.get(got)
    if not isinstance(value, list) or sorted(value) != expected:
        return not_right(value, f"{expected}, in any order", "Each value belongs into exactly one pair.")
    return None
