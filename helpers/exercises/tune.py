"""Checks of the exercises of notebook 05."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ray.tune.search.sample import Domain

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right

DRAWS = 4000


@exercise_check
def search_space(answer: dict[str, Any]) -> Verdict:
    """Exercise 1: each setting drawn from the right values, on the right scale."""
    names = {"lr", "layers", "momentum", "activation"}
    if not isinstance(answer, dict) or set(answer) != names:
        got = sorted(answer) if isinstance(answer, dict) else type(answer).__name__
        return not_right(got, f"a dict with the keys {sorted(names)}", "Tune reads the names from the keys.")
    for name, domain in answer.items():
        if isinstance(domain, dict) and "grid_search" in domain:
            hint = "grid_search runs every value with every other one; to draw one of them, use tune.choice."
            return not_right(f"a grid for {name!r}", "a value that is drawn", hint)
        if not isinstance(domain, Domain):
            hint = "A plain value is the same in every trial: draw it with tune.choice, tune.uniform and their like."
            return not_right(f"{name!r}: {type(domain).__name__}", "something to draw from", hint)
    kept = np.random.get_state()
    try:
        np.random.seed(0)
        draws = {name: [domain.sample() for _ in range(DRAWS)] for name, domain in answer.items()}
    finally:
        np.random.set_state(kept)  # the reader's own draws are not touched
    return (
        _real("lr", draws["lr"], 1e-4, 1e-1, logarithmic=True)
        or _layers(draws["layers"])
        or _real("momentum", draws["momentum"], 0.8, 0.99, logarithmic=False)
        or _activation(draws["activation"])
        or right("every value can be drawn, and each power of ten of the learning rate equally often.")
    )


def _real(name: str, values: list[Any], low: float, high: float, logarithmic: bool) -> Verdict | None:
    numbers = np.array(values, dtype=float)
    if len(np.unique(numbers)) < DRAWS // 20:
        return not_right(
            f"{len(np.unique(numbers))} different values of {name!r}",
            "any number in between",
            "tune.choice knows only the values in its list; draw from a range.",
        )
    if numbers.min() < low * 0.999 or numbers.max() > high * 1.001:
        got = f"values of {name!r} from {numbers.min():.2g} to {numbers.max():.2g}"
        return not_right(got, f"{low:g} to {high:g}", "tune.loguniform and tune.uniform take the two ends as they are.")
    middle = math.sqrt(low * high) if logarithmic else (low + high) / 2
    below = float((numbers < middle).mean())
    if abs(below - 0.5) > 0.05:
        hint = (
            "On a linear scale nearly all draws are near the upper end: use tune.loguniform."
            if logarithmic
            else "Its values lie close together; every part of the range should be equally likely: use tune.uniform."
        )
        return not_right(f"{below:.0%} of the values of {name!r} below {middle:.3g}", "half of them", hint)
    widest = np.log10(high / low) if logarithmic else high - low
    spread = np.ptp(np.log10(numbers)) if logarithmic else np.ptp(numbers)
    if spread < 0.95 * widest:
        got = f"values of {name!r} from {numbers.min():.2g} to {numbers.max():.2g}"
        return not_right(got, f"{low:g} to {high:g}", "Part of the range is never drawn: check both ends.")
    places = np.log(numbers / low) / np.log(high / low) if logarithmic else (numbers - low) / (high - low)
    shares = np.histogram(places.clip(0, 1), bins=10, range=(0, 1))[0] / len(numbers)
    if shares.min() < 0.06 or shares.max() > 0.14:
        got = f"tenths of the range of {name!r} with {shares.min():.0%} to {shares.max():.0%} of the draws"
        return not_right(got, "10% in each", "Every part of the range should be equally likely.")
    return None


def _layers(values: list[Any]) -> Verdict | None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            return not_right(f"{value!r} layers", "a whole number", "Use tune.randint or tune.choice.")
    drawn = sorted(set(values))
    if drawn != [1, 2, 3, 4]:
        hint = "The upper end of tune.randint is never drawn, as with range." if drawn == [1, 2, 3] else ""
        return not_right(f"{drawn} layers", "1, 2, 3 and 4", hint)
    return _evenly("layers", values, 4)


def _activation(values: list[Any]) -> Verdict | None:
    for value in values:
        if not isinstance(value, str):
            return not_right(f"activation {value!r}", "one name", "Give tune.choice a list of the three names.")
    drawn = sorted(set(values))
    if drawn != ["gelu", "relu", "tanh"]:
        return not_right(f"activations {drawn}", "relu, tanh and gelu", "Give tune.choice a list of the three names.")
    return _evenly("activation", values, 3)


def _evenly(name: str, values: list[Any], kinds: int) -> Verdict | None:
    shares = [values.count(value) / len(values) for value in sorted(set(values))]
    # 4,000 draws: a share of 25 % deviates by less than 3 points.
    if min(shares) < 0.87 / kinds or max(shares) > 1.13 / kinds:
        got = f"{name!r} with {min(shares):.0%} to {max(shares):.0%} of the draws for a value"
        return not_right(got, f"about {1 / kinds:.0%} for each", "List each value once.")
    return None


@exercise_check
def halving_epochs(answer: Callable[[int, int, int], int]) -> Verdict:
    """Exercise 2: how many epochs successive halving trains, when each rung waits to be full."""
    for trials, factor, max_epochs in ((27, 3, 27), (100, 3, 27), (64, 4, 64), (10, 2, 8), (100, 3, 1), (5, 3, 81)):
        expected, given = _halving(trials, factor, max_epochs), (trials, factor, max_epochs)
        got = answer(*given)
        if got == expected:
            continue
        hint = "Count, rung by rung: the trials that are left, times the epochs that are new."
        if got == trials * max_epochs:
            hint = "This is the number without stopping: at each rung, only 1 of every `factor` trials goes on."
        elif got == _halving(trials, factor, max_epochs, from_start=True):
            hint = "A trial that goes on does not start again: its earlier epochs are counted already."
        elif got == _halving(trials, factor, max_epochs, round_up=True):
            hint = "A part of a trial cannot go on: round down (but never below one trial)."
        elif got == _halving(trials, factor, max_epochs, at_least=0):
            hint = "The best trial always goes on: at least one is left at each rung."
        elif got == _halving(trials, factor, max_epochs, last=False):
            hint = "The last rung is missing: the trials that pass it train on to max_epochs."
        return not_right(got, expected, f"For (trials, factor, max_epochs) = {given}: {hint}")
    return right("that is the cost if rungs wait; ASHA, which doesn't, pays somewhat more.")


def _halving(
    trials: int,
    factor: int,
    max_epochs: int,
    from_start: bool = False,
    round_up: bool = False,
    at_least: int = 1,
    last: bool = True,
) -> int:
    """Epochs of successive halving, or of one of the common mistakes about it."""
    total, done, rung = 0, 0, 1
    while rung < max_epochs or (last and rung == max_epochs):
        total += trials * (rung - (0 if from_start else done))
        done, rung = rung, rung * factor
        trials = max(at_least, -(-trials // factor) if round_up else trials // factor)
    return total


RUNS: dict[str, tuple[list[float], int | None]] = {
    "a trial that gets better and better": ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], None),
    "a trial that gets no better after its second report": ([0.5, 0.7, 0.65, 0.6, 0.55, 0.5], 5),
    "a trial that goes up and down and reaches a new best now and then": ([0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.7], None),
    "a trial that stays at one value": ([0.5, 0.5, 0.5, 0.5, 0.5], 4),
    "a trial that creeps up, but never to its best again": ([0.9, 0.1, 0.2, 0.3, 0.4], 4),
}


@exercise_check
def patience(answer: Callable[[int], Callable[[str, dict[str, Any]], bool]]) -> Verdict:
    """Exercise 3: stop a trial after three reports in a row without a new best of its own."""
    for name, (values, expected) in RUNS.items():
        stop = answer(3)
        if not callable(stop):
            return not_right(type(stop).__name__, "a function", "Return the inner function, without calling it.")
        got = _first_stop(stop, "a", values)
        if got != expected:
            return not_right(_in_words(got), _in_words(expected), f"This was {name}: {values}. {_patience_hint(name)}")
    # A shared best hides the progress of b; a shared count is set back by it, or grows twice as fast.
    for b_values, expected_stops in (([0.1, 0.2, 0.3, 0.4], {"a": 4}), ([0.8, 0.8, 0.8], {})):
        stops = _stops_of_two(answer(3), [0.9] * len(b_values), b_values)
        if stops != expected_stops:
            hint = "Tune calls one function for all trials: keep the best and the count for each trial_id."
            return not_right(_of_two(stops), _of_two(expected_stops), hint)
    got = _first_stop(answer(1), "a", [0.5, 0.6, 0.6])
    if got != 3:
        return not_right(f"patience 1: {_in_words(got)}", _in_words(3), "Use the argument, not a fixed 3.")
    return right("each trial is judged by its own best, and gets as many chances as you allow.")


def _first_stop(stop: Callable[[str, dict[str, Any]], bool], trial: str, values: list[float]) -> int | None:
    for count, value in enumerate(values, 1):
        if stop(trial, {"val_accuracy": value, "training_iteration": count}):
            return count
    return None


def _stops_of_two(
    stop: Callable[[str, dict[str, Any]], bool], a_values: list[float], b_values: list[float]
) -> dict[str, int]:
    """Which of two trials that report in turns is stopped, and at which of its reports."""
    stops: dict[str, int] = {}
    for count, pair in enumerate(zip(a_values, b_values, strict=True), 1):
        for trial, value in zip("ab", pair, strict=True):
            if stop(trial, {"val_accuracy": value, "training_iteration": count}):
                stops.setdefault(trial, count)
    return stops


def _of_two(stops: dict[str, int]) -> str:
    said = [f"trial {trial!r} stopped at its report {count}" for trial, count in stops.items()]
    return " and ".join(said) or "neither of two trials stopped"


def _in_words(report: int | None) -> str:
    return "no stop" if report is None else f"a stop at report {report}"


def _patience_hint(name: str) -> str:
    if "creeps" in name:
        return "Compare with the best so far, not with the report before."
    if "now and then" in name:
        return "A new best starts the count again."
    if "one value" in name:
        return "The same value again is no new best."
    if "better and better" in name:
        return "Each report is a new best, so nothing has to be stopped."
    return "Count the reports since the last new best."
