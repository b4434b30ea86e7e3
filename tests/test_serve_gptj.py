"""The service of notebook 08, from the notebook's own cells: its pieces without Ray, then over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest
import ray
import requests
import schemathesis
import torch
from fastapi import HTTPException
from hypothesis import HealthCheck, given, settings
from ray import serve
from ray.exceptions import RayActorError
from schemathesis import GenerationMode
from transformers import AsyncTextIteratorStreamer

from helpers import data, language_models
from helpers.completions import CompletionRequest
from helpers.lessons import run_cells

PROMPTS = ["ROMEO.", "JULIET.\nO Romeo,", "To be, or not to be", "It is a truth universally"]
GOOD = {"model": "tuned", "prompt": "ROMEO.", "max_tokens": 5}


@pytest.fixture(scope="module")
def lesson() -> SimpleNamespace:
    """What the cells of the service define."""
    names = SimpleNamespace(asyncio=asyncio, ray=ray, serve=serve, AsyncTextIteratorStreamer=AsyncTextIteratorStreamer)
    run_cells("08_serve_gptj", "service", vars(names))
    return names


@pytest.fixture(scope="module")
def writer(lesson: SimpleNamespace) -> Any:
    """The class behind the deployment, as a replica would have it."""
    return lesson.Writer.func_or_class(str(data.fine_tuned_gptj()), 256)


@pytest.fixture(scope="module")
def greedy() -> dict[str, tuple[str, int]]:
    """What Transformers itself writes after each prompt: the text, and the number of tokens."""
    model, tokenizer = language_models.load_model(str(data.fine_tuned_gptj()))
    written = {}
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        new = model.generate(**inputs, max_new_tokens=20, do_sample=False)[0][inputs["input_ids"].shape[1] :]
        written[prompt] = (tokenizer.decode(new, skip_special_tokens=True), len(new))
    return written


def pieces_of(stream: Any) -> list[dict]:
    async def read() -> list[dict]:
        return [piece async for piece in stream]

    return asyncio.run(asyncio.wait_for(read(), 60))


# Without Ray ----------------------------------------------------------------------------------------------------------


def test_pieces_are_the_text_of_transformers(writer: Any, greedy: dict[str, tuple[str, int]]) -> None:
    for prompt, (text, count) in greedy.items():
        *pieces, last = pieces_of(writer.stream(prompt, 20))
        assert "".join(piece["text"] for piece in pieces) == text and len(pieces) >= 2
        assert last["completion_tokens"] == count and last["prompt_tokens"] == len(writer.tokenizer(prompt).input_ids)
        assert (last["text"], last["finish_reason"]) == ("", "length" if count == 20 else "stop")


def test_an_answer_that_ends_by_itself_says_so(writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = writer.tokenizer(pieces_of(writer.stream("ROMEO.", 1))[0]["text"]).input_ids[0]
    monkeypatch.setattr(writer.model.generation_config, "eos_token_id", first)
    last = pieces_of(writer.stream("ROMEO.", 20))[-1]
    assert (last["finish_reason"], last["completion_tokens"]) == ("stop", 1)


def test_a_temperature_draws_and_zero_does_not(writer: Any) -> None:
    cold = {json.dumps(pieces_of(writer.stream("ROMEO.", 12, 0.0))) for _ in range(2)}
    warm = {"".join(piece["text"] for piece in pieces_of(writer.stream("ROMEO.", 12, 1.5))) for _ in range(4)}
    assert len(cold) == 1 and len(warm) > 1


def test_prompts_without_room_for_the_answer_are_refused(writer: Any) -> None:
    used = len(writer.tokenizer("ROMEO.").input_ids)
    assert pieces_of(writer.stream("ROMEO.", 256 - used))[-1]["completion_tokens"] > 0
    with pytest.raises(HTTPException, match="exceed 256 tokens") as refused:
        pieces_of(writer.stream("ROMEO.", 257 - used))
    assert refused.value.status_code == 400


def test_a_stream_that_is_left_stops_the_model(
    lesson: SimpleNamespace, writer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches = []

    class Seen(language_models.OffSwitch):
        def __init__(self) -> None:
            super().__init__()
            switches.append(self)

    monkeypatch.setattr(lesson, "OffSwitch", Seen)

    async def leave() -> None:
        stream = writer.stream("ROMEO.", 240)
        await anext(stream)
        await stream.aclose()

    before = threading.active_count()
    asyncio.run(leave())  # returns when the thread of the model has ended
    (switch,) = switches
    assert switch.off and switch.tokens < 120 and threading.active_count() <= before + 1


def test_a_model_that_fails_ends_the_stream(writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**settings: Any) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(writer.model, "generate", broken)
    with pytest.raises(ValueError, match="broken"):
        pieces_of(writer.stream("ROMEO.", 5))


class Replicas:
    """A handle whose replicas are lost: so many before the first piece, and perhaps one after it."""

    def __init__(self, lost_before: int, lost_after: bool = False) -> None:
        self.lost_before, self.lost_after, self.asked = lost_before, lost_after, 0
        self.stream = SimpleNamespace(remote=self.remote)

    async def remote(self, *request: Any) -> Any:
        self.asked += 1
        if self.asked <= self.lost_before:
            raise RayActorError()
        yield {"text": "But "}
        if self.lost_after:
            raise RayActorError()
        yield {"text": "soft"}


def events_of(lesson: SimpleNamespace, replicas: Replicas) -> list[Any]:
    request = CompletionRequest(model="tuned", prompt="ROMEO.", stream=True)

    async def read() -> list[str]:
        first, rest = await lesson.begin(replicas, request)
        return [event async for event in lesson.events(request, first, rest)]

    lines = [line.removeprefix("data: ").strip() for line in asyncio.run(read())]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_another_replica_is_asked_only_before_the_first_piece(lesson: SimpleNamespace) -> None:
    replicas = Replicas(lost_before=1)
    first, second, end = events_of(lesson, replicas)
    assert [piece["choices"][0]["text"] for piece in (first, second)] == ["But ", "soft"] and end == "[DONE]"
    assert replicas.asked == 2 and first["id"] == second["id"] and first["created"] == second["created"]
    with pytest.raises(HTTPException) as refused:
        events_of(lesson, Replicas(lost_before=2))
    assert refused.value.status_code == 503
    replicas = Replicas(lost_before=0, lost_after=True)
    first, late = events_of(lesson, replicas)
    assert "the replica was lost" in late["error"]["message"] and replicas.asked == 1


def test_a_whole_answer_is_asked_for_again_as_long_as_nothing_was_sent(lesson: SimpleNamespace) -> None:
    request = CompletionRequest(model="tuned", prompt="ROMEO.", stream=False)

    class LostOnce(Replicas):
        async def remote(self, *asked: Any) -> Any:
            self.lost_after = self.asked == 0
            async for piece in super().remote(*asked):
                yield piece

    replicas = LostOnce(lost_before=0)
    first, _ = asyncio.run(lesson.begin(replicas, request))
    assert first["text"] == "But soft" and replicas.asked == 2


def test_a_split_draws_by_its_shares(lesson: SimpleNamespace) -> None:
    split = lesson.Split.func_or_class.__new__(lesson.Split.func_or_class)
    split.models = {"tuned": Replicas(0), "base": Replicas(0)}
    split.reconfigure({"tuned": 0.75, "base": 0.25})
    names = Counter(pieces_of(split.stream("ROMEO.", 5, 0.0))[0]["model"] for _ in range(400))
    assert 60 <= names["base"] <= 140 and sum(names.values()) == 400
    split.reconfigure({"tuned": 1.0, "base": 0.0})
    assert {pieces_of(split.stream("ROMEO.", 5, 0.0))[0]["model"] for _ in range(20)} == {"tuned"}


# Over HTTP ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(serve_port: int, lesson: SimpleNamespace) -> Iterator[str]:
    light = lesson.Writer.options(name="tuned", ray_actor_options={"num_cpus": 0.4})
    app = lesson.Completions.bind(tuned=light.bind(str(data.fine_tuned_gptj()), 256))
    serve.run(app, name="gptj-test", route_prefix="/gptj-test")
    yield f"http://127.0.0.1:{serve_port}/gptj-test"
    serve.delete("gptj-test")


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_the_openai_package_gets_what_transformers_writes(
    client: openai.OpenAI, greedy: dict[str, tuple[str, int]]
) -> None:
    assert [model.id for model in client.models.list()] == ["tuned"]
    for prompt, (text, count) in greedy.items():
        how = {"model": "tuned", "prompt": prompt, "max_tokens": 20, "temperature": 0}
        whole = client.completions.create(**how)
        assert (whole.choices[0].text, whole.usage.completion_tokens) == (text, count)
        pieces = list(client.completions.create(stream=True, **how))
        assert "".join(piece.choices[0].text for piece in pieces) == text
        assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason
        assert [piece.usage is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_streams_are_server_sent_events_that_nobody_collects(url: str) -> None:
    with requests.post(f"{url}/v1/completions", json={**GOOD, "stream": True}, stream=True, timeout=60) as reply:
        assert reply.headers["Content-Type"].startswith("text/event-stream") and "Content-Length" not in reply.headers
        assert (reply.headers["X-Accel-Buffering"], reply.headers["Cache-Control"]) == ("no", "no-cache")
        lines = [line for line in reply.iter_lines(decode_unicode=True) if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"


BAD: dict[str, tuple[int, dict]] = {
    "not JSON": (400, {"data": "ROMEO."}),
    "JSON cut off": (400, {"data": '{"prompt": "RO'}),
    # Python 3.11 reads about 1,000 levels, 3.13 about 10,000: what is deeper than that all of them refuse alike.
    "nested too deep": (400, {"data": "[" * 50_000}),
    "not UTF-8": (400, {"data": b"\xff\xfe\x00"}),
    "empty": (400, {"data": ""}),
    "null": (400, {"data": "null"}),
    "list": (400, {"json": [GOOD]}),
    "no prompt": (400, {"json": {"model": "tuned"}}),
    "no model": (400, {"json": {"prompt": "ROMEO."}}),
    "unknown model": (404, {"json": {**GOOD, "model": "gpt-5"}}),
    "half a surrogate": (400, {"data": '{"model": "tuned", "prompt": "\\ud800"}'}),
    "long prompt": (400, {"json": {**GOOD, "prompt": "word " * 1900}}),
    "too many tokens": (400, {"json": {**GOOD, "max_tokens": 300}}),
    "hot": (400, {"json": {**GOOD, "temperature": 3}}),
    "NaN": (400, {"data": json.dumps({**GOOD, "temperature": float("nan")})}),
    "misspelt": (400, {"json": {**GOOD, "max_token": 3}}),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_a_clear_answer_and_the_service_goes_on(url: str, name: str, streamed: bool) -> None:
    status, body = BAD[name]
    if streamed and isinstance(body.get("json"), dict):
        body = {"json": {**body["json"], "stream": True}}
    headers = {"Content-Type": "application/json"}
    reply = requests.post(f"{url}/v1/completions", headers=headers, timeout=60, **body)
    assert reply.status_code == status, reply.text[:300]
    sentence = reply.json()["error"]["message"]
    assert 5 <= len(sentence) <= 150 and not re.search("Traceback|Error", sentence), sentence
    assert requests.post(f"{url}/v1/completions", json=GOOD, timeout=60).status_code == 200


@pytest.mark.parametrize(
    "odd",
    [
        {"prompt": "\x00\t ", "max_tokens": 3},
        {"prompt": "日本 🎭 é", "max_tokens": 3, "temperature": 2},
        {"prompt": "<|endoftext|>", "max_tokens": 3},
        {"prompt": "a", "max_tokens": 255, "temperature": 5e-324},
    ],
    ids=str,
)
def test_odd_but_good_input_is_answered(url: str, odd: dict) -> None:
    reply = requests.post(f"{url}/v1/completions", json={**GOOD, **odd}, timeout=60)
    assert reply.status_code == 200, reply.text
    count, reason = reply.json()["usage"]["completion_tokens"], reply.json()["choices"][0]["finish_reason"]
    assert count == odd["max_tokens"] if reason == "length" else reason == "stop"


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_whatever_the_schema_allows_or_forbids(url: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses: Counter = Counter()

    @settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=schema["/v1/completions"]["POST"].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        reply = case.call(timeout=60)
        assert reply.status_code in (200, 400, 404), (reply.status_code, reply.content[:300])
        statuses[reply.status_code] += 1

    check()
    assert sum(statuses.values()) > 10
    # Random names of models are unknown.
    assert statuses[404] if mode is GenerationMode.POSITIVE else statuses[400] > 10, statuses


def test_clients_that_leave_free_the_replica(url: str) -> None:
    def seconds_until_the_first(max_tokens: int) -> float:
        start = time.monotonic()
        requests.post(f"{url}/v1/completions", json={**GOOD, "max_tokens": max_tokens}, timeout=60)
        return time.monotonic() - start

    long = seconds_until_the_first(240)
    for _ in range(4):
        body = {**GOOD, "max_tokens": 240, "stream": True}
        with requests.post(f"{url}/v1/completions", json=body, stream=True, timeout=60) as reply:
            next(reply.iter_lines())
    # Four long answers would take four times as long as one.
    assert seconds_until_the_first(1) < 2 * long


def test_numbers_are_in_32_bits_without_a_gpu(writer: Any) -> None:
    assert {weight.dtype for weight in writer.model.parameters()} == {torch.float32}
