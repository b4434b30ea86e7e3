"""Answers to the exercises of the deep dive reinforcement_learning."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import ray
from ray.util import ActorPool

from helpers.exercises import reinforcement


def solution_of_gather(runners, weights, steps):
    weights_ref = ray.put(weights)
    playing = {runner.sample.remote(weights_ref): runner for runner in runners}
    collected = []
    while len(collected) < steps:
        (ready,), _ = ray.wait(list(playing))
        runner = playing.pop(ready)
        collected += ray.get(ready)
        playing[runner.sample.remote(weights_ref)] = runner
    return collected


# --- Exercise 1: wrong ---


def one_after_the_other(runners, weights, steps):
    weights_ref, collected = ray.put(weights), []
    while len(collected) < steps:
        for runner in runners:
            collected += ray.get(runner.sample.remote(weights_ref))
    return collected


def in_rounds(runners, weights, steps):
    weights_ref, collected = ray.put(weights), []
    while len(collected) < steps:
        for episode in ray.get([runner.sample.remote(weights_ref) for runner in runners]):
            collected += episode
    return collected


def packs_for_every_episode(runners, weights, steps):
    playing = {runner.sample.remote(weights): runner for runner in runners}
    collected = []
    while len(collected) < steps:
        (ready,), _ = ray.wait(list(playing))
        runner = playing.pop(ready)
        collected += ray.get(ready)
        playing[runner.sample.remote(weights)] = runner
    return collected


def stores_for_every_episode(runners, weights, steps):
    playing = {runner.sample.remote(ray.put(weights)): runner for runner in runners}
    collected = []
    while len(collected) < steps:
        (ready,), _ = ray.wait(list(playing))
        runner = playing.pop(ready)
        collected += ray.get(ready)
        playing[runner.sample.remote(ray.put(weights))] = runner
    return collected


def reference_in_a_list(runners, weights, steps):
    weights_ref = ray.put(weights)
    playing = {runner.sample.remote([weights_ref]): runner for runner in runners}
    collected = []
    while len(collected) < steps:
        (ready,), _ = ray.wait(list(playing))
        runner = playing.pop(ready)
        collected += ray.get(ready)
        playing[runner.sample.remote([weights_ref])] = runner
    return collected


def counts_episodes(runners, weights, steps):
    weights_ref = ray.put(weights)
    playing = {runner.sample.remote(weights_ref): runner for runner in runners}
    collected, episodes = [], 0
    while episodes < steps:
        (ready,), _ = ray.wait(list(playing))
        runner = playing.pop(ready)
        collected += ray.get(ready)
        episodes += 1
        playing[runner.sample.remote(weights_ref)] = runner
    return collected


def one_episode_each(runners, weights, steps):
    weights_ref, collected = ray.put(weights), []
    for episode in ray.get([runner.sample.remote(weights_ref) for runner in runners]):
        collected += episode
    return collected


def whole_episodes(runners, weights, steps):
    weights_ref = ray.put(weights)
    playing = {runner.sample.remote(weights_ref): runner for runner in runners}
    episodes = []
    while sum(map(len, episodes)) < steps:
        (ready,), _ = ray.wait(list(playing))
        runner = playing.pop(ready)
        episodes.append(ray.get(ready))
        playing[runner.sample.remote(weights_ref)] = runner
    return episodes


def references_of_episodes(runners, weights, steps):
    weights_ref = ray.put(weights)
    return [runner.sample.remote(weights_ref) for runner in runners]


def waits_for_the_last_ones(runners, weights, steps):
    weights_ref = ray.put(weights)
    playing = {runner.sample.remote(weights_ref): runner for runner in runners}
    collected = []
    while len(collected) < steps:
        (ready,), _ = ray.wait(list(playing))
        runner = playing.pop(ready)
        collected += ray.get(ready)
        playing[runner.sample.remote(weights_ref)] = runner
    for episode in ray.get(list(playing)):
        collected += episode
    return collected


# --- Exercise 1: right, in other ways ---


def with_a_pool(runners, weights, steps):
    weights_ref, pool, collected = ray.put(weights), ActorPool(runners), []
    for _ in runners:
        pool.submit(lambda runner, _: runner.sample.remote(weights_ref), None)
    while len(collected) < steps:
        collected += pool.get_next_unordered()
        pool.submit(lambda runner, _: runner.sample.remote(weights_ref), None)
    return collected


def cut_to_length(runners, weights, steps):
    return solution_of_gather(runners, weights, steps)[:steps]


def with_two_lists(runners, weights, steps):
    weights_ref = ray.put(weights)
    free, pending, owner, collected = list(runners), [], {}, []
    while len(collected) < steps:
        for runner in free:
            ref = runner.sample.remote(weights_ref)
            owner[ref] = runner
            pending.append(ref)
        ready, pending = ray.wait(pending, num_returns=1, timeout=60)
        free = [owner.pop(ref) for ref in ready]
        collected.extend(step for episode in ray.get(ready) for step in episode)
    return tuple(collected)


# --- Exercise 2 ---


class Replicas(gym.Env):
    action_space = gym.spaces.Discrete(3)
    observation_space = gym.spaces.Box(0, 1000, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.waiting, self.replicas, self.steps = 0, 1, 0
        return self.observed(), {}

    def step(self, action):
        self.replicas = int(np.clip(self.replicas + action - 1, 1, 10))
        arrived = self.np_random.poisson(20)
        self.waiting = int(np.clip(self.waiting + arrived - 4 * self.replicas, 0, 1000))
        self.steps += 1
        return self.observed(), -float(self.waiting + self.replicas), False, self.steps == 100, {}

    def observed(self):
        return np.array([self.waiting, self.replicas], np.float32)


class WholeNumbers(Replicas):
    def observed(self):
        return np.array([self.waiting, self.replicas])


class AList(Replicas):
    def observed(self):
        return [self.waiting, self.replicas]


class NoSeed(Replicas):
    def reset(self, *, seed=None, options=None):
        super().reset()
        return self.observed(), {}


class GlobalNumbers(Replicas):
    def step(self, action):
        self.np_random = np.random.default_rng()
        return super().step(action)


class Unbounded(Replicas):
    def step(self, action):
        self.replicas = max(0, self.replicas + int(action) - 1)
        self.waiting = max(0, self.waiting + int(self.np_random.poisson(20)) - 4 * self.replicas)
        self.steps += 1
        return self.observed(), -float(self.waiting + self.replicas), False, self.steps == 100, {}


class RewardUpsideDown(Replicas):
    def step(self, action):
        observed, reward, *rest = super().step(action)
        return observed, -reward, *rest


class Terminates(Replicas):
    def step(self, action):
        observed, reward, _, ended, more = super().step(action)
        return observed, reward, ended, False, more


class NeverEnds(Replicas):
    def step(self, action):
        observed, reward, *_ = super().step(action)
        return observed, reward, False, False, {}


class FourValues(Replicas):
    def step(self, action):
        observed, reward, _, ended, more = super().step(action)
        return observed, reward, ended, more


class KeepsItsSteps(Replicas):
    counted = 0

    def step(self, action):
        observed, reward, *_ = super().step(action)
        self.counted += 1
        return observed, reward, False, self.counted % 150 == 100, {}


class OnlyTheObservation(Replicas):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class AnswersFirst(Replicas):
    def step(self, action):
        self.replicas = int(np.clip(self.replicas + action - 1, 1, 10))
        self.waiting = max(0, self.waiting - 4 * self.replicas) + int(self.np_random.poisson(20))
        self.waiting = min(self.waiting, 1000)
        self.steps += 1
        return self.observed(), -float(self.waiting + self.replicas), False, self.steps == 100, {}


class WithAnArray(gym.Env):
    """The state is the observation itself."""

    def __init__(self, config=None):
        self.action_space = gym.spaces.Discrete(3)
        self.observation_space = gym.spaces.Box(np.float32([0, 0]), np.float32([1000, 1000]))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 100
        self.state = np.array([0, 1], np.float32)
        return self.state.copy(), {}

    def step(self, action):
        self.left -= 1
        self.state[1] = min(max(self.state[1] + action - 1, 1), 10)
        self.state[0] = min(max(self.state[0] + self.np_random.poisson(20) - 4 * self.state[1], 0), 1000)
        return self.state.copy(), -self.state.sum(), False, not self.left, {}


class NumpyReward(Replicas):
    def step(self, action):
        observed, reward, terminated, truncated, more = super().step(action)
        return observed, np.float32(reward), np.bool_(terminated), np.bool_(truncated), more


class InOtherWords(Replicas):
    """Looks up what an action means."""

    CHANGE = (-1, 0, +1)

    def step(self, action):
        wished = self.replicas + self.CHANGE[action]
        self.replicas = wished if 1 <= wished <= 10 else self.replicas
        self.waiting = sorted((0, self.waiting + self.np_random.poisson(20) - 4 * self.replicas, 1000))[1]
        self.steps += 1
        return self.observed(), float(-self.waiting - self.replicas), False, self.steps >= 100, {}


WRONG = {
    (1, reinforcement.gather): [
        (in_rounds, "Take whatever ray.wait returns first"),
        (one_after_the_other, "on every runner before you wait"),
        (packs_for_every_episode, "ray.put(weights) once"),
        (stores_for_every_episode, "ray.put(weights) once"),
        (reference_in_a_list, "pass the reference itself"),
        (counts_episodes, "Stop as soon as there are enough steps"),
        (one_episode_each, "Count steps, not episodes"),
        (whole_episodes, "extend your list"),
        (references_of_episodes, "Call ray.get"),
        (waits_for_the_last_ones, "Stop as soon as there are enough steps"),
        (lambda runners, weights, steps: None, "into one list"),
    ],
    (2, reinforcement.environment): [
        (WholeNumbers, "what the space announces"),
        (AList, "what the space announces"),
        (NoSeed, "super().reset(seed=seed)"),
        (GlobalNumbers, "self.np_random.poisson(20)"),
        (Unbounded, "always 1, and never more than 10"),
        (RewardUpsideDown, "The reward is minus"),
        (Terminates, "truncated, not terminated"),
        (NeverEnds, "Count the steps"),
        (KeepsItsSteps, "Count the steps"),
        (FourValues, "observation, reward, terminated, truncated"),
        (OnlyTheObservation, "reset returns two values"),
        (AnswersFirst, "First the replicas change"),
        (Replicas(), "the class itself"),
    ],
}
RIGHT = {
    (1, reinforcement.gather): [with_a_pool, cut_to_length, with_two_lists],
    (2, reinforcement.environment): [WithAnArray, NumpyReward, InOtherWords],
}
