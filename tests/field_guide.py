"""Where each row of notebooks/reference/field_guide.ipynb is caused: its first words -> notebook and tag of the cell.

tests/expectations.py expects something of each of these cells, so a new version of Ray that changes a row turns the run
of that notebook red. A row without words in the guide, or the other way round, fails tests/test_field_guide.py.
"""

from __future__ import annotations

NOTEBOOK = "reference/field_guide"
TASKS, STORE, DEBUGGING = "01_tasks_and_actors", "02_object_store", "10_debugging_and_faults"
MEMORY = "deep_dives/memory_under_pressure"
ROWS: dict[str, tuple[str, str]] = {
    "a task stays `PENDING_NODE_ASSIGNMENT`, CPUs are free": (NOTEBOOK, "nothing"),
    "a task stays `PENDING_NODE_ASSIGNMENT`, no CPU is free": (NOTEBOOK, "nothing"),
    "a task stays `PENDING_ARGS_AVAIL`": (NOTEBOOK, "nothing"),
    "calls of an actor never return, and it is `PENDING_CREATION`": (NOTEBOOK, "nothing"),
    "tasks stay `RUNNING`, and one `SUBMITTED_TO_WORKER`": (DEBUGGING, "waiting"),
    "a `print` is missing": (TASKS, "nothing"),
    "`RayTaskError(...)`, your own exception": (NOTEBOOK, "fails"),
    "`WorkerCrashedError`": (NOTEBOOK, "fails"),
    "`ActorDiedError` after some calls": (NOTEBOOK, "fails"),
    "`ActorDiedError` at the first call": (NOTEBOOK, "fails"),
    "`OutOfMemoryError`": (MEMORY, "out-of-memory"),
    "`OutOfDiskError`": (MEMORY, "disk-full"),
    "`OwnerDiedError`": (NOTEBOOK, "fails"),
    "`ObjectReconstructionFailedError`": (MEMORY, "lost"),
    "`GetTimeoutError`": (NOTEBOOK, "fails"),
    "`TypeError`, *cannot pickle*": (DEBUGGING, "pickle"),
    "`ModuleNotFoundError` in a worker": (NOTEBOOK, "fails"),
    "`RuntimeEnvSetupError`": (NOTEBOOK, "fails"),
    "`ValueError`, *read-only*": (NOTEBOOK, "fails"),
    "tasks run one after the other": (NOTEBOOK, "slow"),
    "one worker works, the others wait": (DEBUGGING, "timeline"),
    "each call with a large argument takes long": (STORE, "pass-array"),
    "PyTorch or NumPy is slower in a task than in the notebook": (NOTEBOOK, "threads"),
    "each task spends seconds before it begins": (TASKS, "actor"),
    "a result is missing, and there is no exception": (DEBUGGING, "failed"),
    "a global variable has not changed": (NOTEBOOK, "wrong"),
    "something happened twice": (NOTEBOOK, "wrong"),
    "an edit has no effect": (DEBUGGING, "stale"),
    "memory grows and stays": (STORE, "pinned"),
    "the disk fills": (STORE, "spilling"),
    "many tasks, and hardly faster than a loop": ("00_start_here", "break-even"),
}
