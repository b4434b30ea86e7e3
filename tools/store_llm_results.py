"""Run notebook 08 and store what vLLM did in it, for machines that cannot run vLLM.

    .venv/bin/python -m tools.store_llm_results

Writes data/llm_engine.json, which `helpers.llm_engine` reads. Use an idle machine.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK = REPOSITORY / "notebooks" / "08_serve_gptj.ipynb"
KEEP = """
import os
from helpers.llm_engine import STORED

assert engine.url, engine.about
results = {
    "machine": f"{os.cpu_count()} cores",
    "answers": theirs,
    "loss": round(loss, 4),
    "loss in capitals": round(wrong, 4),
    "speed": engines.reset_index().round(1).to_dict("records"),
}
STORED.write_text(json.dumps(results, indent=1) + "\\n")
"""


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    last = max(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells.insert(last, nbformat.v4.new_code_cell(KEEP))
    os.environ["RAY_COURSE_SIZE"] = "laptop"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    print("wrote data/llm_engine.json")


if __name__ == "__main__":
    sys.exit(main())
