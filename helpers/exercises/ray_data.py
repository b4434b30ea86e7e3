"""Checks of the exercises of notebook 03."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from helpers.exercises.verdict import (
    Verdict,
    exercise_check,
    not_right,
    right,
    same,
    without_ray,
)
from helpers.session import hidden_stderr

Row = dict[str, Any]


# A CPU needs at least so many tasks, and at most so many: with one each, all would wait for the slowest.
TASKS_PER_CPU = (2, 8)
ROWS = 120


@exercise_check
def spread_work(answer: Callable[[Any, Callable[..., Any], int], Any]) -> Verdict:
    """Exercise 1: as many tasks as keep all CPUs busy, from a dataset in one block. Needs a running Ray."""
    import ray.data

    if (missing := without_ray()) is not None:
        return missing
    for cpus in (3, 1):
        tasks = _Calls.remote()
        dataset = ray.data.from_items([{"id": i} for i in range(ROWS)], override_num_blocks=1).materialize()
        result = answer(dataset, _work_that_notes(tasks), cpus)
        if not isinstance(result, ray.data.Dataset):
            return not_right(f"a {type(result).__name__}", "a dataset", "Return what map_batches returns.")
        got = sorted(result.take_all(), key=lambda row: row.get("id", 0))
        if (wrong := _judge_spread(got, ray.get(tasks.all.remote()), cpus)) is not None:
            return wrong
    return right("every row was worked on once, in enough tasks for all CPUs.")


def _work_that_notes(tasks: Any) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    def work(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ray.get(tasks.add.remote(ray.get_runtime_context().get_task_id() or "notebook"))
        return {"id": batch["id"], "result": batch["id"] ** 2}

    return work


def _judge_spread(got: list[Row], tasks: list[str], cpus: int) -> Verdict | None:
    expected = [{"id": i, "result": i**2} for i in range(ROWS)]
    if not got or set(got[0]) != {"id", "result"}:
        columns = sorted(got[0]) if got else "no row"
        return not_right(columns, "the columns id and result", "Give the function `work` to map_batches.")
    if got != expected:
        return not_right(f"{len(got)} rows", f"all {ROWS} rows, each once", "Return the results of the whole dataset.")
    least, most = (times * cpus for times in TASKS_PER_CPU)
    count = len(set(tasks))
    wanted = f"between {least} and {most} tasks for {cpus} CPU{'s' if cpus > 1 else ''}"
    if count < least:
        hint = (
            "A task works on one block, however many batches that has: cut the dataset into more blocks before "
            "map_batches, a few for each CPU."
        )
        return not_right(f"{count} task{'s' if count > 1 else ''}", wanted, hint)
    if count > most:
        return not_right(f"{count} tasks", wanted, "Each task has a price, too: a few blocks for each CPU are enough.")
    return None


NAMES = [f"name {i}" for i in range(10)]


@exercise_check
def add_names(answer: Callable[[Any, Callable[[], list[str]], int], Any]) -> Verdict:
    """Exercise 2: a class in a pool of actors, each of which loads something once. Needs a running Ray."""
    import ray.data

    if (missing := without_ray()) is not None:
        return missing
    context = ray.data.DataContext.get_current()
    before = context.wait_for_min_actors_s
    context.wait_for_min_actors_s = 300  # no batch before all actors are ready: none is too late for the work
    try:
        for actors in (2, 1):
            if (wrong := _judge_pool(answer, actors)) is not None:
                return wrong
    finally:
        context.wait_for_min_actors_s = before
    return right("each actor of the pool loaded the names once, and every row got its name.")


def _judge_pool(answer: Callable[..., Any], actors: int) -> Verdict | None:
    import ray.data

    calls = _Calls.remote()
    driver = os.getpid()

    def load_names() -> list[str]:
        where = "notebook" if os.getpid() == driver else ray.get_runtime_context().get_actor_id() or "task"
        ray.get(calls.add.remote(where))
        return list(NAMES)

    rows = [{"id": i, "label": (7 * i) % 10} for i in range(60)]
    result = answer(ray.data.from_items(rows, override_num_blocks=6), load_names, actors)
    if not isinstance(result, ray.data.Dataset):
        return not_right(f"a {type(result).__name__}", "a dataset", "Return what map_batches returns.")
    with hidden_stderr():  # Ray notes that a restarted actor might miss its arguments
        got = result.take_all()
    loaded = ray.get(calls.all.remote())
    wrong = _judge_names(sorted(got, key=lambda row: row.get("id", 0)), rows)
    return wrong or _judge_loads(loaded, actors)


def _judge_names(got: list[Row], rows: list[Row]) -> Verdict | None:
    expected = [{**row, "name": NAMES[row["label"]]} for row in rows]
    if got and set(got[0]) != set(expected[0]):
        hint = "Return the columns of the batch and one more: {**batch, 'name': ...}."
        return not_right(f"the columns {sorted(got[0])}", f"the columns {sorted(expected[0])}", hint)
    if len(got) != len(rows):
        return not_right(f"{len(got)} rows", f"{len(rows)} rows", "Every row of a batch has to come back.")
    for one, other in zip(got, expected, strict=True):
        if {name: str(value) for name, value in one.items()} != {name: str(value) for name, value in other.items()}:
            hint = "The name of a row is the one at the place that its label says, counted from 0."
            return not_right(one, other, hint)
    return None


def _judge_loads(loaded: list[str], actors: int) -> Verdict | None:
    expected = f"one in each of {actors} actors"
    calls = f"{len(loaded)} calls of load_names"
    if not loaded:
        return not_right(calls, expected, "Call load_names() in __init__, and keep what it returns in self.")
    if "notebook" in loaded:
        hint = "Call it in __init__, which runs in the actor; pass the function itself with fn_constructor_args."
        return not_right(f"{calls}, one of them in the notebook", expected, hint)
    if "task" in loaded:
        hint = "A function loads anew in each task: give map_batches the class, and let its __init__ load once."
        return not_right(f"{calls} in tasks", expected, hint)
    if len(loaded) > len(set(loaded)):
        hint = "__call__ runs for each batch, __init__ once for each actor: load there."
        return not_right(f"{calls} in {len(set(loaded))} actors", expected, hint)
    if len(loaded) != actors:
        hint = "compute=ray.data.ActorPoolStrategy(size=...) says how many actors there are: as many as the argument."
        return not_right(f"{calls} in {len(loaded)} actors", expected, hint)
    return None


@ray.remote(num_cpus=0)
class _Calls:
    """Notes where a function was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def add(self, where: str) -> None:
        self.calls.append(where)

    def all(self) -> list[str]:
        return self.calls


