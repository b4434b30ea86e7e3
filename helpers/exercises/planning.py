"""Check of the exercise of the deep dive planning_six_billion. It does not need Ray."""

from __future__ import annotations

import math
from collections.abc import Callable

from helpers.exercises.formulas import judge_formula
from helpers.exercises.verdict import Verdict, exercise_check, right


def _gpus(
    parameters: int,
    card_gb: float,
    free_gb: float,
    whole: int = 2,
    divided: int = 14,
    gb: int = 10**9,
    none: int | None = None,
    up: Callable[[float], int] = math.ceil,
    least: int = 1,
) -> int | None:
    """The GPUs that stage 2 needs, or what one of the common mistakes gives."""
    room = (card_gb - free_gb) * gb - whole * parameters
    return max(least, up(divided * parameters / room)) if room > 0 else none


def _negative_gpus(parameters: int, card_gb: float, free_gb: float) -> int | None:
    room = (card_gb - free_gb) * 10**9 - 2 * parameters
    return math.ceil(14 * parameters / room) if room else None


@exercise_check
def gpus_needed(answer: Callable[[int, float, float], int | None]) -> Verdict:
    """Exercise 1: the smallest number of GPUs that hold a model with ZeRO stage 2, without offloading."""
    gptj = 6_050_882_784
    numbers = [(gptj, 48, 20), (gptj, 80, 10), (1_300_000_000, 24, 2), (gptj, 16, 5), (1_000_000_000, 20, 4)]
    numbers += [(1_000_000_000, 9, 0), (1_000_000_000, 2, 0), (gptj, 16, 3.5), (350_000_000, 24, 0.5), (gptj, 14.5, 2)]
    cases = [{"parameters": p, "card_gb": c, "free_gb": f} for p, c, f in numbers]
    mistakes: dict[str, Callable[..., int | None]] = {
        "Stage 2 divides Adam's numbers and the gradients (14 bytes), but not the weights (2 bytes).": lambda p, c, f: (
            _gpus(p, c, f, whole=0, divided=16)
        ),
        "Stage 2 divides the gradients as well: 14 of the 16 bytes.": lambda p, c, f: _gpus(
            p, c, f, whole=4, divided=12
        ),
        "All in all there are 16 bytes: 2 are on every GPU, and 14 are divided, not 12.": lambda p, c, f: _gpus(
            p, c, f, divided=12
        ),
        "Some memory has to stay free: subtract free_gb.": lambda p, c, f: _gpus(p, c, 0),
        "A GB is 10**9 bytes here: 2**30 bytes are more than the card has.": lambda p, c, f: _gpus(p, c, f, gb=2**30),
        "Round up: with one GPU less it does not fit.": lambda p, c, f: _gpus(p, c, f, up=math.floor),
        "Round up, not to the nearest: with one GPU less it may not fit.": lambda p, c, f: _gpus(p, c, f, up=round),
        "An exact fit needs no further GPU: use math.ceil.": lambda p, c, f: _gpus(
            p, c, f, up=lambda exact: math.floor(exact) + 1
        ),
        "The weights alone do not fit, and stage 2 does not divide them: return None.": lambda p, c, f: _gpus(
            p, c, f, none=0
        ),
        "A number below 0 means that the weights alone do not fit: return None.": _negative_gpus,
        "Return a whole number of GPUs: round up.": lambda p, c, f: _gpus(p, c, f, up=lambda exact: exact),
        "Each GPU holds the weights: subtract them from every card, not once from all.": lambda p, c, f: (
            max(1, math.ceil(16 * p / ((c - f) * 1e9))) if (c - f) * 1e9 > 2 * p else None
        ),
        "It fits, if not on few GPUs: the weights take 2 bytes per parameter, and the other 14 are divided "
        "by any number of GPUs.": lambda p, c, f: None,
    }
    hint = "2 bytes per parameter are on every GPU, and the other 14 are divided by the number of GPUs."
    wrong = judge_formula(answer, _gpus, cases, mistakes, hint, whole=True)
    return wrong or right("every GPU holds all weights and its part of the other 14 bytes.")
