"""Notebook 08 where vLLM is not installed, and Ray Serve LLM with two models behind one route."""

from __future__ import annotations

import nbformat
import openai
import pytest
import yaml
from nbclient import NotebookClient

from helpers import data, llm_engine
from helpers.session import free_port

LESSON = data.REPOSITORY / "notebooks" / "08_serve_gptj.ipynb"
pytestmark = pytest.mark.long


def test_the_lesson_shows_stored_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_COURSE_ENGINE", "stored")
    notebook = nbformat.read(LESSON, 4)
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(LESSON.parent)}}).execute()
    shown = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    texts = {tag: "".join(output.get("text", "") for output in cell.get("outputs", [])) for tag, cell in shown.items()}
    assert "stored on another machine" in texts["engine"]
    assert "6 of 6 answers" in texts["equal"]
    assert "times our tokens per second" in texts["compare"] and "trainer: 0.0" in texts["agree"]


@pytest.mark.skipif(not (llm_engine.ENVIRONMENT / ".ready").is_file(), reason="needs `make llm`")
def test_two_models_behind_one_route() -> None:
    config = yaml.safe_load((data.REPOSITORY / "cluster" / "gptj_vllm.yaml").read_text())
    models = config["applications"][0]["args"]["llm_configs"]
    models[0]["placement_group_config"] = {"bundles": [{"CPU": 0.7}]}
    models.append({**models[0], "model_loading_config": {"model_id": "base", "model_source": ""}})
    folders = {"tuned": str(data.fine_tuned_gptj()), "base": str(data.tiny_gptj())}
    server = llm_engine.LLMServer(yaml.safe_dump(config), folders, free_port(8001))
    try:
        client = openai.OpenAI(base_url=server.url, api_key="none")
        assert {model.id for model in client.models.list()} == {"tuned", "base"}
        how = {"prompt": "ROMEO.", "max_tokens": 20, "temperature": 0}
        answers = {name: client.completions.create(model=name, **how).choices[0].text for name in folders}
        assert answers["tuned"] != answers["base"]
    finally:
        server.close()
