"""Is a data set ready to train on? And its split file, from the official lists.

    python -m distill_utils.check HMDB51                    # can training start?
    python -m distill_utils.check split HMDB51 --train all  # writes the split file
"""
import csv
import os
import re
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from distill_utils import images
from distill_utils.args import Parser, add_data_args, cli, spec_of
from distill_utils.clips import cache_folder
from distill_utils.dataset import DataError, in_order, read_folders, read_split, spread_note
from distill_utils.files import replacing
from distill_utils.frames import decode, frame_size
from distill_utils.progress import other_files, progress, some
from distill_utils.splits import ANNOTATIONS, KINETICS_FILES, SSV2_FILES, entries

FIRST = 5       # names that are shown without --list
# official lists (a split file may stand in for them), and what an extraction writes beside its clips
KNOWN = re.compile(r"(train|test)list\d\d\.txt|classInd\.txt|.*_test_split\d\.txt|val_annotations\.txt|"
                   r"settings_.*\.json|(broken|short|damaged)_videos\.txt")
LISTS = {name for lists in (KINETICS_FILES, SSV2_FILES) for names in lists.values() for name in names}


def write_split(spec, data_path, train="official"):
    """Writes the split file of a data set by its rule, whole or not at all. Returns its path and its clips."""
    if spec.rule is None:
        raise DataError(f"{spec.folder} has no rule that its split follows: there is nothing to write")
    file = Path(data_path) / spec.folder / spec.split
    clips = read_split(spec, data_path, train, use_file=False)
    with replacing(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(
            [("folder_name", "label", "split"), *((name, spec.classes[k], split) for name, k, split in clips)])
    return file, clips


def check(name, spec, data_path, cache_path, show_all=False, skip_missing=False, num_workers=0, decode_all=False):
    """Prints what there is of a data set. Returns (whether training can start, the sentence that says so)."""
    if spec.folder in images.READERS:
        sets = {split: images.READERS[spec.folder](spec, data_path, split) for split in ("train", "test")}
        sets = {split: found if isinstance(found, images.Images) else found[0] for split, found in sets.items()}
        lost = {split: [] for split in sets}
    else:
        folders = dict(zip(("train", "test"), read_folders(spec, data_path, skip_missing=None), strict=True))
        sets, lost = folders, {split: [(clip, "no folder") for clip in found.missing] + found.bad
                               for split, found in folders.items()}
    root = Path(data_path) / spec.folder
    file = root / spec.split
    print(f"{name}: {root}")
    if spec.rule or file.is_file():
        print(f"split: {file.name if file.is_file() else 'no ' + file.name + ', so the rule ' + spec.rule.__name__}")
    sizes, unreadable, stored = Counter(), {}, 0
    for split, found in sets.items():
        if found.files is not None:
            broken, seen, size = read_frames(found, num_workers, decode_all)
            unreadable[split], stored = broken, stored + size
            sizes.update(seen)
    official = (spec.clips or {}).get(spec.fold)
    for i, (split, found) in enumerate(sets.items()):
        counts = np.bincount(found.labels, minlength=spec.num_classes)
        print(f"{split}: {len(found.names)} clips, {counts.min()} to {counts.max()} a class"
              + (f" (official: {official[i]})" if official else ""))
    print_classes(spec, sets, show_all)
    frames = np.concatenate([found.counts for found in sets.values()])
    if sizes:
        print(f"frames that are read: {frames.sum()}, {frames.min()} to {frames.max()} a clip; pixels: "
              + ", ".join(f"{width}x{height} ({count})" for (width, height), count in sizes.most_common(5)))
        smaller = sum(count for size, count in sizes.items() if min(size) < spec.size)
        if smaller:
            print(f"note: {smaller} frames are smaller than {spec.size} pixels and will be enlarged")
        cache = int(frames.sum()) * spec.channels * spec.size ** 2
        folder = Path(cache_path)
        while not folder.is_dir():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        print(f"disk: {stored / 1e9:.2f} GB of frames, {cache / 1e9:.2f} GB of cache when all are decoded, "
              f"{free / 1e9:.0f} GB free")
    if spec.images and (note := spread_note(list(sets.values()))):
        print(f"note: {note}")
    for split, found in sets.items():
        print_clips(f"{split} clips shorter than {spec.frames} frames (theirs will repeat)",
                    [(found.names[i], f"{found.counts[i]} frames") for i in np.flatnonzero(found.counts < spec.frames)],
                    show_all)
    for split in lost:
        print_clips(f"{split} clips that are missing or not whole", lost[split], show_all)
        print_clips(f"{split} clips with unreadable frames", unreadable.get(split, []), show_all)
    if all(found.files is not None for found in sets.values()):
        print("passed over: " + passed_over(spec, root, sets.values(), show_all))
    return verdict(name, spec, sets, lost, unreadable, skip_missing)


def verdict(name, spec, sets, lost, unreadable, skip_missing):
    missing, broken = (sum(map(len, clips.values())) for clips in (lost, unreadable))
    absent = [f"{spec.classes[k]} ({split})" for split, found in sets.items()
              for k in np.flatnonzero(np.bincount(found.labels, minlength=spec.num_classes) == 0)]
    clips = " and ".join(f"{len(found.names)} {word}" for found, word in zip(sets.values(), ("training", "test"),
                                                                             strict=True))
    if absent:
        return False, (f"NOT READY: {name} lacks {len(absent)} classes of one split or both, first {absent[0]}: "
                       "extract them, or look whether --data_path and the split file are the right ones.")
    if broken:
        return False, (f"NOT READY: {name} has {broken} clips with unreadable frames: remove their folders, then "
                       "extract them again or train with --skip_missing.")
    if missing and not skip_missing:
        return False, (f"NOT READY: {name} lacks {missing} clips: extract them, or train on {clips} clips with "
                       "--skip_missing.")
    fewer = short_of_official(spec, [len(found.names) for found in sets.values()])
    if fewer and not missing and not skip_missing:      # no list names those that are absent
        return False, (f"NOT READY: {name} has {clips} clips where the official split has {fewer}: extract the others "
                       "(broken_videos.txt says what gave no clip), or train on those that are here with "
                       "--skip_missing.")
    return True, (f"READY: {name} has {clips} clips of {spec.num_classes} classes"
                  + (f"; --skip_missing leaves out {missing}." if missing else "."))


def short_of_official(spec, counts):
    """"4662 and 1861" where a data set of videos has fewer (training, test) clips than its official split, or ""."""
    official = (spec.clips or {}).get(spec.fold) if spec.rule else None
    if not official or all(here >= there for here, there in zip(counts, official, strict=True)):
        return ""
    return " and ".join(map(str, official))


def passed_over(spec, root, sets, show_all=False):
    """What lies in the folder of a data set, in those of its clips and in the clips, and is not read: files by their
    endings, folders that neither are a clip nor hold one by their names. Hidden ones are not counted."""
    read = {}       # folder -> the names that are read in it; None: its frames
    for found in sets:
        if spec.images:
            read.update(dict.fromkeys([*found.files.folders, *found.bad_folders]))
        else:
            for folder, names in zip(found.files.folders, found.files.names, strict=True):
                read.setdefault(folder, set()).update(names)
    above = {str(root), *(str(root / folder) for folder in spec.images)}
    for folder in read:
        while (folder := os.path.dirname(folder)) not in above and folder.startswith(str(root)):
            above.add(folder)
    endings, others, folders = Counter(), [], [str(root)]
    for folder in folders:
        names = tuple(entries(folder))
        used = read.get(folder, ())
        used = set(in_order(names, gaps=True)[0]) if used is None else used
        for name in sorted(name for name in names if not name.startswith(".") and name not in used):
            path = os.path.join(folder, name)
            if path in read or path in above:
                folders.append(path)
            elif os.path.isdir(path):
                others += [os.path.relpath(path, root)] if name not in ANNOTATIONS else []
            elif path != str(root / spec.split) and not (folder in above and (KNOWN.fullmatch(name) or name in LISTS)):
                endings[os.path.splitext(name)[1].lower()] += 1
    unread = some(others, len(others)) if show_all else some(others, FIRST)
    unread += " (--list)" if len(others) > FIRST and not show_all else ""
    return "; ".join(filter(None, [other_files(endings), unread and f"folders not read: {unread}"])) or "nothing"


def read_frames(found, num_workers=0, decode_all=False):
    """([(clip, what is wrong with it)], sizes of its frames, bytes) of all frames that clips are made of."""
    def look(i):
        sizes, stored = Counter(), 0
        try:
            for file in found.files[i]:
                sizes[frame_size(file)] += 1
                if decode_all:
                    decode(file, found.spec.size)
                stored += os.path.getsize(file)
        except DataError as error:
            return (found.names[i], str(error)), sizes, stored
        return None, sizes, stored

    broken, sizes, stored = [], Counter(), 0
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        for problem, seen, size in progress(pool.map(look, range(len(found.names))), total=len(found.names),
                                            desc=f"reading {found.split}", unit="clip", delay=2, leave=False):
            broken += [problem] if problem else []
            sizes.update(seen)
            stored += size
    return broken, sizes, stored


def print_classes(spec, sets, show_all):
    counts = np.stack([np.bincount(found.labels, minlength=spec.num_classes) for found in sets.values()], axis=1)
    order = range(spec.num_classes) if show_all else np.argsort(counts[:, 0], kind="stable")[:FIRST]
    print("clips a class, train + test" + ("" if show_all else f", the smallest {len(order)} (--list for all)") + ":")
    for k in order:
        print(f"  {counts[k, 0]:6d} + {counts[k, 1]:<6d} {spec.classes[k]}")


def print_clips(title, clips, show_all):
    if clips:
        print(f"{title}: {len(clips)}")
        for clip, problem in clips if show_all else clips[:FIRST]:
            print(f"  {clip}: {problem}")
        if len(clips) > FIRST and not show_all:
            print(f"  ... and {len(clips) - FIRST} more (--list)")


def main():
    words = sys.argv[1:]
    if words and words[0] not in ("check", "split", "-h", "--help"):
        words = ["check", *words]
    parser = Parser(__doc__, prog="python -m distill_utils.check")
    parser.add_argument("command", choices=("check", "split"), help="check (may be left out): can training start? "
                        "split: write the split file from the official lists")
    parser.add_argument("dataset", metavar="name", help="a name of the table DATASETS, or a folder of your own")
    parser.add_argument("--list", action="store_true", help="all classes and all clips with a problem")
    parser.add_argument("--decode", action="store_true", help="of check: decode all frames that clips are made of, "
                        "which takes as long as building the cache, and name those that are damaged inside; if not "
                        "given, their headers and ends are read, which finds files that are cut off or no picture")
    parser.add_argument("--train", choices=("official", "all"), help="of split HMDB51: train on flag 1, the default, "
                        "or on flags 0 and 1 together as the published numbers do")
    add_data_args(parser, named=False)
    args = parser.parse_args(words)
    if args.train and args.command == "check":
        parser.error("--train says what split writes, and check reads that: leave it out")
    if args.command == "split":
        if args.decode:
            parser.error("--decode says how check reads the frames, and split reads none: leave it out")
        if args.split_file is not None or args.classes is not None:
            parser.error("split writes the data set's own split file, of all its classes: leave --split_file and "
                         "--classes out")
        return split(args)
    try:
        spec = spec_of(args)
        if spec.make:
            spec.make(args.data_path)
        ready, sentence = check(args.dataset, spec, args.data_path, cache_folder(args.data_path, args.cache_path),
                                args.list, args.skip_missing, args.num_workers, args.decode)
    except ValueError as error:
        ready, sentence = False, f"NOT READY: {error}"
    print(sentence)
    if not ready:
        raise SystemExit(1)


def split(args):
    spec = spec_of(args)
    file, clips = write_split(spec, args.data_path, args.train or "official")
    train = sum(row_split == "train" for *_, row_split in clips)
    fewer = short_of_official(spec, [train, len(clips) - train])
    if fewer:
        print(f"note: the official split has {fewer} clips; those that come later will not be in this file: write it "
              "again then", file=sys.stderr)
    print(f"wrote {file}: {train} training and {len(clips) - train} test clips of {spec.num_classes} classes")


if __name__ == "__main__":
    cli(main)
