"""Checks of the exercises of notebook 05 and of its deep dive. Only `best_config` needs a running Ray."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune.search.sample import Domain

from helpers.exercises.formulas import judge_formula
from helpers.exercises.verdict import Verdict, exercise_check, not_right, right, without_ray

DRAWS = 20_000
FURTHEST = 0.02  # between 20,000 draws and the wanted distribution; chance alone gives 0.02 once in ten million


@exercise_check
def search_space(answer: dict[str, Any]) -> Verdict:
    """Exercise 1: each setting drawn from the right values, on the right scale."""
    names = {"lr", "layers", "momentum", "activation"}
    if not isinstance(answer, dict) or set(answer) != names:
        got = sorted(map(str, answer)) if isinstance(answer, dict) else f"a {type(answer).__name__}"
        return not_right(got, f"a dict with the keys {sorted(names)}", "Tune reads the names from the keys.")
    for name, domain in answer.items():
        if isinstance(domain, dict) and "grid_search" in domain:
            hint = "grid_search runs every value with every other one; to draw one of them, use tune.choice."
            return not_right(f"a grid for {name!r}", "a value that is drawn", hint)
        if not isinstance(domain, Domain):
            hint = "A plain value is the same in every trial: draw it with tune.choice, tune.uniform and their like."
            return not_right(f"{name!r}: {type(domain).__name__}", "something to draw from", hint)
    return (
        _real("lr", _draw(answer["lr"]), 1e-4, 1e-1, logarithmic=True)
        or _layers(_draw(answer["layers"]))
        or _real("momentum", _draw(answer["momentum"]), 0.8, 0.99, logarithmic=False)
        or _activation(_draw(answer["activation"]))
        or right("every value can be drawn, and each power of ten of the learning rate equally often.")
    )


def _draw(domain: Domain) -> list[Any]:
    """Draws of a setting; always the same ones, and the reader's own random numbers are not touched."""
    kept, kept_too = np.random.get_state(), random.getstate()
    try:
        np.random.seed(0)
        random.seed(0)
        return [domain.sample() for _ in range(DRAWS)]
    finally:
        np.random.set_state(kept)
        random.setstate(kept_too)


def _real(name: str, values: list[Any], low: float, high: float, logarithmic: bool) -> Verdict | None:
    try:
        numbers = np.sort(np.array(values, dtype=float))
    except (TypeError, ValueError):
        return not_right(f"{values[0]!r} for {name!r}", "a number", "Draw a number from the range.")
    if len(np.unique(numbers)) < DRAWS // 100:
        return not_right(
            f"{len(np.unique(numbers))} different values of {name!r}",
            "any number in between",
            "tune.choice knows only the values in its list; draw from a range.",
        )
    got, wanted = f"values of {name!r} from {numbers[0]:.2g} to {numbers[-1]:.2g}", f"{low:g} to {high:g}"
    if numbers[0] < low * 0.999 or numbers[-1] > high * 1.001:
        hint = "tune.loguniform and tune.uniform take the two ends as they are."
        if name == "lr" and numbers[0] < 0 and abs(numbers[-1]) < 10:
            hint = (
                "The learning rate itself is drawn, not its exponent: tune.loguniform takes the two ends as they are."
            )
        return not_right(got, wanted, hint)
    places = _places(numbers, low, high, logarithmic)
    if places[0] > 0.02 or places[-1] < 0.98:
        return not_right(got, wanted, "Part of the range is never drawn: check both ends.")
    if _distance(places) <= FURTHEST:
        return None
    hint = "Every part of the range should be equally likely."
    if _distance(_places(numbers, low, high, not logarithmic)) <= FURTHEST:
        hint = (
            "On a linear scale nearly all draws are near the upper end: use tune.loguniform."
            if logarithmic
            else "Its values lie close together; every part of the range should be equally likely: use tune.uniform."
        )
    shares = np.histogram(places, bins=4, range=(0, 1))[0] / len(places)
    said = ", ".join(f"{share:.0%}" for share in shares)
    return not_right(f"quarters of the range of {name!r} with {said} of the draws", "25% in each", hint)


def _places(numbers: np.ndarray, low: float, high: float, logarithmic: bool) -> np.ndarray:
    """Where numbers lie on the scale: 0 at the lower end, 1 at the upper one."""
    places = np.log(numbers / low) / np.log(high / low) if logarithmic else (numbers - low) / (high - low)
    return places.clip(0, 1)


def _distance(places: np.ndarray) -> float:
    """The furthest that sorted places are from being spread evenly over 0 to 1 (Kolmogorov and Smirnov's)."""
    return float(np.abs(places - np.linspace(0, 1, len(places))).max())


