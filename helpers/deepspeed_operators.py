"""The C++ operators that DeepSpeed compiles on first use, and what to do on a machine without a compiler."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray


def compile_operators() -> str | None:
    """Compile the operators with which DeepSpeed runs Adam, and sums between processes, on CPUs.

    They are kept in the folder TORCH_EXTENSIONS_DIR and found there the next
    time. Call it where workers will run, for example in a Ray task.

    Returns:
        None if they are ready; else a text that says why they are not, and what happens now.

    Source: deepspeed/ops/op_builder of DeepSpeed 0.19.
    """
    from deepspeed.accelerator import get_accelerator

    _find_ninja()
    _leave_symbols_out()
    try:
        for name in _builders():
            get_accelerator().create_op_builder(name).load(verbose=False)
    except Exception as error:  # every way in which a compiler can fail
        return _explanation(error)
    return None


def _builders() -> list[str]:
    from deepspeed.accelerator import get_accelerator

    # On GPUs NCCL does the summing.
    on_cpu = get_accelerator().device_name() == "cpu"
    return ["CPUAdamBuilder", "ShareMemCommBuilder"] if on_cpu else ["CPUAdamBuilder"]


def _leave_symbols_out() -> None:
    """Compile without debugging symbols, which takes a quarter less time and memory.

    Needed where operators are compiled and where they are used: other flags would compile them again.
    """
    from deepspeed.accelerator import get_accelerator

    for name in _builders():
        builder = get_accelerator().get_op_builder(name)
        builder.cxx_args = _without_symbols(builder.cxx_args)


def _without_symbols(flags: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    return lambda builder: [flag for flag in flags(builder) if flag != "-g"]


def _explanation(error: Exception) -> str:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler):
        last_line = str(error).strip().splitlines()[-1] if str(error).strip() else ""
        found = f"{compiler} failed: {type(error).__name__} {last_line[:200]}"
        remedy = (
            "Python's headers may be missing (on Debian and Ubuntu: apt-get install python3-dev). On macOS, whose "
            "compiler lacks OpenMP, and in folders with a space in their name this is expected."
        )
    else:
        found = f"no {compiler} was found"
        remedy = "To have them: on Debian and Ubuntu, apt-get install g++ python3-dev, and run this cell again."
    return (
        f"DeepSpeed's operators cannot be compiled: expected a C++ compiler, {found}. "
        f"PyTorch's AdamW and gloo do their work instead: the same training, with slower steps. {remedy}"
    )


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


def prepare_deepspeed(compiled: bool) -> None:
    """Let DeepSpeed join the process group of this worker; call it before the model is loaded.

    A worker to which Ray has given no GPU keeps to its CPU, although Ray does not hide the machine's GPUs from it.

    With ZeRO stage 3, `from_pretrained` already divides the weights among the
    workers, so DeepSpeed has to know them by then.

    Args:
        compiled: whether its operators are there. Without them it must not ask
            for its compiled sum between processes; together with
            "torch_adam": true in the configuration of the optimizer, nothing
            is compiled then.

    Source: deepspeed/comm/torch.py of DeepSpeed 0.19 looks into this table.
    """
    if ray.is_initialized() and not ray.get_gpu_ids():
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    _find_ninja()
    _leave_symbols_out()
    if not compiled:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)


def _find_ninja() -> None:
    """DeepSpeed asks for ninja on PATH; it stands beside this Python, which need not be on PATH."""
    here = str(Path(sys.executable).parent)
    if here not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", "")])
