"""Sets that other programs wrote: `.pt` files, read as plain tensors. Nothing in them is run, believed or guessed.

    a tensor                            images (N, C, H, W) or clips (N, T, C, H, W): images_best.pt of MTT and DATM,
                                        whose labels_best.pt beside it is read too
    {"data": [[images, labels], ...]}   res_*.pt of DC, DSA and DM
    {"image": images}                   static memories of S2D (a "label" in it is read too)
    dynamic_*.pt, hal_*.pt              dynamic memories and hallucinators of S2D
"""
import math
import sys
from pathlib import Path

import torch

from distill_utils.storage import check_values
from distill_utils.tensors import load_plain

VALUES = {"normalised": None, "unit": 1, "bytes": 255}      # --values -> the value of white
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Skipped:
    """Stands in for numpy's numbers: DC's files hold accuracies as such, which are not read. Nothing of numpy is called
    with what a file says."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


NUMPY = [(Skipped, name) for name in ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")]


def read_pt(path, flag):
    """What a `.pt` file holds: tensors, lists, dicts, numbers and text, mapped into memory where torch wrote a zip file
    (since 1.6). ValueError that names flag and file for any other content."""
    try:
        return load_plain(path, besides=NUMPY)
    except ValueError as error:
        raise ValueError(f"{flag} {path} is not a file of plain tensors ({error}): give a .pt file of tensors alone, "
                         "or a .safetensors file of this program") from None


def plain(value, name, dtypes=FLOATS):
    """A tensor as it is, without a graph. ValueError for one whose numbers are not all there, or of another type; no
    copy was made until then."""
    if not torch.is_tensor(value):
        raise ValueError(f"{name} is a {type(value).__name__} where a tensor is needed")
    value = value.detach()
    odd = ("sparse" if value.layout != torch.strided else "nested" if value.is_nested else "without numbers"
           if value.device.type != "cpu" else "quantised" if value.is_quantized else None)
    if odd:
        raise ValueError(f"{name} is a tensor that is {odd}: save it as a plain one")
    if value.dtype not in dtypes:
        raise ValueError(f"{name} holds {value.dtype} numbers: save it as {dtypes[0]}")
    size = math.prod(value.shape) * value.element_size()
    if size > value.untyped_storage().nbytes():
        raise ValueError(f"{name} shows {tuple(value.shape)} numbers of which the file holds fewer (a view that "
                         "repeats them): save a copy (tensor.clone())")
    return value


def find_images(path, flag):
    """(images, labels or None, file of the labels or None) of a published set, not looked at yet."""
    content = read_pt(path, flag)
    if torch.is_tensor(content):
        beside = labels_beside(path)
        return content, beside and read_pt(beside, f"the labels of {flag} {path},"), beside
    if isinstance(content, dict) and "image" in content:
        return content["image"], content.get("label", content.get("labels")), None
    if isinstance(content, dict) and "data" in content:
        pairs = content["data"]
        if not isinstance(pairs, list) or not pairs or not all(
                isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
            raise ValueError(f'{flag} {path}: its "data" is no list of [images, labels]')
        if len(pairs) > 1:
            print(f"note: {flag} {path} holds the sets of {len(pairs)} experiments: the first is read", file=sys.stderr)
        return (*pairs[0], None)
    raise ValueError(f'{flag} {path} has no images: a published set is a tensor, a dict with the key "image", or one '
                     'with the key "data", a list of [images, labels]')


def labels_beside(path):
    """labels_best.pt of images_best.pt, where it is there."""
    path = Path(path)
    file = path.with_name("labels" + path.name.removeprefix("images"))
    return file if path.name.startswith("images") and file.is_file() else None


def read_images(path, flag, spec, shapes, values=None, way_out="give the file made for this data set and size"):
    """Images or clips of a published set, float32, normalised with the data set's mean and std, class by class.

    shapes: those that are taken; None as first length is any multiple of the number of classes. values: what the
    numbers are, a key of VALUES; None is normalised, unless they do not look so.
    """
    name = f"{flag} {path}"
    images, labels, beside = find_images(path, flag)
    images = plain(images, name, (*FLOATS, torch.uint8))
    shape, k = tuple(images.shape), spec.num_classes
    if not any(len(shape) == len(wanted) and all(here == length or length is None and here and here % k == 0
                                                 for here, length in zip(shape, wanted, strict=True))
               for wanted in shapes):
        wanted = " or ".join(str(tuple(f"N * {k}" if n is None else n for n in wanted)) for wanted in shapes)
        raise ValueError(f"{name} holds images of shape {shape}, but --dataset needs {wanted}".replace("'", "")
                         + f": {way_out}")
    order = None if labels is None else class_order(labels, len(images), spec, f"the labels of {name}")
    check_values(name, images)
    images = normalise(images, values, spec, name)
    images = images.to(torch.float32, copy=True) if order is None else images[order].float()
    lying = (f"sorted by {'the labels in it' if beside is None else beside}" if order is not None else
             "lying class by class")
    print(f"note: {name} does not say what its numbers mean. Its pixels are taken as "
          f"{'normalised with the mean and std of --dataset' if values is None else values}, its images as {lying}, "
          "and the classes as numbered like those of --dataset", file=sys.stderr)
    return images


def class_order(labels, n, spec, name):
    """What sorts n images class by class. ValueError unless each class has as many."""
    if torch.is_tensor(labels) and labels.is_floating_point():
        raise ValueError(f"{name} are soft labels, {labels.dtype} {tuple(labels.shape)}: only sets with class numbers "
                         "are read so far")
    labels = plain(labels, name, (torch.int64, torch.int32, torch.int16, torch.uint8))
    if labels.shape != (n,):
        raise ValueError(f"{name} have the shape {tuple(labels.shape)}, but there are {n} images")
    labels, k = labels.long(), spec.num_classes
    if labels.min() < 0 or labels.max() >= k or len(set(torch.bincount(labels, minlength=k).tolist())) > 1:
        raise ValueError(f"{name} are not as many of each class from 0 to {k - 1}: give the --dataset and --classes "
                         "that the set was made for")
    return labels.argsort(stable=True)


def normalise(images, values, spec, name):
    """Images whose numbers are `values`, normalised with the data set's mean and std."""
    low, high = (value.item() for value in images.aminmax())
    if values is None and low >= 0:     # normalised pixels lie on both sides of the mean
        raise ValueError(f"{name} holds values from {low:g} to {high:g}, which do not look normalised: say what they "
                         "are, with --values unit (0 to 1), bytes (0 to 255) or normalised")
    white = VALUES[values or "normalised"]
    if white is None:
        return images
    if low < 0 or high > white:
        raise ValueError(f"{name} holds values from {low:g} to {high:g}, but --values {values} are 0 to {white}")
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (spec.mean, spec.std))
    return (images.float() / white - mean) / std


