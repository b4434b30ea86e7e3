"""The JSON of OpenAI's completions interface, as far as notebook 08 speaks it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, PrivateAttr
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from starlette.exceptions import HTTPException

# No proxy on the way may collect the pieces of a stream.
AT_ONCE = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


class StreamOptions(BaseModel, extra="forbid"):
    """What `stream_options` of a request may say."""

    include_usage: bool = False


class CompletionRequest(BaseModel, extra="forbid"):
    """The body of POST /v1/completions; a field that is not listed here is refused instead of ignored.

    Source: the fields' names, meanings and defaults are those of OpenAI's API reference, "Completions".
    """

    model: str
    prompt: Annotated[str, Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1, le=1024)] = 16
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    stream: bool = False
    stream_options: StreamOptions | None = None
    # Clients send these without being asked, so what changes nothing is allowed.
    n: Literal[1] = 1
    top_p: Literal[1] = 1
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    user: str | None = None
    # The same in all pieces of an answer.
    _id: str = PrivateAttr(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    _created: int = PrivateAttr(default_factory=lambda: int(time.time()))


def completion(
    request: CompletionRequest,
    text: str,
    model: str | None = None,
    finish_reason: str | None = None,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
) -> dict[str, Any]:
    """An answer, or one piece of a streamed one.

    Args:
        request: what was asked.
        text: the answer, or its next piece.
        model: who wrote it; None: the model that was asked for.
        finish_reason: "stop" (the model ended the text) or "length" (max_tokens were reached); None: it goes on.
        prompt_tokens, completion_tokens: of the whole answer, for its "usage"; None: leave that out.
    """
    answer = {
        "id": request._id,
        "object": "text_completion",
        "created": request._created,
        "model": model or request.model,
        "choices": [{"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": None}],
    }
    if prompt_tokens is not None and completion_tokens is not None:
        answer["usage"] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }
    return answer


def model_list(names: Iterable[str]) -> dict[str, Any]:
    """The answer to GET /v1/models.

    Args:
        names: of the models, as a request may call them.
    """
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "ray-course"} for name in names]
    return {"object": "list", "data": models}


def error(message: str, status: int) -> dict[str, Any]:
    """An error as OpenAI's clients read it.

    Args:
        message: one sentence.
        status: of HTTP; from 500 on it is the server's mistake, below that the request's.
    """
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def failure(problem: Exception) -> dict[str, Any]:
    """What a client is told about an exception: whether asking again may help, and nothing of the server's inside.

    Args:
        problem: what was raised while the answer was made.
    """
    if isinstance(problem, BackPressureError):
        return error("too many requests are waiting: ask again later", 503)
    if isinstance(problem, RayActorError):
        return error("the replica was lost: ask again", 503)
    return error("the model failed", 500)


def event(data: dict[str, Any] | str) -> str:
    """One server-sent event: a line that begins with "data: ", and an empty one.

    Args:
        data: sent as JSON; a text is sent as it is.

    Source: "Server-sent events" in the HTML standard.
    """
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


def joined(pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pieces of an answer as one: all of the text, and what the last piece says besides.

    Args:
        pieces: at least one, each with "text", and perhaps with other arguments of `completion`.
    """
    return {**pieces[-1], "text": "".join(piece["text"] for piece in pieces)}


def new_api() -> FastAPI:
    """A FastAPI application that answers wrong requests as OpenAI's clients expect: one sentence, and status 400.

    FastAPI itself would answer with status 422 and a list.
    """
    app = FastAPI()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> JSONResponse:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return JSONResponse(error(f"{where}: {first['msg']}", 400), status_code=400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, problem: HTTPException) -> JSONResponse:
        answer = error(str(problem.detail), problem.status_code)
        return JSONResponse(answer, status_code=problem.status_code, headers=problem.headers)

    @app.exception_handler(BackPressureError)
    @app.exception_handler(Exception)
    async def failed(request: Request, problem: Exception) -> JSONResponse:
        answer = failure(problem)
        return JSONResponse(answer, status_code=answer["error"]["code"])

    return app
