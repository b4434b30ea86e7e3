"""Clients that send one request after the other to a service, and what came out of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import aiohttp
import numpy as np
import pandas as pd
import psutil

PAUSE_S = 0.5  # after a failure, so that a busy service isn't asked again at once


class LoadGenerator:
    """Clients in a process of their own, so that the notebook can do other things while they send.

    Each client sends its next request as soon as the last one is answered (a closed
    loop); after a failure it waits for half a second. Close it, or use it in a `with`.

    Args:
        patience: seconds after which a whole answer that has not come counts as a failure.

    Source: written for this course.
    """

    def __init__(self, patience: float = 60) -> None:
        self._patience = patience
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.pid: int = self._pool.submit(_pid).result()  # the process, for whoever asks what it uses

    def start(
        self,
        url: str,
        bodies: Sequence[bytes],
        clients: int,
        seconds: float,
        content_type: str = "application/json",
    ) -> Future[pd.DataFrame]:
        """Begin to send POST requests, and return at once.

        Args:
            url: where they go.
            bodies: what is sent, one after the other, and then from the first again.
            clients: how many of them send at the same time.
            seconds: how long new requests are sent; those under way are waited for.
            content_type: the header Content-Type of all requests.

        Returns:
            A future. Its result() is a table with a row for each request, in the order of their
            ends: "start" (seconds as in time.time()), "seconds" (until the answer was read),
            "body" (the place in bodies), "status" (of HTTP; 0: no answer, or none in time) and "answer" (of an
            answer with status 200: the decoded JSON, or the text if it is none; else None).

        Raises:
            ValueError: there are no bodies or no clients.
        """
        if not bodies or clients < 1:
            raise ValueError(f"A load needs at least one body and one client, but got {len(bodies)} and {clients}.")
        return self._pool.submit(_send, url, list(bodies), clients, seconds, content_type, self._patience)

    def run(
        self,
        url: str,
        bodies: Sequence[bytes],
        clients: int,
        seconds: float,
        content_type: str = "application/json",
    ) -> pd.DataFrame:
        """Do what start does, wait until it is over, and return the table."""
        return self.start(url, bodies, clients, seconds, content_type).result()

    def run_at_rate(
        self, url: str, bodies: Sequence[bytes], rate: float, seconds: float, content_type: str = "application/json"
    ) -> pd.DataFrame:
        """Send POST requests at a fixed rate, however slow the answers are (an open loop).

        Args:
            url, bodies, content_type: as in start.
            rate: requests per second, evenly spaced.
            seconds: how long requests are sent; the answers of all of them are waited for.

        Returns:
            A table as in start.

        Raises:
            ValueError: there are no bodies, or the rate isn't above zero.
        """
        if not bodies or rate <= 0:
            raise ValueError(f"A load needs at least one body and a rate above 0, but got {len(bodies)} and {rate}.")
        return self._pool.submit(_send, url, list(bodies), None, seconds, content_type, self._patience, rate).result()

    def run_streams(self, url: str, bodies: Sequence[Mapping[str, Any]], clients: int, seconds: float) -> pd.DataFrame:
        """Let clients ask for streamed completions, as run does for whole answers.

        Args:
            url: of the route, such as http://127.0.0.1:8000/v1/completions.
            bodies: requests without "stream", which are sent one after the other, and then from the first again.
            clients, seconds: as in start.

        Returns:
            A table with a row for each request: "start", "seconds" and "status" as in start, "first" (seconds until
            the first text came; NaN: none did), "tokens" (of the whole answer, as the server counts them) and "error"
            (what the stream said instead of its end; "": nothing, it was complete).

        Raises:
            ValueError: there are no bodies or no clients.
        """
        return self.start_streams(url, bodies, clients, seconds).result()

    def start_streams(
        self, url: str, bodies: Sequence[Mapping[str, Any]], clients: int, seconds: float
    ) -> Future[pd.DataFrame]:
        """Begin what run_streams does, and return at once: a future of its table."""
        if not bodies or clients < 1:
            raise ValueError(f"A load needs at least one body and one client, but got {len(bodies)} and {clients}.")
        streamed = [{**body, "stream": True, "stream_options": {"include_usage": True}} for body in bodies]
        return self._pool.submit(_stream, url, streamed, clients, seconds)

    def close(self) -> None:
        """End the process, after what it is doing."""
        self._pool.shutdown()

    def __enter__(self) -> LoadGenerator:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def summary(requests: pd.DataFrame) -> dict[str, float]:
    """Say how fast a service was.

    Args:
        requests: a table of LoadGenerator, with at least one row.

    Returns:
        "per second" (requests), "p50 ms" and "p95 ms" (within these milliseconds half and
        95 of 100 requests were answered), "failed" (requests whose status isn't 200).

    Raises:
        ValueError: the table has no rows.
    """
    if requests.empty:
        raise ValueError("summary needs at least one request, but the table is empty.")
    span = (requests["start"] + requests["seconds"]).max() - requests["start"].min()
    p50, p95 = requests["seconds"].quantile([0.5, 0.95]) * 1000
    failed = int((requests["status"] != 200).sum())
    return {"per second": len(requests) / span, "p50 ms": p50, "p95 ms": p95, "failed": failed}


def stream_summary(streams: pd.DataFrame) -> dict[str, float]:
    """Say how fast a service streamed.

    Args:
        streams: a table of LoadGenerator.run_streams, with at least one row.

    Returns:
        "tokens per second" (of all clients together), "first token, p50 ms" and "first token, p95 ms" (within these
        milliseconds half and 95 of 100 answers had begun), "failed" (answers without a regular end).

    Raises:
        ValueError: the table has no rows.
    """
    if streams.empty:
        raise ValueError("stream_summary needs at least one stream, but the table is empty.")
    span = (streams["start"] + streams["seconds"]).max() - streams["start"].min()
    p50, p95 = streams["first"].quantile([0.5, 0.95]) * 1000
    return {
        "tokens per second": streams["tokens"].sum() / span,
        "first token, p50 ms": p50,
        "first token, p95 ms": p95,
        "failed": int((streams["error"] != "").sum()),
    }


def per_second(requests: pd.DataFrame, zero: float, seconds: Iterable[int]) -> tuple[list[int], list[int]]:
    """Count the answers in each second, for a plot.

    Args:
        requests: a table of LoadGenerator.
        zero: the time (as in time.time()) at which second 0 begins.
        seconds: which seconds to count, counted from zero.

    Returns:
        The seconds, and how many requests ended in each of them.
    """
    wanted = list(seconds)
    ended = np.floor(requests["start"] + requests["seconds"] - zero)
    return wanted, ended.value_counts().reindex(wanted, fill_value=0).tolist()


def _pid() -> int:
    return psutil.Process().pid


def _send(
    url: str,
    bodies: list[bytes],
    clients: int | None,
    seconds: float,
    content_type: str,
    patience: float,
    rate: float = 0,
) -> pd.DataFrame:
    how = {"headers": {"Content-Type": content_type}, "timeout": aiohttp.ClientTimeout(total=patience)}
    return pd.DataFrame(asyncio.run(_all_requests(url, bodies, clients, seconds, how, rate)))


async def _all_requests(
    url: str, bodies: list[bytes], clients: int | None, seconds: float, how: dict[str, Any], rate: float
) -> list[dict[str, Any]]:
    """The rows of clients that wait for their answers, or, without clients, of requests at a rate."""
    rows: list[dict[str, Any]] = []
    turn, begin = itertools.count(), time.time()
    connector = aiohttp.TCPConnector(limit=0)  # as many connections as are needed
    async with aiohttp.ClientSession(connector=connector, **how) as session:

        async def next_request() -> None:
            place = next(turn) % len(bodies)
            rows.append(await _request(session, url, place, bodies[place]))

        async def client() -> None:
            while time.time() < begin + seconds:
                await next_request()
                if rows[-1]["status"] != 200:
                    await asyncio.sleep(PAUSE_S)

        async def one_at(moment: float) -> None:
            await asyncio.sleep(begin + moment - time.time())
            await next_request()

        if clients is None:
            await asyncio.gather(*(one_at(i / rate) for i in range(int(rate * seconds))))
        else:
            await asyncio.gather(*(client() for _ in range(clients)))
    return rows


async def _request(session: aiohttp.ClientSession, url: str, place: int, body: bytes) -> dict[str, Any]:
    start, status, answer = time.time(), 0, None
    try:
        async with session.post(url, data=body) as reply:
            text, status = await reply.text(), reply.status
            if status == 200:
                answer = json.loads(text) if reply.content_type == "application/json" else text
    except (aiohttp.ClientError, TimeoutError):
        pass  # the status stays 0
    return {"start": start, "seconds": time.time() - start, "body": place, "status": status, "answer": answer}


def _stream(url: str, bodies: list[dict[str, Any]], clients: int, seconds: float) -> pd.DataFrame:
    return pd.DataFrame(asyncio.run(_all_streams(url, bodies, clients, seconds)))


async def _all_streams(url: str, bodies: list[dict[str, Any]], clients: int, seconds: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    turn, end = itertools.count(), time.time() + seconds
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client() -> None:
            while time.time() < end:
                rows.append(await _one_stream(session, url, bodies[next(turn) % len(bodies)]))
                if rows[-1]["error"]:
                    await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(client() for _ in range(clients)))
    return rows


async def _one_stream(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
    start = time.time()
    row = {"start": start, "status": 0, "first": float("nan"), "tokens": 0, "error": "the connection was lost"}
    try:
        async with session.post(url, json=body) as reply:
            row["status"] = reply.status
            if reply.status != 200:
                row["error"] = await reply.text()
            else:
                await _read_events(reply, row)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        pass  # "error" says so already
    return {**row, "seconds": time.time() - start}


async def _read_events(reply: aiohttp.ClientResponse, row: dict[str, Any]) -> None:
    """Fill in what the events of a stream say."""
    async for line in reply.content:
        data = line.decode().strip().removeprefix("data: ")
        if data == "[DONE]":
            row["error"] = ""
            return
        if not data:
            continue
        piece = json.loads(data)
        if "error" in piece:
            row["error"] = piece["error"]["message"]
            return
        if any(choice["text"] for choice in piece["choices"]) and row["first"] != row["first"]:
            row["first"] = time.time() - row["start"]
        if piece.get("usage"):
            row["tokens"] = piece["usage"]["completion_tokens"]
            if any(choice.get("finish_reason") for choice in piece["choices"]):
                row["error"] = ""  # some servers say no [DONE] after that
