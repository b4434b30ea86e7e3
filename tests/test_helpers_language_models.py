"""helpers.language_models: batches, speed, perplexity, samples, and the callbacks of Trainer."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import data, language_models

pytestmark = pytest.mark.fast

SOURCE = {"pretrained_model_name_or_path": str(data.tiny_gptj())}
ROWS = ["But soft!", "What light through yonder window breaks? It is the east, and Juliet is the sun.", "Arise,"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return AutoTokenizer.from_pretrained(data.tiny_gptj())


def test_padding_is_out_of_the_loss_and_on_the_right(tokenizer) -> None:
    (batch, other) = language_models.padded_batches(tokenizer, ROWS[:4], rows_per_batch=2)
    lengths = [len(tokenizer(row)["input_ids"]) for row in ROWS[:2]]
    assert batch["input_ids"].shape == batch["labels"].shape == (2, max(lengths))
    assert other["input_ids"].shape[0] == 2
    assert (batch["labels"] != -100).sum(dim=1).tolist() == lengths
    assert torch.equal(batch["labels"][0, : lengths[0]], batch["input_ids"][0, : lengths[0]])


def test_rows_are_filled_up_or_cut_to_a_length(tokenizer) -> None:
    for length in (4, 64):
        batches = language_models.padded_batches(tokenizer, ROWS, rows_per_batch=4, length=length)
        assert [tuple(batch["input_ids"].shape) for batch in batches] == [(4, length)] * 2, "one row fills no batch"


def test_useful_tokens_do_not_count_padding(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()  # a clock that other programs do not disturb: each look takes a twentieth of a second
    monkeypatch.setattr(language_models, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 20))
    long = [" ".join(ROWS)] * 8
    full = language_models.padded_batches(tokenizer, long, 8, length=64)
    empty = [{"input_ids": full[0]["input_ids"], "labels": full[0]["labels"].clone()}]
    empty[0]["labels"][:, 4:] = -100
    speeds = language_models.useful_tokens_per_second(SOURCE, {"full": full, "empty": empty}, seconds=0.1, rounds=1)
    assert speeds["full"] / speeds["empty"] == pytest.approx(64 / 4), "only tokens that count in the loss"
    with pytest.raises(ValueError, match="at least one batch of 'nothing'"):
        language_models.useful_tokens_per_second(SOURCE, {"nothing": []})


def test_padding_and_packing_are_measured_with_the_same_text(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(language_models, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 20))
    blocks = np.full((40, 128), 7)
    rates = language_models.rates_with_padding(
        SOURCE["pretrained_model_name_or_path"], tokenizer, ["Arise,"] * 256, blocks, seconds=0.1, rounds=1
    )
    assert list(rates) == ["padded to 128", "padded to the longest", "packed"]
    tokens = len(tokenizer("Arise,")["input_ids"])
    assert rates["packed"] / rates["padded to 128"] == pytest.approx(128 / tokens)
    assert rates["padded to the longest"] / rates["padded to 128"] == pytest.approx(256 / 32)


@dataclass
class Rows:
    """As much of a dataset as whole_steps needs."""

    rows: int

    def materialize(self) -> Rows:
        return self

    def count(self) -> int:
        return self.rows

    def limit(self, most: int) -> Rows:
        return Rows(min(most, self.rows))


@pytest.mark.parametrize(("rows", "at_most", "kept"), [(100, None, 96), (100, 40, 32), (32, None, 32), (31, None, 0)])
def test_blocks_fill_whole_steps(rows: int, at_most: int | None, kept: int) -> None:
    if not kept:
        with pytest.raises(ValueError, match="There are 31 blocks, and a step takes 32: read more text"):
            language_models.whole_steps(Rows(rows), 32, at_most)
        return
    assert language_models.whole_steps(Rows(rows), 32, at_most) == (Rows(kept), kept // 32)


def test_perplexity_is_that_of_the_mean_loss() -> None:
    blocks = np.arange(5 * 16).reshape(5, 16)
    model = AutoModelForCausalLM.from_pretrained(data.tiny_gptj(), dtype=torch.float32).eval()
    with torch.inference_mode():
        ids = torch.tensor(blocks)
        loss = model(input_ids=ids, labels=ids).loss.item()
    for batch_size in (2, 5):
        assert language_models.perplexity(SOURCE, blocks, batch_size) == pytest.approx(math.exp(loss), rel=1e-4)


def test_random_numbers_depend_on_the_place_of_a_prompt() -> None:
    texts = [language_models.continuations(SOURCE, ["ROMEO."] * 2, new_tokens=20) for _ in range(2)]
    assert texts[0] == texts[1] and all(text.startswith("ROMEO.") for text in texts[0])
    assert texts[0][0] != texts[0][1]


def test_texts_side_by_side_are_escaped_and_keep_their_lines() -> None:
    shown = language_models.side_by_side({"before": ["a < b"], "after": ["ROMEO.\nBut"]}).data
    assert "a &lt; b" in shown and "ROMEO.<br>But" in shown and "before" in shown


def test_a_kept_model_is_what_is_needed_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(FileNotFoundError, match="has no weights"):
        language_models.keep_model(str(tmp_path / "checkpoint"), tmp_path, 4.5, 128)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "optimizer.pt", "trainer_state.json"):
        (tmp_path / "checkpoint" / name).write_text(name)
    (tmp_path / "kept").mkdir()
    language_models.keep_model(str(tmp_path / "checkpoint"), tmp_path / "kept", 4.5, 128)
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert kept == {"config.json", "model.safetensors", "tokenizer.json", "model.json"}
    about = json.loads((tmp_path / "kept" / "model.json").read_text())
    assert (about["eval_loss"], about["block"]) == (4.5, 128)


def test_only_steps_are_timed() -> None:
    timer = language_models.StepTimer()
    asked = []
    state = SimpleNamespace(compute_steps=lambda *found: asked.append(found), max_steps=9, global_step=4)
    arguments = SimpleNamespace()
    before = time.time()
    timer.on_train_begin(arguments, state, None)
    assert asked == [(arguments, 9)]
    assert timer.times()["steps_per_s"] == 0
    for _ in range(2):
        time.sleep(0.1)
        timer.on_step_end(arguments, state, None)
        time.sleep(0.4)  # an evaluation, or a checkpoint
        timer.on_evaluate(arguments, state, None)
        timer.on_save(arguments, state, None)
    times = timer.times()
    assert 2 < times["steps_per_s"] < 11
    assert times["resumed_at"] == 4
    assert before <= times["began"] <= times["saved"] - 0.9


def _one_step(rank: int, step: int) -> None:
    context = SimpleNamespace(get_world_rank=lambda: rank)
    with mock.patch("ray.train.get_context", return_value=context):
        language_models.LoseWorker(rank=1, step=30).on_step_end(None, SimpleNamespace(global_step=step), None)


@pytest.mark.parametrize(("rank", "step", "lost"), [(1, 30, True), (0, 30, False), (1, 29, False)])
def test_only_the_chosen_worker_is_lost(rank: int, step: int, lost: bool) -> None:
    process = multiprocessing.get_context("fork").Process(target=_one_step, args=(rank, step))
    process.start()
    process.join(60)
    assert process.exitcode == (-9 if lost else 0)
