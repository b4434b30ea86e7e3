"""What an interrupted sweep keeps: trials and checkpoints, and its scheduler only with KeepScheduler."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

from helpers.sweeps import KeepScheduler, PressStop

SCORES = [0.9, 0.8, 0.7, 0.5, 0.4]  # each worse than the one before, so at the first rung only the best goes on
EPOCHS = 8


def steady_trial(config: dict[str, Any]) -> None:
    """Reports its score, epoch after epoch, and goes on where its checkpoint ended."""
    done, checkpoint = 0, tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            done = json.loads((Path(folder) / "epoch.json").read_text())
    for epoch in range(done + 1, EPOCHS + 1):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "epoch.json").write_text(json.dumps(epoch))
            metrics = {"epoch": epoch, "score": config["score"]}
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def is_time(trials: list, result: dict[str, Any]) -> bool:
    """The trial with 0.5 is under way."""
    return result["config"]["score"] == 0.5


def interrupted_and_restored(folder: Path, keep: bool) -> dict[float, int]:
    """How many epochs each trial had in the end, by score."""
    asha = ASHAScheduler(max_t=EPOCHS, grace_period=2, reduction_factor=2)
    choices = {"metric": "score", "mode": "max", "max_concurrent_trials": 1, "reuse_actors": True}
    callbacks = [PressStop(is_time, folder / "pressed"), *([KeepScheduler(asha)] if keep else [])]
    first = tune.Tuner(
        steady_trial,
        param_space={"score": tune.grid_search(SCORES)},
        tune_config=tune.TuneConfig(scheduler=asha, **choices),
        run_config=tune.RunConfig(name="sweep", storage_path=str(folder), verbose=0, callbacks=callbacks),
    ).fit()
    before = {result.config["score"]: (result.metrics or {}).get("epoch", 0) for result in first}
    assert before[0.9] == EPOCHS and before[0.8] == before[0.7] == 2, "ASHA did not work before the interruption"
    assert before[0.5] == 1, "the trial that was under way had already met a rung"
    second = tune.Tuner.restore(first.experiment_path, steady_trial).fit()
    return {result.config["score"]: result.metrics["epoch"] for result in second}


def test_restored_scheduler_forgets_its_rungs(ray_session: None, tmp_path: Path) -> None:
    """Why the course has KeepScheduler. If this fails, Ray saves schedulers, and KeepScheduler can go."""
    ended = interrupted_and_restored(tmp_path, keep=False)
    assert ended[0.5] == EPOCHS, "the empty rung lets the first to arrive pass, though 0.7 was stopped before"
    assert (ended[0.9], ended[0.8], ended[0.7]) == (EPOCHS, 2, 2), "what had ended stays as it was"


def test_kept_scheduler_remembers_its_rungs(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = interrupted_and_restored(tmp_path, keep=True)
    assert ended == {0.9: EPOCHS, 0.8: 2, 0.7: 2, 0.5: 2, 0.4: 2}
    said = capsys.readouterr().out
    assert "as Tune restores it: Bracket: Iter 8.000: None | Iter 4.000: None | Iter 2.000: None" in said
    assert "with KeepScheduler:  Bracket: Iter 8.000: 0.9 | Iter 4.000: 0.9 | Iter 2.000: 0.8" in said


@pytest.mark.fast
def test_scheduler_that_cannot_be_saved_is_refused() -> None:
    pbt = PopulationBasedTraining(hyperparam_mutations={"lr": [0.1, 0.2]})
    with pytest.raises(ValueError, match="got a PopulationBasedTraining, which Ray Tune cannot save: expected an ASHA"):
        KeepScheduler(pbt)


@pytest.fixture
def pressable() -> Iterator[None]:
    """The signal raises KeyboardInterrupt, whatever a sweep before has left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before or signal.default_int_handler)


@pytest.mark.fast
def test_stop_is_pressed_once(pressable: None, tmp_path: Path) -> None:
    press = PressStop(lambda trials, result: result["epoch"] >= 3, tmp_path / "pressed")
    for epoch in (1, 2):
        press.on_trial_result(0, [], None, {"epoch": epoch})
    with pytest.raises(KeyboardInterrupt):
        press.on_trial_result(0, [], None, {"epoch": 3})
    press.on_trial_result(0, [], None, {"epoch": 4})
