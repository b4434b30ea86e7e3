"""Checks of the exercises of the deep dive inside_an_llm_server. The second needs a running Ray."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from helpers.exercises.formulas import judge_formula
from helpers.exercises.verdict import Verdict, described, exercise_check, not_right, right, without_ray

APPLICATION = "front-door"
MOST = 2
BUSY = {"error": "busy"}
PATIENCE = 10.0  # seconds until an answer waits in vain; a right one never waits


def _slots(
    gpu_gb: float,
    parameters: int,
    layers: int,
    width: int,
    context: int,
    bytes_each: int = 2,
    free: float = 0.1,
    weights: int = 1,
    vectors: int = 2,
    gb: int = 10**9,
    up: Callable[[float], float] = math.floor,
    least: float = 0,
    weight_bytes: int | None = None,
) -> float:
    """Sequences beside the weights, or what one of the common mistakes gives."""
    room = gpu_gb * gb * (1 - free) - weights * parameters * (bytes_each if weight_bytes is None else weight_bytes)
    return max(least, up(room / (vectors * layers * width * context * bytes_each)))


@exercise_check
def slots(answer: Callable[..., int]) -> Verdict:
    """Exercise 1: sequences of full context that fit beside the weights."""
    gptj = {"parameters": 6_050_882_784, "layers": 28, "width": 4096}
    small = {"parameters": 6_831_104, "layers": 6, "width": 256}
    cases: list[dict[str, Any]] = [
        {"gpu_gb": 80, **gptj, "context": 2048},
        {"gpu_gb": 24, **gptj, "context": 2048},
        {"gpu_gb": 16, **gptj, "context": 512},
        {"gpu_gb": 12, **gptj, "context": 2048},
        {"gpu_gb": 14, **gptj, "context": 2048},  # the weights fit, and less than one sequence
        {"gpu_gb": 40, **gptj, "context": 2048, "bytes_each": 4},
        {"gpu_gb": 40, **gptj, "context": 300, "bytes_each": 1},
        {"gpu_gb": 1, **small, "context": 256, "bytes_each": 4},
    ]
    variants: dict[str, dict[str, Any]] = {
        "Not even the weights fit: that is 0 sequences, not fewer.": {"least": -math.inf},
        "A key and a value: two vectors for each token and layer.": {"vectors": 1},
        "A tenth of the card stays free.": {"free": 0},
        "A tenth of the whole card stays free, not nine tenths.": {"free": 0.9},
        "The weights take parameters * bytes_each from the same memory.": {"weights": 0},
        "Half a sequence is none: round down.": {"up": math.ceil},
        "Half a sequence is none: round down, not to the nearest.": {"up": round},
        "Sequences are a whole number: round down.": {"up": lambda number: number},
        "At least one sequence is no answer: where none fits, it is 0.": {"least": 1},
        "A GB is 10**9 bytes here, not 2**30.": {"gb": 2**30},
        "Each number takes bytes_each bytes, in the weights as in the cache.": {"weight_bytes": 1},
        "Each number takes bytes_each bytes, in the weights as well: not always 2.": {"weight_bytes": 2},
        "Each number takes bytes_each bytes, in the weights as well: not always 4.": {"weight_bytes": 4},
    }
    mistakes = {hint: _with(changed) for hint, changed in variants.items()}
    mistakes["A tenth of the whole card stays free, not of what the weights leave."] = _tenth_of_the_rest
    mistakes["The cache of a sequence takes bytes_each for each number, too."] = _cache_of_two_bytes
    hint = "Room: gpu_gb * 10**9 * 0.9 less the weights. A sequence: 2 * layers * width * context * bytes_each."
    wrong = judge_formula(answer, _slots, cases, mistakes, hint, whole=True)
    return wrong or right("a card holds the weights once, and a cache for each sequence: that is what limits a batch.")


def _with(changed: dict[str, Any]) -> Callable[..., float]:
    return lambda *arguments: _slots(*arguments, **changed)


def _tenth_of_the_rest(gpu_gb: float, parameters: int, layers: int, width: int, context: int, each: int = 2) -> int:
    room = 0.9 * (gpu_gb * 10**9 - parameters * each)
    return max(0, math.floor(room / (2 * layers * width * context * each)))


def _cache_of_two_bytes(gpu_gb: float, parameters: int, layers: int, width: int, context: int, each: int = 2) -> int:
    room = 0.9 * gpu_gb * 10**9 - parameters * each
    return max(0, math.floor(room / (2 * layers * width * context * 2)))


class _Model:
    """Stands for the server: says a first piece, and the second one only when the gate is open."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.gate = asyncio.Event()

    async def stream(self, prompt: str, **options: Any) -> AsyncIterator[dict[str, str]]:
        self.asked.append((prompt, options))
        yield {"text": f"{prompt}, "}
        if prompt.startswith("broken"):
            raise ValueError("the step failed")
        await asyncio.wait_for(self.gate.wait(), 4 * PATIENCE)
        yield {"text": "and the end"}

    async def set_gate(self, is_open: bool) -> None:
        (self.gate.set if is_open else self.gate.clear)()

    async def prompts(self) -> list[tuple[str, dict[str, Any]]]:
        return self.asked


