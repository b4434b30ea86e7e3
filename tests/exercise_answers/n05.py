"""Answers to the exercises of notebook 05."""

from __future__ import annotations

import collections
import math
import random
import tempfile

import numpy as np
from ray import tune
from ray.tune.search.optuna import OptunaSearch

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


def sweep(trainable, space, trials, metric="loss", mode="min", scheduler="ASHA", **settings):
    if scheduler == "ASHA":
        scheduler = tune.schedulers.ASHAScheduler(max_t=9)
    with tempfile.TemporaryDirectory() as folder:
        return tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=metric, mode=mode, num_samples=trials, scheduler=scheduler, reuse_actors=True, **settings
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()


def sweep_for_the_largest(trainable, space, trials):
    return sweep(trainable, space, trials, mode="max").get_best_result().config


def sweep_without_stopping(trainable, space, trials):
    return sweep(trainable, space, trials, scheduler=None).get_best_result().config


def sweep_of_one(trainable, space, trials):
    return sweep(trainable, space, 1).get_best_result().config


def sweep_and_its_result(trainable, space, trials):
    return sweep(trainable, space, trials).get_best_result()


def sweep_that_stops_late(trainable, space, trials):
    asha = tune.schedulers.ASHAScheduler(max_t=9, grace_period=3)
    return sweep(trainable, space, trials, scheduler=asha).get_best_result().config


def sweep_that_ends_early(trainable, space, trials):
    asha = tune.schedulers.ASHAScheduler(max_t=3)
    return sweep(trainable, space, trials, scheduler=asha).get_best_result().config


def sweep_and_the_first(trainable, space, trials):
    results = sweep(trainable, space, trials)
    losses = [result.metrics["loss"] for result in results]
    return results[sorted(range(trials), key=losses.__getitem__)[1]].config


def sweep_and_one_setting(trainable, space, trials):
    return sweep(trainable, space, trials).get_best_result().config["x"]


def sweep_by_optuna(trainable, space, trials):
    return sweep(trainable, space, trials, search_alg=OptunaSearch(seed=1)).get_best_result().config


def sweep_named_at_the_end(trainable, space, trials):
    asha = tune.schedulers.ASHAScheduler(metric="loss", mode="min", max_t=9, reduction_factor=2)
    results = sweep(trainable, space, trials, metric=None, mode=None, scheduler=asha)
    return results.get_best_result("loss", "min").config


def sweep_in_a_table(trainable, space, trials):
    table = sweep(trainable, space, trials).get_dataframe()
    row = table.loc[table["loss"].idxmin()]
    return {"x": row["config/x"], "note": row["config/note"]}


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
    (2, tuning.best_config): [
        (sweep_for_the_largest, 'mode="min"'),
        (sweep_without_stopping, "ASHAScheduler"),
        (sweep_that_stops_late, "grace_period"),
        (sweep_of_one, "num_samples"),
        (sweep_and_its_result, "attribute config"),
        (sweep_that_ends_early, "max_t=9"),
        (sweep_and_the_first, "which had the smallest loss"),
        (sweep_and_one_setting, "whole config"),
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
    (2, tuning.best_config): [sweep_by_optuna, sweep_named_at_the_end, sweep_in_a_table],
    (3, tuning.patience): [patient, keeps_all_values, Patience, patience_in_a_default],
}
