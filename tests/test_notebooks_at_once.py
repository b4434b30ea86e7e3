"""Two notebooks at once on one machine do not disturb each other (make test-all)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAIR = ("notebooks/00_start_here.ipynb", "notebooks/01_tasks_and_actors.ipynb")
# They share the cores, so each takes up to twice as long, and longer where others work on the machine. Whether they
# disturb each other does not show in seconds.
SLACK = 10.0
SECONDS_PER_CELL = 900


def results_of_runs_at_once(
    notebooks: tuple[str, ...], root: Path = REPOSITORY, *options: str
) -> list[tuple[int, str]]:
    """Run each notebook in a pytest of its own, all at the same time; returns exit code and output of each."""
    command = [sys.executable, "-m", "pytest", "--nbmake", f"--nbmake-timeout={SECONDS_PER_CELL}"]
    command += ["-p", "no:cacheprovider", f"--slack={SLACK}", *options]
    runs = [
        subprocess.Popen(
            [*command, notebook], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for notebook in notebooks
    ]  # fmt: skip
    try:
        outputs = [run.communicate(timeout=1800)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    return [(run.returncode, output) for run, output in zip(runs, outputs, strict=True)]


@pytest.mark.long
def test_two_notebooks_run_at_once() -> None:
    for notebook, (code, output) in zip(PAIR, results_of_runs_at_once(PAIR), strict=True):
        assert code == 0, f"{notebook} is red while another notebook runs:\n{output}"
