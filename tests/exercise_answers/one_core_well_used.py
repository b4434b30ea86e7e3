"""Answers to the exercises of the deep dive 'One core, well used'."""

from __future__ import annotations

import time

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import get_context

from helpers.exercises import one_core

# --- exercise 1: steps per second -------------------------------------------------------------------------------------


def rate_here(make_step, count):
    step = make_step()
    start = time.perf_counter()
    for _ in range(count):
        step()
    return count / (time.perf_counter() - start)


@ray.remote
def rate_with(threads, make_step, count):
    torch.set_num_threads(threads)
    return rate_here(make_step, count)


@ray.remote
def rate_with_building(threads, make_step, count):
    torch.set_num_threads(threads)
    start = time.perf_counter()
    step = make_step()
    for _ in range(count):
        step()
    return count / (time.perf_counter() - start)


@ray.remote
def rate_of_last_step(threads, make_step, count):
    torch.set_num_threads(threads)
    step = make_step()
    for _ in range(count):
        start = time.perf_counter()
        step()
    return count / (time.perf_counter() - start)


@ray.remote
class Trainer:
    def __init__(self, threads, make_step):
        torch.set_num_threads(threads)
        self.step = make_step()
        self.step()  # warm up

    def rate(self, count):
        start = time.perf_counter()
        for _ in range(count):
            self.step()
        return count / (time.perf_counter() - start)


def in_the_notebook(cpus, make_step, count):
    torch.set_num_threads(cpus)
    return rate_here(make_step, count)


def reserves_nothing_special(cpus, make_step, count):
    return ray.get(rate_with.remote(cpus, make_step, count))


def always_one_thread(cpus, make_step, count):
    return ray.get(rate_with.options(num_cpus=cpus).remote(1, make_step, count))


def clock_around_everything(cpus, make_step, count):
    start = time.perf_counter()
    ray.get(rate_with.options(num_cpus=cpus).remote(cpus, make_step, count))
    return count / (time.perf_counter() - start)


def clock_around_building(cpus, make_step, count):
    return ray.get(rate_with_building.options(num_cpus=cpus).remote(cpus, make_step, count))


def one_step_only(cpus, make_step, count):
    return ray.get(rate_with.options(num_cpus=cpus).remote(cpus, make_step, 1))


def clock_of_the_last(cpus, make_step, count):
    return ray.get(rate_of_last_step.options(num_cpus=cpus).remote(cpus, make_step, count))


def upside_down(cpus, make_step, count):
    return 1 / ray.get(rate_with.options(num_cpus=cpus).remote(cpus, make_step, count))


def a_reference(cpus, make_step, count):
    return rate_with.options(num_cpus=cpus).remote(cpus, make_step, count)


def never_steps(cpus, make_step, count):
    return 10.0


def with_an_actor(cpus, make_step, count):
    return ray.get(Trainer.options(num_cpus=cpus).remote(cpus, make_step).rate.remote(count))


def with_a_function_inside(cpus, make_step, count):
    @ray.remote(num_cpus=cpus, max_retries=0)
    def measure():
        torch.set_num_threads(int(ray.get_runtime_context().get_assigned_resources()["CPU"]))
        return torch.tensor(rate_here(make_step, count))

    return ray.get(measure.remote())


def with_seconds_added_up(cpus, make_step, count):
    @ray.remote
    def seconds():
        torch.set_num_threads(cpus)
        step, total = make_step(), 0.0
        for _ in range(count):
            start = time.perf_counter()
            step()
            total += time.perf_counter() - start
        return total

    return count / ray.get(seconds.options(num_cpus=cpus).remote())


# --- exercise 2: one message ------------------------------------------------------------------------------------------


def workers():
    return ray.train.get_context().get_world_size()


