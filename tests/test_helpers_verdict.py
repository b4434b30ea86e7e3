"""A check answers with one of three verdicts and never raises."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from helpers.exercises.formulas import judge_formula
from helpers.exercises.verdict import Verdict, as_number, exercise_check, not_right, right, same


@exercise_check
def check_double(answer: object) -> Verdict:
    """Judge a function that doubles."""
    found = answer(4)
    return right("it doubles.") if found == 8 else not_right(found, 8, "Multiply by 2.")


class FromAWorker(NotImplementedError):
    """Like ray.exceptions.RayTaskError: of the kind of its cause, with a long text of its own."""


class Wrapped(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(f"Traceback of a worker\n{cause}\n(the worker's log has more)")
        self.cause = cause


class UserCodeException(Exception):
    """Named as what Ray Data makes of any error of a function that it was given."""


class FromRayData(Exception):
    cause = UserCodeException("failed to process a block")

    def __str__(self) -> str:
        return (
            "ray::Map(f)()\n  in f\nValueError: too small\n\n"
            f"The above exception was the direct cause of the following exception:\n\n{self.cause}"
        )


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words for it")


def raising(error: BaseException):
    def answer(number: int) -> int:
        raise error

    return answer


@pytest.mark.fast
def test_right() -> None:
    assert repr(check_double(lambda n: 2 * n)) == "right: it doubles."


@pytest.mark.fast
def test_not_right() -> None:
    assert repr(check_double(lambda n: n + 2)) == "not right: got 6, expected 8. Multiply by 2."


@pytest.mark.fast
@pytest.mark.parametrize(
    "answer",
    [..., raising(NotImplementedError()), raising(FromAWorker("Traceback ..."))],
    ids=["dots", "stub", "worker"],
)
def test_not_solved_yet(answer: object) -> None:
    verdict = check_double(answer)
    assert verdict.status == "not solved yet"
    assert repr(verdict).startswith("not solved yet: ")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (raising(ValueError("too small")), "your code raised ValueError: too small"),
        (raising(ValueError()), "your code raised ValueError: no message"),
        (raising(Wrapped(ValueError("too small"))), "your code raised Wrapped: too small"),
        (raising(FromRayData()), "your code raised FromRayData: ValueError: too small"),
        (raising(ValueError("first line\n\n  last line \n")), "your code raised ValueError: last line"),
        (7, "your code raised TypeError: 'int' object is not callable"),
        (raising(SystemExit(3)), "your code raised SystemExit: 3"),
        (raising(Speechless()), "your code raised Speechless: no message"),
    ],
    ids=["error", "silent", "worker", "ray_data", "lines", "no_function", "exit", "speechless"],
)
def test_error_in_the_answer(answer: object, said: str) -> None:
    assert repr(check_double(answer)) == f"not right: {said}"


@pytest.mark.fast
def test_stop_button_works() -> None:
    with pytest.raises(KeyboardInterrupt):
        check_double(raising(KeyboardInterrupt()))


@pytest.mark.fast
def test_check_keeps_its_name_and_description() -> None:
    assert (check_double.__name__, check_double.__doc__) == ("check_double", "Judge a function that doubles.")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (3, 3),
        (2.5, 2.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (torch.tensor(2.0), 2.0),
        (np.array(7), 7),
        (Fraction(1, 4), 0.25),
        (True, None),
        (np.bool_(True), None),
        ("3", None),
        (np.array([3]), None),
        (None, None),
    ],
    ids=str,
)
def test_numbers_of_any_library(answer: object, number: float | None) -> None:
    found = as_number(answer)
    assert found == number
    assert type(found) is type(number)


@pytest.mark.fast
def test_same() -> None:
    assert same([1, {"a": np.int64(2)}, None], (1.0, {"a": 2}, None))
    assert not same([1], [True])
    assert not same([np.zeros(3)], [0])
    assert not same([1, 1], [1])
    assert not same({"a": 1}, {"a": 1, "b": 2})


@pytest.mark.fast
def test_long_answers_are_shortened() -> None:
    assert len(not_right([0] * 100_000, 1, "Return one number.").message) < 1000


def half(number: int) -> float:
    return number / 2


def judged(answer) -> Verdict | None:
    cases = [{"number": 4}, {"number": 3}, {"number": 0}]
    mistakes = {"Do not round.": lambda number: number // 2, "Divide.": lambda number: number * 2}
    return judge_formula(answer, half, cases, mistakes, "Divide by 2.")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda number: number // 2, "got 1 for number = 3, expected 1.5. Do not round."),
        (lambda number: 2 * number, "got 8 for number = 4, expected 2. Divide."),
        (lambda number: 1, "got 1 for number = 4, expected 2. Divide by 2."),
        (lambda number: 1 if number == 3 else number, "got 4 for number = 4, expected 2. Divide by 2."),
        (lambda number: None, "None is no answer here"),
        (lambda number: "2", "Return a number."),
        (
            lambda number: number / 2 if number else 1 / number,
            "got ZeroDivisionError: division by zero, for number = 0",
        ),
        (lambda number: math.nan, "got nan for number = 4"),
    ],
)
def test_hint_of_a_formula_fits_in_all_cases(answer, said: str) -> None:
    verdict = judged(answer)
    assert verdict is not None
    assert said in verdict.message


@pytest.mark.fast
def test_right_formula() -> None:
    assert judged(lambda number: np.float32(0.5 * number)) is None


def test_errors_that_come_back_from_ray(ray_session: None) -> None:
    import ray

    @ray.remote
    def stub(number: int) -> int:
        raise NotImplementedError

    @ray.remote
    def broken(number: int) -> int:
        raise ValueError("too small")

    assert check_double(lambda n: ray.get(stub.remote(n))).status == "not solved yet"
    verdict = check_double(lambda n: ray.get(broken.remote(n)))
    assert repr(verdict) == "not right: your code raised RayTaskError(ValueError): too small"