@exercise_check
def front_door(answer: Any) -> Verdict:
    """Exercise 2: a deployment that refuses at once what is too much. Needs a running Ray."""
    from ray import serve

    if not isinstance(answer, serve.Deployment):
        return not_right(f"a {type(answer).__name__}", "a deployment", "Keep @serve.deployment above the class.")
    code = getattr(getattr(answer.func_or_class, "stream", None), "__code__", None)
    if code is None:
        return not_right("a deployment without stream", "a method stream", "Write the method stream.")
    if "NotImplementedError" in code.co_names:
        raise NotImplementedError
    if float((answer.ray_actor_options or {}).get("num_cpus", 1)) > 1:
        return not_right("a replica of more than one CPU", "0.1", "Keep ray_actor_options: it would wait without end.")
    if (missing := without_ray()) is not None:
        return missing
    quick = {"graceful_shutdown_wait_loop_s": 0.1, "graceful_shutdown_timeout_s": 1}
    light = serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=100, **quick)
    model = light(_Model).options(name="Model").bind()
    try:
        door = serve.run(answer.options(**quick).bind(model, MOST), name=APPLICATION, route_prefix=None)
        visit = _Visit(door, serve.get_deployment_handle("Model", APPLICATION))
        # In a thread: a notebook runs an event loop of its own.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, visit.judge()).result()
    finally:
        serve.delete(APPLICATION)


class _Client:
    """One request: its pieces so far, and how it ended (None: it has not)."""

    def __init__(self, door: Any, prompt: str, options: dict[str, Any]) -> None:
        self.prompt, self.pieces, self.end = prompt, [], None
        self.response = door.options(stream=True).stream.remote(prompt, **options)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for piece in self.response:
                self.pieces.append(piece)
            self.end = "complete"
        except Exception as error:
            self.end = error

    def refused(self) -> bool:
        return self.pieces == [BUSY] and self.end == "complete"

    def let_in(self) -> bool:
        return self.pieces[:1] == [{"text": f"{self.prompt}, "}]

    async def answered(self) -> bool:
        """Whether a piece or an end comes in time; of a refusal, piece and end."""
        return await _soon(lambda: self.end is not None or bool(self.pieces) and self.pieces != [BUSY])


async def _soon(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.01)
    return True


