"""Answers to the exercises of the deep dive operating_a_service."""

from __future__ import annotations

import math

import numpy as np
from ray import serve

from helpers.exercises import serve as serving


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
}
