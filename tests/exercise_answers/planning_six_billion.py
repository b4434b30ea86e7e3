"""Answers to the exercise of the deep dive planning_six_billion."""

from __future__ import annotations

import fractions
import math

import numpy as np

from helpers.exercises import planning


def gpus(whole=2, divided=14, rounding=math.ceil, none=None, free=True):
    """An answer with a mistake or without."""

    def answer(parameters, card_gb, free_gb):
        room = (card_gb - (free_gb if free else 0)) * 10**9 - whole * parameters
        return max(1, rounding(divided * parameters / room)) if room > 0 else none

    return answer


def counts_to_16(parameters, card_gb, free_gb):
    answer = counts_up(parameters, card_gb, free_gb)
    return answer if answer is not None and answer <= 16 else None


def counts_up(parameters, card_gb, free_gb):
    for n in range(1, 1000):
        if 2 * parameters + 14 * parameters / n <= (card_gb - free_gb) * 1e9:
            return n
    return None


def gpus_in_gib(parameters, card_gb, free_gb):
    room = (card_gb - free_gb) * 1024**3 - 2 * parameters
    return max(1, math.ceil(14 * parameters / room)) if room > 0 else None


def gpus_that_hold_all_together(parameters, card_gb, free_gb):
    room = (card_gb - free_gb) * 10**9
    return max(1, math.ceil(16 * parameters / room)) if room > 2 * parameters else None


def gpus_below_0(parameters, card_gb, free_gb):
    room = (card_gb - free_gb) * 10**9 - 2 * parameters
    return math.ceil(14 * parameters / room) if room else None


def gpus_exactly(parameters, card_gb, free_gb):
    room = (fractions.Fraction(card_gb) - fractions.Fraction(free_gb)) * 10**9 - 2 * parameters
    return None if room <= 0 else -int(-14 * parameters // room)


def gpus_in_numpy(parameters, card_gb, free_gb):
    room = (card_gb - free_gb) * 1e9 - 2 * parameters
    return np.int64(np.ceil(14 * parameters / room)) if room > 0 else None


WRONG = {
    (1, planning.gpus_needed): [
        (gpus(whole=0, divided=16), "but not the weights"),
        (gpus(whole=4, divided=12), "divides the gradients as well"),
        (gpus(whole=2, divided=12), "14 are divided"),
        (gpus(rounding=math.floor), "Round up"),
        (gpus(rounding=round), "not to the nearest"),
        (gpus(free=False), "has to stay free"),
        (gpus(none=0), "return None"),
        (gpus(rounding=lambda exact: exact), "a whole number of GPUs"),
        (gpus(rounding=lambda exact: float(math.ceil(exact))), "a float"),
        (gpus(rounding=lambda exact: int(exact) + 1), "exact fit"),
        (gpus_in_gib, "10**9"),
        (gpus_that_hold_all_together, "subtract them from every card"),
        (lambda parameters, card_gb, free_gb: None, "It fits"),
        (counts_to_16, "the other 14"),
        (gpus_below_0, "below 0"),
    ],
}
RIGHT = {(1, planning.gpus_needed): [counts_up, gpus_exactly, gpus_in_numpy]}
