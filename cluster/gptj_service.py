"""The GPT-J service of notebook 08, for `serve run`, `serve build` and `serve deploy`.

Written by tools/export_service.py from the cells of the notebook with the tag
`service`: change them there, and run it again.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import Annotated, Literal

import ray
import torch
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from torch.nn import functional as F

from helpers import data


def load(folder, revision=None):
    """Model and tokenizer: on a GPU if Ray has reserved one for this process."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)  # replicas share the cores
    device, dtype = "cpu", torch.float32
    if ray.is_initialized() and ray.get_gpu_ids():
        new = torch.cuda.is_bf16_supported()
        device, dtype = "cuda", torch.bfloat16 if new else torch.float16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, revision=revision)
    tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
    return model.to(device).eval(), tokenizer


def forward(model, ids, mask, positions, cache=None, last=1):
    """Scores of all tokens that could come next, after the `last` places (0: all)."""
    ids, mask, positions = (t.to(model.device) for t in (ids, mask, positions))
    block = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    with torch.inference_mode():
        found = model(**block, past_key_values=cache, logits_to_keep=last)
    return found.logits.float()


PLACES = 2048  # in a block: one long text, or several short ones


def places(texts):
    """How many places the texts take as one block, padding included."""
    return len(texts) * max(len(tokens) for tokens in texts)


def left_pad(texts):
    """Lists of tokens as one block, the mask of its tokens, and their positions."""
    width = max(len(tokens) for tokens in texts)
    ids = torch.tensor([[0] * (width - len(t)) + t for t in texts])
    mask = torch.tensor([[0] * (width - len(t)) + [1] * len(t) for t in texts])
    return ids, mask, (mask.cumsum(dim=1) - 1).clamp(min=0)


@dataclass
class Memory:
    mask: torch.Tensor  # which columns hold a token
    cache: object  # keys and values, for each layer

    def each(self, change):
        for layer in self.cache.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)

    def widen(self, width):
        more = max(0, width - self.mask.shape[1])
        self.mask = F.pad(self.mask, (more, 0))
        self.each(lambda t: F.pad(t, (0, 0, more, 0)))  # [row, head, column, number]

    def add(self, other):
        self.widen(other.mask.shape[1])
        other.widen(self.mask.shape[1])
        self.mask = torch.cat([self.mask, other.mask])
        its = [t for layer in other.cache.layers for t in (layer.keys, layer.values)]
        self.each(lambda t: torch.cat([t, its.pop(0)]))

    def keep(self, rows):
        first = int(self.mask[rows].any(dim=0).int().argmax())  # padding ends
        self.mask = self.mask[rows, first:]
        self.each(lambda t: t[rows, :, first:])


@dataclass(eq=False)
class Row:
    prompt: list[int]
    left: int  # how many tokens may still come
    temperature: float = 0
    top_k: int = 0
    seed: int = 0
    gone: bool = False  # nobody waits for it any more

    def __post_init__(self):
        self.chance = random.Random(self.seed)
        self.out = asyncio.Queue()  # its tokens; None: it has ended


def choose(scores, rows):
    """The next token of each row: one calculation for all, where the scores are."""

    def column(values):
        kept = {"dtype": torch.float64, "device": scores.device}
        return torch.tensor(values, **kept)[:, None]

    top_k = [min(row.top_k, scores.shape[1]) for row in rows]
    if any(top_k):
        best, place = scores.topk(max(top_k)).values, column(top_k).long() - 1
        weakest = best.gather(1, place.clamp(min=0))
        scores = scores.masked_fill((place >= 0) & (scores < weakest), -torch.inf)
    temperature = column([row.temperature for row in rows])
    chances = (scores / temperature.clamp(min=0.01).float()).softmax(dim=1)
    sums = chances.cumsum(dim=1, dtype=torch.float64)
    if not sums[:, -1].isfinite().all():
        raise ValueError("the model answers with scores that are not numbers")
    drawn = column([row.chance.random() for row in rows]) * sums[:, -1:]
    drawn = torch.searchsorted(sums, drawn, right=True)
    likeliest = scores.argmax(dim=1, keepdim=True)
    return torch.where(temperature < 0.01, likeliest, drawn).flatten().tolist()


