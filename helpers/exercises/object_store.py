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
    """Exercise 2: a task that gets a list of references and fetches one of them."""
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
    """Exercise 3: a small part of a large array, which does not keep the whole array in the store."""
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


MOST_DAYS = 4  # so many of the lesson's arrays fit into its store
ALL_DAYS = 8


@ray.remote(num_cpus=0)
def _load_day(day: int) -> np.ndarray:
    return np.full(150_000, day + 1.0)  # 1.2 MB, so that it lies in the store


class Days:
    """Has `.remote(day)` like a remote function; before each day it asks Ray which of the others are still kept.

    What counts is Ray's own list of objects, so neither speed nor the size of the store matters.
    """

    def __init__(self) -> None:
        self.loaded: list[Any] = []
        self.most = 0
        self.kept_by: set[str] = set()  # the reference types of those that were kept when they were most
        self._ids: set[str] = set()

    def remote(self, *args: Any, **kwargs: Any) -> ray.ObjectRef:
        if len(args) + len(kwargs) != 1:
            raise TypeError(f"load takes one argument, the day, and got {len(args) + len(kwargs)}")
        day = [*args, *kwargs.values()][0]
        kept = self._kept()
        if len(kept) + 1 > self.most:
            self.most, self.kept_by = len(kept) + 1, set(kept.values())
        ref = _load_day.remote(day)
        self._ids.add(ref.hex())
        self.loaded.append(day)
        return ref

    def options(self, **options: Any) -> Days:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("a remote function cannot be called directly: use load.remote(day)")

    def _kept(self) -> dict[str, str]:
        """Id -> reference type of the days that Ray still keeps; none where Ray cannot be asked."""
        if not self._ids:
            return {}
        gc.collect()
        try:
            items = list_objects(limit=10_000, raise_on_missing_output=False)
        except RayStateApiException:
            return {}
        return {item.object_id: item.reference_type for item in items if item.object_id in self._ids}


@exercise_check
def sum_of_days(answer: Callable[[Any, int], Any]) -> Verdict:
    """Exercise 4: many arrays are added up, and only few of them are in the store at any time."""
    if (missing := without_ray()) is not None:
        return missing
    most = 0
    for total in (1, ALL_DAYS):
        load = Days()
        wrong = _judge_sum(answer(load, total), load, total)
        if wrong is not None:
            return wrong
        most = max(most, load.most)
    return right(f"the same sum, and never more than {most} of {ALL_DAYS} days in the store.")


def _judge_sum(got: Any, load: Days, total: int) -> Verdict | None:
    if isinstance(got, ray.ObjectRef):
        return not_right("a reference", "a number", "Trade it for its value with ray.get.")
    if sorted(map(str, load.loaded)) != sorted(map(str, range(total))):
        hint = "Call load.remote(day) once for each day, from 0 to days - 1."
        return not_right(f"the days {load.loaded} for days={total}", list(range(total)), hint)
    if load.most > MOST_DAYS:
        hint = "A reference keeps its array: load the next day only when you have let go of an earlier one."
        if load.kept_by == {"PINNED_IN_MEMORY"}:
            hint = "An array that you got looks at its bytes in the store: keep the sum of a day, and not its array."
        return not_right(f"{load.most} days in the store at the same time", f"at most {MOST_DAYS}", hint)
    number, expected = as_number(got), 150_000.0 * sum(range(1, total + 1))
    if number is None:
        return not_right(f"a {type(got).__name__}", "a number", "Return the sum of all values of all days.")
    if not np.isclose(number, expected):
        return not_right(number, expected, "Add up all values of all days, the first and the last day included.")
    return None
