"""helpers.completions: the JSON of OpenAI's interface, without Ray."""

from __future__ import annotations

import json

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient
from openai.types import Completion, Model
from pydantic import ValidationError
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from helpers.completions import CompletionRequest, completion, error, event, failure, joined, model_list, new_api

pytestmark = pytest.mark.fast
ASKED = CompletionRequest(model="tuned", prompt="ROMEO.")


def test_answers_are_what_the_openai_package_reads() -> None:
    whole = completion(ASKED, "But soft", None, "length", 5, 2)
    read = Completion.model_validate(whole)
    assert (read.choices[0].text, read.choices[0].finish_reason, read.model) == ("But soft", "length", "tuned")
    assert (read.usage.prompt_tokens, read.usage.completion_tokens, read.usage.total_tokens) == (5, 2, 7)
    assert "usage" not in completion(ASKED, "But")
    assert completion(ASKED, "", model="base")["model"] == "base"
    assert [Model.model_validate(model).id for model in model_list(["tuned", "base"])["data"]] == ["tuned", "base"]


def test_settings_that_change_nothing_are_allowed() -> None:
    usual = {"n": 1, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0, "user": "me"}
    assert CompletionRequest(model="tuned", prompt="ROMEO.", **usual).n == 1


def test_all_pieces_of_an_answer_have_one_id() -> None:
    first, second = completion(ASKED, "But "), completion(ASKED, "soft")
    assert first["id"] == second["id"]
    assert completion(CompletionRequest(model="tuned", prompt="ROMEO."), "")["id"] != first["id"]


def test_a_failure_says_whether_to_ask_again() -> None:
    assert failure(RayActorError())["error"]["code"] == 503
    assert failure(BackPressureError(num_queued_requests=5, max_queued_requests=4))["error"]["code"] == 503
    inside = failure(ValueError("secret"))["error"]
    assert inside["code"] == 500 and "secret" not in inside["message"]


def test_pieces_are_joined() -> None:
    last = {"text": "", "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 2}
    assert joined([{"text": "But "}, {"text": "soft"}, last]) == {**last, "text": "But soft"}


def test_events_are_lines_with_an_empty_one_behind() -> None:
    assert event("[DONE]") == "data: [DONE]\n\n"
    text = event({"text": "two\nlines"})
    assert text.count("\n") == 2 and json.loads(text.removeprefix("data: ")) == {"text": "two\nlines"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ""},
        {"prompt": 5},
        {"prompt": "O" * 10_001},
        {"max_tokens": 0},
        {"max_tokens": 1025},
        {"max_tokens": 1.5},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"best_of": 3},
        {"n": 2},
        {"top_p": 0.9},
        {"frequency_penalty": 1},
        {"stream_options": {"usage": True}},
    ],
    ids=str,
)
def test_requests_are_checked(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        CompletionRequest(**{"model": "tuned", "prompt": "ROMEO.", **wrong})


def test_errors_have_the_shape_that_clients_read() -> None:
    app = new_api()

    @app.post("/v1/completions")
    async def complete(request: CompletionRequest) -> dict:
        raise HTTPException(503, "ask again")

    @app.get("/broken")
    async def broken() -> dict:
        raise ValueError("secret")

    client = TestClient(app, raise_server_exceptions=False)
    reply = client.get("/broken")
    assert reply.status_code == 500 and reply.json() == error("the model failed", 500)
    reply = client.post("/v1/completions", json={"model": "tuned", "prompt": "ROMEO.", "temperature": 9})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("temperature: ")
    assert reply.json()["error"]["type"] == "invalid_request_error"
    reply = client.post("/v1/completions", content=b"ROMEO.", headers={"Content-Type": "application/json"})
    assert reply.status_code == 400 and "JSON" in reply.json()["error"]["message"]
    reply = client.post("/v1/completions", json={"model": "tuned", "prompt": "ROMEO."})
    assert (reply.status_code, reply.json()) == (503, error("ask again", 503))
    assert reply.json()["error"]["type"] == "server_error"
    assert client.get("/v2").status_code == 404 and "error" in client.get("/v2").json()