def read_prompts(model, rows):
    """Scores after the prompts, and the memory of them."""
    from transformers import DynamicCache

    ids, mask, positions = left_pad([row.prompt for row in rows])
    memory = Memory(mask, DynamicCache(config=model.config))
    return forward(model, ids, mask, positions, memory.cache)[:, -1], memory


def read_last(model, rows, memory):
    """Scores after the last token of each row; all before it is in the memory."""
    last = torch.tensor([[row.last] for row in rows])
    memory.mask = F.pad(memory.mask, (0, 1), value=1)
    positions = memory.mask.sum(dim=1, keepdim=True) - 1
    return forward(model, last, memory.mask, positions, memory.cache)[:, -1]


class Engine:
    """Holds the rows under way; each step computes a token for all of them."""

    def __init__(self, folder, revision=None):
        self.model, self.tokenizer = load(folder, revision)
        self.rows, self.memory, self.made = [], None, 0

    def step(self, new):
        scores = [read_last(self.model, self.rows, self.memory)] if self.rows else []
        if new:
            first, memory = read_prompts(self.model, new)
            scores.append(first)
            if self.rows:
                self.memory.add(memory)
            self.memory = self.memory if self.rows else memory
            self.rows = self.rows + new
        tokens = choose(torch.cat(scores), self.rows)
        for row, token in zip(self.rows, tokens, strict=True):
            row.last = token
            row.left = 0 if token == self.tokenizer.eos_token_id else row.left - 1

    def keep(self, rows):
        if rows and len(rows) < len(self.rows):
            self.memory.keep([self.rows.index(row) for row in rows])
        self.rows, self.memory = rows, self.memory if rows else None


@dataclass
class Watch:
    """Lets the model work in threads, and notices when it does not come back."""

    limit_s: float = 60
    stuck: bool = False

    async def run(self, work, *inputs):
        if self.stuck:
            raise TimeoutError("the model is stuck")
        try:
            thread = asyncio.to_thread(work, *inputs)
            return await asyncio.wait_for(thread, self.limit_s)
        except TimeoutError:
            self.stuck = True
            raise


async def step(engine, new, watch):
    """One token for each row, old and new; returns whether it worked."""
    try:
        await watch.run(engine.step, new)
        made = engine.rows
        engine.keep([row for row in made if row.left > 0 and not row.gone])
    except Exception as error:  # whoever took part must hear of it
        for row in {*engine.rows, *new}:
            row.out.put_nowait(error)
        engine.keep([])
        return False
    engine.made += len(made)
    for row in made:
        row.out.put_nowait(row.last)
        if row.left == 0:
            row.out.put_nowait(None)
    return True


class Scheduler:
    """Runs the engine as long as there are rows."""

    def __init__(self, engine):
        self.engine, self.slots, self.waiting = engine, 1, []
        self.watch, self.task, self.failures = Watch(), None, 0  # failures: in a row

    def add(self, row):
        self.waiting.append(row)
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self.run())

    def drop(self, row):
        row.gone = True  # in the engine, it leaves after the step that is under way
        self.waiting = [other for other in self.waiting if other is not row]

    async def run(self):
        while self.waiting or self.engine.rows:
            free = max(0, self.slots - len(self.engine.rows))
            new = self.waiting[:free]
            while len(new) > 1 and places([row.prompt for row in new]) > PLACES:
                new.pop()
            self.waiting = self.waiting[len(new) :]
            worked = await step(self.engine, new, self.watch)
            self.failures = 0 if worked else self.failures + 1


def to_row(order, tokenizer, context):
    """The row of a request, if its prompt leaves room for the answer."""
    prompt, most = tokenizer(order["prompt"]).input_ids, order["max_new_tokens"]
    if len(prompt) + most > context:
        wish = f"expected at most {context} tokens with the {most} new ones"
        raise HTTPException(422, f"body: {wish}, found {len(prompt) + most}")
    sampling = (order["temperature"], order["top_k"], order["seed"])
    return Row(prompt, most, *sampling)


