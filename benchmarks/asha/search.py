"""Random search and Optuna of notebook 05, both with ASHA, with eight seeds each, at equal numbers of epochs.

    .venv/bin/python -m benchmarks.asha.search

writes search.csv (one row for each search) and search.json (the machine, and
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

from benchmarks.asha.lesson import FOLDER, lesson, write_about
from helpers.session import ray_options

WAYS = ("random", "Optuna")
SEEDS = range(1, 9)


def main() -> None:
    """Both ways with all seeds, into one table."""
    nb = lesson()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ray.init(**ray_options(num_cpus=2, log_to_driver=False))
    start = time.time()
    rows = []
    for seed in SEEDS:
        # In turns, so that a machine that gets slower treats both alike.
        reports = {way: search(nb, way, seed) for way in WAYS}
        budget = min(len(table) for table in reports.values())
        for way, table in reports.items():
            best = table["val_accuracy"].head(budget).max()
            rows.append(
                {"way": way, "seed": seed, "trials": table["trial"].nunique(), "epochs": len(table), "budget": budget}
                | {"lr": table["lr"][table["trial"] == 0].iloc[0], "val_accuracy": round(best, 4)}
            )
            print(rows[-1], flush=True)
    ray.shutdown()
    # Only now, so that an interrupted run leaves the stored table whole.
    pd.DataFrame(rows).to_csv(FOLDER / "search.csv", index=False)
    write_about("search", seconds=round(time.time() - start), seeds=len(SEEDS), searches=len(rows))


def search(nb: dict, way: str, seed: int) -> pd.DataFrame:
    """One search; its reports in the order in which they came."""
    with tempfile.TemporaryDirectory() as storage:
        results = nb["search"](way, seed, storage)
        tables = [r.metrics_dataframe.assign(trial=i, lr=r.config["lr"]) for i, r in enumerate(results)]
    return pd.concat(tables).sort_values("timestamp", kind="stable")


if __name__ == "__main__":
    main()
