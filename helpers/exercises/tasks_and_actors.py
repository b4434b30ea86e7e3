"""Checks of the exercises of notebook 01. Ray must be running."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.util.state import list_tasks

from helpers.exercises.verdict import Verdict, as_list, as_number, exercise_check, not_right, right, same, without_ray
from helpers.exercises.watched import Rule, Watched, one_for_one, only

# What exercise 3 wants, and Ray's name for it.
STATE_OF = {
    "resources": "PENDING_NODE_ASSIGNMENT",
    "argument": "PENDING_ARGS_AVAIL",
    "running": "RUNNING",
    "failed": "FAILED",
    "finished": "FINISHED",
}
PAUSE = 0.15  # seconds between the ends of two tasks, where the order in which they end must be seen


def _square(place: int, number: int) -> int:
    return number * number


@exercise_check
def first_answers(answer: Callable[[list[Any], int], list[Any]]) -> Verdict:
    """Exercise 1: the values of the n tasks that finish first; the others do not finish before you answer."""
    if (missing := without_ray()) is not None:
        return missing
    with suppress(ValueError):  # a stub is found out without a task; other mistakes show below
        answer([ray.put(9)], 1)
    task = Watched()
    try:
        # Items, the places of those that finish, and n. Where more have finished, any n of them are right.
        cases = (([1, 2, 3, 4], (1, 3), 2), ([5, 6, 7], (2,), 1), ([-3, 8, 3, 9, 6], (0, 2, 4), 3))
        for items, quick, n in (*cases, ([2, 7, 4, 9], (1, 2, 3), 2), ([3, 1], (0, 1), 2)):
            wrong = _judge_first(answer, task, items, quick, n)
            if wrong is not None:
                return wrong
        return right("the first answers, without waiting for the others.")
    finally:
        task.finish()


def _judge_first(
    answer: Callable[[list[Any], int], list[Any]], task: Watched, items: list[int], quick: tuple[int, ...], n: int
) -> Verdict | None:
    task.begin(_square, only(*quick), PAUSE)
    refs = [task.remote(item) for item in items]
    if len(quick) > n:
        ray.wait([refs[place] for place in quick], num_returns=len(quick))
    got = answer(list(refs), n)
    in_vain, values = task.waited_in_vain(), as_list(got)
    task.finish()
    if values is None:
        return not_right(f"a {type(got).__name__}", "a list of values", "Return a list.")
    if any(isinstance(value, ray.ObjectRef) for value in values):
        return not_right("references", "values", "Trade the references that ray.wait calls ready for values.")
    allowed = [sorted(items[place] ** 2 for place in some) for some in itertools.combinations(quick, n)]
    numbers = [as_number(value) for value in values]
    if None in numbers or sorted(numbers) not in allowed:
        hint = "ray.wait(refs, num_returns=n) tells which n are ready first; the first n of the list may be slow ones."
        if len(values) != n:
            hint = "Return n values, one of each of the first n tasks: ray.wait(refs, num_returns=n) waits for n."
        ready = sorted(items[place] ** 2 for place in quick)
        return not_right(values, f"{n} of the values {ready} of the quick tasks", hint)
    if in_vain:
        hint = "ray.get on all references waits for the slowest: ask ray.wait for the first n."
        return not_right("an answer after a slow task had ended", f"one after the first {n}", hint)
    return None


@exercise_check
def at_most(answer: Callable[[Any, Sequence[Any], int], list[Any]]) -> Verdict:
    """Exercise 2: n tasks under way, the next one as soon as any has ended, values in the order of the items."""
    if (missing := without_ray()) is not None:
        return missing
    task = Watched()
    try:
        # Equal items, too: a dict would lose one.
        for items, n in (([], 2), ([3, 1, 1, 4, 6], 2), ([2, 0, 5, 2, 7, 1, 3], 3), ([4, 0], 3), ([6, 6, 0], 1)):
            wrong = _judge_window(answer, task, items, n)
            if wrong is not None:
                return wrong
        return right("never more than n tasks, never fewer without need, and the values in order.")
    finally:
        task.finish()


def _judge_window(
    answer: Callable[[Any, Sequence[Any], int], list[Any]], task: Watched, items: list[int], n: int
) -> Verdict | None:
    task.begin(_square, one_for_one(len(items), n), PAUSE)
    got = answer(task, list(items), n)
    values, expected = as_list(got), [item * item for item in items]
    case = f"for {len(items)} items and n={n}"
    if isinstance(got, ray.ObjectRef) or any(isinstance(value, ray.ObjectRef) for value in values or []):
        return not_right("references", f"{expected} {case}", "Trade them for values with ray.get.")
    if sorted(map(repr, task.arguments)) != sorted(map(repr, items)):
        hint = "Start one task for each item, with task.remote(item)."
        return not_right(f"tasks for {task.arguments}", f"tasks for {items} {case}", hint)
    if task.most > n:
        hint = "Once n tasks are under way, wait for one of them before you start the next."
        return not_right(f"{task.most} tasks under way at once {case}", f"at most {n}", hint)
    if task.waited_in_vain():
        hint = "Keep n tasks under way, and ask ray.wait which one has ended: any of them makes room for the next."
        return not_right(f"waiting for a task that takes long {case}", "a new one whenever any has ended", hint)
    if not same(values, expected):
        return not_right(got, f"{expected} for the items {items}", _order_hint(values, expected))
    return None


def _order_hint(values: list[Any] | None, expected: list[int]) -> str:
    if values is None:
        return "Return a list of the results."
    if len(values) < len(expected):
        return "One result for each item, also where two items are equal."
    if sorted(map(str, values)) == sorted(map(str, expected)):
        return "The results must be in the order of the items, not in the order in which they finish."
    return "Return a list of the values of all items, in the order of the items."


@ray.remote(num_cpus=0)
def _after(seconds: float, value: int) -> int:
    time.sleep(seconds)
    return value


@ray.remote(num_cpus=0)
def _fails() -> None:
    raise ValueError("this task fails on purpose")


@exercise_check
def why(answer: Callable[[str], str]) -> Verdict:
    """Exercise 3: in one word, what the task of a name is doing, or what it waits for."""
    if (missing := without_ray()) is not None:
        return missing
    try:
        answer("no task has this name")  # a stub is found out without a task; what others do here is up to them
    except NotImplementedError:
        raise
    except Exception:
        pass
    names = {word: f"{word}-{uuid.uuid4().hex[:8]}" for word in STATE_OF}
    device = {"a device that nobody has": 1}
    waiting = _after.options(name=names["resources"], resources=device).remote(0, 1)
    running = _after.options(name=names["running"]).remote(600, 1)
    _after.options(name=names["argument"]).remote(0, waiting)
    ended = [_after.options(name=names["finished"]).remote(0, 1), _fails.options(name=names["failed"]).remote()]
    try:
        ray.wait(ended, num_returns=2, timeout=60)
        if not _listed(names):
            return Verdict("not solved yet", "Ray's list of tasks is far behind: run this again on an idle machine.")
        for word in ("failed", "argument", "running", "resources", "finished"):
            got = answer(names[word])
            if got != word:
                return not_right(repr(got), f"{word!r} for a task that is {STATE_OF[word]}", _hint_of_why(got, word))
    finally:
        ray.cancel(waiting)
        ray.cancel(running, force=True)
    return right("for each of five tasks you found what it does, or what it waits for.")


def _listed(names: dict[str, str]) -> bool:
    """Wait until the list of tasks knows the state of each; False: it does not within 30 s."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        states = {task.name: task.state for task in list_tasks(limit=10_000)}
        if all(states.get(names[word]) == state for word, state in STATE_OF.items()):
            return True
        time.sleep(0.5)
    return False


