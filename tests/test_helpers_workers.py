"""The workers of the checks of notebook 04: threads that meet as real workers do."""

from __future__ import annotations

import ray.train
import ray.train.torch
import torch
from torch.utils.data import DataLoader

from helpers.exercises.workers import Team, Watched


def test_a_sum_needs_all_workers() -> None:
    def add_up(number: float, meets: bool) -> None:
        total = torch.tensor(number)
        if meets:
            torch.distributed.all_reduce(total)
        ray.train.report({"total": total.item()})

    with Team(2) as team:
        run = team.work(add_up, [(1.0, True), (2.0, True)])
        assert not run.stuck
        assert run.reports == [[{"total": 3.0}], [{"total": 3.0}]]
    with Team(2) as team:
        assert team.work(add_up, [(1.0, True), (2.0, False)]).stuck


def test_gradients_are_averaged_and_rows_are_shared() -> None:
    gradients = {}

    def train(points: Watched) -> None:
        model = ray.train.torch.prepare_model(torch.nn.Linear(1, 1, bias=False))
        loader = ray.train.torch.prepare_data_loader(DataLoader(points, batch_size=2))
        for x, _ in loader:
            model(x).sum().backward()
        rank = ray.train.get_context().get_world_rank()
        gradients[rank] = model.module.weight.grad.item()

    with Team(2) as team:
        points = Watched(team, 4)  # at 0, 0.25, 0.5 and 0.75
        run = team.work(train, [(points,)] * 2)
    assert not run.stuck
    assert points.read == {0: [0, 2], 1: [1, 3]}
    assert gradients == {0: 0.75, 1: 0.75}


def test_ray_is_itself_again_afterwards() -> None:
    before = (ray.train.report, ray.train.get_checkpoint, torch.distributed.all_reduce)
    with Team(1) as team:
        team.work(lambda: ray.train.report({"x": 1}), [()])
    assert before == (ray.train.report, ray.train.get_checkpoint, torch.distributed.all_reduce)


def test_the_newest_checkpoint_comes_back(tmp_path) -> None:
    def save(text: str) -> None:
        (tmp_path / "state").write_text(text)
        ray.train.report({"x": 1}, checkpoint=ray.train.Checkpoint.from_directory(str(tmp_path)))
        (tmp_path / "state").write_text("changed later")
        with ray.train.get_checkpoint().as_directory() as folder:
            assert open(f"{folder}/state").read() == text

    with Team(1) as team:
        team.work(save, [("one",)])
