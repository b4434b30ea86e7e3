"""Checks of the exercises of notebook 06."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right, without_ray

APPLICATION = "exercise-3"


@exercise_check
def replicas_needed(answer: Callable[..., int]) -> Verdict:
    """Exercise 1: the replicas that a load needs, by Little's law."""
    for per_second, seconds_each, at_once in ((100, 0.05, 1), (90, 0.05, 2), (40, 0.25, 4), (101, 0.25, 4), (0, 1, 1)):
        busy = per_second * seconds_each
        expected = max(1, math.ceil(busy / at_once))
        got = answer(per_second, seconds_each, at_once)
        if got == expected and not isinstance(got, float):
            continue
        given = f"{per_second} requests per second, {seconds_each} s each, {at_once} at once"
        hint = "per_second * seconds_each requests are under way at a time; divide them among the replicas."
        if got == expected:
            hint = "It is right, but a float: math.ceil gives a whole number."
        elif got == 0:
            hint = "Somebody has to be there when the first request comes: at least one."
        elif got == math.ceil(busy):
            hint = "One replica works on at_once requests at a time."
        elif got in (math.floor(busy / at_once), round(busy / at_once)) and expected > 1:
            hint = "Round up: with fewer, the queue grows for ever."
        elif got == busy / at_once and expected > 1:
            hint = "Replicas are whole: round up."
        return not_right(f"{got!r} for {given}", expected, hint)
    return right("enough replicas for the load, and never none.")


@exercise_check
def answer_batch(answer: Callable[[list[Any], Callable[[list[Any]], list[Any]]], list[Any]]) -> Verdict:
    """Exercise 2: good items are predicted together, each bad one gets its own error."""
    bad = {"error": "not a list"}
    cases: list[list[Any]] = [
        [[1, 2], "dark", [3], None, []],
        [[5]],
        ["dark", [5], "dark", [5]],  # equal items keep their places, too
        [(1, 2), {3: 4}, [6]],
        ["dark", 7],
        [],
    ]
    for items in cases:
        calls: list[list[Any]] = []

        def predict(batch: list[Any], calls: list[list[Any]] = calls) -> list[Any]:
            calls.append(list(batch))
            if not batch:
                raise ValueError("predict was called with no items")
            return [sum(item) for item in batch]

        got = as_list(answer(list(items), predict))
        good = [item for item in items if isinstance(item, list)]
        expected = [sum(item) if isinstance(item, list) else bad for item in items]
        if len(calls) > 1:
            hint = "That gives away what a batch saves: collect the good items first."
            return not_right(f"{len(calls)} calls of predict for {items}", "one call", hint)
        if got != expected:
            hint = "Walk over the items once more, and take the next prediction for each good one."
            if got is None:
                hint = "Return a list."
            elif len(got) != len(items):
                hint = "One answer for each item, or Serve cannot tell which client gets which."
            elif sorted(map(str, got)) == sorted(map(str, expected)):
                hint = "The answers are right, but for other clients: keep the order of the items."
            return not_right(f"{got} for {items}", expected, hint)
        if bool(calls) != bool(good):
            return not_right(f"{len(calls)} calls of predict for {items}", "none", "There is nothing to predict.")
    return right("one call of the model, one answer for each client, and a mistake costs only its own.")


_loaded = 0


def load_model(name: str) -> Callable[[str], dict[str, Any]]:
    """Load the small model of a customer; it tells its name, the text, and how many were loaded until then.

    Args:
        name: the customer's name.

    Returns:
        A model: a function of a text.

    Source: written for this course; it stands for a load that takes seconds.
    """
    global _loaded  # counts in the replica's process
    _loaded += 1
    number = _loaded
    return lambda text: {"model": name, "text": text, "load": number}


@exercise_check
def multiplexed(answer: Any) -> Verdict:
    """Exercise 3: one replica with several models, the last two stay loaded. Needs a running Ray."""
    from ray import serve

    if not isinstance(answer, serve.Deployment):
        return not_right(type(answer).__name__, "a deployment", "Keep @serve.deployment above the class.")
    # A stub or a missing method needs no replica to be found out.
    if "NotImplementedError" in _names(answer.func_or_class):
        raise NotImplementedError
    if float((answer.ray_actor_options or {}).get("num_cpus", 1)) > 1:
        return not_right("a replica of more than one CPU", "0.1", "Keep ray_actor_options: it would wait for ever.")
    if (missing := without_ray()) is not None:
        return missing
    try:
        handle = serve.run(answer.bind(), name=APPLICATION, route_prefix="/exercise-3")
        replies = []
        for name in ("ada", "ben", "ada", "eve", "ada", "ben"):
            replies.append(_ask(handle.options(multiplexed_model_id=name), f"hello {name}"))
            wrong = _wrong_reply(name, replies[-1])
            if wrong is not None:
                return wrong
        return _judge_loads([reply["load"] for reply in replies])
    finally:
        serve.delete(APPLICATION)


def _ask(handle: Any, text: str) -> Any:
    # In a thread: a notebook runs an event loop, and Serve refuses to block one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: handle.remote(text).result(timeout_s=20)).result()


def _names(cls: type) -> set[str]:
    methods = (getattr(cls, name, None) for name in ("get_model", "__call__"))
    codes = (getattr(getattr(m, "__wrapped__", m), "__code__", None) for m in methods)
    return {name for code in codes if code is not None for name in code.co_names}


def _wrong_reply(name: str, reply: Any) -> Verdict | None:
    if not isinstance(reply, dict) or set(reply) != {"model", "text", "load"}:
        hint = "Await the model that get_model returns, call it with the text, and return what comes out."
        return not_right(reply, "what model(text) returns", hint)
    if reply["model"] != name:
        hint = "serve.get_multiplexed_model_id() gives the name that this request asks for."
        return not_right(f"model {reply['model']!r}", repr(name), hint)
    if reply["text"] != f"hello {name}":
        return not_right(repr(reply["text"]), repr(f"hello {name}"), "Hand the text to the model as it is.")
    return None


def _judge_loads(loads: list[int]) -> Verdict:
    """Loads seen by requests for ada, ben, ada, eve, ada, ben; eve takes the place of ben, used longest ago."""
    steps = [load - loads[0] + 1 for load in loads]
    if steps == [1, 2, 1, 3, 1, 4]:
        return right("models stay in memory as long as they are among the two used last.")
    if len(set(steps)) == len(steps):
        hint = "Without @serve.multiplexed(max_num_models_per_replica=2) on get_model, or with 1, nothing is kept."
        return not_right("a load for each request", "models that stay loaded", hint)
    if steps == [1, 2, 1, 3, 4, 5]:
        hint = "The model that was loaded first goes, not the one used longest ago: leave that to @serve.multiplexed."
        return not_right(f"loads {steps}", [1, 2, 1, 3, 1, 4], hint)
    return not_right(f"loads {steps}", [1, 2, 1, 3, 1, 4], "Keep two: max_num_models_per_replica=2.")
