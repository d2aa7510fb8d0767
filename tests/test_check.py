"""`python -m distill_utils.check`: what it says of a data set that is whole, and of each way in which one is not."""
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from conftest import ROOT
from distill_utils import check
from distill_utils.dataset import DATASETS, DataError
from test_datasets import command, damage, jpeg, write_kinetics, write_mnist, write_own, write_ssv2
from utils import get_dataset


def test_check_of_a_whole_set(digits, monkeypatch, capsys):
    monkeypatch.setattr(check, "decode", None)      # it reads, and decodes nothing
    status, last, shown = command("check", "MotionDigits", "--data_path", digits, monkeypatch=monkeypatch,
                                  capsys=capsys)
    assert (status, last) == (0, "READY: MotionDigits has 540 training and 420 test clips of 10 classes.")
    assert "train: 540 clips, 54 to 54 a class (official: 540)" in shown and "32x32 (11520)" in shown
    assert "split: motiondigits_splits1.csv" in shown and "GB free" in shown


@pytest.mark.parametrize("kind, said, verdict", [
    ("missing", "jump 1: no folder", "lacks 1 clips: extract them, or train on 7 training and 2 test clips"),
    ("empty", "jump 1: .*holds no frame", "lacks 1 clips"), ("gap", "jump 1: .*frame 4 is missing", "lacks 1 clips"),
    ("unreadable", "jump 1: cannot read the frame .*frame000004.png", "1 clips with unreadable frames: remove")])
def test_check_names_what_is_wrong(tmp_path, monkeypatch, capsys, kind, said, verdict):
    own = write_own(tmp_path / "mine")
    damage(own, kind)
    args = ("check", own, "--data_path", tmp_path, "--im_size", 14)
    status, last, shown = command(*args, monkeypatch=monkeypatch, capsys=capsys)
    assert status == 1 and last.startswith("NOT READY: ") and verdict in last and re.search(said, shown)
    status, last, shown = command(*args, "--skip_missing", monkeypatch=monkeypatch, capsys=capsys)
    assert status == (kind == "unreadable")
    if kind != "unreadable":
        assert last == (f"READY: {own} has 7 training and 2 test clips of 2 classes; --skip_missing leaves out 1.")
        assert len(get_dataset(str(own), tmp_path, im_size=14, skip_missing=True).train) == 7
        with pytest.raises(DataError, match="--skip_missing"):
            get_dataset(str(own), tmp_path, im_size=14)


def test_check_decodes_when_asked(tmp_path, monkeypatch, capsys):
    own = write_own(tmp_path / "mine")
    file = own / "jump 1" / "frame000004.jpg"
    whole = jpeg(size=(24, 18))
    middle = whole.find(b"\xff\xda") + 14
    (own / "jump 1" / "frame000004.png").unlink()
    file.write_bytes(whole[:middle] + whole[-2:])       # all of its pixels are lost
    args = ("check", own, "--data_path", tmp_path, "--im_size", 14)
    assert command(*args, monkeypatch=monkeypatch, capsys=capsys)[0] == 0
    status, last, shown = command(*args, "--decode", monkeypatch=monkeypatch, capsys=capsys)
    assert status == 1 and "1 clips with unreadable frames" in last
    assert re.search("jump 1: cannot read the frame .*frame000004.jpg .Corrupt JPEG data", shown)
    status, _, shown = command("split", "UCF101", "--decode", monkeypatch=monkeypatch, capsys=capsys)
    assert status == 2 and "--decode says how check reads the frames" in shown


def passed_over(*args, monkeypatch, capsys):
    """The line before the last of a check."""
    lines = command("check", *args, monkeypatch=monkeypatch, capsys=capsys)[2].strip().splitlines()
    assert sum(line.startswith("passed over: ") for line in lines) == 1
    return lines[-2]


@pytest.mark.parametrize("below", ["", "frames"])
def test_check_says_what_it_passed_over(tmp_path, monkeypatch, capsys, below):
    own = write_own(tmp_path / "mine", below)
    args = (own, "--data_path", tmp_path, "--im_size", 14)
    assert passed_over(*args, monkeypatch=monkeypatch, capsys=capsys) == "passed over: nothing"
    for name in (".DS_Store", "settings_frames.json", "broken_videos.txt"):
        (own / name).touch()
    assert passed_over(*args, monkeypatch=monkeypatch, capsys=capsys) == "passed over: nothing"
    clip = own / below / "jump 1"
    for name in ("flow_x_1.jpg", "flow_x_2.jpg", "sound.MP3", "notes"):
        (clip / name).touch()
    (own / below / "jump 2" / "frame000004.png").unlink()
    (own / "a.mpg").touch()
    (own / "a.mpg.csv").touch()
    (own / below / "jump 9").mkdir()
    for i in range(6):
        (own / f"videos{i}").mkdir()
        (own / f"videos{i}" / "not_counted.txt").touch()
    unread = [f"videos{i}" for i in range(6)]
    unread.insert(6 if below else 0, os.path.join(below, "jump 9"))
    said = "passed over: 6 other files (.jpg 2, without ending 1, .csv 1, .mp3 1, .mpg 1); folders not read: "
    assert passed_over(*args, monkeypatch=monkeypatch, capsys=capsys) == (
        said + ", ".join(unread[:5]) + " and 2 more (--list)")
    assert passed_over(*args, "--list", monkeypatch=monkeypatch, capsys=capsys) == said + ", ".join(unread)


