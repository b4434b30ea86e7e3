"""The service of notebook 06, deployed from its config file: bad input, load, a killed replica, an update."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, given, settings
from PIL import Image
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.util.state import list_actors
from schemathesis import GenerationMode
from schemathesis.checks import FailureGroup, positive_data_acceptance
from torchvision.datasets import FashionMNIST

from cluster import fashion_mnist_service as service
from helpers import data
from tests.services import SERVE, head_of_somebody_else, wait_for
from tests.test_serve_module import CONFIG, ZEROS, Nothing, code_cells, png, without_ray_shutdown

JSON, PNG = {"Content-Type": "application/json"}, {"Content-Type": "image/png"}


class Context:
    """What `ray.init` returns, as far as the notebook uses it."""

    @property
    def dashboard_url(self) -> str:
        return os.environ["RAY_API_SERVER_ADDRESS"].removeprefix("http://")


def send(config: dict[str, Any], folder: Path) -> None:
    """`serve deploy`, to the running Ray."""
    path = folder / "service.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [*SERVE, "deploy", str(path), "--address", os.environ["RAY_API_SERVER_ADDRESS"]]
    subprocess.run(command, check=True, capture_output=True, timeout=240)


@pytest.fixture(scope="module")
def deploy(serve_port: int, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """Send the shipped config file, with a version, to the running Ray as a reader would."""

    def deploy_version(version: str) -> None:
        config = yaml.safe_load(CONFIG.read_text())
        config["http_options"]["port"] = serve_port
        config["applications"][0]["args"]["version"] = version
        send(config, tmp_path_factory.mktemp("config"))

    return deploy_version


@pytest.fixture(scope="module")
def url(serve_port: int, deploy: Callable[[str], None]) -> Iterator[str]:
    deploy("1")
    wait_for(lambda: serve.status().applications["fashion"].status == "RUNNING", 240)
    yield f"http://127.0.0.1:{serve_port}"
    serve.delete("fashion")


@pytest.fixture(scope="module")
def pictures() -> tuple[Any, list[int]]:
    test = FashionMNIST(str(data.fashion_mnist_root()), train=False)
    return test.data.numpy(), test.targets.tolist()


def predict(url: str, picture: Any, **options: Any) -> requests.Response:
    return requests.post(f"{url}/predict", json={"pixels": picture.tolist()}, timeout=60, **options)


def test_answers_are_right_in_both_forms(url: str, pictures: tuple[Any, list[int]]) -> None:
    import io

    images, labels = pictures
    right = 0
    for image, label in zip(images[:150], labels[:150], strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="png")
        by_png = requests.post(f"{url}/predict/png", data=buffer.getvalue(), headers=PNG, timeout=60).json()
        by_json = predict(url, image).json()
        assert by_png["label"] == by_json["label"]
        assert by_png["probability"] == pytest.approx(by_json["probability"], abs=1e-4)
        right += by_json["label"] == data.FASHION_CLASSES[label]
    assert right / 150 > 0.75


def test_batched_answers_are_those_of_single_pictures(url: str, pictures: tuple[Any, list[int]]) -> None:
    images = pictures[0][:64]
    alone = [predict(url, image, params={"batched": False}).json() for image in images]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda image: predict(url, image).json(), images))
    for one, other in zip(alone, together, strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


BAD = {
    "not JSON": (422, {"data": "T-shirt", "headers": JSON}),
    "JSON cut off": (422, {"data": '{"pixels": [[', "headers": JSON}),
    # Python 3.11 reads about 1,000 levels, 3.13 about 10,000: what is deeper than that all of them refuse alike.
    "nested too deep": (400, {"data": "[" * 50_000, "headers": JSON}),
    "not UTF-8": (400, {"data": b"\xff\xfe\x00", "headers": JSON}),
    "empty": (422, {"data": "", "headers": JSON}),
    "no type of content": (422, {"data": "{}"}),
    "null": (422, {"data": "null", "headers": JSON}),
    "list": (422, {"json": ZEROS}),
    "other name": (422, {"json": {"picture": ZEROS}}),
    "27 rows": (422, {"json": {"pixels": ZEROS[:27]}}),
    "long row": (422, {"json": {"pixels": [*ZEROS[:27], [0] * 29]}}),
    "text": (422, {"json": {"pixels": [["0"] * 28] * 28}}),
    "too bright": (422, {"json": {"pixels": [[256] * 28] * 28}}),
    "NaN": (422, {"data": f'{{"pixels": {[["@"] * 28] * 28}}}'.replace("'@'", "NaN"), "headers": JSON}),
    "infinite": (422, {"data": f'{{"pixels": {[["@"] * 28] * 28}}}'.replace("'@'", "Infinity"), "headers": JSON}),
    "1e999": (422, {"data": f'{{"pixels": {[["@"] * 28] * 28}}}'.replace("'@'", "1e999"), "headers": JSON}),
    "50 MB": (413, {"data": b" " * 50_000_000, "headers": JSON}),
    "no PNG": (422, {"data": "T-shirt", "headers": PNG, "path": "/predict/png"}),
    "empty PNG": (422, {"data": "", "headers": PNG, "path": "/predict/png"}),
    "PNG cut off": (422, {"data": png(28, 28)[:45], "headers": PNG, "path": "/predict/png"}),
    "huge PNG": (422, {"data": png(20_000, 20_000), "headers": PNG, "path": "/predict/png"}),
    "50 MB PNG": (413, {"data": b"\x89PNG" * 12_500_000, "headers": PNG, "path": "/predict/png"}),
    "bad flag": (422, {"json": {"pixels": ZEROS}, "params": {"batched": "perhaps"}}),
    "wrong method": (405, {"method": "GET"}),
    "wrong route": (404, {"path": "/price"}),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_a_clear_answer_and_the_service_goes_on(url: str, name: str) -> None:
    expected, case = BAD[name]
    request = {"method": "POST", "path": "/predict", "timeout": 60, **case}
    reply = requests.request(url=url + request.pop("path"), **request)
    assert reply.status_code == expected, reply.text[:300]
    sentence = reply.json()["detail"] if "json" in reply.headers["Content-Type"] else reply.text
    assert 5 <= len(sentence) <= 150 and "Traceback" not in sentence
    assert requests.post(f"{url}/predict", json={"pixels": ZEROS}, timeout=60).status_code == 200


def test_body_without_a_length_is_not_read_for_ever(url: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * 100_000

    try:
        reply = requests.post(f"{url}/predict", data=endless(), headers=JSON, timeout=60)
        assert reply.status_code == 413
    except requests.ConnectionError:
        pass  # the service hung up before all was sent, which is right, too
    assert requests.post(f"{url}/predict", json={"pixels": ZEROS}, timeout=60).status_code == 200


@pytest.fixture(scope="module")
def api_schema(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", ["/predict", "/predict/png"])
def test_whatever_the_schema_allows_or_forbids(api_schema: Any, path: str, mode: GenerationMode) -> None:
    # Any bytes are a valid binary body for OpenAPI, but not a PNG.
    excluded = [positive_data_acceptance] if path == "/predict/png" else []
    statuses = Counter()

    @settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=api_schema[path]["POST"].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        reply = case.call_and_validate(excluded_checks=excluded, timeout=60)
        statuses[reply.status_code] += 1

    check()
    refused = sum(count for status, count in statuses.items() if 400 <= status < 500)
    assert sum(statuses.values()) > 20
    if path == "/predict":
        assert statuses[200] > 20 if mode is GenerationMode.POSITIVE else refused > 20, statuses


def test_schemathesis_would_notice_a_server_error(api_schema: Any) -> None:
    case = api_schema["/predict"]["POST"].Case(body={"pixels": ZEROS}, media_type="application/json")
    reply = case.call()
    case.validate_response(reply)
    reply.status_code = 500
    with pytest.raises(FailureGroup) as caught:
        case.validate_response(reply)
    assert any("erver error" in str(failure) for failure in caught.value.exceptions)


@contextmanager
def load(url: str, clients: int = 4) -> Iterator[list[tuple[int, str]]]:
    """Clients that send one picture after the other; gathers (status or 0, version)."""
    seen: list[tuple[int, str]] = []
    stop = threading.Event()

    def client() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                try:
                    reply = session.post(f"{url}/predict", json={"pixels": ZEROS}, timeout=60)
                    seen.append((reply.status_code, reply.json().get("version", "")))
                except requests.RequestException as error:
                    seen.append((0, str(error)))

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(client) for _ in range(clients)]
        try:
            yield seen
        finally:
            stop.set()
    for future in futures:
        future.result()


def failed(seen: list[tuple[int, str]]) -> list[tuple[int, str]]:
    return [entry for entry in seen if entry[0] != 200]


def replica_pids() -> set[int]:
    actors = list_actors(filters=[("state", "=", "ALIVE")])
    return {actor.pid for actor in actors if actor.class_name == "ServeReplica:fashion:Model"}


@pytest.mark.long  # notebook 06 measures the same
def test_no_request_fails_while_replicas_are_killed(url: str) -> None:
    with load(url) as seen:
        for _ in range(2):
            answered = len(seen)
            wait_for(lambda enough=answered + 25: len(seen) >= enough, 120)
            before = replica_pids()
            os.kill(min(before), signal.SIGKILL)
            wait_for(lambda before=before: len(new := replica_pids()) == 2 and bool(new - before), 180)
        answered = len(seen)
        wait_for(lambda: len(seen) >= answered + 25, 120)
    assert not failed(seen), Counter(failed(seen))


def test_load_would_notice_a_failure(url: str) -> None:
    with load(f"{url}/price") as seen:
        wait_for(lambda: bool(seen), 60)
    assert len(failed(seen)) == len(seen)
    with load("http://127.0.0.1:9") as seen:
        wait_for(lambda: bool(seen), 60)
    assert {status for status, _ in seen} == {0}


@pytest.mark.long  # notebook 06 measures the same
def test_no_request_fails_during_an_update(url: str, deploy: Callable[[str], None]) -> None:
    with load(url) as seen:
        wait_for(lambda: len(seen) > 10, 120)
        deploy("2")
        wait_for(lambda: {version for _, version in seen[-10:]} == {"2"}, 240)
    assert not failed(seen), Counter(failed(seen))
    versions = Counter(version for _, version in seen)
    assert set(versions) == {"1", "2"} and versions["1"] > 10


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """While this file is missing, calls to `waiting` do not end."""
    path = tmp_path / "open"
    yield path
    path.touch()


@serve.deployment(ray_actor_options={"num_cpus": 0.1}, max_ongoing_requests=1, max_queued_requests=2)
class Waiting:
    def __init__(self, gate: str) -> None:
        self.gate = gate

    async def __call__(self, request: Any) -> str:
        while not os.path.exists(self.gate):
            await asyncio.sleep(0.05)
        return "done"


def test_full_queue_refuses_at_once_and_each_caller_has_its_own(url: str, serve_port: int, gate: Path) -> None:
    """One call is worked on and nobody else gets through, however slow the machine: who is refused is no accident."""
    handle = serve.run(Waiting.bind(str(gate)), name="waiting", route_prefix="/waiting")

    def ask(_: int) -> int:
        return requests.get(f"http://127.0.0.1:{serve_port}/waiting", timeout=120).status_code

    try:
        with ThreadPoolExecutor(12) as pool:
            replies = [pool.submit(ask, i) for i in range(12)]
            # Nothing can be answered before the gate opens, so these are refusals, and they did not wait for it.
            wait_for(lambda: sum(reply.done() for reply in replies) >= 6, 60)
            # The proxy's queue is full, that of this process is empty: it is another caller.
            queued = [handle.remote(None) for _ in range(2)]
            with pytest.raises(BackPressureError):
                handle.remote(None).result(timeout_s=60)
            gate.touch()
            statuses = Counter(reply.result() for reply in replies)
            assert [response.result(timeout_s=60) for response in queued] == ["done", "done"]
    finally:
        gate.touch()
        serve.delete("waiting")
    assert set(statuses) == {200, 503} and 6 <= statuses[503] <= 10, statuses
    assert ray.is_initialized()


class Hanging(service.Model.func_or_class):
    """The model of the service, whose calculation never ends for a picture of nothing but 7."""

    def __init__(self) -> None:
        super().__init__("1", str(data.trained_model()))

    def classify(self, pictures: list[Any]) -> list[dict[str, Any]]:
        if any((picture == 7).all() for picture in pictures):
            threading.Event().wait()
        return super().classify(pictures)

    def pid(self) -> int:
        return os.getpid()


@pytest.mark.parametrize("method", ["predict_batched", pytest.param("predict", marks=pytest.mark.long)])
def test_replica_whose_calculation_hangs_is_replaced(serve_port: int, method: str) -> None:
    """Nothing fails in it, so only Serve's time limit for `check_health` can notice."""
    soon = {"health_check_period_s": 0.5, "health_check_timeout_s": 1, "graceful_shutdown_timeout_s": 1}
    deployment = serve.deployment(Hanging, name="Hanging", ray_actor_options={"num_cpus": 0.1}, **soon)
    handle = serve.run(deployment.bind(), name="hanging", route_prefix=None)

    def pid() -> int | None:
        try:
            return handle.pid.remote().result(timeout_s=10)
        except (RayActorError, TimeoutError):
            return None  # it is being replaced

    try:
        healthy = pid()
        for _ in range(3):  # answers, and several checks in the meantime
            assert handle.predict.remote(np.zeros((28, 28), np.float32)).result(timeout_s=30)["version"] == "1"
            time.sleep(1)
        assert healthy is not None and pid() == healthy, "one that works must stay"
        getattr(handle, method).remote(np.full((28, 28), 7, np.float32))
        wait_for(lambda: pid() not in (None, healthy), 90)
        assert handle.predict.remote(np.zeros((28, 28), np.float32)).result(timeout_s=30)["version"] == "1"
    finally:
        serve.delete("hanging")


