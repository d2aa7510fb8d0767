"""The embedded data sets: the same bytes for a seed, whole or absent; a direction that only motion tells, and the twin,
where a frame tells the class and motion nothing."""
import csv
import errno
import hashlib
import multiprocessing
import os

import numpy as np
import pytest
from PIL import Image

from conftest import uint8
from distill_utils import motiondigits
from distill_utils.dataset import DATASETS, read_split
from test_files import fork, hang, killed_at
from utils import get_dataset


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """A data path that holds AppearanceDigits."""
    path = tmp_path_factory.mktemp("twin")
    motiondigits.make(path, name="AppearanceDigits")
    return path


@pytest.fixture
def few(monkeypatch):
    """A few clips only: 40 of 3 frames."""
    monkeypatch.setattr(motiondigits, "GROUPS", {"test": range(1, 3), "train": range(8, 10)})
    monkeypatch.setattr(motiondigits, "CLIPS", {"test": 1, "train": 1})
    monkeypatch.setattr(motiondigits, "FRAMES", 3)


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def visible(path):
    return sorted(name for name in os.listdir(path) if name != ".motiondigits.lock")


@pytest.mark.parametrize("name", motiondigits.KINDS)
def test_a_seed_gives_the_same_bytes(name, few, tmp_path):
    first, again, other = (contents(motiondigits.make(tmp_path / path, seed, name)) for path, seed in
                           (("first", 3), ("again", 3), ("other", 4)))
    assert len(first) == 40 * 3 + 1 and first == again
    assert first.keys() == other.keys()
    assert sum(first[file] == other[file] for file in first) == 1        # the split file


def test_the_pictures_stay_those_of_earlier_runs(few, tmp_path, monkeypatch):
    pictures, save = {}, Image.Image.save       # before JPEG, which other versions of Pillow write with other bytes

    def keep(image, file, **kwargs):
        pictures[file.relative_to(file.parents[2]).as_posix()] = image.tobytes()
        save(image, file, **kwargs)

    monkeypatch.setattr(Image.Image, "save", keep)
    motiondigits.make(tmp_path, 3)
    digest = hashlib.sha256()
    for name in sorted(pictures):
        digest.update(name.encode() + pictures[name])
    assert digest.hexdigest() == "d49dcbd95fc5933ae711b0ea9cab3dccbea7ac4579d04b7d9d9cf7330a5ead09"


