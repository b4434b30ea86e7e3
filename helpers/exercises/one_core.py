"""Check of the exercise of the deep dive 'One core, well used'. Its workers are threads: see workers.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right
from helpers.exercises.workers import Team


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
    """Exercise 1: average all gradients over the workers, with a single all_reduce."""
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
