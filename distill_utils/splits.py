"""Which clips a data set has and which of them are for training: the official lists and rules, one function each.

A rule takes (spec, root, fold, train) and returns rows (folder_name, label, "train" | "test"), and as a fourth the file
that says so, where there is one. `root` is the data set's folder, fold one of the official splits (1, 2, 3), train
"official" or "all". Nothing here looks into a frame folder.
"""
import codecs
import csv
import errno
import io
import json
import os
import re
import unicodedata
from collections import defaultdict
from functools import cached_property

UCF_CLIP = re.compile(r"v_(\w+)_g(\d\d)_c(\d\d)$")
UCF_TEST_GROUPS = {1: range(1, 8), 2: range(8, 15), 3: range(15, 22)}
# folders beside the frames in which the official files may lie, as their archives unpack
ANNOTATIONS = ("annotations", "splits", "labels", "ucfTrainTestlist", "testTrainMulti_7030_splits", "test_train_splits")
KINETICS_FILES = {"train": ("train.csv",), "test": ("validate.csv", "val.csv", "validation.csv")}
SSV2_FILES = {"train": ("something-something-v2-train.json", "train.json", "annot_train.json"),
              "test": ("something-something-v2-validation.json", "validation.json", "annot_val.json")}


# what spreadsheets put before a text to say how it is coded
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}     # UTF-32's first: it begins as UTF-16's does
NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)      # ELOOP: links that lead round in circles
NO_WORD = re.compile(r"""[()\[\]{}'"`\u2018\u2019\u00b4]""")


class DataError(ValueError):
    """The data on disk are not what the spec says; the message names the thing and the way out."""


def comparable(name, words=False):
    """What names are compared by: not by blanks at the ends, upper and lower case, or how Unicode composes a letter.

    words: for labels, which others also write with underscores for blanks and without brackets and apostrophes.
    """
    plain = unicodedata.normalize("NFC", name).strip().casefold()
    if not words:
        return plain
    return " ".join(NO_WORD.sub("", plain).replace("_", " ").split()) or plain


def read_text(file):
    """The text of a list: UTF-8, or what the mark before it says. DataError with its name where it is neither."""
    try:
        if not os.path.isfile(file):
            raise OSError("it is no regular file")      # a pipe would be waited for
        with open(file, "rb") as stream:
            content = stream.read()
        text = content.decode(next((code for mark, code in MARKS.items() if content.startswith(mark)), "utf-8"))
        if "\0" in text:
            raise ValueError("it holds zeros, as UTF-16 without a mark does")
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}): save it as text in UTF-8") from error
    return text


def read_lines(file):
    """The lines of a list that are not empty, without blanks at their ends."""
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def read_table(file):
    """(columns, [(number of the line, {column: cell})]) of a csv, without empty lines and blanks at the ends of cells.

    Commas, semicolons or tabs stand between the cells, whichever the first line has most of; columns are in lower case.
    """
    text = read_text(file)
    first = next((line for line in text.splitlines() if line.strip(" ,;\t")), "")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise DataError(f"{file} cannot be read ({error}): save it as a csv in UTF-8") from error
    (_, columns), *rows = [row for row in rows if any(row[1])] or [(0, [])]
    columns = [column.lower() for column in columns]
    twice = {column for column in columns if column and columns.count(column) > 1}
    if twice:
        raise DataError(f"{file} has more than one column {min(twice)!r}: keep one")
    return columns, [(line, {**dict.fromkeys(columns, ""), **dict(zip(columns, row, strict=False))})
                     for line, row in rows]


def ucf101(spec, root, fold=1, train="official"):
    """trainlist0N.txt and testlist0N.txt where they are; else the groups in the folder names.

    Split 1 tests on groups g01-g07, split 2 on g08-g14 and split 3 on g15-g21 (Soomro, Zamir, Shah, arXiv 1212.0402;
    for splits 2 and 3 not compared with the official lists here).
    """
    wanted = {comparable(name, words=True) for name in spec.classes}
    lists = {split: _find(root, f"{split}list{fold:02d}.txt") for split in ("train", "test")}
    if any(lists.values()) and not all(lists.values()):
        absent = next(split for split, file in lists.items() if not file)
        raise DataError(f"{root} has one of the official lists of split {fold}, but no {absent}list{fold:02d}.txt: put "
                        "both there, or none, and test groups decide")
    if all(lists.values()):
        rows = []
        for split, file in lists.items():       # lines as ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
            for line in read_lines(file):
                label, _, name = line.split()[0].rpartition("/")
                if not label:
                    raise DataError(f"{file}: {line!r} is not <class>/<video>: is it the official list of UCF101?")
                if comparable(label, words=True) in wanted:
                    rows.append((_stem(name), label, split, file))
        return rows
    rows = []
    for name in sorted({name for folder in spec.images for name in ClipFolders(root / folder, spec.classes).names()}):
        match = UCF_CLIP.match(name.strip())
        if match and comparable(match[1], words=True) in wanted:
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
        for line in read_lines(file):
            name, flag = line.rsplit(None, 1) if len(line.split()) > 1 else ("", line)
            if flag not in use or not name:
                raise DataError(f"{file}: {line!r} is not <video> and a flag of 0, 1 or 2: unpack it again")
            if use[flag]:
                rows.append((_stem(name), label, use[flag], file))
    return rows


