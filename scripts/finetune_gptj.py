"""Fine-tune GPT-J on Shakespeare with Ray Train, Hugging Face's Trainer and DeepSpeed, and keep the best model.

Made by `make scripts` from notebooks/07_finetune_gptj.ipynb, which explains it. Run it in the course's
environment, or on a cluster that has the course's packages:

    python scripts/finetune_gptj.py --size laptop
    RAY_ADDRESS=HOST:6379 RAY_COURSE_RESULTS=/mnt/shared python scripts/finetune_gptj.py --size cluster
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow.parquet
import ray.data
import ray.train.torch
import torch
from ray.train.huggingface.transformers import prepare_trainer
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from helpers import data
from helpers.deepspeed_workers import prepare_deepspeed
from helpers.language_models import DTYPES, StepTimer, keep_model, number_format, whole_steps
from helpers.progress import TrainingProgress
from helpers.session import ray_options, require_resources
from helpers.sizes import choose_size


def pack(batch: dict[str, Any], tokenizer: Any, length: int) -> dict[str, np.ndarray]:
    """The tokens of all lines, one after the other, cut into blocks."""
    tokens = tokenizer("\n".join(batch["text"]), verbose=False)["input_ids"]
    full = len(tokens) // length * length
    blocks = np.array(tokens[:full]).reshape(-1, length)
    return {"input_ids": blocks, "labels": blocks}


def deepspeed_config(stage: int) -> dict[str, Any]:
    """DeepSpeed's settings; "auto" stands for those of Trainer."""
    return {
        "zero_optimization": {
            "stage": stage,
            # With stage 3: save the weights in one file as well.
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
    }


class Report(TrainerCallback):
    def __init__(self, timer: StepTimer) -> None:
        """Take the times from this timer."""
        self.timer = timer

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Tell Ray Train where the checkpoint is that Trainer has just saved."""
        torch.distributed.barrier()  # all workers have written their parts
        metrics = self.timer.times()
        for entry in state.log_history:
            metrics.update(entry)  # the newest value of each
        folder = f"{args.output_dir}/checkpoint-{state.global_step}"
        first = ray.train.get_context().get_world_rank() == 0
        checkpoint = ray.train.Checkpoint.from_directory(folder) if first else None
        ray.train.report(metrics, checkpoint, checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD)


def train_and_survive(config: dict[str, Any]) -> None:
    """What each worker runs; it goes on from the newest checkpoint of this run."""
    newest = ray.train.get_checkpoint()  # of this run, after a failure
    prepare_deepspeed()
    arguments = TrainingArguments(**config["arguments"])
    model = AutoModelForCausalLM.from_pretrained(**config["model"])
    train = ray.train.get_dataset_shard("train").iter_torch_batches(
        batch_size=arguments.per_device_train_batch_size, local_shuffle_buffer_size=1000
    )
    validation = ray.train.get_dataset_shard("validation").iter_torch_batches(
        batch_size=arguments.per_device_eval_batch_size
    )
    timer = StepTimer()
    trainer = Trainer(
        model,
        arguments,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=config["tokenizer"],
        callbacks=[timer, Report(timer)],
    )
    prepare_trainer(trainer).train(resume_from_checkpoint=newest.path if newest else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("laptop", "cluster"), default="laptop", help="default: laptop")
    os.environ["RAY_COURSE_SIZE"] = parser.parse_args().size
    ray.init(**ray_options(num_cpus=2, log_to_driver=False))

    def packed(corpus: str, split: str, length: int) -> ray.data.Dataset:
        """A text in blocks of tokens."""
        table = pyarrow.parquet.read_table(data.text_file(corpus, split))
        lines = ray.data.from_arrow(table, override_num_blocks=8)
        settings = {"tokenizer": tokenizer, "length": length}
        return lines.map_batches(pack, fn_kwargs=settings, batch_size=None)

    size = choose_size(
        {
            "model": ("gptj_tiny", "EleutherAI/gpt-j-6b"),
            "revision": (None, "b71ae8bc86cac13154e03e92b5855203086b722e"),
            "workers": (2, 16),
            "use_gpu": (False, True),
            "cpus_per_worker": (1, 8),
            "block": (128, 512),
            "blocks_per_epoch": (768, None),
            "epochs": (2, 3),
            "batch_per_worker": (16, 8),
            "eval_batch": (16, 1),
            "accumulation": (1, 1),
            "learning_rate": (1e-3, 1e-5),
            "zero_stage": (2, 3),
            "save_memory": (False, True),
            "max_failures": (1, 3),
        }
    )
    print(size)

    def model_source() -> dict[str, Any]:
        """Arguments of from_pretrained: a folder, or a name and a commit on the hub."""
        shipped = size.model == "gptj_tiny"
        path = str(data.tiny_gptj()) if shipped else size.model
        return {"pretrained_model_name_or_path": path, "revision": size.revision}

    tokenizer = AutoTokenizer.from_pretrained(**model_source())
    gpus = 1 if size.use_gpu else 0

    require_resources([{"CPU": size.cpus_per_worker, "GPU": gpus}] * size.workers)
    look = ray.remote(num_gpus=gpus, scheduling_strategy="SPREAD")(number_format)
    formats = set(ray.get([look.remote() for _ in range(size.workers)]))
    numbers = formats.pop() if len(formats) == 1 else "fp32"
    print(f"The workers will calculate in {numbers}.")

    blocks_per_step = size.workers * size.batch_per_worker * size.accumulation
    train = packed("shakespeare", "train", size.block).random_shuffle(seed=0)
    train, steps_per_epoch = whole_steps(train, blocks_per_step, size.blocks_per_epoch)
    validation = packed("shakespeare", "validation", size.block)
    validation, _ = whole_steps(validation, size.workers * size.eval_batch)
    datasets = {"train": train, "validation": validation}

    def trainer_arguments(output_dir: str) -> dict[str, Any]:
        """The arguments of Trainer."""
        return {
            "output_dir": output_dir,
            "deepspeed": deepspeed_config(size.zero_stage),
            "max_steps": size.epochs * steps_per_epoch,
            "per_device_train_batch_size": size.batch_per_worker,
            "per_device_eval_batch_size": size.eval_batch,
            "gradient_accumulation_steps": size.accumulation,
            "activation_checkpointing": size.save_memory,
            "learning_rate": size.learning_rate,
            "warmup_steps": 0.1,  # a share of all steps
            "logging_steps": max(1, steps_per_epoch // 6),
            "eval_strategy": "steps",
            "eval_steps": steps_per_epoch,
            "save_strategy": "steps",
            "save_steps": steps_per_epoch,
            "ignore_data_skip": True,
            "bf16": numbers == "bf16",
            "fp16": numbers == "fp16",
            "use_cpu": not size.use_gpu,
        }

    def worker_config(output_dir: str) -> dict[str, Any]:
        """What `train_and_survive` gets."""
        return {
            "arguments": trainer_arguments(output_dir),
            "model": {**model_source(), "dtype": DTYPES[numbers]},
            "tokenizer": tokenizer,
        }

    def make_trainer(name: str, callbacks: Sequence[Any]) -> ray.train.torch.TorchTrainer:
        """The run, ready for `fit`."""
        storage = data.results_dir("train_runs", shared=size.name == "cluster")
        return ray.train.torch.TorchTrainer(
            train_and_survive,
            train_loop_config=worker_config(f"{storage}/{name}"),
            datasets=datasets,
            scaling_config=ray.train.ScalingConfig(
                num_workers=size.workers, use_gpu=size.use_gpu, resources_per_worker={"CPU": size.cpus_per_worker}
            ),
            torch_config=ray.train.torch.TorchConfig(timeout_s=3600),  # saving is slow
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=str(storage),
                failure_config=ray.train.FailureConfig(size.max_failures, controller_failure_limit=10),
                checkpoint_config=ray.train.CheckpointConfig(2, "eval_loss", "min"),
                callbacks=list(callbacks),
            ),
        )

    name, steps = f"gptj-{datetime.now():%Y%m%d-%H%M%S}", size.epochs * steps_per_epoch
    with TrainingProgress("step", total=steps, show=["loss", "eval_loss"]) as progress:
        result = make_trainer(name, [progress.callback]).fit()
    by_step = {metrics["step"]: metrics for _, metrics in result.best_checkpoints}
    for step, metrics in by_step.items():
        print(f"step {step}: perplexity {np.exp(metrics['eval_loss']):.0f}")

    best = result.get_best_checkpoint("eval_loss", mode="min")
    loss = min(metrics["eval_loss"] for metrics in by_step.values())
    tuned = data.results_dir("gptj_shakespeare", shared=size.name == "cluster")
    keep_model(best.path, tuned, eval_loss=loss, block=size.block)


if __name__ == "__main__":
    main()
