"""The data sets: one table, the readers of their split files, and one frame-folder data set.

A data set on disk is `<data_path>/<folder>/<images>/<clip>/frame000001.jpg ...` and a split file
`<data_path>/<folder>/<split>` with the columns folder_name,label,split.
"""
import csv
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from distill_utils import motiondigits

HERE = Path(__file__).parent / "data"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FRAME = re.compile(r"(\d+)\.(?:jpg|jpeg|png)$", re.IGNORECASE)
UCF_CLIP = re.compile(r"v_(\w+)_g(\d\d)_c(\d\d)$")


class DataError(ValueError):
    """The data on disk are not what the spec says; the message names the thing and the way out."""


@dataclass(frozen=True)
class Spec:
    """What a data set is. `frames` frames of `size` x `size` pixels, `stride` frames of the video apart."""
    folder: str
    split: str
    classes: tuple
    frames: int
    stride: int
    size: int
    clips: tuple                # train and test clips of the official split
    images: str = "jpegs_112"
    view: str = "clip"          # clip (T, C, H, W); single: one frame (C, H, W); static: one frame repeated T times
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    channels: int = 3

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def shape(self):
        """Shape of one sample: (T, C, H, W), or (C, H, W) of single frames."""
        image = (self.channels, self.size, self.size)
        return image if self.view == "single" else (self.frames, *image)


def _names(file):
    return tuple((HERE / file).read_text().split())


def _views(datasets, names):
    """Adds single<name> and static<name> for each (entry, name)."""
    views = {f"{view}{name}": replace(datasets[entry], view=view)
             for entry, name in names for view in ("single", "static")}
    return {**datasets, **views}


DATASETS = _views({
    "MotionDigits": Spec("MotionDigits", "motiondigits_splits1.csv", motiondigits.CLASSES, frames=8, stride=1,
                         size=motiondigits.SIZE, clips=(540, 420), images=f"jpegs_{motiondigits.SIZE}"),
    "UCF101": Spec("UCF101", "ucf101_splits1.csv", _names("ucf101_classes.txt"), frames=16, stride=4, size=112,
                   clips=(9537, 3783)),
    "miniUCF101": Spec("UCF101", "ucf50_splits1.csv", _names("miniucf101_classes.txt"), frames=16, stride=4, size=112,
                       clips=(4662, 1861)),
}, [("MotionDigits", "MotionDigits"), ("UCF101", "UCF101"), ("miniUCF101", "miniUCF101"), ("miniUCF101", "UCF50")])


def get_spec(name, frames=None, im_size=None, view=None):
    """The spec of a data set, with another number of frames or pixels, or another view of it, where given."""
    if name not in DATASETS:
        raise ValueError(f"unknown --dataset {name!r}: choose one of {', '.join(DATASETS)}")
    spec = DATASETS[name]
    for flag, value in (("--frames", frames), ("--im_size", im_size)):
        if value is not None and value < 1:
            raise ValueError(f"{flag} {value} is impossible: give a number of at least 1")
    return replace(spec, frames=frames or spec.frames, size=im_size or spec.size, view=view or spec.view)


