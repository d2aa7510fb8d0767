"""Synthetic sets: how clips are written down, what of it is learned, and how clips are rendered from it.

SETS holds the kinds, a class each. A kind says of itself all that a loss, a run or a file needs to know:

    title                       what it is
    label, clips_flag           its name before a method's ("S2D-DM"), the flag of its clips per class ("vpc")
    rates                       learning rate -> (of what, SGD's default, Adam's default)
    add_args(parser)            its flags; with trained=False without those of its start and its training
    from_args(args, spec)       an empty set; ValueError before any work
    start(clips, seed)          starts it from real clips, or from noise
    clips_needed                real clips of a class that its start takes
    encode(real)                writes real clips (K, clips_needed, ...) down in this form
    groups()                    learning rate -> the tensors that it trains; [] is frozen
    render(classes, slots, generator, variants) -> (clips, targets)
                                the only way to get clips out of it, all in one batched call. targets: what the clips
                                tell a network, class numbers (B,) or rows (B, K). variants: which clip of each slot
                                (B,), where it has several; if not given, drawn, or the first without a generator
    num_variants                clips of a slot, each with a row of labels of its own
    draw(count, generator)      only where there are several: so many random variants
    label_kind, labels          one of KINDS (labels.py), and the rows, class by class, slot by slot; None of class
                                numbers
    shape                       of one rendered sample
    pixels, exact               names of the tensors that a store may code as pictures, and beginnings of the names of
                                those that stay exact
    shared                      beginnings of the names of tensors that belong to no class; all others have rows, class
                                by class
    arguments                   what builds it again from its file
    counted                     only where it has lists of modules: the argument that says how many -> name of the list
    watched, grow(optimizer, done)
                                only where it grows while it is trained (keyframes.py)
    num_classes, num_slots      K, and its clips of a class
"""
import sys
from math import prod
from pathlib import Path

import torch
from torch import nn

from distill_utils import labels, published, storage
from distill_utils.args import add_values_arg, may_change, positive
from distill_utils.clips import ClassSampler, change_of
from distill_utils.device import check_memory
from distill_utils.keyframes import KeyFrameSet
from distill_utils.seeds import make_generator, seeded
from distill_utils.storage import (  # noqa: F401 (handed on)
    STORES,
    as_stored,
    save_synset,
    storage_bytes,
)


class VideoSet(nn.Module):
    """Clips as pixels: `videos` (K * ipc, T, C, H, W), class by class. (Images (K * ipc, C, H, W) where a data set
    gives single frames.)"""
    title, label, clips_flag = "whole clips", "Pixels", "ipc"
    pixels, exact, num_variants, shared = ("videos",), ("labels",), 1, ()
    # SGD's: as published for DM, miniUCF101 at one clip a class (S2D, arXiv 2312.00362). Adam's: found on MotionDigits.
    rates = {"lr_img": ("the pixels", 30.0, 0.02)}

    def __init__(self, num_classes, ipc, shape, init="real", label_kind="class", learn_labels=False):
        super().__init__()
        self.num_classes, self.num_slots, self.init = num_classes, ipc, init
        self.videos = nn.Parameter(torch.zeros(num_classes * ipc, *shape))
        self.label_kind, self.learn_labels = label_kind, learn_labels
        self.labels = labels.make_rows(label_kind, num_classes, num_classes * ipc)

    @classmethod
    def add_args(cls, parser, trained=True):
        group = parser.add_argument_group(f"set: {cls.title}")
        group.add_argument("--ipc", type=positive, default=1, help="synthetic clips a class")
        if trained:
            group.add_argument("--init", choices=("real", "noise"), default="real", help="start of the clips")

    @classmethod
    def from_args(cls, args, spec):
        check_memory(f"--ipc {args.ipc}", spec.num_classes * args.ipc * prod(spec.shape))
        return cls(spec.num_classes, args.ipc, spec.shape, vars(args).get("init", "real"), **labels.settings(args))

    @property
    def clips_needed(self):
        return self.num_slots

    def start(self, clips, seed):
        generator = make_generator(seed)
        if self.init == "real":
            self.encode(clips.random_clips(self.clips_needed, generator))
        else:
            self.videos.data.normal_(generator=generator)

    def encode(self, real):
        self.videos.data = real.flatten(0, 1)

    def groups(self):
        return {"lr_img": [self.videos], **labels.group(self)}

    def render(self, classes, slots, generator=None, variants=None):
        which = classes * self.num_slots + slots
        return self.videos[which], labels.targets_of(self, classes, which)

    @property
    def shape(self):
        return tuple(self.videos.shape[1:])

    @property
    def arguments(self):
        return {"num_classes": self.num_classes, "ipc": self.num_slots, "shape": list(self.shape),
                **labels.argument(self)}


