"""Ranks: the processes of one run, which `torchrun` starts. A process alone is rank 0 of 1, and all here costs nothing.

Everything random is derived from the seed, so ranks that compute the same thing need not talk. They talk where each has
a share: of the gradients of what classes share, of the clips and networks that are scored, and before the set is saved.
What they send goes through torch.distributed, over gloo between CPUs and NCCL between GPUs.
"""
import json
import math
import os
import sys
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

sent = 0        # bytes that this rank has added to what all have, in this process


def join():
    """Called before anything else: joins the ranks that torchrun started. Only rank 0 says what all would say."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or dist.is_initialized():
        return
    # long: while one trains a network the others may wait; that one has ended is known at once
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(days=7))
    if rank():
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")       # noqa: SIM115 (for the process)


def leave():
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def size():
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    return dist.get_rank() if size() > 1 else 0


def local_rank():
    """Which of the ranks on this machine: the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def local_size():
    """How many of the ranks are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if size() > 1 else 1


def share(count, of=None, at=None):
    """The range of `count` things in a row that this rank (or rank `at` of `of`) takes: as equal as they can be."""
    of, at = of or size(), rank() if at is None else at
    return range(count * at // of, count * (at + 1) // of)


@contextmanager
def talking():
    """A rank that ends takes the others with it: they say so, and the one that failed has said why."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"rank {rank()} waits in vain: another rank has ended, and its message is above, or below "
                         f"({str(error).splitlines()[0][:200]})") from error