def grid_frames(num_frames, length, stride):
    """Numbers of the frames that any clip of a video is made of: every stride-th, through the centre clip.

    A training clip starts at any of them, so the cache holds 1/stride of a video and still has the exact centre clip.
    A video too short for the stride is read at the largest stride that fits.
    """
    stride = max(1, min(stride, (num_frames - 1) // (length - 1))) if length > 1 else stride
    spare = num_frames - ((length - 1) * stride + 1)
    return np.arange(max(spare, 0) // 2 % stride, num_frames, stride)


def clip_positions(counts, length, generator=None):
    """Which of a video's grid frames make its clip: (B, length), given how many grid frames (B,) each video has.

    With a generator a random start, without one the centre. A video with fewer frames than the clip is spread evenly:
    frames repeat, in order.
    """
    counts = np.asarray(counts)
    spare = np.maximum(counts - length, 0)
    start = spare // 2 if generator is None else np.minimum(_uniform(len(counts), generator) * (spare + 1), spare)
    run = start.astype(np.int64)[:, None] + np.arange(length)
    spread = np.rint(np.linspace(0, counts - 1, length, axis=1)).astype(np.int64)
    return np.where((counts >= length)[:, None], run, spread)


def frame_positions(counts, segment=(0, 1), generator=None):
    """One grid frame (B,) of each video, out of segment i of n equal segments (split_id, split_num)."""
    counts, (index, parts) = np.asarray(counts), segment
    first = counts * index // parts
    last = np.maximum(counts * (index + 1) // parts - 1, first)
    if generator is None:
        return (first + last) // 2
    return first + np.minimum(_uniform(len(counts), generator) * (last - first + 1), last - first).astype(np.int64)


def _uniform(n, generator):
    return torch.rand(n, generator=generator, dtype=torch.float64).numpy()


def read_split(spec, data_path):
    """The clips of a data set: a list of (folder_name, class number, "train" | "test"), sorted by name.

    Class numbers come from the table of the spec. Without a split file, UCF101's rule is read from the folder names:
    groups g01-g07 are test, g08-g25 train.
    """
    root = Path(data_path) / spec.folder
    images, file = root / spec.images, root / spec.split
    if not images.is_dir():
        raise DataError(f"no frame folders at {images}: put the frames of {spec.folder} there as "
                        f"{images}/<clip>/frame000001.jpg ..., or name another folder with --data_path")
    number = {name.lower(): i for i, name in enumerate(spec.classes)}
    if file.is_file():
        with open(file, newline="") as stream:
            rows = list(csv.DictReader(stream))
        wanted = {"folder_name", "label", "split"}
        if not rows or not wanted <= set(rows[0]):
            raise DataError(f"split file {file} must have the columns folder_name,label,split and at least one clip; "
                            f"it has {list(rows[0]) if rows else 'no clip'}: mend it, or remove it and use the rule of "
                            "the folder names")
        rows = [(row["folder_name"], row["label"], row["split"]) for row in rows]
    else:
        rows = []
        for name in os.listdir(images):
            match = UCF_CLIP.match(name)
            if match and match[1].lower() in number:
                rows.append((name, match[1], "test" if int(match[2]) <= 7 else "train"))
    clips = []
    for name, label, split in rows:
        if (label or "").lower() not in number:
            raise DataError(f"split file {file} has the label {label!r} (clip {name!r}), which is not one of the "
                            f"{spec.num_classes} classes ({spec.classes[0]}, {spec.classes[1]}, ...): is it the split "
                            "file of another data set?")
        if split not in ("train", "test"):
            raise DataError(f"split file {file}: clip {name!r} has the split {split!r}: it must be train or test")
        if not name or name == ".." or Path(name).name != name:
            raise DataError(f"split file {file}: {name!r} is not the name of a folder in {images}")
        clips.append((name, number[label.lower()], split))
    twice = [name for name, count in Counter(name for name, _, _ in clips).items() if count > 1]
    if twice:
        raise DataError(f"split file {file} names {twice[0]!r} more than once: keep one line for each clip")
    for split in ("train", "test"):
        present = {label for _, label, where in clips if where == split}
        absent = [name for i, name in enumerate(spec.classes) if i not in present]
        if absent:
            source = file if file.is_file() else f"{images} (split by folder names)"
            raise DataError(f"{source}: {len(absent)} of {spec.num_classes} classes have no {split} clip, first "
                            f"{absent[:3]}: add their clips, or choose another --dataset")
    return sorted(clips)


class FrameFolder:
    """One split of a data set that is stored as frame folders: clip names, labels and frame files by number."""

    def __init__(self, spec, data_path, split):
        self.spec, self.split = spec, split
        self.root = Path(data_path) / spec.folder / spec.images
        rows = [(name, label) for name, label, where in read_split(spec, data_path) if where == split]
        missing = [name for name, _ in rows if not (self.root / name).is_dir()]
        if missing:
            raise DataError(f"{len(missing)} of {len(rows)} {split} clips have no folder in {self.root}, first "
                            f"{missing[:3]}: extract them, or take them out of {spec.split}")
        self.names = [name for name, _ in rows]
        self.labels = np.array([label for _, label in rows], dtype=np.int64)
        self.files = [self._frames(name) for name in tqdm(self.names, desc=f"frames of {spec.folder} {split}",
                                                          unit="clip", delay=2, leave=False)]

    def _frames(self, name):
        """The files of the frames that clips are made of, in the order of their numbers, never of the directory."""
        numbered = {}
        for file in os.listdir(self.root / name):
            match = FRAME.search(file)
            if match:
                if int(match[1]) in numbered:
                    raise DataError(f"{self.root / name}: {file} and {numbered[int(match[1])]} have the same frame "
                                    "number: keep one of them")
                numbered[int(match[1])] = file
        if not numbered:
            raise DataError(f"{self.root / name} holds no frame (frame000001.jpg ...): extract this clip again, or "
                            f"take it out of {self.spec.split}")
        order = sorted(numbered)
        if order[-1] - order[0] + 1 != len(order):
            gap = next(a + 1 for a, b in zip(order, order[1:], strict=False) if b != a + 1)
            raise DataError(f"{self.root / name}: frame {gap} is missing between {numbered[order[0]]} and "
                            f"{numbered[order[-1]]}: extract this clip again, or take it out of {self.spec.split}")
        kept = grid_frames(len(order), self.spec.frames, self.spec.stride)
        return [self.root / name / numbered[order[i]] for i in kept]
