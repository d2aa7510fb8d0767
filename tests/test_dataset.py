"""The table of data sets, split files, and which frames make a clip, against naive oracles and with bad input."""
import os
import random
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import uint8
from distill_utils.dataset import (
    DATASETS,
    DataError,
    FrameFolder,
    Spec,
    clip_positions,
    get_spec,
    grid_frames,
    in_order,
    read_csv,
    read_folders,
    read_split,
)
from distill_utils.extract import choose_frames
from distill_utils.splits import comparable, read_table
from utils import get_dataset

SPEC = Spec("Set", "set.csv", ("Up", "Down", "HandstandPushups"), frames=4, stride=2, size=8, clips={1: (6, 6)},
            images=("img",))
IMAGES = {"MNIST", "FashionMNIST", "SVHN", "CIFAR10", "CIFAR100", "TinyImageNet", "ImageNet"}
CLIPS = {f"{label}_{split}_{i}": (label, split) for split in ("test", "train")
         for label in ("HandStandPushups", "Down", "Up") for i in range(2)}     # UCF101's spelling in file names


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def write_clip(folder, numbers, clip=0, name="frame{}.png", size=(8, 8)):
    """Frames that say their number (red), column (green) and clip (blue), made in shuffled order."""
    folder.mkdir(parents=True)
    for number in random.Random(0).sample(list(numbers), len(numbers)):
        image = np.zeros((*size, 3), np.uint8)
        image[..., 0], image[..., 1], image[..., 2] = number, np.arange(size[1]), clip
        Image.fromarray(image).save(folder / name.format(number), "PNG")


def write_split(path, rows, header="folder_name,label,split"):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")


def make_tree(path, frames=10, clips=CLIPS):
    """SPEC's frame folders and split file; the blue of a clip is its number in CLIPS, its frames count from 1."""
    for number, name in enumerate(clips):
        write_clip(path / "Set" / "img" / name, range(1, frames + 1), number)
    write_split(path / "Set" / "set.csv", [(name, label, split) for name, (label, split) in clips.items()])
    return path


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path)


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    """miniUCF101 with one clip in groups g07 and g08 of each class, and the other UCF101 classes beside it."""
    path = tmp_path_factory.mktemp("ucf")
    for number, label in enumerate(DATASETS["UCF101"].classes):
        for group in ("g07", "g08"):
            name = f"v_{label.replace('HandstandPushups', 'HandStandPushups')}_{group}_c01"
            frames = range(1, 4 if label in DATASETS["miniUCF101"].classes else 1)
            write_clip(path / "UCF101" / "jpegs_112" / name, frames, number)
    (path / "UCF101" / "jpegs_112" / "notes.txt").touch()
    return path


# ---- which frames ---------------------------------------------------------------------------------------------------

def centre_clip(num_frames, length, stride):
    """Numbers of the frames of the test clip and its stride, by hand."""
    if num_frames < length:
        return [round(i * (num_frames - 1) / (length - 1)) for i in range(length)], 1
    while (length - 1) * stride + 1 > num_frames:
        stride -= 1
    start = (num_frames - ((length - 1) * stride + 1)) // 2
    return [start + i * stride for i in range(length)], stride


