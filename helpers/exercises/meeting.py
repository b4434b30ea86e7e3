"""A meeting point for tasks: it tells whether they ran at the same time, and where."""

from __future__ import annotations

import asyncio
import time

import ray


@ray.remote(num_cpus=0)
class Meeting:
    """Tasks meet here: each waits until so many are present, and is told which number it is.

    Args:
        expected: how many have to be present.
        patience: seconds in which nobody comes, until those present may go.

    Source: written for this course.
    """

    def __init__(self, expected: int, patience: float) -> None:
        self._expected, self._patience = expected, patience
        self._present: list[str] = []
        self._in_vain = False

    async def arrive(self, where: str) -> int:
        number = len(self._present)
        self._present.append(where)
        seen, since = 0, time.monotonic()
        while len(self._present) < self._expected and not self._in_vain:
            if len(self._present) > seen:
                seen, since = len(self._present), time.monotonic()
            if time.monotonic() - since > self._patience:
                self._in_vain = True
            await asyncio.sleep(0.02)
        return number

    async def present(self) -> list[str]:
        """Where those who came were, in this order."""
        return list(self._present)

    async def in_vain(self) -> bool:
        """Whether somebody has waited in vain."""
        return self._in_vain
