"""Two processes under torchrun, which is what people use without Ray."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from helpers import data
from helpers.session import free_port


def with_torchrun(module: str, **settings: Any) -> dict[str, list[float]]:
    """Run `worker_of_torchrun(settings)` of a module of this package in two processes.

    Returns:
        What the first process returned.

    Raises:
        RuntimeError: torchrun failed; what it printed is above.

    Source: written for this course.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "answer.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
        command += [f"--master-port={free_port(29500)}", "-m", "benchmarks.under_torchrun", module]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run([*command, json.dumps(settings), str(file)], cwd=data.REPOSITORY, env=variables)
        if done.returncode != 0:
            raise RuntimeError(f"torchrun failed with {module}: what it printed is above.")
        return json.loads(file.read_text())


if __name__ == "__main__":
    name, settings_of_run, answer_file = sys.argv[1:]
    answer = importlib.import_module(f"benchmarks.{name}").worker_of_torchrun(json.loads(settings_of_run))
    if os.environ["RANK"] == "0":
        Path(answer_file).write_text(json.dumps(answer))
