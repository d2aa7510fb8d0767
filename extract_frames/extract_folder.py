"""Your own videos, <class>/<video>, to a data set: every frame, the middle square of each kept, and a split file.

    python extract_frames/extract_folder.py --source my_videos --target my_data
    python evaluate.py --train_on full --dataset my_data

The clips go to <target>/frames/<class>_<video>, their split to <target>/split.csv. If the source holds
train/<class>/<video> and test/<class>/<video> (or val/), that is the split, and the clips' names begin with it.
Otherwise every --test_every'th video of a class is for testing: where several were cut from one recording, write train
and test folders, or the file, yourself. One that is there is left as it is.
"""
import csv
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.args import cli, positive
from distill_utils.dataset import read_csv
from distill_utils.extract import Settings, extract_all, extract_parser, find_videos
from distill_utils.files import replacing


def sort_videos(videos, source, test_every):
    """{video: (clip, label, "train" | "test")} of videos in name order; clip is None for one at another depth."""
    parts = {video: video.relative_to(source).parts for video in videos}
    has_split = {part[0] for part in parts.values()} in ({"train", "test"}, {"train", "val"})
    seen, rows = Counter(), {}
    for video, part in parts.items():
        if len(part) != 2 + has_split:
            rows[video] = (None, None, None)
            continue
        label = part[-2]
        split = part[0].replace("val", "test") if has_split else "test" if seen[label] % test_every == 0 else "train"
        seen[label] += 1
        # train/ and test/ may each have a video of that name
        rows[video] = ("_".join([*part[:1 + has_split], video.stem]), label, split)
    return rows


def write_split(file, rows, clips):
    """The split file of the clips that are there, if there is none yet; otherwise says which of them it leaves out."""
    if file.exists():
        listed = {name for name, _, _ in read_csv(file)}
        others = sorted(name for name, _, _ in rows if f"frames/{name}" in clips and name not in listed)
        if others:
            print(f"note: {len(others)} clips are not in {file}, first {others[0]}: add them to it, or remove it and "
                  "run the same command again", file=sys.stderr)
    else:
        with replacing(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
            there = {row for row in rows if f"frames/{row[0]}" in clips}
            csv.writer(stream, lineterminator="\n").writerows([("folder_name", "label", "split"), *sorted(there)])


def main():
    parser = extract_parser(__doc__, im_size=112, own=True)
    parser.add_argument("--test_every", type=positive, default=5, help="which share of the videos is for testing")
    args = parser.parse_args()
    target = Path(args.target)
    settings = Settings(args.frames, "spread", 1, args.im_size, args.quality, stretch=False)
    rows = sort_videos(find_videos(args.source, "<class>/<video>.mp4"), args.source, args.test_every)
    jobs = [(video, "frames", name) for video, (name, _, _) in rows.items()]
    clips = extract_all(jobs, target, settings, args.source, args.num_workers, enough=args.frames or 16,
                        like="<class>/<video>, or train/<class>/<video> and test/<class>/<video>")
    write_split(target / "split.csv", rows.values(), clips)


if __name__ == "__main__":
    cli(main)
