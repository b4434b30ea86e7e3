"""The service of notebook 08: batches equal single answers, bad input, clients that leave, a killed replica."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import nbformat
import pyarrow.parquet as pq
import pytest
import ray
import requests
import schemathesis
import torch
import yaml
from fastapi import HTTPException
from hypothesis import HealthCheck, given, settings
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.schema import DeploymentSchema, ServeDeploySchema
from ray.util.state import list_actors
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance
from torch.profiler import ProfilerActivity, profile
from transformers import GPTJConfig, GPTJForCausalLM

from cluster import gptj_service as service
from helpers import data, sizes
from tests.services import valid_application, wait_for
from tools.export_service import GPTJ_MODULE, formatted_module

CLUSTER = GPTJ_MODULE.parent
JSON = {"Content-Type": "application/json"}
GOOD = {"prompt": "ROMEO.", "max_new_tokens": 5}


# Without Ray ----------------------------------------------------------------------------------------------------------


@pytest.mark.fast
def test_module_is_the_code_of_the_notebook() -> None:
    assert formatted_module(GPTJ_MODULE) == GPTJ_MODULE.read_text(), "run .venv/bin/python tools/export_service.py"


@pytest.mark.fast
def test_config_is_valid_and_keeps_to_this_machine() -> None:
    application = valid_application(CLUSTER / "gptj_service.yaml", service)
    assert [deployment["name"] for deployment in application["deployments"]] == ["Api"]
    with pytest.raises(ValidationError):
        service.Settings(replica=3)


def test_config_for_vllm_uses_names_that_ray_knows() -> None:
    # ray.serve.llm itself cannot be imported without vLLM; the class with the names can.
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig

    config = yaml.safe_load((CLUSTER / "gptj_vllm.yaml").read_text())
    assert ServeDeploySchema.model_validate(config).http_options.host == "127.0.0.1"
    (application,) = config["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    (model,) = application["args"]["llm_configs"]
    assert LLMConfig.model_validate(model).model_id == "tuned"
    # LLMConfig takes any name for a deployment; Serve would not.
    assert set(model["deployment_config"]) <= set(DeploymentSchema.model_fields)
    with pytest.raises(ValidationError):
        LLMConfig.model_validate(model | {"accelerator": "A10G"})


def test_cluster_size_asks_for_a_gpu_for_each_replica() -> None:
    size = cluster_size()
    assert len(size.revision) == 40, "pin a commit, not a branch"
    large = {name: getattr(size, name) for name in ("base", "replicas", "slots", "context")}
    large |= {"base_revision": size.revision, "cpus": size.cpus_per_replica, "gpus": size.gpus_per_replica}
    bound = service.build(service.Settings(**large))._bound_deployment.init_kwargs
    tuned, base = (bound[name]._bound_deployment for name in ("tuned", "base"))
    assert (tuned.num_replicas, base.num_replicas) == (8, 1)
    assert base.init_args == ("EleutherAI/gpt-j-6b", 2048, size.revision)
    for model in (tuned, base):
        assert model.ray_actor_options["num_gpus"] == 1 and model.ray_actor_options["num_cpus"] == 4
        assert model.user_config == {"slots": 16, "step_limit_s": 60}


def cluster_size() -> sizes.Size:
    """The cluster column of the notebook's own size cell."""
    cells = nbformat.read(data.REPOSITORY / "notebooks" / "08_serve_gptj.ipynb", 4).cells
    (source,) = [cell.source for cell in cells if cell.source.startswith("size = choose_size(")]
    names: dict[str, Any] = {"choose_size": lambda settings: sizes.choose_size(settings, size="cluster")}
    exec(source, names)
    return names["size"]


def test_model_with_too_few_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="context is 2048, positions of .*: 512"):
        service.Writer(data.tiny_gptj, 2048)


def test_failing_steps_are_told_to_serve() -> None:
    model = service.Model.func_or_class(data.tiny_gptj, 64)
    model.check_health()
    model.scheduler.failures = 3
    with pytest.raises(RuntimeError, match="failed three times"):
        model.check_health()


class Stalled:
    """An engine whose second step does not return, until it is let go."""

    def __init__(self) -> None:
        self.rows: list[service.Row] = []
        self.made, self.steps, self.let_go = 0, 0, threading.Event()

    def step(self, new: list[service.Row]) -> None:
        self.steps += 1
        if self.steps > 1:
            self.let_go.wait(60)
        self.rows = self.rows + new
        for row in self.rows:
            row.last, row.left = 7, row.left - 1

    def keep(self, rows: list[service.Row]) -> None:
        self.rows = rows


