"""One epoch of an expert, trained on the real clips: the published loop over preloaded floats, and ours.

    python benchmarks/buffer_epoch.py
    python benchmarks/buffer_epoch.py --size miniUCF101 --device cuda

Aim: at least 2.0 times as fast.
"""
import common
import plain
from eval_epoch import sides_of


def make(kind, args, device):
    clips = common.make_clips(args.size)
    return sides_of(plain.RealClips(*plain.preload(clips, device)), clips, clips, args, device)


if __name__ == "__main__":
    common.main("buffer_epoch", __doc__, ["real"], make)
