"""Checks of the exercises of the deep dive actor_patterns. Ray must be running."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

import ray
from ray.actor import ActorClass

from helpers.exercises import watched
from helpers.exercises.verdict import Verdict, as_list, as_number, exercise_check, not_right, right, same, without_ray

SEATS = 3
REFUSED = "buyer with an empty account"


class PaymentRefused(Exception):
    """What the payment of a buyer without money raises."""


@ray.remote(num_cpus=0)
class Bank:
    """Takes payments, none of which ends before so many have begun.

    Nothing is judged by a clock: only if no payment begins for `patience` seconds is the wait in vain, and all end.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._payments: list[str] = []
        self._wanted, self._in_vain = 0, False
        self._last_change = 0.0

    async def expect(self, more: int) -> None:
        """From now on no payment ends before this many more have begun."""
        self._wanted = len(self._payments) + more

    async def pay(self, buyer: str) -> None:
        self._payments.append(buyer)
        self._last_change = time.monotonic()
        while len(self._payments) < self._wanted and not self._in_vain:
            self._in_vain = time.monotonic() - self._last_change > self._patience
            await asyncio.sleep(0.01)
        if buyer == REFUSED:
            raise PaymentRefused("the bank refused the payment")

    async def seen(self) -> tuple[list[str], bool]:
        """Who paid, and whether payments waited in vain for others."""
        return self._payments, self._in_vain


def _payment_at(bank: Any) -> Callable[[str], Awaitable[None]]:
    """The function `pay` that a box office gets."""

    async def pay(buyer: str) -> None:
        await bank.pay.remote(buyer)

    return pay


@exercise_check
def fair_office(answer: Any) -> Verdict:
    """Exercise 1: no seat is sold twice, buyers pay at the same time, a refused payment frees the seat."""
    if not isinstance(answer, ActorClass):
        hint = "Put @ray.remote above the class, and give the class itself, without .remote()."
        return not_right(f"a {type(answer).__name__}", "an actor class", hint)
    if (missing := without_ray()) is not None:
        return missing
    bank = Bank.remote(watched.PATIENCE)
    offices = [answer.options(num_cpus=0).remote(SEATS, _payment_at(bank)) for _ in range(2)]
    try:
        if not hasattr(offices[0], "book"):
            return not_right("a class without book", "a method book", "Write the method book.")
        wrong = _judge_crowd(offices[0], bank) or _judge_refused(offices[1], bank)
        return wrong or right("every seat sold once, buyers pay at the same time, and a refused payment frees a seat.")
    finally:
        for actor in (bank, *offices):
            ray.kill(actor)


def _seat_or_error(ref: ray.ObjectRef) -> Any:
    try:
        return ray.get(ref)
    except Exception as error:
        return error


def _book(office: Any, bank: Any, buyers: Sequence[str], together: int) -> tuple[list[Any], list[str], bool]:
    """What each buyer got (a seat, None or the refusal of the bank), who paid, and whether payments waited in vain."""
    before = len(ray.get(bank.seen.remote())[0])
    ray.get(bank.expect.remote(together))
    refs = [office.book.remote(buyer) for buyer in buyers]
    seats = [_seat_or_error(ref) for ref in refs]  # all of them: Ray reports errors that nobody has fetched
    for seat in seats:
        if isinstance(seat, Exception) and not isinstance(seat, PaymentRefused):
            raise seat
    paid, in_vain = ray.get(bank.seen.remote())
    return seats, paid[before:], in_vain


def _judge_crowd(office: Any, bank: Any) -> Verdict | None:
    """More buyers than seats, all at once."""
    buyers = [f"buyer {number}" for number in range(2 * SEATS + 1)]
    seats, paid, in_vain = _book(office, bank, buyers, SEATS)
    if not paid:
        return not_right("no payment", f"{SEATS} payments", "Call `await self.pay(buyer)`: without await nobody pays.")
    if in_vain:
        hint = "book must be an `async def`, and hold no lock while a buyer pays: take the seat first, then pay."
        return not_right("one payment at a time", "buyers who pay at the same time", hint)
    if (wrong := _judge_seats(seats, range(SEATS))) is not None:
        return wrong
    if len(paid) > SEATS:
        hint = "Who gets no seat pays nothing: look for a free seat, and take it, before the payment."
        return not_right(f"{len(paid)} payments for {SEATS} seats", f"{SEATS} payments", hint)
    return None


def _judge_refused(office: Any, bank: Any) -> Verdict | None:
    """A payment is refused while another buyer pays; then the others come, one after the other."""
    seats, _, _ = _book(office, bank, [REFUSED, "ann"], 2)
    if not isinstance(seats[0], PaymentRefused):
        hint = "The buyer must learn that the payment failed: `raise` the exception again after you freed the seat."
        return not_right(f"{seats[0]} for a buyer whose payment failed", "the exception of pay", hint)
    seats = seats[1:]
    for buyer in ("bob", "cyd", "dan"):
        seats += _book(office, bank, [buyer], 1)[0]
    if None in seats[:SEATS]:
        hint = "The seat of a refused payment is free again: put `await self.pay(buyer)` into a try, and give it back."
        return not_right(f"the seats {seats} after a refused payment", f"{SEATS} seats sold, then None", hint)
    return _judge_seats(seats, range(SEATS))


