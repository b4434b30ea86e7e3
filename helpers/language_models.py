"""What lessons 07 and 08 need beside Ray: training loops to compare with, perplexity, samples, callbacks, loading."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import statistics
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
import ray.train
import torch
from IPython.display import HTML
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, TrainerCallback

from helpers.measure import free_memory

OUT_OF_THE_LOSS = -100
# The type of PyTorch for each name of a number format.
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def has_gpu() -> bool:
    """Say whether this process may use a GPU: in a worker of Ray, whether Ray has given it one.

    Source: written for this course.
    """
    return torch.cuda.is_available() and (not ray.is_initialized() or bool(ray.get_gpu_ids()))


def number_format() -> str:
    """Say what this process should calculate in: the format for a GPU if it has one, else for its CPU.

    GPUs have bfloat16 since Ampere, older ones float16. CPUs are measured, see `helpers.precision`.

    Returns:
        "bf16", "fp16" or, in 32 bits, "fp32".

    Source: compute capabilities in NVIDIA's CUDA programming guide.
    """
    from helpers.precision import cpu_supports_bf16

    if has_gpu():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    return "bf16" if cpu_supports_bf16() else "fp32"


def padded_batches(
    tokenizer: Any, rows: Sequence[str], rows_per_batch: int, length: int | None = None
) -> list[dict[str, torch.Tensor]]:
    """Turn each row of text into a row of tokens, filled up with padding on the right that is not in the loss.

    Args:
        tokenizer: of Transformers, with an end token, which pads as well.
        rows: texts; what does not fill a batch is left out.
        rows_per_batch: how many of them are in one batch.
        length: of each row of tokens, longer ones are cut; None: that of the longest row in its batch.

    Returns:
        Batches with input_ids and labels, whole numbers of shape (rows_per_batch, length).

    Source: written for this course, on the tokenizers of Transformers.
    """
    tokenizer.pad_token = tokenizer.eos_token
    limits = {"padding": "max_length", "truncation": True, "max_length": length} if length else {"padding": True}
    batches = []
    for i in range(0, len(rows) - rows_per_batch + 1, rows_per_batch):
        found = tokenizer(list(rows[i : i + rows_per_batch]), return_tensors="pt", **limits)
        labels = found["input_ids"].masked_fill(found["attention_mask"] == 0, OUT_OF_THE_LOSS)
        batches.append({"input_ids": found["input_ids"], "labels": labels})
    return batches


def useful_tokens_per_second(
    source: Mapping[str, Any],
    ways: Mapping[str, Sequence[Mapping[str, torch.Tensor]]],
    seconds: float = 0.8,
    rounds: int = 3,
    threads: int = 2,
) -> dict[str, float]:
    """Train a model on the CPU in a plain loop, with different batches in turns, and count the tokens in the loss.

    Args:
        source: arguments of `from_pretrained`, see `perplexity`.
        ways: name -> batches, each with input_ids and labels, whole numbers of shape (rows, length); a label of -100 is
            not counted.
        seconds: how long to train each way in each round, after one step to warm up.
        rounds: how often each way has its turn, because other programs disturb so short a measurement.
        threads: of PyTorch in this process, from then on.

    Returns:
        Name -> tokens per second, the median of the rounds.

    Raises:
        ValueError: a way has no batches.

    Source: written for this course.
    """
    for name, batches in ways.items():
        if not batches:
            raise ValueError(f"useful_tokens_per_second expected at least one batch of {name!r}, but got none.")
    torch.set_num_threads(threads)
    half = number_format() == "bf16"
    turns = [{name: _speed(source, batches, seconds, half) for name, batches in ways.items()} for _ in range(rounds)]
    return {name: statistics.median(turn[name] for turn in turns) for name in ways}


def rates_with_padding(
    folder: str, tokenizer: Any, rows: Sequence[str], blocks: Any, **measuring: Any
) -> dict[str, float]:
    """Train with padded rows and with packed blocks, in turns, and count the tokens in the loss.

    Args:
        folder: of the model.
        tokenizer: of Transformers, with an end token.
        rows: texts to pad, at least 256.
        blocks: packed tokens, whole numbers of shape (at least 32, 128).
        measuring: for `useful_tokens_per_second`.

    Returns:
        "padded to 128", "padded to the longest" and "packed" -> useful tokens per second. Batches of packed blocks, and
        of rows padded to 128, are 32 x 128 tokens; with the longest as the measure, a batch has 256 rows. Memory that
        this process no longer needs afterwards goes back to the system.

    Source: written for this course.
    """
    whole = torch.as_tensor(blocks[:32])
    ways = {
        "padded to 128": padded_batches(tokenizer, rows, 32, length=128),
        "padded to the longest": padded_batches(tokenizer, rows, 256),
        "packed": [{"input_ids": whole, "labels": whole}],
    }
    rates = useful_tokens_per_second({"pretrained_model_name_or_path": folder}, ways, **measuring)
    free_memory()
    return rates


def whole_steps(
    blocks: ray.data.Dataset, blocks_per_step: int, at_most: int | None = None
) -> tuple[ray.data.Dataset, int]:
    """As many blocks as fill whole steps of all workers, so that an epoch ends with a step, and how many steps that is.

    Args:
        blocks: rows of tokens; they are computed now.
        blocks_per_step: of all workers and passes together.
        at_most: take no more blocks than these; None: all.

    Raises:
        ValueError: there are fewer blocks than a step takes.

    Source: written for this course.
    """
    blocks = (blocks if at_most is None else blocks.limit(at_most)).materialize()
    steps = blocks.count() // blocks_per_step
    if not steps:
        raise ValueError(
            f"There are {blocks.count()} blocks, and a step takes {blocks_per_step}: read more text, or make "
            "batch_per_worker, accumulation or workers smaller."
        )
    return blocks.limit(steps * blocks_per_step).materialize(), steps


def _speed(
    source: Mapping[str, Any], batches: Sequence[Mapping[str, torch.Tensor]], seconds: float, half: bool
) -> float:
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    useful, start = 0, None
    for batch in itertools.cycle(batches):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if start is None:
            start = time.perf_counter()  # the first step only warms up
            continue
        useful += int((batch["labels"] != OUT_OF_THE_LOSS).sum())
        if time.perf_counter() - start > seconds:
            break
    return useful / (time.perf_counter() - start)


def _loaded(source: Mapping[str, Any]) -> tuple[Any, str]:
    """The model on this process's GPU in 16 bits, or on its CPU in 32."""
    device = "cuda" if has_gpu() else "cpu"
    dtype = DTYPES[number_format()] if device == "cuda" else torch.float32
    return AutoModelForCausalLM.from_pretrained(**{**source, "dtype": dtype}).to(device).eval(), device


