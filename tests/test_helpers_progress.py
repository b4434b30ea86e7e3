"""What the progress display says, with reports made up here instead of a training."""

from __future__ import annotations

import pickle
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import progress as module
from helpers.progress import SweepProgress, TrainingProgress

pytestmark = pytest.mark.fast

NOW = 1000.0


class Display:
    """Stands for the handle of a notebook's output."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, data: dict[str, str], raw: bool) -> None:
        assert raw
        self.texts.append(data["text/plain"])


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> TrainingProgress:
    monkeypatch.setattr(module.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(module.ray, "cluster_resources", lambda: {"CPU": 2.0, "memory": 1e9})
    monkeypatch.setattr(module.ray, "available_resources", lambda: {"memory": 1e9})
    made = TrainingProgress("epoch", total=4)
    made._started, made._shown = NOW - 100, Display()
    monkeypatch.setattr(time, "time", lambda: NOW)
    return made


def report(ago: float, **metrics: Any) -> dict[str, Any]:
    return {"time": NOW - ago, "metrics": metrics}


def last_text(progress: TrainingProgress, finished: bool = False) -> list[str]:
    progress._show(finished)
    return progress._shown.texts[-1].splitlines()


def test_before_the_first_report(progress: TrainingProgress) -> None:
    progress._started = NOW - 15
    assert last_text(progress) == ["starting workers ...", "    15 s  running"]


def test_long_start_tells_what_the_cluster_has(progress: TrainingProgress) -> None:
    first, waiting, last = last_text(progress)
    assert (first, last) == ("starting workers ...", "   100 s  running")
    assert waiting.startswith("no report yet: the cluster has 2 CPU (0 free) and 0 GPU (0 free).")
    progress._reports = [report(30, epoch=1)]
    assert len(last_text(progress)) == 2


def test_long_start_does_not_start_another_ray(progress: TrainingProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(module.ray, "cluster_resources", lambda: pytest.fail("this would start Ray"))
    assert last_text(progress) == ["starting workers ...", "   100 s  running"]


def test_time_left_needs_two_reports(progress: TrainingProgress) -> None:
    progress._reports = [report(30, epoch=1, loss=0.1234)]
    assert last_text(progress) == ["    70 s  epoch 1 of 4  loss 0.123", "   100 s  running"]


def test_time_left(progress: TrainingProgress) -> None:
    # 20 seconds for an epoch, 2 epochs to go, 5 seconds of them already gone.
    progress._reports = [report(25, epoch=1, loss=0.1234), report(5, epoch=2, loss=0.25)]
    assert last_text(progress)[-1] == "   100 s  running, about 35 s left"


def test_time_left_is_never_negative(progress: TrainingProgress) -> None:
    progress._reports = [report(60, epoch=3), report(50, epoch=4)]
    assert last_text(progress)[-1].endswith("about 0 s left")


def test_step_that_goes_back_after_a_failure(progress: TrainingProgress) -> None:
    progress._reports = [report(60, epoch=2), report(40, epoch=2)]
    assert last_text(progress)[-1] == "   100 s  running"


def test_report_without_the_step(progress: TrainingProgress) -> None:
    progress._reports = [report(60, loss=0.1234), report(40, epoch=2)]
    assert last_text(progress)[0] == "    40 s  epoch ? of 4  loss 0.123"


def test_only_the_wished_metrics_are_shown(progress: TrainingProgress) -> None:
    progress.show = ["loss", "missing"]
    progress._reports = [report(50, epoch=1, loss=0.5, learning_rate=0.1, speed=5123.4)]
    assert last_text(progress)[0] == "    50 s  epoch 1 of 4  loss 0.5"
    progress.show = ["speed"]
    assert last_text(progress)[0] == "    50 s  epoch 1 of 4  speed 5,123"


def test_failed_worker_is_told(progress: TrainingProgress) -> None:
    progress._reports = [report(60, epoch=1), {"time": NOW - 50, "failed": 1, "error": "WorkerDied"}]
    assert last_text(progress)[1] == "    50 s  worker of rank 1 failed: WorkerDied"


def test_end(progress: TrainingProgress) -> None:
    progress._reports = [report(60, epoch=4)]
    assert last_text(progress, finished=True)[-1] == "   100 s  done"


def test_block_that_fails_says_so_and_leaves_no_board(
    progress: TrainingProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(module.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(module.ray, "kill", killed.append)
    progress._board, progress._done = "board", threading.Event()
    progress._thread = SimpleNamespace(join=lambda timeout: None)
    progress.__exit__(ValueError, None, None)
    assert last_text(progress, finished=True)[-1] == "   100 s  stopped by ValueError"
    assert killed == ["board"] and progress._done.is_set()


def test_callback_sends_reports_and_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    board = SimpleNamespace(add=SimpleNamespace(remote=sent.append))
    monkeypatch.setattr(module.ray, "get_actor", lambda name: board)
    callback = module._SendReports("name")
    callback.after_report(None, [{"epoch": 1}, {"epoch": 2}], None)
    callback.after_exception(None, {1: ValueError()})
    assert [{k: v for k, v in entry.items() if k != "time"} for entry in sent] == [
        {"metrics": {"epoch": 1}},
        {"failed": 1, "error": "ValueError"},
    ]


def test_outside_of_a_notebook(progress: TrainingProgress) -> None:
    progress._shown = None  # what IPython's display returns in a script
    progress._show(finished=True)


def test_two_displays_do_not_share_a_board() -> None:
    assert TrainingProgress("epoch", 1).callback.board_name != TrainingProgress("epoch", 1).callback.board_name


# A sweep of Ray Tune ---------------------------------------------------------


def trial(status: str, reports: int = 0, **values: float) -> Any:
    analysis = {name: {"max": value, "min": value} for name, value in values.items()}
    finished = status in ("TERMINATED", "ERROR")
    result = {"training_iteration": reports} if reports else None
    return SimpleNamespace(status=status, last_result=result, metric_analysis=analysis, is_finished=lambda: finished)


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch) -> SweepProgress:
    monkeypatch.setattr("IPython.display.display", lambda *args, **options: Display())
    monkeypatch.setattr(time, "time", lambda: NOW)
    made = SweepProgress()
    made.setup(start_time=NOW - 42, total_samples=3, metric="accuracy", mode="max")
    return made


TRIALS = [trial("TERMINATED", 3, accuracy=0.5), trial("RUNNING", 1, accuracy=0.75), trial("PENDING")]


def test_sweep_under_way(sweep: SweepProgress) -> None:
    sweep.report(TRIALS, False)
    assert sweep._shown.texts == ["42 s  running: 1 of 3 trials, 4 reports, best accuracy 0.75"]


def test_sweep_is_shown_once_a_second(sweep: SweepProgress) -> None:
    assert sweep.should_report(TRIALS)
    sweep.report(TRIALS, False)
    assert not sweep.should_report(TRIALS)
    assert sweep.should_report(TRIALS, done=True)


def test_sweep_that_ends(sweep: SweepProgress) -> None:
    ended = [trial("TERMINATED", 3, accuracy=0.5), trial("ERROR"), trial("TERMINATED", 1, accuracy=0.25)]
    assert sweep._sentence(ended, True) == "42 s  done: 3 of 3 trials (1 with an error), 4 reports, best accuracy 0.5"


def test_interrupted_sweep_does_not_say_done(sweep: SweepProgress) -> None:
    assert "interrupted: 1 of 3 trials" in sweep._sentence(TRIALS, True)
    assert "interrupted: 1 of 3 trials" in sweep._sentence(TRIALS[:1], True)


def test_best_of_a_metric_that_should_be_small(sweep: SweepProgress) -> None:
    sweep.setup(total_samples=2, metric="loss", mode="min")
    found = sweep._sentence([trial("TERMINATED", 1, loss=0.5), trial("TERMINATED", 1, loss=0.25)], True)
    assert found.endswith("best loss 0.25")


def test_sweep_without_a_report_yet(sweep: SweepProgress) -> None:
    assert sweep._sentence([trial("PENDING")], False) == "42 s  running: 0 of 3 trials, 0 reports"


def test_sweep_is_saved_without_its_display(sweep: SweepProgress) -> None:
    copy = pickle.loads(pickle.dumps(sweep))  # noqa: S301
    copy.report(TRIALS, True)  # nothing to show it in: no error


def test_sweep_outside_of_a_notebook(sweep: SweepProgress) -> None:
    sweep._shown = None
    sweep.report(TRIALS, False)
