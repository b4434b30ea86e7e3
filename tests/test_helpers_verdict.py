"""A check answers with one of three verdicts and never raises."""

from __future__ import annotations

import pytest

from helpers.exercises.verdict import Verdict, exercise_check, not_right, right


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
        (raising(ValueError("first line\n\n  last line \n")), "your code raised ValueError: last line"),
        (7, "your code raised TypeError: 'int' object is not callable"),
    ],
    ids=["error", "silent", "worker", "lines", "no_function"],
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
