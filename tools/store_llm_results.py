"""Store what vLLM did in the committed notebook 08, for machines that cannot run vLLM.

    .venv/bin/python -m tools.store_llm_results

Writes data/llm_engine.json, which `helpers.llm_engine` reads. Run it after `make notebooks` has refreshed it. The
numbers come from its outputs. The texts come from Transformers: the notebook has found that vLLM writes the same.
"""

from __future__ import annotations

import ast
import json
import os
import re
from typing import Any

import nbformat

from helpers import data
from helpers.language_models import load_model
from helpers.llm_engine import STORED

NOTEBOOK = data.REPOSITORY / "notebooks" / "08_serve_gptj.ipynb"
COLUMNS = ("tokens per second", "first token, p50 ms", "first token, p95 ms", "failed")
TOKENS = 40  # in each answer, as in the notebook


def shown() -> dict[str, str]:
    """Tag -> what the cell with this tag has printed."""
    cells = nbformat.read(NOTEBOOK, 4).cells
    texts = {}
    for cell in cells:
        for tag in cell.metadata.get("tags", []):
            texts[tag] = "".join(output.get("text", "") for output in cell.get("outputs", []))
    return texts


def results() -> dict[str, Any]:
    """What the notebook shows of vLLM, but for the texts.

    Raises:
        ValueError: the notebook ran without vLLM, or found other texts than those of Transformers.
    """
    texts = shown()
    if "vLLM answers" not in texts["engine"] or "6 of 6 answers are the same" not in texts["equal"]:
        raise ValueError(f"{NOTEBOOK.name} expected a run of vLLM with equal answers, but it shows: {texts['engine']}")
    rows = [line.split() for line in texts["compare"].splitlines() if re.match(r"\d+ ", line)]
    return {
        "loss": ast.literal_eval(texts["agree"].splitlines()[0]),
        "speed": [
            {"clients": int(clients), **dict(zip(COLUMNS, map(float, values), strict=True))}
            for clients, *values in rows
        ],
    }


def answers() -> list[str]:
    """The likeliest continuation of each of the notebook's prompts."""
    source = next(cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if "verses = [" in cell.source)
    prompts = json.loads(re.search(r"verses = (\[.*\])", source).group(1))
    model, tokenizer = load_model(str(data.shipped_gptj()))  # whoever reads them may have another model, or none
    written = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)[0]
        written.append(tokenizer.decode(tokens[inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return written


def main() -> None:
    stored = {"machine": f"{os.cpu_count()} cores", "answers": answers(), **results()}
    STORED.write_text(json.dumps(stored, indent=1) + "\n")
    print(f"wrote {STORED.relative_to(data.REPOSITORY)}")


if __name__ == "__main__":
    main()
