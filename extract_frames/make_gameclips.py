"""Writes GameClips as frame folders, in about four minutes. The scripts do so themselves when it is missing; here with
a seed of choice. It needs the games of ale-py: pip install -r requirements-games.txt

    python extract_frames/make_gameclips.py --data_path distill_utils/data --seed 0
"""
from make_motiondigits import cli, main

if __name__ == "__main__":
    cli(lambda: main(__doc__, ("GameClips",)))
