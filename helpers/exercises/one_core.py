"""Checks of the exercises of the deep dive 'One core, well used'.

The first and the third look at processes of Ray, which must be running: see noted.py. The workers of the second are
threads: see workers.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ray
import torch

from helpers.exercises import watched
from helpers.exercises.noted import MakeStep, Note, Notes, Training
from helpers.exercises.verdict import Verdict, as_list, as_number, exercise_check, not_right, right, without_ray
from helpers.exercises.workers import Team

STEPS = 4
LOSSES = (0.5, 0.25, 2.0, 0.25)  # equal ones too: a dict would lose one
# A rate may be this far from that of the steps. Building takes five times as long as they do, so that a clock which
# started too early is seen, and a machine that is merely slow is not taken for one.
TOO_SLOW, TOO_FAST = 0.33, 1.1


@exercise_check
def steps_per_second(answer: Callable[[int, Callable[[], Callable[[], None]], int], object]) -> Verdict:
    """Exercise 1: steps in a process of Ray that has as many threads as it reserves CPUs."""
    if (missing := without_ray()) is not None:
        return missing
    threads = torch.get_num_threads()
    try:
        for cpus in (2, 1):
            notes = Notes.remote(watched.PATIENCE)
            try:
                rate = answer(cpus, MakeStep(notes), STEPS)
                found, _ = ray.get(notes.seen.remote())
            finally:
                ray.kill(notes)
            wrong = _wrong_place(found, cpus) or _wrong_steps(found) or _wrong_rate(rate, found[-STEPS:])
            if wrong is not None:
                return wrong
    finally:
        torch.set_num_threads(threads)  # an answer may have changed the number in this process
    return right("the steps ran in a process of Ray that uses what it reserves, and only they were timed.")


def _wrong_place(found: list[Note], cpus: int) -> Verdict | None:
    """The verdict if steps ran in the driver, or in a process that does not use what it reserves."""
    if not found:
        return not_right("no step", f"{STEPS} steps", "Call make_step(), and then what it returns `count` times.")
    if _in_driver(found):
        hint = "Let a task or an actor call make_step and the steps: the notebook is no process of Ray's workers."
        return not_right("steps in the notebook's own process", "steps in a process of Ray", hint)
    reserved, used = {note.cpus for note in found}, {note.threads for note in found}
    if reserved != {float(cpus)}:
        hint = "Reserve them where you start it: .options(num_cpus=cpus).remote(...)."
        return not_right(f"{_joined(reserved)} CPUs reserved", f"{cpus}", hint)
    if used != {cpus}:
        hint = "Call torch.set_num_threads(cpus) in the process that trains, before the first step."
        return not_right(f"{_joined(used)} threads", f"{cpus}", hint)
    return None


def _wrong_steps(found: list[Note]) -> Verdict | None:
    """The verdict if there were too few steps; more than asked for may have been for warming up."""
    if len({note.process for note in found}) > 1:
        return not_right("steps in several processes", "all in one", "One process builds the model and does all steps.")
    if len(found) < STEPS:
        return not_right(f"{len(found)} steps", f"{STEPS}", "Call step() `count` times.")
    return None


def _wrong_rate(rate: object, timed: list[Note]) -> Verdict | None:
    """The verdict if the answer is not the rate of these steps."""
    if isinstance(rate, ray.ObjectRef):
        return not_right("a reference", "a number", "Return what ray.get says.")
    number = as_number(rate)
    if number is None or not math.isfinite(number) or number <= 0:
        return not_right(f"{_shown(rate)}", "steps per second, a number", "Return count / seconds.")
    seconds = timed[-1].end - timed[0].start
    expected = len(timed) / seconds
    if TOO_SLOW < number / expected < TOO_FAST:
        return None
    got = f"{number:.3g} as steps per second"
    if 0.8 < number * expected < 1.25:
        hint = "That looks like the seconds of one step: divide the other way round."
    elif number < expected:
        hint = (
            "Divide the number of steps by the seconds that they took, and start the clock in the process that trains, "
            "after make_step() has built the model."
        )
    else:
        hint = "Take the time of all steps: read the clock before the first one and after the last one."
    return not_right(got, f"about {expected:.3g}", hint)


@exercise_check
def train_all(answer: Callable[[list[Callable[[], float]]], object]) -> Verdict:
    """Exercise 3: several trainings side by side, each in a process with one CPU and one thread."""
    if (missing := without_ray()) is not None:
        return missing
    threads = torch.get_num_threads()
    notes = Notes.remote(3 * watched.PATIENCE)  # until the second process is there, which may have to start first
    try:
        losses = answer([Training(notes, number, loss) for number, loss in enumerate(LOSSES)])
        found, in_vain = ray.get(notes.seen.remote())
    finally:
        ray.kill(notes)
        torch.set_num_threads(threads)
    if not found:
        return not_right("no training", f"{len(LOSSES)}", "Call each of the functions in a task.")
    if _in_driver(found):
        hint = (
            "Let a task call the function: @ray.remote above a function that takes a training, and .remote(training)."
        )
        return not_right("trainings in the notebook's own process", "trainings in processes of Ray", hint)
    if in_vain:
        hint = "Start all tasks before you call ray.get, and let each reserve one CPU, as tasks do by themselves."
        return not_right("one training at a time", "two at the same time", hint)
    return _wrong_trainings(found) or _wrong_losses(losses) or right("side by side, with a thread each, in order.")


def _wrong_trainings(found: list[Note]) -> Verdict | None:
    """The verdict if a training did not have one CPU and one thread, or did not run exactly once."""
    reserved, used = {note.cpus for note in found}, {note.threads for note in found}
    if reserved != {1.0}:
        hint = "Each task reserves one CPU, as tasks do by themselves, so that as many run at a time as there are CPUs."
        return not_right(f"{_joined(reserved)} CPUs reserved", "1", hint)
    if used != {1}:
        hint = (
            "Call torch.set_num_threads(1) in the task: its process may have another number from an earlier task, "
            "and threads of several processes would share the cores."
        )
        return not_right(f"{_joined(used)} threads", "1", hint)
    if sorted(note.number for note in found) != list(range(len(LOSSES))):
        return not_right(f"{len(found)} trainings", f"each of {len(LOSSES)} once", "Call each function once.")
    return None


def _wrong_losses(losses: object) -> Verdict | None:
    values = as_list(losses)
    if values is None:
        return not_right(_shown(losses), "a list of losses", "Return a list with one loss for each training.")
    if any(isinstance(value, ray.ObjectRef) for value in values):
        return not_right("references", "losses", "Return what ray.get says: ray.get takes a list of references.")
    if [as_number(value) for value in values] == list(LOSSES):
        return None
    hint = "Keep the references in the order of the trainings, and get all of them at the end."
    return not_right(values, list(LOSSES), hint)


def _in_driver(found: list[Note]) -> bool:
    own = ray.get_runtime_context().get_worker_id()
    return any(note.process == own for note in found)


def _joined(numbers: set[float] | set[int]) -> str:
    return " or ".join(f"{number:g}" for number in sorted(numbers))


def _shown(value: object) -> str:
    """An answer as text, also if it cannot be shown."""
    return type(value).__name__ if as_number(value) is None else f"{value}"


class _Counted(Team):
    """Workers that count their messages: whatever all of them must call together."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.messages = [0] * workers

    def meet(self, what: str, value: Any) -> list[Any]:
        self.messages[self.rank] += 1
        return super().meet(what, value)


