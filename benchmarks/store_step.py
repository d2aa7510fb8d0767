"""What a set in the form of video costs: learning it through its store, and opening its file.

    python benchmarks/store_step.py --size ConvNet3DD2W16,10,8,32,64,1      # MotionDigits' sizes: a minute
    python benchmarks/store_step.py --size miniUCF101 --device cuda

through: ten iterations of distill_DM.py that see the set as it is ("plain"), and as H.264 and AV1 decode it, coded
anew once in ten. open: the file of as many clips as there are real ones, in H.264, decoded stream after stream
("plain"), and by load_synset.
Aims: at most 1.3 times as long through the store; a file opens in seconds.
"""
import tempfile
from pathlib import Path

import common
import numpy as np
import torch

from distill_utils.bank import SampledMeans
from distill_utils.codecs import parse_store
from distill_utils.device import in_precision, resolve_precision
from distill_utils.matching import chunked_gradient, dm_loss
from distill_utils.seeds import make_generator, seeded
from distill_utils.storage import ThroughStore, save_synset
from distill_utils.synset import VideoSet, all_pairs, load_synset
from distill_utils.tensors import TensorFile
from utils import get_network, per_sample

STORE = "h264:28"


def make(kind, args, device):
    return {"through": make_through, "open": make_open}[kind](args, device)


def make_through(args, device):
    clips = common.make_clips(args.size)
    model, classes, _, _, per_class, ipc = common.size_of(args.size)
    spec, real, dtype = clips.spec, SampledMeans(clips, per_class, seed=0), resolve_precision(args.precision, device)

    def side(store=None):
        synset = VideoSet(classes, ipc, spec.shape)
        synset.start(clips, 0)
        synset.to(device)
        pairs, optimizer = all_pairs(synset, device), torch.optim.Adam([synset.videos], lr=0.0)
        through = ThroughStore(synset, store or "float32", spec, store and 10)

        def call():
            through.at = None       # so that the first of the ten codes
            for step in range(10):
                with seeded(step, device):
                    network = get_network(model, spec, device).requires_grad_(False)

                def loss_of(part, chosen, network=network):
                    means = real.means(0, chosen, lambda x: in_precision(network.embed, dtype)(per_sample(x)),
                                       make_generator(0), device)
                    return dm_loss(lambda x: network.embed(per_sample(x)), means, part)

                optimizer.zero_grad()
                with through(step):
                    rendered = synset.render(*pairs)[0].unflatten(0, (classes, ipc))
                    loss = chunked_gradient(loss_of, rendered, max(1, 640 // per_class))
                optimizer.step()
            return lambda: None if store else (loss.item(), synset.videos.grad.flatten().cpu())
        return call

    return {"plain": side(), "h264": side(STORE), "av1": side("av1:40")}


def make_open(args, device):
    clips = common.make_clips(args.size)
    _, classes, frames, pixels, per_class, _ = common.size_of(args.size)
    synset = VideoSet(classes, per_class, clips.spec.shape)
    synset.start(clips, 0)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "synset.safetensors"
    save_synset(path, synset, clips.spec, STORE)

    def stream_after_stream():
        file, decode = TensorFile(path), parse_store(STORE)[0].decode
        ends = file.read("videos.lengths").cumsum(0).tolist()
        coded = file.read("videos").numpy().tobytes()
        shape = (classes * per_class * frames // len(ends), pixels, pixels, 3)
        parts = [decode(coded[begin:end], shape) for begin, end in zip([0, *ends], ends, strict=False)]
        values = torch.from_numpy(np.stack(parts)).view(-1, *clips.spec.shape[:1], pixels, pixels, 3).movedim(-1, 2)
        low, high = file.read("videos.range").view(2, -1, 1, 1)
        return values.float() / 255 * (high - low) + low

    def side(read):
        def call():
            videos = read()
            return lambda: (videos.mean(), videos.flatten())
        call.folder = folder        # which lives as long
        return call

    return {"plain": side(stream_after_stream), "ours": side(lambda: load_synset(path)[0].videos.detach())}


if __name__ == "__main__":
    common.main("store_step", __doc__, ["through", "open"], make)
