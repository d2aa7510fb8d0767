"""Synthetic sets: what is learned, how clips are rendered from it, and how it is stored.

Every set has `num_slots` clips per class and `render(classes, slots, generator) -> (clips, labels)`, the only way to
get clips out of it. All of them are rendered in one batched call.
"""
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from distill_utils.files import replacing

STORES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "uint8": torch.uint8}


class VideoSet(nn.Module):
    """Clips as pixels: `videos` (K * ipc, T, C, H, W), class by class."""

    def __init__(self, num_classes, ipc, shape):
        super().__init__()
        self.num_classes, self.num_slots = num_classes, ipc
        self.videos = nn.Parameter(torch.zeros(num_classes * ipc, *shape))

    def render(self, classes, slots, generator=None):
        return self.videos[classes * self.num_slots + slots], classes

    @property
    def arguments(self):
        return {"num_classes": self.num_classes, "ipc": self.num_slots, "shape": list(self.videos.shape[1:])}


class ImageSet(nn.Module):
    """Still images (K * spc, C, H, W), class by class. With `frames` a clip is an image repeated that many times."""

    def __init__(self, num_classes, spc, shape, frames=None):
        super().__init__()
        self.num_classes, self.num_slots, self.frames = num_classes, spc, frames
        self.static = nn.Parameter(torch.zeros(num_classes * spc, *shape))

    def render(self, classes, slots, generator=None):
        images = self.static[classes * self.num_slots + slots]
        if self.frames:
            images = images[:, None].expand(-1, self.frames, -1, -1, -1)
        return images, classes

    def as_clips(self, frames):
        """The same images, shared, as clips that stand still."""
        with torch.device("meta"):
            clips = ImageSet(**self.arguments | {"frames": frames})
        clips.static = self.static
        return clips

    @property
    def arguments(self):
        return {"num_classes": self.num_classes, "spc": self.num_slots, "shape": list(self.static.shape[1:]),
                "frames": self.frames}


