"""The check of exercise 2 of notebook 07: Adam's numbers divided among actors. Ray must be running."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import torch

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right, without_ray

WEIGHTS, WORKERS, STEPS = 7, 3, 4  # 7 weights have no three equal parts
RATE = 0.05
PATIENCE = 20.0  # seconds that an optimizer waits for the others to begin the same step
START_UP = 90.0  # seconds that it waits before, until all are made: processes start slowly on a busy machine


@dataclass(frozen=True)
class _Made:
    """An optimizer that was made.

    Attributes:
        actor: Ray's name of the actor that made it; empty in the notebook or a task.
        weights: how many weights it was given.
    """

    actor: str
    weights: int


@ray.remote(num_cpus=0)
class _Meeting:
    """Notes which optimizers are made, and lets each step end when all optimizers have begun it.

    Args:
        workers: how many optimizers take each step.
        patience: seconds after which one of them goes on alone, once all are made.
    """

    def __init__(self, workers: int, patience: float) -> None:
        self._workers, self._patience = workers, patience
        self._made: list[_Made] = []
        self._all_made = asyncio.Event()
        self._begun: dict[int, int] = {}
        self._all: dict[int, asyncio.Event] = {}
        self._in_vain = False

    async def add(self, made: _Made) -> None:
        self._made.append(made)
        if len(self._made) >= self._workers:
            self._all_made.set()

    async def begin(self, step: int) -> None:
        begun = self._begun[step] = self._begun.get(step, 0) + 1
        together = self._all.setdefault(step, asyncio.Event())
        if begun >= self._workers:
            together.set()
        if self._in_vain:
            return
        try:
            await asyncio.wait_for(self._all_made.wait(), START_UP)
            await asyncio.wait_for(together.wait(), self._patience)
        except TimeoutError:
            self._in_vain = True

    async def seen(self) -> tuple[list[_Made], bool]:
        """The optimizers, and whether one of them waited for others that had not begun."""
        return self._made, self._in_vain


class _Adam(torch.optim.Adam):
    """Adam whose steps begin together with those of the other optimizers."""

    def __init__(self, weights: Any, meeting: Any) -> None:
        super().__init__(weights, lr=RATE)
        self._meeting, self._taken = meeting, 0
        actor = ray.get_runtime_context().get_actor_id() or ""
        count = sum(weight.numel() for group in self.param_groups for weight in group["params"])
        ray.get(meeting.add.remote(_Made(actor, count)))

    def step(self, *args: Any, **options: Any) -> Any:
        ray.get(self._meeting.begin.remote(self._taken))
        self._taken += 1
        return super().step(*args, **options)


def _optimizer_maker(meeting: Any) -> Callable[[Any], torch.optim.Optimizer]:
    def make_optimizer(weights: Any) -> torch.optim.Optimizer:
        return _Adam(weights, meeting)

    return make_optimizer


@exercise_check(seconds=180)
def divided_adam(answer: Callable[..., Any]) -> Verdict:
    """Exercise 2: as ZeRO does it, each actor keeps Adam's numbers for its own part of the weights only."""
    if (missing := without_ray()) is not None:
        return missing
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(WEIGHTS, generator=random)
    gradients = [torch.randn(WEIGHTS, generator=random) for _ in range(STEPS)]
    wrong = _judge(answer, weights, gradients)
    return wrong or right("each worker keeps a part, and the weights are those of one Adam that keeps all.")


def _judge(answer: Callable[..., Any], weights: torch.Tensor, gradients: list[torch.Tensor]) -> Verdict | None:
    meeting = _Meeting.remote(WORKERS, PATIENCE)
    before = weights.clone()
    got = answer(weights, list(gradients), WORKERS, _optimizer_maker(meeting))
    made, in_vain = ray.get(meeting.seen.remote())
    return (
        _judge_shape(got)
        or _judge_parts(made)
        or _judge_weights(got.detach(), before, gradients)
        or (_one_after_the_other() if in_vain else None)
    )


def _judge_shape(got: Any) -> Verdict | None:
    if isinstance(got, torch.Tensor) and got.shape == (WEIGHTS,):
        return None
    found = f"a tensor of shape {tuple(got.shape)}" if isinstance(got, torch.Tensor) else f"a {type(got).__name__}"
    return not_right(found, f"a tensor of {WEIGHTS} weights", "Join the parts of the last step: torch.cat(parts).")


def _judge_parts(made: list[_Made]) -> Verdict | None:
    """The verdict if the optimizers are not one for each actor, with equal parts of the weights."""
    actors = {one.actor for one in made}
    if not made:
        return not_right("no optimizer", f"{WORKERS}", "Call make_optimizer([part]) in the actor that keeps the part.")
    if "" in actors:
        hint = "What an optimizer knows has to stay from step to step: make it in an actor, when the actor is made."
        return not_right("an optimizer outside of any actor", f"one in each of {WORKERS} actors", hint)
    if len(actors) != WORKERS:
        hint = "Make as many actors as there are workers; weights.tensor_split(workers) makes as many parts."
        found = "1 actor" if len(actors) == 1 else f"{len(actors)} actors"
        return not_right(f"{found} with an optimizer", f"{WORKERS}", hint)
    if len(made) != WORKERS:
        hint = "A new optimizer knows nothing of the steps before: make one, in __init__, and keep it."
        return not_right(f"{len(made)} optimizers in {WORKERS} actors", "one in each", hint)
    most = max(one.weights for one in made)
    if most > math.ceil(WEIGHTS / WORKERS):
        hint = "Each optimizer gets its own part of the weights only, or nothing is saved."
        return not_right(f"an optimizer for {most} of {WEIGHTS} weights", f"parts for {WORKERS} workers", hint)
    if (total := sum(one.weights for one in made)) != WEIGHTS:
        hint = "The parts may differ by one weight, and together they are all weights: see tensor_split."
        return not_right(f"parts of {total} weights together", f"{WEIGHTS}", hint)
    return None


def _judge_weights(got: torch.Tensor, weights: torch.Tensor, gradients: list[torch.Tensor]) -> Verdict | None:
    """The verdict if the weights are not those of one Adam that is given everything."""
    expected = _trained(weights, gradients)
    if torch.allclose(got, expected, atol=1e-5):
        return None
    hint = "Each part needs its own part of each gradient, all gradients in their order, and a place as before."
    if torch.allclose(got.sort().values, expected.sort().values, atol=1e-5):
        hint = "The weights are right, in another order: join the parts in the order in which they were cut."
    elif torch.allclose(got, weights):
        hint = "These are the weights from before: return those that the actors have after the last step."
    elif torch.allclose(got, _trained(weights, gradients[:1]), atol=1e-5):
        hint = "These are the weights after the first step: take one for each gradient."
    elif torch.allclose(got, _trained(weights, gradients[:-1]), atol=1e-5):
        hint = "These are the weights from before the last step."
    return not_right(got.tolist(), expected.tolist(), hint)


def _trained(weights: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    """The weights after one step of one Adam for each gradient."""
    weights = weights.clone()
    optimizer = torch.optim.Adam([weights], lr=RATE)
    for gradient in gradients:
        weights.grad = gradient.clone()
        optimizer.step()
    return weights


def _one_after_the_other() -> Verdict:
    hint = "Let all actors begin a step before you wait: ray.get on a list of references, not in a loop over actors."
    return not_right("actors that take a step one after the other", "steps at the same time", hint)