@pytest.mark.parametrize("name,fixture", [("MotionDigits", "digits"), ("AppearanceDigits", "twin")])
def test_counts_and_layout(name, fixture, request):
    path, spec = request.getfixturevalue(fixture), DATASETS[name]
    rows = read_split(spec, path)
    for split, wanted in (("train", 540), ("test", 420)):
        labels = [label for _, label, where in rows if where == split]
        assert len(labels) == wanted and set(np.bincount(labels)) == {wanted // 10}
    for clip, label, split in rows:
        assert clip.startswith(f"v_{spec.classes[label]}_g") and (int(clip[-6:-4]) <= 7) == (split == "test")
    (path / spec.folder / spec.split).rename(path / "aside.csv")
    try:
        assert read_split(spec, path) == rows       # UCF101's rule, from the folder names
    finally:
        (path / "aside.csv").rename(path / spec.folder / spec.split)


@pytest.mark.parametrize("name,train,test", [("MotionDigits", 270, 210), ("AppearanceDigits", 540, 420)])
def test_train_and_test_show_different_handwriting(name, train, test, monkeypatch, tmp_path):
    scans = []

    def number(sample, way, rng):    # instead of a picture of the sample, its number as a colour that survives JPEG
        if sample.tobytes() not in scans:
            scans.append(sample.tobytes())
        index = scans.index(sample.tobytes())
        return np.full((1, 16, 16, 3), [index // 64 * 16 + 8, index // 8 % 8 * 16 + 8, index % 8 * 16 + 8], np.uint8)

    monkeypatch.setattr(motiondigits, "render", number)
    folder = motiondigits.make(tmp_path, name=name)
    used = {"train": set(), "test": set()}
    with open(folder / DATASETS[name].split, newline="") as file:
        for row in csv.DictReader(file):
            with Image.open(folder / "jpegs_32" / row["folder_name"] / "frame000001.jpg") as image:
                red, green, blue = np.asarray(image)[8, 8].astype(int) // 16
            used[row["split"]].add(red * 64 + green * 8 + blue)
    assert len(used["train"]) == train and len(used["test"]) == test and not used["train"] & used["test"]


def heights(frames):
    """Angle of the digit's middle on the circle of rows, of (..., C, H, W) frames."""
    rows = frames.astype(float).mean((-3, -1))
    rows -= np.median(rows, -1, keepdims=True)
    return np.angle((rows * np.exp(2j * np.pi * np.arange(rows.shape[-1]) / rows.shape[-1])).sum(-1))


@pytest.mark.parametrize("t", [0, 5])
def test_one_frame_does_not_tell_the_direction(digit_data, t):
    ups, downs = ([], [])
    for clips in (digit_data.train, digit_data.test):
        height = heights(uint8(clips, range(len(clips)))[:, t].numpy())
        ups.extend(height[clips.labels % 2 == 0])
        downs.extend(height[clips.labels % 2 == 1])
    assert len(ups) == len(downs) == 480
    points = np.sort(ups + downs)
    gap = np.searchsorted(np.sort(ups), points) - np.searchsorted(np.sort(downs), points)
    assert abs(gap).max() / 480 < 1.63 * (2 / 480) ** 0.5       # Kolmogorov-Smirnov, 1 %
    assert np.histogram(points, 4, (-np.pi, np.pi))[0].min() > 200      # spread over all of the height


def test_the_clip_shows_the_direction(digit_data):
    clips = uint8(digit_data.test, range(420)).numpy().astype(float).mean(2)
    clips -= clips.mean((2, 3), keepdims=True)
    fits = [(np.roll(clips[:, :-1], shift, 2) * clips[:, 1:]).sum((1, 2, 3)) for shift in range(-6, 7)]
    moved = np.argmax(fits, 0) - 6      # rows a frame, downwards
    right = np.where(digit_data.test.labels.numpy() % 2 == 0, moved < 0, moved > 0)     # classes: Up, Down, Up, ...
    assert all(name.endswith(("Up", "Down")[i % 2]) for i, name in enumerate(digit_data.spec.classes))
    assert right.mean() > 0.98 and (abs(moved) >= 2).all() and (abs(moved) <= 4).all()


def test_only_the_movement_differs():
    scan = np.random.default_rng(1).integers(0, 17, (8, 8)).astype(float)
    up, down = (motiondigits.render(scan, way, np.random.default_rng(0)) for way in ("Up", "Down"))
    assert up.shape == (12, 32, 32, 3) and up.dtype == np.uint8
    assert (up[0] == down[0]).all() and all(abs(up[t].astype(int) - down[t]).max() > 50 for t in range(1, 12))


@pytest.fixture(scope="module")
def twin_clips(twin):
    """Of the training and the test clips of AppearanceDigits: grey frames (N, T, H, W), the steps (N, 2) in rows and
    columns that they move by, and labels."""
    data, found = get_dataset("AppearanceDigits", twin), []
    for clips in (data.train, data.test):
        frames = uint8(clips, range(len(clips))).numpy().astype(float).mean(2)
        waves = np.fft.fft2(frames - frames.mean((2, 3), keepdims=True))
        fits = np.fft.ifft2(waves[:, 7:] * waves[:, :1].conj()).real.sum(1)     # of 7 steps, with wrap-around
        steps = np.stack(np.unravel_index(fits.reshape(len(fits), -1).argmax(1), fits.shape[1:]), 1)
        found.append((frames, ((steps + 16) % 32 - 16) / 7, clips.labels.numpy()))
    return found


def nearest(train, test):
    """Share of the test clips whose nearest training clip by a feature (N, D) has their label."""
    (features, labels), (others, wanted) = train, test
    return (labels[((others[:, None] - features) ** 2).sum(2).argmin(1)] == wanted).mean()


def test_the_twin_moves_in_any_direction_whatever_the_digit(twin_clips):
    steps, labels = (np.concatenate(both) for both in zip(*(found[1:] for found in twin_clips), strict=True))
    speeds, angles = np.linalg.norm(steps, axis=1), np.arctan2(*steps.T)
    assert ((speeds > 0.1) & (speeds < 0.75)).mean() > 0.98
    for k in range(10):
        assert np.histogram(angles[labels == k], 4, (-np.pi, np.pi))[0].min() >= 10     # of 96
    assert nearest(*((found[1], found[2]) for found in twin_clips)) < 0.2     # ten classes


def test_one_frame_of_the_twin_tells_its_digit(twin_clips):
    shapes = []     # which no movement with wrap-around changes
    for frames, _, labels in twin_clips:
        shape = abs(np.fft.fft2(frames[:, 3]))[:, :9].reshape(len(frames), -1)[:, 1:]
        shapes.append((shape / np.linalg.norm(shape, axis=1, keepdims=True), labels))
    assert nearest(*shapes) > 0.5


def test_the_command_writes_the_twin(few, tmp_path, run_here):
    words = "extract_frames/make_motiondigits.py", "--dataset", "AppearanceDigits", "--data_path", tmp_path, "--seed", 3
    assert run_here(*words).out.splitlines() == [str(tmp_path / "AppearanceDigits")]
    assert contents(tmp_path / "AppearanceDigits") == contents(
        motiondigits.make(tmp_path / "again", 3, "AppearanceDigits"))


def test_a_killed_writer_leaves_no_half_data_set(few, tmp_path, monkeypatch):
    whole = contents(motiondigits.make(tmp_path / "whole"))
    write, calls = motiondigits.render, []

    def render(*args):
        calls.append(1)
        return hang(tmp_path / "marker") if len(calls) == 20 else write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(motiondigits, "render", render)
        killed_at(tmp_path / "marker", motiondigits.make, tmp_path / "data")
    assert [name.startswith(".MotionDigits.tmp-") for name in visible(tmp_path / "data")] == [True]
    assert contents(motiondigits.make(tmp_path / "data")) == whole
    assert visible(tmp_path / "data") == ["MotionDigits"]


def test_two_writers_at_once(few, tmp_path, monkeypatch):
    barrier, log, write = multiprocessing.get_context("fork").Barrier(2), tmp_path / "log", motiondigits.render

    def render(*args):
        with open(log, "a") as file:
            file.write(".")
        return write(*args)

    def make():
        barrier.wait(30)
        motiondigits.make(tmp_path / "data")

    monkeypatch.setattr(motiondigits, "render", render)
    writers = [fork(make) for _ in range(2)]
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert len(log.read_text()) == 40 and visible(tmp_path / "data") == ["MotionDigits"]     # written once
    assert contents(tmp_path / "data" / "MotionDigits") == contents(motiondigits.make(tmp_path / "alone"))


def test_a_full_disk_while_writing(few, tmp_path, monkeypatch):
    calls, save = [], Image.Image.save

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="no space left .*MotionDigits.*--data_path"):
        motiondigits.make(tmp_path)
    assert visible(tmp_path) == []
