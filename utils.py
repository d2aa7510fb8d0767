"""The shared face of the scripts: data sets, networks, and how a network is trained and tested."""
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import networks
from distill_utils import augment, images, motiondigits
from distill_utils.bank import Bank
from distill_utils.clips import Clips, cached_frames
from distill_utils.dataset import (  # noqa: F401 (handed on)
    DATASETS,
    FrameFolder,
    Spec,
    choose_fold,
    get_spec,
    read_split,
)
from distill_utils.matching import student_loss
from distill_utils.run import derive_seed, generator, progress, resolve_device, resolve_precision, seeded
from distill_utils.synset import ImageSet, StaticDynamicSet, all_pairs, load_static, storage_bytes
from distill_utils.trajectories import Experts, epochs_to_keep
from networks import NETWORKS, ConvNet3D  # noqa: F401 (handed on)


class Data(NamedTuple):
    spec: Spec
    train: Clips
    test: Clips


def get_dataset(name, data_path, cache_path=None, frames=None, im_size=None, preload=False, num_workers=0, view=None,
                split=None, skip_missing=False, clips_on="auto"):
    """The training and test clips of a data set, from the cache, which is made if it is not there.

    split: 1, 2 or 3, which of the official ones. skip_missing: without the clips that are not there, or not whole.
    clips_on: `place` of Clips.
    """
    spec = choose_fold(get_spec(name, frames, im_size, view), split)
    if spec.folder == "MotionDigits":
        motiondigits.make(data_path)
    cache_path = cache_path or f"{data_path}/cache"
    if spec.folder in images.READERS:
        splits = [Clips(*images.read(spec, data_path, part, cache_path, num_workers, preload), clips_on)
                  for part in ("train", "test")]
    else:
        rows = read_split(spec, data_path)
        folders = [FrameFolder(spec, data_path, part, bool(skip_missing), rows) for part in ("train", "test")]
        splits = [Clips(folder, cached_frames(folder, cache_path, num_workers, preload), clips_on)
                  for folder in folders]
    official, here = (spec.clips or {}).get(spec.fold), (len(splits[0]), len(splits[1]))
    if official and here != official:
        print(f"note: {name} has {here[0]} training and {here[1]} test clips here; the official split "
              f"has {official[0]} and {official[1]}", file=sys.stderr)
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


# ---- protocols ----------------------------------------------------------------------------------------------------

def per_sample(x):
    """Each clip or image standardised by its own mean and std: no prediction depends on the rest of the batch."""
    dims = tuple(range(1, x.dim()))
    return (x - x.mean(dims, keepdim=True)) / (x.std(dims, keepdim=True) + 1e-5)


def per_batch(x):
    """The whole batch standardised by one mean and std, as the published evaluation does."""
    return (x - x.mean()) / x.std()


class Protocol(NamedTuple):
    """How networks see clips. See section Evaluation of the README."""
    matching: callable          # what a network is shown while a set is matched
    evaluation: callable        # and while it is trained on a set and tested
    test_passes: int
    random_test: bool           # test clips with a random start and a random flip
    extra_epochs: int
    cut_after: callable         # epochs -> last epoch before the learning rate is cut tenfold


