"""UCF101 from its videos: every frame, resized to 160x120, the middle 112x112 kept.

    python extract_frames/extract_ucf101.py --source UCF-101

UCF-101.rar unpacks to UCF-101/<Class>/v_<Class>_g01_c01.avi; the clips go to <data_path>/UCF101/jpegs_112.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.args import cli
from distill_utils.extract import extract_table


def main():
    extract_table(__doc__, "UCF101", "<Class>/v_<Class>_g01_c01.avi", stretch=True)


if __name__ == "__main__":
    cli(main)
