"""Checks of the exercises of notebook 10. Ray must be running."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorClass
from ray.util.state import list_tasks

from helpers.exercises.meeting import Meeting
from helpers.exercises.verdict import Verdict, exercise_check, not_right, right, same, without_ray

PATIENCE_S = 10.0  # seconds that a task waits for the others, until it waits in vain
ORDER_S = 20.0  # seconds for orders that would take milliseconds
FREE_S, LIST_S = 5.0, 10.0  # until who has ended is gone, and until the list of tasks knows the last ones
ADDRESS = "Main Street 1"


@exercise_check
def try_all(answer: Callable[[Any, list[Any]], tuple[dict[Any, Any], dict[Any, BaseException]]]) -> Verdict:
    """Exercise 1: the values of the items that worked, and the exceptions of the others, one of them a dead process."""
    if (missing := without_ray()) is not None:
        return missing
    for items, bad, dead in (([4, 7], [], []), ([3, 8, 5], [8], []), ([6, 2, 9], [6], [2])):
        meeting = Meeting.remote(min(len(items), 2), PATIENCE_S)

        @ray.remote(max_retries=0, num_cpus=0.5)
        def task(item: int, meeting: Any = meeting, bad: list[int] = bad, dead: list[int] = dead) -> int:
            ray.get(meeting.arrive.remote(str(item)))
            if item in dead:
                os._exit(1)
            if item in bad:
                raise ValueError(f"item {item} is bad")
            return item * item

        try:
            got = answer(task, list(items))
            present, in_vain = ray.get([meeting.present.remote(), meeting.in_vain.remote()])
        finally:
            ray.kill(meeting)
        wrong = _judge_all(got, items, [*bad, *dead], sorted(present))
        if wrong is None and in_vain:
            hint = "ray.get inside the loop that starts the tasks waits for each one: start all of them first."
            wrong = not_right("one task after another", "all at the same time", hint)
        if wrong is not None:
            return wrong
    return right("every value and every exception, also of the process that died.")


def _judge_all(got: object, items: list[int], failing: list[int], called: list[str]) -> Verdict | None:
    if not isinstance(got, (tuple, list)) or len(got) != 2 or not all(isinstance(part, dict) for part in got):
        return not_right(got, "two dicts", "Return two dicts: item -> value, and item -> exception.")
    values, errors = got
    if any(isinstance(value, ray.ObjectRef) for value in [*values.values(), *errors.values()]):
        return not_right("references", "values", "Fetch each reference with ray.get, inside of try.")
    worked = {item: item * item for item in items if item not in failing}
    if values != worked:
        return not_right(
            values, worked, "Fetch each reference by itself: one exception must not hide the other values."
        )
    if set(errors) != set(failing):
        hint = "ray.exceptions.RayError covers both, an exception of the task and a process that died."
        return not_right(f"exceptions for {list(errors)}", f"for {failing}", hint)
    if called != sorted(map(str, items)):
        return not_right(f"{len(called)} tasks", f"{len(items)} tasks", "Call the task once for each item.")
    if not all(isinstance(error, BaseException) for error in errors.values()):
        return not_right(errors, "exceptions", "Keep the exception itself, not its text: it also tells its kind.")
    return None


@ray.remote(num_cpus=0)
class _Warehouse:
    """As in the notebook, and counts what it delivers."""

    def __init__(self) -> None:
        self._delivered: list[str] = []

    def deliver(self, item: str, shop: Any) -> str:
        address = ray.get(shop.get_address.remote())
        self._delivered.append(item)
        return f"{item} to {address}, delivery {len(self._delivered)}"

    def delivered(self) -> list[str]:
        return list(self._delivered)


@exercise_check(seconds=60)
def open_the_circle(answer: ActorClass) -> Verdict:
    """Exercise 2: orders come back although the warehouse asks the shop, also several at the same time."""
    if (missing := without_ray()) is not None:
        return missing
    if not isinstance(answer, ActorClass):
        return not_right(f"a {type(answer).__name__}", "an actor class", "Write @ray.remote above the class Shop.")
    shop, warehouse = answer.options(num_cpus=0).remote(), _Warehouse.remote()
    try:
        for items in (["hat"], ["shirt", "coat", "scarf"]):
            orders = [shop.order.remote(item, warehouse) for item in items]
            ready, _ = ray.wait(orders, num_returns=len(orders), timeout=ORDER_S)
            failed_or_done = ray.get(ready)  # an exception of the answer shows here
            if len(ready) < len(orders):
                hint = (
                    "The shop must be free while it waits: an async method with await. A ray.get inside of it would "
                    "still block the actor, and a limited number of threads is used up by as many orders."
                )
                return not_right(f"{len(ready)} of {len(orders)} orders", "all of them", hint)
            wrong = _judge_orders(failed_or_done, items, ray.get(warehouse.delivered.remote()))
            if wrong is not None:
                return wrong
        address = ray.get(shop.get_address.remote(), timeout=ORDER_S)
        if address != ADDRESS:
            return not_right(f"the address {address!r}", repr(ADDRESS), "Leave get_address as it was.")
        return right("all orders came back, and the shop still answers.")
    finally:
        for actor in (shop, warehouse):
            ray.kill(actor)


def _judge_orders(got: list[Any], items: list[str], delivered: list[str]) -> Verdict | None:
    if any(isinstance(value, ray.ObjectRef) for value in got):
        return not_right("a reference", "the delivery", "Await the reference, and return its value.")
    missing = [item for item in items if item not in delivered]
    if missing:
        return not_right(f"no delivery of {missing}", "one for each order", "Let the warehouse deliver each item.")
    for item, value in zip(items, got, strict=True):
        if not isinstance(value, str) or not value.startswith(f"{item} to "):
            return not_right(value, f"what deliver returned for {item!r}", "Return what the warehouse returns.")
        if not value.startswith(f"{item} to {ADDRESS}, delivery"):
            return not_right(value, f"{item} to {ADDRESS}", "get_address must return the same address as before.")
    return None


@exercise_check
def basket(answer: type) -> Verdict:
    """Exercise 3: a basket travels with its items, and has a lock of its own wherever it is."""
    if (missing := without_ray()) is not None:
        return missing
    if not isinstance(answer, type):
        return not_right(f"a {type(answer).__name__}", "a class", "Write the class Basket.")
    here = answer()
    here.add("hat")
    here.add("coat")
    if list(here.items()) != ["hat", "coat"]:
        return not_right(here.items(), ["hat", "coat"], "items returns a list of what was added, in this order.")
    if (wrong := _judge_lock(answer())) is not None:
        return wrong

    @ray.remote
    def fill(basket: Any) -> tuple[list[str], Any]:
        came = list(basket.items())
        basket.add("scarf")
        return came, basket

    try:
        came, back = ray.get(fill.remote(here))
    except AttributeError as error:
        return not_right(error, "a whole basket", "On arrival, the basket needs a lock and its content again.")
    except (TypeError, ray.exceptions.RayTaskError) as error:
        if "pickle" not in str(error) and "serialize" not in str(error):
            raise
        hint = (
            "Leave the lock behind: __reduce__ returns a function and its arguments, and the function makes a new one."
        )
        return not_right("a basket that cannot be pickled", "one that travels", hint)
    if came != ["hat", "coat"]:
        return not_right(
            f"{came} in the task", ["hat", "coat"], "The items have to travel along: give them to __reduce__."
        )
    if list(back.items()) != ["hat", "coat", "scarf"] or list(here.items()) != ["hat", "coat"]:
        found = f"{list(here.items())} here and {list(back.items())} back from the task"
        return not_right(found, "a copy with one item more", "Each basket needs a list of its own.")
    if back.lock is here.lock:
        return not_right("one lock for two baskets", "a lock for each", "Make the lock in __init__, as self.lock.")
    if (wrong := _judge_lock(back)) is not None:
        return wrong
    return right("the items travelled, and every basket has a lock of its own.")


def _judge_lock(basket: Any) -> Verdict | None:
    """Whether `add` and `items` wait for the lock; what was added stays in the basket."""
    lock = getattr(basket, "lock", None)
    if not hasattr(lock, "acquire") or "lock" not in vars(basket):
        return not_right("a basket without a lock of its own", "a threading.Lock", "Keep it as self.lock.")
    for name, call in (("add", lambda: basket.add("a pin")), ("items", basket.items)):
        done = threading.Event()
        with lock:
            thread = threading.Thread(target=lambda call=call, done=done: (call(), done.set()), daemon=True)
            thread.start()
            went_on = done.wait(0.5)
        if went_on:
            hint = f"Write `with self.lock:` in {name}, around what it does."
            return not_right(f"{name} while another thread holds the lock", f"{name} that waits for it", hint)
        if not done.wait(10):
            return not_right(f"{name} that never ends", "one that takes the lock once", "Take the lock only once.")
    return None


@exercise_check(seconds=60)
def count_odd(answer: Callable[[int], int]) -> Verdict:
    """Exercise 4: the program ends on the CPUs that there are, as often as it is called, and its tasks do the work."""
    if (missing := without_ray()) is not None:
        return missing
    # A stub is said to be one although the old program still keeps the CPUs, for which an answer would wait forever.
    if getattr(getattr(answer, "__code__", None), "co_names", ()) == ("NotImplementedError",):
        raise NotImplementedError
    if not _all_cpus_free():
        hint = (
            "start afresh with ray.shutdown() and ray.init(**ray_options(num_cpus=2)), then run your cell and this one."
        )
        return Verdict("not solved yet", f"something still keeps CPUs that your program needs: {hint}")
    for days in (6, 9):
        before = _tasks()
        try:
            got = answer(days)
        except ray.exceptions.GetTimeoutError:
            hint = "Who keeps the CPUs for which the tasks wait, although it has nothing to do any more?"
            return not_right("a program that still hangs", "one that ends", hint)
        if isinstance(got, ray.ObjectRef):
            return not_right("a reference", "a number", "Fetch it with ray.get.")
        expected = sum(day // 2 for day in range(days))
        if not same(got, expected):
            hint = "Count the odd rows of all days, from 0 to days - 1: only the waiting was wrong with the program."
            return not_right(got, f"{expected} for {days} days", hint)
        if not _within(LIST_S, lambda before=before, days=days: _tasks() - before >= days):
            hint = "Leave the work to the tasks: a load and a keep_odd for each day."
            return not_right("a number without tasks", "the work of the program", hint)
    return right("it ends on two CPUs, and again when it is called again.")


def _tasks() -> int:
    return len(list_tasks(limit=10_000, raise_on_missing_output=False))


def _all_cpus_free() -> bool:
    """Whether no task and no actor has a CPU; who has just ended may keep it for a moment."""
    return _within(FREE_S, lambda: ray.available_resources().get("CPU", 0) >= ray.cluster_resources().get("CPU", 0))


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether a condition becomes true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
