"""One iteration of neural feature regression (FRePo): a plain loop and ours, beside one of distribution matching (DM).

    python benchmarks/frepo_step.py --size ConvNet3DD2W16,10,8,32,64,1      # MotionDigits' sizes: a minute on two cores
    python benchmarks/frepo_step.py --size miniUCF101 --device cuda

The iteration embeds 512 real clips of all classes, regresses them from the set, backpropagates into set and labels, and
trains the network by a step on the set; the plain side has its real clips as floats on the device. DM, ours, takes all
real clips of each class (64 are published, as here) and a fresh network, or an expert's weights from its file.
Aim: ours costs less than DM, so its ratio to the plain side is above that of DM.
"""
from functools import cache

import common
import dm_step
import plain
import torch
from torch.nn.functional import normalize

from distill_utils.device import in_precision, resolve_precision
from distill_utils.labels import centred
from distill_utils.matching import frepo_gradient
from distill_utils.seeds import make_generator, seeded
from distill_utils.synset import all_pairs
from utils import get_network, make_step, per_sample, train_batches

BATCH, REG, CHUNK = 512, 1e-6, 640


def make(kind, args, device):
    clips = common.make_clips(args.size)
    synset = common.make_set(args.size, kind, label_kind="centred", learn_labels=True).to(device)
    k, pairs, dtype = clips.spec.num_classes, all_pairs(synset, device), resolve_precision(args.precision, device)
    learned = [value for name, value in synset.named_parameters() if name != "static"]
    chosen = torch.randperm(len(clips), generator=make_generator("chosen"))[:BATCH]
    real_labels = clips.labels[chosen].to(device)

    @cache          # one for all iterations of a side, which train it
    def network_of(side):
        with seeded(0, device):
            network = get_network(common.size_of(args.size)[0], clips.spec, device)
        network.dropout.p = 0       # its masks differ between types of numbers
        network = plain.Network(network) if side == "plain" else network
        return network, torch.optim.Adam(network.parameters(), lr=3e-4)

    @cache          # made by the first call, which is not counted
    def floats():
        return plain.preload(clips, device)[0]

    def gradient(loss, network):       # each of length 1, so that no tensor drowns in another
        grads = [value.grad for value in (*learned, *network.parameters())]
        synset.zero_grad()
        return lambda: (loss.item(), torch.cat([normalize(grad.flatten(), dim=0) for grad in grads]).cpu())

    def plain_side():
        network, optimizer = network_of("plain")
        loss = plain.frepo_loss(network.eval().requires_grad_(False), floats()[chosen], real_labels, synset, REG)
        loss.backward()
        plain.frepo_train(network.requires_grad_(), synset, optimizer)
        return gradient(loss, network)

    def pool_loss(logits, targets, classes):
        return 0.5 * (logits - targets).square().sum(1).mean()

    def ours():
        network, optimizer = network_of("ours")
        network.eval().requires_grad_(False)
        with torch.no_grad():
            real = torch.cat([in_precision(network.embed, dtype)(per_sample(clips.get(some, device=device)))
                              for some in chosen.split(CHUNK)])
        rendered, targets = synset.render(*pairs)
        loss = frepo_gradient(lambda x: network.embed(per_sample(x)), rendered, targets, real, centred(real_labels, k),
                              REG, CHUNK)
        step = make_step(network.train().requires_grad_(), optimizer, dtype, pool_loss)
        step(*next(train_batches(synset, 500, make_generator(0), device, per_sample)))
        return gradient(loss, network)

    def dm(side):
        def call():
            side()
            return lambda: None
        return call

    matching = dm_step.make(kind, args, device)
    return {"plain": plain_side, "ours": ours, "dm": dm(matching["ours"]), "dm_experts": dm(matching["experts"])}


if __name__ == "__main__":
    common.main("frepo_step", __doc__, ["pixels", "s2d"], make)
