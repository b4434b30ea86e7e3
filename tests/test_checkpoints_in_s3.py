"""Checkpoints in S3, as cluster/README.md says it: against a server on this machine that speaks S3's protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest
import ray.train.torch
from moto.server import ThreadedMotoServer
from ray import tune

from helpers.data import REPOSITORY
from helpers.session import free_port

pytestmark = pytest.mark.long

BUCKET = "ray-course"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Address of a server with one empty bucket. It takes any credentials, and Ray has to start after they are set."""
    port = free_port(9000)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        where = f"127.0.0.1:{port}"
        store = pyarrow.fs.S3FileSystem(endpoint_override=where, scheme="http", allow_bucket_creation=True)
        store.create_dir(BUCKET)
        yield where
    server.stop()


def storage_of_the_page(endpoint: str) -> dict[str, object]:
    """Arguments of RunConfig as the page has them, with the address of our server."""
    text = (REPOSITORY / "cluster" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(import pyarrow\.fs\n.+?)```", text, flags=re.DOTALL)
    code = code.replace("minio.example:9000", endpoint).replace('"https"', '"http"').replace("my-bucket", BUCKET)
    names: dict[str, dict[str, object]] = {}
    exec(compile(code, "cluster/README.md", "exec"), names)
    return names["storage"]


def train_and_fail_once(config: dict) -> None:
    """Three epochs; after the first checkpoint all workers fail, and then go on from it."""
    import tempfile

    newest = ray.train.get_checkpoint()
    done = 0
    if newest is not None:
        with newest.as_directory() as folder:
            done = int(Path(folder, "epoch").read_text())
    first = ray.train.get_context().get_world_rank() == 0
    for epoch in range(done + 1, 4):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "epoch").write_text(str(epoch))
            checkpoint = ray.train.Checkpoint.from_directory(folder) if first else None
            ray.train.report({"epoch": epoch, "resumed_at": done}, checkpoint=checkpoint)
        if newest is None and epoch == 1:
            raise RuntimeError("this machine is lost")


def test_a_training_run_goes_on_from_a_checkpoint_in_s3(endpoint: str, ray_session: None) -> None:
    storage = storage_of_the_page(endpoint)
    result = ray.train.torch.TorchTrainer(
        train_and_fail_once,
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(name="train", failure_config=ray.train.FailureConfig(max_failures=1), **storage),
    ).fit()
    assert result.metrics == {"epoch": 3, "resumed_at": 1}
    assert isinstance(result.checkpoint.filesystem, pyarrow.fs.S3FileSystem)
    with result.checkpoint.as_directory() as folder:
        assert Path(folder, "epoch").read_text() == "3"


def quality(config: dict) -> dict:
    return {"quality": config["x"]}


def test_a_sweep_keeps_its_results_in_s3(endpoint: str, ray_session: None) -> None:
    """Its address can say where the server is."""
    folder = f"s3://{BUCKET}/sweeps?scheme=http&endpoint_override={endpoint}"
    sweep = tune.Tuner(
        quality,
        param_space={"x": tune.grid_search([1, 2])},
        run_config=tune.RunConfig(name="sweep", storage_path=folder, verbose=0),
    )
    assert sweep.fit().get_best_result("quality", "max").metrics["quality"] == 2
    store, path = pyarrow.fs.FileSystem.from_uri(folder)
    files = store.get_file_info(pyarrow.fs.FileSelector(f"{path}/sweep", recursive=True))
    assert any(file.path.endswith("result.json") for file in files)