def kinetics(spec, root, fold=1, train="official"):
    """train.csv, and validate.csv as test (label, youtube_id, time_start, time_end, split)."""
    rows, wanted = [], {"label", "youtube_id", "time_start", "time_end"}
    for split, names in KINETICS_FILES.items():
        file = _first(root, names)
        columns, table = read_table(file)
        if not wanted <= set(columns):
            raise DataError(f"{file} must have the columns {', '.join(sorted(wanted))}; it has {columns}: download "
                            "Kinetics' annotations again")
        for line, row in table:
            if not row["label"] or not row["youtube_id"]:
                raise DataError(f"{file}, line {line}: a clip has no label or no youtube_id: download Kinetics' "
                                "annotations again")
            try:
                start, end = int(float(row["time_start"])), int(float(row["time_end"]))
            except (ValueError, OverflowError) as error:
                raise DataError(f"{file}, line {line}: {error}: time_start and time_end must be seconds") from error
            rows.append((f"{row['youtube_id']}_{start:06d}_{end:06d}", row["label"], split, file))
    return rows


def ssv2(spec, root, fold=1, train="official"):
    """The annotations' template (read without its brackets); or the class number, where a file holds numbers."""
    rows = []
    for split, names in SSV2_FILES.items():
        file = _first(root, names)
        try:
            for item in json.loads(read_text(file)):
                clip, label = item["id"], item["class"] if "class" in item else item["template"]
                if type(clip) not in (str, int) or type(label) is not (int if "class" in item else str):
                    raise TypeError(f"id {clip!r} with {label!r}")
                if "class" in item:
                    if not 0 <= label < len(spec.classes):
                        raise DataError(f"{file}: clip {clip} has the class {label}, which is none of 0 to "
                                        f"{len(spec.classes) - 1}: take it out, or correct it")
                    label = spec.classes[label]
                rows.append((str(clip).strip(), label, split, file))
        except DataError:
            raise
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{file} is not a list of {{id, template}}, or of {{id, class}} with the number of the "
                            f"class ({type(error).__name__}: {error}): download SSv2's labels again") from error
    return rows


def listing(folder):
    """Names in a folder; none where there is no such folder."""
    try:
        return os.listdir(folder)
    except OSError as error:
        if error.errno in NO_FOLDER:
            return []
        raise


def entries(folder):
    """{name: whether it is a regular file, or a link to one} of a folder; nothing where there is no such folder."""
    try:
        with os.scandir(folder) as found:
            return {entry.name: _is_file(entry) for entry in found}
    except OSError as error:
        if error.errno in NO_FOLDER:
            return {}
        raise


def _is_file(entry):
    try:
        return entry.is_file()
    except OSError:     # links that lead round in circles
        return False


class Names(set):
    """The names in a folder, of which one is found in another spelling too."""

    @cached_property
    def spellings(self):
        found = defaultdict(list)
        for name in sorted(self):
            found[comparable(name)].append(name)
        return found


class ClipFolders:
    """The clips in a folder: each a folder of its own, or, as many tools write them, <class>/<clip>.

    A clip is found by its name or, where no folder has that, by a folder whose name differs from it in blanks at the
    ends, in case or in Unicode's form, and is not itself one of `listed`, the names of all clips.
    """

    def __init__(self, root, classes, listed=()):
        self.root, self.present, self.listed = str(root), Names(listing(root)), listed
        labels, self.nested, self.others = {comparable(name, words=True) for name in classes}, {}, {}
        for name in sorted(self.present):       # two may differ in spelling
            if (label := comparable(name, words=True)) in labels:
                self.nested.setdefault(label, []).append((name, self._below(name)))

    def _below(self, name):
        return Names(listing(os.path.join(self.root, name)))

    def find(self, name, label):
        """The folder of a clip, by its name (<clip>, or <class>/<clip>) and its class; None where there is none."""
        above, _, clip = name.rpartition("/")
        places = self.nested.get(comparable(above or label, words=True), [])        # (folder, names in it)
        if above and not places:
            if above not in self.others:
                alike = [above] if above in self.present else self.present.spellings.get(comparable(above), ())
                self.others[above] = [(top, self._below(top)) for top in alike]
            places = self.others[above]
        if not above:
            places = [*places, ("", self.present)]
        found = [os.path.join(self.root, folder, clip) for folder, names in places if clip in names]
        if not found:
            found = [os.path.join(self.root, folder, other) for folder, names in places
                     for other in names.spellings.get(comparable(clip), ()) if other not in self.listed]
        if len(found) > 1:
            raise DataError(f"{found[0]} and {found[1]} may both be the clip {name!r} of the split file: rename or "
                            "remove one of them")
        return found[0] if found else None

    def names(self):
        """Names of all that may be clips, without those of class folders."""
        return {*(name for name in self.present if comparable(name, words=True) not in self.nested),
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
