"""Answers to the exercises of notebook 06.

No `from __future__ import annotations` here: FastAPI could not find types that are local to a function.
"""

import asyncio
import contextlib
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from pydantic import BaseModel, Field
from ray import serve
from starlette.requests import Request

from helpers.exercises import serve as serving


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


async def ask_second_on_failure(self, text):
    try:
        return await self.first.answer.remote(text)
    except Exception:
        return await self.second.answer.remote(text)


def fallback(ask=ask_second_on_failure):
    """A deployment for exercise 2 with this method; local, so that replicas need not import this module."""

    class Fallback:
        def __init__(self, first, second):
            self.first, self.second = first, second

    Fallback.ask = ask
    return serve.deployment(ray_actor_options={"num_cpus": 0.1})(Fallback)


async def asks_both(self, text):
    one, other = self.first.answer.remote(text), self.second.answer.remote(text)
    answers = await asyncio.gather(one, other, return_exceptions=True)
    return answers[1] if isinstance(answers[0], Exception) else answers[0]


async def asks_the_first_only(self, text):
    return await self.first.answer.remote(text)


async def forgets_to_await(self, text):
    try:
        return self.first.answer.remote(text)
    except Exception:
        return self.second.answer.remote(text)


async def asks_the_second_first(self, text):
    try:
        return await self.second.answer.remote(text)
    except Exception:
        return await self.first.answer.remote(text)


async def returns_nothing(self, text):
    try:
        return await self.first.answer.remote(text)
    except Exception:
        await self.second.answer.remote(text)


async def catches_one_kind(self, text):
    try:
        return await self.first.answer.remote(text)
    except ValueError:
        return await self.second.answer.remote(text)


async def takes_empty_for_a_failure(self, text):
    try:
        answer = await self.first.answer.remote(text)
    except Exception:
        answer = ""
    return answer if answer.removeprefix("first: ") else await self.second.answer.remote(text)


async def one_after_the_other(self, text):
    for model in (self.first, self.second):
        with contextlib.suppress(Exception):
            return await model.answer.remote(text)


async def with_an_answer_kept(self, text):
    answer = None
    try:
        answer = await self.first.answer.remote(text)
    except BaseException:
        answer = await self.second.answer.remote(text)
    finally:
        self.last = answer
    return self.last


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
    (2, serving.fallback): [
        (lambda: fallback(asks_both), "only after the first one has failed"),
        (lambda: fallback(asks_the_first_only), "into a try"),
        (lambda: fallback(forgets_to_await), "into a try"),
        (lambda: fallback(asks_the_second_first), "Return what the first one answers"),
        (lambda: fallback(returns_nothing), "if it raises"),
        (lambda: fallback(catches_one_kind), "any exception"),
        (lambda: fallback(takes_empty_for_a_failure), "Return what the first one answers"),
        (lambda: fallback().func_or_class, "Keep @serve.deployment"),
        (lambda: fallback().options(ray_actor_options={"num_cpus": 2}), "Keep ray_actor_options"),
    ],
}
RIGHT = {
    (1, serving.temperature): [
        lambda: temperature(),
        lambda: temperature_that_refuses_by_itself(),
        lambda: temperature_with_an_answer_model(),
    ],
    (2, serving.fallback): [
        lambda: fallback(),
        lambda: fallback(one_after_the_other),
        lambda: fallback(with_an_answer_kept),
    ],
}
