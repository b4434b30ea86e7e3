"""Judges an answer that computes a number from numbers: in all cases, and with the hint that fits its mistake."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

from helpers.exercises.verdict import Verdict, as_number, described, not_right

Case = dict[str, Any]


def judge_formula(
    answer: Callable[..., Any],
    formula: Callable[..., Any],
    cases: Sequence[Case],
    mistakes: dict[str, Callable[..., Any]],
    hint: str,
    whole: bool = False,
) -> Verdict | None:
    """Compare an answer with the right formula in all cases, and explain the first difference.

    A hint belongs to a mistake: the same computation with one thing wrong. It is given if the mistake
    gives the answer's results in every case; that one number agrees may be chance.

    Args:
        answer: the learner's function.
        formula: the right one.
        cases: the arguments of each call, by name; they are passed by position.
        mistakes: the hint for each known mistake, and the mistake as a function.
        hint: what to say about any other.
        whole: whether the result has to be a whole number (or None) of an integer's type.

    Returns:
        The verdict on a wrong answer, None for a right one.

    Source: written for this course.
    """
    results = []
    for case in cases:
        try:
            results.append(answer(*copy.deepcopy(case).values()))  # an answer may change what it gets
        except NotImplementedError:
            raise
        except Exception as error:
            return not_right(f"{described(error)}, for {_named(case)}", formula(*case.values()), hint)
    expected = [formula(*case.values()) for case in cases]
    for case, got, wanted in zip(cases, results, expected, strict=True):
        if not _close(got, wanted):
            fitting = _fitting(results, cases, mistakes, hint)
            if got is None and fitting == hint:
                fitting = f"None is no answer here: is there a return on every way? {hint}"
            return not_right(f"{_said(got)} for {_named(case)}", _said(wanted), fitting)
    for case, got in zip(cases, results, strict=True):
        if whole and got is not None and not isinstance(as_number(got), int):
            hint = "The number is right, but a float: int() or math.ceil() makes it whole."
            return not_right(f"{got!r} for {_named(case)}", "a whole number", hint)
    return None


def _fitting(results: list[Any], cases: Sequence[Case], mistakes: dict[str, Callable[..., Any]], hint: str) -> str:
    if any(as_number(result) is None and result is not None for result in results):
        return f"Return a number. {hint}"
    for text, mistake in mistakes.items():
        if all(_close(got, _try(mistake, case)) for got, case in zip(results, cases, strict=True)):
            return text
    return hint


def _try(mistake: Callable[..., Any], case: Case) -> Any:
    """What a mistake gives; it may fail where the right formula does not."""
    try:
        return mistake(*copy.deepcopy(case).values())
    except (ArithmeticError, ValueError, LookupError):
        return math.nan


def _close(got: Any, wanted: Any) -> bool:
    if wanted is None or got is None:
        return got is wanted
    got, wanted = as_number(got), as_number(wanted)
    return got is not None and wanted is not None and math.isclose(got, wanted, rel_tol=1e-5, abs_tol=1e-9)


def _said(value: Any) -> str:
    number = as_number(value)
    if isinstance(number, float):
        return f"{number:.6g}"
    return f"a {type(value).__name__}" if number is None and value is not None else f"{value}"


def _named(case: Case) -> str:
    return ", ".join(f"{name} = {_figure(value)}" for name, value in case.items())


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else f"{value}"
