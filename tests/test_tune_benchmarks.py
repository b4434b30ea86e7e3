"""The stored measurements belong to notebook 05 as it is now, and are what their scripts write."""

from __future__ import annotations

import ast
import heapq
import tempfile
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from ray.tune.experiment import Experiment
from ray.tune.search.basic_variant import BasicVariantGenerator

from benchmarks.asha import lesson as asha
from benchmarks.asha.no_stopping import SAMPLING_SEED, SETTINGS
from benchmarks.asha.search import SEEDS, WAYS
from tests.forbidden import machine_paths

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def lesson() -> dict[str, Any]:
    return asha.lesson()


@pytest.fixture(scope="module")
def stored() -> pd.DataFrame:
    return pd.read_csv(asha.FOLDER / "no_stopping.csv")


def drawn(space: dict[str, Any], seed: int, count: int) -> list[dict[str, Any]]:
    """The configurations that a sweep over this space would try, without running it."""
    generator = BasicVariantGenerator(random_state=seed)
    with tempfile.TemporaryDirectory() as folder:  # without it, Tune makes one in the home folder
        sweep = Experiment("drawn", run=lambda c: None, config=space, num_samples=count, storage_path=folder)
        generator.add_configurations([sweep])
        return [generator.next_trial().config for _ in range(count)]


def test_stored_curves_have_the_configurations_of_the_notebook(lesson: dict[str, Any], stored: pd.DataFrame) -> None:
    configs = drawn(lesson["space"], SAMPLING_SEED, lesson["size"].trials)
    expected = pd.DataFrame(configs)[list(SETTINGS)]
    found = stored.groupby("trial")[list(SETTINGS)].first()
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, check_names=False, rtol=1e-12)


def test_another_seed_draws_other_configurations(lesson: dict[str, Any], stored: pd.DataFrame) -> None:
    other = drawn(lesson["space"], SAMPLING_SEED + 1, 5)
    assert not {config["seed"] for config in other} & set(stored["seed"])


def test_no_stored_trial_was_stopped(lesson: dict[str, Any], stored: pd.DataFrame) -> None:
    size = lesson["size"]
    assert len(stored) == size.trials * size.max_epochs
    epochs = list(range(1, size.max_epochs + 1))
    assert all(list(curve) == epochs for _, curve in stored.groupby("trial")["epoch"])
    assert stored["val_accuracy"].between(0, 1).all()


def test_search_is_real(stored: pd.DataFrame) -> None:
    """Bad settings are bad, and the best is hard to find: otherwise ASHA would prove nothing."""
    best = stored.groupby("trial")["val_accuracy"].max()
    assert best.min() < 0.5 < best.median() < best.max() - 0.02
    assert (best > best.max() - 0.005).mean() < 0.2


def cell_with(text: str) -> str:
    """The source of the only code cell with this text."""
    (found,) = [c.source for c in nbformat.read(asha.NOTEBOOK, 4).cells if c.cell_type == "code" and text in c.source]
    return found


def test_the_notebook_draws_with_the_seed_of_the_stored_run() -> None:
    assert "search_alg=draws" in cell_with(f"random_state={SAMPLING_SEED})")


def test_both_ways_to_search_are_compared_at_an_equal_budget() -> None:
    many = pd.read_csv(asha.FOLDER / "search.csv").set_index(["way", "seed"])
    assert set(many.index) == {(way, seed) for way in WAYS for seed in SEEDS}
    assert (many["trials"] == 40).all()
    assert (many.groupby("seed")["budget"].nunique() == 1).all()
    assert (many.groupby("seed")["epochs"].min() == many.groupby("seed")["budget"].first()).all()


def test_random_search_drew_what_the_notebook_would(lesson: dict[str, Any]) -> None:
    many = pd.read_csv(asha.FOLDER / "search.csv").set_index(["way", "seed"])
    for seed in SEEDS:
        (first,) = drawn({**lesson["space"], "epochs": 9, "seed": seed}, seed, 1)
        assert many.loc[("random", seed), "lr"] == pytest.approx(first["lr"])


