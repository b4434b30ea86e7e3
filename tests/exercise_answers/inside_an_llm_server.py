"""Answers to the exercises of the deep dive inside_an_llm_server."""

from __future__ import annotations

import asyncio
import math

import numpy as np
from ray import serve

from helpers.exercises import inside_an_llm_server as inside


def slots_with(vectors=2, free=0.1, weights=True, least=0, rounded=int, of_weights=None):
    """An answer to exercise 1, perhaps with something left out."""

    def slots(gpu_gb, parameters, layers, width, context, bytes_each=2):
        room = gpu_gb * 10**9 * (1 - free) - weights * parameters * (of_weights or bytes_each)
        number = rounded(room / (vectors * layers * width * context * bytes_each))
        return number if least is None else max(least, number)

    return slots


def deployed(stream, **options):
    """A deployment with this `stream`; made of local functions, so that replicas need not import this module."""

    class FrontDoor:
        def __init__(self, llm, most):
            self.stream_of_llm = llm.options(stream=True).stream
            self.most = most
            self.under_way = 0

    FrontDoor.stream = stream
    options = {"ray_actor_options": {"num_cpus": 0.1}, "max_ongoing_requests": 100, **options}
    return serve.deployment(**options)(FrontDoor)


def without_finally():
    async def stream(self, prompt, **options):
        if self.under_way >= self.most:
            yield {"error": "busy"}
            return
        self.under_way += 1
        async for piece in self.stream_of_llm.remote(prompt, **options):
            yield piece
        self.under_way -= 1

    return deployed(stream)


def counts_down_the_refused():
    async def stream(self, prompt, **options):
        self.under_way += 1
        try:
            if self.under_way > self.most:
                yield {"error": "busy"}
                self.under_way -= 1
                return
            async for piece in self.stream_of_llm.remote(prompt, **options):
                yield piece
        finally:
            self.under_way -= 1

    return deployed(stream)


def collects():
    async def stream(self, prompt, **options):
        if self.under_way >= self.most:
            yield {"error": "busy"}
            return
        self.under_way += 1
        try:
            for piece in [piece async for piece in self.stream_of_llm.remote(prompt, **options)]:
                yield piece
        finally:
            self.under_way -= 1

    return deployed(stream)


def hands_everything_on():
    async def stream(self, prompt, **options):
        async for piece in self.stream_of_llm.remote(prompt, **options):
            yield piece

    return deployed(stream, max_queued_requests=2)


def leaves_it_to_the_queue_of_serve():
    async def stream(self, prompt, **options):
        async for piece in self.stream_of_llm.remote(prompt, **options):
            yield piece

    return deployed(stream, max_ongoing_requests=2)


def refuses_too_early():
    async def stream(self, prompt, **options):
        self.under_way += 1
        try:
            if self.under_way >= self.most:
                yield {"error": "busy"}
                return
            async for piece in self.stream_of_llm.remote(prompt, **options):
                yield piece
        finally:
            self.under_way -= 1

    return deployed(stream)


def raises_an_error():
    async def stream(self, prompt, **options):
        if self.under_way >= self.most:
            raise RuntimeError("busy")
        self.under_way += 1
        try:
            async for piece in self.stream_of_llm.remote(prompt, **options):
                yield piece
        finally:
            self.under_way -= 1

    return deployed(stream)


def waits_for_room():
    async def stream(self, prompt, **options):
        while self.under_way >= self.most:
            await asyncio.sleep(0.05)
        self.under_way += 1
        try:
            async for piece in self.stream_of_llm.remote(prompt, **options):
                yield piece
        finally:
            self.under_way -= 1

    return deployed(stream)


def counts_after_the_first_piece():
    async def stream(self, prompt, **options):
        if self.under_way >= self.most:
            yield {"error": "busy"}
            return
        counted = False
        try:
            async for piece in self.stream_of_llm.remote(prompt, **options):
                self.under_way += not counted
                counted = True
                yield piece
        finally:
            self.under_way -= counted

    return deployed(stream)


def asks_before_it_looks():
    async def stream(self, prompt, **options):
        response = self.stream_of_llm.remote(prompt, **options)
        first = await anext(response)
        if self.under_way >= self.most:
            response.cancel()
            yield {"error": "busy"}
            return
        self.under_way += 1
        try:
            yield first
            async for piece in response:
                yield piece
        finally:
            self.under_way -= 1

    return deployed(stream)


def never_counts_down():
    async def stream(self, prompt, **options):
        if self.under_way >= self.most:
            yield {"error": "busy"}
            return
        self.under_way += 1
        async for piece in self.stream_of_llm.remote(prompt, **options):
            yield piece

    return deployed(stream)


def swallows_errors():
    async def stream(self, prompt, **options):
        if self.under_way >= self.most:
            yield {"error": "busy"}
            return
        self.under_way += 1
        try:
            async for piece in self.stream_of_llm.remote(prompt, **options):
                yield piece
        except Exception:
            yield {"error": "failed"}
        finally:
            self.under_way -= 1

    return deployed(stream)


def forgets_the_options():
    async def stream(self, prompt, **options):
        if self.under_way >= self.most:
            yield {"error": "busy"}
            return
        self.under_way += 1
        try:
            async for piece in self.stream_of_llm.remote(prompt):
                yield piece
        finally:
            self.under_way -= 1

    return deployed(stream)


