"""Answers to the exercise of the deep dive of notebook 04."""

from __future__ import annotations

import ray.train
import torch
import torch.distributed as dist
from ray.train import get_context

from helpers.exercises import one_core


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


WRONG = {
    (1, one_core.average_in_one_message): [
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
}
RIGHT = {(1, one_core.average_in_one_message): [with_the_tools_of_torch, gathers, from_the_last_and_divides_first]}