def test_step_that_does_not_return_ends_all_answers_and_is_told_to_serve() -> None:
    model = service.Model.func_or_class(data.tiny_gptj, 64)
    engine = Stalled()
    model.scheduler.engine = engine
    model.reconfigure({"slots": 2, "step_limit_s": 0.3})

    async def end_of(row: service.Row) -> tuple[int, str]:
        tokens = 0
        while isinstance(token := await asyncio.wait_for(row.out.get(), 30), int):
            tokens += 1
        return tokens, type(token).__name__

    async def run() -> list[tuple[int, str]]:
        rows = [service.Row([1], 5) for _ in range(3)]  # for two slots
        for row in rows:
            model.scheduler.add(row)
        try:
            ends = list(await asyncio.gather(*map(end_of, rows)))
            late = service.Row([1], 5)
            model.scheduler.add(late)
            return [*ends, await end_of(late)]
        finally:
            engine.let_go.set()  # or asyncio would wait for its thread

    model.check_health()
    ends = asyncio.run(run())
    assert ends == [(1, "TimeoutError"), (1, "TimeoutError"), (0, "TimeoutError"), (0, "TimeoutError")]
    assert engine.steps == 2, "an engine that is stuck gets no more work"
    model.scheduler.failures = 0  # it need not fail three times
    with pytest.raises(RuntimeError, match="the model is stuck"):
        model.check_health()


def test_unknown_shares_are_refused() -> None:
    split = service.Split()
    split.models = {"tuned": None, "base": None}
    for shares in ({"tuned": 0.9, "bse": 0.1}, {"tuned": 0.0}):
        with pytest.raises(ValueError, match="expected shares of"):
            split.reconfigure(shares)


@pytest.mark.parametrize(
    ("reserved", "new", "dtype"), [([], True, "float32"), ([0], True, "bfloat16"), ([0], False, "float16")]
)
def test_number_type_fits_the_hardware(monkeypatch: pytest.MonkeyPatch, reserved: list, new: bool, dtype: str) -> None:
    moved = []
    monkeypatch.setattr(service.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(service.ray, "get_gpu_ids", lambda: reserved)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: new)
    monkeypatch.setattr(GPTJForCausalLM, "to", lambda model, device: moved.append(device) or model)
    model, _ = service.load(str(data.tiny_gptj()))
    assert model.dtype == getattr(torch, dtype) and moved == ["cuda" if reserved else "cpu"]


def test_engine_computes_in_half_precision(engine: Any, prompts: list[str]) -> None:
    # A small model: on processors without instructions for bfloat16, its products are very slow.
    config = GPTJConfig(vocab_size=len(engine.tokenizer), n_positions=512, n_embd=32, n_layer=2, n_head=2, rotary_dim=8)
    half = copy.copy(engine)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        half.model = GPTJForCausalLM(config).eval().to(torch.bfloat16)
    rows = [row_of(half, prompt, i) for i, prompt in enumerate(prompts[:6])]
    made = tokens_of(half, rows, lambda step, under_way: 2)
    assert [len(tokens) for tokens in made] == [5 + i % 23 for i in range(6)]


@pytest.mark.parametrize("folder", [data.tiny_gptj, data.fine_tuned_gptj])
def test_a_cpu_computes_in_32_bits_whatever_is_on_the_disk(folder: Callable[[], Path]) -> None:
    model, _ = service.load(str(folder()))
    kinds = {value.dtype for value in model.state_dict().values() if value.is_floating_point()}
    seen = set()

    def look(module: torch.nn.Module, inputs: tuple, output: Any) -> None:
        seen.update(value.dtype for value in (*inputs, output) if isinstance(value, torch.Tensor))

    for module in model.modules():
        module.register_forward_hook(look)
    service.forward(model, *service.left_pad([[1, 2, 3], [4]]))
    assert kinds == {torch.float32} and seen == {torch.float32, torch.int64}, (kinds, seen)


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    table = pq.read_table(data.text_file("shakespeare", "validation"))
    verses = [line for line in table.column("text").to_pylist() if line.strip()]
    return ["\n".join(verses[31 * i : 31 * i + 1 + i % 5]) for i in range(40)]


@pytest.fixture(scope="module")
def engine() -> service.Engine:
    return service.Engine(str(data.fine_tuned_gptj()))


def row_of(engine: service.Engine, prompt: str, number: int) -> service.Row:
    tokens = engine.tokenizer(prompt).input_ids
    return service.Row(tokens, 5 + number % 23, temperature=number % 3 / 2, top_k=(0, 50)[number % 2], seed=number)


def tokens_of(engine: service.Engine, rows: list[service.Row], let_in: Callable[[int, int], int]) -> list[list[int]]:
    """What the engine makes of the rows, if let_in(step, rows under way) of them join in each step."""
    waiting, made, steps = list(rows), {id(row): [] for row in rows}, 0
    engine.keep([])
    while waiting or engine.rows:
        count = let_in(steps, len(engine.rows)) if engine.rows else 1
        new, waiting, steps = waiting[:count], waiting[count:], steps + 1
        engine.step(new)
        for row in engine.rows:
            made[id(row)].append(row.last)
        engine.keep([row for row in engine.rows if row.left > 0])
    return [made[id(row)] for row in rows]


