"""Which clips a data set has and which of them are for training: the official lists and rules, one function each.

A rule takes (spec, root, fold, train) and returns rows (folder_name, label, "train" | "test"). `root` is the data set's
folder, fold one of the official splits (1, 2, 3), train "official" or "all". Nothing here looks into a frame folder.
"""
import csv
import json
import os
import re

UCF_CLIP = re.compile(r"v_(\w+)_g(\d\d)_c(\d\d)$")
UCF_TEST_GROUPS = {1: range(1, 8), 2: range(8, 15), 3: range(15, 22)}
# folders beside the frames in which the official files may lie, as their archives unpack
ANNOTATIONS = ("annotations", "splits", "labels", "ucfTrainTestlist", "testTrainMulti_7030_splits", "test_train_splits")
KINETICS_FILES = {"train": ("train.csv",), "test": ("validate.csv", "val.csv", "validation.csv")}
SSV2_FILES = {"train": ("something-something-v2-train.json", "train.json", "annot_train.json"),
              "test": ("something-something-v2-validation.json", "validation.json", "annot_val.json")}


class DataError(ValueError):
    """The data on disk are not what the spec says; the message names the thing and the way out."""


def ucf101(spec, root, fold=1, train="official"):
    """trainlist0N.txt and testlist0N.txt where they are; else the groups in the folder names.

    Split 1 tests on groups g01-g07, split 2 on g08-g14 and split 3 on g15-g21 (Soomro, Zamir, Shah, arXiv 1212.0402;
    for splits 2 and 3 not compared with the official lists here).
    """
    wanted = {name.lower() for name in spec.classes}
    lists = {split: _find(root, f"{split}list{fold:02d}.txt") for split in ("train", "test")}
    if any(lists.values()) and not all(lists.values()):
        absent = next(split for split, file in lists.items() if not file)
        raise DataError(f"{root} has one of the official lists of split {fold}, but no {absent}list{fold:02d}.txt: put "
                        "both there, or none, and test groups decide")
    if all(lists.values()):
        rows = []
        for split, file in lists.items():       # lines as ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
            for line in filter(None, map(str.strip, file.read_text().splitlines())):
                label, _, name = line.split()[0].rpartition("/")
                if not label:
                    raise DataError(f"{file}: {line!r} is not <class>/<video>: is it the official list of UCF101?")
                if label.lower() in wanted:
                    rows.append((_stem(name), label, split))
        return rows
    rows = []
    for name in sorted({name for folder in spec.images for name in ClipFolders(root / folder, spec.classes).names()}):
        match = UCF_CLIP.match(name)
        if match and match[1].lower() in wanted:
            rows.append((name, match[1], "test" if int(match[2]) in UCF_TEST_GROUPS[fold] else "train"))
    return rows


def hmdb51(spec, root, fold=1, train="official"):
    """`<class>_test_splitN.txt`: flag 1 is training, 2 test, 0 unused; train="all" trains on flags 0 and 1 together, as
    the published numbers do (split 1: 5,236 clips in place of 3,570)."""
    use = {"1": "train", "2": "test", "0": "train" if train == "all" else None}
    rows = []
    for label in spec.classes:
        file = _find(root, f"{label}_test_split{fold}.txt")
        if not file:
            raise DataError(f"no {label}_test_split{fold}.txt in {root} or a folder in it: unpack HMDB51's official "
                            "test_train_splits there, and write the split file with `python -m distill_utils.check "
                            "split HMDB51`")
        for line in filter(None, map(str.strip, file.read_text().splitlines())):
            name, _, flag = line.rpartition(" ")
            if flag not in use or not name:
                raise DataError(f"{file}: {line!r} is not <video> and a flag of 0, 1 or 2: unpack it again")
            if use[flag]:
                rows.append((_stem(name.strip()), label, use[flag]))
    return rows


def kinetics(spec, root, fold=1, train="official"):
    """train.csv, and validate.csv as test (label, youtube_id, time_start, time_end, split)."""
    rows = []
    for split, names in KINETICS_FILES.items():
        file = _first(root, names)
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = {"label", "youtube_id", "time_start", "time_end"}
            if not columns <= set(reader.fieldnames or ()):
                raise DataError(f"{file} must have the columns {', '.join(sorted(columns))}; it has "
                                f"{reader.fieldnames}: download Kinetics' annotations again")
            for row in reader:
                try:
                    start, end = int(float(row["time_start"])), int(float(row["time_end"]))
                except (TypeError, ValueError) as error:
                    raise DataError(f"{file}, line {reader.line_num}: {error}: time_start and time_end must be "
                                    "seconds") from error
                rows.append((f"{row['youtube_id']}_{start:06d}_{end:06d}", row["label"], split))
    return rows


def ssv2(spec, root, fold=1, train="official"):
    """The annotations' template without brackets, in lower case; or the class number, where a file holds numbers."""
    rows = []
    for split, names in SSV2_FILES.items():
        file = _first(root, names)
        try:
            items = json.loads(file.read_text(encoding="utf-8"))
            for item in items:
                label = (spec.classes[item["class"]] if "class" in item else
                         item["template"].replace("[", "").replace("]", "").lower())
                rows.append((str(item["id"]), label, split))
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"{file} is not a list of {{id, template}} ({type(error).__name__}: {error}): download "
                            "SSv2's labels again") from error
    return rows


def listing(folder):
    """Names in a folder; none where there is no such folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


class ClipFolders:
    """The clips in a folder: each a folder of its own, or, as many tools write them, <class>/<clip>."""

    def __init__(self, root, classes):
        self.root, self.present = str(root), set(listing(root))
        labels, self.nested = {name.lower() for name in classes}, {}
        for name in sorted(self.present):       # two may differ in upper and lower case
            if name.lower() in labels:
                self.nested.setdefault(name.lower(), []).append((name, set(listing(os.path.join(root, name)))))

    def find(self, name, label):
        """The folder of a clip, by its name (<clip>, or <class>/<clip>) and its class; None where there is none."""
        above, _, clip = name.rpartition("/")
        for folder, clips in self.nested.get((above or label).lower(), ()):
            if clip in clips:
                return os.path.join(self.root, folder, clip)
        if name in self.present or above in self.present and os.path.isdir(os.path.join(self.root, name)):
            return os.path.join(self.root, name)
        return None

    def names(self):
        """Names of all that may be clips, without those of class folders."""
        return {*(name for name in self.present if name.lower() not in self.nested),
                *(name for folders in self.nested.values() for _, clips in folders for name in clips)}


def _find(root, name):
    """The file of this name in root or in one of ANNOTATIONS in it, or None."""
    return next((path for path in (root / name, *(root / folder / name for folder in ANNOTATIONS)) if path.is_file()),
                None)


def _first(root, names):
    found = next(filter(None, (_find(root, name) for name in names)), None)
    if not found:
        raise DataError(f"no {names[0]} in {root} (nor {', '.join(names[1:]) or 'in a folder in it'}): put the "
                        "annotations of the data set there")
    return found


def _stem(video):
    return re.sub(r"\.(avi|mp4|mkv|webm)$", "", video, flags=re.IGNORECASE)
