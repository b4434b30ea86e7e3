"""Ray Serve LLM with vLLM: a Ray of its own, in an environment of its own, beside the course's."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import requests
import yaml

from helpers import data, sizes

ENVIRONMENT = data.REPOSITORY / ".venv-llm"  # `make llm` makes it
STORED = data.REPOSITORY / "data" / "llm_engine.json"
READY_S = 420  # vLLM imports and loads for more than a minute, and much longer on a busy machine
_STARTED: list[LLMServer] = []


class LLMServer:
    """`serve run` of a config file in the environment of `make llm`; where that is missing, stored results.

    RAY_COURSE_ENGINE=stored asks for stored results where it isn't missing. A process has one of them: a new one ends
    the one before.

        engine = LLMServer(text, {"tuned": folder}, port=8001)
        engine.url  # http://127.0.0.1:8001/v1, or None

    Attributes:
        url: where clients of OpenAI's interface find it; None if it does not run.
        about: one sentence that says what runs and since when, or why nothing does.
        stored: what a run of notebook 08 gave, from tools/store_llm_results.py.

    Args:
        config: a config file of `serve deploy`, its text.
        folders: model_id -> where that model is, instead of the model_source in the file.
        port: where it shall listen, on 127.0.0.1.

    Raises:
        ValueError: the file has no model of one of these names.
        RuntimeError: the environment is there, but the service did not start; with the end of its log.

    Source: written for this course.
    """

    def __init__(self, config: str, folders: Mapping[str, str], port: int) -> None:
        settings = _settings(config, folders, port)
        self.stored: dict[str, Any] = json.loads(STORED.read_text())
        self.url: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        close_all()  # a cell that is run again must not leave two of them
        _STARTED.append(self)
        reason = _reason_against()
        if reason:
            self.about = f"{reason}, so what follows was stored on another machine: {self.stored['machine']}."
            return
        self._start(settings, port)

    def _start(self, settings: dict[str, Any], port: int) -> None:
        # Sockets below this folder have long names, so its own is short.
        self._folder = tempfile.TemporaryDirectory(prefix="l", ignore_cleanup_errors=True)
        file, log = Path(self._folder.name) / "config.yaml", Path(self._folder.name) / "log.txt"
        file.write_text(yaml.safe_dump(settings))
        begun = time.monotonic()
        command = [str(ENVIRONMENT / "bin" / "python"), "-m", "ray.serve.scripts", "run", str(file)]
        with log.open("wb") as output:
            # A session of its own, so that Stop in the notebook does not reach it.
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=_variables(self._folder.name), start_new_session=True
            )
        try:
            _wait(self._process, f"http://127.0.0.1:{port}/v1", _sources(settings), log)
        except BaseException:
            self.close()
            raise
        self.url = f"http://127.0.0.1:{port}/v1"
        self.about = f"vLLM answers, {time.monotonic() - begun:.0f} s after its start."

    def close(self) -> None:
        """End the service and its Ray."""
        process, self._process, self.url = self._process, None, None
        if process is None:
            return
        process.terminate()  # Ray ends what it has started
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._folder.cleanup()


def model_to_serve() -> Path:
    """Return the folder of the fine-tuned GPT-J that notebook 08 serves and compares with vLLM.

    Returns:
        At the laptop's size without vLLM the shipped one: stored results were made with it, and a comparison with
        another model would say nothing. Otherwise your own model from notebook 07 if there is one, so that a cluster
        always serves what was trained on it.

    Raises:
        DataError: a shipped file is missing or altered.

    Source: written for this course.
    """
    on_laptop = os.environ.get(sizes.VARIABLE, "laptop") == "laptop"
    return data.shipped_gptj() if on_laptop and _reason_against() else data.fine_tuned_gptj()


def _settings(config: str, folders: Mapping[str, str], port: int) -> dict[str, Any]:
    """The config file with another port and other models."""
    settings = yaml.safe_load(config)
    settings["http_options"]["port"] = port
    sources = _sources(settings)
    for name, folder in folders.items():
        if name not in sources:
            raise ValueError(f"The config file has no model {name!r}: expected one of {sorted(sources)}.")
        sources[name]["model_source"] = str(folder)
    return settings


def _sources(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """model_id -> the part of the settings that says where the model comes from."""
    models = [model for application in settings["applications"] for model in application["args"]["llm_configs"]]
    return {model["model_loading_config"]["model_id"]: model["model_loading_config"] for model in models}


def _reason_against() -> str:
    """Why stored results are shown, or nothing."""
    if os.environ.get("RAY_COURSE_ENGINE") == "stored":
        return "You set RAY_COURSE_ENGINE=stored"
    if (ENVIRONMENT / ".ready").is_file():
        return ""
    how = "`make llm` installs it" if sys.platform == "linux" else f"there is no build for {sys.platform}"
    return f"vLLM is not installed here ({how})"


def _variables(folder: str) -> dict[str, str]:
    """Those of this process, without what concerns the Ray that it uses; files of vLLM's go into the folder."""
    others, also = ("RAY_", "PYTHON", "VIRTUAL_ENV"), ("RAY_AUTH_TOKEN", "RAY_TMPDIR")
    kept = {name: value for name, value in os.environ.items() if name.startswith(also) or not name.startswith(others)}
    return {
        **kept,
        "TMPDIR": folder,
        "RAY_ADDRESS": "local",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }


def _wait(process: subprocess.Popen[bytes], url: str, names: Iterable[str], log: Path) -> None:
    """Wait until each model has answered."""
    end = time.monotonic() + READY_S
    left = list(names)
    while left and time.monotonic() < end and process.poll() is None:
        if _answers(f"{url}/completions", left[0], end - time.monotonic()):
            left.pop(0)
        else:
            time.sleep(0.5)
    if not left:
        return
    last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    what = f"ended with status {process.returncode}" if process.poll() is not None else f"gave no answer in {READY_S} s"
    raise RuntimeError(f"Ray Serve LLM {what}. The end of its log:\n{last}")


def _answers(url: str, model: str, patience_s: float) -> bool:
    body = {"model": model, "prompt": "ROMEO.", "max_tokens": 1}
    try:
        return requests.post(url, json=body, timeout=max(1, patience_s)).status_code == 200
    except requests.RequestException:
        return False


@atexit.register
def close_all() -> None:
    """End what LLMServer has started in this process, if anything. Source: written for this course."""
    for server in _STARTED:
        server.close()
