"""Runs the cluster column of a notebook on this machine: two small nodes, the same cells, smaller counts.

The notebook's own column is used, so nothing here can fall behind it:
RAY_COURSE_SIZE chooses it, and RAY_COURSE_SETTINGS makes its counts smaller
and replaces GPUs. `python -m tests.cluster_column` starts the two nodes; tests
do that through `two_nodes`.
"""

from __future__ import annotations

import ast
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from tests import notebook_outputs
from tests.notebook_rules import NOTEBOOKS, REPOSITORY, load, size_settings

# CPUs that each node claims to have. Two training workers of 3 CPUs need both nodes.
CPUS_PER_NODE = 4
NODES = 2
# Ray gives each node 30 seconds to start, which a busy machine can miss.
ATTEMPTS = 3

# Ray Data's default reader starts 32 processes for each Parquet dataset to plan the reading; here two must do.
SMALL_READER = {"RAY_DATA_PARQUET_FOOTER_NUM_ACTORS": "2"}

# Only these settings may be made smaller: they say how much there is, not how it is done.
COUNTS = {
    "model_actors",
    "workers",
    "cpus_per_worker",
    "epochs",
    "batch_per_worker",
    "trials",
    "max_epochs",
    "replicas",
    "cpus_per_replica",
    "clients",
    "block",
    "blocks_per_epoch",
    "context",
    "work_seconds",
    "array_mb",
    "repeats_of_words",
}
# There is no GPU here.
GPU_SETTINGS = {"use_gpu", "gpus_per_actor", "gpus_per_trial", "gpus_per_replica"}
# And these may have the laptop's value, for a reason that no count can remove.
EXCEPTIONS = {
    "all_images": "the full FashionMNIST would have to be downloaded",
    "all_pictures": "the full FashionMNIST would have to be downloaded",
    "model": "no hub here, and no memory for 6 billion parameters",
    "base": "no hub here, and no memory for 6 billion parameters",
    "revision": "belongs to a model of the hub",
}


@dataclass(frozen=True)
class Column:
    """How the cluster column of one notebook is run here.

    Args:
        notebook: the notebook's name, for example "04_train_fashion_mnist".
        settings: smaller counts, and what replaces GPUs: see `override_problems`.
        on_both_nodes: part of the class name of the actors that must have run on two nodes; None: it has no actors.
        until: tag of the last cell that a short run executes, before the notebook's
            last cell, which shuts everything down; None: a short run executes all cells.
        always: whether `make test` makes the short run; else only `make test-all` does, for lack of time.
    """

    notebook: str
    settings: Mapping[str, Any]
    on_both_nodes: str | None
    until: str | None = None
    always: bool = False

    @property
    def path(self) -> Path:
        return NOTEBOOKS / f"{self.notebook}.ipynb"


@dataclass
class Cluster:
    """A running cluster of two nodes: how to join it, and what happened on it."""

    variables: Mapping[str, str]
    _process: subprocess.Popen[str] = field(repr=False)

    def actors(self) -> list[dict[str, str]]:
        """All actors that there ever were: class_name, node_id, state and actor_id of each."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("actors\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def column_settings(path: Path) -> dict[str, tuple[Any, Any]]:
    """The settings that a notebook gives to choose_size, read from its cells; empty if it has none."""
    for cell in load(path).cells:
        if cell.cell_type == "code" and "choose_size(" in cell.source:
            return {key: ast.literal_eval(value) for key, value in size_settings(ast.parse(cell.source)).items()}
    return {}


def override_problems(column: Column) -> list[str]:
    """What is wrong with the changed settings, one sentence each: only counts may shrink, and GPUs be replaced."""
    settings = column_settings(column.path)
    problems = []
    for name, value in column.settings.items():
        where = f"{column.notebook}: the override {name}={value!r}"
        if name not in settings:
            problems.append(f"{where} names no setting of the notebook: expected one of {', '.join(settings)}.")
            continue
        laptop, cluster = settings[name]
        if name in GPU_SETTINGS:
            if value:
                problems.append(f"{where} must be {False if isinstance(cluster, bool) else 0}: there is no GPU here.")
        elif name in EXCEPTIONS:
            if value != laptop:
                problems.append(f"{where} may only be the laptop's value, {laptop!r} ({EXCEPTIONS[name]}).")
        elif name not in COUNTS:
            problems.append(
                f"{where} changes what is no count: leave the cluster's value {cluster!r}, "
                "or add the name to COUNTS in tests/cluster_column.py if it only says how much there is."
            )
        elif not _is_smaller(value, cluster):
            problems.append(f"{where} must be a count below the cluster's value, {cluster!r}.")
    return problems


def _is_smaller(value: Any, cluster: Any) -> bool:
    """Whether a value is the same kind of count as the cluster's, and smaller; None means all there is."""
    if isinstance(cluster, tuple):
        return (
            isinstance(value, list)
            and len(value) == len(cluster)
            and all(type(small) is int and small <= large for small, large in zip(value, cluster, strict=True))
            and value != list(cluster)
        )
    if cluster is None:
        return type(value) is int and value > 0
    return type(value) in (int, float) and 0 < value < cluster


