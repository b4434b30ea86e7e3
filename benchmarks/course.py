"""The course itself: how long its notebooks take, how much of that Ray's start is, and the set-up."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ray

from benchmarks.rows import Row, row
from helpers import data
from helpers.session import ray_options

ROUNDS = 3


def measure() -> list[Row]:
    """The rows of this group; a minute or two."""
    starts = [seconds_to_start_ray() for _ in range(ROUNDS)]
    rows = []
    report = data.REPOSITORY / ".report" / "notebooks.json"
    if report.exists():
        for run in json.loads(report.read_text()):
            name = Path(run["notebook"]).name
            rows.append(
                row(
                    f"start of Ray, beside {name} as a whole",
                    "seconds",
                    {"Ray": starts, name: [run["seconds"]] * ROUNDS},
                )
            )
        whole = sum(run["seconds"] for run in json.loads(report.read_text()))
        note = (
            "The latest run of notebooks here, which may be some of them. One start for each, though some start Ray "
            "more than once."
        )
        starts_of_all = [len(rows) * start for start in starts]
        rows.append(
            row(
                f"{len(rows)} notebooks together",
                "seconds",
                {"Ray's starts": starts_of_all, "all": [whole] * ROUNDS},
                note=note,
            )
        )
    else:
        print("No notebook has been tested here yet: run `make test` for the rows of the notebooks.")
    return rows + set_up(starts)


def seconds_to_start_ray() -> float:
    start = time.perf_counter()
    ray.init(**ray_options(num_cpus=2, log_to_driver=False))
    took = time.perf_counter() - start
    ray.shutdown()
    return took


def set_up(starts: list[float]) -> list[Row]:
    """A fresh clone, until the environment is there, with an empty cache of packages; needs a network."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "course"
        subprocess.run(["git", "clone", "--quiet", str(data.REPOSITORY), str(clone)], check=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "tools/install.py"], cwd=clone, capture_output=True, text=True)
        took = time.perf_counter() - start
    if done.returncode != 0:
        print("The set-up was not measured, because it failed (is there a network?):", done.stderr[-300:])
        return []
    note = "Wanted: at most 90 seconds."
    return [
        row(
            "set-up of a fresh clone, beside one start of Ray",
            "seconds",
            {"set-up": [took], "Ray": starts[:1]},
            note=note,
        )
    ]