@exercise_check
def average_in_one_message(answer: Callable[[torch.nn.Module], object]) -> Verdict:
    """Exercise 2: average all gradients over the workers, with a single all_reduce."""
    for workers in (2, 3):
        with _Counted(workers) as team:
            models = [_model_of(rank) for rank in range(workers)]
            own, weights = _gradients(models), [_flat(model.parameters()) for model in models]
            run = team.work(answer, [[model] for model in models])
            if run.stuck:
                hint = "Every worker must call all_reduce, whatever its rank: it waits for all of them."
                return not_right("workers that wait for one another", "a function that comes to its end", hint)
            if any(not torch.equal(_flat(m.parameters()), w) for m, w in zip(models, weights, strict=True)):
                hint = "Leave the weights alone: the optimizer changes them. What has to be averaged is p.grad."
                return not_right("other weights", "the same weights as before", hint)
            if wrong := _wrong_gradients(_gradients(models), own):
                return wrong
            if max(team.messages) > 1:
                hint = "The averages are right. Put all gradients into one long tensor first, for example by torch.cat."
                return not_right(f"{max(team.messages)} messages", "one", hint)
    return right("one message, and all workers have the same gradients, so they will take the same step.")


def _model_of(rank: int) -> torch.nn.Module:
    """A small model whose gradients are those of one worker, different from everybody else's."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    for place, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, float((rank + 1) ** 2 + 10 * place))
    return model


def _flat(tensors: object) -> torch.Tensor:
    return torch.cat([tensor.detach().clone().flatten() for tensor in tensors])


def _gradients(models: list[torch.nn.Module]) -> list[torch.Tensor]:
    """All gradients of each model; a missing one counts as not a number."""
    missing = [[torch.full_like(p, torch.nan) if p.grad is None else p.grad for p in m.parameters()] for m in models]
    return [_flat(gradients) for gradients in missing]


def _wrong_gradients(found: list[torch.Tensor], own: list[torch.Tensor]) -> Verdict | None:
    """The verdict if the workers do not have the average of their own gradients now; None if they have."""
    workers, total = len(own), torch.stack(own).sum(dim=0)
    if all(torch.allclose(gradients, total / workers) for gradients in found):
        return None
    got = f"{found[0][0]:g} for the first gradient in {workers} workers"
    expected = f"{total[0] / workers:g}, the average of {', '.join(f'{gradients[0]:g}' for gradients in own)}"
    if all(torch.allclose(gradients, mine) for gradients, mine in zip(found, own, strict=True)):
        hint = "The gradients are what they were: a long tensor is a copy, so put its parts back into each p.grad."
    elif all(torch.allclose(gradients, total) for gradients in found):
        hint = "These are sums: divide by the number of workers."
    elif torch.all(torch.isclose(found[0], total / workers) | torch.isclose(found[0], own[0])):
        got, expected = "the average for some of the parameters", "it for all of them"
        hint = "Go through all of model.parameters()."
    elif torch.allclose(found[0].sort().values, total.sort().values / workers) or torch.allclose(
        found[0][:6], total[:6] / workers
    ):
        got, expected = "averages in wrong places", "each in the p.grad that it belongs to"
        hint = "Cut the long tensor into parts in the order in which you put it together."
    else:
        hint = "Add up with all_reduce, then divide by what ray.train.get_context().get_world_size() returns."
    return not_right(got, expected, hint)