@pytest.mark.parametrize("length", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
def test_clips_against_a_naive_oracle(length, stride):
    for num_frames in range(1, 90):
        wanted, step = centre_clip(num_frames, length, stride)
        grid = grid_frames(num_frames, length, stride)
        assert grid[clip_positions([len(grid)], length)[0]].tolist() == wanted
        drawn = {tuple(clip) for clip in grid[clip_positions([len(grid)] * 1000, length, generator())].tolist()}
        if num_frames < length:
            assert drawn == {tuple(wanted)}
        else:
            starts = range(wanted[0] % step, num_frames - (length - 1) * step, step)
            assert drawn == {tuple(range(s, s + (length - 1) * step + 1, step)) for s in starts}


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 10])
def test_segments_share_out_the_frames(parts):
    for count in range(1, 40):
        drawn = [clip_positions([count] * 1500, 1, generator(i), (i, parts))[:, 0] for i in range(parts)]
        middle = [clip_positions([count], 1, segment=(i, parts)).item() for i in range(parts)]
        segments = [sorted(set(draw.tolist())) for draw in drawn]
        assert middle == [segment[(len(segment) - 1) // 2] for segment in segments]
        if parts <= count:
            assert sum(segments, []) == list(range(count))      # every frame in one segment, in order
            assert max(map(len, segments)) - min(map(len, segments)) <= 1
        else:
            assert all(len(segment) == 1 and 0 <= segment[0] < count for segment in segments)


@pytest.mark.parametrize("first", [0, 1, 7])
@pytest.mark.parametrize("name", ["frame{}.jpg", "frame{:06d}.jpg", "{}.JPEG", "clip2_{:03d}.png"])
def test_frames_go_by_number_and_not_by_name_or_directory(tree, first, name):
    write_clip(tree / "Set" / "img" / "new", range(first, first + 112), name=name)
    folder = FrameFolder(replace(SPEC, frames=112, stride=1), tree, "train")
    (tree / "Set" / "img" / "new" / "Thumbs.db").touch()
    files, problem = folder._frames(tree / "Set" / "img" / "new")
    assert not problem and list(files) == [name.format(first + i) for i in range(112)]


def names(template, numbers):
    return tuple(template.format(number) for number in numbers)


@pytest.mark.parametrize("numbers", [range(5, 51, 5), range(0, 40, 4), (7, 9, 11), (3, 4), (6,)])
def test_numbers_may_count_up_in_another_step(numbers):
    wanted = names("frame{:06d}.jpg", numbers)
    assert in_order(wanted[::-1]) == (wanted, "")


@pytest.mark.parametrize("numbers, missing", [((5, 10, 20), 15), ((1, 3, 4, 5), 2), ((1, 2, 4), 3), ((5, 10), 6),
                                              ((2, 4, 7, 9), 6)])
def test_numbers_with_uneven_gaps_are_named(numbers, missing):
    files, problem = in_order(names("{:03d}.png", numbers))
    assert problem == f"frame {missing} is missing between {files[0]} and {files[-1]}"
    assert in_order(names("{:03d}.png", numbers), gaps=True)[1] == ""


@pytest.mark.parametrize("frames", ["img_{:05d}.jpg", "image_{:05d}.png", "frame{:06d}.jpg", "Frame_{}.jpg",
                                    "rgb-{}.jpg", "{:04d}.jpg", "clip7_{:05d}.jpg"])
def test_optical_flow_beside_the_frames_is_left_alone(frames):
    wanted = names(frames, range(1, 8))
    flow = (*names("flow_x_{:05d}.jpg", range(1, 8)), *names("flow_y_{:05d}.jpg", range(1, 8)))
    others = names("{}_mask.jpg", range(8)) if "clip7" in frames else names("x_{:05d}.jpg", range(1, 8))
    assert in_order((*flow, *wanted[::-1], *others)) == (wanted, "")


def test_of_two_kinds_of_frames_none_is_chosen():
    many, few = names("img_{}.jpg", range(1, 8)), names("frame{}.jpg", range(1, 7))
    assert "have the same frame number" in in_order((*few, *many))[1]
    assert "have the same frame number" in in_order((*names("v_x_{:02d}.jpg", range(1, 17)), "1.jpg"))[1]
    assert in_order(names("x_{}.jpg", range(1, 8))) == (names("x_{}.jpg", range(1, 8)), "")    # all there is
    parts = (*names("part1_{}.jpg", range(1, 8)), *names("part2_{}.jpg", range(8, 12)))
    assert in_order(parts) == (parts, "")       # which of them are the frames nothing says: all are
    assert "holds no frame" in in_order((*names("flow_x_{}.jpg", (1, 2)), *names("flow_y_{}.jpg", (1, 2))))[1]


@pytest.mark.parametrize("stored", [8, 9, 10, 15, 16, 57])
def test_all_frames_of_a_video_are_spread_as_an_extraction_does(tree, stored):
    write_clip(tree / "Set" / "img" / "new", range(1, stored + 1))
    folder = FrameFolder(replace(SPEC, frames=8, sampled=True), tree, "train", skip_missing=None)
    files, problem = folder._frames(tree / "Set" / "img" / "new")
    assert not problem and list(files) == [f"frame{i + 1}.png" for i in choose_frames(stored, 8, "spread")]
    assert folder.spread == 6 + (stored > 8)        # make_tree's have ten frames


def test_it_is_said_that_clips_hold_more_frames(tree, capsys):
    read_folders(replace(SPEC, sampled=True), tree)
    assert capsys.readouterr().err == ("note: 12 clips of Set hold more than 4 frames: 4 are taken, spread evenly over "
                                       "those of each\n")
    read_folders(replace(SPEC, sampled=True, frames=10), tree)
    read_folders(replace(SPEC, sampled=True), tree, skip_missing=None)      # the check says it itself
    assert capsys.readouterr().err == ""


# ---- names ----------------------------------------------------------------------------------------------------------

def test_the_form_in_which_names_are_compared():
    e_acute = unicodedata.normalize("NFD", "caf\u00e9")
    for name, other in ((" a b\t", "a b"), ("HandStand", "Handstand"), (e_acute, "caf\u00e9"), ("\u00a0x", "x")):
        assert comparable(name) == comparable(other) and comparable(name, words=True) == comparable(other, words=True)
    for name, other in (("air_drumming", "air drumming"), ("massaging persons head", "massaging person's head"),
                        ("in_game", "(in game)"), ("a  b", "a b"), ("[Some]  thing", "some thing"),
                        ("l\u2019eau", "leau")):
        assert comparable(name) != comparable(other) and comparable(name, words=True) == comparable(other, words=True)
    for name, other in (("C", "C++"), ("1 1", "11"), ("a-b", "ab"), ("(", "["), ("_", "'")):
        assert comparable(name, words=True) != comparable(other, words=True)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("on_disk", [
    str.lower, lambda name: name + " ", lambda name: name.replace("Stand", "stand"),
    lambda name: unicodedata.normalize("NFD", name)], ids=["case", "blank", "one letter", "Unicode"])
def test_clips_are_found_in_another_spelling(tmp_path, nested, on_disk):
    clips = {name.replace("Down", "D\u00f6wn"): where for name, where in CLIPS.items()}
    for number, (name, (label, _)) in enumerate(clips.items()):
        write_clip(tmp_path / "Set" / "img" / (f"{label} " if nested else "") / on_disk(name), range(1, 11), number)
    for rows in (clips, {on_disk(name): where for name, where in clips.items()}):      # and the other way round
        write_split(tmp_path / "Set" / "set.csv", [(name, *where) for name, where in rows.items()])
        for folder in read_folders(SPEC, tmp_path):
            assert len(folder.names) == 6
            for name, files in zip(folder.names, folder.files, strict=True):
                assert comparable(files[0].parent.name) == comparable(name)


def test_a_folder_of_a_listed_clip_is_no_other_ones(tree):
    """Up_train_0 is not there, and up_train_0 is another clip."""
    (tree / "Set" / "img" / "Up_train_0").rename(tree / "Set" / "img" / "up_train_0")
    assert len(FrameFolder(SPEC, tree, "train").names) == 6
    write_split(tree / "Set" / "set.csv", [*ROWS, ("up_train_0", "Up", "test")])
    train, test = read_folders(SPEC, tree, skip_missing=None)
    assert train.missing == ["Up_train_0"] and "up_train_0" in test.names


def test_two_folders_that_may_be_a_clip_are_named(tree):
    images = tree / "Set" / "img"
    (images / "Up_train_0").rename(images / "up_train_0")
    write_clip(images / "UP_train_0", range(1, 11))
    with pytest.raises(DataError, match="UP_train_0 and .*up_train_0 may both be the clip 'Up_train_0'.*rename"):
        FrameFolder(SPEC, tree, "train")
    write_clip(images / "Up_train_0", range(1, 11))
    assert len(FrameFolder(SPEC, tree, "train").names) == 6


def test_a_clip_of_ucf101_in_both_spellings_is_one(tmp_path):
    images = tmp_path / "UCF101" / "jpegs_112"
    for label in DATASETS["UCF101"].classes:
        for group in ("g01", "g08"):
            (images / f"v_{label}_{group}_c01").mkdir(parents=True)
    (images / "v_HandStandPushups_g08_c01").mkdir()
    message = "'v_Hand.tandPushups_g08_c01' and 'v_Hand.tandPushups_g08_c01' are the same clip in two spellings: remove"
    with pytest.raises(DataError, match=f"split by ucf101's rule.: {message}"):
        read_split(DATASETS["UCF101"], tmp_path)
    rows = [(f"v_{label}_{group}_c01", label, split) for label in ("HandStandPushups", "HandstandPushups", "YoYo")
            for group, split in (("g08", "train"), ("g01", "test"))]
    write_split(tmp_path / "UCF101" / "ucf101_splits1.csv", rows)
    with pytest.raises(DataError, match=f"ucf101_splits1.csv: {message}"):
        read_split(DATASETS["UCF101"], tmp_path)


# ---- csv ------------------------------------------------------------------------------------------------------------

TABLE = "folder_name,label,split\nx,a,train\ny,b,test\n"


@pytest.mark.parametrize("text", [
    TABLE, TABLE.replace(",", ";"), TABLE.replace(",", "\t"), TABLE.replace("\n", "\r\n"), TABLE.replace("\n", "\r"),
    TABLE + "\n\n", TABLE + ",,\n , ,\n", "\n,,\n" + TABLE, TABLE.replace("folder_name,label", " Folder_Name ,LABEL"),
    TABLE.replace("x,a", '"x","a "'), TABLE.replace("y,b,test", " y ,\u00a0b, Test"),
    TABLE.replace("split\n", "split,\n"),
    "number,split,label,folder_name\n1,train,a,x\n2,test,b,y\n", TABLE[:-1]])
@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_csv_in_the_forms_that_programs_write(tmp_path, text, code):
    (tmp_path / "split.csv").write_bytes(text.encode(code))
    assert read_csv(tmp_path / "split.csv") == [("x", "a", "train"), ("y", "b", "test")]


@pytest.mark.parametrize("content, message", [
    (TABLE.encode("utf-16-le"), "cannot be read .it holds zeros.*save it as text in UTF-8"),
    (TABLE.replace("x", "\u00e9").encode("latin-1"), "cannot be read .*UTF-8"),
    (TABLE.replace("x,a", '"x,a').encode(), "cannot be read .unexpected end of data"),
    (b"label,label,folder_name\n", "more than one column 'label': keep one")])
def test_a_csv_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "split.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"split\.csv {message}|split\.csv has {message}"):
        read_table(tmp_path / "split.csv")


def test_a_list_that_is_no_file_is_named_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "split.csv")
    with pytest.raises(DataError, match="split.csv cannot be read .it is no regular file"):
        get_spec(str(tmp_path))


# ---- the table ------------------------------------------------------------------------------------------------------

def test_known_names_and_sizes():
    videos = {"MotionDigits", "AppearanceDigits", "GameClips", "UCF101", "miniUCF101", "HMDB51", "Kinetics400",
              "Kinetics400_long", "SSv2"}
    views = {view + name for view in ("", "single", "static") for name in videos}
    assert set(DATASETS) >= views | {"UCF50", "singleUCF50", "staticUCF50"} | IMAGES
    assert len(DATASETS["UCF101"].classes) == 101 and len(DATASETS["miniUCF101"].classes) == 50
    assert set(DATASETS["miniUCF101"].classes) < set(DATASETS["UCF101"].classes)
    assert {"ApplyEyeMakeup", "HandstandPushups", "YoYo"} < set(DATASETS["UCF101"].classes)
    assert replace(DATASETS["singleUCF50"], view="clip") == DATASETS["miniUCF101"] == DATASETS["UCF50"]
    assert DATASETS["UCF101"].clips[1] == (9537, 3783) and DATASETS["miniUCF101"].clips[1] == (4662, 1861)


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry(name):
    spec = DATASETS[name]
    view = next((view for view in ("single", "static") if name.startswith(view)), "clip")
    view = "single" if name in IMAGES else view
    assert spec.view == view and spec.num_classes == len(set(spec.classes))
    if name not in IMAGES:      # labels of split files are read in any case
        assert spec.num_classes == len({comparable(label, words=True) for label in spec.classes})
    channels = 1 if "MNIST" in name else 3
    assert len(spec.mean) == len(spec.std) == spec.channels == channels and min(spec.std) > 0
    image = (channels, spec.size, spec.size)
    assert spec.shape == (image if view == "single" else (spec.frames, *image))
    other = get_spec(name, frames=5, im_size=20)
    assert other.shape == ((channels, 20, 20) if view == "single" else (5, 3, 20, 20)) and get_spec(name) == spec


@pytest.mark.parametrize("name, shape", [
    ("miniUCF101", (2, 3, 8, 8)), ("singleUCF50", (3, 8, 8)), ("staticUCF50", (2, 3, 8, 8))])
def test_mini_ucf_split_from_the_folder_names(ucf, tmp_path, name, shape, capsys):
    data = get_dataset(name, ucf, tmp_path, frames=2, im_size=8)
    classes, table = DATASETS["miniUCF101"].classes, DATASETS["UCF101"].classes
    for clips, group in ((data.train, "g08"), (data.test, "g07")):
        assert clips.names == sorted(f"v_{label}_{group}_c01" for label in classes)
        for draw in (None, generator()):
            samples = uint8(clips, range(50), draw)
            assert samples.shape == (50, *shape)
            blue = samples.flatten(1)[:, -1]       # the number of the class in UCF101's table
            assert [classes[label] for label in clips.labels] == [table[number] for number in blue]
    assert "50 training and 50 test clips here; the official split has 4662 and 1861" in capsys.readouterr().err
    if name == "staticUCF50":
        assert (samples == samples[:, :1]).all()


def test_ucf101_spells_one_class_in_two_ways(ucf):
    rows = read_split(DATASETS["UCF101"], ucf)
    assert len(rows) == 202 and all(split == ("test" if "_g07_" in name else "train") for name, _, split in rows)
    number = DATASETS["UCF101"].classes.index("HandstandPushups")
    assert ("v_HandStandPushups_g08_c01", number, "train") in rows


def test_a_split_file_goes_before_the_folder_names(ucf):
    file = ucf / "UCF101" / DATASETS["miniUCF101"].split
    rows = [(f"v_{label}_{group}_c01", label, split) for label in DATASETS["miniUCF101"].classes
            for group, split in (("g07", "train"), ("g08", "test"))]
    try:
        write_split(file, rows)
        assert [split for _, _, split in read_split(DATASETS["miniUCF101"], ucf)] == ["train", "test"] * 50
    finally:
        file.unlink()


def test_class_numbers_come_from_the_table(tree):
    clips = {split: FrameFolder(SPEC, tree, split) for split in ("train", "test")}
    for split, folder in clips.items():
        assert folder.names == sorted(name for name, (_, where) in CLIPS.items() if where == split)
        assert folder.labels.tolist() == [0 if "Up" in name and "Hand" not in name else 1 if "Down" in name else 2
                                          for name in folder.names]
    rows = [("Up_train_0", "Up", "train"), ("Down_train_0", "Down", "train"), ("HandStandPushups_train_0",) * 2]
    rows[2] = (rows[2][0], "handstandpushups", "train")
    tests = [(name.replace("train", "test"), label, "test") for name, label, _ in rows]
    write_split(tree / "Set" / "set.csv", [*tests[::-1], *rows[1:], rows[0]])
    for split in ("train", "test"):
        folder = FrameFolder(SPEC, tree, split)
        assert dict(zip(folder.names, folder.labels.tolist(), strict=True)) == {
            f"Up_{split}_0": 0, f"Down_{split}_0": 1, f"HandStandPushups_{split}_0": 2}


# ---- bad input ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, message", [
    (("UFC101",), "unknown --dataset 'UFC101': choose one of MotionDigits, .*miniUCF101, .*or give a folder"),
    (("UCF101", 0), "--frames 0 is impossible.*at least 1"), (("UCF101", -3), "--frames -3"),
    (("UCF101", None, 0), "--im_size 0 is impossible"), (("UCF101", 16, -112), "--im_size -112"),
])
def test_impossible_specs(arguments, message):
    with pytest.raises(ValueError, match=message):
        get_spec(*arguments)


