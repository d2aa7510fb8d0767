"""Kinetics-400 from its videos: frames around the middle of each, the middle square of each frame kept.

    python extract_frames/extract_k400.py --source k400
    python extract_frames/extract_k400.py --source k400 --dataset Kinetics400_long

The source holds train, val, test and replacement, or some of them, with <id>_<start>_<end>.mp4 at any depth. The clips
go to <data_path>/Kinetics/train/<id>_<start>_<end> and so on (six digits for seconds), those of Kinetics400_long to
Kinetics_long. A video too short for the stride is read at a smaller one.
"""
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.args import cli, positive
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
    parser.add_argument("--stride", type=positive, help="frames of the video from one to the next; by default 64 / "
                        "--frames, so that a clip lasts about two seconds")
    args = parser.parse_args()
    spec = DATASETS[args.dataset]
    frames = args.frames or spec.frames
    settings = Settings(frames, "middle", args.stride or max(64 // frames, 1), args.im_size or spec.size, args.quality,
                        stretch=False)
    jobs = []
    for images in FOLDERS:
        source = Path(args.source) / images
        if source.is_dir():
            jobs += [(video, images, clip_name(video.stem)) for video in find_videos(source, "<id>_<start>_<end>.mp4")]
    if not jobs:
        raise ValueError(f"{args.source} holds none of the folders {', '.join(FOLDERS)}, but "
                         f"{sorted(os.listdir(args.source))[:5]}: name the folder that holds them with --source")
    extract_all(jobs, Path(args.data_path) / spec.folder, settings, args.source, args.num_workers, enough=frames,
                like="<id>_<start>_<end>.mp4")


if __name__ == "__main__":
    cli(main)
