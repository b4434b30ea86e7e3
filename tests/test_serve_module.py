"""The service that notebook 06 deploys: a valid config, the parts that need no Ray, and what its lessons end."""

from __future__ import annotations

import ast
import asyncio
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pytest
import yaml
from fastapi import HTTPException
from PIL import Image
from pydantic import ValidationError
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.schema import ServeDeploySchema

from cluster import fashion_mnist_service as service
from tests.services import valid_application

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "cluster" / "fashion_mnist_service.yaml"
ZEROS = [[0] * 28 for _ in range(28)]


LESSON = REPOSITORY / "notebooks" / "06_serve_fashion_mnist.ipynb"
DEEP_DIVE = REPOSITORY / "notebooks" / "deep_dives" / "operating_a_service.ipynb"


def code_cells(notebook: Path = LESSON) -> list[str]:
    """The code of a notebook, cell by cell."""
    return [cell.source for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]


def without_ray_shutdown(source: str) -> str:
    """A cell whose effect on Serve is tried in a Ray that other tests still need."""
    assert source.count("ray.shutdown()") == 1
    return source.replace("ray.shutdown()", "")


@pytest.mark.fast
def test_config_is_valid_and_keeps_to_this_machine() -> None:
    valid_application(CONFIG, service)


def test_serve_build_writes_a_config(tmp_path: Path) -> None:
    target = tmp_path / "built.yaml"
    command = [sys.executable, "-m", "ray.serve.scripts", "build", f"{service.__name__}:application", "-o", str(target)]
    subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, timeout=120)
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(target.read_text())).applications
    assert {deployment.name for deployment in application.deployments} == {"Model", "Api"}


