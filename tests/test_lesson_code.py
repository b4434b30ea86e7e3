"""Code cells of 03 and 04 that must be right on every machine, taken out of the notebooks and run on small inputs."""

from __future__ import annotations

import json
import random
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers import data

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def cell(notebook: str, contains: str) -> str:
    """The source of the only code cell with this text."""
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    found = [source for source in sources if contains in source]
    assert len(found) == 1, f"{notebook}: expected one code cell with {contains!r}, found {len(found)}"
    return found[0]


# --- 04: number formats -----------------------------------------------------------------------------------------------


@pytest.mark.fast
@pytest.mark.parametrize("fast_with_bf16", [True, False])
@pytest.mark.parametrize("use_gpu", [True, False])
def test_bf16_is_neither_measured_nor_used_where_it_is_slow(fast_with_bf16: bool, use_gpu: bool) -> None:
    measured: list[dict[str, Any]] = []

    def speed(**trial: Any) -> float:
        measured.append(trial)
        return 150.0 if trial.get("bf16") else 100.0

    names: dict[str, Any] = {
        "ray": types.SimpleNamespace(get=lambda result: result),
        "measure_task": types.SimpleNamespace(remote=speed),
        "plots": types.SimpleNamespace(bars=lambda *a, **k: None),
        "cpu_supports_bf16": lambda: fast_with_bf16,
        "size": types.SimpleNamespace(use_gpu=use_gpu),
    }
    exec(cell("04_train_fashion_mnist", "trials = {"), names)
    exec(cell("04_train_fashion_mnist", "tried = {"), names)
    assert any(trial.get("bf16") for trial in measured) is fast_with_bf16
    assert names["on_cpu"] == {"channels_last": False, "bf16": fast_with_bf16}
    assert names["options"] == ({"channels_last": True, "bf16": True} if use_gpu else names["on_cpu"])


# --- 03: every row, equal numbers of batches --------------------------------------------------------------------------


@pytest.fixture
def quiet_data(ray_session: None) -> Any:
    """Ray Data's settings, put back afterwards."""
    import ray

    context = ray.data.DataContext.get_current()
    before = {name: getattr(context, name) for name in ("enable_progress_bars", "use_datasource_v2")}
    context.enable_progress_bars = False
    yield context
    for name, value in before.items():
        setattr(context, name, value)


@pytest.mark.parametrize("newer_reader", [False, True])
def test_repeated_files_are_read_as_often_as_they_are_listed(
    quiet_data: Any, tmp_path: Path, newer_reader: bool
) -> None:
    import ray

    quiet_data.use_datasource_v2 = newer_reader
    for i in range(2):
        rows = pd.DataFrame({"id": range(50 * i, 50 * i + 50)})
        rows.to_parquet(tmp_path / f"{i}.parquet")
    files = data.repeat_files(sorted(tmp_path.glob("*.parquet")), 3, tmp_path / "copies")
    read = ray.data.read_parquet(files).map_batches(lambda batch: batch).to_pandas()
    assert np.bincount(read["id"]).tolist() == [3] * 100


def numbers_of_batches(shard_batches: Any, iterators: list[Any]) -> list[int]:
    """How many batches each of two workers gets, with what the notebook asks of its shard."""
    import ray

    @ray.remote(num_cpus=0)
    def count(iterator: Any) -> int:
        shards = types.SimpleNamespace(get_dataset_shard=lambda name: iterator)
        shard_batches.__globals__["ray"] = types.SimpleNamespace(train=shards)
        return sum(1 for _ in shard_batches())

    return ray.get([count.remote(iterator) for iterator in iterators])


def uneven(rows: int, blocks: int) -> Any:
    """A dataset whose blocks have very different sizes."""
    import ray

    cuts = sorted(random.Random(0).sample(range(1, rows), blocks - 1))
    ends = [0, *cuts, rows]
    parts = [np.arange(start, end) for start, end in zip(ends, ends[1:], strict=False)]
    return ray.data.from_pandas([pd.DataFrame({"picture": part, "label": part}) for part in parts])


def test_workers_get_equal_numbers_of_batches(quiet_data: Any) -> None:
    names: dict[str, Any] = {"nn": None, "torch": None, "time": None}
    exec(cell("03_ray_data", "def shard_batches("), names)
    for rows, blocks in ((10_000, 7), (10_100, 5), (10_001, 3)):
        iterators = uneven(rows, blocks).streaming_split(2, equal=True)
        one, other = numbers_of_batches(names["shard_batches"], iterators)
        assert one == other >= rows // 200, f"{rows} rows in {blocks} blocks: {one} and {other} batches"
