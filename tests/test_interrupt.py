"""Stop pressed while `trainer.fit()` runs, in a real Jupyter kernel: what appears, and are the CPUs back?"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client import KernelManager

REPOSITORY = Path(__file__).resolve().parent.parent

START = """
import ray, time
import ray.train.torch
from helpers.progress import TrainingProgress
from helpers.session import ray_options

ray.init(**ray_options(num_cpus=2))

def train_worker(config):
    for step in range(1, config["steps"] + 1):
        time.sleep(config["pause"])
        ray.train.report({"step": step})

def train(folder, steps, pause):
    with TrainingProgress("step", total=steps) as progress:
        trainer = ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={"steps": steps, "pause": pause},
            scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(
                name=f"run-{time.time()}", storage_path=folder, callbacks=[progress.callback],
                logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            ),
        )
        trainer.fit()
"""
FREE_CPUS = """
end = time.monotonic() + 30
while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < end:
    time.sleep(0.2)
print("free CPUs:", ray.available_resources().get("CPU", 0))
"""


class Notebook:
    """A kernel, as JupyterLab starts one."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        environment.pop("RAY_ADDRESS", None)
        self.manager.start_kernel(cwd=str(folder), env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str, watch: Callable[[str], None] = lambda text: None, timeout: float = 120) -> list[str]:
        """Run a cell, and return all texts that it showed; `watch` sees each of them when it appears."""
        sent = self.client.execute(code)
        texts: list[str] = []
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return texts
            text = self._text(kind, content)
            if text:
                texts.append(text)
                watch(text)
        raise AssertionError(f"the cell did not end within {timeout:.0f} s; it showed {texts[-3:]}")

    @staticmethod
    def _text(kind: str, content: dict[str, Any]) -> str:
        if kind == "stream":
            return content["text"]
        if kind == "error":
            return f"{content['ename']}: {content['evalue']}"
        return content.get("data", {}).get("text/plain", "")

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    started = Notebook(tmp_path_factory.mktemp("kernel"))
    try:
        started.run(START)
        yield started
        started.run("ray.shutdown()")
    finally:
        started.close()


def pressed(notebook: Notebook, when: str, times: int) -> Callable[[str], None]:
    """Presses Stop as soon as a text appears, so often."""
    left = [times]

    def watch(text: str) -> None:
        if left[0] and re.search(when, text):
            while left[0]:
                left[0] -= 1
                notebook.manager.interrupt_kernel()
                time.sleep(0.3)

    return watch


@pytest.mark.parametrize(
    ("when", "times"),
    [
        pytest.param(r"step \d+ of", 1, id="once", marks=pytest.mark.long),
        pytest.param(r"step \d+ of", 2, id="twice"),
        pytest.param(r"starting workers", 1, id="before the controller", marks=pytest.mark.long),
        pytest.param(r"s  running", 1, id="while workers start", marks=pytest.mark.long),
    ],
)
def test_stop_frees_the_cpus_and_the_cell_can_run_again(
    notebook: Notebook, tmp_path: Path, when: str, times: int
) -> None:
    texts = notebook.run(f"train({str(tmp_path)!r}, 1000, 0.2)", pressed(notebook, when, times))
    print("\n---\n".join(texts))
    assert notebook.run(FREE_CPUS)[-1].strip() == "free CPUs: 2.0"
    assert any("stopped: the workers are being ended. Run the cell again to start anew." in text for text in texts), (
        texts
    )


def bare_fit(of: str, folder: Path) -> str:
    """A run without a display of the course; its last line shows that the program goes on after it."""
    return f"""
import ray.train.torch
from ray import tune

def wait(config):
    print("BEGUN")
    time.sleep(1000)

two, folder = ray.train.ScalingConfig(num_workers=2), {str(folder)!r}
{of}.fit()
print("AFTER")
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("of", "says", "goes_on"),
    [
        (
            "ray.train.torch.TorchTrainer(wait, train_loop_config={}, scaling_config=two, "
            "run_config=ray.train.RunConfig(storage_path=folder))",
            "SystemExit: ",
            False,
        ),
        (
            "tune.Tuner(wait, run_config=tune.RunConfig(verbose=0, storage_path=folder))",
            "Resume experiment with: Tuner.restore",
            True,
        ),
    ],
    ids=["train", "tune"],
)
def test_stop_without_a_display_of_the_course(
    notebook: Notebook, tmp_path: Path, of: str, says: str, goes_on: bool
) -> None:
    """04 and 07 tell what Train shows; Tune says itself what to do, and returns what there is."""
    texts = notebook.run(bare_fit(of, tmp_path), pressed(notebook, "BEGUN", 1))
    assert any(says in text for text in texts), texts
    assert any("AFTER" in text for text in texts) is goes_on
    assert notebook.run(FREE_CPUS)[-1].strip() == "free CPUs: 2.0"


@pytest.mark.long
def test_after_all_that_a_run_comes_to_its_end(notebook: Notebook, tmp_path: Path) -> None:
    texts = notebook.run(f"train({str(tmp_path)!r}, 2, 0)")
    assert texts[-1].endswith("s  done"), texts
