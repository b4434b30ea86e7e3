"""A callback that interrupts a sweep, and one that keeps what Ray Tune forgets then."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler


class PressStop(tune.Callback):
    """Send this process the signal of a notebook's stop button, once.

    Args:
        when: gets all trials and the newest result, and says whether it is time.
        pressed: a file that does not exist yet. It is made then, so that a restored sweep, to which Tune gives its
            callbacks back, is not interrupted again.

    Source: built on ray.tune.Callback.
    """

    def __init__(self, when: Callable[[list[Any], dict[str, Any]], bool], pressed: Path) -> None:
        self.when, self.pressed = when, pressed

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tune calls this for every result."""
        if not self.pressed.exists() and self.when(trials, result):
            self.pressed.touch()
            signal.raise_signal(signal.SIGINT)


class KeepScheduler(tune.Callback):
    """Save a scheduler together with its sweep, so that `Tuner.restore` brings it back as it was.

        asha = ASHAScheduler(...)
        tuner = tune.Tuner(
            ...,
            tune_config=tune.TuneConfig(scheduler=asha, ...),
            run_config=tune.RunConfig(callbacks=[KeepScheduler(asha)], ...),
        )

    Tune saves the trials, the searcher and the callbacks of a sweep, but no
    scheduler. A restored ASHA starts with empty rungs: the first trials that
    arrive there are compared with nobody and go on, however bad they are. This
    callback puts what `scheduler.save` writes into its own state. Tune pickles
    scheduler and callbacks into one file, so after `Tuner.restore` the callback
    still holds the scheduler that Tune will ask.

    Args:
        scheduler: the very object that `TuneConfig` gets.

    Raises:
        ValueError: the scheduler cannot be saved; `save` is there for
            ASHAScheduler and ResourceChangingScheduler only.

    Source: built on ray.tune.Callback.get_state and set_state, and on ASHAScheduler.save and restore.
    """

    def __init__(self, scheduler: TrialScheduler) -> None:
        self.scheduler = scheduler
        try:
            self.get_state()
        except NotImplementedError:
            raise ValueError(
                f"KeepScheduler got a {type(scheduler).__name__}, which Ray Tune cannot save: "
                "expected an ASHAScheduler. Leave the callback out; after Tuner.restore the scheduler begins anew."
            ) from None

    def get_state(self) -> dict[str, Any]:
        """What Tune saves beside the trials, each time it saves the sweep."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scheduler"
            self.scheduler.save(str(file))
            return {"scheduler": file.read_bytes()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Give the scheduler back what was saved, before Tune adds the restored trials to it."""
        print("scheduler as Tune restores it:", self._summary())
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scheduler"
            file.write_bytes(state["scheduler"])
            self.scheduler.restore(str(file))
        print("scheduler with KeepScheduler: ", self._summary())

    def _summary(self) -> str:
        """The last line of the scheduler's own summary: for ASHA, the value to reach at each rung."""
        return self.scheduler.debug_string().splitlines()[-1]
