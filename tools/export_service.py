"""Write the service of notebook 06 as a module, which `serve deploy` can import on a cluster.

    .venv/bin/python tools/export_service.py

The cells of the notebook that have the tag `service` go into
cluster/fashion_mnist_service.py as they stand. There is one source, the
notebook; a test holds that the module is up to date.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK = REPOSITORY / "notebooks" / "06_serve_fashion_mnist.ipynb"
MODULE = REPOSITORY / "cluster" / "fashion_mnist_service.py"
TAG = "service"
HEAD = '''"""The FashionMNIST service of notebook 06, for `serve run`, `serve build` and `serve deploy`.

Written by tools/export_service.py from the cells of the notebook with the tag
`{tag}`: change them there, and run it again.
"""

'''
TAIL = """

application = build(Settings())  # for `serve build`, which wants an application
"""


def module_text() -> str:
    """The module, as the notebook has it now."""
    cells = [c for c in nbformat.read(NOTEBOOK, 4).cells if TAG in c.metadata.get("tags", [])]
    if not cells:
        raise ValueError(f"{NOTEBOOK.name} has no cell with the tag {TAG!r}.")
    return HEAD.format(tag=TAG) + "\n\n\n".join(cell.source.strip() for cell in cells) + TAIL


def formatted_module() -> str:
    """The module as it is committed: formatted like all modules."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(MODULE), "-"]
    return subprocess.run(command, input=module_text(), capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    MODULE.parent.mkdir(exist_ok=True)
    MODULE.write_text(formatted_module())
    print(f"wrote {MODULE.relative_to(REPOSITORY)}")