@pytest.mark.parametrize("together", [lambda step, under_way: 40, lambda step, under_way: max(0, 7 - under_way)])
def test_rows_that_come_and_go_get_the_tokens_they_get_alone(engine: Any, prompts: list[str], together: Any) -> None:
    def rows() -> list[service.Row]:
        return [row_of(engine, prompt, i) for i, prompt in enumerate(prompts)]

    alone = tokens_of(engine, rows(), lambda step, under_way: 0)
    assert len({len(row.prompt) for row in rows()}) > 15, "the prompts must differ in length"
    assert tokens_of(engine, rows(), together) == alone


def mixed_rows(count: int) -> list[service.Row]:
    """Rows that draw in different ways, each with a seed of its own."""
    kinds = [(0, 0), (0.5, 50), (1, 0), (1.7, 3), (0.0100001, 0), (1, 999_999)]
    return [service.Row([1], 9, *kinds[i % len(kinds)], seed=2**63 - 1 - i) for i in range(count)]


@pytest.mark.fast
def test_what_a_row_draws_does_not_depend_on_the_others() -> None:
    steps = torch.randn(4, 16, 5_000, generator=torch.Generator().manual_seed(0)) * 3
    together = [service.choose(scores, rows) for rows in [mixed_rows(16)] for scores in steps]
    alone = mixed_rows(16)
    for step, scores in enumerate(steps):
        assert [service.choose(scores[i : i + 1], [row])[0] for i, row in enumerate(alone)] == together[step]
    assert together != [service.choose(scores, rows) for rows in [mixed_rows(32)[16:]] for scores in steps], "the seed"


@pytest.mark.fast
@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.7, 0), (1.3, 4), (1.0, 1)])
def test_tokens_are_drawn_as_often_as_their_chances_say(temperature: float, top_k: int) -> None:
    scores = torch.tensor([2.0, -1.0, 0.5, 3.0, 1.0, -torch.inf, 2.9])
    kept = scores.topk(top_k).indices if top_k else torch.arange(len(scores))
    chances = torch.zeros(len(scores)).index_copy(0, kept, (scores[kept] / temperature).softmax(dim=0))
    count = 10_000
    rows = [service.Row([1], 9, temperature, top_k, seed) for seed in range(count)]
    drawn = torch.tensor(service.choose(scores.expand(count, -1), rows)).bincount(minlength=len(scores)) / count
    # Four standard errors; the seeds are always the same, so it is never red by chance.
    assert ((drawn - chances).abs() <= 4 * (chances * (1 - chances) / count).sqrt()).all(), (drawn, chances)


class Draw:
    """Stands for a random generator, with a draw at one end of its range."""

    def __init__(self, value: float) -> None:
        self.random = lambda: value


@pytest.mark.fast
def test_draws_at_both_ends_are_tokens_that_may_be_chosen() -> None:
    # The chances are rounded, so their sum can end below 1, and a draw beyond it would have no token.
    below = 0
    for seed in range(4):
        scores = torch.randn(1, 50_400, generator=torch.Generator().manual_seed(seed))
        below += bool(scores.softmax(dim=1).double().sum() < 1 - 1e-12)
        for top_k in (0, 7):
            allowed = sorted(scores[0].topk(top_k or 50_400).indices.tolist())
            for value, place in ((0.0, 0), (1 - 2**-53, -1)):
                row = service.Row([1], 9, 1.0, top_k)
                row.chance = Draw(value)
                assert service.choose(scores, [row]) == [allowed[place]]
    assert below, "no case where it matters"


@pytest.mark.fast
def test_scores_that_are_no_numbers_are_an_error_not_a_token() -> None:
    for temperature in (0, 1):
        with pytest.raises(ValueError, match="not numbers"):
            service.choose(torch.tensor([[1.0, torch.nan]]), [service.Row([1], 9, temperature)])


@pytest.mark.fast
def test_drawing_for_many_rows_is_one_calculation() -> None:
    def operations(rows: int) -> int:
        with profile(activities=[ProfilerActivity.CPU]) as calculated:
            service.choose(torch.zeros(rows, 100), [service.Row([1], 9, 1, 50) for _ in range(rows)])
        return sum(operation.count for operation in calculated.key_averages())

    assert operations(rows=16) < 2 * operations(rows=1)