def load_model(folder: str, revision: str | None = None) -> tuple[Any, Any]:
    """A language model that will answer requests, and its tokenizer.

    The model is on the GPU that Ray has reserved for this process, in 16 bits, or else on the CPU in 32. PyTorch gets
    one thread, because several replicas share the cores.

    Args:
        folder: of the model, or its name on the hub.
        revision: its commit on the hub.

    Source: written for this course.
    """
    torch.set_num_threads(1)
    gpu = bool(ray.is_initialized() and ray.get_gpu_ids())
    dtype = DTYPES[number_format()] if gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, revision=revision, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
    return model.to("cuda" if gpu else "cpu").eval(), tokenizer


class OffSwitch(StoppingCriteria):
    """Ends `generate` after the token under way, when somebody sets `off`; counts the tokens.

    Attributes:
        off: whether to stop.
        tokens: how many were written.

    Source: written for this course.
    """

    def __init__(self) -> None:
        self.off, self.tokens = False, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **others: Any) -> torch.Tensor:
        """One boolean for each row of input_ids, which has the shape (rows, tokens)."""
        self.tokens += 1
        return torch.full((len(input_ids),), self.off, device=input_ids.device)


def perplexity(source: Mapping[str, Any], blocks: np.ndarray, batch_size: int) -> float:
    """The exponential of a model's mean loss over blocks of tokens: a choice among how many equally likely tokens?

    Args:
        source: arguments of `from_pretrained`, such as {"pretrained_model_name_or_path": folder}.
        blocks: tokens, whole numbers of shape (blocks, length).
        batch_size: how many blocks the model sees at a time.

    Source: written for this course.
    """
    model, device = _loaded(source)
    losses = []
    with torch.inference_mode():
        for part in torch.tensor(blocks, device=device).split(batch_size):
            losses += [model(input_ids=part, labels=part).loss.item()] * len(part)
    return math.exp(sum(losses) / len(losses))


