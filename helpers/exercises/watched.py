"""A stand-in for a remote function, which sees how an answer uses it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray


class Watched:
    """Has `.remote(...)` like a remote function; counts calls, and tasks that are under way at once.

    Counting instead of timing: the verdict is then the same on a slow machine.
    """

    def __init__(self, start: Callable[..., ray.ObjectRef]) -> None:
        self._start = start
        self._lock = threading.Lock()
        self.refs: list[ray.ObjectRef] = []
        self.arguments: list[Any] = []
        self.most = 0

    def remote(self, *args: Any, **kwargs: Any) -> ray.ObjectRef:
        with self._lock:
            refs = list(self.refs)
            unfinished = ray.wait(refs, num_returns=len(refs), timeout=0)[1] if refs else []
            self.most = max(self.most, len(unfinished) + 1)
            self.arguments += [*args, *kwargs.values()]
            self.refs.append(self._start(*args, **kwargs))
            return self.refs[-1]

    def options(self, **options: Any) -> Watched:
        return self
