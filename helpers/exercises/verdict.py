"""What an exercise check answers, and how a check is made of an ordinary function."""

from __future__ import annotations

import functools
import numbers
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TIME_LIMIT = 90.0  # seconds for a whole check: far more than a right answer needs, also on a slow machine
BUSY_FACTOR = 4  # where other programs leave little time, a check may take so many times as long
LONGEST = 400  # characters of an answer that a verdict repeats
FIRST = "The above exception was the direct cause"  # stands in a traceback below the error that came first


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
    return Verdict("not right", f"got {_shortened(got)}, expected {_shortened(expected)}. {hint}")


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def as_list(answer: object) -> list[object] | None:
    """The values of a list, tuple or array, so that all of them can be compared; None for anything else."""
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    return list(answer) if isinstance(answer, (list, tuple)) else None


def as_number(answer: object) -> float | int | None:
    """A plain number, whichever library's number the answer is; None if it is no number.

    Whole numbers stay whole. True and False are no numbers here, although Python counts with them.

    Source: written for this course.
    """
    if hasattr(answer, "item") and getattr(answer, "shape", None) == ():  # NumPy's and PyTorch's numbers
        answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, numbers.Real):
        return None
    return int(answer) if isinstance(answer, numbers.Integral) else float(answer)


def same(got: object, expected: object) -> bool:
    """Whether two values are equal and of the same kind: 1 is not True, and an array in a list is no error.

    Source: written for this course.
    """
    if isinstance(expected, (list, tuple)):
        alike = isinstance(got, (list, tuple)) and len(got) == len(expected)
        return alike and all(same(a, b) for a, b in zip(got, expected, strict=True))
    if isinstance(expected, dict):
        return isinstance(got, dict) and set(got) == set(expected) and all(same(got[k], expected[k]) for k in expected)
    number = as_number(expected)
    if number is not None:
        return as_number(got) == number
    return type(got) is type(expected) and got == expected


def without_ray() -> Verdict | None:
    """The verdict if no Ray is running, else None: a check must not start one with settings of its own.

    Source: written for this course.
    """
    import ray

    if ray.is_initialized():
        return None
    return Verdict("not solved yet", "Ray is not running: run the cell with ray.init, then run this cell again.")


class TimeIsUp(KeyboardInterrupt):
    """What the stop button raises, and no Exception that an answer might catch: Ray stops waiting for nothing else."""


def machine_is_busy() -> bool:
    """Whether more programs than there are processors want to run, on average over the last minute.

    Source: written for this course.
    """
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * (os.cpu_count() or 1)


class _Timer:
    """Interrupts the code inside after so many seconds, also while it waits for Ray; later on a busy machine.

    Only a main thread, as that of a notebook, can be interrupted; in another one nothing happens.
    `rang` tells whether it did: Ray turns the interruption into an error of its own.
    `seconds` is how long it waits, or has waited.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.rang = seconds, False
        self._step, self._longest = seconds, BUSY_FACTOR * seconds
        self._possible = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")

    def _ring(self, *_: object) -> None:
        if not self.rang and self.seconds + self._step <= self._longest and machine_is_busy():
            self.seconds += self._step
            signal.setitimer(signal.ITIMER_REAL, self._step, 1.0)
            return
        self.rang = True
        raise TimeIsUp

    def __enter__(self) -> _Timer:
        if self._possible:
            self._before = signal.signal(signal.SIGALRM, self._ring)
            # Again each second: where the first one comes inside of a library, its exception can be lost there.
            signal.setitimer(signal.ITIMER_REAL, self.seconds, 1.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._possible:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)


def exercise_check(check: Callable[..., Verdict] | None = None, *, seconds: float | None = None) -> Callable[..., Any]:
    """Make a check out of a function that judges an answer; a check never raises.

    The stub of an exercise raises NotImplementedError or leaves `...` as its
    value: both become 'not solved yet', also when they come back from a Ray
    task. Any other error of the answer becomes 'not right', with the error; so
    does an answer that has not come back after TIME_LIMIT seconds (or, on a busy
    machine, BUSY_FACTOR times as long). Only the stop button (KeyboardInterrupt) passes through.

    Args:
        check: takes the learner's answer (or answers) and returns a Verdict.
        seconds: for a check that runs real trainings or services, instead of TIME_LIMIT:
            `@exercise_check(seconds=300)`.

    Source: written for this course.
    """

    if check is None:
        return functools.partial(exercise_check, seconds=seconds)

    @functools.wraps(check)
    def checked(*answers: object) -> Verdict:
        unsolved = Verdict("not solved yet", "replace the stub in the cell above, run it, then run this cell again.")
        if any(answer is ... for answer in answers):
            return unsolved
        timer = _Timer(TIME_LIMIT if seconds is None else seconds)
        try:
            with timer:
                return check(*answers)
        except NotImplementedError:
            return unsolved
        except BaseException as error:  # also exit() and sys.exit()
            if timer.rang:
                hint = "It waits for something that never comes, or a loop in it never ends."
                return Verdict("not right", f"your code was still busy after {timer.seconds:.0f} seconds. {hint}")
            if isinstance(error, KeyboardInterrupt):
                raise
            return Verdict("not right", f"your code raised {described(error)}")

    return checked


def described(error: BaseException) -> str:
    """The kind of an error and the sentence that says what happened.

    Ray's errors carry a long remote traceback, of which the last line says it. Where a function
    failed that was given to Ray Data, this is the last line before another error takes over.

    Source: written for this course.
    """
    try:
        cause = getattr(error, "cause", None) or error
        text = str(cause)
        if type(cause).__name__ == "UserCodeException":
            text = str(error).partition(FIRST)[0] or text
    except Exception:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {_shortened(lines[-1]) if lines else 'no message'}"
