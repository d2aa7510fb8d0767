"""Your own videos, <class>/<video>, to a data set: every frame, the middle square of each kept, and a split file.

    python extract_frames/extract_folder.py --source my_videos --target my_data
    python evaluate.py --train_on full --dataset my_data

The clips go to <target>/frames/<class>_<video>, their split to <target>/split.csv. If the source holds
train/<class>/<video> and test/<class>/<video> (or val/), that is the split, and the clips' names begin with it. Such a
folder may also be named training, testing, valid or validation, in upper or lower case. Where there are test/ and val/,
the clips of val/ are made, but are neither for training nor for testing.
Otherwise every --test_every'th video of a class is for testing: where several were cut from one recording, write train
and test folders, or the file, yourself. One that is there is left as it is.
"""
import csv
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.args import cli, positive
from distill_utils.dataset import read_csv
from distill_utils.extract import Settings, extract_all, extract_parser, find_videos
from distill_utils.files import replacing

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val",
          "validation": "val"}
LIKE = "<class>/<video>, or train/<class>/<video> and test/<class>/<video> (or val/...)"


def sort_videos(videos, source, test_every):
    """{video: (clip, label, "train" | "test" | None)} of videos in name order, one row for all videos of a clip. The
    clip is None for a video at another depth, the split for a validation video where there are test videos.

    ValueError if no video has a place, or if two classes have almost the same name.
    """
    parts = {video: video.relative_to(source).parts for video in videos}
    kinds = {part[0]: SPLITS.get(part[0].strip().lower()) for part in parts.values() if len(part) == 3}
    has_split = "train" in kinds.values() and not {"test", "val"}.isdisjoint(kinds.values())
    val = None if "test" in kinds.values() else "test"
    seen, clips, rows, spellings = Counter(), {}, {}, defaultdict(set)
    for video, part in parts.items():
        label = part[-2].strip() if len(part) == 2 + has_split else ""
        kind = kinds.get(part[0])
        if not label or has_split and not kind:
            rows[video] = (None, None, None)
            continue
        spellings[unicodedata.normalize("NFC", label).casefold()].add(part[-2])
        # train/ and test/ may each have a video of that name
        name = "_".join([*part[:1 + has_split], video.stem])
        if name not in clips:
            by_number = "test" if seen[label] % test_every == 0 else "train"
            clips[name] = (name, label, by_number if not has_split else val if kind == "val" else kind)
            seen[label] += 1
        rows[video] = clips[name]
    if not clips:
        folders = sorted({part[0] for part in parts.values() if len(part) > 1})
        raise ValueError(f"no video below {source} lies as {LIKE}; the folders with videos are {folders}, the first "
                         f"video is {Path(*parts[videos[0]])}: sort them so, or name another folder with --source")
    for names in spellings.values():
        if len(names) > 1:
            raise ValueError(f"the class folders {', '.join(map(ascii, sorted(names)))} in {source} differ only by "
                             "case, blanks at the ends or the form of a letter: give one class one name")
    return rows


def tell(rows, source):
    """Says what sort_videos decided and a user may not expect."""
    unused = [video.relative_to(source).parts[0] for video, (name, _, split) in rows.items() if name and not split]
    if unused:
        print(f"note: {len(unused)} videos in {', '.join(sorted(set(unused)))} are neither for training nor for "
              "testing, because there are test videos: their clips are made, but not listed in split.csv",
              file=sys.stderr)
    folders = {video.parent.name: label for video, (_, label, _) in rows.items() if label}
    blanks = sorted(folder for folder, label in folders.items() if folder != label)
    if blanks:
        print(f"note: the labels of the class folders {blanks} are without the blanks at the ends", file=sys.stderr)


def write_split(file, rows, clips):
    """The split file of the clips that are there, if there is none yet; otherwise says which of them it leaves out."""
    if file.exists():
        listed, made = {name: split for name, _, split in read_csv(file)}, {name: split for name, _, split in rows}
        moved = sorted(name for name, split in listed.items() if made.get(name) not in (None, split))
        if moved:
            print(f"note: {file} was there and stays as it is; {len(moved)} clips in it have another split than this "
                  f"command gives, first {moved[0]}", file=sys.stderr)
        others = sorted({name for name, _, split in rows if split and f"frames/{name}" in clips} - listed.keys())
        if others:
            print(f"note: {len(others)} clips are not in {file}, first {others[0]}: add them to it, or remove it and "
                  "run the same command again", file=sys.stderr)
    else:
        with replacing(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
            there = {row for row in rows if row[2] and f"frames/{row[0]}" in clips}
            csv.writer(stream, lineterminator="\n").writerows([("folder_name", "label", "split"), *sorted(there)])


def main():
    parser = extract_parser(__doc__, im_size=112, own=True)
    parser.add_argument("--test_every", type=positive, default=5, help="which share of the videos is for testing")
    args = parser.parse_args()
    target = Path(args.target)
    settings = Settings(args.frames, "spread", 1, args.im_size, args.quality, stretch=False)
    videos, passed = find_videos(args.source, LIKE)
    rows = sort_videos(videos, args.source, args.test_every)
    tell(rows, args.source)
    jobs = [(video, "frames", name) for video, (name, _, _) in rows.items()]
    clips = extract_all(jobs, target, settings, args.source, args.num_workers, enough=args.frames or 16,
                        like=LIKE, passed=passed)
    write_split(target / "split.csv", rows.values(), clips)


if __name__ == "__main__":
    cli(main)
