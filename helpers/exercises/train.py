"""Checks of the exercises of notebook 04."""

from __future__ import annotations

import math
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right


@exercise_check
def overall_accuracy(answer: Callable[[list[dict[str, int]]], float]) -> Verdict:
    """Exercise 1: the accuracy over all pictures, from the counts of unequal workers."""
    equal = [{"correct": 8, "count": 10}, {"correct": 6, "count": 10}]
    unequal = [{"correct": 90, "count": 100}, {"correct": 1, "count": 10}]
    for reports in (equal, unequal):
        expected = sum(r["correct"] for r in reports) / sum(r["count"] for r in reports)
        got = float(answer([dict(r) for r in reports]))
        if not math.isclose(got, expected, rel_tol=1e-6):
            hint = (
                "Add up the counts of all workers first, and divide once; the mean of the accuracies is another number."
            )
            if got == reports[0]["correct"] / reports[0]["count"]:
                hint = "That is the accuracy of the first worker alone: add up the counts of all workers."
            return not_right(got, expected, f"The reports were {reports}. {hint}")
    return right("the counts of all workers are added up before they are divided.")


@exercise_check
def steps_per_epoch(answer: Callable[[int, int, int], int]) -> Verdict:
    """Exercise 2: optimizer steps per epoch when each worker takes its share."""
    for pictures, workers, batch in ((1000, 2, 50), (9500, 2, 64), (57_000, 16, 128), (10, 4, 3), (9, 2, 4)):
        share = math.ceil(pictures / workers)  # DistributedSampler gives each worker the same number
        expected = math.ceil(share / batch)
        got = answer(pictures, workers, batch)
        if got != expected:
            hint = f"Each of the {workers} workers has {share:,} pictures, in batches of {batch}."
            if got == math.ceil(pictures / batch):
                hint = "This counts the steps of one worker alone; the workers take their batches at the same time."
            elif got == math.ceil((pictures // workers) / batch):
                hint += " A worker's share is rounded up."
            elif got == share // batch:
                hint += " The last batch may be smaller, but it is a step as well."
            return not_right(got, expected, f"For {pictures:,} pictures and {workers} workers: {hint}")
    return right("more workers make fewer steps per epoch, each with more pictures.")


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


@exercise_check
def load_wrapped(answer: Callable[[str, torch.nn.Module], object]) -> Verdict:
    """Exercise 3: weights saved from a DDP-wrapped model, from a source that nobody trusts."""
    source = _small_model()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    source(torch.randn(32, 4))  # the running statistics of the norm change, too
    wrapped = {f"module.{name}": value for name, value in source.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        good, hostile = Path(folder) / "model.pt", Path(folder) / "hostile.pt"
        torch.save(wrapped, good)
        torch.save({"module.layer.weight": _Hidden()}, hostile)
        target = _small_model()
        answer(str(good), target)
        missing = [n for n, v in target.state_dict().items() if not torch.equal(v, source.state_dict()[n])]
        if missing:
            hint = (
                "Load into the model you were given; strict=False skips, in silence, every name that does not match: "
                "remove the prefix instead, and only at the start of a name."
            )
            return not_right(f"a model whose {', '.join(missing)} did not change", "all weights of the file", hint)
        if _runs_hidden_code(answer, hostile):
            return not_right("code hidden in a file was run", "an error", "Pass weights_only=True to torch.load.")
    return right("all weights are there, and a file can only hold weights.")


def _runs_hidden_code(answer: Callable[[str, torch.nn.Module], object], path: Path) -> bool:
    _Hidden.called = False
    try:
        answer(str(path), _small_model())
    except Exception:
        pass  # refusing the file is what a careful answer does
    return _Hidden.called