@contextmanager
def two_nodes(folder: Path) -> Iterator[Cluster]:
    """Start a cluster of two nodes with a token of its own, and end it afterwards.

    Args:
        folder: for Ray's temporary files; its path must be short, because sockets are kept in it.
    """
    joining = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables = {
        **joining,
        **SMALL_READER,
        "RAY_TMPDIR": str(folder),
        "TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "DS_ACCELERATOR": "cpu",  # without it, DeepSpeed looks for a GPU
        "HF_HUB_OFFLINE": "1",
        # Every node would start a process for each of its CPUs in advance.
        "RAY_enable_worker_prestart": "0",
    }
    # Workers get `helpers` from the notebook that joins, as on a cluster, and not from a path of this machine.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH", "PYTEST"))}
    for _ in range(ATTEMPTS):
        process, address = _started({**kept, **variables})
        if address:
            break
    try:
        assert address, f"The two nodes did not start in {ATTEMPTS} attempts; what they said is above."
        yield Cluster({**joining, "RAY_ADDRESS": address}, process)
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()


def _started(environment: Mapping[str, str]) -> tuple[subprocess.Popen[str], str]:
    """The process that keeps the two nodes, and their address, which is empty if they did not start."""
    command = [sys.executable, "-m", "tests.cluster_column"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, text=True, **pipes)
    assert process.stdout
    return process, process.stdout.readline().strip()


def run(column: Column, cluster: Cluster, folder: Path, seconds_per_cell: int, whole: bool) -> nbformat.NotebookNode:
    """Execute the cluster column of a notebook.

    Args:
        column: which notebook, and what is changed.
        cluster: the nodes to join.
        folder: for results and temporary files.
        seconds_per_cell: how long one cell may take.
        whole: all cells, also if the column has `until`.

    Returns:
        The notebook with its outputs.

    Raises:
        AssertionError: a cell failed or took too long; the message shows it.
    """
    notebook = nbformat.read(column.path, 4)
    if column.until and not whole:
        notebook.cells = _first_cells(notebook, column.until)
    variables = {
        **cluster.variables,
        **SMALL_READER,
        "RAY_COURSE_SIZE": "cluster",
        "RAY_COURSE_SETTINGS": json.dumps(dict(column.settings)),
        "RAY_COURSE_RESULTS": str(folder / "results"),
        "TMPDIR": str(folder),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(REPOSITORY),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_") or name == "MPLBACKEND"]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        client = NotebookClient(notebook, timeout=seconds_per_cell, kernel_name="python3")
        try:
            client.execute(cwd=str(NOTEBOOKS))
        except (CellExecutionError, CellTimeoutError) as error:
            raise AssertionError(f"{column.notebook}, cluster column: {_last_cell(notebook)}\n{error}") from None
        except Exception as error:  # a kernel that died
            raise AssertionError(f"{column.notebook}, cluster column: {_last_cell(notebook)}\n{error!r}") from error
    return notebook


def _first_cells(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    """All cells up to the one with the tag, and the last code cell."""
    last = next(i for i, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", []))
    end = [cell for cell in notebook.cells[last + 1 :] if cell.cell_type == "code"][-1:]
    return [*notebook.cells[: last + 1], *end]


def _last_cell(notebook: nbformat.NotebookNode) -> str:
    """Which cell was executed last, and what it had printed."""
    done = [i for i, cell in enumerate(notebook.cells, 1) if cell.get("execution_count")]
    if not done:
        return "no cell was executed."
    printed = "".join(output.get("text", "") for output in notebook.cells[done[-1] - 1].outputs)
    return f"cell {done[-1]} failed.\n{notebook_outputs.ANSI.sub('', printed)[-3000:]}"


def _serve() -> None:
    """Start two nodes, print their address, answer questions on stdin until it is closed."""
    import ray.cluster_utils
    from ray.util.state import list_actors

    node = {"num_cpus": CPUS_PER_NODE, "num_gpus": 0, "object_store_memory": 500_000_000}
    # None: Ray looks for a free port itself, and tries again if another program is faster.
    head = {**node, "include_dashboard": True, "dashboard_port": None, "dashboard_agent_listen_port": 0}
    nodes = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    for _ in range(NODES - 1):
        nodes.add_node(**node)
    print(nodes.address, flush=True)
    names = ("class_name", "node_id", "state", "actor_id")
    for _ in sys.stdin:
        complete = {"limit": 10_000, "timeout": 120, "raise_on_missing_output": False}
        actors = list_actors(address=nodes.address, detail=True, **complete)
        print(json.dumps([{name: getattr(actor, name) for name in names} for actor in actors]), flush=True)
    nodes.shutdown()


if __name__ == "__main__":
    _serve()
