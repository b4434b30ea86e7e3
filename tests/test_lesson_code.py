"""Code cells of the lessons that must be right on every machine, taken out of the notebooks and run on small inputs."""

from __future__ import annotations

import difflib
import io
import json
import random
import re
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from helpers import data
from helpers.measure import object_store_over_time

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def cell(notebook: str, contains: str) -> str:
    """The source of the only code cell with this text."""
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    found = [source for source in sources if contains in source]
    assert len(found) == 1, f"{notebook}: expected one code cell with {contains!r}, found {len(found)}"
    return found[0]


# --- Deep dive of 04: number formats, and what three lines change -----------------------------------------------------

ONE_CORE = "deep_dives/one_core_well_used"


@pytest.mark.fast
@pytest.mark.parametrize("fast_with_bf16", [True, False])
def test_bf16_is_not_even_tried_where_it_is_slow(
    fast_with_bf16: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray.train.torch

    from helpers import precision, session

    asked: list[dict[str, Any]] = []
    row = {"round": 1, "way": "1 thread, 128", "speed": 300.0, "busy": 1.0}
    finished = types.SimpleNamespace(return_value=[row])

    def trainer(function: Any, train_loop_config: dict[str, Any], **settings: Any) -> Any:
        asked.append(train_loop_config)
        return types.SimpleNamespace(fit=lambda: finished)

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", trainer)
    monkeypatch.setattr(ray.train.torch, "prepare_model", lambda model: model)
    monkeypatch.setattr(session, "require_resources", lambda bundles: None)
    monkeypatch.setattr(precision, "cpu_supports_bf16", lambda: fast_with_bf16)
    monkeypatch.setattr(data, "results_dir", lambda name: tmp_path)
    steps: list[bool] = []
    names: dict[str, Any] = {
        "ray": ray,
        "torch": torch,
        "take_turns": None,
        "build_model": lambda: torch.nn.Linear(1, 1),
        "make_step": lambda model, batch, bf16=False, **options: steps.append(bf16),
    }
    exec(cell(ONE_CORE, "def fit("), names)
    exec(cell(ONE_CORE, "def make_ways("), names)
    ways = names["make_ways"](asked[0]["bf16"])
    assert ("bfloat16" in ways) is any(steps) is fast_with_bf16


@pytest.mark.fast
def test_all_ways_train_as_many_images() -> None:
    """In whole steps: `images // (batch * processes)` may lose none."""
    import ray.train.torch

    names: dict[str, Any] = {"torch": torch, "build_model": lambda: torch.nn.Linear(1, 1)}
    names["make_step"] = lambda *arguments, **options: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.train.torch, "prepare_model", lambda model: model)
        exec(cell(ONE_CORE, "def make_ways("), names)
        ways = names["make_ways"](True)
    images = int(re.search(r'"images": (\d+)', cell(ONE_CORE, "def fit("))[1])
    for name, (_, batch, threads, processes) in ways.items():
        assert images % (batch * processes) == 0, name
        assert threads * processes <= 2, name


