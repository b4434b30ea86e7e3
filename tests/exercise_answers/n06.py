"""Answers to the exercises of notebook 06.

No `from __future__ import annotations` here: FastAPI could not find types that are local to a function.
"""

from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from pydantic import BaseModel, Field
from ray import serve
from starlette.requests import Request

from helpers.exercises import serve as serving


def one_call_for_each(items, predict):
    return [predict([item])[0] if isinstance(item, list) else {"error": "not a list"} for item in items]


def leaves_bad_items_out(items, predict):
    good = [item for item in items if isinstance(item, list)]
    return predict(good) if good else []


def puts_errors_last(items, predict):
    good = [item for item in items if isinstance(item, list)]
    return (predict(good) if good else []) + [{"error": "not a list"}] * (len(items) - len(good))


def finds_places_by_value(items, predict):
    good = [item for item in items if isinstance(item, list)]
    answers = predict(good) if good else []
    for item in items:
        if not isinstance(item, list):
            answers.insert(items.index(item), {"error": "not a list"})
    return answers


def anything_long_is_good(items, predict):
    good = [item for item in items if hasattr(item, "__len__") and not isinstance(item, str)]
    predictions = iter(predict(good) if good else [])
    return [next(predictions) if item in good else {"error": "not a list"} for item in items]


def predicts_all(items, predict):
    return predict(items)


def predicts_nothing_at_all(items, predict):
    predictions = iter(predict([item for item in items if isinstance(item, list)]))
    return [next(predictions) if isinstance(item, list) else {"error": "not a list"} for item in items]


def bad_items_become_empty_lists(items, predict):
    if not any(isinstance(item, list) for item in items):
        return [{"error": "not a list"} for _ in items]
    answers = predict([item if isinstance(item, list) else [] for item in items])
    return [a if isinstance(item, list) else {"error": "not a list"} for item, a in zip(items, answers, strict=True)]


def empty_items_are_bad(items, predict):
    good = [item for item in items if isinstance(item, list) and item]
    predictions = iter(predict(good) if good else [])
    return [next(predictions) if isinstance(i, list) and i else {"error": "not a list"} for i in items]


def false_predictions_are_errors(items, predict):
    good = [item for item in items if isinstance(item, list)]
    predictions = iter(predict(good) if good else [])
    return [(next(predictions) or {"error": "not a list"}) if i in good else {"error": "not a list"} for i in items]


def predicts_each_item_once(items, predict):
    good = []
    for item in items:
        if isinstance(item, list) and item not in good:
            good.append(item)
    answers = predict(good) if good else []
    return [answers[good.index(i)] if isinstance(i, list) else {"error": "not a list"} for i in items]


def says_something_else(items, predict):
    return [{"error": "no list"} if a == {"error": "not a list"} else a for a in answer_batch(items, predict)]


def answer_batch(items, predict):
    good = [item for item in items if isinstance(item, list)]
    predictions = iter(predict(good) if good else [])
    return [next(predictions) if isinstance(item, list) else {"error": "not a list"} for item in items]


def answers_in_a_tuple(items, predict):
    answers = [{"error": "not a list"}] * len(items)
    places = [i for i, item in enumerate(items) if isinstance(item, list)]
    if places:
        for place, answer in zip(places, predict([items[i] for i in places]), strict=True):
            answers[place] = answer
    return tuple(answers)


def answers_by_taking_items_away(items, predict):
    good = []
    answers = []
    while items:
        item = items.pop(0)
        answers.append({"error": "not a list"} if type(item) is not list else len(good))
        if type(item) is list:
            good.append(item)
    predictions = predict(good) if good else []
    return [predictions[a] if isinstance(a, int) else a for a in answers]


def answers_by_place(items, predict):
    good = {i: item for i, item in enumerate(items) if isinstance(item, list)}
    answers = dict(zip(good, predict(list(good.values())), strict=True)) if good else {}
    return [answers[i] if i in answers else dict(error="not a list") for i in range(len(items))]


def convert(fahrenheit):
    return {"celsius": (fahrenheit - 32) * 5 / 9}


