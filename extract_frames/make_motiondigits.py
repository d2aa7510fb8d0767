"""Writes MotionDigits or its twin as frame folders. The scripts do so themselves when it is missing; here with a seed
of choice.

    python extract_frames/make_motiondigits.py --data_path distill_utils/data --seed 0
    python extract_frames/make_motiondigits.py --dataset AppearanceDigits
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill_utils.args import Parser, cli, not_negative
from distill_utils.dataset import DATA, DATASETS


def main(description=__doc__, names=("MotionDigits", "AppearanceDigits")):
    parser = Parser(description)
    parser.add_argument("--dataset", choices=names, default=names[0])
    parser.add_argument("--data_path", default=str(DATA), help="folder of the data sets")
    parser.add_argument("--seed", type=not_negative, default=0)
    args = parser.parse_args()
    spec = DATASETS[args.dataset]
    folder = Path(args.data_path) / spec.folder
    if folder.exists():
        raise ValueError(f"{folder} is already there: remove it first, or choose another --data_path")
    print(spec.make(args.data_path, args.seed))


if __name__ == "__main__":
    cli(main)
