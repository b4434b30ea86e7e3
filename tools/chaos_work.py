"""What `make chaos` disturbs: four kinds of work, each with the means against failures that Ray offers for it.

Every piece of it has an answer that a plain computation knows, so a wrong one is found as well as a missing one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train.torch
import requests
import torch
from ray import serve, tune
from requests.adapters import HTTPAdapter
from torchvision.datasets import FashionMNIST
from urllib3.util import Retry

from helpers import data
from helpers.session import free_port, ray_options

PATIENCE_S = 240  # after which a result that has not come is lost
NUMBERS = 50_000  # of 8 bytes: too large to travel with the result, so they lie in the store of a node
CLIENTS, REPLICAS = 4, 3
IMAGES, BATCH, WORKERS, RATE = 2000, 100, 2, 0.05
FITS = 20  # how often a training is begun
STEP_S = 1.0  # of an epoch and of a step of a trial, so that there is time to be killed in


@dataclass(frozen=True)
class Amounts:
    """How much work one round is: tasks, seconds of requests, epochs, trials, and steps of each trial.

    And how many kills each kind of work meets at most; None: as many as it has time for.
    """

    tasks: int
    requests_s: float
    epochs: int
    trials: int
    steps: int
    kills: int | None


@dataclass(frozen=True)
class Work:
    """What came of it.

    Attributes:
        done: pieces of work with the right result.
        lost: pieces without a result.
        failed: pieces that ended with an error.
        wrong: pieces with another result than the right one.
    """

    done: int
    lost: int = 0
    failed: int = 0
    wrong: int = 0


def compared(found: list[Any], expected: list[Any]) -> Work:
    """Count results: None is a lost one, an exception a failed one."""
    lost = sum(result is None for result in found) + len(expected) - len(found)
    failed = sum(isinstance(result, Exception) for result in found)
    right = sum(result == wanted for result, wanted in zip(found, expected, strict=False))
    return Work(right, lost, failed, len(expected) - right - lost - failed)


# Tasks, objects and an actor: Ray runs them again, and what a lost node had in its store is computed again.


@ray.remote(max_retries=-1)
def numbers_from(start: int) -> np.ndarray:
    """NUMBERS numbers, beginning with this one."""
    time.sleep(0.1)
    return np.arange(start, start + NUMBERS)


@ray.remote(max_retries=-1)
def total(numbers: np.ndarray) -> int:
    time.sleep(0.1)
    return int(numbers.sum())


@ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0.5)
class Largest:
    """An actor without a memory, so that a call can be made again."""

    def of(self, numbers: np.ndarray) -> int:
        time.sleep(0.05)
        return int(numbers.max())


def work_through_tasks(amounts: Amounts, folder: Path, begin: Callable[[], None]) -> Work:
    """Half of the pieces are two tasks, one after the other; the other half is a task and a call of an actor."""
    begin()
    largest = Largest.remote()
    starts = range(amounts.tasks)
    parts = [numbers_from.remote(start) for start in starts]
    refs = [
        total.remote(part) if start % 2 else largest.of.remote(part) for start, part in zip(starts, parts, strict=True)
    ]
    expected = [sum(range(start, start + NUMBERS)) if start % 2 else start + NUMBERS - 1 for start in starts]
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=PATIENCE_S)
    return compared([result_of(ref) if ref in set(ready) else None for ref in refs], expected)


def result_of(ref: ray.ObjectRef) -> Any:
    """The result, or the error it ended with."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        return error


# Serve: it starts replicas anew; clients send again what was under way on one that died.


@serve.deployment(num_replicas=REPLICAS, ray_actor_options={"num_cpus": 0.5}, health_check_period_s=2)
class Square:
    async def __call__(self, request: Any) -> dict[str, int]:
        return {"square": int(request.query_params["number"]) ** 2}


