"""The cluster column of every notebook that has one runs here, on two nodes, with smaller counts and without GPUs."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests import cluster_column, notebook_outputs
from tests.cluster_column import COUNTS, EXCEPTIONS, GPU_SETTINGS, Cluster, Column, column_settings, override_problems
from tests.notebook_rules import is_solution, notebook_paths

WITHOUT_SOLUTIONS = [path for path in notebook_paths() if not is_solution(path)]
# A cell may take this long, on a machine that is busy with something else, too.
SECONDS_PER_CELL = 600

COLUMNS = [
    Column(
        "03_ray_data",
        {"model_actors": 2, "gpus_per_actor": 0},
        on_both_nodes="MapBatches(Classifier)",
        until="actors",
    ),
    Column(
        "04_train_fashion_mnist",
        {"workers": 2, "use_gpu": False, "cpus_per_worker": 3, "all_pictures": False, "epochs": 1},
        on_both_nodes="RayTrainWorker",
    ),
    Column(
        "05_tune_asha",
        {
            "trials": 12,
            "max_epochs": 6,
            "gpus_per_trial": 0,
            "all_images": False,
        },
        on_both_nodes="ImplicitFunc",
        until="restore",
    ),
    Column(
        "06_serve_fashion_mnist",
        {"replicas": 3, "gpus_per_replica": 0, "clients": [1, 4, 16]},
        on_both_nodes="ServeReplica:batched:BatchedClassifier",
        until="replicas",
    ),
    Column(
        "07_finetune_gptj",
        {
            "model": "gptj_tiny",
            "revision": None,
            "workers": 2,
            "use_gpu": False,
            "cpus_per_worker": 3,
            "block": 128,
            "blocks_per_epoch": 64,
        },
        on_both_nodes="RayTrainWorker",
        until="long-run",
    ),
    Column(
        "08_serve_gptj",
        {
            "base": None,
            "revision": None,
            "replicas": 3,
            "cpus_per_replica": 1,
            "gpus_per_replica": 0,
            "context": 256,
            "clients": [1, 2, 4],
        },
        on_both_nodes="ServeReplica:gptj:tuned",
        until="bad-input",
    ),
    # It starts tasks and no actors; that tasks spread over nodes is tested with 09.
    Column(
        "11_ray_and_the_others",
        {"work_seconds": 0.5, "array_mb": 20, "repeats_of_words": 2},
        on_both_nodes=None,
    ),
]
# The names of Ray's own actors that stay on a cluster when a notebook has left it.
OF_RAY = {"_AutoscalingCoordinatorActor", "_StatsActor", "_UsageCollectionActor", "ActorLocationTracker"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))  # short: sockets are kept in it
    try:
        with cluster_column.two_nodes(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def problems_of(column: Column, cluster: Cluster, folder: Path, whole: bool) -> list[str]:
    """Run a column, and say what is wrong with it beyond cells that fail."""
    shared = column_settings(column.path).get("storage", (None, None))[1]
    was_there = bool(shared) and Path(shared).exists()
    before = {actor["actor_id"] for actor in cluster.actors()}
    notebook = cluster_column.run(column, cluster, folder, SECONDS_PER_CELL, whole)
    problems = [] if "cluster (chosen)" in shown(notebook) else ["The size table does not say that cluster is chosen."]
    if whole or column.until is None:
        problems += notebook_outputs.check_problems(notebook, column.path)
    if column.on_both_nodes is not None:
        own = [actor for actor in cluster.actors() if actor["actor_id"] not in before]
        nodes = {actor["node_id"] for actor in own if column.on_both_nodes in actor["class_name"]}
        if len(nodes - {None, ""}) != cluster_column.NODES:
            kinds = sorted({actor["class_name"] for actor in own})
            problems.append(f"{column.on_both_nodes} ran on {len(nodes)} of 2 nodes; there were the actors {kinds}.")
    if left := actors_left(cluster, before):
        problems.append(f"When the notebook had ended, the cluster still had the actors {left}.")
    if shared and Path(shared).exists() and not was_there:
        problems.append(f"It wrote to {shared} although RAY_COURSE_RESULTS names another folder.")
    return problems


def shown(notebook: nbformat.NotebookNode) -> str:
    """All HTML among the outputs."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("data", {}).get("text/html", "") for output in outputs)


def actors_left(cluster: Cluster, before: set[str]) -> list[str]:
    """Class names of the new actors that are not gone half a minute later."""
    end = time.monotonic() + 30
    while True:
        new = [actor for actor in cluster.actors() if actor["actor_id"] not in before and actor["state"] != "DEAD"]
        left = sorted({actor["class_name"] for actor in new} - OF_RAY)
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.5)


SHORT_RUNS = [
    pytest.param(column, id=column.notebook, marks=[] if column.always else [pytest.mark.long]) for column in COLUMNS
]


@pytest.mark.parametrize("column", SHORT_RUNS)
def test_the_cluster_column_runs(column: Column, cluster: Cluster, tmp_path: Path) -> None:
    assert problems_of(column, cluster, tmp_path, whole=False) == []


@pytest.mark.long
@pytest.mark.parametrize("column", [c for c in COLUMNS if c.until], ids=lambda column: column.notebook)
def test_all_cells_of_the_cluster_column_run(column: Column, cluster: Cluster, tmp_path: Path) -> None:
    assert problems_of(column, cluster, tmp_path, whole=True) == []


