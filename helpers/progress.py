"""Live progress of a Ray Train run, or of a sweep of Ray Tune, in the notebook."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

import ray
from ray import tune
from ray.train import Checkpoint, UserCallback

# After so many seconds without a report the display says what the workers may be waiting for.
PATIENCE_S = 20.0


@ray.remote(num_cpus=0)
class _Board:
    """Collects the reports of the workers; lives as long as the progress display."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []

    def add(self, report: dict[str, Any]) -> None:
        self.reports.append(report)

    def all(self) -> list[dict[str, Any]]:
        return self.reports


class _SendReports(UserCallback):
    """Runs in Ray Train's controller process and passes each report on to the board."""

    def __init__(self, board_name: str) -> None:
        self.board_name = board_name

    def _send(self, entry: dict[str, Any]) -> None:
        try:
            board = ray.get_actor(self.board_name)
        except ValueError:
            return  # nobody watches any more; the training must not fail for that
        board.add.remote({"time": time.time(), **entry})

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        self._send({"metrics": metrics[0]})

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for rank, error in worker_exceptions.items():
            self._send({"failed": rank, "error": type(error).__name__})


class TrainingProgress:
    """Show the newest report of a running `trainer.fit()`, with the time that is left.

        with TrainingProgress("epoch", total=3) as progress:
            trainer = TorchTrainer(..., run_config=RunConfig(callbacks=[progress.callback]))
            result = trainer.fit()

    Args:
        step: the reported metric that counts up to `total`.
        total: its last value, for the time that is left.
        show: names of the metrics that are shown; by default all numbers with a fraction.

    Source: built on ray.train.UserCallback.
    """

    def __init__(self, step: str, total: int, show: Sequence[str] | None = None) -> None:
        self.step, self.total, self.show = step, total, show
        self._name = f"progress-{uuid.uuid4().hex[:8]}"
        self.callback = _SendReports(self._name)
        self._reports: list[dict[str, Any]] = []
        self._end = "done"

    def __enter__(self) -> TrainingProgress:
        from IPython.display import display

        self._board = _Board.options(name=self._name).remote()
        self._started = time.time()
        self._done = threading.Event()
        self._shown = display({"text/plain": "starting workers ..."}, raw=True, display_id=True)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        self._end = f"stopped by {error.__name__}" if error else "done"
        # Stop was pressed: Ray Train makes SystemExit of it, and Python KeyboardInterrupt before Ray Train listens.
        if error and issubclass(error, (KeyboardInterrupt, SystemExit)):
            self._end = "stopped: the workers are being ended. Run the cell again to start anew."
        self._done.set()
        self._thread.join(timeout=30)
        if ray.is_initialized():
            ray.kill(self._board)

    def _follow(self) -> None:
        while True:
            last_look = self._done.wait(1.0)
            try:
                # Without this question, ray.get would start a new Ray after a shutdown.
                if ray.is_initialized():
                    self._reports = ray.get(self._board.all.remote(), timeout=20)
            except ray.exceptions.RayError:
                pass  # the cluster is going down; what was seen so far stays
            self._show(finished=last_look)
            if last_look:
                return

    def _show(self, finished: bool) -> None:
        lines = [f"{r['time'] - self._started:6.0f} s  {self._sentence(r)}" for r in self._reports]
        elapsed = time.time() - self._started
        lines = lines or ["starting workers ..."]
        if not self._reports and not finished and elapsed > PATIENCE_S:
            lines += filter(None, [_what_there_is()])
        if finished:
            lines.append(f"{elapsed:6.0f} s  {self._end}")
        else:
            lines.append(f"{elapsed:6.0f} s  running{self._time_left()}")
        if self._shown is not None:
            self._shown.update({"text/plain": "\n".join(lines)}, raw=True)

    def _time_left(self) -> str:
        steps = [(r["time"], r["metrics"][self.step]) for r in self._reports if self.step in r.get("metrics", {})]
        if len(steps) < 2 or steps[-1][1] <= steps[0][1]:
            return ""
        pace = (steps[-1][0] - steps[0][0]) / (steps[-1][1] - steps[0][1])
        left = pace * (self.total - steps[-1][1]) - (time.time() - steps[-1][0])
        return f", about {max(0, left):.0f} s left"

    def _sentence(self, report: dict[str, Any]) -> str:
        if "failed" in report:
            return f"worker of rank {report['failed']} failed: {report['error']}"
        metrics = report["metrics"]
        names = [name for name in metrics if name != self.step] if self.show is None else self.show
        rest = "  ".join(f"{name} {_short(metrics[name])}" for name in names if isinstance(metrics.get(name), float))
        return f"{self.step} {metrics.get(self.step, '?')} of {self.total}  {rest}"


