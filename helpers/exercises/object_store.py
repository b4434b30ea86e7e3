"""Checks of the exercises of notebook 02. Ray must be running."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray.remote_function import RemoteFunction
from ray.util.state import list_objects
from ray.util.state.exception import RayStateApiException

from helpers.exercises import watched
from helpers.exercises.verdict import Verdict, as_list, as_number, exercise_check, not_right, right, without_ray
from helpers.exercises.watched import Watched, all_together


def _sum_and_place(place: int, array: np.ndarray) -> float:
    return float(np.sum(array)) + 1000 * place  # no two tasks have the same result


@exercise_check
def share_once(answer: Callable[[Any, np.ndarray, int], list[Any]]) -> Verdict:
    """Exercise 1: one stored array, many tasks at the same time."""
    if (missing := without_ray()) is not None:
        return missing
    task = Watched()
    try:
        for n in (0, 4, 1, 6):
            task.begin(_sum_and_place, all_together(n))
            wrong = _judge_shared(answer, task, np.arange(1.0, 8.0 + n), n)
            if wrong is not None:
                return wrong
        return right("one stored array, all tasks at the same time.")
    finally:
        task.finish()


def _judge_shared(
    answer: Callable[[Any, np.ndarray, int], list[Any]], task: Watched, array: np.ndarray, n: int
) -> Verdict | None:
    got = answer(task, array.copy(), n)
    if not all(isinstance(argument, ray.ObjectRef) for argument in task.arguments):
        hint = "Passing the array itself stores it again for each call: ray.put it first, and pass the reference."
        return not_right("an argument that is no reference", "a reference", hint)
    if len({argument.hex() for argument in task.arguments}) > 1:
        stored = len({argument.hex() for argument in task.arguments})
        return not_right(f"an array that was stored {stored} times", "once", "Call ray.put once, before the loop.")
    if len(task.refs) != n:
        return not_right(f"{len(task.refs)} calls of task.remote", f"{n}, one for each result", "Call it n times.")
    if task.waited_in_vain():
        hint = "Start all tasks, then call ray.get once on the list; ray.get inside the loop waits each time."
        return not_right(f"at most {task.most} tasks at the same time", f"{n}", hint)
    values = as_list(got)
    if isinstance(got, ray.ObjectRef) or any(isinstance(value, ray.ObjectRef) for value in values or []):
        return not_right("references", "results", "Trade the references of the results with ray.get.")
    expected = [_sum_and_place(place, array) for place in range(n)]
    if values is None or sorted(map(str, values)) != sorted(map(str, expected)):
        return not_right(got, expected, "Return the list of the n results, one of each task.")
    return None


def _store_mistake(error: ValueError) -> Verdict | None:
    """The verdict on an error by which the store is known, None for any other."""
    if "object refs" in str(error) or "ObjectRef" in str(error):
        hint = "The argument already is the array: leave out ray.get inside the function."
        return not_right("an error from ray.get on an array", "new images", hint)
    if "read-only" in str(error) or "WRITEABLE" in str(error):
        hint = "Arrays from the store cannot be written to: make a new array."
        return not_right("an error, because the array is read-only", "a new array", hint)
    return None


@exercise_check
def brighten(answer: Any) -> Verdict:
    """Exercise 2: a task that returns a changed copy of a read-only array, without overflow."""
    if not isinstance(answer, RemoteFunction):
        hint = "Keep @ray.remote above the function, so that it runs as a task, and do not call it yet."
        return not_right(f"a {type(answer).__name__}", "a remote function", hint)
    if (missing := without_ray()) is not None:
        return missing
    random = np.random.default_rng(3)
    small = np.array([[0, 100, 31], [200, 255, 254]], dtype=np.uint8)
    cases = [(small, 60), (small, 7), (small, 0), (small, 255), (np.array([[250]], dtype=np.uint8), 3)]
    cases += [(random.integers(0, 256, shape, dtype=np.uint8), 90) for shape in ((28, 20), (5, 4, 3))]
    for images, amount in cases:
        stored = ray.put(images)
        try:
            got = ray.get(answer.options(num_cpus=0).remote(stored, amount))
        except ValueError as error:
            wrong = _store_mistake(error)
            if wrong is None:
                raise
            return wrong
        wrong = _judge_images(got, images, amount)
        if wrong is not None:
            return wrong
        if not np.array_equal(ray.get(stored), images):
            return not_right("other images in the store", "the same as before", "Change a copy, not the argument.")
    return right("new images; the stored ones are untouched.")


def _judge_images(got: Any, images: np.ndarray, amount: int) -> Verdict | None:
    if isinstance(got, ray.ObjectRef):
        return not_right("a reference", "the brighter images", "Return the array itself: Ray stores it for you.")
    if not isinstance(got, np.ndarray) or got.shape != images.shape:
        shown = f"an array of shape {got.shape}" if isinstance(got, np.ndarray) else f"a {type(got).__name__}"
        return not_right(shown, f"an array of shape {images.shape}", "Return the brighter images.")
    exact = images.astype(int) + amount
    expected = exact.clip(0, 255)
    if not np.array_equal(got, expected):
        hint = "Add the amount to every pixel; what would be more than 255 becomes 255."
        if np.array_equal(got.astype(int) % 256, exact % 256) and got.max() <= 255:
            hint = "uint8 starts again at 0 after 255: add in a larger type, such as int, and cut at 255."
        elif np.array_equal(got, exact):
            hint = "A pixel has at most 255: cut what is above."
        elif np.array_equal(got, images):
            hint = "The images are as they were: return new ones, with the argument amount added."
        place = tuple(int(i) for i in np.argwhere(got != expected)[0])
        found = f"{got[place]} for a pixel of {images[place]} and amount={amount}"
        return not_right(found, expected[place], hint)
    if got.dtype != np.uint8:
        return not_right(f"type {got.dtype}", "uint8", "Turn the result back into images: .astype(np.uint8).")
    return None


class DayNotAskedFor(Exception):
    """What comes out of a day whose data nobody needs."""


@ray.remote(num_cpus=0)
def _another_day() -> np.ndarray:
    raise DayNotAskedFor("this day was not asked for")


def _day_that_fails() -> ray.ObjectRef:
    """A reference from which only an error comes. It is seen here once, or Ray would report it as overlooked."""
    ref = _another_day.remote()
    try:
        ray.get(ref)
    except DayNotAskedFor:
        pass
    return ref


@exercise_check
def mean_of_day(answer: Any) -> Verdict:
    """Exercise 3: a task that gets a list of references and fetches one of them."""
    if not isinstance(answer, RemoteFunction):
        hint = "Keep @ray.remote above the function, so that it runs as a task, and do not call it yet."
        return not_right(f"a {type(answer).__name__}", "a remote function", hint)
    if (missing := without_ray()) is not None:
        return missing
    random = np.random.default_rng(4)
    arrays = [random.normal(10.0 * place, 1.0, size) for place, size in enumerate((50, 3, 40_000, 7))]
    stored = [ray.put(array) for array in arrays]
    failing = _day_that_fails()
    # A right answer leaves the error of the other days alone, and its process would report that as overlooked.
    quiet = {"env_vars": {"RAY_IGNORE_UNHANDLED_ERRORS": "1"}}
    task = answer.options(num_cpus=0, runtime_env=quiet)
    for day in (2, 0, 3, 1):
        wrong = _judge_day(_fetched(task, stored, day), arrays, day)
        if wrong is None:  # right, but did it fetch the other days as well?
            others = [ref if place == day else failing for place, ref in enumerate(stored)]
            wrong = _judge_day(_fetched(task, others, day), arrays, day)
        if wrong is not None:
            return wrong
    return right("one day was fetched, the others stayed where they were.")


def _fetched(task: Any, days: list[ray.ObjectRef], day: int) -> Any:
    """What the task returns, or the verdict on an error that shows what is missing."""
    try:
        return ray.get(task.remote(days, day))
    except DayNotAskedFor:
        hint = "Take the one reference out of the list first, and pass only that one to ray.get."
        return not_right("a task that fetches other days, too", "one that fetches the day it needs", hint)
    except (AttributeError, TypeError) as error:
        if "ObjectRef" not in str(error):
            raise
        hint = "The list holds references, because Ray replaces only arguments: trade the one you need with ray.get."
        return not_right("an error, because a reference is no array", "the mean", hint)


def _judge_day(got: Any, arrays: list[np.ndarray], day: int) -> Verdict | None:
    if isinstance(got, Verdict):
        return got
    if isinstance(got, ray.ObjectRef):
        return not_right("a reference", "a number", "Return the mean itself: it is small.")
    mean = as_number(got)
    if mean is None:
        hint = "Return the mean of all values of that day: one number."
        return not_right(f"a {type(got).__name__}", "a number", hint)
    means = [float(array.mean()) for array in arrays]
    if np.isclose(mean, means[day], rtol=1e-4):
        return None
    hint = "The mean is the sum of the values divided by their number."
    others = [place for place, other in enumerate(means) if np.isclose(mean, other, rtol=1e-4)]
    if others:
        hint = f"That is the mean of day {others[0]}: the days are counted from 0, as the list is."
    elif np.isclose(mean, np.concatenate(arrays).mean(), rtol=1e-4) or np.isclose(mean, np.mean(means), rtol=1e-4):
        hint = "That is the mean of all days: only days[day] is asked for."
    return not_right(round(mean, 3), f"{means[day]:.3f} for day {day}", hint)


@exercise_check
def first_numbers(answer: Callable[[ray.ObjectRef, int], Any]) -> Verdict:
    """Exercise 4: a small part of a large array, which does not keep the whole array in the store."""
    if (missing := without_ray()) is not None:
        return missing
    random = np.random.default_rng(5)
    for size, n in ((400_000, 1000), (250_000, 3), (300_000, 1)):
        array = random.normal(size=size)
        ref = ray.put(array)
        got = answer(ref, n)
        wrong = _judge_first(got, array, n)
        if wrong is None and np.shares_memory(np.asarray(got), ray.get(ref)):
            hint = "A slice of an array is a view: it looks at the bytes of the whole array. Copy what you return."
            wrong = not_right("a view of the stored array, which so has to stay", "an array of its own", hint)
        if wrong is not None:
            return wrong
    if _stays(_used_by(answer)):
        hint = "Something outlives your function and keeps it: a reference, or an array that looks at its bytes."
        return not_right("an array that is still in the store", "one that nobody keeps", hint)
    return right("the numbers are yours, and the stored array has left.")


def _used_by(answer: Callable[[ray.ObjectRef, int], Any]) -> str:
    """The id of an object that the answer has used, and that nobody here keeps."""
    ref = ray.put(np.zeros(300_000))
    answer(ref, 5)
    return ref.hex()


def _stays(object_id: str) -> bool:
    """Whether an object is still there after some seconds; where Ray cannot be asked, the answer gets the benefit."""
    end = time.monotonic() + watched.PATIENCE / 2
    while time.monotonic() < end:
        try:
            # Another process may end between Ray's two looks at it, which makes the answer incomplete, but not wrong.
            if not list_objects(filters=[("object_id", "=", object_id)], raise_on_missing_output=False):
                return False
        except RayStateApiException:
            return False
        gc.collect()
        time.sleep(0.2)
    return True


def _judge_first(got: Any, array: np.ndarray, n: int) -> Verdict | None:
    if isinstance(got, ray.ObjectRef):
        return not_right("a reference", f"an array of {n} numbers", "Return the numbers themselves.")
    values = as_list(got)
    case = f"the first {n} of {len(array):,} numbers"
    if values is None or np.shape(values) != (n,):
        shown = type(got).__name__ if values is None else f"something of shape {np.shape(values)}"
        return not_right(shown, case, "Get the array behind the reference, and take its first n numbers.")
    if not np.array_equal(np.array(values, dtype=float), array[:n]):
        return not_right(f"{values[:3]} ...", f"{array[:3].tolist()[:n]} ...", "Take the numbers from the front: [:n].")
    return None
