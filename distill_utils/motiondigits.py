"""Two small data sets of real handwritten digits that move, as frame folders in the layout of UCF101.

The digits are those of scikit-learn's `load_digits` (8x8 scans, enlarged to 16x16), and move with wrap-around.
Training and test clips show different handwritten samples.

MotionDigits: five digits, each moving up or down from a random height at 2.5 to 4 pixels a frame. One frame tells the
digit and never the direction; a left-right flip keeps the class.

AppearanceDigits, its twin: all ten digits, each clip moving in any direction of the plane at 0.2 to 0.6 pixels a frame,
from about the middle. One frame tells the class, and the movement tells nothing.
"""
import csv
from pathlib import Path

import numpy as np

from distill_utils.files import made_once

NAMES = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
WAYS = {"Up": (-1, 0), "Down": (1, 0)}      # rows and columns of a step
KINDS = {"MotionDigits": ((0, 1, 2, 4, 7), tuple(WAYS)), "AppearanceDigits": (range(10), ("",))}    # "": in any way
CLASSES = {name: tuple(NAMES[digit] + way for digit in digits for way in ways)
           for name, (digits, ways) in KINDS.items()}
SIZE, FRAMES = 32, 12           # 12 stored frames: a clip of 8 has 5 possible starts
GROUPS = {"test": range(1, 8), "train": range(8, 26)}   # as UCF101's split 1: g01-g07 test, g08-g25 train
CLIPS = {"test": 6, "train": 3}                         # clips a group and class: 420 test, 540 train


def render(sample, way, rng):
    """One clip, uint8 (FRAMES, SIZE, SIZE, 3), of an 8x8 scan with values 0 to 16."""
    from PIL import Image
    from scipy.ndimage import shift
    canvas = np.zeros((SIZE, SIZE))
    enlarged = Image.fromarray((sample * 15.9).astype(np.uint8)).resize((16, 16), Image.Resampling.BICUBIC)
    canvas[:16, 8:24] = np.asarray(enlarged) / 255
    if way:
        start = rng.uniform(0, SIZE), rng.uniform(-2, 2)
        step = rng.uniform(2.5, 4) * np.array(WAYS[way])
    else:
        start, angle = 8 * np.array([1, 0]) + rng.uniform(-1, 1, 2), rng.uniform(0, 2 * np.pi)
        step = rng.uniform(0.2, 0.6) * np.array((np.sin(angle), np.cos(angle)))
    tint, ground = rng.uniform(0.5, 1, 3), rng.uniform(0, 0.25, 3)
    frames = []
    for t in range(FRAMES):
        digit = shift(canvas, start + step * t, order=1, mode="grid-wrap")[..., None]
        frames.append(ground + digit * (tint - ground) + rng.normal(0, 0.03, (SIZE, SIZE, 3)))
    return (np.clip(np.stack(frames), 0, 1) * 255).round().astype(np.uint8)


def make(data_path, seed=0, name="MotionDigits"):
    """Writes a data set of KINDS below `data_path` if it is not there, byte for byte the same for a seed. Returns its
    folder."""
    return made_once(Path(data_path) / name, lambda folder: _write(folder, seed, *KINDS[name]))


def _write(folder, seed, digits, ways):
    from sklearn.datasets import load_digits
    scans = load_digits()
    rows = []
    for number, digit in enumerate(digits):
        samples = scans.images[scans.target == digit]
        samples = samples[np.random.default_rng([seed, number]).permutation(len(samples))]
        clips = [(split, g, c) for split, groups in GROUPS.items() for g in groups for c in range(1, CLIPS[split] + 1)]
        for index, (split, g, c) in enumerate(clips):
            for way in ways:
                label = NAMES[digit] + way
                clip = f"v_{label}_g{g:02d}_c{c:02d}"
                rng = np.random.default_rng([seed, number, index, way == "Up"])
                save_clip(folder / f"jpegs_{SIZE}" / clip, render(samples[index], way, rng))
                rows.append((clip, label, split))
    save_split(folder, rows)


def save_clip(path, frames):
    """A folder of one clip: uint8 (T, H, W, 3) as frame000001.jpg ..."""
    from PIL import Image
    path.mkdir(parents=True)
    for t, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(path / f"frame{t:06d}.jpg", quality=92)


def save_split(folder, rows):
    """The split file of a data set: rows are (clip, label, "train" | "test")."""
    with open(folder / f"{folder.name.lower()}_splits1.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("folder_name", "label", "split"), *sorted(rows)])
