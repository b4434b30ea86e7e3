"""Take a few training steps of a GPT-J as wide as GPT-J-6B, through the cells of notebook 07.

    make rehearse
    .venv/bin/python tools/rehearse.py --layers 1 --steps 3

Width, heads, rotary dimensions, positions and vocabulary are those of
GPT-J-6B; the number of layers is what fits into the free memory. The weights
are random. What the notebook does with 16 GPUs happens here with two processes
(or one, if two do not fit): Ray Data, Ray Train, Trainer, DeepSpeed with ZeRO,
two passes per step, activation checkpointing, a checkpoint, and one more
step from that checkpoint, built by the functions of the notebook. Opt-in: it takes
minutes, most of the machine's memory, and twice 16 bytes of disk per parameter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK = REPOSITORY / "notebooks" / "07_finetune_gptj.ipynb"
TAG = "finetune"
MAX_LAYERS = 28
GB = 1e9
# Measured in bfloat16 with one worker and one layer: 18 GB at most. Divided among the workers are Adam's numbers and
# the gradients in 32 bits, with buffers; each worker has weights and gradients of its own. Not measured: float32, and
# what going on from a checkpoint adds, which is Adam's numbers a second time while they are read.
BYTES_OF_ALL, BYTES_TO_RESUME = 20, 12
BYTES_OF_EACH = {"bf16": 7, "fp32": 12}
BYTES_ON_DISK = {"bf16": 16, "fp32": 20}  # of a checkpoint: Adam's numbers, and the weights twice
FIXED_BYTES = 2 * GB  # of each worker: PyTorch, Transformers, DeepSpeed, a part of Ray
SHARE_OF_FREE = 0.9  # Ray ends workers when the memory is nearly full


def run_cells(namespace: dict[str, Any], tag: str = TAG) -> None:
    """Run the notebook's cells with a tag in a namespace, in their order."""
    from helpers import lessons

    lessons.run_cells(NOTEBOOK.stem, tag, namespace)


def train(names: dict[str, Any], steps: int, storage: Path) -> list[dict[str, float]]:
    """Train with the notebook's own trainer and save at the end; returns what Trainer logged in each step.

    Args:
        names: a namespace in which `run_cells` has run; Ray is running.
        steps: at most 10.
        storage: a folder for the checkpoint.
    """
    prepare(names, steps, str(storage))
    return log_of(names["make_trainer"](f"trained-{time.time_ns()}").fit())


def log_of(result: Any) -> list[dict[str, float]]:
    """What Trainer logged up to the newest checkpoint of a run."""
    return json.loads(Path(result.checkpoint.path, "trainer_state.json").read_text())["log_history"]


def save_and_resume(names: dict[str, Any], steps: int, storage: Path) -> list[dict[str, float]]:
    """Train and save with the notebook's own trainer, then take one more step from that checkpoint.

    Args:
        names: a namespace in which `run_cells` has run; Ray is running.
        steps: before the checkpoint, at most 9.
        storage: an empty folder for two checkpoints.

    Returns:
        What Trainer logged in each step, the one after the checkpoint included.
    """
    prepare(names, steps, str(storage))
    first = names["make_trainer"]("saved").fit()
    prepare(names, steps + 1, str(storage))
    resumed = names["make_trainer"]("resumed", start_from=first.checkpoint.path).fit()
    if resumed.metrics["resumed_at"] != steps:
        raise RuntimeError(f"The second run began at step {resumed.metrics['resumed_at']}, expected step {steps}.")
    return log_of(resumed)


def prepare(names: dict[str, Any], steps: int, storage: str) -> None:
    """Put into the namespace what the notebook's cells between those functions would: counts, data and a folder."""
    if not 1 <= steps <= 10:
        raise SystemExit(f"--steps is {steps}, expected 1 to 10: each step of a wide model takes long.")
    from helpers.language_models import number_format

    os.environ["RAY_COURSE_RESULTS"] = storage
    size, ray = names["size"], names["ray"]
    size.epochs = 1
    names.update(steps_per_epoch=steps)
    names.setdefault("numbers", number_format())
    per_step = size.workers * size.batch_per_worker * size.accumulation
    ray.data.DataContext.get_current().execution_options.preserve_order = True  # the same blocks each time
    packed = names["packed"]
    names["datasets"] = {
        "train": packed("shakespeare", "train", size.block).limit(steps * per_step).materialize(),
        "validation": packed("shakespeare", "validation", size.block)
        .limit(size.workers * size.eval_batch)
        .materialize(),
    }


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


def memory_needed(layers: int, workers: int, numbers: str = "bf16", resume: bool = False) -> float:
    """Bytes that the rehearsal takes on this machine.

    Args:
        layers: of the model.
        workers: that train it.
        numbers: what they calculate in, "bf16" or "fp32".
        resume: whether they also go on from a checkpoint.
    """
    of_all = BYTES_OF_ALL + (BYTES_TO_RESUME if resume else 0)
    return workers * FIXED_BYTES + (of_all + BYTES_OF_EACH[numbers] * workers) * parameters(layers)


