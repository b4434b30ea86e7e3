"""Ray Serve: single and batched, beside bare FastAPI with uvicorn, with many clients and at a fixed rate."""

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import ray
import requests
import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel
from ray import serve
from torchvision.datasets import FashionMNIST

from benchmarks.rows import Row, row
from helpers import data
from helpers.images import as_png, decode_png
from helpers.lessons import run_cells
from helpers.load import LoadGenerator
from helpers.session import free_port, ray_options

CLIENTS, SECONDS, ROUNDS = 32, 4, 3
# What Serve offers for throughput, without the part that needs HAProxy, which listens on all interfaces.
THROUGHPUT = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
PATIENCE_S = 200


def lesson(*tags: str, replica: dict[str, float]) -> dict[str, Any]:
    """The network of notebook 06, and its classifiers, of which it runs the one with batches."""
    names: dict[str, Any] = {"ray": ray, "serve": serve, "np": np, "data": data, "replica": replica}
    names.update(FastAPI=FastAPI, BaseModel=BaseModel, folder=str(data.trained_model()))
    for tag in tags:
        run_cells("06_serve_fashion_mnist", tag, names)
    return names


@ray.remote(num_cpus=0)
class Bare:
    """One process of FastAPI and uvicorn, which answers one request after the other."""

    def __init__(self, port: int) -> None:
        names = lesson("network", replica={})
        classify, to_answer = names["classify"], names["to_answer"]
        network = names["load_network"](names["folder"])
        app = FastAPI()

        @app.post("/")
        async def predict(request: Request):
            return to_answer(classify(network, [decode_png(await request.body())])[0])

        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
        self.server = server
        threading.Thread(target=server.run, daemon=True).start()

    def ready(self) -> None:
        while not self.server.started:
            time.sleep(0.05)


def measure() -> list[Row]:
    """The rows of this group; three minutes on two cores."""
    usual = with_settings()
    per_s, ms = "answers per second", "milliseconds, 99 of 100 answers"
    rows = [
        row(
            f"FashionMNIST behind Serve, {CLIENTS} clients, batched or not",
            per_s,
            {"batched": usual["batched"], "one by one": usual["single"]},
            at_least=3,
        ),
        row(
            f"{CLIENTS} clients: Serve with batches, or bare FastAPI with uvicorn",
            per_s,
            {"Serve": usual["batched"], "bare": usual["bare"]},
            at_least=0.9,
        ),
        row(
            "at a fixed rate, half of what the bare service can do: Serve with batches, or bare",
            ms,
            {"Serve": usual["batched p99"], "bare": usual["bare p99"]},
        ),
    ]
    fast = with_variables(THROUGHPUT)
    if fast is not None:
        what, note = f"{CLIENTS} clients, with Serve's setting for throughput: batched, or bare", " ".join(THROUGHPUT)
        sides = {"Serve": fast["batched"], "bare": fast["bare"]}
        rows.append(
            row(what, per_s, sides, at_least=0.9, note=f"{note} have the values {', '.join(THROUGHPUT.values())}.")
        )
    return rows


def with_variables(variables: dict[str, str]) -> dict[str, list[float]] | None:
    """What with_settings finds in a process that has these variables from its start; None if it fails."""
    program = (
        "import json; from benchmarks.serving import with_settings as w; "
        "print('FOUND', json.dumps(w(('batched', 'bare'), at_a_rate=False)))"
    )
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(
            command,
            cwd=data.REPOSITORY,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        print(f"with {variables}, the services were not measured within {PATIENCE_S} s", flush=True)
        return None
    for line in done.stdout.splitlines():
        if line.startswith("FOUND "):
            return json.loads(line.removeprefix("FOUND "))
    print(f"with {variables}, the services were not measured: {done.stdout}", flush=True)
    return None


def with_settings(
    kinds: tuple[str, ...] = ("single", "batched", "bare"), at_a_rate: bool = True
) -> dict[str, list[float]]:
    """Answers per second of these services, and the slowest answers at a fixed rate."""
    with LoadGenerator() as load:
        ray.init(**ray_options(num_cpus=2, log_to_driver=False))
        port, bare_port = free_port(8000), free_port(8100)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        names = lesson("network", "service", replica={"num_cpus": 0.4})
        serve.run(names["Classifier"].bind(names["folder"]), name="single", route_prefix="/single")
        bare = Bare.remote(bare_port)
        ray.get(bare.ready.remote())
        images = FashionMNIST(str(data.fashion_mnist_root()), train=False).data.numpy()[:500]
        pngs = [as_png(image) for image in images]
        urls = {kind: f"http://127.0.0.1:{port}/{kind}" for kind in kinds}
        urls["bare"] = f"http://127.0.0.1:{bare_port}"
        header = {"Content-Type": "image/png"}
        found = {
            kind: requests.post(url, data=pngs[0], headers=header, timeout=30).json() for kind, url in urls.items()
        }
        assert len({answer.get("label") for answer in found.values()}) == 1, found
        speeds: dict[str, list[float]] = {kind: [] for kind in urls}
        for turn in range(ROUNDS + 1):
            for kind, url in urls.items():
                answers = load.run(url, pngs, CLIENTS, SECONDS, "image/png")
                assert (answers["status"] == 200).all()
                if turn:  # the first one only warms up
                    span = (answers["start"] + answers["seconds"]).max() - answers["start"].min()
                    speeds[kind].append(len(answers) / span)
        rate = sorted(speeds["bare"])[len(speeds["bare"]) // 2] / 2
        for kind in ("batched", "bare") if at_a_rate else ():
            slow = [load.run_at_rate(urls[kind], pngs, rate, SECONDS, "image/png")["seconds"] for _ in range(ROUNDS)]
            speeds[f"{kind} p99"] = [1000 * float(seconds.quantile(0.99)) for seconds in slow]
        ray.kill(bare)
        serve.shutdown()
        ray.shutdown()
    print({kind: [round(value) for value in values] for kind, values in speeds.items()}, flush=True)
    return speeds
