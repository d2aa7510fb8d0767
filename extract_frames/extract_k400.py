"""Kinetics-400 from its videos: two seconds around the middle of each, the middle square of each frame kept.

    python extract_frames/extract_k400.py --source k400
    python extract_frames/extract_k400.py --source k400 --dataset Kinetics400_long

The source holds train, val, test and replacement, or some of them, with <id>_<start>_<end>.mp4 at any depth. The clips
go to <data_path>/Kinetics/train/<id>_<start>_<end> and so on (six digits for seconds), those of Kinetics400_long to
Kinetics_long. The frames are evenly spread in time, so that all clips last --seconds, whatever the frame rate of their
videos. Of a shorter video all of the time is used.
"""
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.args import above_zero, cli, positive
from distill_utils.dataset import DATASETS
from distill_utils.extract import Settings, extract_all, extract_parser, find_videos

CLIP = re.compile(r"([\w-]{11})_(\d+)_(\d+)", re.ASCII)
FOLDERS = ("train", "val", "test", "replacement")


def clip_name(stem):
    """<id>_<start>_<end> with seconds of six digits, however the downloader wrote them; None for other names."""
    match = CLIP.fullmatch(stem)
    return match and f"{match[1]}_{int(match[2]):06d}_{int(match[3]):06d}"


def main():
    parser = extract_parser(__doc__, im_size=None, frames=None)
    parser.add_argument("--dataset", choices=("Kinetics400", "Kinetics400_long"), default="Kinetics400",
                        help="8 frames of 64 pixels, or 16 of 112, if --frames and --im_size say nothing else")
    time = parser.add_mutually_exclusive_group()
    time.add_argument("--seconds", type=above_zero, default=2.0, help="how long a clip lasts: its frames are those on "
                      "screen at evenly spread times. The published extraction takes 2 frames a second, which is "
                      "--seconds 4 for 8 frames")
    time.add_argument("--stride", type=positive, help="in place of --seconds: frames of the video from one to the next "
                      "at any frame rate, as this script did at first (8 for 8 frames, 4 for 16)")
    args = parser.parse_args()
    spec = DATASETS[args.dataset]
    frames = args.frames or spec.frames
    settings = Settings(frames, "middle", args.stride or 1, args.im_size or spec.size, args.quality, stretch=False,
                        seconds=0 if args.stride else args.seconds)
    if not any((Path(args.source) / images).is_dir() for images in FOLDERS):
        raise ValueError(f"{args.source} holds none of the folders {', '.join(FOLDERS)}, but "
                         f"{sorted(os.listdir(args.source))[:5]}: name the folder that holds them with --source")
    like = f"<id>_<start>_<end>.mp4 in one of {', '.join(FOLDERS)}"
    videos, passed = find_videos(args.source, like, FOLDERS)
    jobs = []
    for video in videos:
        images = video.relative_to(args.source).parts[0]
        jobs.append((video, images, clip_name(video.stem) if images in FOLDERS else None))
    extract_all(jobs, Path(args.data_path) / spec.folder, settings, args.source, args.num_workers, enough=frames,
                like=like, passed=passed)


if __name__ == "__main__":
    cli(main)