def answer_of(port: int, path: str) -> tuple[int, str]:
    reply = requests.get(f"http://127.0.0.1:{port}{path}", timeout=60)
    return reply.status_code, reply.text


# A service of somebody else: a module in a folder of its own.
THEIRS = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Theirs:
    def __call__(self, request):
        return "theirs"

application = Theirs.bind()
"""


@pytest.mark.long
def test_applications_of_somebody_else_outlive_the_notebook(
    url: str, serve_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the notebook deploys, and what its last cell deletes, leave two other services alone."""
    (tmp_path / "their_service.py").write_text(THEIRS)
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"]["port"] = serve_port
    ours = config["applications"][0]
    theirs = {"name": "theirs", "route_prefix": "/theirs", "import_path": "their_service:application"}
    theirs["runtime_env"] = {"working_dir": f"local://{tmp_path}"}
    send(config | {"applications": [ours, theirs]}, tmp_path)

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    class Another:
        def __call__(self, request: Any) -> str:
            return "another"

    serve.run(Another.bind(), name="another", route_prefix="/another")
    serve.run(Another.bind(), name="split", route_prefix="/split")  # one of the notebook is called so
    try:
        wait_for(lambda: answer_of(serve_port, "/theirs") == (200, "theirs"), 120)
        # The notebook looks what runs, and keeps it.
        (cell,) = [source for source in code_cells() if 'serve_command("config")' in source]
        head, _, _ = cell.partition('serve.delete("split")')
        names = {"data": data, "yaml": yaml, "context": Context(), "config": config, "service": ours}
        exec(head, names)
        assert [app["name"] for app in config["applications"]] == ["fashion", "theirs"]
        names["deploy"]("2")
        names["file"].unlink()
        assert serve.status().applications["theirs"].status == "RUNNING"  # or it would be DELETING now
        assert answer_of(serve_port, "/theirs") == (200, "theirs")
        assert answer_of(serve_port, "/another") == (200, "another")

        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")  # the notebook has joined a cluster of others
        exec(without_ray_shutdown(code_cells()[-1]), {"serve": serve, "os": os, "load": Nothing(), "file": Nothing()})
        monkeypatch.delenv("RAY_ADDRESS")
        assert not {"fashion", "split"} & set(serve.status().applications)
        assert answer_of(serve_port, "/theirs") == (200, "theirs")
        assert answer_of(serve_port, "/another") == (200, "another")

        # As 06 says: what an earlier file started and this one leaves out is deleted. What serve.run started stays.
        send(config | {"applications": [ours]}, tmp_path)
        wait_for(lambda: "theirs" not in serve.status().applications, 120)
        assert answer_of(serve_port, "/another") == (200, "another")
        wait_for(lambda: serve.status().applications["fashion"].status == "RUNNING", 240)
    finally:
        for name in {"another", "split"} & set(serve.status().applications):
            serve.delete(name)


@pytest.mark.long
def test_shipped_file_runs_on_a_cluster_that_knows_nothing_of_this_repository() -> None:
    with head_of_somebody_else() as head:
        config = yaml.safe_load(CONFIG.read_text())
        config["http_options"]["port"] = head.http_port
        application = config["applications"][0]
        application["args"] |= {"replicas": 1, "folder": str(data.REPOSITORY / "data" / "fashion_mnist_resnet18")}
        head.deploy(config)
        assert "No module named" in head.wait_until("fashion", "DEPLOY_FAILED")
        # As the comment in the file says.
        application["runtime_env"] = {"working_dir": f"local://{data.REPOSITORY}"}
        head.deploy(config)
        head.wait_until("fashion", "RUNNING")
        reply = requests.post(f"http://127.0.0.1:{head.http_port}/predict", json={"pixels": ZEROS}, timeout=60)
        assert reply.status_code == 200 and reply.json()["label"] in data.FASHION_CLASSES
