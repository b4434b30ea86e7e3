"""The memory that one training step of GPT-J-6B takes on a GPU, counted without a GPU.

    .venv/bin/python -m benchmarks.gptj_memory.memory

All 28 layers at full width are built on PyTorch's `meta` device, which has shapes and no numbers. What autograd keeps
for the backward pass is counted through `torch.autograd.graph.saved_tensors_hooks`. Writes memory.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from transformers import GPTJConfig, GPTJForCausalLM

TABLE = Path(__file__).with_name("memory.csv")
BLOCK = 512
BATCHES = (1, 2, 4, 8, 16, 32)
CARDS_GB = (16, 24, 40, 80)
GB = 1e9
# An assumption: CUDA's context, NCCL's and DeepSpeed's buffers, and what PyTorch's allocator cannot use.
RESERVE_GB = 2.0
# While the loss goes backward, each logit is there in 16 bits, and in 32 bits with its log-softmax and its gradient.
BYTES_PER_LOGIT = 2 + 3 * 4
COLUMNS = ("batch", "checkpointing", "weights", "kept", "one_layer", "loss", "largest_gradient", "peak", "card")


class Kept:
    """Counts the bytes that autograd keeps, each piece of memory once, without the weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._weights = {id(weight.untyped_storage()) for weight in model.parameters()}
        self._seen: dict[int, torch.UntypedStorage] = {}  # keeps them alive, so that no number is used twice

    def counting(self) -> AbstractContextManager[None]:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in self._weights:
            self._seen[id(storage)] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._seen.values())


def build(layers: int = 28) -> GPTJForCausalLM:
    """GPT-J-6B in 16 bits, without numbers."""
    with torch.device("meta"):
        return GPTJForCausalLM(GPTJConfig(n_layer=layers)).to(torch.bfloat16).train()


def kept_bytes(model: GPTJForCausalLM, run: Callable[[], object]) -> int:
    """Bytes that autograd keeps after `run`."""
    kept = Kept(model)
    with kept.counting():
        result = run()
    assert result is not None  # alive until here, and with it all that autograd keeps
    return kept.bytes


def measure(batch: int, checkpointing: bool, model: GPTJForCausalLM) -> dict[str, float]:
    """Bytes of one step, in parts; see the README for what each of them is."""
    config = model.config
    if checkpointing:
        model.activation_checkpointing_enable()
    tokens = torch.zeros(batch, BLOCK, dtype=torch.long, device="meta")
    # The mask that the model would make of no mask; it cannot look at numbers here.
    mask = torch.zeros(batch, 1, BLOCK, BLOCK, dtype=torch.bfloat16, device="meta")
    # The body alone: the logits and the loss are counted apart, since they are largest when the loss goes backward.
    kept = kept_bytes(model, lambda: model.transformer(tokens, attention_mask=mask, use_cache=False))
    hidden = torch.empty(batch, BLOCK, config.n_embd, dtype=torch.bfloat16, device="meta", requires_grad=True)
    positions = torch.arange(BLOCK, device="meta").unsqueeze(0)
    model.activation_checkpointing_disable()
    layer = model.transformer.h[0]
    one_layer = (
        kept_bytes(model, lambda: layer(hidden, attention_mask=mask, position_ids=positions)) if checkpointing else 0
    )
    return {
        "weights": 2 * model.num_parameters(),
        "kept": kept,
        "one_layer": one_layer,
        "loss": BYTES_PER_LOGIT * batch * BLOCK * config.vocab_size,
        "largest_gradient": 2 * max(weight.numel() for weight in model.parameters()),
    }


def row(batch: int, checkpointing: bool, model: GPTJForCausalLM) -> dict[str, object]:
    """One line of the table, in GB (10**9 bytes).

    The loss has gone before the first layer is computed again and its gradients are made, so the larger one counts.
    """
    parts = {name: number / GB for name, number in measure(batch, checkpointing, model).items()}
    at_the_end = max(parts["loss"], parts["one_layer"] + parts["largest_gradient"])
    peak = parts["weights"] + parts["kept"] + at_the_end
    card = next((size for size in CARDS_GB if peak + RESERVE_GB <= size), "none")
    numbers = {name: round(number, 2) for name, number in parts.items()}
    return {"batch": batch, "checkpointing": checkpointing, **numbers, "peak": round(peak, 2), "card": card}


def main() -> None:
    model = build()
    rows = [row(batch, checkpointing, model) for checkpointing in (True, False) for batch in BATCHES]
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
