"""What an exercise check answers, and how a check is made of an ordinary function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """The answer of a check: a status and one sentence."""

    status: str  # "right", "not right" or "not solved yet"
    message: str

    def __repr__(self) -> str:
        return f"{self.status}: {self.message}"


def right(message: str) -> Verdict:
    """The verdict on a right answer; the message says what it shows. Source: written for this course."""
    return Verdict("right", message)


def not_right(got: object, expected: object, hint: str) -> Verdict:
    """The verdict on a wrong answer: what came out, what should have, and how to get there.

    Source: written for this course.
    """
    return Verdict("not right", f"got {got}, expected {expected}. {hint}")


def as_list(answer: object) -> list[object] | None:
    """The values of a list, tuple or array, so that all of them can be compared; None for anything else."""
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    return list(answer) if isinstance(answer, (list, tuple)) else None


def without_ray() -> Verdict | None:
    """The verdict if no Ray is running, else None: a check must not start one with settings of its own.

    Source: written for this course.
    """
    import ray

    if ray.is_initialized():
        return None
    return Verdict("not solved yet", "Ray is not running: run the cell with ray.init, then run this cell again.")


def exercise_check(check: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Make a check out of a function that judges an answer; a check never raises.

    The stub of an exercise raises NotImplementedError or leaves `...` as its
    value: both become 'not solved yet', also when they come back from a Ray
    task. Any other error of the answer becomes 'not right', with the error.

    Args:
        check: takes the learner's answer (or answers) and returns a Verdict.

    Source: written for this course.
    """

    @functools.wraps(check)
    def checked(*answers: object) -> Verdict:
        unsolved = Verdict("not solved yet", "replace the stub in the cell above, run it, then run this cell again.")
        if any(answer is ... for answer in answers):
            return unsolved
        try:
            return check(*answers)
        except NotImplementedError:
            return unsolved
        except Exception as error:
            # Ray's errors carry a long remote traceback; the last line says what happened.
            lines = [line for line in str(getattr(error, "cause", None) or error).splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else "no message"
            return Verdict("not right", f"your code raised {type(error).__name__}: {reason}")

    return checked
