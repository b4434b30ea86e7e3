"""Search the settings of a small network for FashionMNIST with Ray Tune and ASHA, and test the best one.

Made by `make scripts` from notebooks/05_tune_asha.ipynb, which explains it. Run it in the course's
environment, or on a cluster that has the course's packages:

    python scripts/tune_fashion_mnist.py --size laptop
    RAY_ADDRESS=HOST:6379 RAY_COURSE_RESULTS=/mnt/shared python scripts/tune_fashion_mnist.py --size cluster
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from torch import nn
from torchvision.datasets import FashionMNIST

from helpers import data
from helpers.progress import SweepProgress
from helpers.session import ray_options, require_resources
from helpers.sizes import choose_size


def build_model(config: dict[str, Any]) -> nn.Module:
    """A network of three layers, of the width and with the dropout of these settings."""
    width, dropout = config["width"], config["dropout"]
    first = [nn.Linear(784, width), nn.ReLU(), nn.Dropout(dropout)]
    second = [nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*first, *second, nn.Linear(width, 10))


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> None:
    """Train with each image once."""
    model.train()
    for picked in torch.randperm(len(labels)).split(batch_size):
        loss = nn.functional.cross_entropy(model(inputs[picked]), labels[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images whose label the model finds."""
    model.eval()
    return (model(inputs).argmax(dim=1) == labels).float().mean().item()


def report(metrics: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Hand metrics and a checkpoint to Tune."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    state["epoch"] = metrics["epoch"]
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / "state.pt")
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def load_state(checkpoint: tune.Checkpoint) -> dict[str, Any]:
    """What `report` put into a checkpoint."""
    with checkpoint.as_directory() as folder:
        path = Path(folder) / "state.pt"
        return torch.load(path, map_location="cpu", weights_only=True)


def train_trial(config: dict[str, Any], images: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """One trial: train, report after each epoch, and continue from a checkpoint."""
    torch.set_num_threads(1)  # the trials share the cores
    device = "cuda" if ray.get_gpu_ids() else "cpu"
    parts = {name: [t.to(device) for t in pair] for name, pair in images.items()}
    torch.manual_seed(config["seed"])
    model, done = build_model(config).to(device), 0
    rates = {"lr": config["lr"], "weight_decay": config["weight_decay"]}
    optimizer = torch.optim.AdamW(model.parameters(), **rates, fused=True)
    if checkpoint := tune.get_checkpoint():
        state = load_state(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        optimizer.param_groups[0]["lr"] = config["lr"]  # it may have been changed
        done = state["epoch"]
    for epoch in range(done + 1, config["epochs"] + 1):
        start = time.perf_counter()
        torch.manual_seed(config["seed"] + epoch)
        train_epoch(model, optimizer, *parts["train"], config["batch_size"])
        metrics = {"epoch": epoch, "val_accuracy": accuracy(model, *parts["val"])}
        metrics["train_s"] = time.perf_counter() - start
        report(metrics, model, optimizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("laptop", "cluster"), default="laptop", help="default: laptop")
    os.environ["RAY_COURSE_SIZE"] = parser.parse_args().size
    ray.init(**ray_options(num_cpus=2, log_to_driver=False))

    size = choose_size(
        {
            "trials": (100, 10_000),
            "max_epochs": (27, 81),
            "cpus_per_trial": (1, 1),
            "gpus_per_trial": (0, 0.125),
            "all_images": (False, True),
            "checkpoints_kept": (None, 1),
        }
    )
    print(size)

    root = str(data.fashion_mnist_root(full=size.all_images))

    def load_images(train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Images as rows of 784 numbers around 0, and their labels."""
        raw = FashionMNIST(root, train=train)
        return (raw.data.flatten(start_dim=1) / 255 - 0.286) / 0.353, raw.targets

    inputs, labels = load_images(train=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, val = order.tensor_split([int(0.8 * len(order))])
    images = {"train": (inputs[train], labels[train]), "val": (inputs[val], labels[val])}
    print(f"{len(train):,} images to train, {len(val):,} to validate")

    space = {
        "lr": tune.loguniform(1e-5, 1e-1),
        "width": tune.choice([32, 64, 128, 256]),
        "batch_size": tune.choice([32, 64, 128, 256]),
        "weight_decay": tune.loguniform(1e-5, 1e-1),
        "dropout": tune.uniform(0.0, 0.5),
        "seed": tune.randint(0, 2**31),
        "epochs": size.max_epochs,
    }

    run_name = f"tune_runs/{time.strftime('%Y%m%d-%H%M%S')}"
    storage = str(data.results_dir(run_name, shared=size.name == "cluster"))
    reserved = {"CPU": size.cpus_per_trial, "GPU": size.gpus_per_trial}
    require_resources([reserved, reserved])

    trainable = tune.with_parameters(train_trial, images=images)
    trainable = tune.with_resources(trainable, reserved)
    draws = tune.search.BasicVariantGenerator(random_state=0)  # the same 100 each time
    how = tune.TuneConfig(
        metric="val_accuracy",
        mode="max",
        num_samples=size.trials,
        search_alg=draws,
        scheduler=tune.schedulers.ASHAScheduler(max_t=size.max_epochs, grace_period=2, reduction_factor=3),
        reuse_actors=True,
    )

    run = tune.RunConfig(
        name="asha",
        storage_path=storage,
        checkpoint_config=tune.CheckpointConfig(
            num_to_keep=size.checkpoints_kept, checkpoint_score_attribute="val_accuracy"
        ),
        progress_reporter=SweepProgress(),
        verbose=1,
    )
    tuner = tune.Tuner(trainable, param_space=space, tune_config=how, run_config=run)
    results = tuner.fit()
    print(f"{len(results)} trials, {results.num_errors} failed")

    winner = results.get_best_result(scope="all")  # not only the last epochs
    best_checkpoint = winner.get_best_checkpoint("val_accuracy", mode="max")
    model = build_model(winner.config)
    model.load_state_dict(load_state(best_checkpoint)["model"])
    val_accuracy, test_images = accuracy(model, *images["val"]), load_images(train=False)
    test_accuracy = accuracy(model, *test_images)
    error = 2 * (test_accuracy * (1 - test_accuracy) / len(test_images[1])) ** 0.5
    print(f"validation {val_accuracy:.4f}, test accuracy {test_accuracy:.4f} ± {error:.3f}")


if __name__ == "__main__":
    main()
