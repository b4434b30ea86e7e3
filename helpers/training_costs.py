"""What a training step needs: memory for gradients, the optimizer and activations, and time for each of its parts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import pandas as pd
import torch
from torch import nn

from helpers.measure import free_memory


def megabytes(tensors: Iterable[torch.Tensor]) -> float:
    """Add up the sizes of tensors.

    Returns:
        MB (10**6 bytes).

    Source: written for this course.
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6


def training_sizes(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Measure the tensors that exist for the training alone; call it after a step.

    Args:
        optimizer: an optimizer that has done at least one step, such as AdamW.

    Returns:
        "trained" (how many parameters the optimizer changes), "gradients MB" and "optimizer MB" (10**6 bytes).

    Source: written for this course.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    return {
        "trained": sum(parameter.numel() for parameter in trained),
        "gradients MB": megabytes(p.grad for p in trained if p.grad is not None),
        "optimizer MB": megabytes(states),
    }


def activations_mb(model: nn.Module, blocks: torch.Tensor) -> float:
    """Measure what the forward pass of a language model keeps for the backward pass, the parameters left out.

    Args:
        model: takes input_ids and labels, and returns an object with a loss.
        blocks: tokens of shape (blocks, length).

    Returns:
        MB (10**6 bytes); memory that several tensors share counts once.

    Source: written for this course, on torch.autograd.graph.saved_tensors_hooks.
    """
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model(input_ids=blocks, labels=blocks).loss
    size = sum(kept.values()) / 1e6
    del loss  # as long as it was there, none of the memory could be used again
    return size


def step_parts(models: Mapping[str, nn.Module], blocks: torch.Tensor, rounds: int = 5) -> pd.DataFrame:
    """Train models with AdamW in turns, and measure the parts of each step, after one round to warm up.

    Memory that this process no longer needs afterwards goes back to the system.

    Args:
        models: name -> a language model in training mode; its weights change a little.
        blocks: tokens of shape (blocks, length), the same ones in each step.
        rounds: how often each model is measured.

    Returns:
        Milliseconds of "forward", "backward" and "optimizer", with a row for each round (from 1) and model.

    Source: written for this course.
    """
    optimizers = {
        name: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
        for name, model in models.items()
    }
    rows = []
    for number in range(rounds + 1):
        for name, model in models.items():
            times = [time.perf_counter()]
            loss = model(input_ids=blocks, labels=blocks).loss
            times.append(time.perf_counter())
            optimizers[name].zero_grad()
            loss.backward()
            times.append(time.perf_counter())
            optimizers[name].step()
            times.append(time.perf_counter())
            rows.append([number, name, *(1000 * (b - a) for a, b in zip(times, times[1:], strict=False))])
    del loss, optimizers
    free_memory()
    columns = ["round", "model", "forward", "backward", "optimizer"]
    table = pd.DataFrame(rows, columns=columns)
    return table[table["round"] > 0].set_index(["round", "model"])
