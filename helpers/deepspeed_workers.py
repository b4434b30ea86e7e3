"""DeepSpeed on the workers of Ray Train: joining the process group, and checkpoints of another number of workers."""

from __future__ import annotations

import os
from pathlib import Path

import ray


def check_workers(folder: str | None, workers: int) -> None:
    """Refuse a checkpoint of another number of workers before a model is loaded for it.

    With ZeRO each worker saves its own part of the optimizer's numbers, and DeepSpeed reads them back only into as many
    parts as were saved. It finds out late, after minutes of loading.

    Args:
        folder: a checkpoint that Trainer saved, or None if training begins without one.
        workers: how many workers are about to train.

    Raises:
        ValueError: the checkpoint has the parts of another number of workers, or none at all.

    Source: deepspeed/runtime/engine.py of DeepSpeed 0.19 names the files of the parts.
    """
    if folder is None:
        return
    saved = len(list(Path(folder).glob("global_step*/*_optim_states.pt")))
    if saved == workers:
        return
    name = Path(folder).name
    weights_alone = "or start a new run from its weights alone: give its folder to from_pretrained instead of resuming."
    if not saved:
        raise ValueError(
            f"The checkpoint {name} holds no optimizer states of DeepSpeed: expected global_step*/*_optim_states.pt, "
            f"found none. Resume from a whole checkpoint, {weights_alone}"
        )
    raise ValueError(
        f"The checkpoint {name} was saved by {_counted(saved)}, but {_counted(workers)} would go on from it, and "
        f"DeepSpeed cannot divide the optimizer's numbers anew. Train with {_counted(saved)}, {weights_alone}"
    )


def _counted(workers: int) -> str:
    return f"{workers} worker" if workers == 1 else f"{workers} workers"


def stay_on_cpu() -> None:
    """Keep DeepSpeed to the CPU in a worker to which Ray has given no GPU; call it before DeepSpeed is imported.

    Ray does not hide the machine's GPUs from such a worker. And nothing is compiled: sums between the processes of one
    machine go through the process group as well.

    Source: deepspeed/comm/torch.py of DeepSpeed 0.19 looks into the table of operators.
    """
    if ray.is_initialized() and not ray.get_gpu_ids():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def prepare_deepspeed() -> None:
    """Let DeepSpeed join the process group of this worker; call it before the model is loaded.

    With ZeRO stage 3, `from_pretrained` already divides the weights among the workers, so DeepSpeed has to know them by
    then. `stay_on_cpu` comes first.

    Source: written for this course.
    """
    stay_on_cpu()
    import deepspeed

    deepspeed.init_distributed(verbose=False)