class _Visit:
    """Clients come to the door, one situation after the other."""

    def __init__(self, door: Any, model: Any) -> None:
        self.door, self.model = door, model

    def ask(self, prompt: str, **options: Any) -> _Client:
        return _Client(self.door, prompt, options)

    async def judge(self) -> Verdict:
        first, second = self.ask("first", seed=1), self.ask("second", max_new_tokens=5)
        judged = (
            await self.judge_two(first, second)
            or await self.judge_refusals()
            or await self.judge_complete(first, second)
            or await self.judge_crowd()
            or await self.judge_ended("cancelled")
            or await self.judge_ended("broken")
        )
        await self.model.set_gate.remote(True)
        return judged or right("a full house says so at once, and every request that ends makes room.")

    async def judge_two(self, first: _Client, second: _Client) -> Verdict | None:
        """Both are let in, and get the first piece while the second one is not there yet."""
        for client in (first, second):
            expected = {"text": f"{client.prompt}, "}
            if not await client.answered():
                if client is second:
                    hint = "While one request waits for its next piece, the next one comes: use `async for` and await."
                    return not_right("no piece for the second request", expected, hint)
                hint = "Yield each piece as soon as it comes, and don't collect them."
                return not_right("no piece before the answer was complete", expected, hint)
            if client.refused():
                hint = f"Here `most` is {MOST}, so {MOST} requests are let in: refuse the one after them."
                return not_right(f"a refusal, with {1 if client is second else 0} under way", expected, hint)
            if isinstance(client.end, Exception):
                hint = "Write `async for piece in self.stream_of_llm.remote(prompt, **options)`, and yield each piece."
                return not_right(described(client.end), expected, hint)
            if not client.let_in():
                hint = "Yield the pieces of the server as they are, one by one."
                return not_right(client.pieces, expected, hint)
        asked = [tuple(call) for call in await self.model.prompts.remote()]
        wanted = [("first", {"seed": 1}), ("second", {"max_new_tokens": 5})]
        if sorted(asked, key=str) != sorted(wanted, key=str):
            hint = "Hand on the prompt and the options, and ask the server once for each request."
            return not_right(asked, wanted, hint)
        return None

    async def judge_refusals(self) -> Verdict | None:
        """One more than there may be, and another one after it."""
        for number, prompt in enumerate(("third", "fourth")):
            client = self.ask(prompt)
            if not await client.answered():
                hint = "Refuse at once: nobody waits for room, neither in a loop nor in a queue of Serve."
                client.response.cancel()
                return not_right("a request that waits", BUSY, hint)
            if isinstance(client.end, Exception):
                hint = f"Refuse with a piece, not with an error: yield {BUSY}, then return."
                return not_right(described(client.end), BUSY, hint)
            if client.let_in() and number == 0:
                hint = f"Count who is under way, and refuse if that are `most`, here {MOST}, already."
                return not_right(f"request {MOST + 1} was let in", BUSY, hint)
            if client.let_in():
                hint = "Who was refused was never counted, so don't count it down either: return before the try."
                return not_right("the next request after a refusal was let in", BUSY, hint)
            if not client.refused():
                return not_right(client.pieces, [BUSY], f"A refusal is the single piece {BUSY}.")
        asked = [call[0] for call in await self.model.prompts.remote()]
        if len(asked) > MOST:
            hint = "Look whether there is room before you ask the server."
            return not_right(f"the server was asked {asked}", "the first two only", hint)
        return None

    async def judge_complete(self, first: _Client, second: _Client) -> Verdict | None:
        """The gate opens, both get the rest, and there is room for two again."""
        await self.model.set_gate.remote(True)
        for client in (first, second):
            wanted = [{"text": f"{client.prompt}, "}, {"text": "and the end"}]
            await _soon(lambda client=client: client.end is not None)
            if client.pieces != wanted or client.end != "complete":
                hint = "Yield all pieces of the server, in their order, and nothing else."
                return not_right(client.pieces, wanted, hint)
        for _ in range(MOST):
            client = self.ask("fifth")
            if not await client.answered() or client.refused():
                hint = "A request that is complete makes room for the next one, and one that was refused took none."
                return not_right("a refusal when nobody was under way", {"text": "fifth, "}, hint)
            await _soon(lambda client=client: client.end is not None)
        return None

    async def judge_crowd(self) -> Verdict | None:
        """Eight at the same moment: two of them are let in."""
        await self.model.set_gate.remote(False)
        crowd = [self.ask(f"crowd {number}") for number in range(8)]
        for client in crowd:
            await client.answered()
        count = sum(client.let_in() for client in crowd)
        await self.model.set_gate.remote(True)
        await _soon(lambda: all(client.end is not None for client in crowd))
        if count > MOST:
            hint = "Count the request before the first await or async for: meanwhile others come in."
            return not_right(f"{count} of 8 that came at once were let in", str(MOST), hint)
        if count < MOST or sum(client.refused() for client in crowd) != len(crowd) - MOST:
            hint = f"Of many that come at once, {MOST} are let in, and each of the others gets {BUSY}."
            return not_right([client.pieces for client in crowd], f"{MOST} answers", hint)
        return None

    async def judge_ended(self, how: str) -> Verdict | None:
        """Two requests end early; soon afterwards there is room for two again."""
        await self.model.set_gate.remote(False)
        for number in range(MOST):
            client = self.ask(f"{how} {number}")
            await client.answered()
            if how == "cancelled":
                client.response.cancel()
            await _soon(lambda client=client: client.end is not None)
            if how == "broken" and client.end == "complete":
                hint = "An error of the server must reach the client: use try and finally, without except."
                return not_right(f"{client.pieces} and no error", "the error of the server", hint)
        newcomers: list[_Client] = []
        until = time.monotonic() + PATIENCE
        while len(newcomers) < MOST:
            client = self.ask("newcomer")
            await client.answered()
            if client.let_in():
                newcomers.append(client)
            elif time.monotonic() > until:
                ended = "whose client had left" if how == "cancelled" else "that had ended with an error"
                hint = (
                    "Count down in a `finally`: it also runs when the client has left, or the server raised an error."
                )
                return not_right(f"a refusal because of a request {ended}", {"text": "newcomer, "}, hint)
            else:
                await asyncio.sleep(0.05)  # a cancellation needs a moment to arrive
        await self.model.set_gate.remote(True)
        await _soon(lambda: all(client.end is not None for client in newcomers))
        return None
