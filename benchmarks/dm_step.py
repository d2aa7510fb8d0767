"""One iteration of distribution matching: the published loop, ours, and ours with a bank of class means.

    python benchmarks/dm_step.py                                   # a few minutes on two cores
    python benchmarks/dm_step.py --size miniUCF101 --device cuda

The iteration draws a network, embeds the real clips and the set, and backpropagates into the set; all clips of a class
are drawn, so that all sides see the same. The plain side has its real clips as floats on the device; ours has bytes.
Ours takes up to 640 real clips at a time (--chunk), where the plain loop takes a class, so it may hold more.
Aims: ours at least 2.0 times as fast on a CPU, and 10 times on an H100 at the published size; with a bank 50 times.
"""
from functools import cache, partial

import common
import plain
import torch

from distill_utils.clips import ClassSampler
from distill_utils.matching import class_means, dm_gradient
from distill_utils.run import generator, resolve_precision, seeded
from distill_utils.synset import all_pairs
from utils import get_network, in_precision, per_sample


def make(kind, args, device):
    clips, synset = common.make_clips(args.size), common.make_set(args.size, kind).to(device)
    model, spec = common.size_of(args.size)[0], clips.spec
    sampler, pairs = ClassSampler(clips), all_pairs(synset, device)
    dtype = resolve_precision(args.precision, device)
    learned = [value for name, value in synset.named_parameters() if name != "static"]

    def draw_network():
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
        loss = plain.dm_loss(plain.Network(draw_network()), floats(), sampler.members, synset)
        loss.backward()
        return gradient(loss)

    def ours(real_means):
        network = draw_network()

        def embed(x, dtype=torch.float32):
            return in_precision(network.embed, dtype)(per_sample(x))

        rendered = synset.render(*pairs)[0].unflatten(0, (spec.num_classes, synset.num_slots))
        return gradient(dm_gradient(embed, rendered, real_means(embed), chunk=max(1, 640 // len(sampler.members[0]))))

    def sampled(embed):
        return lambda classes: class_means(partial(embed, dtype=dtype), sampler.draw(
            classes, len(sampler.members[0]), generator(0), device))

    @cache
    @torch.no_grad()
    def bank():
        network = draw_network()
        return torch.cat([sampled(lambda x, dtype: in_precision(network.embed, dtype)(per_sample(x)))([k])
                          for k in range(spec.num_classes)])

    return {"plain": plain_side, "ours": lambda: ours(sampled),
            "bank": lambda: ours(lambda embed: lambda classes: bank()[classes.start:classes.stop])}


if __name__ == "__main__":
    common.main("dm_step", __doc__, ["pixels", "s2d"], make)