def yields_text():
    async def stream(self, prompt, **options):
        if self.under_way >= self.most:
            yield {"error": "busy"}
            return
        self.under_way += 1
        try:
            async for piece in self.stream_of_llm.remote(prompt, **options):
                yield piece["text"]
        finally:
            self.under_way -= 1

    return deployed(stream)


def awaits_the_stream():
    async def stream(self, prompt, **options):
        yield await self.stream_of_llm.remote(prompt, **options)

    return deployed(stream)


def with_finally():
    async def stream(self, prompt, **options):
        if self.under_way >= self.most:
            yield {"error": "busy"}
            return
        self.under_way += 1
        try:
            async for piece in self.stream_of_llm.remote(prompt, **options):
                yield piece
        finally:
            self.under_way -= 1

    return deployed(stream)


def with_a_semaphore():
    class Door:
        def __init__(self, llm, most):
            self.llm, self.room = llm, asyncio.Semaphore(most)

        async def stream(self, prompt, **options):
            if self.room.locked():
                yield dict(error="busy")
                return
            async with self.room:
                async for piece in self.llm.stream.options(stream=True).remote(prompt, **options):
                    yield piece

    return serve.deployment(ray_actor_options={"num_cpus": 0}, max_ongoing_requests=50)(Door)


def with_a_set_of_guests():
    async def stream(self, prompt, **options):
        guest = object()
        if not hasattr(self, "guests"):
            self.guests = set()
        full = len(self.guests) >= self.most
        try:
            if full:
                yield {"error": "busy"}
            else:
                self.guests.add(guest)
                async for piece in self.stream_of_llm.remote(prompt, **options):
                    yield piece
        finally:
            self.guests.discard(guest)

    return deployed(stream, max_ongoing_requests=1000)


def with_free_places():
    class Door:
        def __init__(self, server, places):
            self.server, self.free = server.options(stream=True), places

        async def stream(self, text, **how):
            if self.free:
                self.free -= 1
                try:
                    response = self.server.stream.remote(text, **how)
                    while True:
                        try:
                            piece = await anext(response)
                        except StopAsyncIteration:
                            break
                        yield piece
                finally:
                    self.free += 1
            else:
                yield {"error": "busy"}

    return serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=100)(Door)


WRONG = {
    (1, inside.slots): [
        (slots_with(vectors=1), "two vectors"),
        (slots_with(free=0), "A tenth of the card"),
        (slots_with(free=0.9), "not nine tenths"),
        (slots_with(weights=False), "The weights take"),
        (slots_with(least=None, rounded=math.floor), "not fewer"),
        (slots_with(rounded=math.ceil), "round down"),
        (slots_with(rounded=round), "not to the nearest"),
        (slots_with(least=1), "At least one sequence"),
        (slots_with(rounded=lambda number: float(int(number))), "makes it whole"),
        (slots_with(rounded=lambda number: number), "Sequences are a whole number"),
        (slots_with(of_weights=4), "not always 4"),
        (slots_with(of_weights=2), "not always 2"),
        (lambda g, p, n, w, c, b=2: int(max(0, 0.9 * (g * 1e9 - p * b)) // (2 * n * w * c * b)), "of the whole card"),
        (lambda g, p, n, w, c, b=2: int(max(0, 0.9 * g * 2**30 - p * b) // (2 * n * w * c * b)), "2**30"),
        (lambda g, p, n, w, c, b=2: int(max(0, 0.9 * g * 1e9 - p * b) // (2 * n * w * c * 2)), "bytes_each for each"),
    ],
    (2, inside.front_door): [
        (without_finally, "in a `finally`"),
        (counts_down_the_refused, "was never counted"),
        (collects, "as soon as it comes"),
        (hands_everything_on, "Count who is under way"),
        (leaves_it_to_the_queue_of_serve, "Refuse at once"),
        (waits_for_room, "Refuse at once"),
        (refuses_too_early, "requests are let in"),
        (raises_an_error, "not with an error"),
        (counts_after_the_first_piece, "before the first await"),
        (asks_before_it_looks, "before you ask the server"),
        (never_counts_down, "makes room for the next one"),
        (swallows_errors, "must reach the client"),
        (forgets_the_options, "the prompt and the options"),
        (yields_text, "as they are"),
        (awaits_the_stream, "async for piece"),
        (lambda: with_finally().func_or_class, "Keep @serve.deployment"),
        (lambda: with_finally().options(ray_actor_options={"num_cpus": 2}), "Keep ray_actor_options"),
    ],
}
RIGHT = {
    (1, inside.slots): [
        slots_with(),
        lambda g, p, n, w, c, bytes_each=2: max(0, (g * 9 * 10**8 - p * bytes_each) // (2 * n * w * c * bytes_each)),
        lambda g, p, n, w, c, b=2: np.int64(max(0, np.floor((g * 0.9e9 - p * b) / b / (2 * n * w * c)))),
    ],
    (2, inside.front_door): [
        with_a_semaphore,
        with_a_set_of_guests,
        with_free_places,
        with_finally,
    ],
}