@pytest.mark.fast
def test_every_notebook_with_two_sizes_is_in_the_table() -> None:
    with_sizes = {notebook_outputs.notebook_name(path) for path in WITHOUT_SOLUTIONS if column_settings(path)}
    listed = [column.notebook for column in COLUMNS]
    assert sorted(listed) == sorted(with_sizes), (
        "COLUMNS in tests/test_cluster_columns.py must name each notebook with a size cell once: "
        f"missing {sorted(with_sizes - set(listed))}, without a size cell {sorted(set(listed) - with_sizes)}."
    )


@pytest.mark.fast
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.notebook)
def test_only_counts_and_gpus_are_overridden(column: Column) -> None:
    assert override_problems(column) == []


@pytest.mark.fast
@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.notebook)
def test_no_gpu_is_asked_for(column: Column) -> None:
    asked = set(column_settings(column.path)) & GPU_SETTINGS
    assert asked <= set(column.settings), f"Nothing replaces {sorted(asked - set(column.settings))}."


@pytest.mark.fast
def test_names_that_may_be_overridden_exist() -> None:
    known = {name for path in WITHOUT_SOLUTIONS for name in column_settings(path)}
    unknown = (COUNTS | GPU_SETTINGS | set(EXCEPTIONS)) - known
    assert not unknown, f"tests/cluster_column.py names settings that no notebook has: {sorted(unknown)}."


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"epoch": 1}, "names no setting of the notebook: expected one of workers, "),
        ({"epochs": 20}, "must be a count below the cluster's value, 10."),
        ({"epochs": 0}, "must be a count below"),
        ({"epochs": True}, "must be a count below"),
        ({"epochs": None}, "must be a count below"),
        ({"use_gpu": True}, "must be False: there is no GPU here."),
        ({"learning_rate": 1e-4}, "changes what is no count: leave the cluster's value 0.002"),
        ({"max_failures": 1}, "changes what is no count"),
        ({"storage": None}, "changes what is no count"),
        ({"all_pictures": "some"}, "may only be the laptop's value, False (the full FashionMNIST would"),
        ({"clients": [1, 2]}, "must be a count below the cluster's value, (1, 32, 256)."),
        ({"clients": [1, 64, 16]}, "must be a count below"),
        ({"clients": [1, 32, 256]}, "must be a count below"),
    ],
)
def test_an_override_of_anything_else_is_refused(
    settings: dict, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """size = choose_size({
        "workers": (2, 16), "use_gpu": (False, True), "all_pictures": (False, True), "epochs": (3, 10),
        "learning_rate": (2e-3, 2e-3), "max_failures": (1, -1), "storage": (None, "/shared"),
        "clients": ((1, 8), (1, 32, 256)),
    })"""
    make(tmp_path, monkeypatch, [new_code_cell(source)])
    good = {"workers": 2, "use_gpu": False, "all_pictures": False, "epochs": 1, "clients": [1, 4, 8]}
    assert override_problems(Column("small", good, "")) == []
    (problem,) = override_problems(Column("small", {**good, **settings}, ""))
    assert problem.startswith("small: the override ") and part in problem


def make(folder: Path, monkeypatch: pytest.MonkeyPatch, cells: list[nbformat.NotebookNode]) -> None:
    """Let the folder hold one notebook, small.ipynb, and be the folder of all notebooks."""
    monkeypatch.setattr(cluster_column, "NOTEBOOKS", folder)
    nbformat.write(new_notebook(cells=cells), folder / "small.ipynb")


def tagged(source: str, *tags: str) -> nbformat.NotebookNode:
    cell = new_code_cell(source)
    cell.metadata["tags"] = list(tags)
    return cell


def test_the_column_and_the_changes_reach_the_cells_and_a_short_run_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = "from helpers.sizes import choose_size\nsize = choose_size({'epochs': (3, 10), 'workers': (2, 16)})\nsize"
    last = "print(size.name, size.epochs, size.workers)"
    cells = [new_markdown_cell("# T"), tagged(size, "t"), tagged("1 / 0"), tagged(last), new_markdown_cell("end")]
    make(tmp_path, monkeypatch, cells)
    column = Column("small", {"epochs": 1}, "", until="t")
    notebook = cluster_column.run(column, Cluster({}, None), tmp_path, 60, whole=False)
    assert notebook.cells[-1].outputs[0].text == "cluster 1 16\n"
    assert "cluster (chosen)" in shown(notebook)
    with pytest.raises(AssertionError, match="(?s)^small, cluster column: cell 3 failed.*ZeroDivisionError"):
        cluster_column.run(column, Cluster({}, None), tmp_path, 60, whole=True)


def test_a_cell_that_hangs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, monkeypatch, [tagged("print('before')"), tagged("print('so far')\nimport time; time.sleep(99)")])
    with pytest.raises(AssertionError, match="(?s)^small, cluster column: cell 2 .*so far.*timed out"):
        cluster_column.run(Column("small", {}, ""), Cluster({}, None), tmp_path, 3, whole=True)


def test_a_kernel_that_dies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, monkeypatch, [tagged("print('before')"), tagged("import os; os._exit(1)")])
    with pytest.raises(AssertionError, match="(?s)^small, cluster column: cell [12] .*DeadKernelError"):
        cluster_column.run(Column("small", {}, ""), Cluster({}, None), tmp_path, 60, whole=True)