class ImageSet(nn.Module):
    """Still images (K * spc, C, H, W), class by class. With `frames` a clip is an image repeated that many times.

    split_num: image i of a class starts from segment i % split_num of a video's time, so that every slot of a
    static-dynamic set made of them has all segments.
    """
    title, label, clips_flag = "a still image for each clip", "Still", "ipc"
    pixels, exact, num_variants, shared = ("static",), ("labels",), 1, ()
    rates = VideoSet.rates

    def __init__(self, num_classes, spc, shape, frames=None, init="real", split_num=1, label_kind="class",
                 learn_labels=False):
        super().__init__()
        if spc % split_num:
            raise ValueError(f"--ipc {spc} images cannot be shared by --split_num {split_num} segments: give a "
                             "multiple of it")
        self.num_classes, self.num_slots, self.frames = num_classes, spc, frames
        self.init, self.split_num = init, split_num
        self.static = nn.Parameter(torch.zeros(num_classes * spc, *shape))
        self.label_kind, self.learn_labels = label_kind, learn_labels
        self.labels = labels.make_rows(label_kind, num_classes, num_classes * spc)

    @classmethod
    def add_args(cls, parser, trained=True):
        group = parser.add_argument_group(f"set: {cls.title}")
        group.add_argument("--ipc", "--spc", dest="ipc", type=positive, default=1, help="images a class")
        if trained:
            group.add_argument("--init", choices=("real", "noise"), default="real", help="start of the images")
            group.add_argument("--split_num", type=positive, default=1, help="cut videos into so many segments of "
                               "time; image i of a class starts from frames of segment i modulo this, and DC matches "
                               "it with them")

    @classmethod
    def from_args(cls, args, spec):
        check_memory(f"--ipc {args.ipc}", spec.num_classes * args.ipc * prod(spec.shape[-3:]))
        return cls(spec.num_classes, args.ipc, spec.shape[-3:], None if spec.view == "single" else spec.frames,
                   vars(args).get("init", "real"), vars(args).get("split_num", 1), **labels.settings(args))

    @property
    def clips_needed(self):
        return self.num_slots

    def start(self, clips, seed):
        generator = make_generator(seed)
        if self.init == "real":
            sampler, n = ClassSampler(clips.single_frames()), self.num_slots // self.split_num
            self.static.data = torch.stack([
                sampler.sample(range(self.num_classes), n, generator, segment=(segment, self.split_num))
                for segment in range(self.split_num)], dim=2).flatten(0, 2)
        else:
            self.static.data.normal_(generator=generator)

    def encode(self, real):
        """Of clips (K, n, T, C, H, W) the middle frames; images (K, n, C, H, W) as they are."""
        self.static.data = _middle_frames(real).flatten(0, 1)

    def groups(self):
        return {"lr_img": [self.static], **labels.group(self)}

    def render(self, classes, slots, generator=None, variants=None):
        which = classes * self.num_slots + slots
        images = self.static[which]
        if self.frames:
            images = images[:, None].expand(-1, self.frames, -1, -1, -1)
        return images, labels.targets_of(self, classes, which)

    def as_clips(self, frames):
        """The same images, shared, as clips that stand still; as images without frames."""
        with torch.device("meta"):
            clips = ImageSet(**self.arguments | {"frames": frames})
        clips.static, clips.labels = self.static, self.labels
        return clips

    @property
    def shape(self):
        image = tuple(self.static.shape[1:])
        return (self.frames, *image) if self.frames else image

    @property
    def arguments(self):
        return {"num_classes": self.num_classes, "spc": self.num_slots, "shape": list(self.static.shape[1:]),
                "frames": self.frames, **labels.argument(self)}