def read_dynamic(path, flag, spec):
    """Dynamic memories (K, dpc, T, 1, H, W) of S2D, which its files hold as (K * dpc, T, 1, H, W)."""
    name, k = f"{flag} {path}", spec.num_classes
    memories = plain(read_pt(path, flag), name)
    shape, sample = tuple(memories.shape), (spec.frames, 1, spec.size, spec.size)
    if shape[-4:] != sample or len(shape) not in (5, 6) or not shape[0] or not shape[-5] or (
            shape[0] % k if len(shape) == 5 else shape[0] != k):
        raise ValueError(f"{name} holds memories of shape {shape}, but --dataset needs {(k, 'dpc', *sample)} or "
                         f"{(f'{k} * dpc', *sample)}".replace("'", "") + ": give the file made for this data set, "
                         "--frames and --im_size")
    check_values(name, memories)
    return memories.reshape(k, -1, *sample).to(torch.float32, copy=True)


def read_hallucinators(path, flag, channels):
    """([{"weight": ..., "bias": ...}, ...], mode) of S2D's hallucinators: a state dict of one or several Conv3d, or a
    list of such."""
    name, content = f"{flag} {path}", read_pt(path, flag)
    found = {}
    for number, state in enumerate(content if isinstance(content, (list, tuple)) else [content]):
        for key, value in state.items() if isinstance(state, dict) else [(None, None)]:
            owner, _, part = str(key).rpartition(".")
            if part not in ("weight", "bias"):
                raise ValueError(f"{name} is not a state dict of hallucinators, or a list of such: it has "
                                 f"{str(key)[:80]!r}")
            found.setdefault((number, owner), {})[part] = plain(value, f"{key!r} of {name}")
    modes = {(channels, channels + 1, 3, 3, 3): "concat", (channels, channels, 3, 3, 3): "add"}
    seen = {modes.get(tuple(parts["weight"].shape)) if {"weight", "bias"} == parts.keys()
            and parts["bias"].shape == (channels,) else None for parts in found.values()}
    if len(seen) != 1 or None in seen:
        raise ValueError(f"{name} is not a state dict of hallucinators, or a list of such: each is a weight of shape "
                         f"{' (concat) or '.join(map(str, modes))} (add) and a bias ({channels},)")
    for parts in found.values():
        for part, value in parts.items():
            check_values(f"a {part} of {name}", value)
    return [{part: value.to(torch.float32, copy=True) for part, value in parts.items()} for parts in found.values()
            ], seen.pop()
