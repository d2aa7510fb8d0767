"""The shared face of the scripts: data sets, networks, and how a network is trained and tested."""
import hashlib
import math
import sys
from collections import Counter
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import networks
from distill_utils import images
from distill_utils.clips import Clips, cache_folder, cached_frames
from distill_utils.dataset import DATASETS, Spec, get_spec, read_folders  # noqa: F401 (handed on)
from distill_utils.device import in_precision
from distill_utils.holdout import held_back
from distill_utils.labels import Recipe, label_loss, make_optimiser, rate_factor
from distill_utils.progress import progress
from distill_utils.protocols import PROTOCOLS, per_batch, per_sample  # noqa: F401 (handed on)
from distill_utils.seeds import derive_seed, make_generator, seeded
from distill_utils.synset import all_pairs, fit
from networks import NETWORKS, POOLS, check_network, get_eval_pool  # noqa: F401 (handed on)


class Data(NamedTuple):
    spec: Spec
    train: Clips
    test: Clips


def get_dataset(name, data_path, cache_path=None, frames=None, im_size=None, preload=False, num_workers=0, view=None,
                split=None, skip_missing=False, clips_on="auto", split_file=None, classes=None, protocol="standard",
                holdout=None):
    """The training and test clips of a data set, from the cache, which is made if it is not there.

    frames, im_size, view, split (which of the official ones), split_file, classes: as `get_spec` takes them.
    skip_missing: without the clips that are not there, or not whole. clips_on: `location` of Clips. protocol: of the
    run, which is told where the published one trained on other clips. holdout: this share of the training clips takes
    the place of the test clips, which are not decoded (sets of images are read as a whole).
    """
    spec = get_spec(name, frames, im_size, view, split, split_file, classes)
    if spec.make:
        spec.make(data_path)
    cache_path = cache_folder(data_path, cache_path)
    if spec.folder in images.READERS:
        found = [images.read(spec, data_path, split_name, cache_path, num_workers, preload)
                 for split_name in ("train", "test")]
        here = tuple(len(split.labels) for split, _ in found)
    else:
        folders = read_folders(spec, data_path, bool(skip_missing))
        here = tuple(len(folder.labels) for folder in folders)
        found = [(folder, cached_frames(folder, cache_path, num_workers, preload))
                 for folder in (folders[:1] if holdout else folders)]
    official = (spec.clips or {}).get(spec.fold)
    if official and here != official:
        print(f"note: {name} has {here[0]} training and {here[1]} test clips here; the official split "
              f"has {official[0]} and {official[1]}", file=sys.stderr)
    published, command = PROTOCOLS[protocol].train_clips.get(name.removeprefix("single").removeprefix("static"), here)
    if published != here[0] and here == official and spec.fold == 1:
        print(f"note: {name} has the {here[0]} training clips of the official split here; the published numbers, as "
              f"--protocol {protocol} means to give them, were made with {published}: {command} writes that split",
              file=sys.stderr)
    splits = [Clips(split, frames, clips_on) for split, frames in found]
    if holdout:
        held = held_back(splits[0].names, splits[0].labels.numpy(), holdout, spec.classes)
        splits = [splits[0].part(~held, "train"), splits[0].part(held, "held-back")]
    return Data(spec, *splits)


def get_network(name, spec, device="cpu", dist=False):
    """A network by name. With dist, device "cuda" is all CUDA devices, for `embed` too, and "cuda:1" that one alone.

    Its weights are drawn on the device, from torch's random state: call it inside `seeded`.
    """
    device = torch.device(device)
    with device:
        network = networks.lookup(name)(spec)
    if dist and device.type == "cuda" and device.index is None and torch.cuda.device_count() > 1:
        network = networks.Parallel(network)
    return network


def weights_digest(network):
    """Tells networks of other weights apart, and so kinds of devices, which draw them differently."""
    weights = b"".join(value.cpu().numpy().tobytes() for value in network.state_dict().values())
    return hashlib.sha256(weights).hexdigest()


