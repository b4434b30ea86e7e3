"""Grid, random and Bayesian search of notebook 05 with eight seeds each, at an equal budget.

    .venv/bin/python -m benchmarks.asha.search

writes search.csv (one row for each trial) and search.json (the machine, and
the seconds that it took).
"""

from __future__ import annotations

import os
import tempfile
import time

os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # with verbose=0: no boxes

import optuna
import pandas as pd
import ray
from ray import tune

from benchmarks.asha.lesson import FOLDER, lesson, write_about
from helpers.session import ray_options

WAYS = ("grid", "random", "Optuna")
SEEDS = range(1, 9)


def main() -> None:
    """All ways with all seeds, into one table."""
    nb = lesson()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ray.init(**ray_options(num_cpus=2, log_to_driver=False))
    start = time.time()
    tables = []
    for seed in SEEDS:
        # In turns, so that a machine that gets slower treats all alike.
        tables += [search(nb, way, seed) for way in WAYS]
    ray.shutdown()
    # Only now, so that an interrupted run leaves the stored table whole.
    table = pd.concat(tables)
    table.to_csv(FOLDER / "search.csv", index=False)
    write_about("search", seconds=round(time.time() - start), seeds=len(SEEDS), trials=len(table))


def search(nb: dict, way: str, seed: int) -> pd.DataFrame:
    """One search; the accuracy of each of its trials after the last epoch."""
    space, choices = nb["search_choices"](way, seed)
    with tempfile.TemporaryDirectory() as storage:
        trainable = tune.with_parameters(nb["train_trial"], pictures=nb["pictures"])
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="val_accuracy", mode="max", max_concurrent_trials=2, reuse_actors=True, **choices
            ),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        ).fit()
        rows = [
            {"way": way, "seed": seed, "trial": i, "epochs": r.metrics["epoch"], "lr": r.config["lr"]}
            | {"val_accuracy": round(r.metrics["val_accuracy"], 4)}
            for i, r in enumerate(results)
        ]
    print(f"{way}, seed {seed}: best {max(row['val_accuracy'] for row in rows):.4f}", flush=True)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
