"""Take a few training steps of a GPT-J as wide as GPT-J-6B, through the cells of notebook 07.

    make rehearse
    .venv/bin/python tools/rehearse.py --layers 1 --steps 3

Width, heads, rotary dimensions, positions and vocabulary are those of
GPT-J-6B; the number of layers is what fits into the free memory. The weights
are random, and no checkpoint is written. What the notebook does with 16 GPUs
happens here with two processes (or one, if two do not fit): Ray Data, Ray Train, Trainer, DeepSpeed with
ZeRO and offloading, built by the functions of the notebook. Opt-in: it takes minutes and most of the machine's memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK = REPOSITORY / "notebooks" / "07_finetune_gptj.ipynb"
TAG = "finetune"
MAX_LAYERS = 28
GB = 1e9
# Measured with one worker and one layer: 18 GB at most. Divided are Adam's numbers and the gradients
# in 32 bits, with buffers (20 bytes per parameter); each worker has weights and gradients in 16 bits.
BYTES_OF_ALL, BYTES_OF_EACH = 20, 7
FIXED_BYTES = 2 * GB  # of each worker: PyTorch, Transformers, DeepSpeed, a part of Ray
SHARE_OF_FREE = 0.9  # Ray ends workers when the memory is nearly full


def run_cells(namespace: dict[str, Any]) -> None:
    """Run the notebook's cells with the tag `finetune` in a namespace, in their order."""
    cells = [c for c in nbformat.read(NOTEBOOK, 4).cells if TAG in c.metadata.get("tags", [])]
    if not cells:
        raise ValueError(f"{NOTEBOOK.name} has no cell with the tag {TAG!r}.")
    for cell in cells:
        exec(compile(cell.source, NOTEBOOK.name, "exec"), namespace)


