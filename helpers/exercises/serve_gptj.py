"""Checks of the exercises of notebook 08. They need a running Ray."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers import data
from helpers.exercises.serve import deployment_problem, result
from helpers.exercises.verdict import Verdict, described, exercise_check, not_right, right

STOP = "\n\n"
# What the model writes, in the pieces in which it comes.
SPEECHES: dict[str, list[str]] = {
    "one piece": ["To be", ", or not", "\n\nOPHELIA.", " Good my lord"],
    "two pieces": ["Who's ", "there?\n", "\nFRANCISCO.", " Nay"],
    "lines": ["O Romeo,\n", "Romeo! ", "wherefore\nart", " thou\n", "Romeo?\n\n", "ROMEO."],
    "three line breaks": ["Words,", "\n", "\n", "\nwords."],
    "no stop": ["The rest", " is\n", "silence.", "\n"],
    "at once": ["\n\nHAMLET."],
    "nothing": [],
}
TOKENS = 17  # max_tokens of the requests
PATIENCE_S = 8.0  # for a piece that could come at once
# Beside what the notebook runs; streams that an answer has left behind are not waited for.
LIGHT = {
    "ray_actor_options": {"num_cpus": 0},
    "graceful_shutdown_timeout_s": 1,
    "graceful_shutdown_wait_loop_s": 0.1,
}


class _Script:
    """Plays the writer: it says the next piece only when it is told to."""

    def __init__(self) -> None:
        self.allowed: dict[str, int] = {}
        self.asked: list[Any] = []
        self.under_way: set[str] = set()

    async def stream(self, prompt: str, max_tokens: int = 40) -> Any:
        self.asked.append(max_tokens)
        self.under_way.add(prompt)
        try:
            for number, piece in enumerate(SPEECHES[prompt]):
                while self.allowed.get(prompt, 0) <= number:
                    await asyncio.sleep(0.01)
                yield piece
            while self.allowed.get(prompt, 0) <= len(SPEECHES[prompt]):
                await asyncio.sleep(0.01)
        finally:
            self.under_way.discard(prompt)

    def is_under_way(self, prompt: str) -> bool:
        return prompt in self.under_way

    def allow(self, prompt: str, pieces: int) -> None:
        self.allowed[prompt] = pieces

    def max_tokens(self) -> list[Any]:
        return self.asked


@exercise_check
def one_speech(answer: Any) -> Verdict:
    """Exercise 1: a deployment that passes on a stream up to the first empty line."""
    from ray import serve

    if (problem := deployment_problem(answer, ("stream",))) is not None:
        return problem
    script = serve.deployment(**LIGHT, max_ongoing_requests=100)(_Script).options(name="Script")
    try:
        app = answer.options(**LIGHT).bind(script.bind())
        handle = serve.run(app, name="exercise-1", route_prefix=None)
        writer = serve.get_deployment_handle("Script", "exercise-1")
        for prompt, pieces in SPEECHES.items():
            wrong = _judge_speech(handle, writer, prompt, pieces)
            if wrong is not None:
                return wrong
        asked = result(writer.max_tokens.remote())
        if set(asked) != {TOKENS}:
            hint = "Pass max_tokens on to the writer."
            return not_right(f"max_tokens {sorted(set(asked), key=str)} at the writer", TOKENS, hint)
    finally:
        serve.delete("exercise-1")
    return right("the speech ends at the empty line, and nothing waits longer than it must.")


def _judge_speech(handle: Any, writer: Any, prompt: str, pieces: list[str]) -> Verdict | None:
    """Let the pieces come one by one, and look what has arrived after each."""
    arrived: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_read, args=(handle, prompt, arrived), daemon=True).start()
    whole, said = "".join(pieces), ""
    text = whole.partition(STOP)[0]
    given = f"the pieces {pieces}"
    for count, early in enumerate(_early(pieces), start=1):
        result(writer.allow.remote(prompt, count))
        said, problem = _take(arrived, said, early, given)
        if problem is not None:
            return problem
        if len(said) < early and STOP in "".join(pieces[:count]):
            return not_right(f"{said!r} for {given}", repr(text), _stream_hint(said, text, whole, STOP))
        if len(said) < early:
            hint = "Keep back only a line break at the end, because it may be the first of two; all before it can go."
            return not_right(f"{said!r} after {count} of {given}", repr(whole[:early]), hint)
        if not text.startswith(said):
            return not_right(f"{said!r} for {given}", repr(text), _stream_hint(said, text, whole, STOP))
        if STOP in "".join(pieces[:count]):
            break
    if STOP not in whole:
        result(writer.allow.remote(prompt, len(pieces) + 1))
    ended, more, problem = _end(arrived, given)
    if problem is not None:
        return problem
    said += more
    if said != text:
        return not_right(f"{said!r} for {given}", repr(text), _stream_hint(said, text, whole, STOP))
    if not ended:
        hint = "Return when the empty line has come: each further piece is work for the model that nobody reads."
        return not_right(f"a stream that goes on, for {given}", "its end", hint)
    end = time.monotonic() + PATIENCE_S
    while result(writer.is_under_way.remote(prompt)):
        if time.monotonic() > end:
            hint = "Keep what stream.remote(...) returns, and call its cancel() before you return."
            return not_right(f"a writer that goes on for nobody, for {given}", "its stream cancelled", hint)
        time.sleep(0.1)
    return None


END = object()


def _read(handle: Any, prompt: str, arrived: queue.Queue[Any]) -> None:
    """In a thread: what comes goes into a queue, an error and the end as well."""
    try:
        for piece in handle.options(stream=True).stream.remote(prompt, max_tokens=TOKENS):
            arrived.put(piece)
        arrived.put(END)
    except Exception as error:
        arrived.put(error)


def _take(arrived: queue.Queue[Any], said: str, length: int, given: str) -> tuple[str, Verdict | None]:
    """Take pieces until the text is long enough, or nothing comes any more."""
    while len(said) < length:
        try:
            piece = arrived.get(timeout=PATIENCE_S)
        except queue.Empty:
            break
        if piece is END:
            arrived.put(END)
            break
        if (problem := _no_text(piece, given)) is not None:
            return said, problem
        said += piece
    return said, None


def _end(arrived: queue.Queue[Any], given: str) -> tuple[bool, str, Verdict | None]:
    """Whether the stream ends, what else it says until then, and what is wrong with that."""
    more = ""
    with contextlib.suppress(queue.Empty):
        while (piece := arrived.get(timeout=PATIENCE_S)) is not END:
            if (problem := _no_text(piece, given)) is not None:
                return False, more, problem
            more += piece
        return True, more, None
    return False, more, None


def _no_text(piece: Any, given: str) -> Verdict | None:
    if isinstance(piece, Exception):
        hint = "Read the writer with `async for piece in self.writer.stream.remote(...)`, and yield text."
        return not_right(f"{described(piece)}, for {given}", "pieces of text", hint)
    if not isinstance(piece, str):
        return not_right(f"{piece!r} for {given}", "text", "Yield pieces of text, one after the other.")
    if not piece:
        return not_right(f"an empty piece for {given}", "none", "Yield only if there is something to send.")
    return None


def _stream_hint(said: str, text: str, whole: str, stop: str) -> str:
    if said == whole:
        return (
            "The stop can be split over several pieces: look in what you have kept and the new piece together, "
            "and keep the longest end with which it could begin."
        )
    if said == text + stop:
        return "The stop itself does not belong to the answer."
    if stop in said:
        return "The first stop ends it, not the last."
    if said == text + stop[: len(said) - len(text)]:
        return "That shows the beginning of the stop: keep back an end that the stop could begin with."
    if text.startswith(said) and stop not in whole:
        return "When the pieces end without the stop, what you kept back is text: yield it."
    if text.startswith(said):
        return "The text before the stop is yielded as well, also what you had kept back when the stop came."
    if said.startswith(text):
        return "The stop was missed: keep back the longest end with which it could begin, however many pieces it takes."
    return "Each character of the text is yielded once, in its order: keep what is not sent yet in one string."


def _early(pieces: list[str]) -> Iterator[int]:
    """How many characters can be sent after each piece."""
    so_far = ""
    for piece in pieces:
        so_far += piece
        text, found, _ = so_far.partition(STOP)
        yield len(text) if found or not text.endswith("\n") else len(text) - 1


PROMPTS = {"ROMEO.": 12, "It is a truth": 5, "My dear,": 20}


@exercise_check
def adapted(answer: Any) -> Verdict:
    """Exercise 2: a deployment of a base model with an adapter of LoRA."""
    from ray import serve

    if (problem := deployment_problem(answer, ("__init__", "__call__"))) is not None:
        return problem
    base = str(data.tiny_gptj())
    with tempfile.TemporaryDirectory() as folder:
        adapter = str(Path(folder) / "adapter")
        without, expected = _make_adapter(base, adapter)
        try:
            app = answer.options(**LIGHT).bind(base, adapter)
            handle = serve.run(app, name="exercise-2", route_prefix=None)
            shutil.rmtree(adapter)  # whoever needs it now would load it for each request
            for prompt, tokens in PROMPTS.items():
                try:
                    got = result(handle.remote(prompt, tokens))
                except Exception as error:
                    hint = "Load both in __init__, once; __call__ only lets the model write."
                    return not_right(described(error), repr(expected[prompt]), hint)
                if not isinstance(got, str):
                    return not_right(repr(got), "a text", "Decode the new tokens, and return the text.")
                if got.strip() != expected[prompt].strip():
                    return not_right(
                        repr(got), repr(expected[prompt]), _adapter_hint(got, prompt, without[prompt], expected[prompt])
                    )
        finally:
            serve.delete("exercise-2")
    return right("a base model, a small file beside it, and another voice.")


def _adapter_hint(got: str, prompt: str, without: str, expected: str) -> str:
    if got.startswith(prompt):
        return "Only the new text: leave out as many tokens as the prompt has, or as many characters."
    if got.strip() == without.strip():
        return "That is the base model alone: the adapter is not in use."
    if got.startswith(expected) or expected.startswith(got):
        return "The length is max_tokens: generate(max_new_tokens=max_tokens)."
    return "Take the likeliest token at each place: do_sample=False."


def _make_adapter(base: str, folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """Store an adapter of random numbers; returns what the model writes without it and with it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(base)

    def written(model: Any) -> dict[str, str]:
        texts = {}
        for prompt, tokens in PROMPTS.items():
            inputs = tokenizer(prompt, return_tensors="pt")
            new = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0][inputs["input_ids"].shape[1] :]
            texts[prompt] = tokenizer.decode(new)
        return texts

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    without = written(model)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks Transformers for what will have another name
        torch.manual_seed(8)
        config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted_model = get_peft_model(model, config).eval()
    adapted_model.save_pretrained(folder)
    return without, written(adapted_model)