def raises_when_too_cold(fahrenheit):
    if fahrenheit < -459.67:
        raise ValueError("too cold")
    return convert(fahrenheit)


def forgets_brackets(fahrenheit):
    return {"celsius": fahrenheit - 32 * 5 / 9}


def bare_number(fahrenheit):
    return (fahrenheit - 32) * 5 / 9


def temperature(smallest=-459.67, method=convert, route="/celsius"):
    """The usual answer, with one thing changed."""
    http = FastAPI()
    if method is raises_when_too_cold:
        smallest = None

    class Question(BaseModel):
        fahrenheit: float = Field(ge=smallest)

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    @serve.ingress(http)
    class Temperature:
        @http.post(route)
        async def celsius(self, question: Question):
            return method(question.fahrenheit)

    return Temperature


def temperature_without_types():
    http = FastAPI()

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    @serve.ingress(http)
    class Temperature:
        @http.post("/celsius")
        async def celsius(self, request: Request):
            return convert((await request.json())["fahrenheit"])

    return Temperature


def temperature_as_a_parameter():
    http = FastAPI()

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    @serve.ingress(http)
    class Temperature:
        @http.post("/celsius")
        async def celsius(self, fahrenheit: float):
            return convert(fahrenheit)

    return Temperature


def temperature_that_refuses_by_itself():
    http = FastAPI()

    class Question(BaseModel):
        fahrenheit: float

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    @serve.ingress(http)
    class Temperature:
        @http.post("/celsius")
        def celsius(self, question: Question):
            if question.fahrenheit < -459.67:
                raise HTTPException(422, "colder than absolute zero")
            return convert(question.fahrenheit)

    return Temperature


def temperature_with_an_answer_model():
    http = FastAPI()

    class Reply(BaseModel):
        celsius: float

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    @serve.ingress(http)
    class Temperature:
        @http.post("/celsius")
        async def celsius(self, fahrenheit: Annotated[float, Body(embed=True, ge=-459.67)]) -> Reply:
            return Reply(**convert(fahrenheit))

    return Temperature


WRONG = {
    (1, serving.temperature): [
        (lambda: temperature(smallest=None), "Field(ge=-459.67)"),
        (lambda: temperature(method=raises_when_too_cold), "a 500"),
        (lambda: temperature_without_types(), "Give the field a type"),
        (lambda: temperature(method=forgets_brackets), "The formula is"),
        (lambda: temperature(method=bare_number), "the one field celsius"),
        (lambda: temperature(smallest=-459), "itself is allowed"),
        (lambda: temperature(smallest=0), "Only what is colder"),
        (lambda: temperature(route="/"), "The route is"),
        (lambda: temperature_as_a_parameter(), "The body is one object"),
        (lambda: temperature().func_or_class, "Keep @serve.deployment"),
        (lambda: temperature().options(ray_actor_options={"num_cpus": 2}), "Keep ray_actor_options"),
    ],
    (2, serving.answer_batch): [
        (one_call_for_each, "what a batch saves"),
        (leaves_bad_items_out, "One answer for each item"),
        (puts_errors_last, "keep the order"),
        (finds_places_by_value, "keep the order"),
        (anything_long_is_good, "must not get to the model"),
        (predicts_all, "must not get to the model"),
        (predicts_nothing_at_all, "nothing to predict"),
        (bad_items_become_empty_lists, "Nothing takes the place"),
        (empty_items_are_bad, "also an empty one"),
        (false_predictions_are_errors, "can be 0 or None"),
        (predicts_each_item_once, "one that comes twice"),
        (says_something_else, "exactly"),
        (lambda items, predict: [], "answered by predict"),
        (lambda items, predict: answer_batch(items, predict) and None, "Return a list"),
    ],
}
RIGHT = {
    (1, serving.temperature): [
        lambda: temperature(),
        lambda: temperature_that_refuses_by_itself(),
        lambda: temperature_with_an_answer_model(),
    ],
    (2, serving.answer_batch): [
        answer_batch,
        answers_in_a_tuple,
        answers_by_taking_items_away,
        answers_by_place,
    ],
}