def test_a_missing_data_folder(tmp_path):
    with pytest.raises(DataError, match=r"no frame folders at .*Set/img.*frame000001\.jpg.*--data_path"):
        FrameFolder(SPEC, tmp_path, "train")


ROWS = [(name, label, split) for name, (label, split) in CLIPS.items()]


@pytest.mark.parametrize("header, rows, message", [
    ("folder,label,split", ROWS, r"must have the columns folder_name,label,split.*it has \['folder', .*mend it"),
    ("folder_name,label,split", [], "at least one clip; it has no clip"),
    ("folder_name,label,split", [*ROWS, ("Up_train_0", "Sideways", "train")], "label 'Sideways'.*of another data set"),
    ("folder_name,label,split", [*ROWS, ("more",)], "line 14 has the label '' .clip 'more'"),
    ("folder_name,label,split", [*ROWS, ("more", "Up", "val")], "'more' has the split 'val': it must be train or test"),
    ("folder_name,label,split", [*ROWS, (ROWS[3][0], "Up", "test")], f"{ROWS[3][0]!r} more than once, with other"),
    ("folder_name,label,split", [r for r in ROWS if r[1:] != ("Down", "test")],
     "1 of 3 classes have no test clip, .*'Down'.*add their clips"),
    ("folder_name,label,split", [*ROWS, ("nowhere", "Up", "train")], r"1 of 7 train .* no folder.*\['nowhere'\]"),
    *(("folder_name,label,split", [*ROWS, (name, "Up", "train")], f"{name!r} is not the name of a folder")
      for name in ("../x", "..", ".", "a/b/c", "a/..", "/etc", "Up_train_0/", "")),
    ("label,split,folder_name", [(*r[1:], r[0]) for r in ROWS] + [("Up", "train")], "'' is not the name of a folder"),
])
def test_a_split_file_that_is_wrong(tree, header, rows, message):
    write_split(tree / "Set" / "set.csv", rows, header)
    with pytest.raises(DataError, match=f"(?s){message}") as raised:
        FrameFolder(SPEC, tree, "train")
    assert "set.csv" in str(raised.value)


