"""Answers to the exercises of the deep dive 'Fine-tuning with LoRA'."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ray
import ray.train
import torch
from ray.train import Checkpoint, get_context, report
from ray.util import ActorPool
from safetensors.torch import save_file

from helpers.exercises import lora

NAME = "trained.safetensors"

# --- exercise 1: report what was trained ------------------------------------------------------------------------------


def trained_of(model):
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def report_tensors(tensors_of, name=NAME, save=save_file):
    """An answer that is right but for the tensors, their file's name or its format."""

    def answer(model, metrics):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if ray.train.get_context().get_world_rank() == 0:
                save(tensors_of(model), f"{folder}/{name}")
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint)

    return answer


def rank_0_alone_reports(model, metrics):
    if ray.train.get_context().get_world_rank() == 0:
        with tempfile.TemporaryDirectory() as folder:
            save_file(trained_of(model.module), f"{folder}/{NAME}")
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def only_metrics(model, metrics):
    ray.train.report(metrics)


def folder_is_gone(model, metrics):
    checkpoint = None
    if ray.train.get_context().get_world_rank() == 0:
        with tempfile.TemporaryDirectory() as folder:
            save_file(trained_of(model.module), f"{folder}/{NAME}")
            checkpoint = ray.train.Checkpoint.from_directory(folder)
    ray.train.report(metrics, checkpoint=checkpoint)


def no_metrics(model, metrics):
    with tempfile.TemporaryDirectory() as folder:
        save_file(trained_of(model.module), f"{folder}/{NAME}")
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def the_base_as_well(model, metrics):
    with tempfile.TemporaryDirectory() as folder:
        save_file(trained_of(model.module), f"{folder}/{NAME}")
        save_file(model.module.state_dict(), f"{folder}/model.safetensors")
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def as_peft_does(model, metrics):
    with tempfile.TemporaryDirectory() as folder:
        model.module.save_pretrained(folder)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def reports_twice(model, metrics):
    report_tensors(lambda model: trained_of(model.module))(model, metrics)
    ray.train.report(metrics)


def gradients_of(model):
    return {name: p.grad for name, p in model.module.named_parameters() if p.requires_grad}


def halves_of(model):
    return {name: p.half() for name, p in trained_of(model.module).items()}


def matrices_of(model):
    return {name: p for name, p in trained_of(model.module).items() if p.ndim == 2}


def everybody_saves(model, metrics):
    with tempfile.TemporaryDirectory() as folder:
        save_file(trained_of(model.module), Path(folder, NAME))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint(folder))


def with_imported_names(model, metrics):
    folder = tempfile.TemporaryDirectory()
    if get_context().get_world_rank() > 0:
        return report(metrics)
    state, trained = model.module.state_dict(), set(trained_of(model.module))
    save_file({name: state[name] for name in trained}, Path(folder.name) / NAME, metadata={"rank": "2"})
    report(checkpoint=Checkpoint.from_directory(folder.name), metrics=metrics)


def with_the_rank_of_torch(model, metrics):
    names = {name.removeprefix("module."): p.data for name, p in model.named_parameters() if p.requires_grad}
    with tempfile.TemporaryDirectory() as folder:
        save_file(names, f"{folder}/{NAME}")
        last = torch.distributed.get_world_size() - 1
        mine = Checkpoint.from_directory(folder) if torch.distributed.get_rank() == last else None
        ray.train.report({**metrics, "mb": 1}, mine)


# --- exercise 2: one base, many voices --------------------------------------------------------------------------------


def base_for_each(base, adapters, score):
    task = ray.remote(score)
    tasks = {name: task.remote(base, adapter) for name, adapter in adapters.items()}
    return {name: ray.get(ref) for name, ref in tasks.items()}


def one_by_one(base, adapters, score):
    task, base_ref = ray.remote(score), ray.put(base)
    return {name: ray.get(task.remote(base_ref, adapter)) for name, adapter in adapters.items()}


def puts_in_the_loop(base, adapters, score):
    task = ray.remote(score)
    tasks = {name: task.remote(ray.put(base), adapter) for name, adapter in adapters.items()}
    return {name: ray.get(ref) for name, ref in tasks.items()}


def here(base, adapters, score):
    return {name: score(base, adapter) for name, adapter in adapters.items()}


def only_references(base, adapters, score):
    task, base_ref = ray.remote(score), ray.put(base)
    return {name: task.remote(base_ref, adapter) for name, adapter in adapters.items()}


def a_list(base, adapters, score):
    task, base_ref = ray.remote(score), ray.put(base)
    return ray.get([task.remote(base_ref, adapter) for adapter in adapters.values()])