@pytest.mark.parametrize("name", ["no_stopping", "search"])
def test_measurement_names_its_versions_and_no_machine(name: str) -> None:
    text = (asha.FOLDER / f"{name}.json").read_text()
    assert not machine_paths(text)
    for word in ("ray", "torch", "cores", "date", "seconds"):
        assert f'"{word}"' in text


def test_only_tagged_cells_are_run() -> None:
    notebook = nbformat.read(asha.NOTEBOOK, 4)
    tagged = "\n".join(c.source for c in notebook.cells if asha.TAG in c.metadata.get("tags", []))
    assert "def train_trial" in tagged
    assert "ray.init(" not in tagged and "= tuner.fit()" not in tagged


def scheduler_of_the_notebook(names: dict[str, Any]) -> Any:
    """A new one, made by the notebook's own words."""
    calls = [node for node in ast.walk(ast.parse(cell_with("num_samples=size.trials"))) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if ast.unparse(node.func).endswith("ASHAScheduler")]
    return eval(compile(ast.Expression(call), "scheduler", "eval"), names)  # noqa: S307


class FakeTrial:
    """As much of a trial as ASHA looks at."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config, self.stub = str(number), {}, None


def asha_on(stored: pd.DataFrame, names: dict[str, Any], seed: int) -> tuple[float, int]:
    """Ray's own scheduler over the stored curves, two trials at once, with times that vary by chance.

    Returns the best accuracy that it sees, and the epochs that it spends.
    """
    rng = np.random.default_rng(seed)
    scheduler = scheduler_of_the_notebook(names)
    scheduler.set_search_properties("val_accuracy", "max")
    curves = {t: c.sort_values("epoch") for t, c in stored.groupby("trial")}
    waiting, running, best, spent = list(curves), [], 0.0, 0

    def start(now: float) -> None:
        if waiting:
            trial = FakeTrial(waiting.pop(0))
            scheduler.on_trial_add(None, trial)
            rows = curves[int(trial.trial_id)].itertuples()
            heapq.heappush(running, (now + rng.uniform(0.1, 0.3), int(trial.trial_id), trial, next(rows), rows))

    start(0.0), start(0.0)
    while running:
        now, number, trial, row, rows = heapq.heappop(running)
        best, spent = max(best, row.val_accuracy), spent + 1
        report = {"val_accuracy": row.val_accuracy, "training_iteration": row.epoch}
        goes_on = scheduler.on_trial_result(None, trial, report) == "CONTINUE"
        following = next(rows, None) if goes_on else None
        if following is None:
            start(now)
        else:
            seconds = following.train_s * rng.lognormal(0, 0.4)
            heapq.heappush(running, (now + seconds, number, trial, following, rows))
    return best, spent


def test_asha_keeps_its_promise_whatever_finishes_first(lesson: dict[str, Any], stored: pd.DataFrame) -> None:
    """Which trial reports first is chance. The promise of the notebook must not be."""
    found = [asha_on(stored, dict(lesson), seed) for seed in range(30)]
    assert len({spent for _, spent in found}) > 5, "the order makes no difference, so nothing was tried"
    assert min(best for best, _ in found) >= stored["val_accuracy"].max() - 0.005
    assert max(spent for _, spent in found) <= len(stored) / 3


def test_the_rule_in_the_notebook_is_that_of_ray(lesson: dict[str, Any], stored: pd.DataFrame) -> None:
    """The 500 orders of the notebook are decided by a few lines of its own; Ray decides alike, one trial at a time."""
    names = {**lesson, "stored": stored}
    exec(cell_with("def asha_once("), names)
    rng = np.random.default_rng(3)
    for _ in range(5):
        arrivals = rng.permutation(stored["trial"].unique())
        scheduler = scheduler_of_the_notebook(names)
        scheduler.set_search_properties("val_accuracy", "max")
        best, spent = 0.0, 0
        for number in arrivals:
            trial = FakeTrial(int(number))
            scheduler.on_trial_add(None, trial)
            for row in stored[stored["trial"] == number].sort_values("epoch").itertuples():
                best, spent = max(best, row.val_accuracy), spent + 1
                report = {"val_accuracy": row.val_accuracy, "training_iteration": row.epoch}
                if scheduler.on_trial_result(None, trial, report) != "CONTINUE":
                    break
        assert names["asha_once"](arrivals) == (spent, best)