async def texts(row, tokenizer, pause):
    """Pieces of the answer; the last one says why it ended."""
    tokens, sent, due = [], 0, 0 if pause else float("inf")
    while (token := await row.out.get()) is not None:
        if isinstance(token, Exception):
            raise token
        tokens.append(token)
        if time.monotonic() >= due:
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            if not text.endswith("\ufffd"):
                yield {"text": text[sent:], "tokens": len(tokens)}
                sent, due = len(text), time.monotonic() + pause
    text = tokenizer.decode(tokens, skip_special_tokens=True)[sent:]
    ended = tokens[-1] == tokenizer.eos_token_id
    yield {"text": text, "tokens": len(tokens), "done": "end" if ended else "length"}


class Writer:
    def __init__(self, folder, context, revision=None):
        folder = str(folder() if callable(folder) else folder)
        self.engine, self.context = Engine(folder, revision), context
        self.scheduler = Scheduler(self.engine)
        places = self.engine.model.config.n_positions
        if context > places:
            raise ValueError(f"context is {context}, positions of {folder}: {places}")

    def reconfigure(self, config):
        self.scheduler.slots = config["slots"]
        self.scheduler.watch.limit_s = config.get("step_limit_s", 60)

    async def stream(self, order):
        row = to_row(order, self.engine.tokenizer, self.context)
        self.scheduler.add(row)
        try:
            async for piece in texts(row, self.engine.tokenizer, order["pause"]):
                yield piece
        finally:
            self.scheduler.drop(row)

    def state(self):
        """Slots in use, and tokens made since the start of the replica."""
        return len(self.engine.rows), self.engine.made


def losses(model, texts):
    """The mean loss of each list of tokens."""
    ids, mask, positions = left_pad(texts)
    scores = forward(model, ids, mask, positions, last=0)[:, :-1].transpose(1, 2)
    wanted = ids[:, 1:].to(scores.device)
    each = F.cross_entropy(scores, wanted, reduction="none").cpu() * mask[:, :-1]
    return (each.sum(dim=1) / mask[:, :-1].sum(dim=1)).tolist()


@serve.deployment
class Model(Writer):
    def check_health(self):
        if self.scheduler.watch.stuck or self.scheduler.failures >= 3:
            raise RuntimeError("the model is stuck, or failed three times in a row")

    async def score(self, order):
        tokens, known = order["tokens"], len(self.engine.tokenizer)
        if len(tokens) > self.context or max(tokens) >= known:
            wish = f"at most {self.context} tokens, each below {known}"
            raise HTTPException(422, f"body.tokens: expected {wish}")
        yield {"loss": await self.score_batch(tokens)}

    @serve.batch(batch_size_fn=places, max_batch_size=PLACES)
    async def score_batch(self, texts):
        return await self.scheduler.watch.run(losses, self.engine.model, texts)


Whole = Annotated[int, Field(strict=True)]
Id = Annotated[Whole, Field(ge=0)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Name = Literal["tuned", "base"]


class Order(BaseModel, extra="forbid"):  # a misspelt name is an error
    prompt: Annotated[str, Field(min_length=1, max_length=10_000)]
    max_new_tokens: Annotated[Whole, Field(ge=1, le=1024)] = 40
    temperature: Annotated[Number, Field(ge=0, le=2)] = 0.8
    top_k: Annotated[Whole, Field(ge=0, le=1000)] = 50  # 0: all tokens
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] | None = None
    model: Name | None = None


class Text(BaseModel, extra="forbid"):
    tokens: Annotated[list[Id], Field(min_length=2, max_length=2048)]
    model: Name | None = None


class Score(BaseModel):
    loss: float
    model: Name


class Answer(BaseModel):
    text: str
    tokens: int
    done: str
    seed: int
    model: Name


class Problem(BaseModel):
    detail: str


