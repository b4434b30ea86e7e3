"""GPT-J behind Ray Serve (notebook 08), beside the server that Transformers itself brings, with the same model."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import requests
import transformers
from ray import serve

from benchmarks.rows import Row, row
from helpers import data
from helpers.lessons import run_cells
from helpers.load import LoadGenerator, stream_summary
from helpers.session import free_port, ray_options

CLIENTS, SECONDS, ROUNDS = (1, 8), 5, 2
VERSES = ("ROMEO.", "JULIET.", "HAMLET.", "To be, or", "O, that", "My lord,")
TOKENS = 24
PATIENCE_S = 120


def measure() -> list[Row]:
    """The rows of this group; three minutes on two cores."""
    folder = str(data.fine_tuned_gptj())
    port, their_port = free_port(8000), free_port(8100)
    start_serve(folder, port)
    with tempfile.TemporaryDirectory() as scratch, LoadGenerator() as load:
        theirs = start_transformers(folder, their_port, Path(scratch) / "log")
        try:
            urls = {"Serve": (f"http://127.0.0.1:{port}/gptj/v1/completions", "tuned")}
            urls["Transformers"] = (f"http://127.0.0.1:{their_port}/v1/completions", folder)
            found = {(name, n): [] for n in CLIENTS for name in urls}
            for turn in range(ROUNDS + 1):
                for (name, n), summaries in found.items():
                    url, model = urls[name]
                    streams = load.run_streams(url, bodies(model), n, SECONDS)
                    summary = stream_summary(streams)
                    assert summary["failed"] == 0, (name, set(streams["error"]))
                    if turn:
                        summaries.append(summary)
        finally:
            theirs.terminate()
            theirs.wait(timeout=60)
    serve.shutdown()
    ray.shutdown()
    rows = []
    for n in CLIENTS:
        clients = f"{n} client{'s' if n > 1 else ''}"
        for unit in ("tokens per second", "first token, p50 ms"):
            sides = {name: [s[unit] for s in found[name, n]] for name in urls}
            rows.append(row(f"GPT-J behind Serve (08) or behind `transformers serve`, {clients}", unit, sides))
    return rows


def bodies(model: str) -> list[dict[str, Any]]:
    return [{"model": model, "prompt": verse, "max_tokens": TOKENS, "temperature": 0} for verse in VERSES]


def start_serve(folder: str, port: int) -> None:
    """The service of notebook 08 with two replicas."""
    ray.init(**ray_options(num_cpus=2, log_to_driver=False))
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    names: dict[str, Any] = {"ray": ray, "serve": serve, "asyncio": asyncio}
    names["AsyncTextIteratorStreamer"] = transformers.AsyncTextIteratorStreamer
    run_cells("08_serve_gptj", "service", names)
    writers = names["Writer"].options(ray_actor_options={"num_cpus": 0.4}, num_replicas=2)
    serve.run(names["Completions"].bind(tuned=writers.bind(folder, 256)), name="gptj", route_prefix="/gptj")


def start_transformers(folder: str, port: int, log: Path) -> subprocess.Popen:
    """`transformers serve` with the same model, in 32 bits as well."""
    command = [str(Path(sys.executable).parent / "transformers"), "serve", folder, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=variables)
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                return process
        except requests.ConnectionError:
            time.sleep(0.5)
    process.kill()
    raise RuntimeError(f"`transformers serve` did not come up. It said: {log.read_text()[-2000:]}")
