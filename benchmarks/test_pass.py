"""Testing a network on the real test clips: three passes over preloaded floats, as published, and our one pass.

    python benchmarks/test_pass.py
    python benchmarks/test_pass.py --size miniUCF101 --device cuda

"three" is our side with three passes too, as --protocol paper makes them.
"""
import common
import plain
import torch

from distill_utils.device import resolve_precision
from distill_utils.seeds import seeded
from utils import evaluate, get_network

BATCH = 64


def make(kind, args, device):
    clips = common.make_clips(args.size)
    dataset, dtype = plain.RealClips(*plain.preload(clips, device)), resolve_precision(args.precision, device)
    with seeded(0, device):
        network = get_network(common.size_of(args.size)[0], clips.spec, device)

    def ours(passes):
        result = evaluate(network, clips, BATCH, device=device, passes=passes, dtype=dtype)
        return lambda: (result.loss, torch.tensor([result.top1, 1.0]))

    def plain_side():
        loss, top1 = plain.test(plain.Network(network), dataset, BATCH, device=device)
        return lambda: (loss, torch.tensor([top1, 1.0]))

    return {"plain": plain_side, "ours": lambda: ours(1), "three": lambda: ours(3)}


if __name__ == "__main__":
    common.main("test_pass", __doc__, ["real"], make)
