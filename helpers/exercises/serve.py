"""Checks of the exercises of notebook 06 and its deep dive operating_a_service."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from helpers.exercises.formulas import judge_formula
from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right, same, without_ray

APPLICATION = "many-models"
ASKED = ("ada", "ben", "ada", "eve", "ada", "ben")


# Exercise 1: fahrenheit -> celsius; the coldest temperature there is, zero and a fraction among them.
CONVERTED = {212: 100.0, 32: 0.0, -40: -40.0, 98.6: 37.0, -459.67: -273.15, 0: -17.7778, 1e6: 555537.7778}
REFUSED: dict[str, Any] = {
    "a text": {"fahrenheit": "warm"},
    "colder than anything": {"fahrenheit": -459.68},
    "far too cold": {"fahrenheit": -1e9},
    "another name": {"celsius": 100},
    "null": {"fahrenheit": None},
    "a list": [212],
    "nothing": None,
}
DEFAULT_URL = "http://127.0.0.1:8000"


@exercise_check
def temperature(answer: Any, url: str | None = None) -> Verdict:
    """Exercise 1: a typed deployment. Needs a running Serve, at the url."""
    from ray import serve

    if (problem := deployment_problem(answer, ("celsius",))) is not None:
        return problem
    try:
        serve.run(answer.bind(), name="exercise-1", route_prefix="/exercise-1")
        route = f"{url or DEFAULT_URL}/exercise-1/celsius"
        return _judge_conversions(route) or _judge_refusals(route) or right("what comes in is checked, and converted.")
    finally:
        serve.delete("exercise-1")


def _judge_conversions(route: str) -> Verdict | None:
    for fahrenheit, celsius in CONVERTED.items():
        body = {"fahrenheit": fahrenheit}
        reply = requests.post(route, json=body, timeout=30)
        expected = f"200 and {{'celsius': {celsius}}}"
        if reply.status_code in (404, 405):
            return not_right(
                f"{reply.status_code} for POST /celsius", expected, 'The route is @celsius_http.post("/celsius").'
            )
        if reply.status_code == 422:
            hint = (
                "The body is one object with the field fahrenheit: a class with BaseModel, as the type of the argument."
            )
            if fahrenheit == -459.67:
                hint = "-459.67 itself is allowed: ge, not gt."
            elif fahrenheit < 0:
                hint = "Only what is colder than -459.67 is refused."
            return not_right(f"422 for {body}", expected, hint)
        if reply.status_code != 200:
            return not_right(f"{reply.status_code} for {body}", expected, "An error was raised in your method.")
        got = reply.json()
        if not isinstance(got, dict) or set(got) != {"celsius"}:
            return not_right(f"{got} for {body}", expected, "Return an object with the one field celsius.")
        if not isinstance(got["celsius"], (int, float)) or not math.isclose(got["celsius"], celsius, abs_tol=0.01):
            return not_right(f"{got} for {body}", expected, "The formula is (fahrenheit - 32) * 5 / 9.")
    return None


def _judge_refusals(route: str) -> Verdict | None:
    for name, body in REFUSED.items():
        status = requests.post(route, json=body, timeout=30).status_code
        if status == 422:
            continue
        hint = "Give the field a type, float, so that FastAPI checks it before your method is called."
        if "cold" in name:
            hint = "Give the field a smallest value: Field(ge=-459.67)."
            if status == 500:
                hint = "An error in the method is a 500, as if we had failed: let Field(ge=...) refuse it."
        return not_right(f"{status} for {name}: {body}", "422", hint)
    return None


def _replicas(per_second: float, seconds_each: float, at_once: int = 1) -> int:
    return max(1, math.ceil(per_second * seconds_each / at_once))


@exercise_check
def replicas_needed(answer: Callable[..., int]) -> Verdict:
    """Deep dive, exercise 1: the replicas that a load needs, by Little's law."""
    loads = [(100, 0.05, 1), (90, 0.05, 2), (40, 0.25, 4), (101, 0.25, 4), (0, 1, 1), (1, 0.5, 8), (64, 0.125, 3)]
    cases: list[dict[str, Any]] = [{"per_second": n, "seconds_each": s, "at_once": a} for n, s, a in loads]
    cases += [
        {"per_second": 50, "seconds_each": 0.25, "at_once": 1},
        {"per_second": 8, "seconds_each": 2.5, "at_once": 4},
    ]
    mistakes: dict[str, Callable[..., Any]] = {
        "One replica works on at_once requests at a time.": lambda n, s, a: max(1, math.ceil(n * s)),
        "Round up: with fewer, the queue grows without end.": lambda n, s, a: max(1, int(n * s / a)),
        "Round up, not to the nearest: with fewer, the queue grows without end.": lambda n, s, a: max(
            1, round(n * s / a)
        ),
        "Somebody has to be there when the first request comes: at least one.": lambda n, s, a: math.ceil(n * s / a),
        "Replicas are a whole number: round up.": lambda n, s, a: max(1, n * s / a),
        "Replicas are a whole number, and at least one: round up.": lambda n, s, a: n * s / a,
        "A replica that is always busy is enough: round up only what is no whole number.": lambda n, s, a: (
            int(n * s / a) + 1
        ),
        "seconds_each counts as well: multiply it by per_second.": lambda n, s, a: max(1, math.ceil(n / a)),
        "A replica that needs longer is worth less: multiply by seconds_each, do not divide.": lambda n, s, a: max(
            1, math.ceil(n / s / a)
        ),
        "at_once makes a replica worth more: divide by it.": lambda n, s, a: max(1, math.ceil(n * s * a)),
    }
    hint = "per_second * seconds_each requests are under way at a time; divide them among the replicas."
    wrong = judge_formula(answer, _replicas, cases, mistakes, hint, whole=True)
    return wrong or right("enough replicas for the load, and never none.")