def fitting(
    free_bytes: float, workers: int | None = None, numbers: str = "bf16", resume: bool = False
) -> tuple[int, int]:
    """Workers (two, or one) and the largest number of layers whose training fits into the free memory."""
    room = SHARE_OF_FREE * free_bytes
    for count in [workers] if workers else [2, 1]:
        one = memory_needed(1, count, numbers, resume)
        per_layer = memory_needed(2, count, numbers, resume) - one
        if one <= room:
            return count, min(MAX_LAYERS, 1 + int((room - one) // per_layer))
    raise SystemExit(
        f"One layer needs about {one / SHARE_OF_FREE / GB:.0f} GB of free memory, and this machine has "
        f"{free_bytes / GB:.0f}. Close other programs, or rehearse on a larger machine."
    )


def largest(free_bytes: float, workers: int | None, numbers: str) -> tuple[int, int]:
    """As `fitting`, with room for going on from a checkpoint if that fits at all, else without."""
    try:
        return fitting(free_bytes, workers, numbers, resume=True)
    except SystemExit:
        return fitting(free_bytes, workers, numbers)


def room_to_resume(free_memory: float, free_disk: float, layers: int, workers: int, numbers: str) -> str | None:
    """Why this machine cannot also save a checkpoint and go on from it; None if it can."""
    memory = memory_needed(layers, workers, numbers, resume=True) / SHARE_OF_FREE
    if memory > free_memory:
        return f"needs about {memory / GB:.0f} GB of free memory, and this machine has {free_memory / GB:.0f}"
    disk = 2 * BYTES_ON_DISK[numbers] * parameters(layers)
    if disk > SHARE_OF_FREE * free_disk:
        return f"needs {disk / GB:.0f} GB of free disk, and this machine has {free_disk / GB:.0f}"
    return None


def save_random_model(layers: int, folder: Path, tokenizer: Any) -> None:
    """Write a model with random weights in 16 bits, in the layout of the hub."""
    import torch
    from transformers import GPTJForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    GPTJForCausalLM(model_config(layers)).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    tokenizer.save_pretrained(folder)


def rehearse(layers: int, workers: int, steps: int, free_memory: float) -> None:
    """Make the model, train it, save it and go on from there, and tell what was seen."""
    from helpers.language_models import number_format

    names: dict[str, Any] = {"__name__": "__main__"}
    run_cells(names)
    numbers = names["numbers"] = number_format()
    results = REPOSITORY / "results"
    results.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-", dir=results))  # /tmp may be in memory
    try:
        print(
            f"{layers} of {MAX_LAYERS} layers, {parameters(layers):,} parameters in {numbers}: "
            "writing random weights ...",
            flush=True,
        )
        save_random_model(layers, folder / "model", names["tokenizer"])
        size = names["size"]
        size.model, size.revision, size.workers = str(folder / "model"), None, workers
        size.batch_per_worker, size.eval_batch, size.accumulation, size.save_memory = 1, 1, 2, True
        size.learning_rate = 1e-5  # that of the cluster; a wide model does not bear more
        from helpers.session import ray_options

        names["ray"].init(**ray_options(num_cpus=size.workers, log_to_driver=False))
        start = time.perf_counter()
        free_disk = shutil.disk_usage(folder).free
        checkpoint = BYTES_ON_DISK[numbers] * parameters(layers)
        if checkpoint > SHARE_OF_FREE * free_disk:
            raise SystemExit(
                f"The checkpoint of {layers} layers needs {checkpoint / GB:.0f} GB of free disk, and this machine has "
                f"{free_disk / GB:.0f}. Free some, or take fewer: --layers 1."
            )
        too_small = room_to_resume(free_memory, free_disk, layers, workers, numbers)
        if too_small:
            print(f"Nothing resumes: that {too_small}.", flush=True)
            history = train(names, steps, folder)
        else:
            history = save_and_resume(names, steps, folder)
            print(f"A checkpoint was saved after step {steps}, and step {steps + 1} taken from it.")
        for entry in history:
            if "loss" in entry:
                print(f"step {entry['step']}: loss {entry['loss']:.3f}")
        tokens = size.workers * size.accumulation * size.block
        print(f"Steps of {tokens} tokens, with the start {time.perf_counter() - start:.0f} s")
    finally:
        names["ray"].shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    import psutil

    from helpers.precision import cpu_supports_bf16

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, help="default: as many as fit into the free memory")
    parser.add_argument(
        "--workers", type=int, choices=(1, 2), help="default: 2 as in the notebook, or 1 if 2 do not fit"
    )
    parser.add_argument("--steps", type=int, default=3, help="1 to 9 (default: 3)")
    asked = parser.parse_args()
    # Before Ray starts; the same as in the notebook, at laptop size.
    os.environ.update(RAY_COURSE_SIZE="laptop", DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", HF_HUB_OFFLINE="1")
    free = psutil.virtual_memory().available
    workers, layers = asked.workers, asked.layers
    if not (workers and layers):
        workers, fit = largest(free, workers, "bf16" if cpu_supports_bf16() else "fp32")
        layers = layers or fit
    rehearse(layers, workers, asked.steps, free)


if __name__ == "__main__":
    main()