def _what_there_is() -> str:
    """What the cluster has and what of it is free: too little of it is the usual reason for a start without an end."""
    if not ray.is_initialized():
        return ""
    try:
        total, free = ray.cluster_resources(), ray.available_resources()
    except ray.exceptions.RayError:
        return ""  # the cluster is going down
    parts = [f"{total.get(name, 0):g} {name} ({free.get(name, 0):g} free)" for name in ("CPU", "GPU")]
    return (
        f"no report yet: the cluster has {' and '.join(parts)}. Workers that ask for more than is free wait; if it is "
        "more than there is at all, interrupt this cell, and ask for less or add a node."
    )


def _short(number: float) -> str:
    """Three digits, and no exponent for thousands."""
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e9 else f"{number:.3g}"


class SweepProgress(tune.ProgressReporter):
    """Show how far a running `tuner.fit()` is, on one line that is renewed each second.

        tuner = Tuner(..., run_config=RunConfig(verbose=1, progress_reporter=SweepProgress()))

    Source: built on ray.tune.ProgressReporter, which Tune calls in the notebook's own process.
    """

    def __init__(self) -> None:
        self._shown: Any = None
        self._started = self._next_time = 0.0
        self._total, self._metric, self._sign = 0, "", 1

    def __getstate__(self) -> dict[str, Any]:
        # Tune saves its reporter with the sweep; the place in the notebook cannot be saved.
        return {**self.__dict__, "_shown": None}

    def setup(
        self,
        start_time: float | None = None,
        total_samples: int | None = None,
        metric: str | None = None,
        mode: str | None = None,
        **others: Any,
    ) -> None:
        """Called by Tune when the sweep starts: what is shown, and of how many trials."""
        from IPython.display import display

        self._started, self._next_time = start_time or time.time(), 0.0
        self._total, self._metric, self._sign = total_samples or 0, metric or "", -1 if mode == "min" else 1
        self._shown = display({"text/plain": "starting ..."}, raw=True, display_id=True)

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Called by Tune after each step: True once a second, and at the end."""
        return done or time.time() >= self._next_time

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        """Called by Tune: renew the line."""
        self._next_time = time.time() + 1.0
        if self._shown is not None:
            self._shown.update({"text/plain": self._sentence(trials, done)}, raw=True)

    def _sentence(self, trials: list[Any], done: bool) -> str:
        total = max(self._total, len(trials))
        finished = sum(trial.is_finished() for trial in trials)
        failed = sum(trial.status == "ERROR" for trial in trials)
        reports = sum((trial.last_result or {}).get("training_iteration", 0) for trial in trials)
        state = "running" if not done else "done" if finished == total else "interrupted"
        line = f"{time.time() - self._started:.0f} s  {state}: {finished} of {total} trials"
        line += f" ({failed} with an error)" if failed else ""
        line += f", {reports:,} reports"
        seen = [self._sign * value for trial in trials if (value := self._best(trial)) is not None]
        return line + (f", best {self._metric} {self._sign * max(seen):.4g}" if seen else "")

    def _best(self, trial: Any) -> float | None:
        """The best value of one trial so far; None before its first report."""
        return trial.metric_analysis.get(self._metric, {}).get("max" if self._sign > 0 else "min")
