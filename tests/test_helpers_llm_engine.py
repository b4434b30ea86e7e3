"""helpers.llm_engine: starting, waiting and ending, with a stand-in for `serve run`; notebook 08 runs the real one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import psutil
import pytest

from helpers import data, llm_engine, sizes
from helpers.llm_engine import LLMServer
from helpers.session import free_port
from tools import store_llm_results

pytestmark = pytest.mark.fast
CONFIG = """
http_options: {host: 127.0.0.1, port: 1}
applications:
  - args:
      llm_configs:
        - model_loading_config: {model_id: tuned, model_source: nowhere}
        - model_loading_config: {model_id: base, model_source: elsewhere}
"""
# Instead of `python -m ray.serve.scripts run FILE`: answers for all models, or ends at once.
STAND_IN = f"""#!{sys.executable}
import http.server, json, os, subprocess, sys, yaml
assert sys.argv[1:4] == ["-m", "ray.serve.scripts", "run"], sys.argv
settings = yaml.safe_load(open(sys.argv[4]))
sources = [m["model_loading_config"] for m in settings["applications"][0]["args"]["llm_configs"]]
print("sources", sources, "RAY_ADDRESS", os.environ["RAY_ADDRESS"], flush=True)
if sources[0]["model_source"] == "broken":
    sys.exit("no such model")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])

class Answers(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = body["model"] in [source["model_id"] for source in sources]
        self.send_response(200 if known and self.path == "/v1/completions" else 404)
        self.end_headers()
        self.wfile.write(json.dumps(sources).encode())
    def log_message(self, *arguments):
        pass

http.server.HTTPServer(("127.0.0.1", settings["http_options"]["port"]), Answers).serve_forever()
"""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment that is ready, with a stand-in for its Python; and stored results."""
    folder = tmp_path / "llm"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(STAND_IN)
    (folder / "bin" / "python").chmod(0o755)
    (folder / ".ready").touch()
    stored = tmp_path / "stored.json"
    stored.write_text(json.dumps({"machine": "two cores of somebody else", "loss": 4.6}))
    monkeypatch.setattr(llm_engine, "ENVIRONMENT", folder)
    monkeypatch.setattr(llm_engine, "STORED", stored)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    return folder


def test_a_server_answers_and_leaves_nothing_behind(environment: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    port = free_port(8001)
    server = LLMServer(CONFIG, {"tuned": "/models/mine"}, port)
    assert server.url == f"http://127.0.0.1:{port}/v1" and "after its start" in server.about
    started = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert len(started) == 2
    server.close()
    server.close()  # twice does no harm
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive and server.url is None


def test_a_new_one_ends_the_one_before(environment: Path) -> None:
    first = LLMServer(CONFIG, {}, free_port(8001))
    second = LLMServer(CONFIG, {}, free_port(8001))
    assert first.url is None and second.url is not None
    llm_engine.close_all()
    assert second.url is None


def test_where_it_is_not_installed_results_are_stored(environment: Path) -> None:
    (environment / ".ready").unlink()
    server = LLMServer(CONFIG, {"tuned": "/models/mine"}, 8001)
    assert server.url is None and "two cores of somebody else" in server.about and "make llm" in server.about
    assert server.stored["loss"] == 4.6
    server.close()


def test_stored_results_can_be_asked_for(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_COURSE_ENGINE", "stored")
    server = LLMServer(CONFIG, {}, 8001)
    assert server.url is None and server.about.startswith("You set RAY_COURSE_ENGINE=stored")


def test_what_is_stored_is_what_the_notebook_shows() -> None:
    stored = json.loads((data.REPOSITORY / "data" / "llm_engine.json").read_text())
    shown = store_llm_results.results()
    assert {name: stored[name] for name in shown} == shown, "run .venv/bin/python -m tools.store_llm_results"
    assert [row["clients"] for row in stored["speed"]] == [1, 8, 32] and len(stored["answers"]) == 6


def test_a_server_that_does_not_start_shows_its_log(environment: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ended with status 1.*no such model"):
        LLMServer(CONFIG, {"tuned": "broken"}, free_port(8001))


def test_a_server_that_never_answers_is_given_up(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_engine, "READY_S", 1)
    (environment / "bin" / "python").write_text(f"#!{sys.executable}\nimport time; time.sleep(600)")
    with pytest.raises(RuntimeError, match="gave no answer in 1 s"):
        LLMServer(CONFIG, {}, free_port(8001))


def test_unknown_models_are_refused(environment: Path) -> None:
    with pytest.raises(ValueError, match=r"no model 'tune': expected one of \['base', 'tuned'\]"):
        LLMServer(CONFIG, {"tune": "/models/mine"}, 8001)


def test_its_ray_is_not_that_of_the_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/course")
    found = llm_engine._variables("/tmp/l")
    assert found["RAY_ADDRESS"] == "local" and found["RAY_AUTH_MODE"] == "token"
    assert found["TMPDIR"] == "/tmp/l" and "RAY_API_SERVER_ADDRESS" not in found and "PYTHONPATH" not in found
    assert found["RAY_AUTH_TOKEN"] == "secret" and found["PATH"] == os.environ["PATH"]


def test_stored_results_are_compared_with_the_model_they_belong_to(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "results" / "gptj_shakespeare"
    own.mkdir(parents=True)
    for name in ("model.safetensors", "tokenizer.json", "model.json"):
        (own / name).touch()
    monkeypatch.setenv(data.RESULTS_VARIABLE, str(own.parent))
    monkeypatch.delenv("RAY_COURSE_ENGINE", raising=False)
    monkeypatch.delenv(sizes.VARIABLE, raising=False)
    assert llm_engine.model_to_serve() == own, "vLLM runs, and serves whatever the reader has"
    monkeypatch.setenv("RAY_COURSE_ENGINE", "stored")
    assert llm_engine.model_to_serve() == data.FINE_TUNED_GPTJ
    monkeypatch.delenv("RAY_COURSE_ENGINE")
    (environment / ".ready").unlink()
    assert llm_engine.model_to_serve() == data.FINE_TUNED_GPTJ
    monkeypatch.setenv(sizes.VARIABLE, "cluster")
    assert llm_engine.model_to_serve() == own, "a cluster serves what was trained on it"