def _judge_seats(seats: list[Any], there_are: Collection[int]) -> Verdict | None:
    """Each seat exactly once, and None for all others."""
    sold = [as_number(seat) for seat in seats if seat is not None]
    expected = f"each seat from 0 to {len(there_are) - 1} once, and None for the others"
    if any(not isinstance(seat, int) for seat in sold):
        return not_right(f"the seats {seats}", expected, "book returns the number of the seat, or None.")
    if len(set(sold)) < len(sold):
        hint = "Take the seat before the await, so that no other call can see it as free, and give back only that one."
        return not_right(f"the seats {seats}", expected, hint)
    if set(sold) != set(there_are):
        hint = "The seats are those in range(seats), and all of them are for sale."
        return not_right(f"the seats {seats}", expected, hint)
    return None


class _Work:
    """The method `work` of an actor that a check watches: it takes a place and an item."""

    def __init__(self, task: watched.Watched) -> None:
        self._task = task
        self._refs: list[ray.ObjectRef] = []
        self.most = 0

    def remote(self, place: int, item: Any) -> ray.ObjectRef:
        waiting = ray.wait(self._refs, num_returns=len(self._refs), timeout=0)[1] if self._refs else []
        self.most = max(self.most, len(waiting) + 1)
        self._refs.append(self._task.remote((place, item)))
        return self._refs[-1]


class _Worker:
    """Stands for an actor handle: has only `work`."""

    def __init__(self, task: watched.Watched) -> None:
        self.work = _Work(task)


def _square(number: int, pair: tuple[int, int]) -> tuple[int, int]:
    return pair[0], pair[1] * pair[1]


@exercise_check
def share(answer: Callable[[list[Any], list[Any]], list[Any]]) -> Verdict:
    """Exercise 2: whoever is free gets the next piece; results in the order of the items."""
    if (missing := without_ray()) is not None:
        return missing
    task = watched.Watched()
    items = [5, 2, 9, 4, 4, 0, 1]  # equal items too: a dict would lose one
    try:
        # The number of items and of actors, and whether the oldest piece may end like the others.
        for count, actors, oldest_too in [(7, 3, False), (0, 2, False), (6, 2, False), (7, 4, True), (3, 1, False)]:
            task.begin(_square, watched.one_for_one(count, actors, oldest_too))
            wrong = _judge_share(answer, task, items[:count], actors)
            if wrong is not None:
                return wrong
        return right("whoever is free gets the next piece, and the results are in order.")
    finally:
        task.finish()


def _judge_share(
    answer: Callable[..., list[Any]], task: watched.Watched, items: list[int], actors: int
) -> Verdict | None:
    workers = [_Worker(task) for _ in range(actors)]
    got = answer(list(workers), list(items))
    in_vain = task.waited_in_vain()
    if max(worker.work.most for worker in workers) > 1:
        hint = "Give an actor its next piece when it has finished the one before: that is what ActorPool does."
        return not_right("a piece for an actor that is still busy", "a piece for whichever is free", hint)
    if in_vain and task.most < min(actors, len(items)):
        return not_right(f"{task.most} busy actors", f"{actors}", "Keep all actors busy, not only some of them.")
    if in_vain:
        hint = "pool.map waits for the first piece, and so do groups: use pool.map_unordered."
        return not_right("a free actor that waits for a busy one", "a new piece for it at once", hint)
    places = [pair[0] for pair in task.arguments]
    if sorted(map(str, map(as_number, places))) != sorted(map(str, range(len(items)))):
        hint = (
            "Give each item with its place, once: actor.work.remote(place, item), with the places of enumerate(items)."
        )
        return not_right(f"the places {places}", f"each of 0 to {len(items) - 1} once", hint)
    return _judge_results(got, items)


def _judge_results(got: Any, items: list[int]) -> Verdict | None:
    values, expected = as_list(got), [item * item for item in items]
    if values is not None and same(values, expected):
        return None
    hint = "Return a list of the results of all items, in the order of the items."
    if values is None:
        hint = "Return a list of the results."
    elif any(isinstance(value, ray.ObjectRef) for value in values):
        hint = "Trade references for values with ray.get."
    elif values and all(isinstance(value, (list, tuple)) for value in values):
        hint = "work returns (place, result): sort by the place, then keep only the result."
    elif len(values) < len(expected):
        hint = "One result for each item, also where two items are equal."
    elif sorted(map(str, values)) == sorted(map(str, expected)):
        hint = "The results must be in the order of the items: sort by the place that work returns with each of them."
    return not_right(got, f"{expected} for the items {items}", hint)
