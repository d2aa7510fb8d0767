"""One epoch of training a network on a synthetic set, as every evaluation takes hundreds: the published loop and ours.

    python benchmarks/eval_epoch.py
    python benchmarks/eval_epoch.py --size miniUCF101 --device cuda

The published loop makes the clips of a static-dynamic set one by one in a DataLoader, with a graph that nobody uses.
On CUDA also ours by CUDA graphs (--cuda_graphs). Aims: at least 2.2 times as fast on pixels, 3.0 times on a
static-dynamic set.
"""
from functools import cache

import common
import plain
import torch

from distill_utils.device import resolve_precision
from distill_utils.seeds import make_generator, seeded
from utils import GraphedStep, get_network, make_step, per_sample, train_batches, train_epoch

BATCH = 32


def side_of(network, epoch, clips, labels, warm_up=0):
    """A call that trains the network for an epoch. What it returns tells the loss on some clips (float32, of the plain
    side for both) and how the weights changed. Without dropout: its masks differ between types of numbers. warm_up:
    epochs before, after which weights and momentum are put back."""
    network.dropout.p = 0
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def weights():
        return torch.cat([value.detach().flatten() for value in network.parameters()])

    start, values = weights(), [value.detach().clone() for value in network.parameters()]
    for _ in range(warm_up):
        epoch(network, optimizer)
    if warm_up:
        for value, first in zip(network.parameters(), values, strict=True):
            value.data.copy_(first)
            optimizer.state[value]["momentum_buffer"].zero_()

    def told():
        with torch.no_grad():
            logits = network.eval()(plain.standardise(clips))
        return torch.nn.functional.cross_entropy(logits, labels), (weights() - start).cpu()

    def call():
        epoch(network, optimizer)
        return told

    return call


def sides_of(dataset, train_on, clips, args, device):
    """Both sides over the same batches. dataset: of the plain side. train_on: of ours."""
    dtype = resolve_precision(args.precision, device)
    order = [batch.tolist() for batch in torch.randperm(len(dataset), generator=make_generator("order")).split(BATCH)]
    some, labels = zip(*(dataset[i] for i in order[0]), strict=True)
    seen = torch.stack(some).detach().to(device), torch.tensor(list(map(int, labels)), device=device)

    def make_network():
        with seeded(0, device):
            return get_network(common.size_of(args.size)[0], clips.spec, device)

    def plain_epoch(network, optimizer):
        plain.train_epoch(network, dataset, order, optimizer, device)

    def our_epoch(make):
        def epoch(network, optimizer):
            train_epoch(network, train_batches(train_on, BATCH, make_generator("order"), device, per_sample),
                        make(network, optimizer))
        return epoch

    def step(network, optimizer):
        return make_step(network, optimizer, dtype)

    @cache          # one for all epochs
    def graphed(network, optimizer):
        return GraphedStep(step(network, optimizer), optimizer)

    sides = {"plain": side_of(plain.Network(make_network()), plain_epoch, *seen),
             "ours": side_of(make_network(), our_epoch(step), *seen)}
    if device.type == "cuda":
        sides["graphs"] = side_of(make_network(), our_epoch(graphed), *seen, GraphedStep.WARM_UP + 1)
    return sides


def make(kind, args, device):
    clips, synset = common.make_clips(args.size), common.make_set(args.size, kind)
    return sides_of(plain.SyntheticClips(synset), synset.to(device), clips, args, device)


if __name__ == "__main__":
    common.main("eval_epoch", __doc__, ["pixels", "s2d"], make)
