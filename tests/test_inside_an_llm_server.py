"""The engine of the deep dive inside_an_llm_server: answers don't depend on neighbours, and nobody waits in vain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import nbformat
import pyarrow.parquet as pq
import pytest
import ray
import torch
from ray import serve
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GPT2Config, GPT2LMHeadModel

from helpers import data
from helpers.lessons import run_cells
from tests.services import wait_for

NOTEBOOK = "deep_dives/inside_an_llm_server"


@pytest.fixture(scope="module")
def lesson() -> SimpleNamespace:
    """The cells of the engine, and what they expect of those before them."""
    names = SimpleNamespace(torch=torch, F=F, DynamicCache=DynamicCache)
    names.AutoModelForCausalLM, names.AutoTokenizer = AutoModelForCausalLM, AutoTokenizer
    run_cells(NOTEBOOK, "engine", vars(names))
    return names


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(data.fine_tuned_gptj()))


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(str(data.fine_tuned_gptj()), dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    table = pq.read_table(data.text_file("shakespeare", "validation"))
    verses = [line for line in table.column("text").to_pylist() if line.strip()]
    return [tokenizer("\n".join(verses[31 * i : 31 * i + 1 + i % 5])).input_ids for i in range(40)]


def answers(
    lesson: Any, model: Any, end: int | None, prompts: list[list[int]], let_in: Callable[[int, int], int]
) -> list[list[int]]:
    """What the engine makes of the prompts, if let_in(step, sequences under way) of them join in each step."""
    kinds = (0, 0.5, 1)
    sequences = [lesson.Sequence(prompt, 5 + i % 23, kinds[i % 3], seed=i) for i, prompt in enumerate(prompts)]
    engine, waiting, steps = lesson.Engine(model, end), list(sequences), 0
    while waiting or engine.sequences:
        count = let_in(steps, len(engine.sequences)) if engine.sequences else 1
        new, waiting, steps = waiting[:count], waiting[count:], steps + 1
        engine.step(new)
    assert engine.cache is None, "an engine without sequences keeps no cache"
    return [sequence.output_ids for sequence in sequences]


@pytest.mark.fast
def test_it_is_about_150_lines() -> None:
    cells = nbformat.read(data.REPOSITORY / "notebooks" / f"{NOTEBOOK}.ipynb", 4).cells
    sources = [cell.source for cell in cells if "engine" in cell.metadata.get("tags", [])]
    assert 130 <= sum(bool(line.strip()) for source in sources for line in source.splitlines()) <= 170


@pytest.mark.parametrize("together", [lambda step, under_way: 40, lambda step, under_way: max(0, 7 - under_way)])
def test_sequences_that_come_and_go_get_the_tokens_they_get_alone(
    lesson: Any, model: Any, tokenizer: Any, prompts: list[list[int]], together: Callable[[int, int], int]
) -> None:
    assert len({len(prompt) for prompt in prompts}) > 15, "the prompts must differ in length"
    end = tokenizer.eos_token_id
    alone = answers(lesson, model, end, prompts, lambda step, under_way: 0)
    assert answers(lesson, model, end, prompts, together) == alone


def test_a_model_with_learned_positions_does_not_see_the_padding(lesson: Any, prompts: list[list[int]]) -> None:
    config = GPT2Config(vocab_size=4096, n_positions=512, n_embd=32, n_layer=2, n_head=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learned = GPT2LMHeadModel(config).eval()
    alone = answers(lesson, learned, None, prompts[:12], lambda step, under_way: 0)
    together = answers(lesson, learned, None, prompts[:12], lambda step, under_way: max(0, 3 - under_way))
    assert together == alone


def test_greedy_answers_are_those_of_transformers(lesson: Any, model: Any, prompts: list[list[int]]) -> None:
    for prompt in prompts[:5]:
        ids = torch.tensor([prompt])
        wanted = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        sequence, engine = lesson.Sequence(prompt, 12), lesson.Engine(model, None)
        for new in [[sequence], *[[]] * 11]:
            engine.step(new)
        assert sequence.output_ids == wanted[0, len(prompt) :].tolist()


@pytest.mark.fast
def test_an_answer_ends_with_the_token_that_ends_a_text(lesson: Any) -> None:
    sequence = lesson.Sequence([1], 9)
    for token in (5, 6, 0):
        assert not sequence.finished
        sequence.append(token, end=0)
    assert sequence.finished and sequence.output_ids == [5, 6, 0]


@pytest.mark.fast
def test_draws_depend_on_the_seed_alone(lesson: Any) -> None:
    logits = torch.randn(16, 4, 1000, generator=torch.Generator().manual_seed(0)) * 3

    def draws(order: list[int], seed: int) -> dict[int, list[int]]:
        """Of four sequences, which draw in this order."""
        sequences = [lesson.Sequence([1], 99, 0.5 + i / 4, seed=seed + i) for i in range(4)]
        drawn = [{i: sequences[i].sample(step[i]) for i in order} for step in logits]
        return {i: [step[i] for step in drawn] for i in order}

    assert draws([0, 1, 2, 3], seed=1) == draws([3, 1, 0, 2], seed=1)
    assert draws([2], seed=1)[2] == draws([0, 1, 2, 3], seed=1)[2]
    assert draws([0, 1, 2, 3], seed=1) != draws([0, 1, 2, 3], seed=9)


@pytest.mark.fast
@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.3])
def test_tokens_are_drawn_as_often_as_their_chances_say(lesson: Any, temperature: float) -> None:
    logits, count = torch.tensor([2.0, -1.0, 0.5, 3.0, 1.0, -torch.inf, 2.9]), 5_000
    chances = (logits / temperature).softmax(dim=0)
    drawn = [lesson.Sequence([1], 9, temperature, seed).sample(logits) for seed in range(count)]
    shares = torch.tensor(drawn).bincount(minlength=len(logits)) / count
    # Four standard errors; the seeds are always the same, so it is never red by chance.
    assert ((shares - chances).abs() <= 4 * (chances * (1 - chances) / count).sqrt()).all(), (shares, chances)


class Fake:
    """An engine without a model, in whose steps each sequence gets a 7; the first step may fail."""

    def __init__(self, fails: bool = False) -> None:
        self.sequences: list[Any] = []
        self.fails, self.members = fails, []

    def step(self, new: list[Any]) -> None:
        self.sequences = self.sequences + new
        self.members.append(len(self.sequences))
        if self.fails:
            self.fails = False
            raise ValueError("out of memory")
        for sequence in self.sequences:
            sequence.append(7, end=None)
        self.keep([s for s in self.sequences if not s.finished])

    def keep(self, sequences: list[Any]) -> None:
        self.sequences = sequences


async def tokens_of(sequence: Any) -> list[int]:
    got = []
    while (token := await asyncio.wait_for(sequence.queue.get(), 60)) is not None:
        if isinstance(token, Exception):
            raise token
        got.append(token)
    return got


@pytest.mark.fast
def test_an_error_in_a_step_reaches_everybody_who_took_part_and_nobody_else(lesson: Any) -> None:
    async def all_of_them() -> list[Any]:
        scheduler = lesson.Scheduler(Fake(fails=True))
        scheduler.slots = 2
        sequences = [lesson.Sequence([1], 3) for _ in range(3)]
        for sequence in sequences:
            scheduler.add(sequence)
        return await asyncio.gather(*map(tokens_of, sequences), return_exceptions=True)

    first, second, waiting = asyncio.run(all_of_them())
    assert all(isinstance(failed, ValueError) and "out of memory" in str(failed) for failed in (first, second))
    assert waiting == [7, 7, 7], "who only waited for a slot must not suffer"


@pytest.mark.fast
def test_who_cancels_leaves_the_slot_or_the_queue(lesson: Any) -> None:
    async def visit() -> tuple[list[int], list[int], Any]:
        engine = Fake()
        scheduler = lesson.Scheduler(engine)
        leaves, never_begins, stays = (lesson.Sequence([1], n) for n in (10**6, 10**6, 4))
        for sequence in (leaves, never_begins, stays):
            scheduler.add(sequence)
        for _ in range(3):
            await asyncio.wait_for(leaves.queue.get(), 60)
        scheduler.cancel(never_begins)
        scheduler.cancel(leaves)
        got = await tokens_of(stays)
        await asyncio.wait_for(scheduler.task, 60)
        return got, never_begins.output_ids, engine

    got, never_begun, engine = asyncio.run(visit())
    assert got == [7] * 4 and never_begun == []
    assert max(engine.members) == 1, "there was one slot"
    assert engine.sequences == [] and len(engine.members) < 100, "the engine went on for nobody"


@pytest.mark.fast
def test_letter_of_several_tokens_comes_whole(lesson: Any, tokenizer: Any) -> None:
    text = "O Romé, ☾ and 𝄞!"

    async def gather() -> list[str]:
        sequence = SimpleNamespace(queue=asyncio.Queue())
        for token in [*tokenizer(text).input_ids, None]:
            sequence.queue.put_nowait(token)
        return [piece["text"] async for piece in lesson.pieces(sequence, tokenizer)]

    pieces = asyncio.run(gather())
    assert "".join(pieces) == text and len(pieces) == len(tokenizer(text).input_ids)
    assert not any("\ufffd" in piece for piece in pieces)


# With Ray Serve -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(serve_port: int, lesson: Any) -> Iterator[Any]:
    deployment = lesson.LLMServer.options(ray_actor_options={"num_cpus": 0.5}, user_config={"slots": 4})
    yield serve.run(deployment.bind(str(data.fine_tuned_gptj())), name="llm", route_prefix=None)
    serve.delete("llm")


def state(server: Any) -> tuple[int, int]:
    """Slots in use, and rows computed until now."""
    return server.state.remote().result(timeout_s=30)


async def text_of(server: Any, prompt: str, **options: Any) -> str:
    response: AsyncIterator[dict] = server.options(stream=True).stream.remote(prompt, **options)
    return "".join([piece["text"] async for piece in response])


@pytest.mark.long
def test_answers_of_the_server_together_equal_those_alone(server: Any, tokenizer: Any, prompts: list) -> None:
    requests = [(tokenizer.decode(p), {"max_new_tokens": 6 + i, "temperature": i % 2, "seed": i})
                for i, p in enumerate(prompts[:12])]  # fmt: skip

    async def ask(at_once: bool) -> list[str]:
        waiting = [text_of(server, prompt, **options) for prompt, options in requests]
        return list(await asyncio.gather(*waiting)) if at_once else [await one for one in waiting]

    assert asyncio.run(ask(True)) == asyncio.run(ask(False))


@pytest.mark.long
@pytest.mark.parametrize(("clients", "most"), [(4, 0.9), (12, 0.4)])
def test_clients_that_leave_free_their_slots(server: Any, clients: int, most: float) -> None:
    """With 12 clients, 8 wait when they leave, and are never begun."""

    async def leave() -> None:
        responses = [server.options(stream=True).stream.remote("MACBETH", max_new_tokens=240) for _ in range(clients)]
        first = [asyncio.create_task(anext(response)) for response in responses]
        while sum(task.done() for task in first) < 4:
            await asyncio.sleep(0.01)
        for response in responses:
            response.cancel()
        await asyncio.gather(*first, return_exceptions=True)

    before = state(server)[1]
    asyncio.run(asyncio.wait_for(leave(), 60))
    wait_for(lambda: state(server)[0] == 0, 60)
    assert state(server)[1] - before < most * clients * 240, "the model went on for nobody"
    assert asyncio.run(text_of(server, "ROMEO.", max_new_tokens=3))
    assert ray.is_initialized()
