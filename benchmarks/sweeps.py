"""ASHA beside training all configurations to the end, over many orders in which the trials arrive."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.rows import Row, row
from helpers import data
from helpers.lessons import run_cells

ORDERS = 500
POINTS = 0.5  # of accuracy; how near to the best is near enough


def measure() -> list[Row]:
    """The rows of this group; seconds, because the learning curves are stored (see benchmarks/asha)."""
    stored = pd.read_csv(data.REPOSITORY / "benchmarks" / "asha" / "no_stopping.csv")
    names = {"np": np, "pd": pd, "stored": stored}
    run_cells("05_tune_asha", "one-order", names)
    random = np.random.default_rng(0)
    runs = [names["asha_once"](random.permutation(names["by_trial"].columns)) for _ in range(ORDERS)]
    spent, best = np.array(runs).T
    near = np.mean(100 * (stored["val_accuracy"].max() - best) <= POINTS)
    searches = pd.read_csv(data.REPOSITORY / "benchmarks" / "asha" / "search.csv")
    by_seed = searches.pivot(index="seed", columns="way", values="val_accuracy")
    return [
        row(
            f"a sweep of 100 configurations, {ORDERS} orders",
            "epochs",
            {"with ASHA": spent.tolist(), "without stopping": [float(len(stored))] * ORDERS},
            at_most=1 / 3,
            note=f"In {near:.1%} of the orders ASHA ends within {POINTS} points of the best of all. The curves of all "
            "trials are stored; ASHA's rule is applied to them by the lesson's own cell.",
        ),
        row(
            f"Optuna with ASHA, or random draws with ASHA, {len(by_seed)} seeds",
            "validation accuracy after equally many epochs",
            {"Optuna": by_seed["Optuna"].tolist(), "random": by_seed["random"].tolist()},
            note="Stored searches, see benchmarks/asha.",
        ),
    ]
