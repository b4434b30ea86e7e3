"""The code of notebook 05, for the measurements that take longer than a lesson.

There is one copy of it: the cells of the notebook that have the tag `trial`
are run here as they stand.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
from ray import tune

from helpers.lessons import run_cells

FOLDER = Path(__file__).resolve().parent
NOTEBOOK = FOLDER.parent.parent / "notebooks" / "05_tune_asha.ipynb"
TAG = "trial"


def lesson() -> dict[str, Any]:
    """Run the cells with the tag `trial`; returns the names that they define."""
    names: dict[str, Any] = {"ray": ray, "tune": tune}
    run_cells(NOTEBOOK.stem, TAG, names)
    return names


def about() -> dict[str, Any]:
    """The machine and the versions of a measurement, without anything that names the machine."""
    return {
        "date": date.today().isoformat(),
        # Not every system can say which cores this process may use.
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("ray", "torch", "optuna")},
    }


def write_about(name: str, **more: Any) -> None:
    """Keep what a stored table was measured with beside it."""
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(about() | more, indent=1) + "\n")
    print(f"wrote {path.name}")