def add_up(tensors, group=None):
    """Replaces each of some tensors of one device by its sum over all ranks, or those of a group: one message."""
    global sent
    if size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    with talking():
        dist.all_reduce(flat, group=group)
    sent += flat.numel() * flat.element_size()
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def hand_round(tensor, dim_rows):
    """Makes a tensor whole of which each rank has the rows of its share. dim_rows: rows of each thing that is shared
    out."""
    if size() == 1:
        return
    own, whole = share(len(tensor) // dim_rows), tensor.detach().clone(memory_format=torch.contiguous_format)
    whole[:own.start * dim_rows] = whole[own.stop * dim_rows:] = 0
    add_up([whole.view(torch.uint8)])       # bytes, of which all but one are 0: nothing is rounded
    tensor.detach().copy_(whole)


def numbers(number):
    """An integer of each rank, in their order."""
    if size() == 1:
        return [number]
    found = [torch.zeros(1, dtype=torch.long) for _ in range(size())]
    with talking():
        dist.all_gather(found, torch.tensor([number]))
    return [int(value) for value in found]


def join_rows(rows):
    """The rows (n, ...) of all ranks, one rank's behind the other's, without a graph, and the slice of one's own."""
    counts = numbers(len(rows))
    first = sum(counts[:rank()])
    if size() == 1:
        return rows.detach(), slice(0, len(rows))
    joined = rows.new_zeros(sum(counts), *rows.shape[1:])
    joined[first:first + len(rows)] = rows.detach()
    add_up([joined.view(torch.uint8)])
    return joined, slice(first, first + len(rows))


def collect(thing):
    """What JSON can hold, of all ranks, in their order. (torch's own way would send pickles.)"""
    if size() == 1:
        return [thing]
    text = json.dumps(thing).encode()
    counts, (joined, _) = numbers(len(text)), join_rows(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    return [json.loads(part.numpy().tobytes()) for part in joined.split(counts)]


def wait():
    """For all ranks."""
    numbers(0)


def any_of(truth):
    """Whether it is true of one of the ranks."""
    return any(numbers(int(truth)))


def check_batches(network, name):
    """ValueError for a network that ranks cannot train on batches of which each has a part."""
    if size() > 1 and any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules()):
        raise ValueError(f"--model {name} has batch norm, whose statistics are those of a whole batch, and {size()} "
                         "ranks would share each: choose a network without it, or start one process")


@contextmanager
def whole_dropout(network, rows, count):
    """Inside, dropout drops of a part of a batch what it would drop there of the whole batch of `count` samples. rows:
    which of these the part is, long or bool, on the CPU."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]
    if size() == 1 or rows is None:
        layers = []

    def forward(layer, x):
        kept = type(layer).forward(layer, x.new_ones(count, *x.shape[1:]))
        return x * kept[rows.to(x.device)]

    for layer in layers:
        layer.forward = partial(forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class Team:
    """The ranks that work together on one of the jobs of a step (MTT: an expert). There are as many teams as divide
    both jobs and ranks evenly; the members of a team share a batch."""

    def __init__(self, jobs):
        self.teams, self.group = math.gcd(jobs, size()), None
        self.members = size() // self.teams
        self.team, self.place = divmod(rank(), self.members)
        if 1 < self.members < size():       # every rank takes part in making each group
            self.group = [dist.new_group(list(range(first, first + self.members)))
                          for first in range(0, size(), self.members)][self.team]

    def jobs(self, count):
        return share(count, self.teams, self.team)

    def part(self, count):
        """A slice of a batch."""
        rows = share(count, self.members, self.place)
        return slice(rows.start, rows.stop)

    def add_up(self, tensors):
        if self.members > 1:
            add_up(tensors, self.group)


class Shards:
    """Which classes of a set this rank learns, and what the ranks tell each other of it.

    A rank draws, embeds and differentiates its own classes alone. What belongs to one class is then changed by its
    owner, and is not what it should be elsewhere until `gather`; the gradients of what classes share (`shared`: the
    hallucinators) are added up in every step. whole: all ranks need the whole set in each step, so all gradients are.
    """

    def __init__(self, synset, optimizer, classes, slots, whole=False):
        self.classes, self.slots = classes, slots       # of `all_pairs`
        self.synset, self.optimizer, self.whole = synset, optimizer, whole or bool(getattr(synset, "watched", []))
        if size() > synset.num_classes:
            raise ValueError(f"{size()} ranks cannot share {synset.num_classes} classes: start at most one for each")
        self.own, self.stale = share(synset.num_classes), False
        self.mine = slice(self.own.start * synset.num_slots, self.own.stop * synset.num_slots)      # of the pairs

    def is_shared(self, name):
        return name.startswith(self.synset.shared)

    def is_own(self, chosen):
        """Which of some pairs are of own classes: bool."""
        return (chosen >= self.mine.start) & (chosen < self.mine.stop)

    def skip(self, count, generator):
        """Draws what rendering so many clips of other ranks would."""
        if self.synset.num_variants > 1:
            self.synset.draw(count, generator)

    def render(self, generator, chosen=None, part=None):
        """What the set renders of a part (bool, or a slice; if not given, those of own classes) of chosen pairs (long,
        on the CPU; if not given, all), with the variants that a single process would draw for them."""
        chosen = torch.arange(len(self.classes)) if chosen is None else chosen
        mine, variants = self.is_own(chosen) if part is None else part, None
        which = chosen[mine].to(self.classes.device, non_blocking=True)
        if self.synset.num_variants > 1:
            variants = self.synset.draw(len(chosen), generator)[mine].to(self.classes.device, non_blocking=True)
        return self.synset.render(self.classes[which], self.slots[which], variants=variants)

    def reduce(self, loss, *more):
        """Adds up the gradients that every rank needs, more tensors, and a scalar, in one message. Returns the scalar.
        """
        if size() == 1:
            return loss
        learned = {id(tensor) for group in self.optimizer.param_groups for tensor in group["params"]}
        self.stale, loss = not self.whole, loss.detach().clone()
        gradients = [value.grad for name, value in self.synset.named_parameters()
                     if id(value) in learned and value.grad is not None and (self.whole or self.is_shared(name))]
        add_up([loss.view(1), *more, *gradients, *(tensor.grad for tensor in getattr(self.synset, "watched", []))])
        return loss

    def gather(self):
        """Makes the set, and what the optimizer keeps of it, the same on all ranks."""
        if not self.stale:
            return
        self.stale = False
        learned = {id(tensor) for group in self.optimizer.param_groups for tensor in group["params"]}
        for name, value in self.synset.named_parameters():
            if id(value) in learned and not self.is_shared(name):
                rows = len(value) // self.synset.num_classes
                for tensor in (value, *self.optimizer.state.get(value, {}).values()):
                    if torch.is_tensor(tensor) and tensor.shape == value.shape:
                        hand_round(tensor, rows)