def continuations(source: Mapping[str, Any], prompts: Sequence[str], new_tokens: int = 40) -> list[str]:
    """Let a model go on with each prompt, drawing from the 50 likeliest tokens.

    The random numbers depend on the place of the prompt in the list alone, so two models draw with the same ones.

    Args:
        source: arguments of `from_pretrained`, see `perplexity`.
        prompts: beginnings of texts.
        new_tokens: how many tokens to add to each.

    Returns:
        Prompts with their continuations, in the order of the prompts.

    Source: written for this course.
    """
    model, device = _loaded(source)
    tokenizer = AutoTokenizer.from_pretrained(**{name: value for name, value in source.items() if name != "dtype"})
    written = []
    for place, prompt in enumerate(prompts):
        torch.manual_seed(place)
        tokens = tokenizer(prompt, return_tensors="pt").to(device)
        answer = model.generate(**tokens, do_sample=True, temperature=0.8, top_k=50, max_new_tokens=new_tokens)
        written.append(tokenizer.decode(answer[0]))
    return written


def side_by_side(texts: Mapping[str, Sequence[str]]) -> HTML:
    """Show texts in the columns of a table, line breaks included.

    Args:
        texts: heading -> texts, equally many under each.

    Source: written for this course, on pandas and IPython.
    """
    lines = pd.DataFrame(dict(texts)).map(lambda text: escape(text).replace("\n", "<br>"))
    cell = '<div style="text-align: left">{}</div>'
    return HTML(lines.map(cell.format).to_html(escape=False, index=False, justify="left"))


def keep_model(checkpoint: str, folder: Path, eval_loss: float, block: int) -> None:
    """Copy what `from_pretrained` needs out of a checkpoint of Trainer; what the optimizer kept stays behind.

    Args:
        checkpoint: the folder of the checkpoint.
        folder: an existing folder for the weights, their configuration and the tokenizer. It also gets a `model.json`
            with the next two, which `helpers.data.fine_tuned_gptj` looks for.
        eval_loss: the mean loss per token over Shakespeare's validation text.
        block: the number of tokens in each block of that text.

    Raises:
        FileNotFoundError: the checkpoint has no weights.

    Source: written for this course; the names are those of Transformers 5.
    """
    if not list(Path(checkpoint).glob("*.safetensors")):
        raise FileNotFoundError(f"{checkpoint} has no weights: expected *.safetensors, found none.")
    for name in ("config.json", "generation_config.json", "*.safetensors*", "tokenizer*.json"):
        for path in Path(checkpoint).glob(name):
            shutil.copy2(path, folder / path.name)
    about = {"eval_loss": eval_loss, "block": block, "text": "shakespeare, validation"}
    (folder / "model.json").write_text(json.dumps(about, indent=1))


class StepTimer(TrainerCallback):
    """Times the training steps of Hugging Face's Trainer, without its evaluations and checkpoints.

    Source: written for this course.
    """

    def __init__(self) -> None:
        self._steps, self._seconds, self._resumed_at = 0, 0.0, 0
        self._began = self._last = time.time()

    def times(self) -> dict[str, float]:
        """What is known by now.

        Returns:
            resumed_at: the step at which training began; began: when that was, and saved: now, in seconds since 1970;
            steps_per_s: since training began, 0 before the first step.
        """
        speed = self._steps / self._seconds if self._steps else 0.0
        return {"resumed_at": self._resumed_at, "began": self._began, "saved": time.time(), "steps_per_s": speed}

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        state.compute_steps(args, state.max_steps)  # a checkpoint brings the intervals of its own run
        self._resumed_at = state.global_step
        self._began = self._last = time.time()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        now = time.time()
        self._seconds += now - self._last
        self._steps, self._last = self._steps + 1, now

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._last = time.time()

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._last = time.time()


class LoseWorker(TrainerCallback):
    """For an experiment: the process of one worker is killed after a step, as if its machine had been lost.

    Ray Train asks its workers for their reports every two seconds. A checkpoint that was reported just before would be
    lost with the worker, and with short steps the whole run would begin anew. So the worker waits for three seconds.

    Args:
        rank: of the worker that is lost.
        step: after which step, counted over the whole training.

    Source: written for this course.
    """

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step == self.step and ray.train.get_context().get_world_rank() == self.rank:
            time.sleep(3)
            os.kill(os.getpid(), signal.SIGKILL)
