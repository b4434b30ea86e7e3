"""helpers.load: clients in a process of their own, against a small server in this one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from helpers.load import LoadGenerator, per_second, stream_summary, summary

pytestmark = pytest.mark.fast

NEVER_S = 10


class Echo(BaseHTTPRequestHandler):
    """Answers with the body as JSON; refuses `no`, is late for `slow` and `never`, closes the connection for `bye`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if body == "bye":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if body in ("slow", "never"):
            time.sleep(NEVER_S if body == "never" else 0.3)
        text = json.dumps({"body": body, "type": self.headers["Content-Type"]}).encode()
        self.send_response(503 if body == "no" else 200)
        self.send_header("Content-Type", "text/plain" if body == "plain" else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def load() -> Iterator[LoadGenerator]:
    with LoadGenerator() as generator:
        yield generator


def test_rows_of_all_clients(load: LoadGenerator, url: str) -> None:
    before = time.time()
    rows = load.run(url, [b"a", b"b"], clients=3, seconds=0.5, content_type="image/png")
    assert len(rows) >= 6 and set(rows["body"]) == {0, 1}
    assert (rows["status"] == 200).all() and (rows["start"] >= before - 0.1).all() and (rows["seconds"] > 0).all()
    for body, answer in zip(rows["body"], rows["answer"], strict=True):
        assert answer == {"body": "ab"[body], "type": "image/png"}


def test_an_answer_that_does_not_come_in_time_is_a_failure(url: str) -> None:
    with LoadGenerator(patience=1) as hasty:
        rows = hasty.run(url, [b"never"], clients=1, seconds=0.1)
    assert list(rows["status"]) == [0]
    assert 1 <= rows["seconds"][0] < NEVER_S


def test_failures_are_rows_too_and_slow_their_client_down(load: LoadGenerator, url: str) -> None:
    rows = load.run(url, [b"a", b"no", b"bye"], clients=1, seconds=1.6)
    assert list(rows["status"][:3]) == [200, 503, 0]
    assert rows["answer"][1] is None and rows["answer"][2] is None
    assert rows["start"][2] - rows["start"][1] >= 0.5
    assert summary(rows)["failed"] == (rows["status"] != 200).sum()


def test_an_answer_that_is_no_json_is_kept_as_text(load: LoadGenerator, url: str) -> None:
    rows = load.run(url, [b"plain"], clients=1, seconds=0.3)
    assert json.loads(rows["answer"][0])["body"] == "plain"


def test_start_returns_at_once_and_the_clients_are_another_process(load: LoadGenerator, url: str) -> None:
    begin = time.time()
    running = load.start(url, [b"a"], clients=1, seconds=1)
    assert time.time() - begin < 0.5 and not running.done()
    assert load.pid != os.getpid()
    assert len(running.result()) > 1


def test_process_ends_with_the_generator(url: str) -> None:
    import psutil

    with LoadGenerator() as generator:
        assert psutil.pid_exists(generator.pid)
    assert not psutil.pid_exists(generator.pid)


def test_open_loop_does_not_wait_for_answers(load: LoadGenerator, url: str) -> None:
    rows = load.run_at_rate(url, [b"slow"], rate=20, seconds=1)
    assert len(rows) == 20 and (rows["status"] == 200).all()
    first, last = rows["start"].min(), rows["start"].max()
    assert 0.9 <= last - first < 1.6  # a client that waits would need six seconds for them
    assert (rows["seconds"] >= 0.3).all()
    with pytest.raises(ValueError, match="a rate above 0"):
        load.run_at_rate(url, [b"a"], rate=0, seconds=1)


@pytest.mark.parametrize(("bodies", "clients"), [([], 1), ([b"a"], 0)])
def test_nothing_to_send(load: LoadGenerator, bodies: list[bytes], clients: int) -> None:
    with pytest.raises(ValueError, match="at least one body and one client"):
        load.start("http://127.0.0.1:9", bodies, clients, 1)


def test_summary_and_counts_of_known_rows() -> None:
    rows = pd.DataFrame(
        {"start": [10.0, 10.5, 11.0, 12.0], "seconds": [0.4, 0.6, 0.8, 1.0], "status": [200, 200, 503, 200]}
    )
    found = summary(rows)
    assert found["per second"] == pytest.approx(4 / 3) and found["failed"] == 1
    assert found["p50 ms"] == pytest.approx(700) and found["p95 ms"] == pytest.approx(970)
    assert per_second(rows, 10, range(-1, 5)) == ([-1, 0, 1, 2, 3, 4], [0, 1, 2, 0, 1, 0])
    with pytest.raises(ValueError, match="at least one request"):
        summary(rows[:0])


class Stream(BaseHTTPRequestHandler):
    """Streams as its prompt says: to the end, with an error in the middle, broken off, or refused."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
        self.send_response(400 if body["prompt"] == "refused" else 200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for text in ("", "But ", "soft"):  # an empty piece is no first token
            time.sleep(0.1)
            self.say({"choices": [{"text": text}]})
        if body["prompt"] == "error":
            self.say({"error": {"message": "the replica was lost"}})
        if body["prompt"] == "good":
            self.say({"choices": [], "usage": {"completion_tokens": 2}})
            self.wfile.write(b"data: [DONE]\n\n")
        if body["prompt"] == "without DONE":
            end = {"choices": [{"text": "", "finish_reason": "length"}], "usage": {"completion_tokens": 2}}
            self.say(end)

    def say(self, data: dict) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def stream_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_streams_say_when_the_first_text_came_and_how_they_ended(load: LoadGenerator, stream_url: str) -> None:
    streams = load.run_streams(stream_url, [{"prompt": "good"}], clients=3, seconds=0.5)
    assert len(streams) >= 3 and set(streams["error"]) == {""} and set(streams["tokens"]) == {2}
    assert (streams["first"] >= 0.2).all() and (streams["first"] < streams["seconds"]).all()
    found = stream_summary(streams)
    assert found["failed"] == 0 and found["first token, p50 ms"] >= 200
    span = (streams["start"] + streams["seconds"]).max() - streams["start"].min()
    assert found["tokens per second"] == pytest.approx(2 * len(streams) / span)


def test_a_stream_may_end_with_its_usage_instead_of_done(load: LoadGenerator, stream_url: str) -> None:
    streams = load.run_streams(stream_url, [{"prompt": "without DONE"}], clients=1, seconds=0.1)
    assert set(streams["error"]) == {""} and set(streams["tokens"]) == {2}


@pytest.mark.parametrize(
    ("prompt", "error"), [("error", "the replica was lost"), ("cut", "the connection was lost"), ("refused", "data: ")]
)
def test_streams_that_do_not_end_well_are_failures(
    load: LoadGenerator, stream_url: str, prompt: str, error: str
) -> None:
    streams = load.run_streams(stream_url, [{"prompt": prompt}], clients=1, seconds=0.1)
    assert streams["error"].str.startswith(error).all() and set(streams["tokens"]) == {0}
    assert stream_summary(streams)["failed"] == len(streams)


def test_nobody_listens(load: LoadGenerator) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        streams = load.run_streams(f"http://127.0.0.1:{probe.getsockname()[1]}", [{"prompt": "good"}], 1, 0.1)
    assert set(streams["status"]) == {0} and set(streams["error"]) == {"the connection was lost"}


def test_streams_need_bodies_clients_and_rows(load: LoadGenerator, stream_url: str) -> None:
    for bodies, clients in (([], 1), ([{"prompt": "good"}], 0)):
        with pytest.raises(ValueError, match="at least one body and one client"):
            load.run_streams(stream_url, bodies, clients, 1)
    with pytest.raises(ValueError, match="at least one stream"):
        stream_summary(pd.DataFrame(columns=["start", "seconds", "first", "tokens", "error"]))
