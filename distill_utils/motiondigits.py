"""MotionDigits: real handwritten digits that move up or down, as frame folders in the layout of UCF101.

Five digits of scikit-learn's `load_digits` (8x8 scans, enlarged to 16x16), each moving up or down with wrap-around from
a random height at 2.5 to 4 pixels a frame. One frame tells the digit and never the direction; a left-right flip keeps
the class. Training and test clips show different handwritten samples.
"""
import csv
from pathlib import Path

import numpy as np

from distill_utils.files import locked, remove, replacing, unfinished

DIGITS = {"Zero": 0, "One": 1, "Two": 2, "Four": 4, "Seven": 7}
CLASSES = tuple(f"{digit}{direction}" for digit in DIGITS for direction in ("Up", "Down"))
SIZE, FRAMES = 32, 12           # 12 stored frames: a clip of 8 has 5 possible starts
GROUPS = {"test": range(1, 8), "train": range(8, 26)}   # as UCF101's split 1: g01-g07 test, g08-g25 train
CLIPS = {"test": 6, "train": 3}                         # clips a group and class: 420 test, 540 train


def render(sample, up, rng):
    """One clip, uint8 (FRAMES, SIZE, SIZE, 3), of an 8x8 scan with values 0 to 16."""
    from PIL import Image
    from scipy.ndimage import shift
    canvas = np.zeros((SIZE, SIZE))
    enlarged = Image.fromarray((sample * 15.9).astype(np.uint8)).resize((16, 16), Image.Resampling.BICUBIC)
    canvas[:16, 8:24] = np.asarray(enlarged) / 255
    height, sideways = rng.uniform(0, SIZE), rng.uniform(-2, 2)
    speed = rng.uniform(2.5, 4) * (-1 if up else 1)
    tint, ground = rng.uniform(0.5, 1, 3), rng.uniform(0, 0.25, 3)
    frames = []
    for t in range(FRAMES):
        digit = shift(canvas, (height + speed * t, sideways), order=1, mode="grid-wrap")[..., None]
        frames.append(ground + digit * (tint - ground) + rng.normal(0, 0.03, (SIZE, SIZE, 3)))
    return (np.clip(np.stack(frames), 0, 1) * 255).round().astype(np.uint8)


def make(data_path, seed=0):
    """Writes MotionDigits below `data_path` if it is not there, byte for byte the same for a seed. Returns its folder.

    Safe when several processes start at once and when one is killed: the folder appears whole or not at all.
    """
    folder = Path(data_path) / "MotionDigits"
    if folder.is_dir():
        return folder
    Path(data_path).mkdir(parents=True, exist_ok=True)
    with locked(Path(data_path) / ".motiondigits.lock"):
        if not folder.is_dir():
            remove(*unfinished(data_path, folder.name))
            with replacing(folder) as temporary:
                _write(temporary, seed)
    return folder


def _write(folder, seed):
    from PIL import Image
    from sklearn.datasets import load_digits
    scans = load_digits()
    rows = []
    for number, (name, digit) in enumerate(DIGITS.items()):
        samples = scans.images[scans.target == digit]
        samples = samples[np.random.default_rng([seed, number]).permutation(len(samples))]
        clips = [(split, g, c) for split, groups in GROUPS.items() for g in groups for c in range(1, CLIPS[split] + 1)]
        for index, (split, g, c) in enumerate(clips):
            for direction in ("Up", "Down"):
                label = f"{name}{direction}"
                clip = f"v_{label}_g{g:02d}_c{c:02d}"
                path = folder / f"jpegs_{SIZE}" / clip
                path.mkdir(parents=True)
                rng = np.random.default_rng([seed, number, index, direction == "Up"])
                for t, frame in enumerate(render(samples[index], direction == "Up", rng), start=1):
                    Image.fromarray(frame).save(path / f"frame{t:06d}.jpg", quality=92)
                rows.append((clip, label, split))
    with open(folder / "motiondigits_splits1.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("folder_name", "label", "split"), *sorted(rows)])