class Hallucinator(nn.Module):
    """Makes a clip of a static image and a dynamic memory with one Conv3d (S2D, arXiv 2312.00362, section 3).

    static (B, C, H, W), dynamic (B, T, 1, H, W) -> (B, T, C, H, W). mode "concat": the memory is one more input channel
    (327 parameters at C = 3); "add": it is added to every channel. init "published": torch's default; "identity": the
    image passes through, and the memory is added to every channel.
    """

    def __init__(self, channels=3, mode="concat", init="published"):
        super().__init__()
        self.mode = mode
        self.conv = nn.Conv3d(channels + (mode == "concat"), channels, kernel_size=3, padding=1)
        if init == "identity":
            with torch.no_grad():
                self.conv.weight.zero_()
                self.conv.bias.zero_()
                for c in range(channels):
                    self.conv.weight[c, c, 1, 1, 1] = 1
                    if mode == "concat":
                        self.conv.weight[c, channels, 1, 1, 1] = 1

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
    """

    def __init__(self, num_classes, vpc, spc, dpc, shape, n_hal=1, hal_mode="concat", hal_init="published"):
        super().__init__()
        for name, count in (("spc", spc), ("dpc", dpc)):
            if count < vpc or count % vpc:
                raise ValueError(f"--{name} {count} cannot be shared by --vpc {vpc} clips: give a multiple of {vpc}")
        frames, channels, *size = shape
        self.num_classes, self.num_slots, self.spc, self.dpc = num_classes, vpc, spc, dpc
        self.static = nn.Parameter(torch.zeros(num_classes * spc, channels, *size))
        self.dynamic = nn.Parameter(torch.zeros(num_classes, dpc, frames, 1, *size))
        self.hallucinators = nn.ModuleList(Hallucinator(channels, hal_mode, hal_init) for _ in range(n_hal))
        self.hal_mode = hal_mode

    def render(self, classes, slots, generator=None):
        """Without a generator the first static image, memory and hallucinator of each slot."""
        def pick(n):    # drawn on the CPU, so that a seed gives the same clips on every device
            if generator is None or n == 1:
                return torch.zeros(len(classes), dtype=torch.long, device=classes.device)
            return torch.randint(n, (len(classes),), generator=generator).to(classes.device, non_blocking=True)

        each_static, each_dynamic = self.spc // self.num_slots, self.dpc // self.num_slots
        static = self.static[classes * self.spc + slots * each_static + pick(each_static)]
        dynamic = self.dynamic[classes, slots * each_dynamic + pick(each_dynamic)]
        which = pick(len(self.hallucinators))
        if len(self.hallucinators) == 1:
            return self.hallucinators[0](static, dynamic), classes
        # few hallucinators, so each renders the batch; a batch split by hallucinator would have shapes that change
        clips = torch.stack([hallucinator(static, dynamic) for hallucinator in self.hallucinators])
        return clips[which, torch.arange(len(classes), device=classes.device)], classes

    @torch.no_grad()
    def start_dynamic(self, clips):
        """Starts dynamic memory j of each class as the brightness of a real clip minus that of the static images it
        will be drawn with (their mean): clips (K, dpc, T, C, H, W). With an identity hallucinator the set then renders
        clips with the movement of the real ones."""
        each = self.spc // self.num_slots
        still = self.static.mean(1, keepdim=True).unflatten(0, (self.num_classes, self.num_slots, each)).mean(2)
        still = still.repeat_interleave(self.dpc // self.num_slots, dim=1)         # (K, dpc, 1, H, W)
        self.dynamic.copy_(clips.mean(3, keepdim=True) - still[:, :, None])

    @property
    def arguments(self):
        frames, _, *size = self.dynamic.shape[2:]
        return {"num_classes": self.num_classes, "vpc": self.num_slots, "spc": self.spc, "dpc": self.dpc,
                "shape": [frames, self.static.shape[1], *size], "n_hal": len(self.hallucinators),
                "hal_mode": self.hal_mode}


KINDS = {cls.__name__: cls for cls in (VideoSet, ImageSet, StaticDynamicSet)}


def all_pairs(synset, device="cpu"):
    """Classes and slots (each long (K * num_slots,)) of every clip of a set, class by class."""
    classes = torch.arange(synset.num_classes, device=device).repeat_interleave(synset.num_slots)
    slots = torch.arange(synset.num_slots, device=device).repeat(synset.num_classes)
    return classes, slots


def pixel_range(name, tensor, spec):
    """Lowest and highest value, by channel, that uint8 storage spans for one tensor of a set.

    For pixels at least the range of a real pixel, so that real clips and frames are stored without loss.
    """
    channels = tensor.shape[-3]
    values = tensor.detach().float().transpose(-3, 0).reshape(channels, -1)
    low, high = values.amin(1), values.amax(1)
    if name in ("videos", "static"):
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        low, high = torch.minimum(low, (0 - mean) / std), torch.maximum(high, (1 - mean) / std)
    return low, torch.maximum(high, low + 1e-6)


def pack(synset, store, spec):
    """The tensors of a set as stored. The hallucinators stay float32: they are 327 numbers and shape every clip."""
    tensors = {}
    for name, value in synset.state_dict().items():
        value = value.detach().cpu().contiguous()
        if name.startswith("hallucinators") or store == "float32":
            tensors[name] = value.float()
        elif store == "bfloat16":
            tensors[name] = value.bfloat16()
        else:
            low, high = pixel_range(name, value, spec)
            shape = (-1, 1, 1)
            tensors[name] = ((value - low.view(shape)) / (high - low).view(shape) * 255).round().to(torch.uint8)
            tensors[f"{name}.range"] = torch.stack([low, high])
    return tensors


def unpack(tensors):
    state = {name: value.float() for name, value in tensors.items() if not name.endswith(".range")}
    for name, value in tensors.items():
        if name.endswith(".range"):
            low, high = value.view(2, -1, 1, 1)
            state[name.removesuffix(".range")] = state[name.removesuffix(".range")] / 255 * (high - low) + low
    return state


def as_stored(synset, store, spec):
    """A copy of a set with the values that a file of it would give back: scores are of what is stored."""
    return _build(type(synset).__name__, synset.arguments, unpack(pack(synset, store, spec)))


def _build(kind, arguments, state):
    with torch.device("meta"):      # nothing is drawn and nothing filled: every tensor comes from the state
        synset = KINDS[kind](**arguments)
    synset.load_state_dict(state, assign=True)
    return synset


def storage_bytes(synset, store="float32", spec=None):
    """Bytes of a set's tensors as they are stored."""
    return sum(tensor.numel() * tensor.element_size() for tensor in pack(synset, store, spec).values())


