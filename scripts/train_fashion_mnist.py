"""Train a ResNet-18 on FashionMNIST with Ray Train, and keep the best weights.

Made by `make scripts` from notebooks/04_train_fashion_mnist.ipynb, which explains it. Run it in the
course's environment, or on a cluster that has the course's packages:

    python scripts/train_fashion_mnist.py --size laptop
    RAY_ADDRESS=HOST:6379 RAY_COURSE_RESULTS=/mnt/shared python scripts/train_fashion_mnist.py --size cluster
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import ray.train.torch
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import FashionMNIST
from torchvision.models import resnet18

from helpers import data
from helpers.progress import TrainingProgress
from helpers.session import ray_options, require_resources
from helpers.sizes import choose_size


def scale(images: np.ndarray) -> np.ndarray:
    """Grey values of 0 to 255 become floats, in one channel."""
    return (images[:, None].astype("float32") / 255 - 0.286) / 0.353


def normalize(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scale the images of a batch of Ray Data."""
    return {"image": scale(batch["image"]), "label": batch["label"]}


def build_model() -> nn.Module:
    """ResNet-18 with ten classes, and one channel of colour instead of three."""
    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return model


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> float:
    """One step of training; returns its loss."""
    loss = nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def shard_batches(config: dict[str, Any], done: int = 0) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """This worker's batches after step `done`: step, images, labels."""
    shard = ray.train.get_dataset_shard("train")
    steps = config["steps_per_epoch"]
    for epoch in range(done // steps, config["epochs"]):
        stream = shard.iter_torch_batches(
            batch_size=config["batch_per_worker"],
            local_shuffle_buffer_size=10 * config["batch_per_worker"],
            local_shuffle_seed=epoch,
        )
        for step, batch in enumerate(stream, start=epoch * steps + 1):
            if step > done:
                yield step, batch["image"], batch["label"]


@torch.no_grad()
def validate(model: nn.Module, val_set: TensorDataset) -> dict[str, float]:
    """Loss and accuracy over the images of all workers together."""
    loader = DataLoader(val_set, batch_size=250)
    loader = ray.train.torch.prepare_data_loader(loader)
    counts = torch.zeros(3, device=ray.train.torch.get_device())
    model.eval()
    for images, labels in loader:
        outputs = model(images)
        counts[0] += nn.functional.cross_entropy(outputs, labels, reduction="sum")
        counts[1] += (outputs.argmax(dim=1) == labels).sum()
        counts[2] += len(labels)
    model.train()
    torch.distributed.all_reduce(counts)
    loss, correct, count = counts.tolist()
    return {"val_loss": loss / count, "val_accuracy": correct / count}


def save(parts: dict[str, Any], step: int, folder: str) -> ray.train.Checkpoint | None:
    """Rank 0 makes a checkpoint of the folder; the others return None."""
    if ray.train.get_context().get_world_rank() != 0:
        return None
    state = {name: part.state_dict() for name, part in parts.items()}
    state["step"] = step
    torch.save(state, Path(folder) / "state.pt")
    return ray.train.Checkpoint.from_directory(folder)


def restore(parts: dict[str, Any], checkpoint: ray.train.Checkpoint | None) -> int:
    """Load a checkpoint, if there is one; returns its step, or 0."""
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        path = Path(folder) / "state.pt"
        state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"]


def train_worker(config: dict[str, Any]) -> None:
    """What each worker runs: train, and report with a checkpoint a few times in each epoch."""
    torch.manual_seed(0)  # the same first weights in every run
    model = ray.train.torch.prepare_model(build_model())
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    schedule = OneCycleLR(optimizer, config["learning_rate"], config["steps"])
    plain = getattr(model, "module", model)
    parts = {"model": plain, "optimizer": optimizer, "schedule": schedule}
    done = restore(parts, ray.train.get_checkpoint() or config.get("start_from"))
    start, losses = time.perf_counter(), []
    for step, images, labels in shard_batches(config, done):
        losses.append(train_step(model, optimizer, images, labels))
        schedule.step()
        if step % config["report_every"] == 0 or step == config["steps"]:
            seconds = time.perf_counter() - start
            metrics = {"step": step, "seconds": seconds, "resumed_at": done}
            metrics["train_loss"] = sum(losses) / len(losses)
            metrics.update(validate(model, config["val_set"]))
            with tempfile.TemporaryDirectory() as folder:
                ray.train.report(metrics, checkpoint=save(parts, step, folder))
            losses.clear()


def weights_in(checkpoint: ray.train.Checkpoint) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint."""
    with checkpoint.as_directory() as folder:
        path = Path(folder) / "state.pt"
        return torch.load(path, map_location="cpu", weights_only=True)["model"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("laptop", "cluster"), default="laptop", help="default: laptop")
    os.environ["RAY_COURSE_SIZE"] = parser.parse_args().size
    ray.init(**ray_options(num_cpus=2, log_to_driver=False))

    size = choose_size(
        {
            "workers": (2, 16),
            "use_gpu": (False, True),
            "cpus_per_worker": (0.5, 8),  # the rest is for Ray Data
            "all_pictures": (False, True),
            "epochs": (2, 10),
            "batch_per_worker": (64, 128),
            "max_failures": (1, 5),  # restarts
            "failed_starts": (0, 10),  # a cluster may still be growing
        }
    )
    print(size)

    root = str(data.fashion_mnist_root(full=size.all_pictures))
    raw = FashionMNIST(root, train=True)

    mixed = torch.randperm(len(raw), generator=torch.Generator().manual_seed(0)).tolist()
    cut = len(mixed) // 20
    val_images = torch.from_numpy(scale(raw.data[mixed[:cut]].numpy()))
    val_set = TensorDataset(val_images, raw.targets[mixed[:cut]])
    print(f"{len(mixed) - cut:,} images to train, {cut:,} to validate")

    ray.data.DataContext.get_current().execution_options.preserve_order = True
    rows = [{"image": raw.data[i].numpy(), "label": int(raw.targets[i])} for i in mixed]
    train_set = ray.data.from_items(rows[cut:], override_num_blocks=4 * size.workers)
    train_set = train_set.map_batches(normalize)

    images_per_worker = (len(rows) - cut) // size.workers
    steps_per_epoch = math.ceil(images_per_worker / size.batch_per_worker)
    settings = {
        "epochs": size.epochs,
        "steps_per_epoch": steps_per_epoch,
        "steps": size.epochs * steps_per_epoch,
        "report_every": math.ceil(steps_per_epoch / 3),
        "batch_per_worker": size.batch_per_worker,
        "learning_rate": 2e-3,
        "val_set": val_set,
    }
    worker = {"CPU": size.cpus_per_worker, "GPU": int(size.use_gpu)}
    scaling = ray.train.ScalingConfig(num_workers=size.workers, use_gpu=size.use_gpu, resources_per_worker=worker)
    require_resources([worker] * size.workers + [{"CPU": 1}])
    storage = data.results_dir("train_runs", shared=size.name == "cluster")

    failures = ray.train.FailureConfig(max_failures=size.max_failures, controller_failure_limit=size.failed_starts)

    def train_together(name: str, config: dict[str, Any]) -> ray.train.Result:
        """Run `train_worker` on all workers."""
        with TrainingProgress("step", total=config["steps"]) as progress:
            run = ray.train.RunConfig(
                name=name, storage_path=str(storage), failure_config=failures, callbacks=[progress.callback]
            )
            trainer = ray.train.torch.TorchTrainer(
                train_worker,
                train_loop_config=config,
                datasets={"train": train_set},
                scaling_config=scaling,
                run_config=run,
            )
            return trainer.fit()

    result = train_together(f"fashion-mnist-{datetime.now():%Y%m%d-%H%M%S}", settings)
    best = result.get_best_checkpoint("val_loss", mode="min")
    best_metrics = min((metrics for _, metrics in result.best_checkpoints), key=lambda metrics: metrics["val_loss"])
    save_file(weights_in(best), data.results_dir("fashion_mnist_resnet18") / "model.safetensors")
    print(f"validation accuracy {best_metrics['val_accuracy']:.3f}")


if __name__ == "__main__":
    main()