def train(names: dict[str, Any], steps: int, **changes: Any) -> list[dict[str, float]]:
    """Train with the notebook's functions; returns what Trainer logged in each step.

    Args:
        names: a namespace in which `run_cells` has run; Ray is running.
        steps: at most 10.
        **changes: settings that differ from the notebook's.
    """
    if not 1 <= steps <= 10:
        raise SystemExit(f"--steps is {steps}, expected 1 to 10: each step of a wide model takes long.")
    size, ray = names["size"], names["ray"]
    per_step = size.workers * size.batch_per_worker * size.accumulation
    names.update(total_steps=steps, steps_per_epoch=steps + 1, blocks_per_step=per_step)
    names.setdefault("problem", None)
    with tempfile.TemporaryDirectory() as storage:
        names["storage"] = storage
        ray.data.DataContext.get_current().execution_options.preserve_order = True  # the same blocks each time
        text = names["packed"]("shakespeare", "train")
        trainer = ray.train.torch.TorchTrainer(
            few_steps(names["make_hf_trainer"]),
            train_loop_config=names["settings_of"]("rehearsal", **changes),
            datasets={
                "train": text.limit(steps * per_step).materialize(),
                "validation": text.limit(per_step).materialize(),
            },
            scaling_config=names["scaling_config"](),
            torch_config=ray.train.torch.TorchConfig(backend="nccl" if size.use_gpu else "gloo"),
            run_config=ray.train.RunConfig(
                name="rehearsal",
                storage_path=storage,
                failure_config=ray.train.FailureConfig(controller_failure_limit=0),
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
        )
        return trainer.fit().return_value


def few_steps(make_hf_trainer: Any) -> Any:
    """The function that each worker runs: the notebook's Trainer, without checkpoints."""

    def worker(config: dict[str, Any]) -> list[dict[str, float]]:
        from helpers.deepspeed_operators import prepare_deepspeed

        prepare_deepspeed(config["compiled"])
        trainer = make_hf_trainer(config, [])
        trainer.args.save_strategy, trainer.args.load_best_model_at_end = "no", False
        trainer.train()
        return trainer.state.log_history

    return worker


def model_config(layers: int) -> Any:
    """The configuration of GPT-J-6B, with fewer layers."""
    from transformers import GPTJConfig

    return GPTJConfig(n_layer=layers)


def parameters(layers: int) -> int:
    """How many parameters the model has; the weights are not made."""
    import torch
    from transformers import GPTJForCausalLM

    with torch.device("meta"):
        return GPTJForCausalLM(model_config(layers)).num_parameters()


def memory_needed(layers: int, workers: int) -> float:
    """Bytes that the rehearsal takes on this machine."""
    each = BYTES_OF_ALL + BYTES_OF_EACH * workers
    return workers * FIXED_BYTES + each * parameters(layers)


def fitting(free_bytes: float, workers: int | None = None) -> tuple[int, int]:
    """Workers (two, or one) and the largest number of layers whose training fits into the free memory."""
    room = SHARE_OF_FREE * free_bytes
    for count in [workers] if workers else [2, 1]:
        one, per_layer = memory_needed(1, count), memory_needed(2, count) - memory_needed(1, count)
        if one <= room:
            return count, min(MAX_LAYERS, 1 + int((room - one) // per_layer))
    raise SystemExit(
        f"One layer needs about {one / SHARE_OF_FREE / GB:.0f} GB of free memory, and this machine has "
        f"{free_bytes / GB:.0f}. Close other programs, or rehearse on a larger machine."
    )


def save_random_model(layers: int, folder: Path, tokenizer: Any) -> None:
    """Write a model with random weights in 16 bits, in the layout of the hub."""
    import torch
    from transformers import GPTJForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    GPTJForCausalLM(model_config(layers)).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    tokenizer.save_pretrained(folder)


def rehearse(layers: int, workers: int, steps: int) -> None:
    """Make the model, train it, and tell what was seen."""
    names: dict[str, Any] = {"__name__": "__main__"}
    run_cells(names)
    results = REPOSITORY / "results"
    results.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=results))  # /tmp may be in memory
    try:
        print(
            f"{layers} of {MAX_LAYERS} layers, {parameters(layers):,} parameters: writing random weights ...",
            flush=True,
        )
        save_random_model(layers, folder, names["tokenizer"])
        size = names["size"]
        size.model, size.revision, size.batch_per_worker, size.workers = str(folder), None, 1, workers
        size.learning_rate = 1e-5  # that of the cluster; a wide model does not bear more
        from helpers.deepspeed_operators import compile_operators
        from helpers.session import ray_options

        names["ray"].init(**ray_options(num_cpus=size.workers, log_to_driver=False))
        problem = names["ray"].get(names["ray"].remote(num_cpus=1)(compile_operators).remote())
        print(problem or "DeepSpeed's operators are ready.", flush=True)
        start = time.perf_counter()
        history = train(names, steps, compiled=problem is None)
        for entry in history:
            if "loss" in entry:
                print(f"step {entry['step']}: loss {entry['loss']:.3f}")
        print(
            f"{steps} steps of {size.workers * size.block} tokens, with the start {time.perf_counter() - start:.0f} s"
        )
    finally:
        names["ray"].shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    import psutil

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, help="default: as many as fit into the free memory")
    parser.add_argument(
        "--workers", type=int, choices=(1, 2), help="default: 2 as in the notebook, or 1 if 2 do not fit"
    )
    parser.add_argument("--steps", type=int, default=3, help="1 to 10 (default: 3)")
    asked = parser.parse_args()
    # Before Ray starts; the same as in the notebook, at laptop size.
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(REPOSITORY / "results" / "torch_extensions"))
    os.environ.update(RAY_COURSE_SIZE="laptop", DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
    workers, layers = asked.workers, asked.layers
    if not (workers and layers):
        workers, fit = fitting(psutil.virtual_memory().available, workers)
        layers = layers or fit
    rehearse(layers, workers, asked.steps)


if __name__ == "__main__":
    main()
