"""Workers of Ray Train for a check: threads that run a training function on stand-ins for Ray Train's functions.

Real workers take half a minute to start, and then show only what they report. Threads start at once, and a check sees
everything: which worker read which row, whose gradients were averaged, who waits for whom. What a training function
calls is replaced while it runs: `ray.train.report`, `get_checkpoint` and `get_context`, `prepare_model`,
`prepare_data_loader` and `get_device`, and the usual collective calls of `torch.distributed`.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler

PATIENCE = 20.0  # seconds that a worker waits for another one which is still busy


class Stuck(Exception):
    """A worker waits for one that never comes: real workers would wait forever."""


@dataclass
class Run:
    """What happened while the workers ran.

    Attributes:
        reports: for each worker, the metrics of its reports, in order.
        models: for each worker, the models that it gave to prepare_model.
        checkpoint: the newest one that was reported, or that the run started from.
        stuck: whether a worker waited for one that never came.
    """

    reports: list[list[dict[str, Any]]]
    models: list[list[torch.nn.Module]]
    checkpoint: ray.train.Checkpoint | None
    stuck: bool = False


class Team:
    """A number of workers that meet whenever one of them calls what all must call.

    Args:
        workers: how many there are.
        checkpoint: what `ray.train.get_checkpoint` returns at first.

    Source: written for this course.
    """

    def __init__(self, workers: int, checkpoint: ray.train.Checkpoint | None = None) -> None:
        self.workers = workers
        self.run = Run([[] for _ in range(workers)], [[] for _ in range(workers)], checkpoint)
        self._folder = tempfile.mkdtemp(prefix="check-")
        self._local = threading.local()
        self._condition = threading.Condition()
        self._rounds: dict[int, dict[int, tuple[str, Any]]] = {}
        self._turn = [0] * workers
        self._gone: set[int] = set()
        self._errors: dict[int, BaseException] = {}

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def rank(self) -> int:
        """The rank of the worker that asks."""
        return self._local.rank

    def work(self, answer: Callable[..., Any], arguments: Sequence[Sequence[Any]]) -> Run:
        """Run the function once in each worker.

        Args:
            answer: the learner's function.
            arguments: for each worker, what its function gets.

        Raises:
            BaseException: what the function raised in one of the workers. That the others wait for it is no error.
        """
        threads = [
            threading.Thread(target=self._one, args=(rank, answer, arguments[rank]), daemon=True)
            for rank in range(self.workers)
        ]
        with _replaced(answer, self._stand_ins()):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        errors = [error for _, error in sorted(self._errors.items())]
        self.run.stuck = any(isinstance(error, Stuck) for error in errors)
        for error in errors:
            if not isinstance(error, Stuck):
                raise error
        return self.run

    def _one(self, rank: int, answer: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self._local.rank = rank
        try:
            answer(*arguments)
        except BaseException as error:
            self._errors[rank] = error
        finally:
            with self._condition:
                self._gone.add(rank)
                self._condition.notify_all()

    def meet(self, what: str, value: Any) -> list[Any]:
        """Wait until all workers have come with the same intention, and return what each of them brought.

        Raises:
            Stuck: one of them has ended, or came with something else.
        """
        with self._condition:
            values = self._rounds.setdefault(self._turn[self.rank], {})
            self._turn[self.rank] += 1
            values[self.rank] = (what, value)
            self._condition.notify_all()
            self._condition.wait_for(lambda: len(values) == self.workers or self._gone - set(values), PATIENCE)
            if len(values) < self.workers:
                raise Stuck(f"{what}: a worker never came")
        if len({name for name, _ in values.values()}) > 1:
            raise Stuck(f"{what}: the workers call different things")
        return [values[rank][1] for rank in range(self.workers)]

    def together(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model as `prepare_model` returns it, with the plain one in `.module`; outside of a worker, too.

        Source: written for this course.
        """
        return _Together(model, self)

    # --- stand-ins for ray.train ------------------------------------------------------------------------------------

    def report(self, metrics: dict[str, Any], checkpoint: Any = None, *others: Any, **options: Any) -> None:
        if not isinstance(metrics, dict):
            raise TypeError(f"ray.train.report takes a dict of metrics, and got {type(metrics).__name__}")
        number = len(self.run.reports[self.rank])
        folder = Path(self._folder) / f"{number}"
        if checkpoint is not None:
            checkpoint.to_directory(str(folder))
        saved = self.meet("report", checkpoint is not None)
        self.run.reports[self.rank].append(dict(metrics))
        if any(saved):
            self.run.checkpoint = ray.train.Checkpoint(str(folder))

    def get_context(self) -> Any:
        rank, workers = self.rank, self.workers
        answers = {"world_rank": rank, "local_rank": rank, "node_rank": 0, "experiment_name": "check"}
        answers.update(world_size=workers, local_world_size=workers)
        return types.SimpleNamespace(**{f"get_{name}": lambda value=value: value for name, value in answers.items()})

    def prepare_model(self, model: torch.nn.Module, *others: Any, **options: Any) -> torch.nn.Module:
        state = self.meet("prepare_model", {name: value.clone() for name, value in model.state_dict().items()})[0]
        model.load_state_dict(state)  # all begin with the weights of rank 0
        self.run.models[self.rank].append(model)
        return _Together(model, self) if self.workers > 1 else model

    def prepare_data_loader(self, loader: DataLoader, *others: Any, **options: Any) -> DataLoader:
        shuffle = isinstance(loader.sampler, RandomSampler)
        sampler = DistributedSampler(loader.dataset, self.workers, self.rank, shuffle=shuffle)
        return DataLoader(loader.dataset, loader.batch_size, sampler=sampler, collate_fn=loader.collate_fn)

    # --- stand-ins for torch.distributed ----------------------------------------------------------------------------

    def all_reduce(self, tensor: torch.Tensor, op: Any = torch.distributed.ReduceOp.SUM, *_: Any, **__: Any) -> None:
        kinds = torch.distributed.ReduceOp
        ways = {kinds.SUM: torch.sum, kinds.MAX: torch.amax, kinds.MIN: torch.amin, kinds.PRODUCT: torch.prod}
        way = next((way for kind, way in ways.items() if op == kind), None)
        if way is None:
            raise RuntimeError(f"Cannot use {op} with Gloo")
        tensor.copy_(way(torch.stack(self.meet("all_reduce", tensor.detach().clone())), dim=0))

    def reduce(self, tensor: torch.Tensor, dst: int = 0, *others: Any, **options: Any) -> None:
        total = torch.stack(self.meet("reduce", tensor.detach().clone())).sum(dim=0)
        if self.rank == dst:
            tensor.copy_(total)

    def all_gather(self, tensors: list[torch.Tensor], tensor: torch.Tensor, *others: Any, **options: Any) -> None:
        for place, value in zip(tensors, self.meet("all_gather", tensor.detach().clone()), strict=True):
            place.copy_(value)

    def all_gather_object(self, objects: list[Any], value: Any, *others: Any, **options: Any) -> None:
        objects[:] = self.meet("all_gather_object", value)

    def broadcast(self, tensor: torch.Tensor, src: int = 0, *others: Any, **options: Any) -> None:
        tensor.copy_(self.meet("broadcast", tensor.detach().clone())[src])

    def barrier(self, *others: Any, **options: Any) -> None:
        self.meet("barrier", None)

    def _stand_ins(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """What is replaced: the module, the name in it, and what stands there while the workers run."""
        train = ["report", "get_context"]
        prepare = ["prepare_model", "prepare_data_loader"]
        together = ["all_reduce", "reduce", "all_gather", "all_gather_object", "broadcast", "barrier"]
        found = [(ray.train, name, getattr(self, name)) for name in train]
        found += [(ray.train.torch, name, getattr(self, name)) for name in prepare]
        found += [(torch.distributed, name, getattr(self, name)) for name in together]
        return [
            *found,
            (ray.train, "get_checkpoint", lambda: self.run.checkpoint),
            (ray.train.torch, "get_device", lambda: torch.device("cpu")),
            (torch.distributed, "get_rank", lambda *_: self.rank),
            (torch.distributed, "get_world_size", lambda *_: self.workers),
            (torch.distributed, "is_initialized", lambda: True),
        ]


class _Together(torch.nn.Module):
    """What DistributedDataParallel does: average the gradients of a model whose forward pass went through this."""

    def __init__(self, module: torch.nn.Module, team: Team) -> None:
        super().__init__()
        self.module = module
        self._used = False
        for parameter in module.parameters():
            if parameter.requires_grad:  # a frozen one has no gradient to average
                parameter.register_hook(lambda gradient: self._average(gradient, team))

    def forward(self, *inputs: Any, **options: Any) -> Any:
        self._used = True
        return self.module(*inputs, **options)

    def _average(self, gradient: torch.Tensor, team: Team) -> torch.Tensor:
        return torch.stack(team.meet("gradient", gradient.clone())).mean(dim=0) if self._used else gradient


@contextmanager
def _replaced(answer: Any, stand_ins: list[tuple[Any, str, Callable[..., Any]]]) -> Iterator[None]:
    """Put the stand-ins into their modules, and where the answer's own module has imported a name from there."""
    own = getattr(answer, "__globals__", {})
    kept = [(module, name, getattr(module, name), stand_in) for module, name, stand_in in stand_ins]
    imported = [(name, real, new) for name, value in own.items() for _, _, real, new in kept if value is real]
    try:
        for module, name, _, stand_in in kept:
            setattr(module, name, stand_in)
        for name, _, stand_in in imported:
            own[name] = stand_in
        yield
    finally:
        for module, name, real, _ in kept:
            setattr(module, name, real)
        for name, real, _ in imported:
            own[name] = real


@dataclass
class Watched(Dataset):
    """Points of the line y = 3x + 1 that remember which worker read them.

    Args:
        team: whose workers read.
        size: how many points there are.
    """

    team: Team
    size: int
    read: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= place < self.size:
            raise IndexError(place)  # also what ends a plain loop over the points
        self.read.setdefault(self.team.rank, []).append(place)
        x = torch.tensor([place / self.size])
        return x, 3 * x + 1
