"""Write the service of notebook 08 as a module, which `serve deploy` can import on a cluster.

    .venv/bin/python tools/export_service.py

The cells of the notebook that have the tag `service` go into
cluster/gptj_service.py as they stand. There is one source, the notebook;
a test holds that the module is up to date.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat

REPOSITORY = Path(__file__).resolve().parent.parent
GPTJ_MODULE = REPOSITORY / "cluster" / "gptj_service.py"
# Module -> its notebook, and how the notebook's service is called.
SOURCES = {
    GPTJ_MODULE: (REPOSITORY / "notebooks" / "08_serve_gptj.ipynb", "The GPT-J service of notebook 08"),
}
TAG = "service"
HEAD = '''"""{title}, for `serve run`, `serve build` and `serve deploy`.

Written by tools/export_service.py from the cells of the notebook with the tag
`{tag}`: change them there, and run it again.
"""

'''
TAIL = """

application = build(Settings())  # for `serve build`, which wants an application
"""


def module_text(module: Path = GPTJ_MODULE) -> str:
    """A module, as its notebook has it now."""
    notebook, title = SOURCES[module]
    cells = [c for c in nbformat.read(notebook, 4).cells if TAG in c.metadata.get("tags", [])]
    if not cells:
        raise ValueError(f"{notebook.name} has no cell with the tag {TAG!r}.")
    return HEAD.format(title=title, tag=TAG) + "\n\n\n".join(cell.source.strip() for cell in cells) + TAIL


def formatted_module(module: Path = GPTJ_MODULE) -> str:
    """A module as it is committed: formatted like all modules."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(module), "-"]
    return subprocess.run(command, input=module_text(module), capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    for path in SOURCES:
        path.write_text(formatted_module(path))
        print(f"wrote {path.relative_to(REPOSITORY)}")
