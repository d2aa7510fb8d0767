"""Sets of images for the static stage: what `Clips` needs of them, read by torchvision or from folders of classes.

torchvision reads the official files only (those of CIFAR and SVHN by their checksums, before anything is unpacked) and
downloads nothing here. They are small and live in memory; the folders of TinyImageNet and ImageNet go through the
cache.
"""
import os
import re
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets
from torchvision.transforms.v2 import functional as transform

from distill_utils.clips import cached_frames
from distill_utils.dataset import DataError, Files, check_classes, entries, listing
from distill_utils.splits import read_lines

# folder of the spec -> (class, folder below the data path, keyword that names the split, its values, labels)
TORCHVISION = {
    "MNIST": (datasets.MNIST, ".", "train", {"train": True, "test": False}, "targets"),
    "FashionMNIST": (datasets.FashionMNIST, ".", "train", {"train": True, "test": False}, "targets"),
    "SVHN": (datasets.SVHN, "SVHN", "split", {"train": "train", "test": "test"}, "labels"),
    "CIFAR10": (datasets.CIFAR10, ".", "train", {"train": True, "test": False}, "targets"),
    "CIFAR100": (datasets.CIFAR100, ".", "train", {"train": True, "test": False}, "targets"),
}

IMAGES = (".jpeg", ".jpg", ".png")


class Images:
    """One split of a set of images, with the attributes of FrameFolder: each clip is one frame."""

    def __init__(self, spec, split, root, names, labels, files=None):
        self.spec, self.split, self.root, self.names, self.files = spec, split, Path(root), names, files
        self.labels = np.asarray(labels, dtype=np.int64)
        self.counts = np.ones(len(self.labels), dtype=np.int64)
        check_classes(spec, np.bincount(self.labels, minlength=spec.num_classes), split, str(root))


def read(spec, data_path, split, cache_path, num_workers=None, preload=False):
    """(Images, their uint8 pixels (N, C, H, W)) of one split."""
    found = READERS[spec.folder](spec, data_path, split)
    if not isinstance(found, Images):
        return found
    return found, cached_frames(found, cache_path, num_workers, preload)


def from_torchvision(spec, data_path, split):
    kind, folder, keyword, values, labels = TORCHVISION[spec.folder]
    root = Path(data_path) / folder
    try:
        stored = kind(root, **{keyword: values[split]})
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(f"torchvision cannot read {spec.folder} at {root} ({error}): put its official files there, or "
                        f"let torchvision fetch them: python -c \"from torchvision import datasets; datasets."
                        f"{kind.__name__}('{root}', {keyword}={values[split]!r}, download=True)\"") from error
    pixels = torch.as_tensor(stored.data)
    if pixels.dim() == 3:               # (N, H, W)
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:         # (N, H, W, 3)
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[-1] != spec.size:
        pixels = torch.cat([transform.resize(chunk, [spec.size, spec.size], antialias=True)
                            for chunk in pixels.split(1024)])
    names = [f"{split}{i:06d}" for i in range(len(pixels))]
    return Images(spec, split, root, names, getattr(stored, labels)), pixels.contiguous().numpy()


def from_class_folders(spec, data_path, split):
    """`train/<class>/...` and `val/<class>/...`, as torchvision unpacks ImageNet and as TinyImageNet comes. Classes are
    numbered by their sorted names (WordNet ids). TinyImageNet's test images lie in one folder with val_annotations.txt.
    """
    root = Path(data_path) / spec.folder
    top = root / ("train" if split == "train" else "val")
    classes = sorted(name for name in listing(root / "train") if re.fullmatch(r"n\d{8}", name))
    if len(classes) != spec.num_classes:
        raise DataError(f"{root / 'train'} has {len(classes)} class folders (n01440764, ...); {root.name} has "
                        f"{spec.num_classes}: put its official folders there")
    number = {name: i for i, name in enumerate(classes)}
    annotations = top / "val_annotations.txt"
    if split == "test" and annotations.is_file():
        lines = [line.split("\t") for line in read_lines(annotations)]
        if any(len(line) < 2 for line in lines):
            raise DataError(f"{annotations} must have the name of an image and its class, a tab between them, in each "
                            "line: put the official file there")
        images = [(name.strip(), label.strip(), str(top / "images")) for name, label, *_ in lines]
        found = {str(top / "images"): entries(top / "images")}
    else:
        images, found = [], {}
        for label in classes:
            below = top / label / "images"
            folder = str(below if below.is_dir() else top / label)
            found[folder] = entries(folder)
            images += [(name, label, folder) for name in sorted(found[folder])
                       if name.lower().endswith(IMAGES) and not name.startswith(".")]
    absent = [f"{folder}/{name}" for name, _, folder in images if not found[folder].get(name)]
    if absent:
        raise DataError(f"{len(absent)} of {len(images)} images of {top} are not there, or no regular files, first "
                        f"{absent[0]}: put the official files there")
    unknown = {label for _, label, _ in images} - number.keys()
    if unknown:
        raise DataError(f"{annotations} names the class {min(unknown)!r}, which has no folder in {root / 'train'}")
    files = Files([folder for *_, folder in images], [(name,) for name, *_ in images])
    names = [os.path.splitext(name)[0] for name, *_ in images]
    return Images(spec, split, top, names, [number[label] for _, label, _ in images], files)


READERS = {**dict.fromkeys(TORCHVISION, from_torchvision), "tiny-imagenet-200": from_class_folders,
           "ImageNet": from_class_folders}
