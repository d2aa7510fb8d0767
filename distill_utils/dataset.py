"""The data sets: one table, the readers of their split files, and one frame-folder data set.

A data set on disk is `<data_path>/<folder>/<images>/<clip>/frame000001.jpg ...` and a split file
`<data_path>/<folder>/<split>` with the columns folder_name,label,split, or the official lists (splits.py). Frame
folders may also be nested as <images>/<class>/<clip>. Is a data set ready? See check.py.
"""
import csv
import os
import re
import runpy
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import FashionMNIST
from torchvision.models import ResNet18_Weights

from distill_utils import gameclips, motiondigits, splits
from distill_utils.progress import progress
from distill_utils.splits import UCF_CLIP, ClipFolders, DataError, comparable, entries, listing, read_table

DATA = Path(__file__).parent / "data"      # --data_path, if not given, and where the lists of classes lie
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOW = re.compile(r".*flow.*|[xyuv][_.-]?")     # beginnings of the names of optical flow
FRAME = re.compile(r"(\d+)\.(?:jpg|jpeg|png)$", re.IGNORECASE)

@dataclass(frozen=True)
class Spec:
    """What a data set is. `frames` frames of `size` x `size` pixels, `stride` frames of the video apart."""
    folder: str
    split: str
    classes: tuple
    frames: int
    stride: int
    size: int
    clips: dict | None = None   # official split -> its number of train and test clips, where that is known
    images: tuple = ("jpegs_112",)      # folders of the clips; one that is not in the first is looked for in the next
    rule: Callable | None = None        # of splits.py: the split where there is no split file
    sampled: bool = False       # a clip is drawn from all of its video, mostly when it was extracted
    flip: bool = True           # training samples are flipped left-right at random
    view: str = "clip"          # clip (T, C, H, W); single: one frame (C, H, W); static: one frame repeated T times
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD
    channels: int = 3
    fold: int = 1               # which of the official splits
    folds: int = 1              # how many of them there are
    all_classes: tuple = ()     # those that the labels may have, where `classes` are chosen among them
    make: Callable | None = None        # (data_path, seed=0): writes the data where they are not there

    @property
    def num_classes(self):
        return len(self.classes)

    @property
    def shape(self):
        """Shape of one sample: (T, C, H, W), or (C, H, W) of single frames."""
        image = (self.channels, self.size, self.size)
        return image if self.view == "single" else (self.frames, *image)


def _names(file):
    return tuple((DATA / file).read_text(encoding="utf-8").splitlines())


def _views(datasets):
    """Adds single<name> and static<name> for each data set of clips."""
    views = {f"{view}{name}": replace(spec, view=view)
             for name, spec in datasets.items() if spec.images for view in ("single", "static")}
    return {**datasets, **views}


def _digits(name, **facts):
    return Spec(name, f"{name.lower()}_splits1.csv", motiondigits.CLASSES[name], frames=8, stride=1,
                size=motiondigits.SIZE, clips={1: (540, 420)}, images=(f"jpegs_{motiondigits.SIZE}",),
                rule=splits.ucf101, make=partial(motiondigits.make, name=name), **facts)


def _images(folder, classes, size, clips, mean, std):
    """A set of images, for the static stage (images.py)."""
    return Spec(folder, folder, tuple(classes), frames=1, stride=1, size=size, clips={1: clips}, images=(),
                view="single", flip=False, mean=mean, std=std, channels=len(mean))


UCF = {"folder": "UCF101", "frames": 16, "stride": 4, "size": 112, "rule": splits.ucf101, "folds": 3}
MINI_UCF = Spec(split="ucf50_splits1.csv", classes=_names("miniucf101_classes.txt"), clips={1: (4662, 1861)}, **UCF)
# never flipped, as in published loaders
KINETICS = {"classes": _names("kinetics400_classes.txt"), "images": ("train", "val", "replacement"), "stride": 1,
            "split": "kinetics400_splits.csv", "rule": splits.kinetics, "sampled": True, "flip": False}
TEN = tuple("0123456789")

