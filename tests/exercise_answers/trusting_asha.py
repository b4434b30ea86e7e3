"""Answers to the exercise of the deep dive trusting_asha."""

from __future__ import annotations

import itertools
import math

import numpy as np

from helpers.exercises import tune as tuning


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


WRONG = {
    (1, tuning.halving_epochs): [
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
}
RIGHT = {
    (1, tuning.halving_epochs): [
        rung_by_rung,
        halving_by_recursion,
        halving_trial_by_trial,
        halving_in_floats,
    ],
}
