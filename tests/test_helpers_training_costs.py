"""The memory and the time of a training step, on a model whose sizes can be counted by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.training_costs import activations_mb, megabytes, step_parts, training_sizes

pytestmark = pytest.mark.fast


class Tiny(nn.Module):
    """A language model of 10 tokens with vectors of 4 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Embedding(10, 4)
        self.last = nn.Linear(4, 10, bias=False)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        scores = self.last(self.vectors(input_ids))
        return SimpleNamespace(loss=nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten()))


BLOCKS = torch.arange(6).reshape(2, 3)


def test_megabytes() -> None:
    assert megabytes([torch.zeros(250_000), torch.zeros(1000, 500, dtype=torch.bfloat16)]) == 2.0
    assert megabytes([]) == 0


def test_training_sizes_count_what_is_trained() -> None:
    model = Tiny()
    model.vectors.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model(BLOCKS, BLOCKS).loss.backward()
    optimizer.step()
    sizes = training_sizes(optimizer)
    assert sizes["trained"] == 40
    assert sizes["gradients MB"] == pytest.approx(160e-6)
    # Two numbers for each parameter, and the count of the steps.
    assert sizes["optimizer MB"] == pytest.approx(324e-6)


def test_activations_leave_out_the_parameters_and_count_each_memory_once() -> None:
    # For the backward pass: six tokens twice (as input and as labels they are the same memory), their vectors, and the
    # scores' log-softmax with its divisor; PyTorch decides about the last.
    tokens, vectors, scores = 6 * 8, 6 * 4 * 4, 6 * 10 * 4
    found = activations_mb(Tiny(), BLOCKS) * 1e6
    assert tokens + vectors + scores <= found <= tokens + vectors + scores + 64


def test_a_frozen_model_keeps_less() -> None:
    model = Tiny()
    model.vectors.requires_grad_(False)
    model.last.requires_grad_(False)
    assert activations_mb(model, BLOCKS) == 0


def test_step_parts_take_turns_and_train() -> None:
    models = {"one": Tiny(), "other": Tiny()}
    before = models["one"].last.weight.clone()
    table = step_parts(models, BLOCKS, rounds=2)
    assert list(table.index) == [(1, "one"), (1, "other"), (2, "one"), (2, "other")]
    assert list(table.columns) == ["forward", "backward", "optimizer"] and (table > 0).all().all()
    assert not torch.equal(before, models["one"].last.weight)
