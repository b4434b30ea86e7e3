"""What the notebooks share and what is not their lesson.

Loading data, plots, measuring, exercise checks, the machine check, choosing
the size of a run and the settings for Ray. Every Ray call that a notebook is
about stays in the notebook.
"""

import os
import sys

if "ray" not in sys.modules:
    # Under `uv run`, Ray would start its workers with `uv run`, too, from a copy of the current folder. The workers of
    # this course use the environment that is there. `import ray` reads this; helpers.session tells who comes later.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