class _Unreadable(Exception):
    """A kind of error that no answer can name."""


def _reciprocal(row: Row) -> Any:
    """A function of a row that fails in several ways, and whose results include ones that count as false."""
    if row["text"] == "torn":
        raise _Unreadable("torn")
    if row["text"] == "empty":
        return 0.0
    if row["text"] == "list":
        return []
    return 10 / {"one": 1, "zero": 0, "four": 4}[row["text"]]


# Errors and results take turns: an error that is kept outside of the inner function shows up in the next row.
KEPT: list[tuple[Row, Any, str]] = [
    ({"id": 7, "text": "one"}, 10.0, ""),
    ({"id": 8, "text": "zero"}, None, "division by zero"),
    ({"id": 7, "text": "one"}, 10.0, ""),
    ({"text": "two", "path": "a.png", "size": 3}, None, "'two'"),
    ({"text": "empty"}, 0.0, ""),
    ({"id": 9, "text": "torn"}, None, "torn"),
    ({"id": 10, "text": "list"}, [], ""),
    ({"id": 11, "text": "four"}, 2.5, ""),
]


@exercise_check
def keep_errors(answer: Callable[[Callable[[Row], Any]], Callable[[Row], Row]]) -> Verdict:
    """Exercise 3: errors become data, whatever their kind, and no row is lost."""
    safe, other = answer(_reciprocal), answer(lambda row: row["id"] + 1)
    if not callable(safe):
        hint = "keep_errors returns a new function, and does not call it."
        return not_right(f"a {type(safe).__name__}", "a function", hint)
    seen: list[Any] = []
    for row, value, message in KEPT:
        got, wrong = _one_row(safe, row)
        if wrong is not None:
            return wrong
        wrong = _judge_row(got, row, value, message)
        if wrong is not None:
            return wrong
        if any(got is before for before in seen):
            return not_right("one dict for two rows", "a new one", "Make the result inside of the inner function.")
        seen.append(got)
    if not same([(got["value"], got["error"]) for got in seen], [kept[1:] for kept in KEPT]):
        hint = "Make what you return inside of the inner function, anew for each row."
        return not_right("rows that a later call has changed", "rows that stay as they were returned", hint)
    got, wrong = _one_row(other, {"id": 3})
    return (
        wrong
        or _judge_row(got, {"id": 3}, 4, "")
        or right("all rows come out, with a value or with the reason why there is none.")
    )


def _one_row(safe: Callable[[Row], Row], row: Row) -> tuple[Any, Verdict | None]:
    try:
        return safe(dict(row)), None
    except NotImplementedError:
        raise  # the stub is in the inner function
    except (_Unreadable, ArithmeticError, LookupError) as error:  # what the function of the row raises
        kind = type(error).__name__.lstrip("_")
        hint = f"Catch Exception, not only some kinds: {kind} came through."
        return None, not_right(f"{kind} for {row}", "a row", hint)


def _judge_row(got: Any, row: Row, value: Any, message: str) -> Verdict | None:
    expected = {**row, "value": value, "error": message}
    if not isinstance(got, dict):
        return not_right(f"a {type(got).__name__} for {row}", "a dict", "Return the row, with two columns more.")
    if same(got, expected):
        return None
    if set(got) != set(expected):
        hint = "Every row needs the same columns: its own, whatever they are, and value and error."
    elif not same({**got, "error": message}, expected):
        hint = "The columns of the row stay, and value is what the function gave; None if it failed."
        if value is not None and got["value"] is None:
            hint = "0 and an empty list are values as well: only an exception means that the function failed."
    elif message == "" and got["error"] not in ("", None):
        hint = "This row has no error: begin each row with an empty one, inside of the inner function."
    else:
        hint = "The message is str(error); it is the empty string if nothing failed."
    return not_right(got, expected, hint)
