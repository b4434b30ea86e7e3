"""Answers to the exercises of the deep dive actor_patterns."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import ray
from ray.util import ActorPool

from helpers.exercises import actor_patterns


class Office:
    """What the stub gives."""

    def __init__(self, seats, pay):
        self.free, self.pay = list(range(seats)), pay


@ray.remote
class LooksThenPays(Office):
    def __init__(self, seats, pay):
        super().__init__(seats, pay)
        self.seats, self.sold = seats, {}

    async def book(self, buyer):
        seat = len(self.sold)
        if seat >= self.seats:
            return None
        await self.pay(buyer)
        self.sold[seat] = buyer
        return seat


@ray.remote
class LockedWhilePaying(Office):
    def __init__(self, seats, pay):
        super().__init__(seats, pay)
        self.lock = asyncio.Lock()

    async def book(self, buyer):
        async with self.lock:
            if not self.free:
                return None
            await self.pay(buyer)
            return self.free.pop(0)


@ray.remote
class Blocking(Office):
    def book(self, buyer):
        if not self.free:
            return None
        seat = self.free.pop(0)
        asyncio.run(self.pay(buyer))
        return seat


@ray.remote
class PaysFirst(Office):
    async def book(self, buyer):
        await self.pay(buyer)
        return self.free.pop(0) if self.free else None


@ray.remote
class NeverGivesBack(Office):
    async def book(self, buyer):
        if not self.free:
            return None
        seat = self.free.pop(0)
        await self.pay(buyer)
        return seat


@ray.remote
class Silent(Office):
    async def book(self, buyer):
        if not self.free:
            return None
        seat = self.free.pop(0)
        try:
            await self.pay(buyer)
        except Exception:
            self.free.append(seat)
            return None
        return seat


@ray.remote
class AlwaysGivesBack(Office):
    async def book(self, buyer):
        if not self.free:
            return None
        seat = self.free.pop(0)
        try:
            await self.pay(buyer)
        finally:
            self.free.append(seat)
        return seat


@ray.remote
class CountsBack(Office):
    def __init__(self, seats, pay):
        super().__init__(seats, pay)
        self.seats, self.sold = seats, 0

    async def book(self, buyer):
        if self.sold == self.seats:
            return None
        seat = self.sold
        self.sold += 1
        try:
            await self.pay(buyer)
        except Exception:
            self.sold -= 1
            raise
        return seat


@ray.remote
class ForgetsAwait(Office):
    async def book(self, buyer):
        if not self.free:
            return None
        seat = self.free.pop(0)
        self.pay(buyer).close()  # as if it had been forgotten, but without Python's warning
        return seat


@ray.remote
class KeepsOneSeat(Office):
    async def book(self, buyer):
        if len(self.free) < 2:
            return None
        seat = self.free.pop(0)
        await self.pay(buyer)
        return seat


@ray.remote
class NamesTheSeat(Office):
    async def book(self, buyer):
        if not self.free:
            return None
        seat = self.free.pop(0)
        await self.pay(buyer)
        return f"seat {seat}"


class NoActor(Office):
    async def book(self, buyer):
        return None


@ray.remote
class LockedWhileTaking(Office):
    """A lock, but only around taking and giving back; any free seat will do."""

    def __init__(self, seats, pay):
        super().__init__(seats, pay)
        self.free, self.lock = set(self.free), asyncio.Lock()

    async def book(self, buyer):
        async with self.lock:
            if not self.free:
                return None
            seat = self.free.pop()
        try:
            await self.pay(buyer)
        except BaseException:
            async with self.lock:
                self.free.add(seat)
            raise
        return seat


@ray.remote
class WithABook(Office):
    """Writes down who has which seat, and strikes it out again."""

    def __init__(self, seats, pay):
        self.seats, self.pay, self.sold = seats, pay, {}

    async def book(self, buyer):
        seat = next((s for s in range(self.seats) if s not in self.sold), None)
        if seat is None:
            return None
        self.sold[seat], paid = buyer, False
        try:
            await self.pay(buyer)
            paid = True
        finally:
            if not paid:
                del self.sold[seat]
        return seat


@ray.remote
class FromTheBack(Office):
    """Sells the last seat first, from a queue of free ones."""

    def __init__(self, seats, pay):
        self.pay, self.free = pay, asyncio.Queue()
        for seat in reversed(range(seats)):
            self.free.put_nowait(seat)

    async def book(self, buyer):
        try:
            seat = self.free.get_nowait()
        except asyncio.QueueEmpty:
            return None
        (error,) = await asyncio.gather(self.pay(buyer), return_exceptions=True)
        if error is not None:
            self.free.put_nowait(seat)
            raise error
        return seat


@ray.remote
class WaitsForTheOthers(Office):
    """Says no only when it is certain that no seat comes back."""

    def __init__(self, seats, pay):
        super().__init__(seats, pay)
        self.paying, self.change = 0, asyncio.Condition()

    async def book(self, buyer):
        async with self.change:
            await self.change.wait_for(lambda: self.free or not self.paying)
            if not self.free:
                return None
            seat, self.paying = self.free.pop(0), self.paying + 1
        try:
            await self.pay(buyer)
        except Exception:
            self.free.append(seat)
            raise
        finally:
            async with self.change:
                self.paying -= 1
                self.change.notify_all()
        return seat


def work(actor, pair):
    return actor.work.remote(*pair)


def right_share(actors, items):
    pairs = ActorPool(actors).map_unordered(work, list(enumerate(items)))
    return [result for _, result in sorted(pairs)]


def ordered_map(actors, items):
    return [result for _, result in ActorPool(actors).map(work, list(enumerate(items)))]


def in_turns(actors, items):
    pairs = ray.get([actors[i % len(actors)].work.remote(i, item) for i, item in enumerate(items)])
    return [result for _, result in pairs]


def unordered(actors, items):
    pairs = ActorPool(actors).map_unordered(work, list(enumerate(items)))
    return [result for _, result in pairs]


def sorted_by_result(actors, items):
    return sorted(unordered(actors, items))


def with_places(actors, items):
    return sorted(ActorPool(actors).map_unordered(work, list(enumerate(items))))


def first_actor_only(actors, items):
    return right_share(actors[:1], items)


def by_item(actors, items):
    pool = ActorPool(actors)
    pairs = dict(pool.map_unordered(work, [(items.index(item), item) for item in items]))
    return [pairs[place] for place in sorted(pairs)]


def in_groups(actors, items):
    results = []
    for start in range(0, len(items), len(actors)):
        group = list(enumerate(items))[start : start + len(actors)]
        results += ray.get([work(actor, pair) for actor, pair in zip(actors, group, strict=False)])
    return [result for _, result in results]


def one_by_one(actors, items):
    return [ray.get(actors[i % len(actors)].work.remote(i, item))[1] for i, item in enumerate(items)]


def without_actors(actors, items):
    return [item * item for item in items]


def places_from_one(actors, items):
    pairs = ActorPool(actors).map_unordered(work, list(enumerate(items, 1)))
    return [result for _, result in sorted(pairs)]


def share_with_wait(actors, items):
    results, todo, busy, free = [None] * len(items), list(enumerate(items)), {}, list(actors)
    while todo or busy:
        while todo and free:
            actor = free.pop()
            busy[actor.work.remote(*todo.pop(0))] = actor
        (ready,), _ = ray.wait(list(busy))
        free.append(busy.pop(ready))
        place, result = ray.get(ready)
        results[place] = result
    return results


def share_with_threads(actors, items):
    free = Queue()
    for actor in actors:
        free.put(actor)

    def one(pair):
        actor = free.get()
        try:
            return ray.get(work(actor, pair))[1]
        finally:
            free.put(actor)

    with ThreadPoolExecutor(len(actors)) as pool:
        return list(pool.map(one, enumerate(items)))


def share_by_hand(actors, items):
    pool, results = ActorPool(actors), {}
    for place, item in enumerate(items):
        pool.submit(work, (place, item))
    while pool.has_next():
        place, results[place] = pool.get_next_unordered()
    return [results[place] for place in range(len(items))]


WRONG = {
    (1, actor_patterns.fair_office): [
        (LooksThenPays, "before the await"),
        (LockedWhilePaying, "hold no lock"),
        (NeverGivesBack, "give it back"),
        (CountsBack, "only that one"),
        (PaysFirst, "pays nothing"),
        (Silent, "must learn"),
        (AlwaysGivesBack, "before the await"),
        (Blocking, "async def"),
        (ForgetsAwait, "without await"),
        (KeepsOneSeat, "one payment at a time"),
        (NamesTheSeat, "number of the seat"),
        (NoActor, "@ray.remote"),
    ],
    (2, actor_patterns.share): [
        (ordered_map, "map_unordered"),
        (unordered, "sort by the place"),
        (in_turns, "still busy"),
        (with_places, "only the result"),
        (in_groups, "map_unordered"),
        (sorted_by_result, "sort by the place"),
        (first_actor_only, "all actors"),
        (one_by_one, "all actors"),
        (by_item, "places of enumerate"),
        (places_from_one, "places of enumerate"),
        (without_actors, "places of enumerate"),
    ],
}
RIGHT = {
    (1, actor_patterns.fair_office): [
        LockedWhileTaking,
        WithABook,
        FromTheBack,
        WaitsForTheOthers,
    ],
    (2, actor_patterns.share): [
        share_with_wait,
        share_with_threads,
        share_by_hand,
        right_share,
    ],
}
