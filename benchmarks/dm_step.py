"""One iteration of distribution matching: the published loop, ours, with a bank of class means, and under experts.

    python benchmarks/dm_step.py                                   # a few minutes on two cores
    python benchmarks/dm_step.py --size miniUCF101 --device cuda

The iteration draws a network, embeds the real clips and the set, and backpropagates into the set; all clips of a class
are drawn, so that all sides see the same. The plain side has its real clips as floats on the device; ours has bytes.
Ours takes as many real clips at a time as --chunk has it by default, where the plain loop takes a class.
Under an expert the weights are read from its file (--networks experts), here those of the other sides.
Aims: ours at least 2.0 times as fast on a CPU, and 10 times on an H100 at the published size; with a bank 50 times.
"""
from functools import cache
from tempfile import TemporaryDirectory

import common
import plain
import torch

from distill_utils.bank import SampledMeans
from distill_utils.clips import ClassSampler
from distill_utils.device import default_chunk, in_precision, resolve_precision
from distill_utils.matching import chunked_gradient, classes_at_once, dm_loss
from distill_utils.seeds import make_generator, seeded
from distill_utils.synset import all_pairs
from distill_utils.trajectories import Experts, load_weights, save_expert, snapshot
from utils import get_network, per_sample


def make(kind, args, device):
    clips, synset = common.make_clips(args.size), common.make_set(args.size, kind).to(device)
    model, spec = common.size_of(args.size)[0], clips.spec
    pairs, members = all_pairs(synset, device), ClassSampler(clips).members
    chunk = default_chunk(spec.shape, device)
    real = SampledMeans(clips, len(members[0]), 0, chunk)
    dtype = resolve_precision(args.precision, device)
    learned = [value for name, value in synset.named_parameters() if name != "static"]

    def make_network():
        with seeded(0, device):
            return get_network(model, spec, device).requires_grad_(False)

    @cache          # made by the first call, which is not counted
    def floats():
        return plain.preload(clips, device)[0]

    def gradient(loss):
        grads = [value.grad for value in learned]
        synset.zero_grad()
        return lambda: (loss.item(), torch.cat([grad.flatten() for grad in grads]).cpu())

    def plain_side():
        loss = plain.dm_loss(plain.Network(make_network()), floats(), members, synset)
        loss.backward()
        return gradient(loss)

    def embed_real(network, clips):
        return in_precision(network.embed, dtype)(per_sample(clips))

    def ours(means_of, weights=None):
        network = make_network()
        if weights:
            load_weights(network, weights())

        def loss_of(clips, classes):
            return dm_loss(lambda x: network.embed(per_sample(x)), means_of(network, classes), clips)

        rendered = synset.render(*pairs)[0].unflatten(0, (spec.num_classes, synset.num_slots))
        return gradient(chunked_gradient(loss_of, rendered, classes_at_once(chunk, synset.num_slots)))

    def sampled(network, classes):
        return real.means(0, classes, lambda x: embed_real(network, x), make_generator(0), device)

    @cache
    def bank():
        network = make_network()
        return torch.cat([sampled(network, [k]) for k in range(spec.num_classes)])

    scratch = TemporaryDirectory()

    @cache
    def experts():
        network = make_network()
        save_expert(scratch.name, 0, network, {0: snapshot(network)}, {})
        return Experts(scratch.name, network, 0, 0)

    return {"plain": plain_side, "ours": lambda: ours(sampled),
            "experts": lambda: ours(sampled, lambda: experts().draw(0)[0]),
            "bank": lambda: ours(lambda network, classes: bank()[classes.start:classes.stop])}


if __name__ == "__main__":
    common.main("dm_step", __doc__, ["pixels", "s2d"], make)
