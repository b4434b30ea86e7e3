"""What the checks of notebook 00 send to workers can be used where this package is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import ray

from helpers.exercises import start_here, watched

pytestmark = pytest.mark.fast

WORKER = """
import pickle, sys
sys.modules["helpers"] = None  # an import of it fails
traced, squares, together, out_of_order = pickle.load(open(sys.argv[1], "rb"))
print(int(traced), squares(0, [2, 3]), together([0, 1], []), out_of_order([0, 1], []))
"""


def loaded_elsewhere(path: Path) -> subprocess.CompletedProcess[str]:
    """Load what the checks send, in a process that cannot import this package."""
    sent = (start_here._Traced(5), start_here._squares, watched.all_together(2), start_here._out_of_order(3))
    path.write_bytes(ray.cloudpickle.dumps(sent))
    return subprocess.run([sys.executable, "-c", WORKER, str(path)], capture_output=True, text=True)


def test_checks_travel_with_their_code(tmp_path: Path) -> None:
    with start_here._sent_along():
        done = loaded_elsewhere(tmp_path / "sent")
    assert done.stdout == "5 [4, 9] [1] [0]\n", done.stderr


def test_without_it_they_would_not(tmp_path: Path) -> None:
    assert "ModuleNotFoundError" in loaded_elsewhere(tmp_path / "sent").stderr