@pytest.mark.parametrize("name, message", [
    ("MotionDigits", "10 of 10 classes have no train clip"), ("UCF101", "split by ucf101's rule.*--dataset")])
def test_folders_of_no_class(tmp_path, name, message):
    (tmp_path / DATASETS[name].folder / DATASETS[name].images[0] / "v_Unknown_g01_c01").mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        read_split(DATASETS[name], tmp_path)


@pytest.mark.parametrize("numbers, name, message", [
    ((), "frame{}.png", "holds no frame"), ((1, 2, 4, 5), "frame{}.png", r"frame 3 is missing between frame1\.png"),
    ((9, 10, 12, 15), "frame{:03d}.png", "frame 11 is missing"), ((1, 2, 3), "frame{}.png.tmp", "holds no frame"),
])
def test_clips_without_frames_or_with_gaps(tree, numbers, name, message):
    write_clip(tree / "Set" / "img" / "Up_train_0x", numbers, name=name)
    write_split(tree / "Set" / "set.csv", [*ROWS, ("Up_train_0x", "Up", "train")])
    with pytest.raises(DataError, match=f"Up_train_0x.*{message}.*extract this clip again, or take it out of set.csv"):
        FrameFolder(SPEC, tree, "train")


@pytest.mark.parametrize("kind", ["link", "circle", "pipe", "folder"])
def test_a_frame_that_is_no_file_makes_its_clip_not_whole(tree, kind, capsys):
    frame = tree / "Set" / "img" / "Up_train_0" / "frame3.png"
    frame.unlink()
    {"link": lambda: frame.symlink_to("/nonexistent/annex/x.png"), "circle": lambda: frame.symlink_to(frame),
     "pipe": lambda: os.mkfifo(frame), "folder": frame.mkdir}[kind]()
    with pytest.raises(DataError, match="Up_train_0: frame3.png is no regular file, or a link that leads nowhere"):
        FrameFolder(SPEC, tree, "train")
    assert "Up_train_0" not in FrameFolder(SPEC, tree, "train", skip_missing=True).names
    assert "0 have no folder, 1 are not whole" in capsys.readouterr().err