DATASETS = _views({
    "MotionDigits": _digits("MotionDigits"),
    "AppearanceDigits": _digits("AppearanceDigits", flip=False),     # mirrored it is no digit
    "GameClips": Spec("GameClips", "gameclips_splits1.csv", gameclips.CLASSES, frames=8, stride=4,
                      size=gameclips.SIZE, clips={1: (720, 280)}, rule=splits.ucf101, make=gameclips.make),
    # counts of splits 2 and 3: of the official lists
    "UCF101": Spec(split="ucf101_splits1.csv", classes=_names("ucf101_classes.txt"),
                   clips={1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}, **UCF),
    "miniUCF101": MINI_UCF,
    "UCF50": MINI_UCF,      # the name that published code has for it
    "HMDB51": Spec("HMDB51", "hmdb51_splits.csv", _names("hmdb51_classes.txt"), frames=16, stride=4, size=112,
                   clips=dict.fromkeys((1, 2, 3), (3570, 1530)), rule=splits.hmdb51, folds=3),
    "Kinetics400": Spec("Kinetics", frames=8, size=64, **KINETICS),
    "Kinetics400_long": Spec("Kinetics_long", frames=16, size=112, **KINETICS),
    # never flipped: its classes tell left from right
    "SSv2": Spec("SSv2", "ssv2_splits.csv", _names("ssv2_classes.txt"), frames=8, stride=1, size=64, images=("frame",),
                 rule=splits.ssv2, sampled=True, flip=False),
    # means and standard deviations as in DC (arXiv 2006.05929)
    "MNIST": _images("MNIST", TEN, 28, (60_000, 10_000), (0.1307,), (0.3081,)),
    "FashionMNIST": _images("FashionMNIST", FashionMNIST.classes, 28, (60_000, 10_000), (0.2861,), (0.3530,)),
    "SVHN": _images("SVHN", TEN, 32, (73_257, 26_032), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "CIFAR10": _images("CIFAR10", CIFAR10, 32, (50_000, 10_000), (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "CIFAR100": _images("CIFAR100", map(str, range(100)), 32, (50_000, 10_000), (0.5071, 0.4866, 0.4409),
                        (0.2673, 0.2564, 0.2762)),
    "TinyImageNet": _images("tiny-imagenet-200", map(str, range(200)), 64, (100_000, 10_000), IMAGENET_MEAN,
                            IMAGENET_STD),
    "ImageNet": _images("ImageNet", ResNet18_Weights.IMAGENET1K_V1.meta["categories"], 128, (1_281_167, 50_000),
                        IMAGENET_MEAN, IMAGENET_STD),
})


def get_spec(name, frames=None, im_size=None, view=None, fold=None, split_file=None, classes=None):
    """The spec of a data set: a name of DATASETS, or a user's own folder.

    frames, im_size, view: other than the data set's. fold: which of the official splits (1, 2, 3). split_file: a csv in
    place of the data set's own. classes: a comma-separated choice of its classes, which keep their order. What cannot
    be raises ValueError.
    """
    if name in DATASETS:
        spec = DATASETS[name]
        if split_file is not None:
            if not spec.images:
                raise ValueError(f"--split_file is for clips, and --dataset {name} has images: leave it out")
            spec = replace(spec, split=_split_file(split_file), clips=None)
    elif os.path.isdir(name):
        spec = own_spec(name, split_file)
    else:
        raise ValueError(f"unknown --dataset {name!r}: choose one of {', '.join(DATASETS)}, or give a folder with "
                         "frame folders and a split.csv (folder_name,label,split)")
    for flag, value in (("--frames", frames), ("--im_size", im_size)):
        if value is not None and value < 1:
            raise ValueError(f"{flag} {value} is impossible: give a number of at least 1")
    if fold is not None:
        spec = _choose_fold(spec, fold, split_file)
    if classes is not None:
        spec = _choose_classes(spec, classes, name)
    return replace(spec, frames=frames or spec.frames, size=im_size or spec.size, view=view or spec.view)


def own_spec(folder, split_file=None):
    """The spec of a user's own folder: `<clip>/<frames>` or `<class>/<clip>/<frames>` in it or in frames/ or jpegs.../,
    and split_file, split.csv or its only csv. Classes are the sorted labels of the split file; frames, stride and size
    are those of UCF101."""
    folder = Path(folder).resolve()
    if split_file is not None:
        split = _split_file(split_file)
    else:
        found = sorted(name for name in listing(folder) if name.lower().endswith(".csv") and not name.startswith("."))
        if "split.csv" not in found and len(found) != 1:
            raise DataError(f"{folder} must have a split.csv with the columns folder_name,label,split, or just one "
                            f"csv; it has {', '.join(found) or 'none'}: write one, or name it with --split_file")
        split = "split.csv" if "split.csv" in found else found[0]
    labels, spelled = {label for _, label, _ in read_csv(folder / split)}, {}
    for label in sorted(labels):
        other = spelled.setdefault(comparable(label, words=True), label)
        if other != label:
            raise DataError(f"{folder / split} spells the label {label!r} in more than one way, also as {other!r}: use "
                            "one")
    if len(labels) < 2:
        raise DataError(f"{folder / split} has the labels {sorted(labels)}: at least two are needed")
    images = [name for name in sorted(listing(folder))
              if comparable(name) == "frames" or comparable(name).startswith("jpegs")]
    return Spec(str(folder), split, tuple(sorted(labels)), frames=16, stride=4, size=112, images=(*images, "."))


def _split_file(file):
    if not Path(file).is_file():
        raise DataError(f"there is no --split_file {file}: give a csv with the columns folder_name,label,split")
    return str(Path(file).resolve())


def _choose_fold(spec, fold, split_file):
    """The same data set with another official split, and the split file of that."""
    if split_file is not None:
        raise ValueError(f"--split_file says which clips are for training, and so does --split {fold}: give only one")
    if fold == 1:
        return spec
    if fold > spec.folds:
        several = ", ".join(name for name, other in DATASETS.items() if other.folds > 1 and other.view == "clip")
        raise ValueError(f"--split {fold}: only {several} have three official splits")
    stem = spec.split.removesuffix(".csv").removesuffix("1")
    return replace(spec, split=f"{stem}{fold}.csv", fold=fold)


def _choose_classes(spec, text, name):
    """The same data set with those of its classes that the text names, separated by commas or lines (a name that has a
    comma in quotes), in the order they had."""
    wanted = {comparable(label, words=True) for label in next(csv.reader([",".join(text.splitlines())],
                                                                         skipinitialspace=True)) if label.strip()}
    known = {comparable(label, words=True) for label in spec.classes}
    if wanted - known:
        raise ValueError(f"--classes {min(wanted - known)!r} is not one of the {spec.num_classes} classes of --dataset "
                         f"{name}: choose some of {', '.join(spec.classes[:10])}"
                         + (", ..." if spec.num_classes > 10 else "") + ' (a name with a comma in "quotes")')
    if len(wanted) < 2:
        raise ValueError(f"--classes {text!r} leaves {len(wanted)} class: give at least two, separated by commas")
    if not spec.images:
        raise ValueError(f"--classes chooses among the classes of clips, and --dataset {name} has images: leave it out")
    return replace(spec, classes=tuple(label for label in spec.classes if comparable(label, words=True) in wanted),
                   all_classes=spec.classes, clips=None)


def grid_frames(num_frames, length, stride):
    """Indices of the frames that any clip of a video is made of: every stride-th, through the centre clip.

    A training clip starts at any of them, so the cache holds 1/stride of a video and still has the exact centre clip.
    A video too short for the stride is read at the largest stride that fits.
    """
    stride = max(1, min(stride, (num_frames - 1) // (length - 1))) if length > 1 else stride
    spare = num_frames - ((length - 1) * stride + 1)
    return np.arange(max(spare, 0) // 2 % stride, num_frames, stride)


def clip_positions(counts, length, generator=None, segment=(0, 1)):
    """Which of a video's grid frames make its clip: (B, length), given how many grid frames (B,) each video has.

    With a generator a random start, without one the centre. A video with fewer frames than the clip is spread evenly:
    frames repeat, in order. segment (split_id, split_num): take them from segment i of n equal segments of the video.
    """
    counts, (index, num_segments) = np.asarray(counts), segment
    first = counts * index // num_segments
    counts = np.maximum(counts * (index + 1) // num_segments - first, 1)
    spare = np.maximum(counts - length, 0)
    start = spare // 2 if generator is None else np.minimum(_uniform(len(counts), generator) * (spare + 1), spare)
    consecutive = start.astype(np.int64)[:, None] + np.arange(length)
    spread = np.rint(np.linspace(0, counts - 1, length, axis=1)).astype(np.int64)
    return first[:, None] + np.where((counts >= length)[:, None], consecutive, spread)


def _uniform(n, generator):
    return torch.rand(n, generator=generator, dtype=torch.float64).numpy()


def read_csv(file):
    """Rows (folder_name, label, split) of a split file."""
    columns, table = read_table(file)
    wanted = {"folder_name", "label", "split"}
    if not table or not wanted <= set(columns):
        raise DataError(f"split file {file} must have the columns folder_name,label,split and at least one clip; "
                        f"it has {columns if table else 'no clip'}: mend it, or remove it where the data set has a "
                        "rule of its own")
    content = []
    for line, row in table:
        levels = [level.strip() for level in row["folder_name"].split("/")]
        name, label = "/".join(levels), unicodedata.normalize("NFC", row["label"])
        where = f"split file {file}, line {line}"
        if not label or "\n" in label:
            raise DataError(f"{where} has the label {label!r} (clip {name!r}): give each clip one")
        if len(levels) > 2 or any(level in ("", ".", "..") or "\\" in level or "\n" in level for level in levels):
            raise DataError(f"{where}: {name!r} is not the name of a folder, <clip> or <class>/<clip>")
        if row["split"].lower() not in ("train", "test"):
            raise DataError(f"{where}: clip {name!r} has the split {row['split']!r}: it must be train or test")
        content.append((name, label, row["split"].lower()))
    return content


def read_split(spec, data_path, train="official", use_file=True):
    """The clips of a data set: a list of (folder_name, class number, "train" | "test"), sorted by name.

    From the split file (unless use_file is False), or without one by the rule of the data set. Class numbers come from
    the table of the spec.
    """
    root = Path(data_path) / spec.folder
    file = root / spec.split
    if use_file and not any((root / folder).is_dir() for folder in spec.images):
        raise DataError(f"no frame folders at {root / spec.images[0]}: put the frames of {root.name} there as "
                        f"{root / spec.images[0]}/<clip>/frame000001.jpg ..., or name another folder with --data_path")
    present = use_file and file.is_file()
    if not present and spec.rule is None:
        raise DataError(f"{root} has no split file {spec.split}, and its row has no rule to split by: write one with "
                        "the columns folder_name,label,split, or name one with --split_file")
    source = f"split file {file}" if present else f"{root} (no {spec.split}, split by {spec.rule.__name__}'s rule)"
    number = {comparable(name, words=True): k for k, name in enumerate(spec.classes)}
    others = {comparable(name, words=True) for name in spec.all_classes} - number.keys()
    clips, seen, counts = [], {}, {"train": [0] * spec.num_classes, "test": [0] * spec.num_classes}
    spelled = {}        # clips of UCF101, whose archives spell one class in two ways
    whole = replace(spec, classes=spec.all_classes or spec.classes)
    for name, label, split, *listed_in in read_csv(file) if present else spec.rule(whole, root, spec.fold, train):
        word, where = comparable(label, words=True), str(listed_in[0]) if listed_in else source
        k = number.get(word)
        if k is None and word in others:
            continue
        if k is None:
            raise DataError(f"{where} has the label {label!r} (clip {name!r}), which is not one of the "
                            f"{spec.num_classes} classes ({spec.classes[0]}, {spec.classes[1]}, ...): is it the split "
                            "file of another data set?")
        if seen.setdefault(name, (k, split)) != (k, split):
            raise DataError(f"{where} names {name!r} more than once, with other labels or splits: keep one line, or "
                            "write <class>/<clip> where each class has a clip of that name")
        if len(seen) == len(clips):     # the same line again
            continue
        clip = name.rpartition("/")[2]
        if UCF_CLIP.match(clip.strip()) and spelled.setdefault(comparable(clip), name) != name:
            raise DataError(f"{where}: {spelled[comparable(clip)]!r} and {name!r} are the same clip in two spellings: "
                            "remove one of them")
        counts[split][k] += 1
        clips.append((name, k, split))
    for split, count in counts.items():
        check_classes(spec, count, split, source)
    return sorted(clips)


def check_classes(spec, counts, split, source):
    """Raises DataError where a class has no clip. counts: clips of each class."""
    absent = [name for name, count in zip(spec.classes, counts, strict=True) if not count]
    if absent:
        raise DataError(f"{source}: {len(absent)} of {spec.num_classes} classes have no {split} clip, first "
                        f"{absent[:3]}: add their clips, or choose another --dataset")


@lru_cache(maxsize=4096)        # the clips of a data set share few listings
def in_order(names, gaps=False):
    """(frame files in the order of their numbers, never of the directory; what is wrong with them or "").

    Numbers count up in steps of 1, or in another step that is always the same. gaps: whether any may be left out. Of
    frames and optical flow in one folder the frames are taken: img_00001.jpg, and not flow_x_00001.jpg.
    """
    kinds = {}      # beginning of the name -> (number, name)
    for name in names:          # hidden ones are no frames: macOS leaves ._1.jpg
        if (match := FRAME.search(name)) and not name.startswith("."):
            kinds.setdefault(name[:match.start()].lower(), []).append((int(match[1]), name))
    if len(kinds) > 1:
        kinds = {kind: found for kind, found in kinds.items() if not FLOW.fullmatch(kind)}
    numbered = sorted(pair for found in kinds.values() for pair in found)
    files = tuple(name for _, name in numbered)
    pairs = list(zip(numbered, numbered[1:], strict=False))
    for (number, name), (following, other) in pairs:
        if number == following:
            return files, f"{other} and {name} have the same frame number: keep one of them"
    # of two frames nothing can be said of a step
    step = min(after[0] - before[0] for before, after in pairs) if len(pairs) > 1 else 1
    for (number, _), (following, _) in pairs:
        if following != number + step and not gaps:
            return files, f"frame {number + step} is missing between {files[0]} and {files[-1]}"
    return files, "" if files else "holds no frame (frame000001.jpg ...)"


class Files(Sequence):
    """Frame files of each clip, as paths. Held are only names, which most clips share: 240,000 clips take little."""

    def __init__(self, folders, names):
        self.folders, self.names = folders, names

    def __len__(self):
        return len(self.folders)

    def __getitem__(self, i):
        return [Path(self.folders[i], name) for name in self.names[i]]


class FrameFolder:
    """One split of a data set that is stored as frame folders: clip names, labels and frame files by number.

    With skip_missing, clips that are not there, or not whole, are left out, and it is said how many; otherwise they
    raise DataError (None: neither, for the check). rows: of read_split, where it was already called.
    """

    def __init__(self, spec, data_path, split, skip_missing=False, rows=None):
        self.spec, self.split = spec, split
        base = Path(data_path) / spec.folder
        self.root = base / spec.images[0]
        where = " and ".join(str(base / folder) for folder in spec.images)
        rows = rows or read_split(spec, data_path)
        clips = [(name, k) for name, k, row_split in rows if row_split == split]
        listed = {name.rpartition("/")[2] for name, _, _ in rows}
        roots = [ClipFolders(base / folder, spec.classes, listed) for folder in spec.images]
        self.missing, self.bad, self.bad_folders = [], [], []       # names; (name, what is wrong with it); its folder
        self.spread = 0         # clips that were drawn from more frames than they have
        self.names, labels, folders, files = [], [], [], []
        for name, label in progress(clips, desc=f"frames of {base.name} {split}", unit="clip", delay=2, leave=False):
            folder, frames, problem = self._find(roots, name, spec.classes[label])
            if not folder:
                self.missing.append(name)
            elif problem:
                self.bad.append((name, f"{folder}: {problem}"))
                self.bad_folders.append(folder)
            else:
                self.names.append(name)
                labels.append(label)
                folders.append(folder)
                files.append(frames)
        self.labels, self.files = np.array(labels, dtype=np.int64), Files(folders, files)
        self.counts = np.array([len(frames) for frames in files], dtype=np.int64)
        if skip_missing:
            self._skip(len(clips))
        elif skip_missing is None:
            return
        elif self.missing:
            raise DataError(f"{len(self.missing)} of {len(clips)} {split} clips have no folder in {where}, first "
                            f"{self.missing[:3]}: extract them, take them out of {spec.split}, or train without them "
                            "with --skip_missing")
        elif self.bad:
            raise DataError(f"{self.bad[0][1]}: extract this clip again, or take it out of {spec.split}"
                            + (f"; so are {len(self.bad) - 1} more of {len(clips)} {split} clips"
                               if len(self.bad) > 1 else "") + ", or train without them with --skip_missing")

    def _find(self, roots, name, label):
        """(folder, files of the frames that clips are made of, problem) of a clip: of the first folder of it that is
        whole; (None, ...) where there is none."""
        found = None, (), ""
        for root in roots:
            folder = root.find(name, label)
            if folder:
                frames, problem = self._frames(folder)
                if not problem:
                    return folder, frames, ""
                found = found if found[0] else (folder, frames, problem)
        return found

    def _frames(self, folder):
        """(files of the frames that clips are made of, what is wrong with them or "")."""
        try:
            found = entries(folder)
        except OSError as error:
            return (), f"cannot be read ({error.strerror})"
        # frames that were drawn from the video may have its numbers
        names, problem = in_order(tuple(found), gaps=self.spec.sampled)
        no_file = next((name for name in names if not found[name]), None)
        if no_file:
            problem = f"{no_file} is no regular file, or a link that leads nowhere"
        if not self.spec.sampled or problem:
            return _grid(names, self.spec.frames, self.spec.stride), problem
        stored, wanted = len(names), self.spec.frames
        self.spread += stored > wanted
        return _spread(names, wanted), "" if stored >= wanted else (
            f"has {stored} frames where clips have {wanted}: if that is so of all, give --frames {stored}")

    def _skip(self, total):
        source = f"{self.root}, with --skip_missing"
        check_classes(self.spec, np.bincount(self.labels, minlength=self.spec.num_classes), self.split, source)
        if len(self.names) < total:
            print(f"note: --skip_missing leaves out {total - len(self.names)} of {total} {self.split} clips: "
                  f"{len(self.missing)} have no folder, {len(self.bad)} are not whole", file=sys.stderr)


def read_folders(spec, data_path, skip_missing=False):
    """The training and the test FrameFolder of a data set. DataError where one folder would be two clips."""
    rows = read_split(spec, data_path)
    both = [FrameFolder(spec, data_path, split, skip_missing, rows) for split in ("train", "test")]
    clips = {}
    for found in both:
        for name, folder in zip(found.names, found.files.folders, strict=True):
            real = os.path.join(_real(os.path.dirname(folder)), os.path.basename(folder))
            real = os.path.realpath(folder) if os.path.islink(folder) else real
            if clips.setdefault(real, name) != name:
                raise DataError(f"{real} is both {clips[real]!r} and {name!r} in {spec.split}: keep one of these lines"
                                + (", or remove the link" if real != folder else ""))
    if skip_missing is not None and (note := spread_note(both)):
        print(f"note: {note}", file=sys.stderr)
    return both


def spread_note(folders):
    """That clips were drawn from folders that hold more frames; "" where none was."""
    spread, spec = sum(folder.spread for folder in folders), folders[0].spec
    return (f"{spread} clips of {Path(spec.folder).name} hold more than {spec.frames} frames: {spec.frames} are taken, "
            "spread evenly over those of each" if spread else "")


_real = lru_cache(maxsize=4096)(os.path.realpath)       # clips share few folders above them


def dataset_label(name):
    """What runs, folders of experts and tables call a data set: its name, or that of a folder without its path."""
    return name if name in DATASETS else Path(name).resolve().name


def check_older(what, made_with):
    """ValueError for what was made before its clips were remembered, where the same arguments mean something else
    since. made_with: the arguments, as JSON has them."""
    spec = DATASETS.get(made_with.get("dataset"))
    since = ""
    if spec and spec.folder == "UCF101" and spec.num_classes == 101:
        since = "HammerThrow and Hammering, and JumpRope and JumpingJack, had each other's class numbers"
    elif spec and spec.folder.startswith("Kinetics"):
        since = "clips of Kinetics were flipped at random"
    elif made_with.get("decay") and made_with.get("protocol") == "paper":
        since = "--decay with --protocol paper cut the rate two epochs earlier"
    if since:
        raise ValueError(f"{what} was made when {since}, other than published: make it again, in another folder")


@lru_cache(maxsize=4096)
def _grid(names, frames, stride):
    return tuple(names[i] for i in grid_frames(len(names), frames, stride))


@lru_cache(maxsize=4096)
def _spread(names, length):
    """The middles of `length` equal parts, as an extraction takes them of a video."""
    return tuple(names[(2 * i + 1) * len(names) // (2 * length)] for i in range(min(length, len(names))))


if __name__ == "__main__":      # the door that `python -m distill_utils.check` had before it had one of its own
    runpy.run_module("distill_utils.check", run_name="__main__", alter_sys=True)
