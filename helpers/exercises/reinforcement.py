"""Checks of the exercises of the deep dive reinforcement_learning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import ray

from helpers.exercises.meeting import Meeting
from helpers.exercises.verdict import Verdict, as_list, exercise_check, not_right, right, without_ray
from helpers.exercises.watched import PATIENCE

WEIGHTS = [0.5, 0.25]


class _Counted:
    """Weights that count how often they are packed to be sent; whoever receives them gets a plain list."""

    def __init__(self) -> None:
        self.packed = 0

    def __reduce__(self) -> tuple[Callable[..., list[float]], tuple[list[float]]]:
        self.packed += 1
        return list, (WEIGHTS,)


@ray.remote(num_cpus=0)
class _Delivered:
    """Lets a slow runner wait until others have delivered so many episodes, or nothing happens any more."""

    def __init__(self, needed: int) -> None:
        self._needed, self._seen, self._in_vain = needed, 0, False

    async def one(self) -> None:
        self._seen += 1

    async def wait(self) -> None:
        seen, since = 0, time.monotonic()
        while self._seen < self._needed and not self._in_vain:
            if self._seen > seen:
                seen, since = self._seen, time.monotonic()
            self._in_vain = time.monotonic() - since > PATIENCE
            await asyncio.sleep(0.02)

    async def in_vain(self) -> bool:
        return self._in_vain


@ray.remote(num_cpus=0)
class _Runner:
    """Plays episodes of so many steps; each step is a pair: the number of the runner, and of the step."""

    def __init__(self, number: int, length: int, before: Callable[[], object], after: Callable[[], object]) -> None:
        self._number, self._length, self._before, self._after = number, length, before, after
        self._played, self._strange = 0, None

    def sample(self, weights: Any) -> list[tuple[int, int]]:
        if weights != WEIGHTS:
            self._strange = type(weights).__name__
        self._before()
        first = self._played
        self._played += self._length
        self._after()
        return [(self._number, step) for step in range(first, self._played)]

    def state(self) -> tuple[int, str | None]:
        """Steps played until now, and what came instead of the weights, if anything else did."""
        return self._played, self._strange


def _nothing() -> None: ...


@exercise_check
def gather(answer: Callable[[list[Any], Any, int], Any]) -> Verdict:
    """Exercise 1: runners play at the same time, none waits for another, and the weights are stored once."""
    if (missing := without_ray()) is not None:
        return missing
    wrong = _judge_steps(answer) or _judge_together(answer) or _judge_slow(answer)
    return wrong or right("all runners play at once, a slow one holds nobody up, and the weights are stored once.")


def _judge_steps(answer: Callable[..., Any]) -> Verdict | None:
    runners = [_Runner.remote(number, length, _nothing, _nothing) for number, length in enumerate((3, 5))]
    weights = _Counted()
    wrong = _judge_result(answer(runners, weights, 40), 40, at_most=39 + 3 + 5)
    if wrong is not None:
        return wrong
    strange = next((s for _, s in ray.get([runner.state.remote() for runner in runners]) if s), None)
    if strange is not None:
        hint = "A reference inside a list or a tuple is not resolved: pass the reference itself to sample.remote."
        return not_right(f"a {strange} came to a runner", "the weights", hint)
    if weights.packed > 1:
        hint = "Call ray.put(weights) once, before the first call, and pass the reference to every runner."
        return not_right(f"the weights were packed {weights.packed} times", "once", hint)
    return None


def _judge_result(got: Any, steps: int, at_most: int) -> Verdict | None:
    found = as_list(got)
    if found is None:
        return not_right(got, "a list of steps", "Put the steps of all episodes into one list, and return it.")
    if any(isinstance(step, ray.ObjectRef) for step in found):
        return not_right("references", "the steps themselves", "Call ray.get on what ray.wait says is ready.")
    pairs = [tuple(step) if isinstance(step, (list, tuple)) else step for step in found]
    if any(not isinstance(step, tuple) or len(step) != 2 or isinstance(step[0], (list, tuple)) for step in pairs):
        hint = "An episode is a list of steps: extend your list by it instead of appending it."
        return not_right(found[:2], "steps, not whole episodes", hint)
    if len(set(pairs)) < len(pairs):
        return not_right("a step that is there twice", "each step once", "Add each episode once.")
    if len(pairs) < steps:
        hint = "Count steps, not episodes, and ask a runner for its next episode until there are enough."
        return not_right(f"{len(pairs)} steps", f"at least {steps}", hint)
    if len(pairs) > at_most:
        hint = "Stop as soon as there are enough steps; what is still being played is not needed."
        return not_right(f"{len(pairs)} steps", f"at least {steps}, and no episode more than needed", hint)
    return None


def _judge_together(answer: Callable[..., Any]) -> Verdict | None:
    meeting = Meeting.remote(2, PATIENCE)
    runners = [_Runner.remote(n, 1, lambda: ray.get(meeting.arrive.remote("here")), _nothing) for n in range(2)]
    wrong = _judge_result(answer(runners, _Counted(), 2), 2, at_most=4)
    if ray.get(meeting.in_vain.remote()):
        hint = "Start an episode on every runner before you wait for the first one."
        return not_right("one runner after the other", "all runners playing at the same time", hint)
    return wrong


def _judge_slow(answer: Callable[..., Any]) -> Verdict | None:
    delivered = _Delivered.remote(4)
    slow = _Runner.remote(0, 2, lambda: ray.get(delivered.wait.remote()), _nothing)
    quick = _Runner.remote(1, 2, _nothing, lambda: ray.get(delivered.one.remote()))
    wrong = _judge_result(answer([slow, quick], _Counted(), 8), 8, at_most=12)
    if ray.get(delivered.in_vain.remote()):
        hint = "Take whatever ray.wait returns first, and give only that runner its next episode."
        return not_right("a wait for the slow runner", "the other one playing on meanwhile", hint)
    return wrong


# --- Exercise 2 -------------------------------------------------------------------------------------------------------

STEPS, MOST, ARRIVE, ANSWERED, LONGEST = 100, 10, 20, 4, 1000


class _Reference(gym.Env):
    """What the exercise describes."""

    action_space = gym.spaces.Discrete(3)
    observation_space = gym.spaces.Box(0, LONGEST, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.waiting, self.replicas, self.steps = 0, 1, 0
        return self._observed(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.replicas = min(MOST, max(1, self.replicas + int(action) - 1))
        self.waiting += int(self.np_random.poisson(ARRIVE)) - ANSWERED * self.replicas
        self.waiting = min(LONGEST, max(0, self.waiting))
        self.steps += 1
        return self._observed(), float(-self.waiting - self.replicas), False, self.steps >= STEPS, {}

    def _observed(self) -> np.ndarray:
        return np.array([self.waiting, self.replicas], np.float32)


# Adds to the end and beyond, removes to the end and beyond, then by turns.
ACTIONS = [2] * 14 + [0] * 30 + [1, 2, 2, 0] * 14


@exercise_check
def environment(answer: Any) -> Verdict:
    """Exercise 2: an environment that keeps to its rules, and repeats itself for the same seed."""
    if not (isinstance(answer, type) and issubclass(answer, gym.Env)):
        return not_right(answer, "a class", "Write `class Replicas(gym.Env):`, and give the class itself.")
    ours = answer()
    for name in ("action_space", "observation_space"):
        if getattr(ours, name, None) is None:
            return not_right(f"no {name}", f"the attribute {name}", "Set both spaces in the class, as above.")
    wrong = _judge_run(ours, 1, "in the first episode") or _judge_run(ours, 2, "in an episode after a reset")
    if wrong is None:
        answer().reset(seed=5)
        wrong = _judge_run(answer(), 1, "in another environment of the same class")
    return wrong or right("it keeps to its rules, ends after 100 steps, and repeats itself for the same seed.")


def _judge_run(ours: gym.Env, seed: int, when: str) -> Verdict | None:
    theirs = _Reference()
    expected, _ = theirs.reset(seed=seed)
    begun = ours.reset(seed=seed)
    if not isinstance(begun, tuple) or len(begun) != 2 or not isinstance(begun[1], dict):
        return not_right(begun, "an observation and a dict", "reset returns two values; the dict may be empty.")
    wrong = _judge_observation(begun[0], expected, ours, f"after reset, {when}")
    for number, action in enumerate(ACTIONS, 1):
        if wrong is not None:
            return wrong
        made = ours.step(np.int64(action))
        if not isinstance(made, tuple) or len(made) != 5:
            return not_right(made, "five values", "observation, reward, terminated, truncated, and a dict.")
        wanted = theirs.step(action)
        wrong = _judge_step(made, wanted, ours, f"after {number} steps, {when}")
    return wrong


def _judge_step(made: tuple, wanted: tuple, ours: gym.Env, when: str) -> Verdict | None:
    wrong = _judge_observation(made[0], wanted[0], ours, when)
    if wrong is not None:
        return wrong
    if not np.isclose(float(made[1]), wanted[1]):
        hint = "The reward is minus what waits and minus the replicas, both after the step."
        return not_right(f"the reward {made[1]} {when}", wanted[1], hint)
    if made[2]:
        hint = "Nothing fails here. An episode that is only cut off is truncated, not terminated."
        return not_right(f"terminated {when}", "never terminated", hint)
    if bool(made[3]) != wanted[3]:
        return not_right(f"truncated is {made[3]} {when}", wanted[3], "Count the steps, and start again in reset.")
    return None


def _judge_observation(got: Any, expected: np.ndarray, ours: gym.Env, when: str) -> Verdict | None:
    if not isinstance(got, np.ndarray) or got.dtype != np.float32 or not ours.observation_space.contains(got):
        hint = "Return np.array([waiting, replicas], np.float32); a policy gets what the space announces."
        return not_right(f"{got!r} {when}", "something of the observation space", hint)
    if got[1] != expected[1]:
        hint = "Action 0 removes one replica, 1 keeps them, 2 adds one; there is always 1, and never more than 10."
        return not_right(f"{got[1]:g} replicas {when}", f"{expected[1]:g}", hint)
    if got[0] != expected[0]:
        hint = (
            "First the replicas change, then self.np_random.poisson(20) requests arrive, then each replica answers 4. "
            "reset calls super().reset(seed=seed), which makes self.np_random."
        )
        return not_right(f"{got[0]:g} requests wait {when}", f"{expected[0]:g}", hint)
    return None