class _Picky:
    """The first of two deployments: it can't answer everything."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, text: str) -> str:
        self.asked.append(text)
        if text.startswith("hard"):
            raise ValueError("too hard")
        if text.startswith("odd"):
            raise KeyError(text)
        return f"first: {text}"

    async def calls(self) -> list[str]:
        return self.asked


class _Patient(_Picky):
    """The second one, which answers everything."""

    async def answer(self, text: str) -> str:
        self.asked.append(text)
        return f"second: {text}"


QUESTIONS = {
    "easy": "first: easy",
    "hard": "second: hard",
    "": "first: ",
    "odd": "second: odd",
    "hard again": "second: hard again",
}


@exercise_check
def fallback(answer: Any) -> Verdict:
    """Exercise 2: a deployment that asks a second one if the first one fails. Needs a running Ray."""
    from ray import serve

    if (problem := deployment_problem(answer, ("ask",))) is not None:
        return problem
    light = {"ray_actor_options": {"num_cpus": 0.1}}
    first, second = (serve.deployment(**light)(kind).options(name=kind.__name__) for kind in (_Picky, _Patient))
    try:
        handle = serve.run(answer.bind(first.bind(), second.bind()), name="exercise-2", route_prefix="/exercise-2")
        for question, expected in QUESTIONS.items():
            try:
                got = result(handle.ask.remote(question))
            except Exception as error:
                hint = "Put `await self.first.answer.remote(text)` into a try; any exception means: ask the second one."
                return not_right(f"{type(error).__name__} for {question!r}", repr(expected), hint)
            if got != expected:
                hint = "Return what the first one answers; if it raises, return what the second one answers."
                return not_right(f"{got!r} for {question!r}", repr(expected), hint)
        asked = result(serve.get_deployment_handle("_Patient", "exercise-2").calls.remote())
    finally:
        serve.delete("exercise-2")
    needed = [question for question, expected in QUESTIONS.items() if expected.startswith("second")]
    if asked != needed:
        hint = "Ask the second one only after the first one has failed, and once."
        return not_right(f"the second one was asked {asked}", str(needed), hint)
    return right("the first one answers if it can, and nobody notices when it can't.")


BAD = {"error": "not a list"}
BATCHES: list[list[Any]] = [
    [[1, 2], "dark", [3], None, []],
    [[5]],
    ["dark", [5], "dark", [5]],  # equal items keep their places, too
    [(1, 2), {3: 4}, [6]],
    [[0], [1, -1], 0, [], [[]], False],  # predictions that count as false
    [[4, 4, 4], [2], [9, 1], [7], [7]],
    ["dark", 7],
    [],
]


def _prediction(item: list[Any]) -> Any:
    """What the model says: each good item gets its own answer, the number 0 and None among them."""
    return None if item == [7] else sum(number for number in item if isinstance(number, int))


@exercise_check
def answer_batch(answer: Callable[[list[Any], Callable[[list[Any]], list[Any]]], list[Any]]) -> Verdict:
    """Deep dive, exercise 3: good items are predicted together, each bad one gets its own error."""
    for items in BATCHES:
        calls: list[list[Any]] = []

        def predict(batch: list[Any], calls: list[list[Any]] = calls) -> list[Any]:
            calls.append(list(batch))
            return [_prediction(item) if isinstance(item, list) else "a prediction for no list" for item in batch]

        got = answer(copy.deepcopy(items), predict)
        wrong = _judge_calls(calls, items) or _judge_answers(got, items)
        if wrong is not None:
            return wrong
    return right("one call of the model, one answer for each client, and a mistake costs only its own.")


def _judge_calls(calls: list[list[Any]], items: list[Any]) -> Verdict | None:
    """What the model was given; the answers alone do not tell."""
    good = [item for item in items if isinstance(item, list)]
    if not good and calls:
        return not_right(f"{len(calls)} calls of predict for {items}", "none", "There is nothing to predict.")
    if len(calls) != bool(good):
        hint = "That gives away what a batch saves: collect the good items first."
        if not calls:
            hint = "Good items are answered by predict."
        return not_right(f"{len(calls)} calls of predict for {items}", "one call", hint)
    if not good or same(calls[0], good):
        return None
    hint = "Collect the items that are lists, in their order, and nothing else."
    if not all(isinstance(item, list) for item in calls[0]):
        hint = "A bad item must not get to the model, where it could fail the whole batch: test isinstance(item, list)."
    elif len(calls[0]) > len(good):
        hint = "Nothing takes the place of a bad item: the model would work for nobody."
    elif len(calls[0]) < len(good):
        hint = "Each list is a good item, also an empty one, and also one that comes twice."
    return not_right(f"predict({calls[0]}) for {items}", f"predict({good})", hint)


def _judge_answers(got: Any, items: list[Any]) -> Verdict | None:
    values = as_list(got)
    expected = [_prediction(item) if isinstance(item, list) else BAD for item in items]
    if same(values, expected):
        return None
    hint = "Walk over the items once more, and take the next prediction for each good one."
    if values is None:
        hint = "Return a list."
    elif len(values) != len(items):
        hint = "One answer for each item, or Serve cannot tell which client gets which."
    elif sorted(map(str, values)) == sorted(map(str, expected)):
        hint = "The answers are right, but for other clients: keep the order of the items."
    elif any(wanted == BAD and not same(value, BAD) for value, wanted in zip(values, expected, strict=True)):
        hint = f"Each bad item gets exactly {BAD}."
    elif any(wanted != BAD and same(value, BAD) for value, wanted in zip(values, expected, strict=True)):
        hint = "A prediction can be 0 or None: whether an item is bad does not show in its prediction."
    return not_right(f"{got} for {items}", expected, hint)


_loaded = 0
_unloaded: list[str] = []
_kept_alive: list[_Model] = []


class _Model:
    """The small model of a customer; it tells its name, the text, and how many were loaded until then."""

    def __init__(self, name: str) -> None:
        global _loaded  # counts in the replica's process
        _loaded += 1
        self.name, self.number = name, _loaded
        _kept_alive.append(self)  # so that __del__ is called by Serve when it unloads a model, and by nobody else

    def __call__(self, text: str) -> dict[str, Any]:
        return {"model": self.name, "text": text, "load": self.number, "unloaded": list(_unloaded)}

    def __del__(self) -> None:
        _unloaded.append(self.name)


def load_model(name: str) -> Callable[[str], dict[str, Any]]:
    """Load the small model of a customer.

    Args:
        name: the customer's name.

    Returns:
        A model: a function of a text. It tells its name, the text, how many models
        were loaded until then, and which ones Serve has unloaded.

    Source: written for this course; it stands for a load that takes seconds.
    """
    return _Model(name)


@exercise_check
def multiplexed(answer: Any) -> Verdict:
    """Deep dive, exercise 2: one replica with several models, the last two stay loaded. Needs a running Ray."""
    from ray import serve

    if (problem := deployment_problem(answer, ("get_model", "__call__"))) is not None:
        return problem
    try:
        handle = serve.run(answer.bind(), name=APPLICATION, route_prefix="/many-models")
        replies = []
        for name in ASKED:
            replies.append(_ask(handle.options(multiplexed_model_id=name), f"hello {name}"))
            wrong = _wrong_reply(name, replies[-1])
            if wrong is not None:
                return wrong
        return _judge_loads([reply["load"] for reply in replies], replies[-1]["unloaded"])
    finally:
        serve.delete(APPLICATION)


def _ask(handle: Any, text: str) -> Any:
    return result(handle.remote(text))


def result(response: Any) -> Any:
    """What a call through a handle of Serve returns, also in a notebook. Source: written for this course."""
    # In a thread: a notebook runs an event loop, and Serve refuses to block one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: response.result(timeout_s=20)).result()


def deployment_problem(answer: Any, methods: tuple[str, ...]) -> Verdict | None:
    """What keeps an answer from being deployed; raises NotImplementedError for a stub, which needs no replica.

    Source: written for this course.
    """
    from ray import serve

    if not isinstance(answer, serve.Deployment):
        return not_right(f"a {type(answer).__name__}", "a deployment", "Keep @serve.deployment above the class.")
    if "NotImplementedError" in _names(answer.func_or_class, methods):
        raise NotImplementedError
    if float((answer.ray_actor_options or {}).get("num_cpus", 1)) > 1:
        return not_right("a replica of more than one CPU", "0.1", "Keep ray_actor_options: it would wait without end.")
    return without_ray()


def _names(cls: type, methods_of: tuple[str, ...]) -> set[str]:
    methods = (getattr(cls, name, None) for name in methods_of)
    codes = (getattr(getattr(m, "__wrapped__", m), "__code__", None) for m in methods)
    return {name for code in codes if code is not None for name in code.co_names}


def _wrong_reply(name: str, reply: Any) -> Verdict | None:
    if not isinstance(reply, dict) or set(reply) != {"model", "text", "load", "unloaded"}:
        hint = "Await the model that get_model returns, call it with the text, and return what comes out."
        return not_right(reply, "what model(text) returns", hint)
    if reply["model"] != name:
        hint = "serve.get_multiplexed_model_id() gives the name that this request asks for."
        return not_right(f"model {reply['model']!r}", repr(name), hint)
    if reply["text"] != f"hello {name}":
        return not_right(repr(reply["text"]), repr(f"hello {name}"), "Hand the text to the model as it is.")
    return None


def _judge_loads(loads: list[int], unloaded: list[str]) -> Verdict:
    """Loads seen by the requests; eve takes the place of ben, used longest ago, and then ben that of eve."""
    steps, expected = [load - loads[0] + 1 for load in loads], [1, 2, 1, 3, 1, 4]
    if steps == expected and unloaded == ["ben", "eve"]:
        return right("models stay in memory as long as they are among the two used last.")
    if steps == expected:
        hint = (
            "Put @serve.multiplexed(max_num_models_per_replica=2) above get_model: then Serve also knows who has what."
        )
        return not_right("a memory of your own for the models", "models that Serve keeps and unloads", hint)
    if len(set(steps)) == len(steps):
        hint = "Without @serve.multiplexed(max_num_models_per_replica=2) on get_model, or with 1, nothing is kept."
        return not_right("a load for each request", "models that stay loaded", hint)
    got = f"loads number {steps} for the models {list(ASKED)}"
    if steps == [1, 2, 1, 3, 4, 5]:
        hint = "The model that was loaded first goes, not the one used longest ago: leave that to @serve.multiplexed."
        return not_right(got, expected, hint)
    return not_right(got, expected, "Keep two: max_num_models_per_replica=2.")
