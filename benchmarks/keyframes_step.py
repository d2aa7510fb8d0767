"""One iteration of distribution matching: of whole clips as pixels ("plain"), of key frames, and of those that grow.

    python benchmarks/keyframes_step.py --size ConvNet3DD2W16,10,8,32,64,1      # MotionDigits' sizes: a minute
    python benchmarks/keyframes_step.py --size miniUCF101 --device cuda

Half of the frames of a clip are key frames. The iteration is that of distill_DM.py with a step of Adam; the set that
grows asks where it should in each, and never does, so that it stays as large.
Aims: key frames cost no more than pixels, and growth at most 1.05 times as much.
"""
import common
import torch

from distill_utils.bank import SampledMeans
from distill_utils.device import in_precision, resolve_precision
from distill_utils.keyframes import KeyFrameSet
from distill_utils.matching import chunked_gradient, dm_loss
from distill_utils.seeds import make_generator, seeded
from distill_utils.synset import VideoSet, all_pairs, grow
from utils import get_network, per_sample


def make(kind, args, device):
    clips = common.make_clips(args.size)
    model, classes, frames, _, per_class, ipc = common.size_of(args.size)
    spec, real = clips.spec, SampledMeans(clips, per_class, seed=0)
    dtype = resolve_precision(args.precision, device)
    growing = KeyFrameSet(classes, ipc, spec.shape, frames // 2, growing=(0, 1))
    growing.apart = -2.0        # no cosine is below

    def side(synset):
        synset = synset.to(device)
        learned, = synset.groups()["lr_img"]
        with seeded(0, device):
            learned.data.normal_()
        optimizer, pairs = torch.optim.Adam([learned], lr=0.0), all_pairs(synset, device)

        def call():
            with seeded(0, device):
                network = get_network(model, spec, device).requires_grad_(False)

            def loss_of(part, chosen):
                means = real.means(0, chosen, lambda x: in_precision(network.embed, dtype)(per_sample(x)),
                                   make_generator(0), device)
                return dm_loss(lambda x: network.embed(per_sample(x)), means, part)

            optimizer.zero_grad()
            rendered = synset.render(*pairs)[0].unflatten(0, (classes, ipc))
            loss = chunked_gradient(loss_of, rendered, max(1, 640 // per_class))
            optimizer.step()
            grow(synset, optimizer, 0.5)
            return lambda: (loss.item(), learned.grad.flatten().cpu()) if isinstance(synset, VideoSet) else None
        return call

    return {"plain": side(VideoSet(classes, ipc, spec.shape)),
            "ours": side(KeyFrameSet(classes, ipc, spec.shape, frames // 2)), "growing": side(growing)}


if __name__ == "__main__":
    common.main("keyframes_step", __doc__, ["keyframes"], make)
