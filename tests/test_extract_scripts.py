"""The scripts of extract_frames/, run as a user runs them, on the layouts in which data sets come."""
import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import ROOT
from distill_utils.dataset import FrameFolder, get_spec
from test_extract import CODECS, encode, film, images, numbers, picture, result
from test_files import wait_for

ODD = ["a b", "it's", 'say "hi"', "x; touch pwned", "$(touch pwned)", "-rf", "100%d", "a:b", "film é 映", "#1&2|3*?"]


def test_odd_names_and_ctrl_c(tmp_path, run_here, monkeypatch):
    """Own videos with names of all kinds; a first run is stopped by Ctrl-C, the second goes on."""
    source, target = tmp_path / "videos", tmp_path / "out"
    for i, name in enumerate(ODD):
        film(source / f"class {i % 2}" / f"{name}{sorted(CODECS)[i % 5]}", 20 + i)
    slow = encode(source / "slow" / "00.mp4", [picture(0, (320, 240))] * 150, preset="ultrafast").read_bytes()
    for i in range(30):     # time to be stopped in
        (source / "slow" / f"{i:02d}.mp4").write_bytes(slow)
    (source / "slow" / "._00.mp4").write_text("what macOS leaves")
    film(source / "no class.mp4", 1)
    script = ["extract_frames/extract_folder.py", "--source", "videos", "--target", "out", "--num_workers", 1]
    process = subprocess.Popen([sys.executable, ROOT / script[0], *map(str, script[1:])], cwd=tmp_path, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                               # a shell that runs the tests in the background has them ignore it
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for(target / "frames" / "slow_00")
    os.killpg(process.pid, signal.SIGINT)       # as a terminal does: all processes at once
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped. Clips that are done stay" in err and "Traceback" not in err
    before = os.listdir(target / "frames")
    assert 11 <= len(before) < 40 and not any(name.startswith(".") for name in before) and "RESULT" not in out
    assert all(len(os.listdir(target / "frames" / name)) == 150 for name in before if name.startswith("slow"))

    for video in sorted((source / "slow").glob("[0-9]*.mp4"))[5:]:
        if f"slow_{video.stem}" not in before:
            film(video, 17)     # no need to wait for those
    monkeypatch.chdir(tmp_path)
    done = result(run_here(*script).out)
    assert (done["made"], done["present"], done["broken"]) == (40 - len(before), len(before), 1)
    for i, name in enumerate(ODD):
        assert numbers(target / "frames" / f"class {i % 2}_{name}") == list(range(20 + i))
    assert not list(tmp_path.rglob("pwned"))
    assert (target / "broken_videos.txt").read_text().startswith("no class.mp4\tits place and name do not say")
    with open(target / "split.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["folder_name"] for row in rows} == set(os.listdir(target / "frames"))
    assert all(row["folder_name"].startswith(row["label"] + "_") for row in rows)
    tests = [row["label"] for row in rows if row["split"] == "test"]
    assert {label: tests.count(label) for label in tests} == {"class 0": 1, "class 1": 1, "slow": 6}


@pytest.fixture
def script(run_here):
    """Runs a script of extract_frames/: script(name, source, data path, flag, ...) -> its result."""
    def call(name, source, path, *flags):
        return result(run_here(f"extract_frames/{name}", "--source", source, "--data_path", path, "--num_workers", 1,
                               *flags).out)
    return call


def clips(root):
    return sorted(str(file.parent.relative_to(root)) for file in root.rglob("frame000001.jpg"))


def test_ucf101_as_its_archive_unpacks(tmp_path, script):
    for label in ("YoYo", "HandStandPushups"):
        film(tmp_path / "UCF-101" / label / f"v_{label}_g01_c01.avi", 20)
    done = script("extract_ucf101.py", tmp_path / "UCF-101", tmp_path)
    assert done["made"] == 2 and done["short"] == done["broken"] == 0
    assert clips(tmp_path) == ["UCF101/jpegs_112/v_HandStandPushups_g01_c01", "UCF101/jpegs_112/v_YoYo_g01_c01"]
    assert images(tmp_path / clips(tmp_path)[0]).shape == (20, 112, 112, 3)
    assert numbers(tmp_path / clips(tmp_path)[0]) == list(range(20))


def test_hmdb51_with_its_names(tmp_path, script):
    name = "#437_How_To_Ride_A_Bike_(x)_[y];_ride_bike_f_cm_np1_ri_med_1"
    film(tmp_path / "hmdb51_org" / "ride_bike" / f"{name}.avi", 9)
    done = script("extract_hmdb51.py", tmp_path / "hmdb51_org", tmp_path, "--im_size", 64, "--quality", 80)
    assert done["made"] == done["short"] == 1
    assert (tmp_path / "HMDB51" / "short_videos.txt").read_text() == f"ride_bike/{name}.avi\t9 frames, 16 wanted\n"
    assert clips(tmp_path) == [f"HMDB51/jpegs_112/{name}"] and images(tmp_path / clips(tmp_path)[0]).shape[1] == 64


@pytest.mark.parametrize("dataset, folder, frames, wanted", [
    ("Kinetics400", "Kinetics", 8, [11, 13, 16, 18, 21, 23, 26, 28]),      # 10 frames a second: 1.0 s to 3.0 s
    ("Kinetics400_long", "Kinetics_long", 16, [10, 11, 13, 14, 15, 16, 18, 19, 20, 21, 23, 24, 25, 26, 28, 29])])
def test_kinetics_around_the_middle(tmp_path, script, dataset, folder, frames, wanted):
    source = tmp_path / "k400"
    film(source / "train" / "playing cards" / "-_0aB3dEfGh_000010_000020.mp4")
    film(source / "train" / "_1_2_3_4_5__7_17.mp4", 3)      # flat, seconds as other downloaders write them
    film(source / "val" / "abcdefghijk_000000_000010.mkv")
    film(source / "train" / "no clip.mp4")
    film(source / "replacement" / "replacement_for_corrupted_k400" / "AbCdEfGhIjK_000100_000110.mp4")
    done = script("extract_k400.py", source, tmp_path, "--dataset", dataset)
    assert {key: done[key] for key in ("made", "short", "broken")} == {"made": 4, "short": 1, "broken": 1}
    long = ["replacement/AbCdEfGhIjK_000100_000110", "train/-_0aB3dEfGh_000010_000020", "val/abcdefghijk_000000_000010"]
    assert clips(tmp_path / folder) == sorted([*long, "train/_1_2_3_4_5__000007_000017"])
    for clip in long:
        assert numbers(tmp_path / folder / clip) == list(wanted)
    short = numbers(tmp_path / folder / "train" / "_1_2_3_4_5__000007_000017")
    assert len(short) == frames and short == sorted(short) and set(short) == {0, 1, 2}
    assert images(tmp_path / folder / long[0]).shape[1] == {8: 64, 16: 112}[frames]
    assert (tmp_path / folder / "broken_videos.txt").read_text().startswith("train/no clip.mp4\tits place and name")
    spec = replace(get_spec(dataset), images=("train",))        # a short video is read like any other
    rows = [(clip.split("/")[1], 0, "train") for clip in clips(tmp_path / folder) if clip.startswith("train")]
    read = FrameFolder(spec, tmp_path, "train", rows=rows)
    assert sorted(read.names) == sorted(name for name, *_ in rows) and set(read.counts) == {frames}
    again = script("extract_k400.py", source, tmp_path, "--dataset", dataset)
    assert {key: again[key] for key in ("made", "present", "short")} == {"made": 0, "present": 4, "short": 1}


def test_kinetics_clips_last_the_same_time_at_any_frame_rate(tmp_path, script):
    for fps in (5, 10, 20):
        encode(tmp_path / "k400" / "train" / f"abcdefgh_{fps:02d}_0_4.mp4",
               [picture(i * 20 // fps // 4) for i in range(4 * fps)], fps)      # shows the time in fifths of a second
    script("extract_k400.py", tmp_path / "k400", tmp_path, "--seconds", 3.2)
    for fps in (5, 10, 20):
        shown = numbers(tmp_path / "Kinetics" / "train" / f"abcdefgh_{fps:02d}_000000_000004")
        assert shown == [3, 5, 7, 9, 11, 13, 15, 17]      # 2.0 s - 1.6 s + 0.2 s and so on, 0.4 s apart


def test_kinetics_by_a_stride_goes_on_as_it_began(tmp_path, script):
    source = tmp_path / "k400"
    film(source / "train" / "abcdefghijk_0_10.mp4")
    script("extract_k400.py", source, tmp_path, "--stride", 4)
    assert numbers(tmp_path / "Kinetics" / "train" / "abcdefghijk_000000_000010") == list(range(5, 34, 4))
    film(source / "train" / "abcdefghijk_10_20.mp4")
    with pytest.raises(SystemExit):
        script("extract_k400.py", source, tmp_path)
    assert script("extract_k400.py", source, tmp_path, "--stride", 4)["present"] == 1


def test_kinetics_reads_its_folders_and_names_the_others(tmp_path, run_here):
    source = tmp_path / "k400"
    for name in ("train/abcdefghijk_0_10.mp4", "extra/abcdefghijk_0_10.mp4", "abcdefghijk_0_10.mp4"):
        film(source / name, 8)
    (source / "test").mkdir()
    said = run_here("extract_frames/extract_k400.py", "--source", source, "--data_path", tmp_path, "--num_workers", 1)
    assert "passed over: folders not read: extra\n" in said.err and result(said.out)["made"] == 1
    assert (tmp_path / "Kinetics" / "broken_videos.txt").read_text().startswith("abcdefghijk_0_10.mp4\tits place")


def test_ssv2_straight_from_webm(tmp_path, script):
    for number in (7, 220847):
        film(tmp_path / "20bn-something-something-v2" / f"{number}.webm", 40)
    assert script("extract_sthsth.py", tmp_path / "20bn-something-something-v2", tmp_path)["made"] == 2
    assert clips(tmp_path) == ["SSv2/frame/220847", "SSv2/frame/7"]
    for clip in clips(tmp_path):
        assert numbers(tmp_path / clip) == list(range(2, 40, 5)) and images(tmp_path / clip).shape[1] == 64


@pytest.mark.parametrize("name, message", [
    ("extract_ucf101", "no video below .*unpack the archives there so that it holds <Class>/v_<Class>_g01_c01.avi"),
    ("extract_k400", "holds none of the folders train, val, test, replacement, but .'other'.*--source")])
def test_a_wrong_source(tmp_path, monkeypatch, name, message):
    (tmp_path / "other").mkdir()
    monkeypatch.syspath_prepend(ROOT / "extract_frames")
    monkeypatch.setattr(sys, "argv", [name, "--source", str(tmp_path), "--data_path", str(tmp_path / "data")])
    with pytest.raises(ValueError, match=message):
        __import__(name).main()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("train, test", [
    ("train", "test"), ("train", "val"), ("Train", "Test"), ("TRAINING", "testing"), ("train", "validation"),
    ("training", "valid")])
def test_folders_that_say_the_split(tmp_path, run_here, train, test):
    for split, label, first in ((train, "up", 0), (train, "down", 1), (test, "up", 2), (test, "down", 3)):
        film(tmp_path / "videos" / split / label / "0.mp4", 3, first)      # one name in both
    words = ["extract_frames/extract_folder.py", "--source", tmp_path / "videos", "--target", tmp_path / "out",
             "--num_workers", 1]
    run_here(*words)
    assert (tmp_path / "out" / "split.csv").read_text().splitlines() == [
        "folder_name,label,split", *sorted([f"{test}_down_0,down,test", f"{test}_up_0,up,test",
                                            f"{train}_down_0,down,train", f"{train}_up_0,up,train"])]
    mine = f"folder_name,label,split\n{train}_up_0,up,train\n{test}_up_0,up,test\n"
    (tmp_path / "out" / "split.csv").write_text(mine)
    said = run_here(*words).err
    assert (tmp_path / "out" / "split.csv").read_text() == mine
    assert "2 clips are not in" in said      # of videos that came later, or were mended


def test_validation_beside_test(tmp_path, run_here):
    for split in ("train", "Val", "test"):
        for label in ("up", "down "):
            film(tmp_path / "videos" / split / label / "0.mp4", 3)
    words = ["extract_frames/extract_folder.py", "--source", tmp_path / "videos", "--target", tmp_path / "out",
             "--num_workers", 1]
    for _ in range(2):
        said = run_here(*words)
        assert "note: 2 videos in Val are neither for training nor for testing, because there are test" in said.err
        assert "note: the labels of the class folders ['down '] are without the blanks" in said.err
        assert "clips are not in" not in said.err
    assert len(os.listdir(tmp_path / "out" / "frames")) == 6
    assert (tmp_path / "out" / "split.csv").read_text().splitlines()[1:] == [
        "test_down _0,down,test", "test_up_0,up,test", "train_down _0,down,train", "train_up_0,up,train"]


@pytest.fixture
def sort_videos(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "extract_frames")
    module = __import__("extract_folder")
    return lambda *names: {str(video): row for video, row in module.sort_videos(
        [Path(name) for name in sorted(names)], ".", 5).items()}


def test_folders_named_train_and_test_may_be_classes(sort_videos):
    rows = sort_videos("train/0.mp4", "test/0.mp4", "bus/0.mp4")
    assert rows["train/0.mp4"] == ("train_0", "train", "test")
    rows = sort_videos("train/up/0.mp4", "test/up/0.mp4", "x.mp4", "other/up/0.mp4", "train/0.mp4", "train/up/x/0.mp4")
    assert [name for name, row in rows.items() if row[0]] == ["test/up/0.mp4", "train/up/0.mp4"]


def test_copies_of_a_clip_share_a_line(sort_videos):
    rows = sort_videos("a/0.mp4", "a/0.webm", "a/1.mp4", "a_b/c.mp4", "a/b_c.mp4")
    assert rows["a/0.mp4"] == rows["a/0.webm"] == ("a_0", "a", "test") and rows["a/1.mp4"] == ("a_1", "a", "train")
    assert len(set(rows.values())) == 3         # a_b/c and a/b_c would be one clip: the first is


@pytest.mark.parametrize("names", [("a", "a "), ("a", "A"), ("caf\u00e9", "cafe\u0301")])
def test_classes_of_almost_one_name_are_refused(sort_videos, names):
    both = ", ".join(map(ascii, sorted(names))).replace("\\", r"\\")
    with pytest.raises(ValueError, match=f"the class folders {both} in . differ only by case, blanks"):
        sort_videos(*(f"{name}/{i}.mp4" for i, name in enumerate(names)))
    with pytest.raises(ValueError, match="the class folders"):
        sort_videos(f"train/{names[0]}/0.mp4", f"test/{names[1]}/0.mp4")


@pytest.mark.parametrize("names, folders", [(("train/up/0.mp4", "x.mp4"), r"\['train'\]"),
    (("learn/up/0.mp4", "exam/up/0.mp4"), r"\['exam', 'learn'\]"), (("0.mp4",), r"\[\]")])
def test_another_layout_is_named(sort_videos, names, folders):
    with pytest.raises(ValueError, match=rf"lies as <class>/<video>, or train/.*the folders with videos are {folders}"):
        sort_videos(*names)
