"""Ray Data: memory when the data grow, and its speed beside a DataLoader with as many processes."""

from __future__ import annotations

import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.datasets import FashionMNIST

from benchmarks.rows import Row, row
from helpers import data
from helpers.images import as_png
from helpers.lessons import run_cells
from helpers.measure import in_turns, memory_gb
from helpers.session import ray_options
from scripts.train_fashion_mnist import normalize

WORKERS, FILES, ROUNDS, TIMES = 2, 8, 3, 16
Batch = dict[str, np.ndarray]


def measure() -> list[Row]:
    """The rows of this group; three minutes on two cores."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_pngs(Path(folder) / "once")
        many = data.repeat_files(files, TIMES, Path(folder) / "many")
        names: dict[str, Any] = {"io": io, "np": np, "Image": Image, "ray": ray, "work": Path(folder)}
        names["context"] = ray.data.DataContext.get_current()
        for tag in ("files", "augment"):
            run_cells("03_ray_data", tag, names)
        steps = {"light": lambda batch: normalize(names["decode"](batch)), "heavy": names["augment"]}
        # Their processes start before Ray does, because a process with Ray's threads must not be copied.
        loaders = {kind: loader(files, step) for kind, step in steps.items()}
        for one in loaders.values():
            total(one)
        start_ray()
        names["context"].enable_progress_bars = False

        def stream(paths: list[str], step: Callable[[Batch], Batch]) -> Iterator[Batch]:
            table = ray.data.read_parquet(paths, override_num_blocks=len(paths)).map_batches(step, batch_size=None)
            return table.iter_torch_batches(batch_size=None)

        rows = []
        for kind, step in steps.items():
            ways = {
                "Ray Data": lambda step=step: total(stream(files, step)),
                "DataLoader": lambda kind=kind: total(loaders[kind]),
            }
            seconds, answers = in_turns(ways, ROUNDS)
            assert answers["Ray Data"][0] == answers["DataLoader"][0], answers
            images = answers["Ray Data"][0]
            speeds = {name: [images / s for s in times] for name, times in seconds.items()}
            rows.append(
                row(f"images through a {kind} step, {WORKERS} processes", "images per second", speeds, note=NOTES[kind])
            )
        ray.shutdown()
        peaks: dict[str, list[float]] = {f"{TIMES} times the data": [], "the data once": []}
        for name, paths in zip(peaks, (many, files), strict=True):
            start_ray()  # anew, because processes keep memory that they once had
            peaks[name].append(peak_gb(lambda paths=paths: total(stream(paths, steps["light"]))))
            ray.shutdown()
    note = "All processes of the run together, shared memory counted once; each batch is let go of at once."
    rows.append(row("Ray Data: peak memory when the data grow", "GB", peaks, at_most=1.3, note=note))
    return rows


def start_ray() -> None:
    ray.init(**ray_options(num_cpus=WORKERS, object_store_memory=1_000_000_000, log_to_driver=False))


NOTES = {
    "light": "Read from Parquet, decode PNGs, normalize. Both keep their processes between the runs.",
    "heavy": "Read from Parquet, decode PNGs, and turn each image twice at four times its size (notebook 03).",
}


def write_pngs(folder: Path) -> list[str]:
    """The images of the course as PNGs in Parquet files."""
    folder.mkdir()
    raw = FashionMNIST(str(data.fashion_mnist_root()), train=True)
    files = []
    for place, ids in enumerate(np.array_split(np.arange(len(raw)), FILES)):
        pngs = [as_png(raw.data[i].numpy()) for i in ids]
        files.append(str(folder / f"{place}.parquet"))
        pq.write_table(pa.table({"id": ids, "label": raw.targets[ids].numpy(), "png": pngs}), files[-1])
    return files


class Files(IterableDataset):
    """One batch for each file; the processes of a DataLoader share them."""

    def __init__(self, files: list[str], step: Callable[[Batch], Batch]) -> None:
        self.files, self.step = files, step

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        me = get_worker_info()
        for file in self.files[me.id :: me.num_workers]:
            read = pq.read_table(file).to_pydict()
            batch = self.step({**read, "label": np.array(read["label"])})
            yield {"image": torch.as_tensor(batch["image"]), "label": torch.as_tensor(batch["label"])}


def loader(files: list[str], step: Callable[[Batch], Batch]) -> DataLoader:
    """As many processes as Ray has CPUs; they stay alive for the next round."""
    return DataLoader(Files(files, step), batch_size=None, num_workers=WORKERS, persistent_workers=True)


def total(batches: Iterator[dict[str, torch.Tensor]]) -> tuple[int, int]:
    """How many images there were, and the sum of their labels; each image is looked at."""
    images, labels = 0, 0
    for batch in batches:
        images += len(batch["image"])
        labels += int(batch["label"].sum())
        batch["image"].sum()
    return images, labels


def peak_gb(work: Callable[[], object], pause: float = 0.5) -> float:
    """The most memory that this process and all that it started have at the same time, in GB (10**9 bytes)."""
    looks: list[float] = []
    done = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not done.wait(pause):
            looks.append(memory_gb([me, *me.children(recursive=True)]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
        time.sleep(pause)
    finally:
        done.set()
        watcher.join()
    return max(looks)