def _hint_of_why(got: Any, word: str) -> str:
    if not isinstance(got, str):
        return "list_tasks returns a list: take the task in it, and return a word for its state."
    if got in STATE_OF.values():
        return "Return one of the five words instead of Ray's state."
    if got in STATE_OF:
        return "Look at the task of this name only, and give each of the five states a word of its own."
    return f"The words are {', '.join(STATE_OF)}."


class _Calls:
    """The calls of all actors of one class that the check lends to an answer."""

    def __init__(self, total: int, actors: int) -> None:
        self.handles: list[_Handle] = []
        self.most_busy = 0  # actors that had something to do at the same time
        self.lock = threading.Lock()  # an answer may ask in threads
        self.task = Watched()
        self.task.begin(_square, _after_so_many(min(total, actors)), PAUSE)


class _Handle:
    """Has `.predict.remote(request)` like the handle of an actor."""

    def __init__(self, calls: _Calls) -> None:
        self._calls, self.refs = calls, []
        self.predict = self

    def remote(self, request: Any) -> ray.ObjectRef:
        ref = self._calls.task.remote(request)
        with self._calls.lock:
            self.refs.append(ref)
            busy = [handle for handle in self._calls.handles if handle.is_busy()]
            self._calls.most_busy = max(self._calls.most_busy, len(busy))
        return ref

    def is_busy(self) -> bool:
        return bool(self.refs) and bool(ray.wait(self.refs, num_returns=len(self.refs), timeout=0)[1])

    def options(self, **options: Any) -> _Handle:
        return self