def serve_numbers(amounts: Amounts, folder: Path, begin: Callable[[], None]) -> Work:
    """Clients ask one question after the other; one has failed when asking again for minutes brought no answer."""
    port = free_port(8000)
    # The proxy is on the head, which is spared, as it would be behind a load balancer that knows several.
    quiet = {"enable_access_log": False, "log_level": "ERROR"}
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
    try:
        serve.run(Square.bind())
        begin()  # Serve gives up an application whose replicas die before they have started once
        end = time.monotonic() + amounts.requests_s
        with ThreadPoolExecutor(CLIENTS) as clients:
            counted = list(clients.map(lambda first: ask(f"http://127.0.0.1:{port}/", first, end), range(CLIENTS)))
    finally:
        serve.shutdown()
    return Work(*(sum(getattr(work, name) for work in counted) for name in ("done", "lost", "failed", "wrong")))


def patient_session() -> requests.Session:
    """A client that sends a request again when its answer is missing, or says that the server is to blame."""
    again = Retry(total=40, backoff_factor=0.1, backoff_max=8, status_forcelist=(500, 502, 503, 504))
    session = requests.Session()
    session.mount("http://", HTTPAdapter(max_retries=again))
    return session


def ask(url: str, first: int, end: float) -> Work:
    """One client: squares of first, first + CLIENTS, and so on, until the time is over."""
    done = failed = wrong = 0
    number = first
    with patient_session() as session:
        while time.monotonic() < end:
            try:
                reply = session.get(url, params={"number": number}, timeout=10)
                reply.raise_for_status()
            except requests.RequestException:
                failed += 1
            else:
                right = reply.json() == {"square": number**2}
                done, wrong = done + right, wrong + (not right)
            number += CLIENTS
            time.sleep(0.02)
    return Work(done, 0, failed, wrong)


# Train: it starts the workers anew, and they go on from the last checkpoint.