def _layers(values: list[Any]) -> Verdict | None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            return not_right(f"{value!r} layers", "a whole number", "Use tune.randint or tune.choice.")
    drawn = sorted({int(value) for value in values})
    if drawn != [1, 2, 3, 4]:
        hint = "From 1 to 4, both included: tune.choice with the four numbers, or tune.randint."
        if drawn == [1, 2, 3]:
            hint = "The upper end of tune.randint is never drawn, as with range."
        elif drawn == [0, 1, 2, 3]:
            hint = "They are counted from 1: tune.randint takes the lower end, and an upper end that is never drawn."
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
    # 20,000 draws: a share of 25 % deviates by less than 2 points.
    if min(shares) < 0.93 / kinds or max(shares) > 1.07 / kinds:
        got = f"{name!r} with {min(shares):.0%} to {max(shares):.0%} of the draws for a value"
        hint = "Each value should be equally likely: list each once, and draw on no other scale."
        return not_right(got, f"about {1 / kinds:.0%} for each", hint)
    return None


REPORTS = 9  # of a trial that is not stopped


@ray.remote(num_cpus=0)
class _Log:
    """Which settings were tried, and how often each trial reported."""

    def __init__(self) -> None:
        self.reports: dict[float, int] = {}

    def add(self, x: float, reports: int) -> None:
        self.reports[x] = reports

    def read(self) -> dict[float, int]:
        return self.reports


@exercise_check
def best_config(answer: Callable[[Any, dict[str, Any], int], Any]) -> Verdict:
    """Exercise 2: a sweep with ASHA, and the settings of its best trial. Needs a running Ray."""
    if (missing := without_ray()) is not None:
        return missing
    trials, log = 12, _Log.remote()

    def trainable(config: dict[str, Any]) -> None:
        # The order of any two trials is the same at every report, so whoever is stopped, the best one stays the best.
        for report in range(1, REPORTS + 1):
            ray.get(log.add.remote(config["x"], report))
            tune.report({"loss": abs(config["x"] - 0.3) * (1 + 1 / report)})

    got = answer(trainable, {"x": tune.uniform(0, 1), "note": "kept"}, trials)
    return _judge_sweep(got, ray.get(log.read.remote()), trials) or right(
        "the best trial was found, and bad ones were stopped."
    )


def _judge_sweep(got: Any, reports: dict[float, int], trials: int) -> Verdict | None:
    if len(reports) != trials:
        return not_right(f"{len(reports)} trials", f"{trials} trials", "num_samples in TuneConfig says how many.")
    if isinstance(got, tune.Result | tune.ResultGrid):
        hint = "get_best_result() is the best trial, and its attribute config has the settings."
        return not_right(f"a {type(got).__name__}", "the settings of the best trial", hint)
    if not isinstance(got, dict) or set(got) != {"x", "note"}:
        hint = "Return the whole config of the best trial."
        return not_right(got, "a dict with the keys x and note", hint)
    losses = {x: abs(x - 0.3) for x in reports}
    best = min(losses, key=losses.get)
    worst = max(losses, key=lambda x: losses[x] * (1 + 1 / reports[x]))  # by its last report
    if got["x"] == worst:
        hint = 'A loss is best when it is small: mode="min".'
        return not_right("the trial with the largest loss", "the one with the smallest", hint)
    if got["x"] != best:
        hint = "get_best_result() looks at the metric and the mode that TuneConfig got."
        return not_right(f"x = {got['x']}", f"x = {best}, which had the smallest loss", hint)
    return _judge_stopping(list(reports.values()))


def _judge_stopping(counts: list[int]) -> Verdict | None:
    if min(counts) == REPORTS:
        hint = "Give TuneConfig a scheduler: ASHAScheduler."
        return not_right(f"{REPORTS} reports of each trial", "trials that were stopped", hint)
    if max(counts) < REPORTS:
        hint = f"A good trial may go on to its end: max_t={REPORTS}."
        return not_right(f"at most {max(counts)} reports of a trial", f"{REPORTS} reports of the best", hint)
    if min(counts) > 1:
        hint = "grace_period says after how many reports a trial may be stopped first; by default 1."
        return not_right(f"at least {min(counts)} reports of each trial", "trials that were stopped after one", hint)
    return None