def two_cpus_each(base, adapters, score):
    task, base_ref = ray.remote(num_cpus=2)(score), ray.put(base)
    tasks = {name: task.remote(base_ref, adapter) for name, adapter in adapters.items()}
    return {name: ray.get(ref) for name, ref in tasks.items()}


def as_they_end(base, adapters, score):
    task, base_ref = ray.remote(score), ray.put(base)
    pending, values = [task.remote(base_ref, adapter) for adapter in adapters.values()], []
    while pending:
        ready, pending = ray.wait(pending)
        values += ray.get(ready)
    return dict(zip(adapters, values, strict=True))


def reference_in_a_list(base, adapters, score):
    task, base_ref = ray.remote(lambda bases, adapter: score(bases[0], adapter)), ray.put(base)
    tasks = {name: task.remote([base_ref], adapter) for name, adapter in adapters.items()}
    return {name: ray.get(ref) for name, ref in tasks.items()}


def only_the_first(base, adapters, score):
    task, base_ref = ray.remote(score), ray.put(base)
    refs = [task.remote(base_ref, adapter) for adapter in adapters.values()]
    return {next(iter(adapters)): ray.get(refs)[0]}


def reference_for_all_adapters(base, adapters, score):
    return ray.get(ray.remote(score).remote(ray.put(base), adapters))


def with_two_actors(base, adapters, score):
    @ray.remote(num_cpus=1)
    class Scorer:
        def __init__(self, base):
            self.base = base

        def score(self, name, adapter):
            return name, score(self.base, adapter)

    base_ref = ray.put(base)
    pool = ActorPool([Scorer.remote(base_ref) for _ in range(2)])
    return dict(pool.map_unordered(lambda actor, item: actor.score.remote(*item), list(adapters.items())))


def with_all_at_once(base, adapters, score):
    @ray.remote
    def named(model, name, adapter):
        return name, score(adapter=adapter, base=model)

    base_ref = ray.put(base)
    return dict(ray.get([named.remote(base_ref, *item) for item in adapters.items()]))


def from_the_last_one(base, adapters, score):
    task, base_ref = ray.remote(score).options(num_cpus=1), ray.put(base)
    refs = [task.remote(base=base_ref, adapter=adapters[name]) for name in reversed(adapters)]
    return {name: torch.tensor(value) for name, value in zip(reversed(adapters), ray.get(refs), strict=True)}


def one_that_looks_inside(base, adapters, score):
    """A task that starts the others, with the reference of the notebook."""

    @ray.remote(num_cpus=0)
    def start_all(base_refs):
        task = ray.remote(score)
        refs = {name: task.remote(base_refs[0], adapter) for name, adapter in adapters.items()}
        return dict(zip(refs, ray.get(list(refs.values())), strict=True))

    return ray.get(start_all.remote([ray.put(base)]))


WRONG = {
    (1, lora.report_trained): [
        (report_tensors(lambda model: model.module.state_dict()), "requires_grad is True"),
        (report_tensors(trained_of), "puts `module.` before"),
        (rank_0_alone_reports, "bring no checkpoint"),
        (only_metrics, "Pass checkpoint="),
        (folder_is_gone, "inside it"),
        (no_metrics, "Hand the metrics on"),
        (the_base_as_well, "more in the folder"),
        (as_peft_does, "has no attribute 'save_pretrained'"),
        (reports_twice, "Call ray.train.report once"),
        (report_tensors(gradients_of), "not their gradients"),
        (report_tensors(halves_of), "nothing rounded"),
        (report_tensors(matrices_of), "Go through all of named_parameters()"),
        (report_tensors(lambda model: trained_of(model.module), name="adapter.safetensors"), "Save into f"),
        (report_tensors(lambda model: trained_of(model.module), save=torch.save), "another format, a pickle"),
    ],
    (2, lora.all_voices): [
        (base_for_each, "before the loop, and pass base_ref"),
        (one_by_one, "before you call ray.get"),
        (puts_in_the_loop, "before the loop, and pass base_ref"),
        (here, "ray.remote(score)"),
        (only_references, "what ray.get says"),
        (a_list, "Return a dict"),
        (two_cpus_each, "before you call ray.get"),
        (as_they_end, "together with its name"),
        (reference_in_a_list, "score(base, adapter) takes the base and one adapter"),
        (only_the_first, "Give each adapter"),
        (reference_for_all_adapters, "score(base, adapter) takes the base and one adapter"),
    ],
}
RIGHT = {
    (1, lora.report_trained): [everybody_saves, with_imported_names, with_the_rank_of_torch],
    (2, lora.all_voices): [with_two_actors, with_all_at_once, from_the_last_one, one_that_looks_inside],
}