def save_synset(path, synset, spec, store="float32", **header):
    """Writes a set as one safetensors file with a JSON header; the file is replaced whole or not at all.

    A value that is not finite raises ValueError: a set that trains nothing must not replace one that does.
    """
    tensors = pack(synset, store, spec)
    for name, tensor in synset.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} of the set is not finite, so {path} was left as it was: lower the learning rate "
                             "and go on from the last checkpoint with --resume")
    header = {"kind": type(synset).__name__, "arguments": synset.arguments, "classes": list(spec.classes),
              "mean": list(spec.mean), "std": list(spec.std), "frames": spec.frames, "size": spec.size,
              "labels": all_pairs(synset)[0].tolist(), "store": store, **header}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"header": json.dumps(header, sort_keys=True)})


def load_synset(path):
    """Reads a set: (set, header). Raises ValueError that names the file when it is not one of ours."""
    if not Path(path).is_file():
        raise ValueError(f"there is no synthetic set at {path}: give the synset.safetensors of a run")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["header"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        synset = _build(header["kind"], header["arguments"], unpack(tensors))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is not a synthetic set of this program ({error}): give the synset.safetensors of a "
                         "run") from error
    return synset, header


def load_static(path, spec, spc):
    """Static memory (K * spc, C, H, W) for `--path_static`: a set of distill_DC.py, or another's `.pt` file (a dict
    with the key "image"), read as plain tensors only. A file of another shape raises ValueError with both shapes."""
    wanted = (spec.num_classes * spc, spec.channels, spec.size, spec.size)
    if not Path(path).is_file():
        raise ValueError(f"there is no static memory at --path_static {path}: make one with distill_DC.py")
    if Path(path).suffix == ".safetensors":
        synset, header = load_synset(path)
        if header["kind"] != "ImageSet":
            raise ValueError(f"--path_static {path} holds a {header['kind']}: give an ImageSet of distill_DC.py")
        if header["classes"] != list(spec.classes):
            raise ValueError(f"--path_static {path} was made for other classes ({header['classes'][:3]} ...) than "
                             f"--dataset has ({list(spec.classes[:3])} ...)")
        images = synset.static.detach()
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:      # whatever the unpickler meets in a file that is no plain tensor file
            raise ValueError(f"--path_static {path} is not a file of plain tensors ({error}): make a static memory "
                             "with distill_DC.py") from error
        images = content.get("image") if isinstance(content, dict) else None
        if not torch.is_tensor(images):
            raise ValueError(f'--path_static {path} has no tensor "image": a static memory is a dict with the key '
                             '"image", (K * spc, 3, H, W)')
        images = images.detach().float()
    if tuple(images.shape) != wanted:
        raise ValueError(f"--path_static {path} holds images of shape {tuple(images.shape)}, but --dataset and --spc "
                         f"{spc} need {wanted}: give the file made for this data set, size and --spc")
    if not torch.isfinite(images).all():
        raise ValueError(f"--path_static {path} holds values that are not finite: make the static memory again")
    return images.contiguous()