def test_greedy_answers_are_those_of_transformers(engine: Any, prompts: list[str]) -> None:
    for prompt in prompts[:5]:
        row = service.Row(engine.tokenizer(prompt).input_ids, 12)
        ids = torch.tensor([row.prompt])
        wanted = engine.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert tokens_of(engine, [row], lambda *_: 0) == [wanted[0, len(row.prompt) :].tolist()]


def test_losses_do_not_see_the_fill(engine: Any, prompts: list[str]) -> None:
    texts = [engine.tokenizer(prompt).input_ids for prompt in prompts[:6]]
    alone = [engine.model(input_ids=(ids := torch.tensor([t])), labels=ids).loss.item() for t in texts]
    assert service.losses(engine.model, texts) == pytest.approx(alone, abs=1e-4)


def test_prompts_are_read_in_blocks_of_bounded_size(
    engine: Any, prompts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, blocks, plain = 64, [], service.forward

    def forward(model: Any, ids: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
        blocks.append(tuple(ids.shape))
        return plain(model, ids, *more, **options)

    async def answers(rows: list[service.Row]) -> list[list[int]]:
        scheduler = service.Scheduler(engine)
        scheduler.slots = 12
        for row in rows:
            scheduler.add(row)
        made = [[token async for token in iterate(row)] for row in rows]
        await scheduler.task
        return made

    async def iterate(row: service.Row) -> AsyncIterator[int]:
        while (token := await asyncio.wait_for(row.out.get(), 60)) is not None:
            if isinstance(token, Exception):
                raise token
            yield token

    def rows() -> list[service.Row]:
        return [row_of(engine, prompt, i) for i, prompt in enumerate(prompts[:24])]

    alone = tokens_of(engine, rows(), lambda *_: 0)
    engine.keep([])
    monkeypatch.setattr(service, "PLACES", limit)
    monkeypatch.setattr(service, "forward", forward)
    assert asyncio.run(answers(rows())) == alone
    read = [block for block in blocks if block[1] > 1]
    too_large = [(count, width) for count, width in read if count > 1 and count * width > limit]
    assert not too_large and max(width for _, width in read) > limit / 2, read
    assert max(count for count, _ in read) > 1, "short prompts share a block"


def test_letter_of_several_tokens_comes_whole(engine: Any) -> None:
    text = "O Romé, ☾ and 𝄞!"

    async def gather() -> list[dict]:
        row = service.Row([1], 100)
        for token in [*engine.tokenizer(text).input_ids, None]:
            row.out.put_nowait(token)
        return [piece async for piece in service.texts(row, engine.tokenizer, pause=1e-9)]

    pieces = asyncio.run(gather())
    assert "".join(piece["text"] for piece in pieces) == text
    assert len(pieces) > 5 and not any("\ufffd" in piece["text"] for piece in pieces)


@pytest.mark.parametrize("part", ["step", "keep"])
def test_rows_hear_of_an_error_in_the_engine(part: str) -> None:
    class Broken:
        """Fails in its first step only, while it computes or while it copies its memory."""

        def __init__(self) -> None:
            self.rows: list[service.Row] = []
            self.broken, self.made = True, 0

        def fail(self, here: str) -> None:
            if self.broken and here == part:
                self.broken = False
                raise ValueError("out of memory")

        def step(self, new: list[service.Row]) -> None:
            self.rows = self.rows + new
            self.fail("step")
            for row in self.rows:
                row.last, row.left = 7, row.left - 1

        def keep(self, rows: list[service.Row]) -> None:
            self.fail("keep")
            self.rows = rows

    async def tokens(scheduler: service.Scheduler, row: service.Row) -> list[int]:
        scheduler.add(row)
        got = []
        while (token := await asyncio.wait_for(row.out.get(), 60)) is not None:
            if isinstance(token, Exception):
                raise token
            got.append(token)
        return got

    async def both() -> list[Any]:
        scheduler = service.Scheduler(Broken())
        first, second = (tokens(scheduler, service.Row([1], 3)) for _ in range(2))
        return [*await asyncio.gather(first, second, return_exceptions=True), scheduler.failures, scheduler.engine.rows]

    failed, answered, failures, left = asyncio.run(both())
    assert isinstance(failed, ValueError) and "out of memory" in str(failed)
    assert answered == [7, 7, 7], "who only waited for a slot must not suffer"
    assert (failures, left) == (0, [])


class Method:
    """Stands for a method of a handle: each call gives some pieces, then raises what it is told."""

    def __init__(self, *calls: tuple[int, Exception | None]) -> None:
        self.calls = list(calls)

    async def remote(self, order: dict) -> AsyncIterator[dict]:
        count, error = self.calls.pop(0)
        for number in range(count):
            yield {"text": str(number)}
        if error is not None:
            raise error


# As it comes out of a handle.
STUCK = RayTaskError("stream", "traceback", TimeoutError("the model is stuck")).as_instanceof_cause()


@pytest.mark.parametrize(
    ("calls", "texts", "message"),
    [
        ([(2, None)], "01", ""),
        ([(0, RayActorError()), (0, RayActorError()), (2, None)], "01", ""),
        ([(0, STUCK), (0, RayActorError()), (0, STUCK), (2, None)], "01", ""),
        ([(1, RayActorError()), (2, None)], "0", "the replica was lost: ask again"),
        ([(1, STUCK), (2, None)], "0", "the replica was lost: ask again"),
        ([(0, RayActorError())] * 5, "", "the replica was lost: ask again"),
        ([(0, BackPressureError(num_queued_requests=1, max_queued_requests=1))], "", "busy: try again later"),
    ],
)
@pytest.mark.fast
def test_other_replica_is_asked_only_before_the_first_piece(
    monkeypatch: pytest.MonkeyPatch, calls: list, texts: str, message: str
) -> None:
    async def at_once(seconds: float) -> None: ...

    async def gather() -> tuple[str, str]:
        seen = ""
        try:
            async for piece in service.pieces(Method(*calls), {"model": "tuned", "seed": 7}):
                assert (piece["model"], piece["seed"]) == ("tuned", 7)
                seen += piece["text"]
        except HTTPException as error:
            assert error.status_code == 503
            return seen, error.detail
        return seen, ""

    monkeypatch.setattr(service.asyncio, "sleep", at_once)
    assert asyncio.run(gather()) == (texts, message)


# With Ray Serve -------------------------------------------------------------------------------------------------------


def is_running() -> bool:
    application = serve.status().applications["gptj"]
    assert application.status != "DEPLOY_FAILED", application.message
    return application.status == "RUNNING"


@pytest.fixture(scope="module")
def url(serve_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The service, deployed from the shipped config file as a reader would; all requests go to the tuned model."""
    config = yaml.safe_load((CLUSTER / "gptj_service.yaml").read_text())
    config["http_options"]["port"] = serve_port
    (application,) = config["applications"]
    application["route_prefix"] = "/gptj"
    application["args"]["slots"] = 4
    application["deployments"][0]["user_config"] = {"tuned": 1.0, "base": 0.0}
    path = tmp_path_factory.mktemp("config") / "service.yaml"
    path.write_text(yaml.safe_dump(config))
    address = os.environ["RAY_API_SERVER_ADDRESS"]
    command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(path), "--address", address]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    wait_for(is_running, 300)
    yield f"http://127.0.0.1:{serve_port}/gptj"
    serve.delete("gptj")


async def stream(
    session: aiohttp.ClientSession, url: str, order: dict, seen: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What a client has seen, filled in as it comes; "end" says how it ended."""
    seen = {} if seen is None else seen
    seen |= {"text": "", "end": "hung"}
    try:
        async with session.post(f"{url}/stream", json=order) as reply:
            async for line in reply.content:
                piece = json.loads(line)
                seen["text"] += piece.pop("text", "")
                seen |= piece
            seen["end"] = next((end for end in ("done", "error") if end in seen), f"status {reply.status}, no end")
    except aiohttp.ClientError as error:
        seen["end"] = f"broken: {type(error).__name__}"
    except TimeoutError:
        pass  # it hung
    return seen


def streams(
    url: str, orders: list[dict], meanwhile: Callable[[list[dict]], None] = lambda seen: None
) -> list[dict[str, Any]]:
    """All orders at once; calls `meanwhile` in a thread, with what the clients have seen so far."""
    so_far: list[dict] = [{} for _ in orders]

    async def run() -> list[dict[str, Any]]:
        timeout, connector = aiohttp.ClientTimeout(240), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            thread = asyncio.create_task(asyncio.to_thread(meanwhile, so_far))
            pairs = zip(orders, so_far, strict=True)
            seen = await asyncio.gather(*(stream(session, url, order, place) for order, place in pairs))
            await thread
            return seen

    return asyncio.run(run())


def orders_for(prompts: list[str], most: int) -> list[dict]:
    return [
        {"prompt": prompt, "max_new_tokens": most + i % 7, "temperature": i % 2, "seed": i}
        for i, prompt in enumerate(prompts)
    ]


def test_answers_together_equal_those_alone(url: str, prompts: list[str]) -> None:
    orders = orders_for(prompts[:32], most=12)
    together = streams(url, orders)
    assert Counter(seen["end"] for seen in together) == {"done": 32}
    for order, seen in zip(orders, together, strict=True):
        alone = requests.post(f"{url}/generate", json=order, timeout=60).json()
        assert (alone["text"], alone["tokens"]) == (seen["text"], seen["tokens"])
        assert alone["tokens"] == order["max_new_tokens"] or alone["done"] == "end"


def test_without_a_seed_answers_differ_and_say_how_to_repeat_them(url: str) -> None:
    order = {"prompt": "JULIET.\n", "max_new_tokens": 20}
    first, second = (requests.post(f"{url}/generate", json=order, timeout=60).json() for _ in range(2))
    assert first["text"] != second["text"]
    again = requests.post(f"{url}/generate", json=order | {"seed": first["seed"]}, timeout=60).json()
    assert again == first


def test_score_is_the_loss_of_the_model(url: str, engine: Any) -> None:
    tokens = engine.tokenizer("To be, or not to be, that is the question").input_ids
    reply = requests.post(f"{url}/score", json={"tokens": tokens, "model": "tuned"}, timeout=60).json()
    assert reply["loss"] == pytest.approx(service.losses(engine.model, [tokens])[0], abs=1e-4)
    base = requests.post(f"{url}/score", json={"tokens": tokens, "model": "base"}, timeout=60).json()
    assert base["model"] == "base" and base["loss"] > reply["loss"]


NAN = json.dumps(GOOD | {"temperature": float("nan")})
SCORE, PATHS = {"path": "/score"}, ["/stream", "/generate"]
BAD = {
    "not JSON": (422, {"data": "ROMEO."}),
    "JSON cut off": (422, {"data": '{"prompt": "RO'}),
    # Python 3.11 reads about 1,000 levels, 3.13 about 10,000: what is deeper than that all of them refuse alike.
    "nested too deep": (400, {"data": "[" * 50_000}),
    "not UTF-8": (400, {"data": b"\xff\xfe\x00"}),
    "empty": (422, {"data": ""}),
    "null": (422, {"data": "null"}),
    "list": (422, {"json": [GOOD]}),
    "no prompt": (422, {"json": {"max_new_tokens": 5}}),
    "prompt of a wrong type": (422, {"json": GOOD | {"prompt": 5}}),
    "prompt null": (422, {"json": GOOD | {"prompt": None}}),
    "empty prompt": (422, {"json": GOOD | {"prompt": ""}}),
    "half a surrogate": (422, {"data": '{"prompt": "\\ud800"}'}),
    "long prompt": (422, {"json": GOOD | {"prompt": "word " * 1900}}),
    "very long prompt": (422, {"json": GOOD | {"prompt": "word " * 3000}}),
    "prompt and answer too long": (422, {"json": {"prompt": "word " * 100, "max_new_tokens": 200}}),
    "no token": (422, {"json": GOOD | {"max_new_tokens": 0}}),
    "too many tokens": (422, {"json": GOOD | {"max_new_tokens": 5000}}),
    "1.5 tokens": (422, {"json": GOOD | {"max_new_tokens": 1.5}}),
    "tokens as text": (422, {"json": GOOD | {"max_new_tokens": "5"}}),
    "tokens true": (422, {"json": GOOD | {"max_new_tokens": True}}),
    "cold": (422, {"json": GOOD | {"temperature": -0.1}}),
    "hot": (422, {"json": GOOD | {"temperature": 2.1}}),
    "NaN": (422, {"data": NAN}),
    "infinite": (422, {"data": NAN.replace("NaN", "1e999")}),
    "top_k below 0": (422, {"json": GOOD | {"top_k": -1}}),
    "seed below 0": (422, {"json": GOOD | {"seed": -1}}),
    "seed too large": (422, {"json": GOOD | {"seed": 2**70}}),
    "unknown field": (422, {"json": GOOD | {"max_length": 20}}),
    "unknown model": (422, {"json": GOOD | {"model": "gpt-5"}}),
    "5 MB": (413, {"data": b" " * 5_000_000}),
    "wrong method": (405, {"method": "GET"}),
    "wrong route": (404, {"path": "/chat"}),
    "one token": (422, {**SCORE, "json": {"tokens": [1]}}),
    "no such token": (422, {**SCORE, "json": {"tokens": [1, 99_999]}}),
    "token below 0": (422, {**SCORE, "json": {"tokens": [1, -1]}}),
    "token of a wrong type": (422, {**SCORE, "json": {"tokens": [1, "2"]}}),
    "too many tokens to score": (422, {**SCORE, "json": {"tokens": [1] * 1000}}),
}


BAD_CASES = [(name, path) for name in BAD for path in ([BAD[name][1].get("path")] if "path" in BAD[name][1] else PATHS)]


@pytest.mark.parametrize(("name", "path"), BAD_CASES)
def test_bad_input_gets_a_clear_answer_and_the_service_goes_on(url: str, name: str, path: str) -> None:
    expected, case = BAD[name]
    request = {"method": "POST", "headers": JSON, "timeout": 60, **case, "url": url + path}
    request.pop("path", None)
    reply = requests.request(**request)
    assert reply.status_code == expected, reply.text[:300]
    sentence = reply.json()["detail"] if "json" in reply.headers["Content-Type"] else reply.text
    assert 5 <= len(sentence) <= 150 and not re.search("Traceback|Error", sentence), sentence
    assert requests.post(f"{url}/generate", json=GOOD, timeout=60).status_code == 200


@pytest.mark.parametrize(
    "order",
    [
        {"prompt": "\x00\t ", "max_new_tokens": 3},
        {"prompt": "日本 🎭 é", "max_new_tokens": 3, "top_k": 1000, "temperature": 2},
        {"prompt": "<|endoftext|>", "max_new_tokens": 3, "top_k": 1, "seed": 2**63 - 1},
        {"prompt": "a", "max_new_tokens": 255, "temperature": 5e-324, "seed": 0},
        {"prompt": "a", "max_new_tokens": 3, "temperature": 0.0100001, "top_k": 0},
    ],
)
def test_odd_but_good_input_is_answered(url: str, order: dict) -> None:
    reply = requests.post(f"{url}/generate", json=order, timeout=60)
    assert reply.status_code == 200, reply.text
    assert reply.json()["tokens"] == order["max_new_tokens"] or reply.json()["done"] == "end"


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "answered"), [("/generate", 10), ("/score", 2)])
def test_whatever_the_schema_allows_or_forbids(url: str, path: str, answered: int, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    statuses = Counter()

    @settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=schema[path]["POST"].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        # How many tokens a text has, and which there are, the schema cannot say: that may be a 422.
        reply = case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=60)
        statuses[reply.status_code] += 1

    check()
    assert sum(statuses.values()) > 10
    assert statuses[200] >= answered if mode is GenerationMode.POSITIVE else statuses[422] > 10, statuses


def states() -> tuple[int, int]:
    """Slots in use, and tokens made, over all replicas of the tuned model."""
    found = serve.get_deployment_handle("tuned", "gptj").broadcast("state").results(timeout_s=20)
    return sum(rows for rows, _ in found), sum(made for _, made in found)


def leave(url: str, clients: int, streaming: int) -> tuple[int, int]:
    """Clients ask for long answers and hang up when so many have seen a token; tokens asked for, and tokens made."""
    order = {"prompt": "MACBETH", "max_new_tokens": 240, "temperature": 0}

    async def run() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            seen: list[dict[str, Any]] = [{} for _ in range(clients)]
            tasks = [asyncio.create_task(stream(session, url, order, place)) for place in seen]
            await asyncio.to_thread(wait_for, lambda: sum("tokens" in one for one in seen) >= streaming, 60)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    before = states()[1]
    asyncio.run(run())
    wait_for(lambda: states()[0] == 0, 60)
    return clients * 240, states()[1] - before


def test_clients_that_leave_free_their_slots(url: str) -> None:
    asked, made = leave(url, clients=4, streaming=4)
    assert made < 0.9 * asked, "the model went on for nobody"


def test_waiting_clients_that_leave_are_never_begun(url: str) -> None:
    # Eight at once are under way in the two replicas; the others wait.
    asked, made = leave(url, clients=24, streaming=5)
    assert made <= asked / 3, "more answers were made than there are slots"
    assert requests.post(f"{url}/generate", json=GOOD, timeout=60).status_code == 200


def replica_pids() -> set[int]:
    actors = list_actors(filters=[("state", "=", "ALIVE")])
    return {actor.pid for actor in actors if actor.class_name == "ServeReplica:gptj:tuned"}


def test_no_client_hangs_when_a_replica_dies_under_32_streams(url: str, prompts: list[str]) -> None:
    orders, before = orders_for(prompts[:32], most=120), replica_pids()
    assert len(before) == 2

    def kill(seen: list[dict]) -> None:
        # Both replicas work by then, with 4 slots each.
        wait_for(lambda: sum("tokens" in client for client in seen) >= 6, 90)
        os.kill(min(before), signal.SIGKILL)

    seen = streams(url, orders, meanwhile=kill)
    ends = Counter(end["end"] for end in seen)
    assert set(ends) == {"done", "error"} and ends["error"] <= 4, ends
    assert {end["error"] for end in seen if "error" in end} == {"the replica was lost: ask again"}
    retried = sum(end.get("tries", 1) > 1 for end in seen)
    assert 1 <= ends["error"] + retried <= 8, "the killed replica held up to 4 rows, and as many that waited"
    # Whoever was cut off asks again, and gets an answer that begins with what was seen.
    for order, end in zip(orders, seen, strict=True):
        if end["end"] == "error" or end["tries"] > 1:
            again = requests.post(f"{url}/generate", json=order, timeout=60).json()
            assert again["text"].startswith(end["text"])
    wait_for(lambda: len(replica_pids()) == 2 and bool(replica_pids() - before), 120)


def test_streams_tell_proxies_not_to_collect_them(url: str) -> None:
    # nginx and others collect an answer in memory, and hand it on when it is complete.
    with requests.post(f"{url}/stream", json=GOOD, stream=True, timeout=60) as reply:
        assert (reply.headers["X-Accel-Buffering"], reply.headers["Cache-Control"]) == ("no", "no-cache")
        assert reply.headers["Content-Type"] == "application/x-ndjson"
        assert "Content-Length" not in reply.headers and len(list(reply.iter_lines())) >= 1


HANG = 666  # the seed of a request whose second token never comes


@pytest.fixture(scope="module")
def watched(serve_port: int) -> Iterator[str]:
    """Two replicas of a model that can hang, with the shipped options."""

    class Watched(service.Model.func_or_class):
        """The shipped model with an engine that can hang; it keeps a list of the blocks that the model computes."""

        def __init__(self) -> None:
            super().__init__(data.tiny_gptj, context=512)
            plain_step, plain_forward, self.blocks = self.engine.step, service.forward, []

            def step(new: list) -> None:
                if any(row.seed == HANG for row in self.engine.rows):
                    threading.Event().wait()
                plain_step(new)

            def forward(model: Any, ids: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
                self.blocks.append(ids.numel())
                return plain_forward(model, ids, *more, **options)

            self.engine.step, service.forward = step, forward

        def seen_blocks(self) -> list[int]:
            return self.blocks

    shipped = service.build(service.Settings(slots=4))._bound_deployment.init_kwargs["tuned"]._bound_deployment
    model = shipped.options(
        func_or_class=Watched,
        name="watched",
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=40,
        user_config={"slots": 4, "step_limit_s": 60},
    )
    api = service.Api.options(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=100)
    serve.run(api.bind(tuned=model.bind()), name="watched", route_prefix="/watched")
    yield f"http://127.0.0.1:{serve_port}/watched"
    serve.delete("watched")


def test_long_texts_are_scored_in_blocks_of_bounded_size(watched: str) -> None:
    texts = [[(7 * i + place) % 1000 for place in range(400 + i % 50)] for i in range(12)]

    def score(text: list[int]) -> float:
        return requests.post(f"{watched}/score", json={"tokens": text}, timeout=60).json()["loss"]

    with ThreadPoolExecutor(len(texts)) as pool:
        together = list(pool.map(score, texts))
    model, _ = service.load(str(data.tiny_gptj()))
    assert together == pytest.approx([service.losses(model, [text])[0] for text in texts], abs=1e-4)
    found = serve.get_deployment_handle("watched", "watched").broadcast("seen_blocks").results(timeout_s=20)
    blocks = [block for replica in found for block in replica]
    assert sum(blocks) >= sum(map(len, texts)) and max(blocks) > 450, "some texts share a block"
    assert max(blocks) <= service.PLACES


def test_no_client_waits_for_a_step_that_never_returns(watched: str) -> None:
    def pids() -> set[int]:
        actors = list_actors(filters=[("state", "=", "ALIVE")])
        return {actor.pid for actor in actors if actor.class_name == "ServeReplica:watched:watched"}

    before, model = pids(), serve.get_deployment_handle("watched", "watched")
    assert len(before) == 2
    model.broadcast("reconfigure", {"slots": 4, "step_limit_s": 3}).results(timeout_s=20)
    seen = streams(watched, [GOOD | {"seed": seed, "max_new_tokens": 60} for seed in (HANG, *range(9))])
    ends = Counter(one["end"] for one in seen)
    assert seen[0]["end"] == "error" and set(ends) == {"done", "error"}, seen
    assert ends["error"] <= 4, "as many as the replica that hung had slots"
    assert {one["error"] for one in seen if "error" in one} == {"the replica was lost: ask again"}
    wait_for(lambda: len(pids()) == 2 and len(pids() - before) == 1, 90)
    assert requests.post(f"{watched}/generate", json=GOOD, timeout=60).status_code == 200


def test_full_service_refuses_at_once(serve_port: int) -> None:
    class Slow:
        async def stream(self, order: dict) -> AsyncIterator[dict]:
            await asyncio.sleep(1)
            yield {"text": "", "tokens": 1, "done": "length"}

    model = serve.deployment(name="slow", ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=1)(Slow)
    api = service.Api.options(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=100)
    serve.run(api.bind(tuned=model.options(max_queued_requests=2).bind()), name="slow", route_prefix="/slow")
    try:
        seen = streams(f"http://127.0.0.1:{serve_port}/slow", [GOOD] * 12)
    finally:
        serve.delete("slow")
    assert {end["end"] for end in seen} == {"done", "status 503, no end"}
    assert {end["detail"] for end in seen if "detail" in end} == {"busy: try again later"}
    assert ray.is_initialized()