class Hallucinator(nn.Module):
    """Makes a clip of a static image and a dynamic memory with one Conv3d (S2D, arXiv 2312.00362, section 3).

    static (B, C, H, W), dynamic (B, T, 1, H, W) -> (B, T, C, H, W). mode "concat": the memory is one more input channel
    (327 parameters at C = 3); "add": it is added to every channel. init "published": torch's default; "identity": the
    image passes through, and the memory is added to every channel.
    """

    def __init__(self, channels=3, mode="concat", init="published"):
        super().__init__()
        self.channels, self.mode, self.init = channels, mode, init
        self.conv = nn.Conv3d(channels + (mode == "concat"), channels, kernel_size=3, padding=1)
        self._identity()

    def reset_parameters(self):
        """Draws the weights anew, from torch's global state."""
        self.conv.reset_parameters()
        self._identity()

    @torch.no_grad()
    def _identity(self):
        if self.init == "identity":
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            for c in range(self.channels):
                self.conv.weight[c, c, 1, 1, 1] = 1
                if self.mode == "concat":
                    self.conv.weight[c, self.channels, 1, 1, 1] = 1

    def forward(self, static, dynamic):
        static = static[:, :, None].expand(-1, -1, dynamic.shape[1], -1, -1)       # (B, C, T, H, W)
        dynamic = dynamic.transpose(1, 2)                                          # (B, 1, T, H, W)
        x = torch.cat([static, dynamic], dim=1) if self.mode == "concat" else static + dynamic
        x = x.contiguous(memory_format=torch.channels_last_3d)     # with so few channels 7 times as fast
        return self.conv(x).transpose(1, 2)