def _halving(
    trials: int,
    factor: int,
    max_epochs: int,
    from_start: bool = False,
    keep: Callable[[int, int], int] = lambda trials, factor: max(1, trials // factor),
    last: bool = True,
) -> int:
    """Epochs of successive halving, or of one of the common mistakes about it."""
    total, done, rung = 0, 0, 1
    while rung < max_epochs or (last and rung == max_epochs):
        total += trials * (rung - (0 if from_start else done))
        done, rung = rung, rung * factor
        trials = keep(trials, factor)
    return total


def _inexact(trials: int, factor: int, max_epochs: int) -> int:
    """The right sum, but with the number of rungs from a logarithm that is cut off."""
    rungs = int(math.log(max_epochs) / math.log(factor)) if max_epochs > 1 else 0
    return _halving(trials, factor, factor**rungs)


@exercise_check
def halving_epochs(answer: Callable[[int, int, int], int]) -> Verdict:
    """Deep dive: how many epochs successive halving trains, when each rung waits to be full."""
    numbers = [(27, 3, 27), (100, 3, 27), (64, 4, 64), (10, 2, 8), (100, 3, 1), (5, 3, 81), (1, 2, 4), (70, 3, 9)]
    # int(math.log(243, 3)) is 4, and that of (1000, 10) is 2: a logarithm is not exact.
    numbers += [(500, 3, 243), (300, 5, 125), (2000, 10, 1000), (37, 2, 32)]
    cases = [{"trials": t, "factor": f, "max_epochs": e} for t, f, e in numbers]
    mistakes: dict[str, Callable[..., Any]] = {
        "This is the number without stopping: at each rung, only 1 of every `factor` trials goes on.": lambda t, f, e: (
            t * e
        ),
        "A trial that goes on does not start again: its earlier epochs are counted already.": lambda t, f, e: _halving(
            t, f, e, from_start=True
        ),
        "A part of a trial cannot go on: round down (but never below one trial).": lambda t, f, e: _halving(
            t, f, e, keep=lambda n, factor: -(-n // factor)
        ),
        "The best trial always goes on: at least one is left at each rung.": lambda t, f, e: _halving(
            t, f, e, keep=lambda n, factor: n // factor
        ),
        "A part of a trial cannot go on: use //, not /.": lambda t, f, e: _halving(
            t, f, e, keep=lambda n, factor: max(1, n / factor)
        ),
        "The last rung is missing: the trials that pass it train on to max_epochs.": lambda t, f, e: _halving(
            t, f, e, last=False
        ),
        "All trials but 1 of every `factor` are counted: those that go on are the fewer.": lambda t, f, e: _halving(
            t, f, e, keep=lambda n, factor: max(1, n - n // factor)
        ),
        "A logarithm of floats is not exact: multiply rung by factor until max_epochs is reached.": _inexact,
    }
    hint = "Count, rung by rung: the trials that are left, times the epochs that are new."
    wrong = judge_formula(answer, _halving, cases, mistakes, hint)
    return wrong or right("that is the cost if rungs wait; ASHA, which doesn't, pays somewhat more.")


Stop = Callable[[str, dict[str, Any]], bool]
Reports = list[tuple[str, float]]  # the trial and its val_accuracy, in the order in which they arrive


def _patient(patience: int, mistake: str = "") -> Stop:
    """The right function, or one with a known mistake."""
    values: dict[str, list[float]] = {}
    waited: dict[str, int] = {}

    def stop(trial_id: str, result: dict[str, Any]) -> bool:
        value = result["val_accuracy"]
        trial = "all" if mistake == "one memory" else trial_id
        counter = "all" if mistake in ("one memory", "one count") else trial_id
        earlier = values.setdefault(trial, [])
        if mistake == "ago":
            better = len(earlier) < patience or value > earlier[-patience]
            earlier.append(value)
            return not better
        if mistake == "before":
            better = not earlier or value > earlier[-1]
        elif mistake == "equal":
            better = not earlier or value >= max(earlier)
        elif mistake == "zero":
            better = value > max(earlier, default=0.0)
        else:
            better = not earlier or value > max(earlier)
        earlier.append(value)
        kept = waited.get(counter, 0)
        waited[counter] = (kept if mistake == "in all" else 0) if better else kept + 1
        return waited[counter] >= {"late": patience + 1, "early": patience - 1, "three": 3}.get(mistake, patience)

    return stop


PATIENCE_MISTAKES = {
    "one memory": "Tune calls one function for all trials: keep the best and the count for each trial_id.",
    "one count": "The count is shared by all trials: keep the best and the count for each trial_id.",
    "before": "Compare with the best so far, not with the report before.",
    "ago": "Compare with the best so far, not with one earlier report.",
    "equal": "The same value again is no new best.",
    "zero": "The first report of a trial is always its best so far, also an accuracy of 0.",
    "in all": "A new best starts the count again: the reports have to come in a row.",
    "three": "Use the argument, not a fixed 3.",
    "late": "Stop with the report that makes it `patience`, not with the one after.",
    "early": "One more chance: `patience` reports in a row without a new best.",
}

SIMPLE_RUNS: dict[str, list[float]] = {
    "a trial that gets better and better": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    "a trial that gets no better after its second report": [0.5, 0.7, 0.65, 0.6, 0.55, 0.5],
    "a trial that reaches a new best now and then": [0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.7],
    "a trial that stays at one value": [0.5, 0.5, 0.5, 0.5, 0.5],
    "a trial that creeps up, but never to its best again": [0.5, 0.9, 0.1, 0.2, 0.3, 0.4],
    "a trial that learns nothing": [0.0, 0.0, 0.0, 0.0, 0.0],
}


def _runs() -> list[tuple[str, int, Reports]]:
    """What is tried: its name, the patience, and the reports of one or more trials."""
    runs = [(name, 3, [("5f3a1_00000", value) for value in values]) for name, values in SIMPLE_RUNS.items()]
    for patience in (1, 2, 5):
        runs.append(("a trial that gets no better", patience, [("5f3a1_00000", 0.7)] * 8))
    draw = random.Random(5)
    for patience, trials in itertools.product((1, 2, 3, 4), (2, 3)):
        names = [f"5f3a1_{number:05}" for number in range(trials)]
        # Values of one digit, so that equal ones occur; trials report in any order.
        reports = [(draw.choice(names), draw.randrange(10) / 10) for _ in range(40)]
        runs.append((f"{trials} trials that report in turns", patience, reports))
    return runs


@exercise_check
def patience(answer: Callable[[int], Stop]) -> Verdict:
    """Exercise 3: stop a trial after `patience` reports in a row without a new best of its own."""
    runs = _runs()
    made = answer(3)
    if not callable(made):
        hint = "Return the inner function, without calling it."
        return not_right(f"a {type(made).__name__}", "a function", hint)
    stops = [_stops(answer(patience), reports) for _, patience, reports in runs]
    for (name, patience, reports), got in zip(runs, stops, strict=True):
        expected = _stops(_patient(patience), reports)
        if got != expected:
            trial = next(trial for trial, _ in reports if got.get(trial) != expected.get(trial))
            values = [value for other, value in reports if other == trial]
            told = f"This was {name}, with a patience of {patience}. The trial reported {values}."
            hint = f"{told} {_patience_hint(stops, runs)}"
            if name.endswith("better and better"):
                hint = f"{told} Each report is a new best, so nothing has to be stopped."
            return not_right(_in_words(got.get(trial)), _in_words(expected.get(trial)), hint)
    together = _two_functions(answer)
    return together or right("each trial is judged by its own best, and gets as many chances as you allow.")


def _stops(stop: Stop, reports: Reports) -> dict[str, int]:
    """At which of its reports each trial is stopped first; a stopped trial does not report again."""
    stops: dict[str, int] = {}
    counts: dict[str, int] = {}
    for trial, value in reports:
        if trial in stops:
            continue
        counts[trial] = counts.get(trial, 0) + 1
        if stop(trial, {"val_accuracy": value, "training_iteration": counts[trial]}):
            stops[trial] = counts[trial]
    return stops


def _patience_hint(stops: list[dict[str, int]], runs: list[tuple[str, int, Reports]]) -> str:
    for mistake, hint in PATIENCE_MISTAKES.items():
        if stops == [_stops(_patient(patience, mistake), reports) for _, patience, reports in runs]:
            return hint
    if not any(stops):
        return "Count the reports since the last new best, and return True once there are `patience` of them."
    return "Count the reports since the last new best of this trial, and compare each with the best so far."


def _two_functions(answer: Callable[[int], Stop]) -> Verdict | None:
    """Two sweeps in one process: what one function remembers is nothing to the other."""
    first, second = answer(2), answer(2)
    result = {"val_accuracy": 0.9, "training_iteration": 1}
    first("5f3a1_00000", result)
    if second("5f3a1_00000", {**result, "val_accuracy": 0.5}) or second("5f3a1_00000", {**result, "val_accuracy": 0.6}):
        hint = "Make the memory inside of make_stop, outside of stop: each call of make_stop begins with an empty one."
        return not_right("a function that remembers trials of another one", "a memory of its own", hint)
    return None


def _in_words(report: int | None) -> str:
    return "no stop" if report is None else f"a stop at report {report}"
