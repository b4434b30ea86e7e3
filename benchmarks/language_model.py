"""GPT-J: Ray Train beside torchrun, what DeepSpeed costs, what padding costs, and the share of the machine's peak."""

from __future__ import annotations

import itertools
import tempfile
import time
from typing import Any

import pyarrow.parquet as pq
import ray
import ray.train.torch
import torch
from ray.train.huggingface.transformers import prepare_trainer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from benchmarks.rows import Row, row
from benchmarks.training import fit
from benchmarks.under_torchrun import with_torchrun
from helpers import data
from helpers.deepspeed_workers import prepare_deepspeed
from helpers.language_models import DTYPES, number_format, padded_batches, useful_tokens_per_second
from helpers.session import ray_options
from scripts.finetune_gptj import deepspeed_config, pack

WORKERS, BLOCKS, LENGTH, ROUNDS = 2, 16, 128, 2
WARM_UP, WINDOWS, STEPS = 2, 3, 5  # as in benchmarks/training.py
ARTICLE_LENGTH = 512  # the article fills each row of text up to so many tokens


def measure() -> list[Row]:
    """The rows of this group; four minutes on two cores."""
    ray.init(**ray_options(num_cpus=WORKERS, log_to_driver=False))
    found: dict[str, list[float]] = {"Ray Train": [], "torchrun": [], "torchrun without DeepSpeed": []}
    for _ in range(ROUNDS):
        found["torchrun"] += with_torchrun("language_model", deepspeed=True)["speeds"]
        found["Ray Train"] += fit(worker_of_ray)["speeds"]
        found["torchrun without DeepSpeed"] += with_torchrun("language_model", deepspeed=False)["speeds"]
        print({name: [round(speed) for speed in speeds[-WINDOWS:]] for name, speeds in found.items()}, flush=True)
    ray.shutdown()
    speed = "tokens per second"
    return [
        row(
            "GPT-J with Trainer and DeepSpeed, the same script in two workers",
            speed,
            {name: found[name] for name in ("Ray Train", "torchrun")},
            at_least=0.97,
        ),
        row(
            "the same under torchrun, with DeepSpeed (ZeRO 2) or with Trainer alone",
            speed,
            {"DeepSpeed": found["torchrun"], "Trainer alone": found["torchrun without DeepSpeed"]},
            note="What DeepSpeed costs on this machine, where its parts all lie in the same memory.",
        ),
        *padding(),
        share_of_the_peak(),
    ]


def tokenizer_and_blocks() -> tuple[Any, torch.Tensor]:
    """Shakespeare in blocks of 128 tokens."""
    tokenizer = AutoTokenizer.from_pretrained(str(data.tiny_gptj()))
    lines = pq.read_table(data.text_file("shakespeare", "validation"))["text"].to_pylist()
    return tokenizer, torch.as_tensor(pack({"text": lines}, tokenizer, LENGTH)["input_ids"])


class Speed(TrainerCallback):
    """Notes when each window of steps ends, after the first ones."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if state.global_step >= WARM_UP and (state.global_step - WARM_UP) % STEPS == 0:
            torch.distributed.barrier()
            self.ends.append(time.perf_counter())


def trainer_and_speed(deepspeed: bool) -> tuple[Trainer, Speed]:
    """What both ways of starting have in common: the script."""
    _, blocks = tokenizer_and_blocks()
    numbers = number_format()
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        deepspeed=deepspeed_config(2) if deepspeed else None,
        max_steps=WARM_UP + WINDOWS * STEPS,
        per_device_train_batch_size=BLOCKS,
        learning_rate=1e-4,
        bf16=numbers == "bf16",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(str(data.tiny_gptj()), dtype=DTYPES["fp32"])
    rows = [{"input_ids": block, "labels": block} for block in blocks]
    speed = Speed()
    return Trainer(model, arguments, train_dataset=rows, callbacks=[speed]), speed


def tokens_per_second(trainer: Trainer, speed: Speed) -> dict[str, list[float]]:
    """Of both workers together, in each window of steps."""
    trainer.train()
    together = STEPS * WORKERS * BLOCKS * LENGTH
    return {"speeds": [together / (end - start) for start, end in itertools.pairwise(speed.ends)]}


def worker_of_ray(config: dict[str, Any]) -> dict[str, list[float]]:
    """With Ray Train."""
    prepare_deepspeed()
    trainer, speed = trainer_and_speed(deepspeed=True)
    return tokens_per_second(prepare_trainer(trainer), speed)


def worker_of_torchrun(settings: dict[str, Any]) -> dict[str, list[float]]:
    """Without Ray."""
    if settings["deepspeed"]:
        prepare_deepspeed()
    return tokens_per_second(*trainer_and_speed(settings["deepspeed"]))


def padding() -> list[Row]:
    """Tokens in the loss per second: packed blocks, and rows of text filled up as the article does."""
    tokenizer, blocks = tokenizer_and_blocks()
    lines = pq.read_table(data.text_file("shakespeare", "validation"))["text"].to_pylist()
    lines = [line for line in lines if line.strip()]
    whole = blocks[:32]
    ways = {
        "packed": [{"input_ids": whole, "labels": whole}],
        "to 512": padded_batches(tokenizer, lines[:64], 8, length=ARTICLE_LENGTH),
        "to the longest": padded_batches(tokenizer, lines[:1024], 256),
    }
    source = {"pretrained_model_name_or_path": str(data.tiny_gptj())}
    rounds = [useful_tokens_per_second(source, ways, seconds=2, rounds=1) for _ in range(ROUNDS + 1)]
    figures = {name: [found[name] for found in rounds] for name in ways}
    unit = "useful tokens per second"
    return [
        row(
            "packed, or each line filled up to 512 tokens as in the article",
            unit,
            {"packed": figures["packed"], "filled up": figures["to 512"]},
            at_least=20,
        ),
        row(
            "packed, or filled up to the longest line of the batch",
            unit,
            {"packed": figures["packed"], "filled up": figures["to the longest"]},
            at_least=1.8,
        ),
    ]


def share_of_the_peak() -> Row:
    """A training step of one process with all cores, and large products of matrices, in the same number format."""
    numbers = number_format()
    _, blocks = tokenizer_and_blocks()
    batch = blocks[: 2 * BLOCKS]
    model = AutoModelForCausalLM.from_pretrained(str(data.tiny_gptj()), dtype=DTYPES["fp32"])
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=numbers == "bf16"):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counted:
        step()
    size = 2048
    matrix = torch.randn(size, size, dtype=DTYPES[numbers])
    steps, peak = [], []
    for _ in range(6):
        start = time.perf_counter()
        step()
        steps.append(counted.get_total_flops() / (time.perf_counter() - start) / 1e9)
        start = time.perf_counter()
        for _ in range(8):
            matrix @ matrix
        peak.append(8 * 2 * size**3 / (time.perf_counter() - start) / 1e9)
    note = (
        f"In {numbers}, {torch.get_num_threads()} threads, {len(batch)} blocks of {LENGTH}: the "
        "operations that FlopCounterMode counts in a step (all products of matrices, those of the backward pass as "
        f"well), against products of {size} x {size}. The small model's matrices are 256 wide."
    )
    sides = {"a training step": steps[1:], "products of matrices": peak[1:]}
    return row("GPT-J: share of the machine's measured peak (MFU)", "10^9 operations per second", sides, note=note)
