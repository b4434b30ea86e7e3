"""A stand-in for a remote function: it sees how an answer uses it, and decides when each task may end.

Nothing here is judged by a clock. A task ends when a rule allows it, for example
once all others have started; a right answer starts them at once, a wrong one waits
for a task that cannot end. So the verdict is the same on a slow machine. Only for
answers that would wait without end there is a limit, PATIENCE.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

PATIENCE = 10.0  # seconds that a task waits in vain until it gives up, and lets all others end

# Which of the tasks may end now, when these have started and those have ended? Tasks are numbered from 0.
Rule = Callable[[list[int], list[int]], Sequence[int]]


def all_together(total: int) -> Rule:
    """No task ends before all have started; then the last one ends first. Source: written for this course."""

    def may_end(started: list[int], ended: list[int]) -> Sequence[int]:
        if len(started) > total:  # one too many: nothing is left to find out
            return started
        return [total - 1 - len(ended)] if len(started) == total and len(ended) < total else []

    return may_end


def only(*quick: int) -> Rule:
    """These tasks may end at any time, all others never. Source: written for this course."""
    return lambda started, ended: quick


def one_for_one(total: int, limit: int, oldest_too: bool = False) -> Rule:
    """A task ends only while `limit` are under way, and the next one only after a new one has started.

    By turns it is each of those under way. The oldest of them ends only when all tasks have
    started, so that waiting for it, or for all of a group, is waiting in vain.

    Args:
        total: how many tasks will start in all.
        limit: how many may be under way.
        oldest_too: whether the oldest gets its turn like the others.

    Returns:
        A rule for `Watched`.

    Source: written for this course.
    """
    first = 0 if oldest_too or limit == 1 else 1

    def may_end(started: list[int], ended: list[int]) -> Sequence[int]:
        under_way = [task for task in sorted(started) if task not in ended]
        if len(started) == total:
            return under_way
        if len(under_way) < limit:
            return []
        return [under_way[first + len(ended) % (limit - first)]]

    return may_end


@ray.remote(num_cpus=0)
class Stage:
    """Runs the tasks: one process, in which any number of them can wait at the same time."""

    def __init__(self) -> None:
        self.begin(None, only(), 0.0, 0.0)

    def begin(self, work: Callable[[int, Any], Any] | None, rule: Rule, pause: float, patience: float) -> None:
        """Forget earlier tasks, and run the next ones by another rule."""
        self._work, self._rule, self._pause, self._patience = work, rule, pause, patience
        self._started: list[int] = []
        self._ended: list[int] = []
        self._open, self._in_vain = False, False

    async def run(self, number: int, argument: Any) -> Any:
        self._started.append(number)
        last_moment = time.monotonic() + self._patience
        while not (self._open or number in self._rule(self._started, self._ended)):
            if time.monotonic() > last_moment:
                self._open = self._in_vain = True
            await asyncio.sleep(0.01)
        if not self._open:
            await asyncio.sleep(self._pause)  # so that the order in which tasks end can be seen
        self._ended.append(number)
        return self._work(number, argument)

    async def open(self) -> None:
        """Let all tasks end. The process ends by itself when nobody refers to it any more."""
        self._open = True

    async def started(self) -> list[int]:
        """The tasks that have started, in this order."""
        return list(self._started)

    async def in_vain(self) -> bool:
        """Whether a task has given up waiting for what a right answer does."""
        return self._in_vain


class Watched:
    """Has `.remote(argument)` like a remote function; counts calls, and tasks that are under way at once.

    The process of the tasks starts with the first of them: an answer that starts none costs no time.
    """

    def __init__(self) -> None:
        self._stage: Any = None
        self._lock = threading.Lock()
        self.begin(lambda number, argument: argument, only())

    def begin(self, work: Callable[[int, Any], Any], rule: Rule, pause: float = 0.0) -> None:
        """Start afresh: tasks compute work(their number, their argument), and end by this rule.

        Source: written for this course.
        """
        self._settings = (work, rule, pause, PATIENCE)
        self.refs: list[ray.ObjectRef] = []
        self.arguments: list[Any] = []
        self.most = 0

    def remote(self, *args: Any, **kwargs: Any) -> ray.ObjectRef:
        if len(args) + len(kwargs) != 1:
            raise TypeError(f"the task takes one argument, and got {len(args) + len(kwargs)}")
        argument = [*args, *kwargs.values()][0]
        with self._lock:
            if not self.refs:
                self._stage = self._stage or Stage.remote()
                ray.get(self._stage.begin.remote(*self._settings))
            self.most = max(self.most, len(self._unfinished()) + 1)
            self.arguments.append(argument)
            self.refs.append(self._stage.run.remote(len(self.refs), argument))
            return self.refs[-1]

    def options(self, **options: Any) -> Watched:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("a remote function cannot be called directly: use task.remote(...)")

    def _unfinished(self) -> list[ray.ObjectRef]:
        return ray.wait(self.refs, num_returns=len(self.refs), timeout=0)[1] if self.refs else []

    def waited_in_vain(self) -> bool:
        """Whether an answer waited for a task that could not end yet. Source: written for this course."""
        return bool(self.refs) and ray.get(self._stage.in_vain.remote())

    def finish(self) -> None:
        """Let all tasks end, and wait for them. Source: written for this course."""
        if self.refs:
            ray.get(self._stage.open.remote())
            ray.wait(self.refs, num_returns=len(self.refs), timeout=PATIENCE)
