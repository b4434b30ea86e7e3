"""The 100 configurations of notebook 05, each trained to its last epoch.

    .venv/bin/python -m benchmarks.asha.no_stopping

writes no_stopping.csv (one row for each trial and epoch) and no_stopping.json
(the machine, and the seconds that it took).
"""

from __future__ import annotations

import os
import tempfile
import time

os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with verbose=0: no boxes

import pandas as pd
import ray
from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from benchmarks.asha.lesson import FOLDER, lesson, write_about
from helpers.session import ray_options

SAMPLING_SEED = 0  # as in the notebook's sweep
SETTINGS = ("lr", "width", "batch_size", "weight_decay", "dropout", "seed")


def main() -> None:
    """The notebook's configurations, each trained to the end, into one table."""
    nb = lesson()
    size = nb["size"]
    ray.init(**ray_options(num_cpus=2, log_to_driver=False))
    start = time.time()
    with tempfile.TemporaryDirectory() as storage:
        trainable = tune.with_parameters(nb["train_trial"], images=nb["images"])
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space=nb["space"],
            tune_config=tune.TuneConfig(
                metric="val_accuracy",
                mode="max",
                num_samples=size.trials,
                search_alg=BasicVariantGenerator(random_state=SAMPLING_SEED, max_concurrent=2),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=storage,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            ),
        ).fit()
        seconds = time.time() - start
        tables = [table_of(trial, result) for trial, result in enumerate(results)]
    ray.shutdown()
    table = pd.concat(tables)
    table.to_csv(FOLDER / "no_stopping.csv", index=False)
    write_about("no_stopping", seconds=round(seconds), trials=len(tables), epochs=len(table))


def table_of(trial: int, result: tune.Result) -> pd.DataFrame:
    """One row for each epoch: the trial's number, its settings, and what it reported."""
    curve = result.metrics_dataframe[["epoch", "val_accuracy"]].round({"val_accuracy": 4})
    curve = curve.assign(train_s=result.metrics_dataframe["train_s"].round(3))
    return pd.concat(
        [pd.DataFrame({"trial": trial} | {k: result.config[k] for k in SETTINGS}, index=curve.index), curve], axis=1
    )


if __name__ == "__main__":
    main()
