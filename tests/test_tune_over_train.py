"""A trial of Tune that is a run of Ray Train, as in notebook 05: if it is stopped, its workers end with it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import ray.train
from ray import tune
from ray.train.torch import TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.state import list_actors

from tests.services import wait_for

WORKERS = 2


def train_for_ever(config: dict[str, Any]) -> None:
    """Leaves the number of its process in a file, and reports until somebody ends it."""
    (Path(config["processes"]) / str(os.getpid())).touch()
    for epoch in range(1, 10_000):
        ray.train.report({"epoch": epoch})
        time.sleep(0.1)


def train_together(config: dict[str, Any]) -> None:
    TorchTrainer(
        train_for_ever,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS, resources_per_worker={"CPU": 0.9}),
        run_config=ray.train.RunConfig(
            name=tune.get_context().get_trial_id(), storage_path=config["storage"], callbacks=[TuneReportCallback()]
        ),
    ).fit()


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.long  # the deep dive runs such a trial
def test_workers_of_a_stopped_trial_end_with_it(ray_session: None, tmp_path: Path) -> None:
    """Tune stops the trial, not the training function: nobody tells the workers but Ray itself."""
    wait_for(lambda: ray.available_resources().get("CPU") == 2, 60)
    actors = {actor.actor_id for actor in list_actors(filters=[("state", "=", "ALIVE")])}
    processes = tmp_path / "processes"
    processes.mkdir()
    results = tune.Tuner(
        tune.with_resources(train_together, {"cpu": 0.1}),
        param_space={"processes": str(processes), "storage": str(tmp_path / "inner")},
        tune_config=tune.TuneConfig(metric="epoch", mode="max"),
        run_config=tune.RunConfig(name="outer", storage_path=str(tmp_path), verbose=0, stop={"epoch": 3}),
    ).fit()
    assert results.num_errors == 0 and results[0].metrics["epoch"] >= 3
    pids = [int(path.name) for path in processes.iterdir()]
    assert len(pids) == WORKERS
    wait_for(lambda: not any(lives(pid) for pid in pids), 60)
    wait_for(lambda: ray.available_resources().get("CPU") == 2, 60)
    left = [actor for actor in list_actors(filters=[("state", "=", "ALIVE")]) if actor.actor_id not in actors]
    assert not [actor.class_name for actor in left if "Worker" in actor.class_name or "Controller" in actor.class_name]