PROTOCOLS = {
    "standard": Protocol(per_sample, per_sample, 1, False, 0, lambda epochs: epochs // 2 - 1),
    "paper": Protocol(lambda x: x, per_batch, 3, True, 1, lambda epochs: epochs // 2 + 1),
}


# ---- evaluation ---------------------------------------------------------------------------------------------------

class EvalResult(NamedTuple):
    """Fractions in [0, 1]; per_class (K,), nan where a class has no clip."""
    top1: float
    top5: float
    loss: float
    per_class: Tensor


POOLS = {   # eval_mode -> networks; S and SS are the network itself
    "M": {"video": ["ConvNet3D", "VideoConvNetMean", "VideoConvNetMLP", "VideoConvNetRNN", "VideoConvNetLSTM",
                    "VideoConvNetGRU"],
          "image": ["MLP", "LeNet", "ConvNet", "AlexNet", "VGG11", "ResNet18"]},
    "W": {"image": ["ConvNetW32", "ConvNetW64", "ConvNetW128", "ConvNetW256"],
          "video": ["ConvNet3DW16", "ConvNet3DW32", "ConvNet3D"]},
    "D": {"image": ["ConvNetD1", "ConvNetD2", "ConvNetD3", "ConvNetD4"],
          "video": ["ConvNet3DD1", "ConvNet3DD2", "ConvNet3D"]},
    "A": {"image": ["ConvNetAS", "ConvNetAR", "ConvNetAL", "ConvNetASwish"]},
    "P": {"image": ["ConvNetNP", "ConvNetMP", "ConvNetAP"]},
    "N": {"image": ["ConvNetNN", "ConvNetBN", "ConvNetLN", "ConvNetIN", "ConvNetGN"]},
    "B": {"image": ["ConvNetBN", "ConvNetASwishBN", "AlexNetBN", "VGG11BN", "ResNet18BN"]},
}


def get_eval_pool(eval_mode, model):
    """The networks that score a set made with `model`, the main one first."""
    takes = networks.takes(model)
    if eval_mode in ("SS", "top5"):     # top-5 is in every result
        return [model]
    if eval_mode == "S":    # a tiny set is too small for batch statistics: the variant without
        return [model.split("BN")[0] if model.split("BN")[0] in NETWORKS else model]
    if takes not in POOLS.get(eval_mode, {}):
        known = ["S", "SS", *(mode for mode, pool in POOLS.items() if takes in pool)]
        raise ValueError(f"unknown --eval_mode {eval_mode!r} for {model}, a network of {takes}s: choose one of "
                         f"{', '.join(known)}")
    pool = POOLS[eval_mode][takes]
    return [model, *(name for name in pool if name != model)] if model in pool or eval_mode == "M" else pool


def check_network(model, spec, dataset):
    """Raises ValueError unless the network takes what the data set gives, before any work is done."""
    networks.lookup(model)
    gives = "image" if spec.view == "single" else "video"
    if networks.takes(model) != gives:
        fitting = [name for name in NETWORKS if networks.takes(name) == gives]
        raise ValueError(f"--model {model} takes {networks.takes(model)}s, but --dataset {dataset} gives {gives}s: "
                         f"choose one of {', '.join(fitting)}")
    try:
        with torch.device("meta"):      # shapes only
            networks.lookup(model)(spec)(torch.zeros(2, *spec.shape))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--model {model} cannot take {spec.size} pixels and {spec.frames} frames ({error}): choose "
                         "another, or other --im_size and --frames") from error


def check_args(args, view=None):
    """(spec, networks that score) of a script's arguments; what they cannot mean raises ValueError before any work."""
    spec = choose_fold(get_spec(args.dataset, args.frames, args.im_size, view), args.split)
    check_network(args.model, spec, args.dataset)
    pool = get_eval_pool(args.eval_mode, args.model)
    for network in pool:
        check_network(network, spec, args.dataset)
    if dsa_of(args).parts and getattr(args, "bank", 0):
        raise ValueError("--bank holds the class means of clips as they are, and --dsa_strategy changes them in each "
                         "iteration: leave out one of them")
    if getattr(args, "cuda_graphs", False):
        device = resolve_device(args.device)
        if device.type != "cuda" or (device.index is None and torch.cuda.device_count() > 1):
            raise ValueError("--cuda_graphs needs one CUDA device: give --device cuda:0, or leave it out")
    return spec, pool


def dsa_of(args):
    """The Augmentation that a script's arguments ask for."""
    return augment.parse(args.dsa_strategy, args.dsa_param)


def check_s2d_args(args, spec):
    """The static memory of --path_static, or None without one; what cannot make a static-dynamic set raises ValueError
    before any work."""
    if spec.view == "single":
        clips = args.dataset.removeprefix("single")
        raise ValueError(f"--dataset {args.dataset} gives single frames, which have no movement to learn: give "
                         + (clips if clips != args.dataset else "a data set of clips"))
    for name, count in (("spc", args.spc), ("dpc", args.dpc)):
        if count % args.vpc:
            raise ValueError(f"--{name} {count} cannot be shared by --vpc {args.vpc} clips: give a multiple of "
                             f"{args.vpc}")
    if args.path_static:
        return load_static(args.path_static, spec, args.spc)
    print("note: no --path_static FILE, so the static images are frames of real clips; distill_DC.py makes a static "
          "memory", file=sys.stderr)
    return None


def data_settings(args):
    """What `get_dataset` takes of a script's arguments."""
    return {"name": args.dataset, "data_path": args.data_path, "cache_path": args.cache_path, "frames": args.frames,
            "im_size": args.im_size, "preload": args.preload, "num_workers": args.num_workers,
            "split": args.split, "skip_missing": args.skip_missing, "clips_on": args.clips_on}


def eval_settings(args, device, syn_lr=None):
    """What `evaluate_synset` takes of a script's arguments. The published protocol trains networks at the rate that was
    learned with the set, where one was; the standard one at the same rate for every method."""
    lr = args.lr_net if syn_lr is None or args.protocol != "paper" else syn_lr
    return {"epochs": args.epoch_eval_train, "lr": lr, "batch_size": args.batch_train,
            "protocol": args.protocol, "device": device, "dist": True, "dsa": dsa_of(args),
            "dtype": resolve_precision(args.precision, device), "graphs": args.cuda_graphs}


def make_s2d_set(clips, seed, static=None, *, vpc, spc, dpc, n_hal, hal_mode, hal_init, dynamic_init):
    """A static-dynamic set at its start. Without `static` (K * spc, C, H, W) middle frames of real clips; the dynamic
    memories are noise (published) or the movement of the same real clips."""
    spec = clips.spec
    with seeded(seed):
        synset = StaticDynamicSet(spec.num_classes, vpc, spc, dpc, spec.shape, n_hal, hal_mode, hal_init)
        synset.dynamic.data.normal_()
    if static is None or dynamic_init == "real":
        real = clips.start(max(dpc, spc if static is None else 0), generator(seed))
    synset.static.data = real[:, :spc, spec.frames // 2].flatten(0, 1) if static is None else static
    if dynamic_init == "real":
        synset.start_dynamic(real[:, :dpc])
    return synset


def buffer_folder(args):
    """The folder of the experts: --buffer_path itself, or <dataset>/<model> in it."""
    folder = Path(args.buffer_path)
    there = any(folder.glob("expert_*.safetensors")) or any(folder.glob("replay_buffer_*.pt"))
    return folder if there else folder / Path(args.dataset).name / args.model


def open_experts(args, spec):
    """The experts that a script's arguments ask for; those of another network or data set raise ValueError."""
    experts = Experts(buffer_folder(args), networks.lookup(args.model)(spec), args.max_start_epoch, args.expert_epochs,
                      dataset=args.dataset, model=args.model, frames=spec.frames, im_size=spec.size,
                      protocol=args.protocol, split=args.split)
    if not experts.own and args.protocol != "paper":
        print("note: experts of other programs were trained on batches standardised as a whole, as --protocol paper "
              "does; students here see each clip standardised by itself", file=sys.stderr)
    return experts


def open_bank(args, data, device):
    """The bank of class means that --bank asks for, made as far as it is missing."""
    dtype, matching = resolve_precision(args.precision, device), PROTOCOLS[args.protocol].matching

    def make_network(number):
        with seeded(Bank.seed(number), device):
            return get_network(args.model, data.spec, device, dist=True).requires_grad_(False)

    first = b"".join(value.cpu().numpy().tobytes() for value in make_network(0).state_dict().values())
    bank = Bank(args.cache_path or f"{args.data_path}/cache", data.train, args.bank, model=args.model,
                weights=hashlib.sha256(first).hexdigest(), protocol=args.protocol, dtype=str(dtype))
    bank.build(make_network, lambda network, clips: in_precision(network.embed, dtype)(matching(clips)), device,
               args.chunk)
    return bank


def dry_run(args, spec, synset):
    """Prints what a trajectory matching will take, computed from shapes: nothing is read, trained or written."""
    batch = min(args.batch_syn or synset.num_classes * synset.num_slots, synset.num_classes * synset.num_slots)
    with torch.device("meta"):
        network = networks.lookup(args.model)(spec)
        copy = type(synset)(**synset.arguments)
    parameters = sum(value.numel() for value in network.parameters())
    step = step_bytes(network, copy, batch)
    steps = 1 if args.unroll == "adjoint" else args.syn_steps
    print("RESULT " + json.dumps({
        "parameters": parameters, "set_bytes": storage_bytes(synset, args.store, spec), "clips_per_step": batch,
        "expert_bytes": 4 * parameters * len(epochs_to_keep(args.max_start_epoch + args.expert_epochs,
                                                            args.max_start_epoch, args.expert_epochs)),
        # measured on a CPU: beside the graphs, about two more of the kind while one is walked back
        "estimated_peak_memory_bytes": int((steps + 2) * step + 4 * parameters * (args.syn_steps + 8)),
        "operations": args.Iteration * args.experts_per_step * args.syn_steps * step_operations(
            network, copy, batch, args.unroll)}))


def step_operations(network, synset, batch, unroll):
    """Floating point operations of one student's step, out and back; on the device "meta"."""
    theta = tuple(network.parameters())
    classes, slots = all_pairs(synset, "meta")
    with FlopCounterMode(display=False) as counter:
        for again in (False, True) if unroll == "adjoint" else (True,):     # once more to walk back
            clips, labels = synset.render(classes[:batch], slots[:batch])
            loss = student_loss(network, theta, per_sample(clips), labels)
            step = torch.autograd.grad(loss, theta, create_graph=again)
        torch.autograd.grad(sum((change * change.detach()).sum() for change in step), (*theta, *synset.parameters()),
                            allow_unused=True)
    return counter.get_total_flops()


def training_operations(network, spec, clips):
    """Floating point operations of training on so many clips once, on the device "meta"."""
    with FlopCounterMode(display=False) as counter:
        loss = network(torch.zeros(1, *spec.shape, device="meta")).sum()
        torch.autograd.grad(loss, tuple(network.parameters()))
    return clips * counter.get_total_flops()


def step_bytes(network, synset, batch):
    """Bytes that the graph of one student's step holds, from networks and sets on the device "meta"."""
    held = {}

    def note(tensor):
        held[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    classes, slots = all_pairs(synset, "meta")
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        clips, labels = synset.render(classes[:batch], slots[:batch])
        loss = student_loss(network, tuple(network.parameters()), per_sample(clips), labels)
        torch.autograd.grad(loss, tuple(network.parameters()), create_graph=True)
        return sum(held.values())


def make_syn_lr(args, device, momentum):
    """The students' learning rate, a ParameterDict so that a checkpoint holds it, and its optimizer: None where it is
    not learned."""
    syn_lr = nn.ParameterDict({"lr": torch.tensor(args.lr_teacher)}).to(device)
    if not (args.train_lr or args.lr_lr is not None):
        return syn_lr, None
    lr_lr = 1e-5 if args.lr_lr is None else args.lr_lr
    return syn_lr, torch.optim.SGD(syn_lr.parameters(), lr=lr_lr, momentum=momentum)


def student_loss_of(args, run, synset, spec):
    """step_loss(theta, i, number) of `mtt_gradient`: what step i of student `number` of a run sees. All that is random
    in it is derived from these two, so it is the same each time it is asked for."""
    rules, dsa = PROTOCOLS[args.protocol], dsa_of(args)
    classes, slots = all_pairs(synset, run.device)
    with run.seeded("student"):     # its weights are never used: students start at those of experts
        student = get_network(args.model, spec, run.device)

    def step_loss(theta, i, number):
        draw = run.generator(number, "step", i)
        chosen = student_batch(len(classes), args.batch_syn, i, run.derive(number, "order"))
        chosen = chosen.to(run.device, non_blocking=True)
        clips, labels = synset.render(classes[chosen], slots[chosen], draw)
        clips = rules.matching(dsa.apply(clips, dsa.draw(draw, len(clips))))
        with run.seeded(number, "dropout", i):
            return student_loss(student, theta, clips, labels)

    return step_loss


def student_batch(size, batch, step, seed):
    """Numbers of the clips of a student's step: all of them, or `batch` and each once before any comes again."""
    if not batch or batch >= size:
        return torch.arange(size)
    epoch, turn = divmod(step, -(-size // batch))
    return torch.randperm(size, generator=generator(seed, epoch)).split(batch)[turn]


def make_optimizer(kind, rates, momentum=0.0):
    """SGD or Adam over (tensors, learning rate) pairs; pairs with rate 0 are left as they are."""
    groups = [{"params": tensors, "lr": lr} for tensors, lr in rates if lr > 0]
    return torch.optim.Adam(groups) if kind == "adam" else torch.optim.SGD(groups, momentum=momentum)


def in_precision(function, dtype):
    """A network, or its `embed`, computed in dtype: weights, and what comes back, stay float32."""
    def computed(x):
        with torch.autocast(x.device.type, dtype):
            return function(x.to(dtype)).float()
    return function if dtype == torch.float32 else computed


def make_step(network, optimizer, dtype=torch.float32):
    """step(inputs, labels): one of cross-entropy. It returns how many the network had right, a tensor."""
    forward = in_precision(network, dtype)

    def step(inputs, labels):
        logits = forward(inputs)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return (logits.detach().argmax(1) == labels).sum()

    return step


class GraphedStep:
    """A step of `make_step` as a CUDA graph: one launch in place of some hundred, which is what small batches take
    their time for. A batch size has a graph of its own, made after WARM_UP usual steps, and so has a learning rate."""

    WARM_UP = 3

    def __init__(self, step, optimizer):
        self.step, self.optimizer, self.seen, self.graphs = step, optimizer, Counter(), {}

    def __call__(self, inputs, labels):
        self.seen[inputs.shape] += 1
        if self.seen[inputs.shape] <= self.WARM_UP:
            return self.step(inputs, labels)
        key = inputs.shape, self.optimizer.param_groups[0]["lr"]
        if key not in self.graphs:
            # each holds memory of its own: those of another rate are not needed any more
            self.graphs = {other: graph for other, graph in self.graphs.items() if other[1] == key[1]}
            self.optimizer.zero_grad(set_to_none=True)      # gradients of a graph live in memory of its own
            self.graphs[key] = self.capture(inputs.clone(), labels.clone())
        replay, held_inputs, held_labels, hits = self.graphs[key]
        held_inputs.copy_(inputs)
        held_labels.copy_(labels)
        replay()
        return hits.clone()

    def capture(self, inputs, labels):
        """Nothing is computed yet: (call that computes a step on what the two tensors hold, them, its result)."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            hits = self.step(inputs, labels)
        return graph.replay, inputs, labels, hits


def train_epoch(network, batches, step):
    """One pass of a step of `make_step` over (inputs, labels) pairs. Returns its top-1 accuracy, a tensor."""
    network.train()
    hits, count = 0, 0
    for inputs, labels in batches:
        hits, count = hits + step(inputs, labels), count + len(labels)
    return hits / count


def train_batches(train_on, batch_size, draw, device, view=lambda x: x, dsa=None):
    """One epoch of (inputs, labels) as a network sees them: every clip once, in random order, augmented, in the view of
    the protocol. From a synthetic set without a graph."""
    if isinstance(train_on, Clips):
        labels_of = train_on.labels.to(device, non_blocking=True)
    else:
        labels_of, slots = all_pairs(train_on, device)
    for batch in torch.randperm(len(labels_of), generator=draw).split(batch_size):
        there = batch.to(device, non_blocking=True)
        labels = labels_of[there]
        if isinstance(train_on, Clips):
            clips = train_on.get(batch, draw, device)
        else:
            with torch.no_grad():
                clips, _ = train_on.render(labels, slots[there], draw)
        if dsa:
            clips = dsa.apply(clips, dsa.draw(draw, len(clips)))
        yield view(clips), labels


@torch.no_grad()
def evaluate(network, clips, batch_size=256, protocol="standard", device="cpu", seed=0, passes=None,
             dtype=torch.float32):
    """Tests a network on real clips, as the protocol says (or in fewer passes): an EvalResult."""
    rules = PROTOCOLS[protocol]
    network.eval()
    forward = in_precision(network, dtype)
    k = clips.spec.num_classes
    loss, top5, hits, counts = 0.0, 0, torch.zeros(k), torch.zeros(k)
    for number in range(passes or rules.test_passes):
        draw = generator(seed, "test", number) if rules.random_test else None
        logits = torch.cat([forward(rules.evaluation(clips.get(batch, draw, device)))
                            for batch in torch.arange(len(clips)).split(batch_size)]).cpu()
        loss += F.cross_entropy(logits, clips.labels, reduction="sum").item()
        ranked = logits.topk(min(5, k), dim=1).indices
        top5 += (ranked == clips.labels[:, None]).sum().item()
        hits += torch.bincount(clips.labels[ranked[:, 0] == clips.labels], minlength=k)
        counts += torch.bincount(clips.labels, minlength=k)
    total = counts.sum().item()
    return EvalResult(hits.sum().item() / total, top5 / total, loss / total, hits / counts)


def train_network(train_on, spec, network, *, epochs=500, lr=0.01, batch_size=256, protocol="standard", seed=0,
                  device="cpu", dist=False, dsa=None, dtype=torch.float32, graphs=False, desc=None):
    """A fresh network trained on a synthetic set or on real clips: SGD with momentum 0.9 and weight decay 5e-4, the
    rate cut tenfold half-way. Everything random comes from the seed. graphs: its steps as CUDA graphs, on one CUDA
    device. Returns the network."""
    rules = PROTOCOLS[protocol]
    draw = generator(seed, "training")
    with seeded(derive_seed(seed, "network"), device):      # weights, then dropout
        net = get_network(network, spec, device, dist)
        optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        step = make_step(net, optimizer, dtype)
        if graphs:
            step = GraphedStep(step, optimizer)
        for epoch in progress(range(epochs + rules.extra_epochs), desc=desc or network, unit="epoch", leave=False,
                              disable=None):
            train_epoch(net, train_batches(train_on, batch_size, draw, device, rules.evaluation, dsa), step)
            if epoch == rules.cut_after(epochs):
                optimizer.param_groups[0]["lr"] *= 0.1
    return net


def evaluate_synset(train_on, data, network, *, epochs=500, lr=0.01, batch_size=256, protocol="standard", seed=0,
                    device="cpu", dist=False, dsa=None, dtype=torch.float32, graphs=False):
    """Trains a fresh network on a synthetic set or on the real training clips (`data.train`), tests it on the real test
    clips and returns an EvalResult, always. Nothing global is touched: calling it more often changes nothing else."""
    if isinstance(train_on, ImageSet) and data.spec.view != "single":
        train_on = train_on.as_clips(data.spec.frames)      # images train a video network as clips that stand still
    net = train_network(train_on, data.spec, network, epochs=epochs, lr=lr, batch_size=batch_size, protocol=protocol,
                        seed=seed, device=device, dist=dist, dsa=dsa, dtype=dtype, graphs=graphs)
    return evaluate(net, data.test, batch_size, protocol, device, seed, dtype=dtype)