def test_check_passes_over_the_clips_of_other_classes(tmp_path, monkeypatch, capsys):
    write_kinetics(tmp_path)
    for name in ("validation.csv", "x.txt"):
        (tmp_path / "Kinetics" / name).touch()
    (tmp_path / "Kinetics" / "train" / "-tr_0000003_000003_000013" / "03.txt").touch()
    args = ("Kinetics400", "--data_path", tmp_path, "--frames", 2)
    assert passed_over(*args, monkeypatch=monkeypatch, capsys=capsys) == "passed over: 2 other files (.txt 2)"
    assert passed_over(*args, "--classes", "zumba,archery", monkeypatch=monkeypatch, capsys=capsys) == (
        "passed over: 1 other files (.txt 1); folders not read: "
        + ", ".join(f"train/-tr_{k:07d}_{k:06d}_{k + 10:06d}" for k in range(5)) + " and 791 more (--list)")


def test_check_says_that_clips_hold_more_frames(tmp_path, monkeypatch, capsys):
    write_ssv2(tmp_path)
    _, last, shown = command("check", "SSv2", "--data_path", tmp_path, "--frames", 2, monkeypatch=monkeypatch,
                             capsys=capsys)
    assert "READY: SSv2 has 174 training and 174 test clips" in last
    assert "note: 348 clips of SSv2 hold more than 2 frames: 2 are taken, spread evenly" in shown
    data = get_dataset("SSv2", tmp_path, frames=2, im_size=8)
    assert len(data.train.frames) == 2 * 174 and "note: 348 clips" in capsys.readouterr().err


def test_check_shows_the_first_clips_and_all_with_list(tmp_path, monkeypatch, capsys):
    write_kinetics(tmp_path)
    for clip in sorted((tmp_path / "Kinetics" / "val").iterdir())[:9]:
        (clip / "01.jpg").unlink()
    args = ("check", "Kinetics400", "--data_path", tmp_path, "--frames", 2)
    status, last, shown = command(*args, monkeypatch=monkeypatch, capsys=capsys)
    assert status == 1 and "first abseiling (test)" in last and "lacks 9 classes" in last
    assert shown.count("has 1 frames where clips have 2") == 5 and "... and 4 more (--list)" in shown
    assert "test clips that are missing or not whole: 9" in shown and "8x8 (" in shown
    assert "smaller than 64 pixels" in shown
    shown = command(*args, "--list", monkeypatch=monkeypatch, capsys=capsys)[2]
    assert shown.count("has 1 frames where clips have 2") == 9 and "zumba" in shown and "more (--list)" not in shown


def test_an_extraction_that_is_half_done_is_not_ready(tmp_path, monkeypatch, capsys):
    """Without lists the clips are those that are there: their number says that others are missing."""
    for label in DATASETS["miniUCF101"].classes:
        for group in (1, 8):
            clip = tmp_path / "UCF101" / "jpegs_112" / f"v_{label}_g{group:02d}_c01"
            clip.mkdir(parents=True)
            Image.new("RGB", (112, 112)).save(clip / "frame000001.jpg")
    args = ("check", "miniUCF101", "--data_path", tmp_path)
    status, last, shown = command(*args, monkeypatch=monkeypatch, capsys=capsys)
    assert status == 1 and last.startswith("NOT READY: miniUCF101 has 50 training and 50 test clips where the official "
                                           "split has 4662 and 1861")
    assert "clips shorter than 16 frames (theirs will repeat): 50" in shown and "_c01: 1 frames" in shown
    status, last, _ = command(*args, "--skip_missing", monkeypatch=monkeypatch, capsys=capsys)
    assert (status, last) == (0, "READY: miniUCF101 has 50 training and 50 test clips of 50 classes.")
    status, last, shown = command("split", *args[1:], monkeypatch=monkeypatch, capsys=capsys)
    assert status == 0 and "write it again then" in shown


def test_what_check_does_not_take(tmp_path, monkeypatch, capsys):
    for flags in (("--train", "all"), ("--dataset", "UCF101")):
        status, _, shown = command("check", "HMDB51", *flags, monkeypatch=monkeypatch, capsys=capsys)
        assert status == 2 and flags[0] in shown


def test_check_without_data_says_where_it_looked(tmp_path, monkeypatch, capsys):
    for name, message in (("UCF101", "no frame folders at"), ("MNIST", "download=True")):
        status, last, _ = command("check", name, "--data_path", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
        assert status == 1 and last.startswith("NOT READY: ") and message in last


def test_check_of_images(tmp_path, monkeypatch, capsys):
    write_mnist(tmp_path)
    status, last, _ = command("check", "MNIST", "--data_path", tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert (status, last) == (0, "READY: MNIST has 20 training and 20 test clips of 10 classes.")


def test_the_command_as_a_user_runs_it(tmp_path):
    done = subprocess.run([sys.executable, "-m", "distill_utils.dataset", "check", "UCF102"], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 1 and done.stdout.startswith("NOT READY: unknown --dataset 'UCF102'")