class Method:
    """Stands for a method of a handle: raises what it is told, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    async def remote(self, picture: Any) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None: ...

    monkeypatch.setattr(service.asyncio, "sleep", at_once)


@pytest.mark.fast
@pytest.mark.parametrize("deaths", [0, 1, 3])
def test_call_is_repeated_after_a_death(no_waiting: None, deaths: int) -> None:
    method = Method(*[RayActorError()] * deaths)
    assert asyncio.run(service.ask(method, None)) == "answer"
    assert method.calls == deaths + 1


@pytest.mark.fast
@pytest.mark.parametrize(
    ("errors", "calls", "says"),
    [([RayActorError()] * 9, 4, "no replica answers"), ([BackPressureError(1, 1)], 1, "busy")],
)
def test_calls_that_are_given_up(no_waiting: None, errors: list[Exception], calls: int, says: str) -> None:
    method = Method(*errors)
    with pytest.raises(HTTPException, match=says) as caught:
        asyncio.run(service.ask(method, None))
    assert caught.value.status_code == 503
    assert method.calls == calls


@pytest.mark.fast
def test_other_errors_are_not_repeated(no_waiting: None) -> None:
    method = Method(ValueError("a mistake in the model"))
    with pytest.raises(ValueError, match="mistake"):
        asyncio.run(service.ask(method, None))
    assert method.calls == 1


def png(width: int, height: int, mode: str = "L", kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), 7 if mode == "L" else (7, 7, 7)).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.fast
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_png_becomes_grey_levels(mode: str) -> None:
    pixels = service.decode(png(28, 28, mode))
    assert pixels.shape == (28, 28) and pixels.dtype == np.uint8 and (pixels == 7).all()


@pytest.mark.fast
def test_png_of_16_bits_keeps_its_picture() -> None:
    grey = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28) % 256
    buffer = io.BytesIO()
    Image.fromarray(grey * 257).save(buffer, format="png")
    assert (service.decode(buffer.getvalue()) == grey).all()


@pytest.mark.fast
@pytest.mark.parametrize("wrong", [{"verison": "2"}, {"replicas": 0}, {"cpus": -1}, {"gpus": -1}])
def test_settings_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        service.Settings(**wrong)


class Options:
    """Stands for a deployment of the module: keeps the options that it is given."""

    def __init__(self) -> None:
        self.chosen: dict[str, Any] = {}

    def options(self, **chosen: Any) -> Options:
        self.chosen = chosen
        return self

    def bind(self, *arguments: Any) -> Options:
        return self


@pytest.mark.fast
@pytest.mark.parametrize(("replicas", "asked", "ingress"), [(2, 1, 1), (16, 1, 4), (16, 8, 8), (1, 500, 500)])
def test_ingress_grows_with_the_replicas_and_the_queue_of_the_model_does_not(
    monkeypatch: pytest.MonkeyPatch, replicas: int, asked: int, ingress: int
) -> None:
    """Serve limits the queue of each caller, and each replica of the ingress is one."""
    model, api = Options(), Options()
    monkeypatch.setattr(service, "Model", model)
    monkeypatch.setattr(service, "Api", api)
    service.build(service.Settings(replicas=replicas, ingress=asked, ingress_cpus=1, folder="nowhere"))
    assert (api.chosen["num_replicas"], api.chosen["ray_actor_options"]) == (ingress, {"num_cpus": 1})
    queue = model.chosen["max_queued_requests"]
    assert queue >= 1 and (queue == 1 or queue * ingress == 100 * replicas)


@pytest.mark.fast
def test_autoscaling_has_one_deprecated_setting_and_no_other() -> None:
    """Ray 2.60 deprecates `metrics_interval_s` for variables that it does not read yet.

    If this fails, look whether it reads them now: then they replace the setting in the notebook.
    """
    (cell,) = [source for source in code_cells(DEEP_DIVE) if "metrics_interval_s" in source]
    (chosen,) = [ast.literal_eval(node) for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Dict)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        AutoscalingConfig(**chosen)
    assert ["`metrics_interval_s` field" in str(warning.message) for warning in caught] == [True], caught


class FakeServe:
    """As much of Serve as the last cell of the notebook uses: its own applications, and perhaps one of others."""

    def __init__(self, others: list[str]) -> None:
        self.applications, self.ended = {name: 1 for name in ("fashion", "double", *others)}, False

    def status(self) -> FakeServe:
        return self

    def delete(self, name: str) -> None:
        del self.applications[name]

    def shutdown(self) -> None:
        self.ended = True


class Nothing:
    """Stands for what the last cell of a notebook closes."""

    def close(self) -> None: ...


@pytest.mark.fast
@pytest.mark.parametrize("others", [[], ["of somebody else"]])
def test_last_cell_ends_serve_only_if_nobody_else_serves(others: list[str], tmp_path: Path) -> None:
    fake, file = FakeServe(others), tmp_path / "service-8000.yaml"
    file.touch()
    names = {"serve": fake, "load": Nothing(), "data": SimpleNamespace(results_dir=lambda name: tmp_path), "port": 8000}
    for _ in range(2):  # the file may be gone already, or not be there yet
        exec(without_ray_shutdown(code_cells()[-1]), dict(names))
        assert set(fake.applications) == set(others) and not file.exists()
        assert fake.ended is (not others)


@pytest.mark.fast
def test_last_cell_knows_all_applications_of_the_notebook() -> None:
    code = "\n".join(code_cells())
    runs = set(re.findall(r'name="(\w+)", route_prefix', code)) | {"fashion"}
    named = set(re.search(r"ours = \{(.*?)\}", code_cells()[-1]).group(1).replace('"', "").split(", "))
    assert named == runs and {"double", "single", "batched", "split"} <= runs


@pytest.mark.fast
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "expected a PNG"),
        (b"T-shirt", "expected a PNG"),
        (png(28, 28, kind="jpeg"), "expected a PNG"),
        (png(28, 28)[:45], "expected a PNG"),
        (png(9, 28), "found 9 x 28"),
        (png(20_000, 20_000), "found far more"),
    ],
    ids=["empty", "text", "JPEG", "cut off", "narrow", "unpacks to 400 MB"],
)
def test_bad_png(body: bytes, says: str) -> None:
    with pytest.raises(HTTPException, match=says) as caught:
        service.decode(body)
    assert caught.value.status_code == 422


@pytest.mark.fast
@pytest.mark.parametrize(
    "pixels",
    [ZEROS[:27], [row[:27] for row in ZEROS], [[256] * 28] * 28, [[-1] * 28] * 28, [[float("nan")] * 28] * 28]
    + [[[float("inf")] * 28] * 28, [["1"] * 28] * 28, [[None] * 28] * 28, [[True] * 28] * 28, None, 7],
)
def test_bad_pixels(pixels: Any) -> None:
    with pytest.raises(ValidationError):
        service.Picture(pixels=pixels)


@pytest.mark.fast
@pytest.mark.parametrize("grey", [0, 255, 0.5])
def test_good_pixels(grey: float) -> None:
    assert service.Picture(pixels=[[grey] * 28] * 28).pixels[27][27] == grey