class _Model:
    """Has `.remote()` like an actor class without arguments."""

    def __init__(self, calls: _Calls) -> None:
        self._calls = calls

    def remote(self) -> _Handle:
        self._calls.handles.append(_Handle(self._calls))
        return self._calls.handles[-1]

    def options(self, **options: Any) -> _Model:
        return self

    def __call__(self) -> None:
        raise TypeError("an actor class cannot be called directly: use Model.remote()")


def _after_so_many(count: int) -> Rule:
    """No call ends before so many have been made; then the newest of those under way ends first."""

    def may_end(started: list[int], ended: list[int]) -> list[int]:
        under_way = [number for number in started if number not in ended]
        return under_way[-1:] if len(started) >= count else []

    return may_end


@exercise_check
def ask_all(answer: Callable[[Any, int, list[Any]], list[Any]]) -> Verdict:
    """Exercise 4: n actors share the requests, all at the same time, and the answers come in order."""
    if (missing := without_ray()) is not None:
        return missing
    for n, requests in ((2, [3, 1, 1, 4, 6]), (3, list(range(12))), (3, [5]), (1, [2, 0, 2]), (2, [])):
        calls = _Calls(len(requests), n)
        try:
            got = answer(_Model(calls), n, list(requests))
            wrong = _judge_requests(got, calls, n, requests)
            if wrong is not None:
                return wrong
        finally:
            calls.task.finish()
    return right("all actors worked at the same time, and the answers came in order.")


def _judge_requests(got: Any, calls: _Calls, n: int, requests: list[int]) -> Verdict | None:
    values, expected = as_list(got), [request * request for request in requests]
    case = f"for n={n} and {len(requests)} requests"
    if isinstance(got, ray.ObjectRef) or any(isinstance(value, ray.ObjectRef) for value in values or []):
        return not_right("references", expected, "Trade them for values with ray.get.")
    # Fewer requests than actors: whether the idle ones are started is all the same.
    if len(calls.handles) != n and (len(calls.handles) > n or len(requests) >= n):
        hint = "Start n actors with Model.remote() before the first request, and use them for all requests."
        return not_right(f"{len(calls.handles)} actors {case}", f"{n}", hint)
    if sorted(map(repr, calls.task.arguments)) != sorted(map(repr, requests)):
        hint = "Each request goes to one actor, once: actor.predict.remote(request)."
        return not_right(f"{len(calls.task.arguments)} calls {case}", f"{len(requests)}, one for each", hint)
    most, share = max((len(handle.refs) for handle in calls.handles), default=0), -(-len(requests) // n)
    if most > share + 1:
        hint = "Share the requests evenly, by turns for example: request i goes to actor i % n."
        return not_right(f"one actor with {most} of {len(requests)} requests", f"about {share} each", hint)
    if calls.task.waited_in_vain() or calls.most_busy < min(n, len(requests)):
        hint = "Give every actor a request before you wait: an actor that got none has nothing to do."
        return not_right(f"{calls.most_busy} actors busy at the same time {case}", f"{min(n, len(requests))}", hint)
    if not same(values, expected):
        hint = "Return the answers in the order of the requests: ray.get keeps the order of the references."
        return not_right(got, f"{expected} {case}", hint)
    return None
