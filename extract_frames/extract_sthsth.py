"""Something-Something V2 from its videos: 8 frames spread evenly, the middle square of each kept.

    python extract_frames/extract_sthsth.py --source 20bn-something-something-v2

The parts of the archive unpack to 20bn-something-something-v2/<id>.webm; the clips go to <data_path>/SSv2/frame/<id>.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.extract import Settings, extract_all, extract_parser, find_videos
from distill_utils.run import cli


def main():
    args = extract_parser(__doc__, im_size=64, frames=8).parse_args()
    settings = Settings(args.frames, "spread", 1, args.im_size, args.quality, stretch=False)
    jobs = [(video, "frame", video.stem) for video in find_videos(args.source, "<id>.webm")]
    extract_all(jobs, Path(args.data_path) / "SSv2", settings, args.source, args.num_workers, enough=args.frames or 8)


if __name__ == "__main__":
    cli(main)
