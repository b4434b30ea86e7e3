"""Answers to the exercises of the deep dive operating_a_service."""

from __future__ import annotations

import math

import numpy as np
from ray import serve

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


def customers(keep=2, decorated=True, asked=True, called=True):
    """A deployment for exercise 2; local, so that replicas need not import this module."""
    light = serve.deployment(ray_actor_options={"num_cpus": 0.1})
    decorate = serve.multiplexed(max_num_models_per_replica=keep) if decorated else lambda function: function

    class Customers:
        @decorate
        async def get_model(self, name):
            return serving.load_model(name)

        async def __call__(self, text):
            model = await self.get_model(serve.get_multiplexed_model_id() if asked else "ada")
            return model(text) if called else "done"

    return light(Customers)


def customers_with_their_own_memory(remembered=2):
    class Customers:
        def __init__(self):
            self.models = {}

        async def get_model(self, name):
            if name not in self.models and len(self.models) == remembered:
                self.models.pop(next(iter(self.models)))
            self.models[name] = self.models.pop(name, None) or serving.load_model(name)
            return self.models[name]

        async def __call__(self, text):
            return (await self.get_model(serve.get_multiplexed_model_id()))(text)

    return serve.deployment(ray_actor_options={"num_cpus": 0.1})(Customers)


def customers_of_another_style(batched=False):
    class Customers:
        @serve.multiplexed(max_num_models_per_replica=2)
        async def load(self, name: str):
            return serving.load_model(name)

        async def __call__(self, text: str) -> dict:
            name = serve.get_multiplexed_model_id()
            return (await self.load(name))(text)

    options = {"num_replicas": 1, "max_ongoing_requests": 2} if batched else {}
    return serve.deployment(ray_actor_options={"num_cpus": 0}, **options)(Customers)


def customers_with_a_function():
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(name):
        return serving.load_model(name)

    class Customers:
        async def __call__(self, text):
            return (await get_model(serve.get_multiplexed_model_id()))(text)

    return serve.deployment(ray_actor_options={"num_cpus": 0.1})(Customers)


WRONG = {
    (1, serving.replicas_needed): [
        (lambda per_second, each, at_once: max(1, math.ceil(per_second * each)), "works on at_once"),
        (lambda per_second, each, at_once: max(1, int(per_second * each / at_once)), "Round up"),
        (lambda per_second, each, at_once: max(1, round(per_second * each / at_once)), "not to the nearest"),
        (lambda per_second, each, at_once: math.ceil(per_second * each / at_once), "at least one"),
        (lambda per_second, each, at_once: max(1, per_second * each / at_once), "whole number"),
        (lambda per_second, each, at_once: per_second * each / at_once, "whole number"),
        (lambda per_second, each, at_once: max(1.0, np.ceil(per_second * each / at_once)), "a float"),
        (lambda per_second, each, at_once: math.ceil(per_second / at_once), "under way at a time"),
        (lambda per_second, each, at_once: max(1, math.ceil(per_second / at_once)), "seconds_each counts"),
        (lambda per_second, each, at_once: int(per_second * each / at_once) + 1, "always busy"),
        (lambda per_second, each, at_once: max(1, math.ceil(per_second / each / at_once)), "do not divide"),
        (lambda per_second, each, at_once: max(1, math.ceil(per_second * each * at_once)), "divide by it"),
    ],
    (2, serving.multiplexed): [
        (lambda: customers(decorated=False), "nothing is kept"),
        (lambda: customers(keep=1), "nothing is kept"),
        (lambda: customers(keep=3), "max_num_models_per_replica=2"),
        (lambda: customers(asked=False), "get_multiplexed_model_id"),
        (lambda: customers(called=False), "return what comes out"),
        (lambda: customers_with_their_own_memory(), "above get_model"),
        (lambda: customers().func_or_class, "Keep @serve.deployment"),
        (lambda: customers().options(ray_actor_options={"num_cpus": 2}), "Keep ray_actor_options"),
    ],
    (3, serving.answer_batch): [
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
    (1, serving.replicas_needed): [
        lambda n, each, at_once: int(max(1, -(-n * each // at_once))),
        lambda n, each, at_once: np.int64(np.ceil(max(n * each, 1e-9) / at_once)),
        lambda n, each, at_once: next(k for k in range(1, 1000) if k * at_once >= n * each),
    ],
    (2, serving.multiplexed): [
        lambda: customers(),
        lambda: customers_of_another_style(),
        lambda: customers_of_another_style(batched=True),
        lambda: customers_with_a_function(),
    ],
    (3, serving.answer_batch): [
        answer_batch,
        answers_in_a_tuple,
        answers_by_taking_items_away,
        answers_by_place,
    ],
}
