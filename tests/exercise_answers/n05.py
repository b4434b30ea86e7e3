"""Answers to the exercises of notebook 05."""

from __future__ import annotations

import collections
import itertools
import math
import random

import numpy as np
from ray import tune

from helpers.exercises import tune as tuning

RIGHT_SPACE = {
    "lr": tune.loguniform(1e-4, 1e-1),
    "layers": tune.randint(1, 5),
    "momentum": tune.uniform(0.8, 0.99),
    "activation": tune.choice(["relu", "tanh", "gelu"]),
}


def only_the_ends(spec=None):
    """0.0001 to 0.0003, or 0.03 to 0.1: half of the draws on each side of the middle."""
    exponent = np.random.uniform(-4, -3.5)
    return 10 ** (exponent if np.random.rand() < 0.5 else exponent + 2.5)


def rung_by_rung(trials, factor, max_epochs, keep=lambda n, f: max(1, n // f), again=False, last=True):
    total, done, rung = 0, 0, 1
    while rung < max_epochs or (last and rung == max_epochs):
        total += trials * (rung if again else rung - done)
        done, rung = rung, rung * factor
        trials = keep(trials, factor)
    return total


def without_stopping(trials, factor, max_epochs):
    return trials * max_epochs


def starts_again_at_each_rung(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, again=True)


def rounds_up(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, keep=lambda n, f: math.ceil(n / f))


def loses_the_last_trial(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, keep=lambda n, f: n // f)


def forgets_the_last_rung(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, last=False)


def one_memory_for_all_trials(patience):
    state = {"best": -1.0, "waited": 0}

    def stop(trial_id, result):
        better = result["val_accuracy"] > state["best"]
        state["waited"] = 0 if better else state["waited"] + 1
        state["best"] = max(state["best"], result["val_accuracy"])
        return state["waited"] >= patience

    return stop


def one_count_for_all_trials(patience):
    best, waited = {}, {"reports": 0}

    def stop(trial_id, result):
        better = result["val_accuracy"] > best.get(trial_id, -1.0)
        waited["reports"] = 0 if better else waited["reports"] + 1
        best[trial_id] = max(best.get(trial_id, -1.0), result["val_accuracy"])
        return waited["reports"] >= patience

    return stop


def compares_with_the_report_before(patience):
    before, waited = {}, {}

    def stop(trial_id, result):
        better = result["val_accuracy"] > before.get(trial_id, -1.0)
        waited[trial_id] = 0 if better else waited[trial_id] + 1
        before[trial_id] = result["val_accuracy"]
        return waited[trial_id] >= patience

    return stop


def patient(patience, better=lambda value, best: value > best, forget=True):
    best, waited = {}, {}

    def stop(trial_id, result):
        value = result["val_accuracy"]
        if better(value, best.get(trial_id, -1.0)):
            best[trial_id] = value
            waited[trial_id] = 0 if forget else waited.get(trial_id, 0)
        else:
            waited[trial_id] += 1
        return waited[trial_id] >= patience

    return stop


def equal_is_better(patience):
    return patient(patience, better=lambda value, best: value >= best)


def never_forgets(patience):
    return patient(patience, forget=False)


def always_patience_three(patience):
    return patient(3)


def never_stops(patience):
    return lambda trial_id, result: False


def stops_at_a_number_of_reports(patience):
    return lambda trial_id, result: result["training_iteration"] > patience


def returns_no_function(patience):
    return False


def rungs_by_a_logarithm(trials, factor, max_epochs):
    rungs = int(math.log(max_epochs) / math.log(factor)) if max_epochs > 1 else 0
    return rung_by_rung(trials, factor, factor**rungs)


def counts_those_that_stop(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, keep=lambda n, f: max(1, n - n // f))


def divides_exactly(trials, factor, max_epochs):
    return rung_by_rung(trials, factor, max_epochs, keep=lambda n, f: max(1, n / f))


def always_three_as_factor(trials, factor, max_epochs):
    return rung_by_rung(trials, 3, max_epochs)


def halving_by_recursion(trials, factor, max_epochs):
    if max_epochs == 1:
        return trials
    survivors = trials
    for _ in itertools.takewhile(lambda rung: rung < max_epochs, (factor**i for i in itertools.count())):
        survivors = max(1, survivors // factor)
    return halving_by_recursion(trials, factor, max_epochs // factor) + survivors * (max_epochs - max_epochs // factor)


def halving_trial_by_trial(trials, factor, max_epochs):
    """The epochs of each trial: the best one goes to the end, the next ones to the rung before, ..."""
    rungs, left = [1], [trials]
    while rungs[-1] < max_epochs:
        rungs.append(rungs[-1] * factor)
        left.append(max(1, left[-1] // factor))
    return sum(max(rung for rung, kept in zip(rungs, left, strict=True) if trial < kept) for trial in range(trials))


def halving_in_floats(trials, factor, max_epochs):
    return np.float64(rung_by_rung(trials, factor, max_epochs))


def compares_with_the_report_patience_ago(patience):
    values = {}

    def stop(trial_id, result):
        seen = values.setdefault(trial_id, [])
        seen.append(result["val_accuracy"])
        return len(seen) > patience and seen[-1] <= seen[-1 - patience]

    return stop


def begins_with_0(patience):
    best, waited = {}, {}

    def stop(trial_id, result):
        if result["val_accuracy"] > best.get(trial_id, 0):
            best[trial_id], waited[trial_id] = result["val_accuracy"], 0
        else:
            waited[trial_id] = waited.get(trial_id, 0) + 1
        return waited[trial_id] >= patience

    return stop


REMEMBERED = collections.defaultdict(list)


def remembers_other_sweeps(patience):
    def stop(trial_id, result):
        REMEMBERED[trial_id].append(result["val_accuracy"])
        values = REMEMBERED[trial_id]
        return len(values) - 1 - values.index(max(values)) >= patience

    return stop


def one_report_too_late(patience):
    return patient(patience + 1)


def one_report_too_early(patience):
    return patient(patience - 1)


def stops_when_all_reports_are_low(patience):
    return lambda trial_id, result: result["val_accuracy"] < 0.5


def keeps_all_values(patience):
    values = collections.defaultdict(list)

    def stop(trial_id, result):
        values[trial_id].append(result["val_accuracy"])
        return len(values[trial_id]) - 1 - int(np.argmax(values[trial_id])) >= patience

    return stop


class Patience:
    def __init__(self, patience):
        self.patience, self.best = patience, {}

    def __call__(self, trial_id, result):
        report = result["training_iteration"]
        best, since = self.best.get(trial_id, (-math.inf, 0))
        if result["val_accuracy"] > best:
            self.best[trial_id] = best, since = result["val_accuracy"], report
        return report - since >= self.patience


def patience_in_a_default(patience):
    def stop(trial_id, result, memory={}):  # noqa: B006
        best, waited = memory.get(trial_id, (None, 0))
        better = best is None or result["val_accuracy"] > best
        memory[trial_id] = (result["val_accuracy"], 0) if better else (best, waited + 1)
        return np.bool_(memory[trial_id][1] >= patience)

    return stop


def space(**changed):
    return {**RIGHT_SPACE, **changed}


WRONG = {
    (1, tuning.search_space): [
        (space(lr=tune.uniform(1e-4, 1e-1)), "tune.loguniform"),
        (space(lr=tune.choice([1e-4, 1e-3, 1e-2, 1e-1])), "draw from a range"),
        (space(lr=tune.loguniform(1e-5, 1e-1)), "expected 0.0001 to 0.1"),
        (space(lr=tune.uniform(-4, -1)), "not its exponent"),
        (space(lr=tune.loguniform(1e-4, 5e-2)), "check both ends"),
        (space(layers=tune.randint(1, 4)), "never drawn"),
        (space(layers=tune.randint(0, 4)), "counted from 1"),
        (space(layers=tune.randint(1, 6)), "both included"),
        (space(layers=tune.lograndint(1, 5)), "equally likely"),
        (space(layers=tune.uniform(1, 4)), "a whole number"),
        (space(layers=tune.quniform(1, 4, 1)), "a whole number"),
        (space(layers=3), "same in every trial"),
        (space(layers=tune.choice([1, 2, 3, "4"])), "a whole number"),
        (space(activation=tune.choice(["relu", "tanh", None])), "list of the three names"),
        (space(lr=tune.sample_from(only_the_ends)), "equally likely"),
        (space(momentum=tune.uniform(0.85, 0.94)), "check both ends"),
        (space(momentum=tune.loguniform(0.8, 0.99)), "tune.uniform"),
        (space(momentum=tune.randn(0.9, 0.05)), "expected 0.8 to 0.99"),
        (space(momentum=tune.choice([0.8, 0.9, 0.99])), "draw from a range"),
        (space(momentum=tune.choice(["low", "high"])), "Draw a number"),
        (space(activation=["relu", "tanh", "gelu"]), "tune.choice"),
        (space(activation=tune.grid_search(["relu", "tanh", "gelu"])), "every value with every other"),
        (space(activation=tune.choice(["relu", "relu", "tanh", "gelu"])), "once"),
        (space(activation=tune.choice(["relu", "tanh"])), "list of the three names"),
        (space(layers=tune.choice([1, 2, 3, 4, 4])), "once"),
        ({"lr": tune.loguniform(1e-4, 1e-1)}, "keys"),
        (list(RIGHT_SPACE.values()), "keys"),
    ],
    (2, tuning.halving_epochs): [
        (without_stopping, "without stopping"),
        (starts_again_at_each_rung, "does not start again"),
        (rounds_up, "round down"),
        (loses_the_last_trial, "at least one"),
        (forgets_the_last_rung, "last rung"),
        (lambda trials, factor, max_epochs: trials, "rung by rung"),
        (rungs_by_a_logarithm, "not exact"),
        (counts_those_that_stop, "those that go on"),
        (divides_exactly, "use //"),
        (always_three_as_factor, "rung by rung"),
        (lambda trials, factor, max_epochs: None, "a return on every way"),
    ],
    (3, tuning.patience): [
        (one_memory_for_all_trials, "for each trial_id"),
        (one_count_for_all_trials, "for each trial_id"),
        (compares_with_the_report_before, "not with the report before"),
        (compares_with_the_report_patience_ago, "not with one earlier report"),
        (begins_with_0, "also an accuracy of 0"),
        (remembers_other_sweeps, "since the last new best"),
        (one_report_too_late, "not with the one after"),
        (one_report_too_early, "One more chance"),
        (equal_is_better, "no new best"),
        (never_forgets, "starts the count again"),
        (always_patience_three, "Use the argument"),
        (never_stops, "since the last new best"),
        (stops_at_a_number_of_reports, "nothing has to be stopped"),
        (stops_when_all_reports_are_low, "nothing has to be stopped"),
        (returns_no_function, "without calling it"),
    ],
}
RIGHT = {
    (1, tuning.search_space): [
        RIGHT_SPACE,
        space(layers=tune.choice([1, 2, 3, 4]), momentum=tune.quniform(0.8, 0.99, 0.0001)),
        space(lr=tune.sample_from(lambda spec: 10 ** random.uniform(-4, -1)), layers=tune.choice(range(1, 5))),
        space(lr=tune.qloguniform(1e-4, 1e-1, 1e-5), activation=tune.choice(("gelu", "relu", "tanh"))),
    ],
    (2, tuning.halving_epochs): [
        rung_by_rung,
        halving_by_recursion,
        halving_trial_by_trial,
        halving_in_floats,
    ],
    (3, tuning.patience): [patient, keeps_all_values, Patience, patience_in_a_default],
}
