"""Answers to the exercises of notebook 04."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import ray.train
import ray.train.torch
import torch
from ray.train import report
from ray.train.torch import prepare_data_loader, prepare_model
from torch.utils.data import DataLoader

from helpers.exercises import train

# --- 1: a plain loop becomes a training function ----------------------------------------------------------------------


def fit_line(config, model, loader, optimizer, after_epoch, after_batch=lambda epoch, loss: None):
    """The loop that learners are given."""
    for epoch in range(config["epochs"]):
        for x, y in loader:
            loss = torch.nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            after_batch(epoch, loss)
        after_epoch(epoch, loss)


def plain_loader(config):
    return DataLoader(config["points"], batch_size=10)


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.2)


def tell(epoch, loss):
    ray.train.report({"epoch": epoch, "loss": loss.item()})


def nothing(epoch, loss):
    pass


def only_reports(config):
    model = torch.nn.Linear(1, 1)
    fit_line(config, model, plain_loader(config), sgd(model), tell)


def prepares_the_model_only(config):
    model = ray.train.torch.prepare_model(torch.nn.Linear(1, 1))
    fit_line(config, model, plain_loader(config), sgd(model), tell)


def prepares_the_loader_only(config):
    model = torch.nn.Linear(1, 1)
    fit_line(config, model, ray.train.torch.prepare_data_loader(plain_loader(config)), sgd(model), tell)


def drops_the_prepared_model(config):
    model = torch.nn.Linear(1, 1)
    ray.train.torch.prepare_model(model)
    fit_line(config, model, ray.train.torch.prepare_data_loader(plain_loader(config)), sgd(model), tell)


def drops_the_prepared_loader(config):
    model, loader = ray.train.torch.prepare_model(torch.nn.Linear(1, 1)), plain_loader(config)
    ray.train.torch.prepare_data_loader(loader)
    fit_line(config, model, loader, sgd(model), tell)


def line_with(after_epoch, after_batch=nothing):
    """A right training function but for the reports."""

    def answer(config):
        model = ray.train.torch.prepare_model(torch.nn.Linear(1, 1))
        loader = ray.train.torch.prepare_data_loader(plain_loader(config))
        fit_line(config, model, loader, sgd(model), after_epoch, after_batch)

    return answer


def tell_on_rank_0(epoch, loss):
    if ray.train.get_context().get_world_rank() == 0:
        tell(epoch, loss)


def reports_once(config):
    losses = []
    line_with(lambda epoch, loss: losses.append(loss.item()))(config)
    ray.train.report({"loss": losses[-1]})


def one_epoch_only(config):
    line_with(tell)({**config, "epochs": 1})


def line_from_the_unwrapped_parameters(config):
    plain = torch.nn.Linear(1, 1)
    optimizer = sgd(plain)
    fit_line(config, prepare_model(plain), prepare_data_loader(plain_loader(config)), optimizer, tell)


def line_with_imported_names(config):
    model = prepare_model(torch.nn.Linear(1, 1))
    loader = prepare_data_loader(DataLoader(config["points"], batch_size=10, shuffle=True))
    fit_line(
        config, model, loader, sgd(model), lambda epoch, loss: report({"loss": float(loss.detach()), "done": epoch + 1})
    )


def line_with_the_mean_loss(config):
    def mean_loss(epoch, loss):
        total = loss.detach().clone()
        torch.distributed.all_reduce(total)
        ray.train.report(metrics={"loss": total / ray.train.get_context().get_world_size()})

    line_with(mean_loss)(config)


# --- 2: accuracy over all workers -------------------------------------------------------------------------------------


def summed(*values):
    total = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return total.tolist()


def reports_its_own(correct, count):
    ray.train.report({"accuracy": correct / count})


def reports_the_mean(correct, count):
    (total,) = summed(correct / count)
    ray.train.report({"accuracy": total / ray.train.get_context().get_world_size()})


def reports_the_sum(correct, count):
    ray.train.report({"accuracy": summed(correct / count)[0]})


def reports_percent(correct, count):
    correct, count = summed(correct, count)
    ray.train.report({"accuracy": 100 * correct / count})


def reports_correct(correct, count):
    ray.train.report({"accuracy": summed(correct, count)[0]})


def returns_only(correct, count):
    correct, count = summed(correct, count)
    return correct / count


def reports_from_rank_0(correct, count):
    correct, count = summed(correct, count)
    if ray.train.get_context().get_world_rank() == 0:
        ray.train.report({"accuracy": correct / count})


def sums_on_rank_0(correct, count):
    if ray.train.get_context().get_world_rank() == 0:
        correct, count = summed(correct, count)
    ray.train.report({"accuracy": correct / count})


def sums_one_count(correct, count):
    ray.train.report({"accuracy": summed(correct)[0] / count})


def names_it_otherwise(correct, count):
    correct, count = summed(correct, count)
    ray.train.report({"acc": correct / count})


def accuracy_of_integers(correct, count):
    total = torch.tensor([correct, count])
    torch.distributed.all_reduce(total, op=torch.distributed.ReduceOp.SUM)
    report({"accuracy": (total[0] / total[1]).item()})


def accuracy_of_gathered_objects(correct, count):
    shares = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(shares, (correct, count))
    ray.train.report({"accuracy": sum(c for c, _ in shares) / sum(n for _, n in shares), "images": len(shares)})


def accuracy_in_two_sums(correct, count):
    accuracy = torch.tensor(summed(correct)[0] / summed(count)[0])
    ray.train.report(metrics={"accuracy": accuracy})


# --- 3: a training function that goes on ------------------------------------------------------------------------------


def saved(state, folder, rank_0_only=True):
    """A checkpoint with this state; None in the workers that save nothing."""
    if rank_0_only and ray.train.get_context().get_world_rank() != 0:
        return None
    torch.save(state, Path(folder) / "state.pt")
    return ray.train.Checkpoint.from_directory(folder)


def loaded():
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / "state.pt")


def resumable(
    first=1, save_optimizer=True, restore=True, when=lambda step, config: True, rank_0_only=True, early=False
):
    """A training function with one mistake, or none."""

    def answer(config):
        model, optimizer = config["build"]()
        done, state = 0, loaded() if restore else None
        if state:
            model.load_state_dict(state["model"])
            if save_optimizer:
                optimizer.load_state_dict(state["optimizer"])
            done = state["step"] + first - 1
        for step in range(done + 1, config["steps"] + 1):
            state = {"model": {name: value.clone() for name, value in model.state_dict().items()}}
            config["train_step"](model, optimizer, step)
            state = state if early else {"model": model.state_dict()}
            state.update(optimizer=optimizer.state_dict(), step=step)
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = saved(state, folder, rank_0_only) if when(step, config) else None
                ray.train.report({"step": step}, checkpoint=checkpoint)

    return answer


def forgets_the_step(config):
    model, optimizer = config["build"]()
    if state := loaded():
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    for step in range(1, config["steps"] + 1):
        config["train_step"](model, optimizer, step)
        with tempfile.TemporaryDirectory() as folder:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            ray.train.report({"step": step}, checkpoint=saved(state, folder))


def reports_on_rank_0_only(config):
    model, optimizer = config["build"]()
    for step in range(1, config["steps"] + 1):
        config["train_step"](model, optimizer, step)
        if ray.train.get_context().get_world_rank() == 0:
            with tempfile.TemporaryDirectory() as folder:
                ray.train.report({"step": step}, checkpoint=saved({"model": model.state_dict()}, folder))


def loads_in_rank_0_only(config):
    if ray.train.get_context().get_world_rank() == 0:
        return resumable()(config)
    return resumable(restore=False)(config)


def removes_the_folder_first(config):
    model, optimizer = config["build"]()
    for step in range(1, config["steps"] + 1):
        config["train_step"](model, optimizer, step)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = saved({"model": model.state_dict()}, folder)
        ray.train.report({"step": step}, checkpoint=checkpoint)


def resumable_with_two_files(config):
    model, optimizer = config["build"]()
    done, checkpoint = 0, ray.train.get_checkpoint()
    if checkpoint:
        folder = Path(checkpoint.to_directory())
        done = json.loads((folder / "step.json").read_text())
        for name, part in (("model", model), ("optimizer", optimizer)):
            part.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    for step in range(1, config["steps"] + 1):
        if step <= done:
            continue
        config["train_step"](model, optimizer, step)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "step.json").write_text(json.dumps(step))
            torch.save(model.state_dict(), folder / "model.pt")
            torch.save(optimizer.state_dict(), folder / "optimizer.pt")
            report({"step": step, "done": step == config["steps"]}, checkpoint=ray.train.Checkpoint(name))


WRONG = {
    (1, train.train_points): [
        (only_reports, "its own share"),
        (prepares_the_model_only, "its own share"),
        (prepares_the_loader_only, "to ray.train.torch.prepare_model once"),
        (drops_the_prepared_model, "that prepare_model returns"),
        (drops_the_prepared_loader, "that prepare_data_loader returns"),
        (line_with(nothing), "Replace the print"),
        (line_with(tell_on_rank_0), "waits until all of them"),
        (line_with(nothing, tell), "Report once for each epoch"),
        (reports_once, "Report once for each epoch"),
        (one_epoch_only, "once in each of the 3 epochs"),
        (line_with(lambda epoch, loss: ray.train.report(loss=loss.item())), "raised TypeError"),
        (line_with(lambda epoch, loss: ray.train.report(loss.item())), "a dict of metrics"),
        (line_with(lambda epoch, loss: ray.train.report({"epoch": epoch})), 'for the name "loss"'),
    ],
    (2, train.report_accuracy): [
        (reports_its_own, "the workers' own accuracies"),
        (reports_the_mean, "mean of the accuracies"),
        (reports_the_sum, "accuracies added up"),
        (reports_percent, "multiply by 100"),
        (reports_correct, "divide by the number of all images"),
        (returns_only, "ray.train.report"),
        (reports_from_rank_0, "whatever its rank"),
        (sums_on_rank_0, "whatever its rank"),
        (sums_one_count, "Add up both counts"),
        (names_it_otherwise, '{"accuracy": 0.9}'),
        (lambda correct, count: ray.train.report(accuracy=correct / count), "raised TypeError"),
    ],
    (3, train.train_resumable): [
        (resumable(restore=False), "The run began anew"),
        (forgets_the_step, "The run began anew"),
        (resumable(first=0), "done already"),
        (resumable(first=2), "A step is left out"),
        (resumable(save_optimizer=False), "the averages of Adam"),
        (resumable(early=True), "the averages of Adam"),
        (resumable(when=lambda step, config: False), "nothing to go on from"),
        (resumable(when=lambda step, config: step == config["steps"]), "before which one a worker dies"),
        (reports_on_rank_0_only, "waits until all of them"),
        (loads_in_rank_0_only, "The run began anew"),
        (removes_the_folder_first, "raised"),
    ],
}
RIGHT = {
    (1, train.train_points): [
        line_with(tell),
        line_from_the_unwrapped_parameters,
        line_with_imported_names,
        line_with_the_mean_loss,
    ],
    (2, train.report_accuracy): [
        accuracy_of_integers,
        accuracy_of_gathered_objects,
        accuracy_in_two_sums,
    ],
    (3, train.train_resumable): [
        resumable(),
        resumable(rank_0_only=False),
        resumable_with_two_files,
    ],
}
