"""Checks of the exercises of notebook 04. None of them needs Ray to run."""

from __future__ import annotations

import math
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch

from helpers.exercises.formulas import judge_formula
from helpers.exercises.verdict import Verdict, exercise_check, not_right, right

Reports = list[dict[str, int]]


def _accuracy(reports: Reports) -> float:
    return sum(r["correct"] for r in reports) / sum(r["count"] for r in reports)


def _mean_accuracy(reports: Reports) -> float:
    return sum(r["correct"] / r["count"] for r in reports) / len(reports)


@exercise_check
def overall_accuracy(answer: Callable[[Reports], float]) -> Verdict:
    """Exercise 1: the accuracy over all pictures, from the counts of unequal workers."""
    shares = [
        [(8, 10), (6, 10)],
        [(90, 100), (1, 10)],
        [(1, 10), (90, 100), (35, 50)],
        [(7, 11)],
        [(0, 3), (5, 5), (0, 40), (17, 60)],
        [(0, 9), (0, 2)],
        [(4, 4), (13, 13)],
    ]
    cases = [{"reports": [{"correct": c, "count": n} for c, n in share]} for share in shares]
    mistakes = {
        "Add up the counts of all workers first, and divide once; "
        "the mean of the accuracies is another number.": _mean_accuracy,
        "That is the accuracy of the first worker alone: add up the counts of all workers.": lambda reports: _accuracy(
            reports[:1]
        ),
        "That is the accuracy of the last worker alone: add up the counts of all workers.": lambda reports: _accuracy(
            reports[-1:]
        ),
        "That is the best worker's accuracy: add up the counts of all workers.": lambda reports: max(
            _accuracy([report]) for report in reports
        ),
        "The accuracy is a share from 0 to 1: do not multiply by 100.": lambda reports: 100 * _accuracy(reports),
        "This is rounded: return the share as it is.": lambda reports: round(_accuracy(reports), 2),
        "These are accuracies added up: divide all right pictures by all pictures.": lambda reports: (
            len(reports) * _mean_accuracy(reports)
        ),
    }
    hint = "Add up the right pictures of all workers, and divide once by all their pictures."
    wrong = judge_formula(answer, _accuracy, cases, mistakes, hint)
    return wrong or right("the counts of all workers are added up before they are divided.")


def _steps(pictures: int, workers: int, batch: int) -> int:
    share = math.ceil(pictures / workers)  # DistributedSampler gives each worker the same number
    return math.ceil(share / batch)


@exercise_check
def steps_per_epoch(answer: Callable[[int, int, int], int]) -> Verdict:
    """Exercise 2: optimizer steps per epoch when each worker takes its share."""
    numbers = [(1000, 2, 50), (9500, 2, 64), (57_000, 16, 128), (10, 4, 3), (9, 2, 4), (601, 3, 200), (7, 1, 7)]
    numbers += [(3, 4, 2), (500, 1, 64), (60_000, 2, 100), (64, 2, 64)]
    cases = [{"pictures": p, "workers": w, "batch_per_worker": b} for p, w, b in numbers]
    mistakes = {
        "This counts the steps of one worker alone; the workers take their batches at the same time.": lambda p, w, b: (
            math.ceil(p / b)
        ),
        "These are the batches of all workers together; "
        "the workers take theirs at the same time, in one step.": lambda p, w, b: w * _steps(p, w, b),
        "A worker's share is rounded up.": lambda p, w, b: math.ceil((p // w) / b),
        "The last batch may be smaller, but it is a step as well.": lambda p, w, b: math.ceil(p / w) // b,
        "Round up twice: the share of a worker, and the last, smaller batch.": lambda p, w, b: p // w // b,
        "Steps are whole: the last batch may be smaller, but it is a step as well.": lambda p, w, b: p / w / b,
        "Round up, not to the nearest: the last batch may be smaller, but it is a step as well.": lambda p, w, b: round(
            p / w / b
        ),
        "Add no step when the last batch is full: math.ceil rounds up only where something is left.": lambda p, w, b: (
            math.ceil(p / w) // b + 1
        ),
    }
    hint = "A worker's share is the pictures divided by the workers, rounded up; so are its batches."
    wrong = judge_formula(answer, _steps, cases, mistakes, hint)
    return wrong or right("more workers make fewer steps per epoch, each with more pictures.")


class _Hidden:
    """What a hostile file could hold: unpickling it calls a function."""

    called = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _was_called, ()


def _was_called() -> None:
    _Hidden.called = True


def _small_model() -> torch.nn.Module:
    # Names that begin with letters of "module.", and one that contains it: both trip careless code.
    layers = {"layer": torch.nn.Linear(4, 3), "module": torch.nn.Linear(3, 3), "norm": torch.nn.BatchNorm1d(3)}
    return torch.nn.Sequential(OrderedDict(layers))


def _trained_weights() -> dict[str, torch.Tensor]:
    source = _small_model()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    source(torch.randn(32, 4))  # the running statistics of the norm change, too
    return source.state_dict()


def _wrapped(weights: dict[str, object]) -> dict[str, object]:
    return {f"module.{name}": value for name, value in weights.items()}


@exercise_check
def load_wrapped(answer: Callable[[str, torch.nn.Module], object]) -> Verdict:
    """Exercise 3: weights saved from a DDP-wrapped model, from a source that nobody trusts."""
    weights = _trained_weights()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(_wrapped(weights), path)
        target = _small_model()
        answer(str(path), target)
        missed = [name for name, value in target.state_dict().items() if not torch.equal(value, weights[name])]
        if missed:
            return not_right(f"a model whose {', '.join(missed)} did not change", "all weights", _load_hint(missed))
        for fault, state in _faulty(weights).items():
            torch.save(_wrapped(state), path)
            if not _refuses(answer, path):
                hint = "A model with a part of the weights runs, and answers nonsense: let load_state_dict be strict."
                return not_right(f"no error for a file {fault}", "an error", hint)
        torch.save({"module.layer.weight": _Hidden()}, path)
        _Hidden.called = False
        _refuses(answer, path)
        if _Hidden.called:
            return not_right("code hidden in a file was run", "an error", "Pass weights_only=True to torch.load.")
    return right("all weights are there, and a file can only hold weights.")


def _load_hint(missed: list[str]) -> str:
    if len(missed) == len(_small_model().state_dict()):
        return (
            "Load into the model you were given. strict=False skips, in silence, every name that does not match: "
            "remove the prefix instead, and only at the start of a name."
        )
    if all(name.startswith("norm.running") or name.endswith("tracked") for name in missed):
        return "Buffers, such as the running statistics of a norm, are no parameters: load the whole state_dict."
    return "Remove the prefix once, and only at the start of a name: names can contain it, or begin with its letters."


def _faulty(weights: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Files that do not fit the model: each has to be refused."""
    without = {name: value for name, value in weights.items() if name != "norm.weight"}
    return {
        "in which norm.weight is missing": without,
        "with a weight that the model has not": {**weights, "extra.weight": torch.ones(3)},
        "in which norm.bias has another shape": {**weights, "norm.bias": torch.ones(1)},
    }


def _refuses(answer: Callable[[str, torch.nn.Module], object], path: Path) -> bool:
    try:
        answer(str(path), _small_model())
    except Exception:
        return True
    return False
