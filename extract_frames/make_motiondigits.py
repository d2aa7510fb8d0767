"""Writes MotionDigits as frame folders. The scripts do so themselves when it is missing; here with a seed of choice.

    python extract_frames/make_motiondigits.py --data_path distill_utils/data --seed 0
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils import motiondigits
from distill_utils.args import Parser, cli, not_negative
from distill_utils.dataset import DATA


def main():
    parser = Parser(__doc__)
    parser.add_argument("--data_path", default=str(DATA), help="folder of the data sets")
    parser.add_argument("--seed", type=not_negative, default=0)
    args = parser.parse_args()
    folder = Path(args.data_path) / "MotionDigits"
    if folder.exists():
        raise ValueError(f"{folder} is already there: remove it first, or choose another --data_path")
    print(motiondigits.make(args.data_path, args.seed))


if __name__ == "__main__":
    cli(main)