# ---- training -----------------------------------------------------------------------------------------------------

def make_optimizer(optim, rates, synset, momentum=0.0):
    """SGD or Adam of a set, at the learning rates of `set_rates`; what has rate 0 is left as it is."""
    groups = [{"params": tensors, "lr": rates[name]} for name, tensors in synset.groups().items()
              if tensors and rates[name] > 0]
    return torch.optim.Adam(groups) if optim == "adam" else torch.optim.SGD(groups, momentum=momentum)


def make_step(network, optimizer, dtype=torch.float32, loss_of=None):
    """step(inputs, targets, classes): one of a loss of `label_loss`, or of cross-entropy with the classes. It returns
    how many classes the network had right, a tensor."""
    forward, loss_of = in_precision(network, dtype), loss_of or label_loss()

    def step(inputs, targets, classes):
        logits = forward(inputs)
        loss = loss_of(logits, targets, classes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return (logits.detach().argmax(1) == classes).sum()

    return step


class GraphedStep:
    """A step of `make_step` as a CUDA graph: one launch in place of some hundred, which is what small batches take
    their time for. A batch size has a graph of its own, made after WARM_UP usual steps, and so has a learning rate."""

    WARM_UP = 3

    def __init__(self, step, optimizer):
        self.step, self.optimizer, self.seen, self.graphs = step, optimizer, Counter(), {}

    def __call__(self, *batch):
        inputs = batch[0]
        self.seen[inputs.shape] += 1
        if self.seen[inputs.shape] <= self.WARM_UP:
            return self.step(*batch)
        key = inputs.shape, self.optimizer.param_groups[0]["lr"]
        if key not in self.graphs:
            # each has memory of its own: those of another rate are not needed any more
            self.graphs = {other: graph for other, graph in self.graphs.items() if other[1] == key[1]}
            self.optimizer.zero_grad(set_to_none=True)      # gradients of a graph live in memory of its own
            self.graphs[key] = self.capture(*(tensor.clone() for tensor in batch))
        replay, static, hits = self.graphs[key]
        for mine, given in zip(static, batch, strict=True):
            mine.copy_(given)
        replay()
        return hits.clone()

    def capture(self, *batch):
        """Nothing is computed yet: (call that computes a step on what these tensors hold, them, its result)."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            hits = self.step(*batch)
        return graph.replay, batch, hits


def train_epoch(network, batches, step):
    """One pass of a step of `make_step` over (inputs, targets, classes). Returns its top-1 accuracy, a tensor."""
    network.train()
    hits, count = 0, 0
    for batch in batches:
        hits, count = hits + step(*batch), count + len(batch[0])
    return hits / count


def train_batches(train_on, batch_size, generator, device, standardise=lambda x: x, dsa=None):
    """One epoch of (inputs, targets, classes) as a network sees them: every clip once, in random order, augmented and
    standardised. From real clips, or from a synthetic set: what it renders, without a graph."""
    real = isinstance(train_on, Clips)
    if real:
        classes = train_on.labels.to(device, non_blocking=True)
    else:
        classes, slots = all_pairs(train_on, device)
    for batch in torch.randperm(len(classes), generator=generator).split(batch_size):
        there = batch.to(device, non_blocking=True)
        if real:
            clips, targets = train_on.get(batch, generator, device), classes[there]
        else:
            with torch.no_grad():
                clips, targets = train_on.render(classes[there], slots[there], generator)
        if dsa:
            clips = dsa.apply(clips, dsa.draw(generator, len(clips)))
        yield standardise(clips), targets, classes[there]


def train_network(train_on, spec, network, *, batch_size=256, protocol="standard", seed=0, device="cpu", dist=False,
                  dsa=None, dtype=torch.float32, graphs=False, desc=None, **recipe):
    """A fresh network trained on a synthetic set or on real clips. recipe: fields of a Recipe, where they are others
    than those of class labels. Everything random comes from the seed. graphs: its steps as CUDA graphs, on one CUDA
    device. Returns the network."""
    rules, recipe = PROTOCOLS[protocol], Recipe(**recipe)
    kind = "class" if isinstance(train_on, Clips) else train_on.label_kind
    generator = make_generator(seed, "training")
    with seeded(derive_seed(seed, "network"), device):      # weights, then dropout
        net = get_network(network, spec, device, dist)
        optimizer = make_optimiser(net.parameters(), recipe.optim, recipe.lr, recipe.weight_decay)
        step = make_step(net, optimizer, dtype, label_loss(recipe.loss, kind, recipe.temperature))
        if graphs:
            step = GraphedStep(step, optimizer)
        epochs, cut = recipe.epochs + rules.extra_epochs, rules.cut_after(recipe.epochs)
        for epoch in progress(range(epochs), desc=desc or network, unit="epoch", leave=False, disable=None):
            optimizer.param_groups[0]["lr"] = recipe.lr * rate_factor(recipe.schedule, epoch, epochs, cut)
            train_epoch(net, train_batches(train_on, batch_size, generator, device, rules.evaluation, dsa), step)
    return net


# ---- evaluation ---------------------------------------------------------------------------------------------------

class EvalResult(NamedTuple):
    """Fractions in [0, 1]. confusion: long (K, K), how many clips of a class (its row) were taken for which."""
    top1: float
    top5: float
    loss: float
    confusion: Tensor

    @property
    def per_class(self):
        """Accuracies (K,), nan where a class has no clip."""
        return self.confusion.diag() / self.confusion.sum(1)


@torch.no_grad()
def evaluate(network, clips, batch_size=256, protocol="standard", device="cpu", seed=0, passes=None,
             dtype=torch.float32):
    """Tests a network on real clips, as the protocol says (or in fewer passes): an EvalResult."""
    rules = PROTOCOLS[protocol]
    network.eval()
    forward = in_precision(network, dtype)
    k, batches = clips.spec.num_classes, rules.test_batches(clips.labels, batch_size)
    labels = clips.labels[torch.cat(batches)]
    loss, top5, confusion = 0.0, 0, torch.zeros(k, k, dtype=torch.long)
    for index in range(passes or rules.test_passes):
        generator = make_generator(seed, "test", index) if rules.random_test else None
        logits = torch.cat([forward(rules.evaluation(clips.get(batch, generator, device)))
                            for batch in batches]).cpu()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        ranked = logits.topk(min(5, k), dim=1).indices
        top5 += (ranked == labels[:, None]).sum().item()
        confusion += torch.bincount(labels * k + ranked[:, 0], minlength=k * k).view(k, k)
    if not math.isfinite(loss):
        raise ValueError("a network gives values that are not finite, so it has no score: its training diverged; lower "
                         "its learning rate (--lr_net; of experts --lr_teacher), or that of the set it was trained on")
    total = confusion.sum().item()
    return EvalResult(confusion.trace().item() / total, top5 / total, loss / total, confusion)


def evaluate_synset(train_on, data, network, *, batch_size=256, protocol="standard", seed=0, device="cpu", dist=False,
                    dsa=None, dtype=torch.float32, graphs=False, **recipe):
    """Trains a fresh network on a synthetic set or on the real training clips (`data.train`), tests it on the real test
    clips and returns an EvalResult, always. recipe: fields of a Recipe, where they are others than those of class
    labels. Nothing global is touched: calling it more often changes nothing else."""
    if not isinstance(train_on, Clips):
        train_on = fit(train_on, data.spec)
    net = train_network(train_on, data.spec, network, batch_size=batch_size, protocol=protocol, seed=seed,
                        device=device, dist=dist, dsa=dsa, dtype=dtype, graphs=graphs, **recipe)
    return evaluate(net, data.test, batch_size, protocol, device, seed, dtype=dtype)
