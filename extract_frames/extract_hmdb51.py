"""HMDB51 from its videos: every frame, resized to 160x120, the middle 112x112 kept.

    python extract_frames/extract_hmdb51.py --source hmdb51_org

hmdb51_org.rar holds one rar file a class; unpacked they are <class>/<video>.avi. The clips go to
<data_path>/HMDB51/jpegs_112.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.args import cli
from distill_utils.extract import extract_table


def main():
    extract_table(__doc__, "HMDB51", "<class>/<video>.avi, out of one rar file a class", stretch=True)


if __name__ == "__main__":
    cli(main)