@pytest.mark.fast
@pytest.mark.parametrize(
    ("speeds", "line"),
    [
        ((109.4, 120.0, 120.0, 120.0, 120.0), "1.20 times as fast (1.09 to 1.20): faster; keep: True"),
        ((109.4, 109.4, 120.0, 120.0, 120.0), "1.20 times as fast (1.09 to 1.20): faster; keep: False"),
        ((110.1, 110.1, 112.0, 112.0, 112.0), "1.12 times as fast (1.10 to 1.12): faster; keep: True"),
        ((100.3, 130.0, 130.0, 130.0, 130.0), "1.30 times as fast (1.00 to 1.30): no difference shown; keep: False"),
        ((70.0, 90.0, 80.0, 80.0, 80.0), "0.80 times as fast (0.70 to 0.90): slower; keep: False"),
    ],
)
def test_the_printed_range_and_the_choice_agree(
    speeds: tuple[float, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    drift = np.array([1.0, 3.0, 1.0, 2.0, 1.0])  # how fast the machine is in each round, which may not change a ratio
    speed = pd.DataFrame(
        {"2 threads, 128": 100 * drift, "fused": np.array(speeds) * drift, "channels_last": 90 * drift}
    )
    names: dict[str, Any] = {"speed": speed}
    exec(cell(ONE_CORE, "def described("), names)
    exec(cell(ONE_CORE, "for switch in ("), names)
    shown = capsys.readouterr().out
    assert f"fused: {line}" in shown
    assert "channels_last: 0.90 times as fast (0.90 to 0.90): slower; keep: False" in shown
    assert "bfloat16: not tried" in shown


@pytest.mark.fast
def test_the_two_trainings_differ_in_three_lines() -> None:
    old, new = (cell(ONE_CORE, f"def {name}(").splitlines()[1:] for name in ("lesson_04", "two_threads"))
    added = [line[1:].strip() for line in difflib.unified_diff(old, new, n=0) if re.match(r"\+[^+]", line)]
    assert len(added) == 3
    assert added[0] == "torch.set_num_threads(2)"
    assert "batch_size=128" in added[1]
    assert "num_workers=1" in added[2]


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


def test_what_is_in_the_object_store_is_seen(ray_session: None) -> None:
    import ray

    def put_and_drop() -> int:
        ref = ray.put(np.zeros(5_000_000))  # 40 MB
        time.sleep(1)
        length = len(ray.get(ref))
        del ref
        time.sleep(1)
        return length

    length, seconds, mb = object_store_over_time(put_and_drop)
    assert length == 5_000_000
    assert len(seconds) == len(mb) > 5 and seconds == sorted(seconds)
    assert max(mb) - mb[-1] > 35, mb


@pytest.mark.fast
def test_broken_rows_keep_their_bytes_and_their_reason() -> None:
    names: dict[str, Any] = {"np": np, "Image": Image, "io": io}
    exec(cell("03_ray_data", "def decode_or_explain("), names)
    image = np.arange(784, dtype="uint8").reshape(28, 28)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    png = buffer.getvalue()
    pngs = [png, png[:60], b"no image"]
    rows = [names["decode_or_explain"]({"id": i, "label": 3, "png": png}) for i, png in enumerate(pngs)]
    assert np.array_equal(rows[0]["image"], image) and rows[1]["image"].shape == (28, 28)
    kinds = [row["error"].partition(":")[0] for row in rows]
    assert kinds == ["", "OSError", "UnidentifiedImageError"]

    columns = {name: [row[name] for row in rows] for name in ("id", "label", "png", "error")}
    batch = {name: np.array(values, dtype=object) for name, values in columns.items()}
    written = names["sort_out"]({**batch, "predicted": np.array([7, 8, 9])})
    assert written["status"].tolist() == ["good", "bad", "bad"]
    assert written["predicted"].tolist() == [7, -1, -1]
    assert written["png"].tolist() == [b"", *pngs[1:]]


def numbers_of_batches(shard_batches: Any, iterators: list[Any], config: dict[str, int]) -> list[int]:
    """How many batches each of two workers gets, with what notebook 04 asks of its shard."""
    import ray

    @ray.remote(num_cpus=0)
    def count(iterator: Any) -> int:
        shards = types.SimpleNamespace(get_dataset_shard=lambda name: iterator)
        shard_batches.__globals__["ray"] = types.SimpleNamespace(train=shards)
        return sum(1 for _ in shard_batches(config))

    return ray.get([count.remote(iterator) for iterator in iterators])


def uneven(rows: int, blocks: int) -> Any:
    """A dataset whose blocks have very different sizes."""
    import ray

    cuts = sorted(random.Random(0).sample(range(1, rows), blocks - 1))
    ends = [0, *cuts, rows]
    parts = [np.arange(start, end) for start, end in zip(ends, ends[1:], strict=False)]
    return ray.data.from_pandas([pd.DataFrame({"image": part, "label": part}) for part in parts])


def test_workers_get_equal_numbers_of_batches(quiet_data: Any) -> None:
    names: dict[str, Any] = {}
    exec(cell("04_train_fashion_mnist", "def shard_batches("), names)
    config = {"epochs": 1, "batch_per_worker": 100}
    for rows, blocks in ((10_000, 7), (10_100, 5), (10_001, 3)):
        iterators = uneven(rows, blocks).streaming_split(2, equal=True)
        settings = {**config, "steps_per_epoch": -(-(rows // 2) // 100)}
        one, other = numbers_of_batches(names["shard_batches"], iterators, settings)
        assert one == other == settings["steps_per_epoch"], f"{rows} rows in {blocks} blocks: {one} and {other} batches"


@pytest.mark.fast
def test_a_resumed_run_sees_the_batches_that_are_left() -> None:
    """Of an interrupted epoch those after the step, in the order of that epoch; earlier epochs are not read at all."""
    names: dict[str, Any] = {}
    exec(cell("04_train_fashion_mnist", "def shard_batches("), names)
    seeds: list[int] = []

    def stream(local_shuffle_seed: int, **options: Any) -> Any:
        seeds.append(local_shuffle_seed)
        return [{"image": (local_shuffle_seed, place), "label": place} for place in range(4)]

    shard = types.SimpleNamespace(iter_torch_batches=stream)
    names["ray"] = types.SimpleNamespace(train=types.SimpleNamespace(get_dataset_shard=lambda name: shard))
    config = {"epochs": 3, "steps_per_epoch": 4, "batch_per_worker": 100}
    whole = list(names["shard_batches"](config))
    assert [step for step, _, _ in whole] == list(range(1, 13))
    for done in range(13):
        seeds.clear()
        assert list(names["shard_batches"](config, done)) == whole[done:]
        assert seeds == [epoch for epoch in range(3) if 4 * (epoch + 1) > done]


# --- 04: failures on a cluster ----------------------------------------------------------------------------------------


@pytest.mark.fast
def test_lost_workers_and_failed_starts_of_04_are_bounded() -> None:
    """Ray's own -1 would try for ever, on a cluster that never gets what the training needs."""
    from tests.cluster_column import column_settings

    settings = column_settings(NOTEBOOKS / "04_train_fashion_mnist.ipynb")
    for size in (0, 1):
        assert 0 <= settings["max_failures"][size] <= 10
        assert 0 <= settings["failed_starts"][size] <= 20
    given: dict[str, Any] = {}
    train = types.SimpleNamespace(FailureConfig=lambda **limits: given.update(limits))
    lines = cell("04_train_fashion_mnist", "FailureConfig(").split("failures = ", 1)[1].split("\n\n", 1)[0]
    size = types.SimpleNamespace(max_failures=5, failed_starts=10)
    exec(f"failures = {lines}", {"ray": types.SimpleNamespace(train=train), "size": size})
    assert given == {"max_failures": 5, "controller_failure_limit": 10}


# --- 03: what a plain function keeps ----------------------------------------------------------------------------------


def test_a_function_keeps_nothing_from_one_task_to_the_next(ray_session: None) -> None:
    """03 says so: a model in a global variable is loaded again in each task, even if a worker runs several of them."""
    import ray

    kept: dict[str, float] = {}

    def remember(batch: dict[str, Any]) -> dict[str, Any]:
        if not kept:
            kept["made"] = time.time()
        return {"made": [kept["made"]] * len(batch["id"]), "task": [ray.get_runtime_context().get_task_id()] * 5}

    rows = ray.data.range(80, override_num_blocks=8).map_batches(remember, batch_size=5).to_pandas()
    assert rows["made"].nunique() == rows["task"].nunique() == 8
