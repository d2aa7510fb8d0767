"""UCF101 from its videos: every frame, resized to 160x120, the middle 112x112 kept.

    python extract_frames/extract_ucf101.py --source UCF-101

UCF-101.rar unpacks to UCF-101/<Class>/v_<Class>_g01_c01.avi; the clips go to <data_path>/UCF101/jpegs_112.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.extract import Settings, extract_all, extract_parser, find_videos
from distill_utils.run import cli


def main():
    args = extract_parser(__doc__, im_size=112).parse_args()
    settings = Settings(args.frames, "spread", 1, args.im_size, args.quality, stretch=True)
    jobs = [(video, "jpegs_112", video.stem) for video in find_videos(args.source, "<Class>/v_<Class>_g01_c01.avi")]
    extract_all(jobs, Path(args.data_path) / "UCF101", settings, args.source, args.num_workers,
                enough=args.frames or 16)


if __name__ == "__main__":
    cli(main)