def images_and_labels(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first so many of FashionMNIST: grey levels of shape (count, 784) from 0 to 1, and classes."""
    pictures = FashionMNIST(str(data.fashion_mnist_root()), train=True)
    return pictures.data[:count].flatten(1).float() / 255, pictures.targets[:count]


def start_of_training(rate: float) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The same model each time, and its optimizer."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # sums of several threads would not be the same to the last bit
    model = torch.nn.Linear(28 * 28, 10)
    return model, torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)


def saved(folder: str | Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epochs}
    torch.save(state, Path(folder) / "state.pt")


def loaded(folder: str | Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load what `saved` has written; returns how many epochs it had."""
    state = torch.load(Path(folder) / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epochs"]


def train_on_share(config: dict[str, Any]) -> None:
    """One of the workers, with every second image; each epoch ends with a checkpoint."""
    model, optimizer = start_of_training(RATE)
    first = 0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            first = loaded(folder, model, optimizer)
    shared = ray.train.torch.prepare_model(model)  # its parameters are those of the model
    rank = ray.train.get_context().get_world_rank()
    images, labels = (values[rank::WORKERS] for values in images_and_labels(IMAGES))
    for epoch in range(first, config["epochs"]):
        for batch, wanted in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(shared(batch), wanted).backward()
            optimizer.step()
        time.sleep(STEP_S)
        with tempfile.TemporaryDirectory() as folder:
            saved(folder, model, optimizer, epoch + 1)
            kept = ray.train.Checkpoint.from_directory(folder) if rank == 0 else None
            ray.train.report({"epochs": epoch + 1}, checkpoint=kept)


def train_model(amounts: Amounts, folder: Path, begin: Callable[[], None]) -> Work:
    """Train with two workers; the weights have to be those of a plain loop, to the last bit."""
    begin()
    try:
        kept = fit_patiently(amounts.epochs, folder)
    except Exception as error:
        print(f"  training ended with {error!r}"[:500], flush=True)
        return Work(0, failed=amounts.epochs)
    model, optimizer = start_of_training(RATE)
    epochs = loaded(kept, model, optimizer)
    if epochs < amounts.epochs:
        return Work(epochs, lost=amounts.epochs - epochs)
    right = plain_training(amounts.epochs)
    equal = all(torch.equal(value, right[name]) for name, value in model.state_dict().items())
    return Work(epochs) if equal else Work(0, wrong=epochs)


def fit_patiently(epochs: int, folder: Path) -> str:
    """Begin the run, and go on with it where Ray Train gives up: a run of the same name continues.

    Ray 2.60 restarts lost workers as often as `max_failures` allows, but ends the run with a ControllerError if one is
    lost between the start of the group and the start of the training function. What that group had reserved stays
    reserved until the program ends, so each attempt is a program of its own.

    Returns:
        The folder of the last checkpoint.

    Raises:
        RuntimeError: The controller gave up FITS times.
        Exception: Whatever else the run ended with.
    """
    address = ray.get_runtime_context().gcs_address
    for _ in range(FITS):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as program:
            kept = program.submit(fit_once, address, epochs, folder).result()
        if kept is not None:
            return kept
        print("  the controller gave up; fit once more, with the same name", flush=True)
    raise RuntimeError(f"Ray Train's controller gave up {FITS} times.")


def fit_once(address: str, epochs: int, folder: Path) -> str | None:
    """One attempt, in a process that hasn't joined the cluster yet; None if the controller gave up."""
    ray.init(**ray_options(address=address, log_to_driver=False))
    trainer = ray.train.torch.TorchTrainer(
        train_on_share,
        train_loop_config={"epochs": epochs},
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS),
        run_config=ray.train.RunConfig(
            name="chaos", storage_path=str(folder), failure_config=ray.train.FailureConfig(max_failures=-1)
        ),
    )
    try:
        return trainer.fit().checkpoint.path
    except ray.train.ControllerError:
        return None
    finally:
        ray.shutdown()  # frees what a group that failed had reserved


def plain_training(epochs: int) -> dict[str, torch.Tensor]:
    """The weights of the same training in one process: the mean of the gradients of all shares, step by step."""
    model, optimizer = start_of_training(RATE)
    images, labels = images_and_labels(IMAGES)
    shares = [
        zip(images[rank::WORKERS].split(BATCH), labels[rank::WORKERS].split(BATCH), strict=True)
        for rank in range(WORKERS)
    ]
    steps = list(zip(*shares, strict=True))
    for _ in range(epochs):
        for parts in steps:
            optimizer.zero_grad()
            for batch, wanted in parts:
                (torch.nn.functional.cross_entropy(model(batch), wanted) / WORKERS).backward()
            optimizer.step()
    return model.state_dict()


# Tune: it starts a trial anew, and the trial goes on from its own last checkpoint.


def train_with_rate(config: dict[str, Any]) -> None:
    """A trial: each step is one look at all images, and ends with a checkpoint."""
    model, optimizer = start_of_training(config["rate"])
    first = 0
    if checkpoint := tune.get_checkpoint():
        with checkpoint.as_directory() as folder:
            first = loaded(folder, model, optimizer)
    images, labels = images_and_labels(IMAGES)
    for step in range(first, config["steps"]):
        loss = whole_step(model, optimizer, images, labels)
        time.sleep(STEP_S)
        with tempfile.TemporaryDirectory() as folder:
            saved(folder, model, optimizer, step + 1)
            tune.report({"loss": loss, "step": step + 1}, checkpoint=tune.Checkpoint.from_directory(folder))


def whole_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> float:
    """One step with all images; returns its loss."""
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def tune_rates(amounts: Amounts, folder: Path, begin: Callable[[], None]) -> Work:
    """Trials with different rates; the last loss of each has to be that of a plain loop, to the last bit."""
    rates = [0.01 * (number + 1) for number in range(amounts.trials)]
    tuner = tune.Tuner(
        train_with_rate,
        param_space={"rate": tune.grid_search(rates), "steps": amounts.steps},
        tune_config=tune.TuneConfig(max_concurrent_trials=3),
        run_config=tune.RunConfig(
            storage_path=str(folder), failure_config=tune.FailureConfig(max_failures=-1), verbose=0
        ),
    )
    begin()
    found: dict[float, Any] = dict.fromkeys(rates)
    for result in tuner.fit():
        if result.error is not None:
            found[result.config["rate"]] = result.error
        elif result.metrics.get("step") == amounts.steps:
            found[result.config["rate"]] = result.metrics["loss"]
    return compared([found[rate] for rate in rates], [plain_loss(rate, amounts.steps) for rate in rates])


def plain_loss(rate: float, steps: int) -> float:
    """The loss of the last of so many steps in a loop without Ray."""
    model, optimizer = start_of_training(rate)
    images, labels = images_and_labels(IMAGES)
    return [whole_step(model, optimizer, images, labels) for _ in range(steps)][-1]
