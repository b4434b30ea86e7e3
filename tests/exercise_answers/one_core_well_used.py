"""Answers to the exercise of the deep dive of notebook 04."""

from __future__ import annotations

import ray.train
import torch
import torch.distributed as dist
from ray.train import get_context

from helpers.exercises import one_core


def workers():
    return ray.train.get_context().get_world_size()


def averages_the_weights(model):
    with torch.no_grad():
        for p in model.parameters():
            dist.all_reduce(p)
            p /= workers()


def sums_only(model):
    for p in model.parameters():
        dist.all_reduce(p.grad)


def averages_a_copy(model):
    for p in model.parameters():
        gradient = p.grad.clone()
        dist.all_reduce(gradient)
        gradient /= workers()


def rank_0_only(model):
    if ray.train.get_context().get_world_rank() == 0:
        sums_only(model)


def divides_by_two(model):
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= 2


def first_layer_only(model):
    for p in model[0].parameters():
        dist.all_reduce(p.grad)
        p.grad /= workers()


def only_divides(model):
    for p in model.parameters():
        p.grad /= workers()


def takes_the_largest(model):
    for p in model.parameters():
        dist.all_reduce(p.grad, op=dist.ReduceOp.MAX)


def in_one_message(model):
    everything = torch.cat([p.grad.flatten() for p in model.parameters()])
    dist.all_reduce(everything)
    torch.nn.utils.vector_to_parameters(everything / workers(), [p.grad for p in model.parameters()])


def new_tensors(model):
    for p in model.parameters():
        shares = [torch.empty_like(p.grad) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, p.grad)
        p.grad = torch.stack(shares).mean(dim=0)


def divides_first(model):
    for p in reversed(list(model.parameters())):
        p.grad.div_(get_context().get_world_size())
        dist.all_reduce(p.grad, op=dist.ReduceOp.SUM)
    return model


WRONG = {
    (1, one_core.average_gradients): [
        (averages_the_weights, "Leave the weights alone"),
        (sums_only, "divide by the number of workers"),
        (averages_a_copy, "give it p.grad itself"),
        (rank_0_only, "whatever its rank"),
        (divides_by_two, "get_world_size()"),
        (first_layer_only, "all of model.parameters()"),
        (only_divides, "Add up with all_reduce"),
        (takes_the_largest, "Add up with all_reduce"),
        (lambda model: dist.all_reduce(model.grad), "raised AttributeError"),
    ],
}
RIGHT = {(1, one_core.average_gradients): [in_one_message, new_tensors, divides_first]}
