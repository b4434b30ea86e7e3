"""Ray's command line answers about the cluster of the notebook."""

from __future__ import annotations

import re
import shlex

import nbformat
import numpy as np
import pytest

from helpers import terminal
from helpers.data import REPOSITORY
from helpers.terminal import ray_command


@pytest.mark.fast
def test_without_ray_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.ray, "is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match="call ray.init first"):
        ray_command("memory")


def test_it_asks_this_cluster(ray_session: None) -> None:
    import ray

    ref = ray.put(np.zeros(5_000_000))  # 40 MB
    said = ray_command("memory", "--stats-only")
    used = re.search(r"Plasma memory usage (\d+) MiB, .*% full, .*% needed", said)
    assert used and int(used.group(1)) >= 38, said
    assert ray.get(ref)[0] == 0


def test_a_command_that_fails_says_why(ray_session: None) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ray memory --no-such-option` failed: .*No such option"):
        ray_command("memory", "--no-such-option")


def test_the_commands_of_the_field_guide_work(ray_session: None) -> None:
    import ray

    guide = nbformat.read(REPOSITORY / "notebooks" / "reference" / "field_guide.ipynb", 4)
    text = "\n".join(cell.source for cell in guide.cells if cell.cell_type == "markdown")
    commands = re.findall(r"(?m)^ray (.+?) +#", text)
    assert len(commands) == 5
    kept = ray.put(np.zeros(1_000_000))
    for command in commands:
        assert ray_command(*shlex.split(command)), command
    del kept