def joined(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def put_back(everything, parameters):
    for p in parameters:
        p.grad.copy_(everything[: p.numel()].view_as(p))
        everything = everything[p.numel() :]


def message_for_each_tensor(model):
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= workers()


def not_put_back(model):
    everything = joined(model)
    dist.all_reduce(everything)
    everything /= workers()


def sums_only(model):
    everything = joined(model)
    dist.all_reduce(everything)
    put_back(everything, model.parameters())


def put_back_from_the_last(model):
    everything = joined(model)
    dist.all_reduce(everything)
    put_back(everything / workers(), reversed(list(model.parameters())))


def always_the_first_numbers(model):
    everything = joined(model)
    dist.all_reduce(everything)
    for p in model.parameters():
        p.grad.copy_(everything[: p.numel()].view_as(p) / workers())


def forgets_the_shape(model):
    everything = joined(model)
    dist.all_reduce(everything)
    start = 0
    for p in model.parameters():
        p.grad = everything[start : start + p.numel()] / workers()
        start += p.numel()


def averages_the_weights(model):
    everything = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    dist.all_reduce(everything)
    torch.nn.utils.vector_to_parameters(everything / workers(), model.parameters())


def rank_0_only(model):
    if ray.train.get_context().get_world_rank() == 0:
        sums_only(model)


def divides_by_two(model):
    everything = joined(model)
    dist.all_reduce(everything)
    put_back(everything / 2, model.parameters())


def first_layer_only(model):
    everything = joined(model[0])
    dist.all_reduce(everything)
    put_back(everything / workers(), model[0].parameters())


def takes_the_largest(model):
    everything = joined(model)
    dist.all_reduce(everything, op=dist.ReduceOp.MAX)
    put_back(everything, model.parameters())


def with_the_tools_of_torch(model):
    gradients = [p.grad for p in model.parameters()]
    everything = torch.nn.utils.parameters_to_vector(gradients)
    dist.all_reduce(everything)
    torch.nn.utils.vector_to_parameters(everything / workers(), gradients)


def gathers(model):
    everything = joined(model)
    shares = [torch.empty_like(everything) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, everything)
    average = torch.stack(shares).mean(dim=0)
    sizes = [p.numel() for p in model.parameters()]
    for p, part in zip(model.parameters(), average.split(sizes), strict=True):
        p.grad = part.reshape(p.shape)


def from_the_last_and_divides_first(model):
    parameters = list(reversed(list(model.parameters())))
    everything = torch.cat([p.grad.flatten() for p in parameters]).div_(get_context().get_world_size())
    dist.all_reduce(everything, op=dist.ReduceOp.SUM)
    put_back(everything, parameters)
    return model


# --- exercise 3: side by side -----------------------------------------------------------------------------------------


@ray.remote
def train_one(training):
    torch.set_num_threads(1)
    return training()


@ray.remote
def train_with_two_threads(training):
    torch.set_num_threads(2)
    return training()


@ray.remote
class Tutor:
    def train(self, training):
        torch.set_num_threads(1)
        return training()


def one_after_the_other(trainings):
    return [ray.get(train_one.remote(training)) for training in trainings]


def two_threads_each(trainings):
    return ray.get([train_with_two_threads.remote(training) for training in trainings])


def here_in_the_notebook(trainings):
    return [training() for training in trainings[:1]]


def all_at_once(trainings):
    return ray.get([train_one.options(num_cpus=0).remote(training) for training in trainings])


def two_cpus_each(trainings):
    return ray.get([train_one.options(num_cpus=2).remote(training) for training in trainings])


def as_they_end(trainings):
    waiting, losses = [train_one.remote(training) for training in trainings], []
    while waiting:
        ready, waiting = ray.wait(waiting)
        losses += ray.get(ready)
    return losses


def only_references(trainings):
    references = [train_one.remote(training) for training in trainings]
    ray.wait(references, num_returns=len(references))
    return references


def only_the_first(trainings):
    return ray.get([train_one.remote(training) for training in trainings[:2]])


def losses_in_a_dict(trainings):
    references = [train_one.remote(training) for training in trainings]
    return dict(enumerate(ray.get(references)))


def with_a_list_of_actors(trainings):
    tutors = [Tutor.options(num_cpus=1).remote() for _ in range(2)]
    return ray.get([tutors[place % 2].train.remote(training) for place, training in enumerate(trainings)])


def a_few_at_a_time(trainings):
    losses = []
    for place in range(0, len(trainings), 2):
        losses += ray.get([train_one.remote(training) for training in trainings[place : place + 2]])
    return tuple(losses)


def from_the_last_one(trainings):
    @ray.remote(num_cpus=1)
    def alone(number):
        torch.set_num_threads(1)
        return number, trainings[number]()

    pairs = ray.get([alone.remote(number) for number in reversed(range(len(trainings)))])
    return torch.tensor([loss for _, loss in sorted(pairs)])


WRONG = {
    (1, one_core.steps_per_second): [
        (clock_around_building, "after make_step() has built"),
        (reserves_nothing_special, ".options(num_cpus=cpus)"),
        (always_one_thread, "torch.set_num_threads(cpus)"),
        (in_the_notebook, "a task or an actor"),
        (clock_around_everything, "after make_step() has built"),
        (one_step_only, "`count` times"),
        (clock_of_the_last, "before the first one"),
        (upside_down, "the other way round"),
        (a_reference, "what ray.get says"),
        (never_steps, "Call make_step()"),
    ],
    (2, one_core.average_in_one_message): [
        (message_for_each_tensor, "one long tensor"),
        (not_put_back, "put its parts back"),
        (sums_only, "divide by the number of workers"),
        (put_back_from_the_last, "in the order in which"),
        (always_the_first_numbers, "in the order in which"),
        (forgets_the_shape, "raised RuntimeError"),
        (averages_the_weights, "Leave the weights alone"),
        (rank_0_only, "whatever its rank"),
        (divides_by_two, "get_world_size()"),
        (first_layer_only, "all of model.parameters()"),
        (takes_the_largest, "Add up with all_reduce"),
        (lambda model: dist.all_reduce(model.grad), "raised AttributeError"),
    ],
    (3, one_core.train_all): [
        (one_after_the_other, "before you call ray.get"),
        (two_threads_each, "torch.set_num_threads(1)"),
        (here_in_the_notebook, "Let a task call"),
        (all_at_once, "reserves one CPU"),
        (two_cpus_each, "reserve"),
        (as_they_end, "in the order of the trainings"),
        (only_references, "takes a list of references"),
        (only_the_first, "Call each function once"),
        (losses_in_a_dict, "a list with one loss"),
    ],
}
RIGHT = {
    (1, one_core.steps_per_second): [with_an_actor, with_a_function_inside, with_seconds_added_up],
    (2, one_core.average_in_one_message): [with_the_tools_of_torch, gathers, from_the_last_and_divides_first],
    (3, one_core.train_all): [with_a_list_of_actors, a_few_at_a_time, from_the_last_one],
}