async def explain(request, error):
    """One sentence: where it is wrong, and why."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return JSONResponse({"detail": f"{where}: {first['msg']}"}, status_code=422)


about_http = {
    "max_body_size": 100_000,  # bytes
    "exception_handlers": {RequestValidationError: explain},
    "responses": {code: {"model": Problem} for code in (400, 422, 500, 503)}
    | {413: {"description": "more than 100 kB"}},
}


# No proxy on the way may collect the lines of an answer.
at_once = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache"}


async def pieces(method, order):
    """The pieces of an answer; before the first, a lost replica does not matter."""
    about, begun = {"model": order["model"], "seed": order["seed"]}, False
    for tries, wait in enumerate((0.1, 1, 5, None), start=1):
        try:
            async for piece in method.remote(order):
                begun = True
                yield piece | about | {"tries": tries}
            return
        except BackPressureError:
            raise HTTPException(503, "busy: try again later") from None
        except (RayActorError, TimeoutError):  # it has died, or it is stuck
            if begun or wait is None:
                raise HTTPException(503, "the replica was lost: ask again") from None
            await asyncio.sleep(wait)
        except RayTaskError as error:
            if isinstance(error, HTTPException):  # what the model says about a request
                raise
            raise HTTPException(500, "the model failed") from None


async def lines(first, rest):
    try:
        yield json.dumps(first) + "\n"
        async for piece in rest:
            yield json.dumps(piece) + "\n"
    except HTTPException as error:
        yield json.dumps({"error": error.detail}) + "\n"


class Split:
    def __init__(self, **models):
        self.models = {name: m.options(stream=True) for name, m in models.items()}

    def reconfigure(self, shares):
        if not set(shares) <= set(self.models) or sum(shares.values()) <= 0:
            raise ValueError(f"expected shares of {list(self.models)}, found {shares}")
        self.shares = dict(shares)

    def choose(self, request, **more):
        order = request.model_dump() | more
        if order["model"] is None:
            order["model"] = random.choices(list(self.shares), self.shares.values())[0]
        if order.get("seed") is None:
            order["seed"] = random.getrandbits(31)
        return self.models[order["model"]], order


http = FastAPI(title="GPT-J", **about_http)  # without routes


@serve.deployment(user_config={"tuned": 1.0})
@serve.ingress(http)
class Api(Split):
    @http.post("/generate")
    async def generate(self, request: Order) -> Answer:
        model, order = self.choose(request, pause=None)
        (answer,) = [piece async for piece in pieces(model.stream, order)]
        return Answer(**answer)

    @http.post("/stream", responses={200: {"content": {"application/x-ndjson": {}}}})
    async def stream(self, request: Order) -> StreamingResponse:
        model, order = self.choose(request, pause=0.05)
        rest = pieces(model.stream, order)
        answer, kind = lines(await anext(rest), rest), "application/x-ndjson"
        return StreamingResponse(answer, headers=at_once, media_type=kind)

    @http.post("/score")
    async def score(self, request: Text) -> Score:
        model, order = self.choose(request)
        (answer,) = [piece async for piece in pieces(model.score, order)]
        return Score(**answer)


class Settings(BaseModel, extra="forbid"):
    tuned: str | None = None  # a folder; None: that of the course
    base: str | None = None  # a folder, or a name on the hub
    base_revision: str | None = None  # a commit, for a name on the hub
    replicas: int = Field(2, ge=1)  # of the tuned model; the base model has one
    slots: int = Field(8, ge=1)
    context: int = Field(256, ge=2)
    cpus: float = Field(0.4, ge=0)
    gpus: float = Field(0, ge=0)
    step_limit_s: float = Field(60, gt=0)  # a longer step will never return


def build(settings: Settings) -> serve.Application:
    model = Model.options(
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        max_ongoing_requests=2 * settings.slots,
        max_queued_requests=200,
        max_surge_percent=50,
        graceful_shutdown_timeout_s=120,  # an update lets answers end
        health_check_period_s=1,  # three bad ones in a row, and it is replaced
        user_config={"slots": settings.slots, "step_limit_s": settings.step_limit_s},
    )
    tuned = model.options(name="tuned", num_replicas=settings.replicas)
    base = model.options(name="base")
    api = Api.options(
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=500,
        max_queued_requests=200,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=120,
    )
    context, revision = settings.context, settings.base_revision
    return api.bind(
        tuned=tuned.bind(settings.tuned or data.fine_tuned_gptj, context),
        base=base.bind(settings.base or data.tiny_gptj, context, revision),
    )


application = build(Settings())  # for `serve build`, which wants an application
