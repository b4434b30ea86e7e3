"""Checks of the exercises of notebook 04. The learner's training functions run in threads: see workers.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from helpers.exercises.verdict import Verdict, as_number, exercise_check, not_right, right
from helpers.exercises.workers import Run, Team, Watched

TrainFunction = Callable[[dict[str, Any]], object]
EPOCHS = 3
EVERYBODY = "Every worker must call ray.train.report equally often: it waits until all of them have called it."


@exercise_check
def train_points(answer: TrainFunction) -> Verdict:
    """Exercise 1: a plain loop becomes a training function for any number of workers."""
    for workers, size in ((2, 120), (3, 90)):
        with Team(workers) as team:
            points = Watched(team, size)
            run = team.work(answer, [[{"points": points, "epochs": EPOCHS}]] * workers)
            if wrong := _wrong_share(run, points) or _wrong_model(run) or _wrong_losses(run):
                return wrong
    return right("each worker trains on its share, all keep the same weights, and every epoch is reported.")


def _wrong_share(run: Run, points: Watched) -> Verdict | None:
    """The verdict if the workers did not share the points; None if they did."""
    workers, share = len(run.reports), points.size // len(run.reports)
    if run.stuck:
        return not_right("workers that wait for one another", "a run that comes to its end", EVERYBODY)
    read = [len(points.read.get(rank, [])) for rank in range(workers)]
    everything = sorted(place for places in points.read.values() for place in set(places))
    if everything == list(range(points.size)) and read == [share * EPOCHS] * workers:
        return None
    if max(read) == points.size * EPOCHS:
        hint = "Loop over the loader that prepare_data_loader returns: it gives each worker its own share."
        return not_right(
            f"{workers} workers that go through all {points.size} points each", f"{share} points each", hint
        )
    hint = f"Go through the loader once in each of the {EPOCHS} epochs of config."
    return not_right(f"workers that read {read} points", f"{share * EPOCHS} points each", hint)


def _wrong_model(run: Run) -> Verdict | None:
    """The verdict if the copies of the model are not trained together; None if they are."""
    counts = [len(models) for models in run.models]
    if counts != [1] * len(counts):
        hint = "Give your model to ray.train.torch.prepare_model once, before the loop, and train what it returns."
        return not_right(f"{max(counts)} models that were prepared", "one in each worker", hint)
    weights = [torch.cat([p.detach().flatten() for p in models[0].parameters()]) for models in run.models]
    if all(torch.allclose(weights[0], other) for other in weights[1:]):
        return None
    hint = "Train the model that prepare_model returns: only that one averages the gradients of all workers."
    return not_right("workers whose weights differ after training", "the same weights in all of them", hint)


def _wrong_losses(run: Run) -> Verdict | None:
    """The verdict if the epochs were not reported; None if they were."""
    counts = sorted({len(reports) for reports in run.reports})
    if counts == [0]:
        return not_right("no report", f"{EPOCHS} in each worker", "Replace the print by ray.train.report({...}).")
    if counts != [EPOCHS]:
        hint = "Report once for each epoch: after the loop over its batches, and inside the loop over the epochs."
        return not_right(f"{counts[-1]} reports", f"{EPOCHS}, one for each epoch", hint)
    for metrics in (metrics for reports in run.reports for metrics in reports):
        loss = as_number(metrics.get("loss"))
        if loss is None or not math.isfinite(loss):
            hint = 'The metrics are a dict with a number for the name "loss", such as {"loss": loss.item()}.'
            return not_right(metrics, "a dict with the loss", hint)
    return None


@exercise_check
def report_accuracy(answer: Callable[[int, int], object]) -> Verdict:
    """Exercise 2: the accuracy over all images, from the counts of unequal workers."""
    shares = [[(90, 100), (1, 10)], [(8, 10), (6, 10)], [(1, 10), (90, 100), (35, 50)], [(0, 3), (5, 5), (0, 40)]]
    for share in shares:
        with Team(len(share)) as team:
            run = team.work(answer, share)
            if run.stuck:
                hint = "Each worker must call all_reduce and report, whatever its rank: both wait for all workers."
                return not_right("workers that wait for one another", "a run that comes to its end", hint)
            if wrong := _wrong_accuracy(run, share):
                return wrong
    return right("all workers add up their counts, divide once, and report the same number.")


def _wrong_accuracy(run: Run, share: list[tuple[int, int]]) -> Verdict | None:
    correct, count = (sum(values) for values in zip(*share, strict=True))
    if any(len(reports) != 1 for reports in run.reports):
        counts = [len(reports) for reports in run.reports]
        return not_right(f"{counts} reports", "one in each worker", "Hand the number on with ray.train.report({...}).")
    values = [as_number(reports[0].get("accuracy")) for reports in run.reports]
    if any(value is None for value in values):
        return not_right(run.reports[0][0], "a number", 'Report a dict such as {"accuracy": 0.9}, with a plain number.')
    if _alike(values, [correct / count] * len(share)):
        return None
    own, mean = [c / n for c, n in share], sum(c / n for c, n in share) / len(share)
    hints = [
        (own, "These are the workers' own accuracies: add up the counts of all of them with all_reduce first."),
        ([mean] * len(share), "The mean of the accuracies is another number: add up the counts, and divide once."),
        ([sum(own)] * len(share), "These are accuracies added up: add up the counts, and divide once."),
        ([100 * correct / count] * len(share), "The accuracy is a share from 0 to 1: do not multiply by 100."),
        ([correct] * len(share), "That counts the right images: divide by the number of all images."),
    ]
    hint = next((hint for wrong, hint in hints if _alike(values, wrong)), None)
    hint = hint or "Add up both counts over all workers with torch.distributed.all_reduce, and divide once."
    return not_right(values, f"{correct / count:.4f} from every worker of {share}", hint)


def _alike(values: list[float], others: list[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-6) for a, b in zip(values, others, strict=True))


class _Killed(BaseException):
    """Ends a worker in the middle of its training."""


class _Steps:
    """The config of exercise 3: builds equal models, does the steps, and ends worker 1 at one of them."""

    def __init__(self, team: Team, last: int, dies_at: int = 0) -> None:
        self.team, self.dies_at = team, dies_at
        self.done: dict[int, list[int]] = {rank: [] for rank in range(team.workers)}
        self.built: dict[int, torch.nn.Module] = {}
        self.config = {"build": self.build, "train_step": self.step, "steps": last}

    def build(self) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Linear(2, 1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.5)
        self.built[self.team.rank] = model
        return model, torch.optim.Adam(model.parameters(), lr=0.1)

    def step(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        if number == self.dies_at and self.team.rank == 1:
            raise _Killed
        inputs = torch.tensor([[float(number % 3), 1.0], [2.0, float(number)]])
        loss = (model(inputs) - number**2).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        self.done[self.team.rank].append(number)


def _resumable_run(
    answer: TrainFunction, team: Team, last: int, dies_at: int = 0
) -> tuple[Run, _Steps, torch.Tensor | None]:
    """Run the answer in two workers; returns what happened, and the weights of rank 0 at the end."""
    steps = _Steps(team, last, dies_at)
    try:
        team.work(answer, [[steps.config]] * team.workers)
    except _Killed:
        pass
    model = steps.built.get(0)
    weights = None if model is None else torch.cat([p.detach().flatten() for p in model.parameters()])
    return team.run, steps, weights


@exercise_check
def train_resumable(answer: TrainFunction) -> Verdict:
    """Exercise 3: a training function that loses no step when one of its workers dies."""
    last, dies_at = 7, 5
    with Team(2) as team:
        run, steps, expected = _resumable_run(answer, team, last)
        if run.stuck:
            return not_right("workers that wait for one another", "a run that comes to its end", EVERYBODY)
        if expected is None or steps.done[0] != list(range(1, last + 1)):
            hint = 'Without a checkpoint, call config["train_step"] with each step from 1 to config["steps"].'
            return not_right(f"steps {steps.done[0]} in a first run", f"1 to {last}", hint)
        if run.checkpoint is None:
            hint = "A report without a checkpoint leaves nothing to go on from: pass checkpoint=... in one worker."
            return not_right("no checkpoint", "one after each step", hint)
        numbers = [as_number(metrics.get("step")) for metrics in run.reports[0]]
        if numbers != list(range(1, last + 1)):
            hint = 'Report {"step": step} after each step.'
            return not_right(f"reports of the steps {numbers}", f"1 to {last}", hint)
        with Team(2, run.checkpoint) as again:
            _, none, _ = _resumable_run(answer, again, last)
            if none.done[0]:
                return _wrong_steps(none.done[0], [], last)
    with Team(2) as team:
        run, _, _ = _resumable_run(answer, team, last, dies_at)
        if run.checkpoint is None:
            hint = "Save a checkpoint after each step: nobody knows before which one a worker dies."
            return not_right(f"no checkpoint when a worker died in step {dies_at}", f"that of step {dies_at - 1}", hint)
        with Team(2, run.checkpoint) as again:
            _, steps, weights = _resumable_run(answer, again, last)
    wanted = list(range(dies_at, last + 1))
    if steps.done[0] != wanted or steps.done[1] != wanted:
        return _wrong_steps(next(done for done in steps.done.values() if done != wanted), wanted, dies_at - 1)
    if not torch.allclose(weights, expected, atol=1e-5):
        hint = "The steps are right, but what does the next one depend on? The weights, and also the averages of Adam."
        return not_right("other weights than without the failure", "the same weights", hint)
    return right("a lost worker costs time, and nothing else.")


def _wrong_steps(done: list[int], wanted: list[int], saved: int) -> Verdict:
    got, expected = f"steps {done} after a restart from the checkpoint of step {saved}", f"{wanted}"
    if done[:1] == [1]:
        hint = "The run began anew: load what ray.train.get_checkpoint() holds, its step too, and go on after that."
    elif done[:1] == [saved]:
        hint = "The saved step is done already: go on with the next one."
    elif done[:1] == [saved + 2] or not done:
        hint = "A step is left out: the next one after the saved step is that step plus 1."
    else:
        hint = "Save after each step, and go on with the one after the saved step, in every worker."
    return not_right(got, expected, hint)