def test_links_to_frames_and_clips_are_followed_and_those_to_nothing_named(tree):
    images = tree / "Set" / "img"
    (images / "Up_train_0").rename(tree / "elsewhere")
    (images / "Up_train_0").symlink_to(tree / "elsewhere")
    (images / "Up_train_1" / "frame3.png").rename(tree / "frame.png")
    (images / "Up_train_1" / "frame3.png").symlink_to(tree / "frame.png")
    assert len(FrameFolder(SPEC, tree, "train").names) == 6
    for target in (tree / "nowhere", images / "Up_train_0"):        # the second leads round in a circle
        (images / "Up_train_0").unlink()
        (images / "Up_train_0").symlink_to(target)
        assert len(FrameFolder(SPEC, tree, "train", skip_missing=True).names) == 5


def test_the_same_line_twice_a_mark_before_the_first_and_hidden_files(tree):
    write_split(tree / "Set" / "set.csv", [*ROWS, ROWS[3]])
    once = FrameFolder(SPEC, tree, "train").names
    text = (tree / "Set" / "set.csv").read_text()
    (tree / "Set" / "set.csv").write_text(text, encoding="utf-8-sig")
    clip = tree / "Set" / "img" / once[0]
    (clip / "._frame1.png").write_bytes(b"left by macOS")
    again = FrameFolder(SPEC, tree, "train")
    assert again.names == once and len(set(once)) == len(once) and all(f.name[0] != "." for f in again.files[0])
