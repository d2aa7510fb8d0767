"""Something-Something V2 from its videos: 8 frames spread evenly, the middle square of each kept.

    python extract_frames/extract_sthsth.py --source 20bn-something-something-v2

The parts of the archive unpack to 20bn-something-something-v2/<id>.webm; the clips go to <data_path>/SSv2/frame/<id>.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.args import cli
from distill_utils.extract import extract_table


def main():
    extract_table(__doc__, "SSv2", "<id>.webm", stretch=False)


if __name__ == "__main__":
    cli(main)