class StaticDynamicSet(nn.Module):
    """Static images and dynamic memories per class, put together by hallucinators (S2D, arXiv 2312.00362).

    static (K * spc, C, H, W), dynamic (K, dpc, T, 1, H, W). Clip i of a class draws one of the static images
    i * spc / vpc ... and one of the dynamic memories i * dpc / vpc ..., and one of the hallucinators.
    dynamic_init: the memories start from "noise" (published), or "real": from the movement of real clips.
    """
    title, label, clips_flag = "static images + dynamic memories", "S2D", "vpc"
    pixels, exact = ("static",), ("hallucinators", "labels")     # 327 numbers that shape every clip
    shared = ("hallucinators",)
    counted = {"n_hal": "hallucinators"}
    rates = {"lr_static": ("the static images", 100.0, 0.02), "lr_dynamic": ("the dynamic memories", 1e-4, 0.02),
             "lr_hal": ("the hallucinators", 1e-5, 0.005)}      # as VideoSet's

    def __init__(self, num_classes, vpc, spc, dpc, shape, n_hal=1, hal_mode="concat", hal_init="published",
                 dynamic_init="real", train_static=True, label_kind="class", learn_labels=False):
        super().__init__()
        for name, count in (("spc", spc), ("dpc", dpc)):
            if count < vpc or count % vpc:
                raise ValueError(f"--{name} {count} cannot be shared by --vpc {vpc} clips: give a multiple of {vpc}")
        frames, channels, *size = shape
        self.num_classes, self.num_slots, self.spc, self.dpc = num_classes, vpc, spc, dpc
        self.static = nn.Parameter(torch.zeros(num_classes * spc, channels, *size))
        self.dynamic = nn.Parameter(torch.zeros(num_classes, dpc, frames, 1, *size))
        self.hallucinators = nn.ModuleList(Hallucinator(channels, hal_mode, hal_init) for _ in range(n_hal))
        self.hal_mode, self.dynamic_init, self.train_static = hal_mode, dynamic_init, train_static
        self.has_static, self.static_file = False, None     # images of a file, which no start replaces
        self.label_kind, self.learn_labels = label_kind, learn_labels
        self.labels = labels.make_rows(label_kind, num_classes, num_classes * vpc * self.num_variants)

    @classmethod
    def add_args(cls, parser, trained=True):
        group = parser.add_argument_group(f"set: {cls.title}")
        group.add_argument("--vpc", type=positive, default=1, help="synthetic clips a class")
        # of a selection each clip is one image and its own movement; a trained set draws one of several of each
        default, times = (2, "a multiple of vpc") if trained else (None, "a multiple of vpc; if not given, vpc")
        group.add_argument("--spc", type=positive, default=default, help=f"static images a class, {times}")
        group.add_argument("--dpc", type=positive, default=default, help=f"dynamic memories a class, {times}")
        group.add_argument("--n_hal", type=positive, default=1,
                           help="hallucinators; each clip is made by one of them, drawn at random")
        group.add_argument("--hal_mode", choices=("concat", "add"), default="concat",
                           help="what a hallucinator sees: image and memory as channels, or their sum")
        if trained:
            group.add_argument("--hal_init", choices=("published", "identity"), default="identity",
                               help="start of the hallucinators: torch's random weights, as published, or weights that "
                               "give image + memory")
            group.add_argument("--dynamic_init", choices=("noise", "real"), default="real",
                               help="start of the dynamic memories: noise, as published, or the movement of a real "
                               "clip (its brightness minus that of the static image)")
            may_change(group.add_argument(      # but not its content
                "--path_static", help="file of the static images: the synset.safetensors of distill_DC.py, or a .pt "
                "file; if not given, they start as frames of real clips"))
            may_change(group.add_argument(
                "--static_init", choices=("file", "real"), help="what the static images start from: the file of "
                "--path_static, or frames of real clips. Only says which is meant: it may be left out, and the "
                "launchers look for a static memory unless it is real"))
            add_values_arg(group)
            group.add_argument("--no_train_static", action="store_true", help="keep the static images as they are")

    @classmethod
    def from_args(cls, args, spec):
        if spec.view == "single":
            clips = args.dataset.removeprefix("single")
            raise ValueError(f"--dataset {args.dataset} gives single frames, which have no movement to learn: give "
                             + (clips if clips != args.dataset else "a data set of clips"))
        given, pixels = vars(args), spec.num_classes * spec.size ** 2
        for flag, count, numbers in (("spc", args.spc or args.vpc, pixels * spec.channels),
                                     ("dpc", args.dpc or args.vpc, pixels * spec.frames),
                                     ("n_hal", args.n_hal, 3000)):      # what a module of Python takes
            check_memory(f"--{flag} {count}", count * numbers)
        with seeded(0):     # `start` draws the weights that count
            synset = cls(spec.num_classes, args.vpc, args.spc or args.vpc, args.dpc or args.vpc, spec.shape, args.n_hal,
                         args.hal_mode,
                         given.get("hal_init", "identity"), given.get("dynamic_init", "real"),
                         not given.get("no_train_static"), **labels.settings(args))
        if given.get("static_init") and (args.static_init == "file") != bool(args.path_static):
            raise ValueError(f"--static_init {args.static_init} and " + (
                f"--path_static {args.path_static} contradict each other: leave out one of them" if args.path_static
                else "no --path_static: give --path_static FILE, or --static_init real"))
        if given.get("path_static"):
            images = load_static(args.path_static, spec, args.spc, given.get("values"))
            synset.static.data, synset.has_static, synset.static_file = images, True, args.path_static
        elif given.get("values"):
            raise ValueError(f"--values {args.values} is of a .pt file: give --path_static FILE, or leave it out")
        elif "path_static" in given and args.static_init != "real":
            print("note: no --path_static FILE, so the static images start as frames of real clips; distill_DC.py "
                  "makes a static memory", file=sys.stderr)
        return synset

    @property
    def clips_needed(self):
        return max(self.dpc, 0 if self.has_static else self.spc)

    def start(self, clips, seed):
        if self.static_file:
            note_other_clips(self.static_file, clips)
        with seeded(seed):
            for hallucinator in self.hallucinators:
                hallucinator.reset_parameters()
            self.dynamic.data.normal_()
        if self.dynamic_init == "real" or not self.has_static:
            self.encode(clips.random_clips(self.clips_needed, make_generator(seed)))

    @torch.no_grad()
    def encode(self, real):
        """Static images, unless they are there, from the middle frames of real clips. The dynamic memories, unless they
        start from noise, from their movement: memory j of a class is the brightness of its clip j minus that of the
        static images it will be drawn with (their mean). With an identity hallucinator the set then renders clips with
        the movement of the real ones."""
        if not self.has_static:
            self.static.data = _middle_frames(real[:, :self.spc]).flatten(0, 1)
        if self.dynamic_init == "real":
            n = self.spc // self.num_slots
            still = self.static.mean(1, keepdim=True).unflatten(0, (self.num_classes, self.num_slots, n)).mean(2)
            still = still.repeat_interleave(self.dpc // self.num_slots, dim=1)         # (K, dpc, 1, H, W)
            self.dynamic.copy_(real[:, :self.dpc].mean(3, keepdim=True) - still[:, :, None])

    def groups(self):
        return {"lr_static": [self.static] if self.train_static else [], "lr_dynamic": [self.dynamic],
                "lr_hal": list(self.hallucinators.parameters()), **labels.group(self)}

    @property
    def choices(self):
        """Of how many static images, dynamic memories and hallucinators a clip of a slot is one each."""
        return self.spc // self.num_slots, self.dpc // self.num_slots, len(self.hallucinators)

    @property
    def num_variants(self):
        return prod(self.choices)

    def draw(self, count, generator):
        """So many variants, on the CPU, so that a seed gives the same clips on every device."""
        image, memory, which = (
            torch.zeros(count, dtype=torch.long) if generator is None or n == 1 else
            torch.randint(n, (count,), generator=generator) for n in self.choices)
        _, n_dynamic, n_hal = self.choices
        return (image * n_dynamic + memory) * n_hal + which

    def render(self, classes, slots, generator=None, variants=None):
        """Without a generator the first static image, memory and hallucinator of each slot. Variants count the
        hallucinators fastest, the static images slowest."""
        n_static, n_dynamic, n_hal = self.choices
        if variants is None:
            variants = self.draw(len(classes), generator).to(classes.device, non_blocking=True)
        image, memory, which = variants // n_hal // n_dynamic, variants // n_hal % n_dynamic, variants % n_hal
        static = self.static[classes * self.spc + slots * n_static + image]
        dynamic = self.dynamic[classes, slots * n_dynamic + memory]
        rows = (((classes * self.num_slots + slots) * n_static + image) * n_dynamic + memory) * n_hal + which
        targets = labels.targets_of(self, classes, rows)
        if n_hal == 1:
            return self.hallucinators[0](static, dynamic), targets
        # few hallucinators, so each renders the batch; a batch split by hallucinator would have shapes that change
        clips = torch.stack([hallucinator(static, dynamic) for hallucinator in self.hallucinators])
        return clips[which, torch.arange(len(classes), device=classes.device)], targets

    @property
    def shape(self):
        frames, _, *size = self.dynamic.shape[2:]
        return frames, self.static.shape[1], *size

    @property
    def arguments(self):
        return {"num_classes": self.num_classes, "vpc": self.num_slots, "spc": self.spc, "dpc": self.dpc,
                "shape": list(self.shape), "n_hal": len(self.hallucinators), "hal_mode": self.hal_mode,
                **labels.argument(self)}


SETS = {"pixels": VideoSet, "still": ImageSet, "s2d": StaticDynamicSet, "keyframes": KeyFrameSet}


def watched_by(synset):
    """Tensors beside those of `groups` whose gradient a set wants, for its `grow`."""
    return getattr(synset, "watched", [])


def grow(synset, optimizer, done):
    """After each step: lets a set that grows while it is trained do so. done: share of the iterations."""
    if watched_by(synset):
        synset.grow(optimizer, done)


def method_name(loss, kind, published="pixels"):
    """What a run is called: the loss, and the set before it where it is not the one the loss was published for."""
    return loss if kind == published else f"{SETS[kind].label}-{loss}"


def all_pairs(synset, device="cpu"):
    """Classes and slots (each long (K * num_slots,)) of every clip of a set, class by class."""
    classes = torch.arange(synset.num_classes, device=device).repeat_interleave(synset.num_slots)
    slots = torch.arange(synset.num_slots, device=device).repeat(synset.num_classes)
    return classes, slots


def fit(synset, spec):
    """The set as networks of a data set take it: still images become clips of as many frames where it has clips.
    ValueError where its samples have another shape."""
    if synset.shape == spec.shape:
        return synset
    if isinstance(synset, ImageSet) and synset.shape[-3:] == spec.shape[-3:]:
        return synset.as_clips(None if spec.view == "single" else spec.frames)
    raise ValueError(f"the set holds samples of shape {synset.shape}, but the data set has {spec.shape}: give the "
                     "--dataset, --frames and --im_size that it was made with")


def load_synset(path, check=None):
    """Reads a set: (set, header). Raises ValueError that names the file when it is not one of ours. check: as
    `read_synset` takes it."""
    return storage.read_synset(path, {kind.__name__: kind for kind in SETS.values()}, check)


def load_static(path, spec, spc, values=None):
    """Static memory (K * spc, C, H, W) for `--path_static`: a set of distill_DC.py, or another's `.pt` file. values: as
    `read_images` takes them. A file of another shape raises ValueError with both shapes."""
    expected = (spec.num_classes * spc, spec.channels, spec.size, spec.size)
    way_out = f"give the file made for this data set and size, and its --spc (it is {spc})"
    if not Path(path).exists():
        raise ValueError(f"there is no static memory at --path_static {path}: make one with distill_DC.py")
    if not is_ours(path):
        return published.read_images(path, "--path_static", spec, [expected], values, way_out)
    if values:
        raise ValueError(f"--values {values} is of .pt files, and --path_static {path} says itself what its values "
                         "are: leave it out")
    synset, header = load_synset(path)
    if not isinstance(synset, ImageSet):
        raise ValueError(f"--path_static {path} holds a {header['kind']}: give an ImageSet of distill_DC.py")
    check_classes(f"--path_static {path}", header, spec)
    if tuple(synset.static.shape) != expected:
        raise ValueError(f"--path_static {path} holds images of shape {tuple(synset.static.shape)}, but --dataset "
                         f"needs {expected}: {way_out}")
    return synset.static.detach().contiguous()


def is_ours(path):
    """Whether a set is in the format of this program, or else in one of others (published.py)."""
    return Path(path).suffix == ".safetensors"


def check_classes(name, header, spec):
    """ValueError unless the header of a set has the classes of a data set, in their order, and its normalisation."""
    here, wanted = header["classes"], list(spec.classes)
    for what in ("mean", "std"):
        if header[what] != list(getattr(spec, what)):
            raise ValueError(f"{name} was normalised with the {what} {header[what]}, and --dataset has "
                             f"{list(getattr(spec, what))}: give the --dataset that it was made with")
    if here == wanted:
        return
    if sorted(here) == sorted(wanted):
        k = next(k for k in range(len(here)) if here[k] != wanted[k])
        raise ValueError(f"{name} has the classes of --dataset in another order (class {k} is {here[k]}, and now "
                         f"{wanted[k]}; the order of UCF101's names was corrected): make it again")
    raise ValueError(f"{name} has other classes ({here[:3]} ...) than --dataset ({wanted[:3]} ...): give "
                     f"--dataset {header.get('dataset') or 'NAME'}, and the --classes that it was made with")


def load_published(path, spec, values=None, dynamic=None, hal=None, vpc=None):
    """A set of another program (published.py) that fits a data set: images, clips or, of S2D, the static images of
    `path`, the memories of `dynamic` and the hallucinators of `hal`, `vpc` clips a class."""
    flag, k, image = "--synset", spec.num_classes, (None, spec.channels, spec.size, spec.size)
    if not dynamic:
        images = published.read_images(path, flag, spec, dict.fromkeys([(None, *spec.shape), image]), values)
        ipc, shape = len(images) // k, tuple(images.shape[1:])
        if images.dim() == 5:
            return storage.build(VideoSet, {"num_classes": k, "ipc": ipc, "shape": shape}, {"videos": images})
        return storage.build(ImageSet, {"num_classes": k, "spc": ipc, "shape": shape}, {"static": images})
    images = published.read_images(path, flag, spec, [image], values)
    memories = published.read_dynamic(dynamic, "--dynamic", spec)
    hallucinators, mode = published.read_hallucinators(hal, "--hal", spec.channels)
    spc, dpc = len(images) // k, memories.shape[1]
    for name, count in (("static images", spc), ("dynamic memories", dpc)):
        if count % vpc:
            raise ValueError(f"--vpc {vpc} clips cannot share the {count} {name} that {path} and {dynamic} have for "
                             "each class: give the --vpc that the set was made with")
    state = {f"hallucinators.{i}.conv.{part}": value for i, parts in enumerate(hallucinators)
             for part, value in parts.items()}
    return storage.build(StaticDynamicSet, {
        "num_classes": k, "vpc": vpc, "spc": spc, "dpc": dpc, "shape": spec.shape, "n_hal": len(hallucinators),
        "hal_mode": mode}, {"static": images, "dynamic": memories, **state})


def note_other_clips(path, clips):
    """Says so where a static memory of ours was made of other clips than a run has: other videos, or another split."""
    made_of = load_synset(path)[1].get("clips") if Path(path).suffix == ".safetensors" else None
    if made_of:
        here = made_of | {key: clips.identity()[key] for key in ("count", "names", "labels")}   # and not of frames
        change = change_of(made_of, here)
        if change and not clips.whole:
            raise ValueError(f"the static memory {path} was made of other clips than --holdout leaves ({change}), and "
                             "may have seen those that are held back: make it with the same --holdout")
        if change:
            print(f"note: the static memory {path} was made of other clips than this run has: {change}",
                  file=sys.stderr)


def _middle_frames(real):
    """(K, n, T, C, H, W) -> (K, n, C, H, W); images stay as they are."""
    return real[:, :, real.shape[2] // 2] if real.dim() == 6 else real
