"""Checks of the exercises of the deep dive 'Fine-tuning with LoRA'.

The workers of the first are threads: see workers.py. The second looks at processes of Ray, which must be running.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from helpers.exercises import watched
from helpers.exercises.noted import APART, Notes, note_of
from helpers.exercises.verdict import Verdict, as_number, described, exercise_check, not_right, right, without_ray
from helpers.exercises.workers import Run, Team

FILE = "trained.safetensors"
METRICS = {"step": 40, "loss": 4.5}
HEADER = 4096  # bytes that a file may have beside its numbers
SECRET = 1813  # what only the real base says
# A dict keeps its order, so the order in which tasks end must be another one for a mix-up to be seen.
PERPLEXITIES = {"Shakespeare": 250.0, "Milton": 410.5, "Marlowe": 275.25, "Jonson": 250.0}


class Adapted(torch.nn.Module):
    """A frozen layer, and two small matrices beside it which are trained; what it computes says if both are there.

    Source: written for this course.
    """

    def __init__(self, size: int = 64, rank: int = 2) -> None:
        super().__init__()
        self.base = torch.nn.Linear(size, size)
        self.norm = torch.nn.LayerNorm(size)
        self.down = torch.nn.Linear(size, rank, bias=False)
        self.up = torch.nn.Linear(rank, size)
        for frozen in (self.base, self.norm):
            frozen.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.base(self.norm(inputs)) + self.up(self.down(inputs))


@exercise_check
def report_trained(answer: Callable[[torch.nn.Module, dict[str, Any]], object]) -> Verdict:
    """Exercise 1: every worker reports, and the checkpoint holds what was trained and nothing else."""
    for workers in (2, 3):
        with Team(workers) as team:
            models = [_trained_model() for _ in range(workers)]
            try:
                run = team.work(answer, [[team.together(model), dict(METRICS)] for model in models])
            except FileNotFoundError as error:
                hint = "A temporary folder is gone after its `with` block: save and call ray.train.report inside it."
                return not_right(f"a folder that is not there ({described(error)})", "one with a file", hint)
            if wrong := _wrong_reports(run) or _wrong_checkpoint(run, models[0]):
                return wrong
    return right("the checkpoint holds the trained parameters alone, and with the base it is the whole model again.")


def _trained_model(seed: int = 0) -> Adapted:
    """A model whose frozen weights are always the same; the others are those that training has made."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Adapted()
        torch.manual_seed(seed + 1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
                parameter.grad = torch.ones_like(parameter)
    return model


def _wrong_reports(run: Run) -> Verdict | None:
    """The verdict if not every worker reported the metrics once."""
    counts = [len(reports) for reports in run.reports]
    if run.stuck or (max(counts) > 0 and min(counts) == 0):
        hint = "Every worker must call ray.train.report, also those that bring no checkpoint: it waits for all of them."
        return not_right("workers that wait for one another", "one report from each worker", hint)
    if counts != [1] * len(counts):
        return not_right(f"{counts} reports", "one in each worker", "Call ray.train.report once in every worker.")
    reported = run.reports[0][0]
    if any(as_number(reported.get(name)) != value for name, value in METRICS.items()):
        return not_right(reported, METRICS, "Hand the metrics on as they are: ray.train.report(metrics, ...).")
    return None


def _wrong_checkpoint(run: Run, model: Adapted) -> Verdict | None:
    """The verdict if the reported folder does not hold the trained parameters alone."""
    if run.checkpoint is None:
        hint = "Pass checkpoint=ray.train.Checkpoint.from_directory(folder) to ray.train.report, at least on rank 0."
        return not_right("metrics only", "a checkpoint, too", hint)
    files = sorted(path for path in Path(run.checkpoint.path).rglob("*") if path.is_file())
    names = [path.name for path in files]
    if FILE not in names:
        return not_right(f"the files {names}", FILE, f'Save into f"{{folder}}/{FILE}".')
    try:
        tensors = load_file(files[names.index(FILE)])
    except SafetensorError:
        hint = "Write it with safetensors.torch.save_file(tensors, path): torch.save writes another format, a pickle."
        return not_right("a file that safetensors cannot read", "tensors in the format of safetensors", hint)
    if wrong := _wrong_names(set(tensors), model):
        return wrong
    size, expected = sum(path.stat().st_size for path in files), _bytes_trained(model)
    if size > expected + HEADER:
        hint = "The tensors are right, but there is more in the folder than the trained parameters: leave it out."
        return not_right(f"{size:,} bytes in {names}", f"about {expected:,}", hint)
    return _wrong_numbers(tensors, model)


def _wrong_names(found: set[str], model: Adapted) -> Verdict | None:
    """The verdict if the file does not have the names of the trained parameters."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if found == trained:
        return None
    got = sorted(found) if len(found) < 8 else f"{len(found)} tensors"
    if any(name.startswith("module.") for name in found):
        hint = "DDP puts `module.` before each name: take the parameters of model.module, the plain model."
    elif found > trained:
        hint = "The frozen ones are in the base, which everybody has: keep parameters whose requires_grad is True."
    elif found < trained:
        hint = "Go through all of named_parameters(), and keep each one whose requires_grad is True."
    else:
        hint = "Use the names of model.module.named_parameters()."
    return not_right(got, sorted(trained), hint)


def _bytes_trained(model: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def _wrong_numbers(tensors: Mapping[str, torch.Tensor], model: Adapted) -> Verdict | None:
    """The verdict if a base with these tensors computes something else than the trained model."""
    again = _trained_model(seed=1)  # the same base, other matrices
    shapes = {name: tuple(p.shape) for name, p in again.named_parameters() if p.requires_grad}
    if any(tuple(tensor.shape) != shapes[name] for name, tensor in tensors.items()):
        return not_right("tensors of other shapes", "those of the parameters", "Save each parameter as it is.")
    again.load_state_dict(dict(tensors), strict=False)
    inputs = torch.linspace(-1, 1, 64).repeat(3, 1)
    if torch.allclose(again(inputs), model(inputs), atol=1e-6):
        return None
    hint = "Save the parameters themselves, in their own number format: not their gradients, and nothing rounded."
    return not_right("a model with other outputs", "the outputs of the trained model", hint)


@dataclass
class Base:
    """A base model that counts how often it is written down for other processes."""

    pickled: list[int] = field(default_factory=list)

    def __reduce__(self) -> tuple[Callable[[int], Copy], tuple[int]]:
        self.pickled.append(1)
        return Copy, (SECRET,)


@dataclass(frozen=True)
class Copy:
    """What arrives of the base in another process."""

    secret: int


@dataclass(frozen=True)
class Adapter:
    """What an adapter makes of the base: its number, and the perplexity that it brings."""

    number: int
    perplexity: float


@dataclass(frozen=True)
class Score:
    """What the function that learners get does: waits until another one is at work, and returns the perplexity."""

    notes: ray.actor.ActorHandle

    def __call__(self, base: object, adapter: object) -> float:
        if not isinstance(base, (Base, Copy)) or not isinstance(adapter, Adapter):
            kinds = f"{type(base).__name__} and {type(adapter).__name__}"
            raise TypeError(f"score(base, adapter) takes the base and one adapter, and got {kinds}")
        start = time.monotonic()
        if isinstance(base, Copy):  # in the driver nobody could come
            ray.get(self.notes.meet.remote())
            if adapter.number % 2 == 0:
                time.sleep(APART)  # so that the order in which they end is not the order in which they began
        ray.get(self.notes.add.remote(note_of(adapter.number, start)))
        return adapter.perplexity


@exercise_check
def all_voices(answer: Callable[[Base, dict[str, Adapter], Callable[[object, object], float]], object]) -> Verdict:
    """Exercise 2: one base in the object store, and a task for each adapter."""
    if (missing := without_ray()) is not None:
        return missing
    base = Base()
    adapters = {name: Adapter(number, value) for number, (name, value) in enumerate(PERPLEXITIES.items())}
    notes = Notes.remote(3 * watched.PATIENCE)  # until the second process is there, which may have to start first
    scorer = Score(notes)

    def score(base: object, adapter: object) -> float:  # `ray.remote` takes nothing but functions and classes
        return scorer(base, adapter)

    try:
        found = answer(base, adapters, score)
        seen, in_vain = ray.get(notes.seen.remote())
    finally:
        ray.kill(notes)
    if not seen:
        return not_right(
            "no call of score", f"{len(adapters)}", "Call score(base, adapter) in a task, for each adapter."
        )
    own = ray.get_runtime_context().get_worker_id()
    if any(note.process == own for note in seen):
        hint = "Let tasks call score: ray.remote(score) makes a remote function of it."
        return not_right("scores in the notebook's own process", "scores in processes of Ray", hint)
    if in_vain:
        hint = "Start all tasks before you call ray.get, and let each reserve one CPU, as tasks do by themselves."
        return not_right("one score at a time", "two at the same time", hint)
    return _wrong_base(base, len(adapters)) or _wrong_scores(found) or right("one base, and a voice in each task.")


def _wrong_base(base: Base, adapters: int) -> Verdict | None:
    """The verdict if the base was written into the object store more than once."""
    times = len(base.pickled)
    if times <= 1:
        return None
    hint = "Call base_ref = ray.put(base) once, before the loop, and pass base_ref to every task."
    return not_right(f"{times} copies of the base for {adapters} adapters", "one copy in the object store", hint)


def _wrong_scores(found: object) -> Verdict | None:
    """The verdict if what came back is not the perplexity of each adapter under its name."""
    if not isinstance(found, dict):
        hint = "Return a dict: the name of each adapter, and its perplexity."
        return not_right(type(found).__name__, "a dict", hint)
    if any(isinstance(value, ray.ObjectRef) for value in found.values()):
        return not_right("references", "perplexities", "Return what ray.get says of each reference.")
    if set(found) != set(PERPLEXITIES):
        return not_right(f"the names {list(found)}", list(PERPLEXITIES), "Give each adapter of the dict a task.")
    if {name: as_number(value) for name, value in found.items()} == PERPLEXITIES:
        return None
    hint = (
        "Keep each reference together with its name: {name: task.remote(base_ref, adapter) for name, adapter in ...}."
    )
    return not_right(found, PERPLEXITIES, hint)
