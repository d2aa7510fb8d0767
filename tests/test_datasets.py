"""The data sets of the field from hand-made official files: split rules, classes, own folders, images."""
import csv
import importlib
import io
import json
import os
import pickle
import re
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_sets
from torchvision.models.video import R3D_18_Weights

from conftest import NET, ROOT, uint8
from distill_utils import check, images
from distill_utils.args import cli
from distill_utils.dataset import DATASETS, DataError, FrameFolder, get_spec, own_spec, read_split
from utils import get_dataset

HMDB_NAMES = ["Geena_und_die_Radschl_ge___;-)_cartwheel_f_cm_np1_ri_med_0", "UPDATED!!!!_[_NEW_]_f_0",
              "#437_#_(1)_&_'x'", "plain_u_nm_np1_fr_goo_2"]


def jpeg(value=128, size=(8, 8)):
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def write_frames(folder, numbers, value=128, name="frame{:06d}.jpg"):
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / name.format(number)).write_bytes(jpeg(value) if value != 128 else GREY)


GREY = jpeg()


def write_csv(file, rows, header):
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def rows_of(spec, path, **kwargs):
    """folder_name -> (label, split)"""
    return {name: (spec.classes[k], split) for name, k, split in read_split(spec, path, **kwargs)}


def command(*args, monkeypatch, capsys):
    """(exit status, last line, all) of `python -m distill_utils.dataset ...`."""
    monkeypatch.setattr(sys, "argv", ["dataset", *map(str, args)])
    status = 0
    try:
        check.main()
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr()
    return status, (shown.out or shown.err).strip().splitlines()[-1], shown.out + shown.err


# ---- classes --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, count, some", [
    ("UCF101", 101, {0: "ApplyEyeMakeup", 34: "HammerThrow", 35: "Hammering", 46: "JumpRope", 47: "JumpingJack",
                     100: "YoYo"}),
    ("miniUCF101", 50, {}),
    ("HMDB51", 51, {0: "brush_hair", 6: "climb_stairs", 45: "sword_exercise", 50: "wave"}),
    ("Kinetics400", 400, {0: "abseiling", 5: "archery", 399: "zumba"}),
    ("SSv2", 174, {0: "approaching something with your camera", 5: "closing something", 41: "moving something away "
                   "from the camera", 93: "pushing something from left to right", 173: "wiping something off of "
                   "something"})])
def test_official_class_numbers(name, count, some):
    classes = DATASETS[name].classes
    assert len(classes) == count and list(classes) == sorted(classes)
    assert {k: classes[k] for k in some} == some


def test_kinetics_classes_are_those_of_pretrained_networks():
    assert list(DATASETS["Kinetics400"].classes) == R3D_18_Weights.KINETICS400_V1.meta["categories"]
    assert DATASETS["Kinetics400_long"].classes == DATASETS["Kinetics400"].classes


def test_frames_and_pixels_are_those_of_the_publications():
    shapes = {"HMDB51": (16, 3, 112, 112), "Kinetics400": (8, 3, 64, 64), "Kinetics400_long": (16, 3, 112, 112),
              "SSv2": (8, 3, 64, 64), "singleHMDB51": (3, 112, 112), "singleKinetics400": (3, 64, 64),
              "singleSSv2": (3, 64, 64), "staticHMDB51": (16, 3, 112, 112), "MNIST": (1, 28, 28),
              "FashionMNIST": (1, 28, 28), "SVHN": (3, 32, 32), "CIFAR10": (3, 32, 32), "CIFAR100": (3, 32, 32),
              "TinyImageNet": (3, 64, 64), "ImageNet": (3, 128, 128)}
    assert {name: get_spec(name).shape for name in shapes} == shapes
    assert DATASETS["HMDB51"].stride == 4 and DATASETS["HMDB51"].clips[1] == (3570, 1530)


# ---- UCF101 ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    """UCF101's folders, a clip of each of the 25 groups of each class, without frames."""
    path = tmp_path_factory.mktemp("ucf")
    for label in DATASETS["UCF101"].classes:
        for group in range(1, 26):
            (path / "UCF101" / "jpegs_112" / f"v_{label}_g{group:02d}_c01").mkdir(parents=True)
    return path


@pytest.mark.parametrize("name", ["UCF101", "miniUCF101"])
@pytest.mark.parametrize("fold, groups", [(1, range(1, 8)), (2, range(8, 15)), (3, range(15, 22))])
def test_ucf_groups(ucf, name, fold, groups):
    spec = get_spec(name, fold=fold)
    rows = rows_of(spec, ucf)
    assert len(rows) == 25 * spec.num_classes
    for clip, (label, split) in rows.items():
        assert clip.startswith(f"v_{label}_g") and (split == "test") == (int(clip[-6:-4]) in groups)


def test_ucf_official_lists_go_before_the_groups(ucf):
    folder = ucf / "UCF101" / "ucfTrainTestlist"
    folder.mkdir()
    try:
        for split, group in (("train", 3), ("test", 20)):       # the opposite of what the groups say
            (folder / f"{split}list01.txt").write_text("".join(
                f"{label}/v_{label}_g{group:02d}_c01.avi" + (f" {i}" if split == "train" else "") + "\r\n"
                for i, label in enumerate(DATASETS["UCF101"].classes, 1)))
        for name, count in (("UCF101", 202), ("miniUCF101", 100)):
            rows = rows_of(get_spec(name), ucf)
            assert len(rows) == count and all((split == "test") == ("_g20_" in clip) and f"v_{label}_" in clip
                                              for clip, (label, split) in rows.items())
        assert len(rows_of(get_spec("UCF101", fold=2), ucf)) == 25 * 101     # its lists are not there
        (folder / "trainlist02.txt").write_text("YoYo/v_YoYo_g20_c01.avi 1\n")
        with pytest.raises(DataError, match="one of the official lists of split 2, but no testlist02.txt"):
            read_split(get_spec("UCF101", fold=2), ucf)
        (folder / "testlist01.txt").write_text("v_YoYo_g20_c01.avi\n")
        with pytest.raises(DataError, match="testlist01.txt: 'v_YoYo_g20_c01.avi' is not <class>/<video>"):
            read_split(get_spec("UCF101"), ucf)
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def test_only_three_official_splits(tmp_path, monkeypatch, capsys):
    for name in ("MotionDigits", "Kinetics400", "SSv2", "MNIST"):
        with pytest.raises(ValueError, match="--split 2: only UCF101, miniUCF101, UCF50, HMDB51 have"):
            get_spec(name, fold=2)
    for script in ("distill_DM.py", "buffer.py", "distill_DC.py"):      # before any work is done
        with pytest.raises(SystemExit):
            run_main(script, "--split", 2, "--save_path" if script != "buffer.py" else "--buffer_path", tmp_path,
                     monkeypatch=monkeypatch, capsys=capsys)
        assert "--split 2: only UCF101" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert get_spec("miniUCF101", fold=3).split == "ucf50_splits3.csv"
    assert get_spec("HMDB51", fold=2).split == "hmdb51_splits2.csv"
    assert get_spec("HMDB51", fold=1) == get_spec("HMDB51", fold=None) == get_spec("HMDB51")


# ---- HMDB51 ---------------------------------------------------------------------------------------------------------

def write_hmdb(path, below="testTrainMulti_7030_splits", frames=3):
    """Four clips a class, flags 0 1 2 1 in split 1 and 2 1 0 1 in split 2."""
    root, spec = path / "HMDB51", DATASETS["HMDB51"]
    (root / below).mkdir(parents=True)
    for label in spec.classes:
        names = [f"{label}_{name}" for name in HMDB_NAMES]
        for fold, flags in ((1, "0121"), (2, "2101")):
            (root / below / f"{label}_test_split{fold}.txt").write_text("".join(
                f"{name}.avi {flag} \n" for name, flag in zip(names, flags, strict=True)))
        for name in names:
            write_frames(root / "jpegs_112" / name, range(1, frames + 1))
    return path


@pytest.fixture(scope="module")
def hmdb(tmp_path_factory):
    return write_hmdb(tmp_path_factory.mktemp("hmdb"))


def test_hmdb_flags(hmdb):
    spec = get_spec("HMDB51")
    wanted = {"official": {1: "train", 2: "test", 3: "train"}, "all": {0: "train", 1: "train", 2: "test", 3: "train"}}
    for train, splits_of in wanted.items():
        assert rows_of(spec, hmdb, train=train) == {
            f"{label}_{HMDB_NAMES[i]}": (label, split) for label in spec.classes for i, split in splits_of.items()}
    assert rows_of(get_spec("HMDB51", fold=2), hmdb) == {
        f"{label}_{HMDB_NAMES[i]}": (label, split) for label in spec.classes
        for i, split in {0: "test", 1: "train", 3: "train"}.items()}


CODES = ["utf-8-sig", "utf-16"]




@pytest.mark.parametrize("code", CODES)
def test_lists_of_hmdb_in_other_codes(tmp_path, code):
    write_hmdb(tmp_path, frames=0)
    wanted = rows_of(get_spec("HMDB51"), tmp_path)
    for file in (tmp_path / "HMDB51" / "testTrainMulti_7030_splits").iterdir():
        file.write_bytes(file.read_text().replace(" ", "\t", 1).encode(code))
    assert rows_of(get_spec("HMDB51"), tmp_path) == wanted


@pytest.mark.parametrize("code", CODES)
def test_lists_of_ucf101_in_other_codes_and_spellings(ucf, tmp_path, code):
    (tmp_path / "UCF101").mkdir()
    (tmp_path / "UCF101" / "jpegs_112").symlink_to(ucf / "UCF101" / "jpegs_112")
    for split, group in (("train", 8), ("test", 1)):
        (tmp_path / "UCF101" / f"{split}list01.txt").write_bytes("".join(
            f"{label.replace('ds', 'dS')}/v_{label.replace('ds', 'dS')}_g{group:02d}_c01.avi\n"
            for label in DATASETS["UCF101"].classes).encode(code))
    assert [len(FrameFolder(get_spec("UCF101"), tmp_path, split, skip_missing=None).bad) for split in ("train", "test")
            ] == [101, 101]        # all folders are found, and hold no frames


@pytest.mark.parametrize("name, file", [
    ("HMDB51", "wave_test_split1.txt"), ("UCF101", "trainlist01.txt"), ("Kinetics400", "train.csv"),
    ("SSv2", "train.json"), ("UCF101", "ucf101_splits1.csv")])
def test_a_list_in_no_known_code_is_named(tmp_path, name, file):
    spec = get_spec(name)
    root = tmp_path / spec.folder
    (root / spec.images[0]).mkdir(parents=True)
    for label in spec.classes:
        (root / f"{label}_test_split1.txt" if name == "HMDB51" else root / "testlist01.txt").write_text("")
    for content in ("\u00e9".encode("latin-1"), "x,y".encode("utf-16-le")):
        (root / file).write_bytes(content)
        with pytest.raises(DataError, match=f"{file} cannot be read .*save it as text in UTF-8"):
            read_split(spec, tmp_path)


@pytest.mark.parametrize("damage, message", [
    (lambda file: file.unlink(), "no wave_test_split1.txt in .*test_train_splits"),
    (lambda file: file.write_text("x.avi 3\n"), "'x.avi 3' is not <video> and a flag"),
    (lambda file: file.write_text("x.avi 1\n"), "1 of 51 classes have no test clip, first .'wave'"),
    (lambda file: file.write_text("x.avi 1\nx.avi 2\n"), "names 'x' more than once"),
], ids=["missing", "flag", "class", "twice"])
def test_hmdb_files_that_are_wrong(tmp_path, damage, message):
    write_hmdb(tmp_path, below="splits", frames=0)
    damage(tmp_path / "HMDB51" / "splits" / "wave_test_split1.txt")
    with pytest.raises(DataError, match=message):
        read_split(get_spec("HMDB51"), tmp_path)


def test_the_split_command_and_what_is_read_afterwards(hmdb, monkeypatch, capsys):
    spec, file = get_spec("HMDB51"), hmdb / "HMDB51" / "hmdb51_splits.csv"
    try:
        for train, count in (("all", 153), ("official", 102)):       # the second replaces the first
            status, last, _ = command("split", "HMDB51", "--data_path", hmdb, "--train", train, monkeypatch=monkeypatch,
                                      capsys=capsys)
            assert status == 0 and last == f"wrote {file}: {count} training and 51 test clips of 51 classes"
            assert rows_of(spec, hmdb) == rows_of(spec, hmdb, train=train, use_file=False)
        command("split", "HMDB51", "--data_path", hmdb, "--split", 2, monkeypatch=monkeypatch, capsys=capsys)
        assert (hmdb / "HMDB51" / "hmdb51_splits2.csv").is_file()
        file.write_text(file.read_text().replace(",train\n", ",test\n", 1))
        assert sum(split == "test" for _, split in rows_of(spec, hmdb).values()) == 52     # the file is what counts
        before = file.read_text()
        monkeypatch.setattr(csv, "writer", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            check.write_split(spec, hmdb)
        assert file.read_text() == before and not list(file.parent.glob("*.tmp*"))
    finally:
        for left in file.parent.glob("*.csv"):
            left.unlink()


def test_hmdb_clips_views_and_caches(hmdb, tmp_path, capsys):
    for name, shape in (("HMDB51", (16, 3, 8, 8)), ("singleHMDB51", (3, 8, 8)), ("staticHMDB51", (16, 3, 8, 8))):
        data = get_dataset(name, hmdb, tmp_path, im_size=8)
        assert (len(data.train), len(data.test)) == (102, 51) and uint8(data.test, [0, 5]).shape == (2, *shape)
        assert "official split has 3570 and 1530" in capsys.readouterr().err
    assert [data.spec.classes[k] for k in data.test.labels] == [re.sub("_#437.*", "", name) for name in data.test.names]
    assert len(get_dataset("HMDB51", hmdb, tmp_path, im_size=8, split=2).test) == 51


# ---- Kinetics -------------------------------------------------------------------------------------------------------

COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")


def kinetics_clips():
    """(label, id, start, end) of a training and a test clip of each class."""
    for k, label in enumerate(DATASETS["Kinetics400"].classes):
        yield "train", (label, f"-tr_{k:07d}", k, k + 10, "train")
        yield "val", (label, f"_te-{k:07d}", 0, 10, "validate")


def folder_name(row):
    return f"{row[1]}_{row[2]:06d}_{row[3]:06d}"


def write_kinetics(path):
    """Kinetics as the annotations name it, with two frames a clip (--frames 2)."""
    root = path / "Kinetics"
    for folder, row in kinetics_clips():
        write_frames(root / folder / folder_name(row), (1, 2), name="{:02d}.jpg")
    for file, folder in (("train.csv", "train"), ("validate.csv", "val")):
        write_csv(root / file, [row for where, row in kinetics_clips() if where == folder], COLUMNS)
    return path


@pytest.fixture
def kinetics(tmp_path):
    return write_kinetics(tmp_path)


def test_kinetics_names_labels_and_replacements(kinetics, tmp_path):
    spec, root = get_spec("Kinetics400", frames=2), kinetics / "Kinetics"
    wanted = {folder_name(row): (row[0], "train" if where == "train" else "test") for where, row in kinetics_clips()}
    assert rows_of(spec, kinetics) == wanted and "-tr_0000007_000007_000017" in wanted
    first, second, third = sorted(name for name, (_, split) in wanted.items() if split == "train")[:3]
    (root / "replacement").mkdir()
    (root / "train" / first).rename(root / "replacement" / first)            # only there
    (root / "train" / second / "02.jpg").unlink()                            # short, and a whole one there
    write_frames(root / "replacement" / second, (1, 2), 200, name="{:02d}.jpg")
    write_frames(root / "replacement" / third, (1, 2), 200, name="{:02d}.jpg")     # whole: the replacement is not used
    folder = FrameFolder(spec, kinetics, "train")
    at = {name: os.path.basename(os.path.dirname(where)) for name, where in
          zip(folder.names, folder.files.folders, strict=True)}
    assert at[first] == at[second] == "replacement" and at[third] == "train"
    assert len(folder.names) == 400 and sorted(folder.labels) == list(range(400))
    data = get_dataset("Kinetics400", kinetics, tmp_path / "cache", frames=2, im_size=8)
    assert uint8(data.train, [folder.names.index(second)])[0, :, 0].min() > 150
    assert uint8(data.train, [folder.names.index(third)])[0, :, 0].max() < 150


def test_kinetics_clips_of_another_length_are_named(kinetics):
    with pytest.raises(DataError, match=r"has 2 frames where clips have 8: if that is so of all, give --frames 2.*"
                                        r"so are 399 more of 400 train clips"):
        FrameFolder(get_spec("Kinetics400"), kinetics, "train")


def test_kinetics_numbers_do_not_depend_on_what_survived(kinetics, capsys):
    spec, root = get_spec("Kinetics400", frames=2), kinetics / "Kinetics"
    write_csv(root / "train.csv", [row for where, row in kinetics_clips() if where == "train"]
              + [("zumba", "gone_______", 1, 11, "train"), ("abseiling", "lost_______", 1, 11, "train")], COLUMNS)
    before = FrameFolder(spec, kinetics, "train", skip_missing=True)
    assert "note: --skip_missing leaves out 2 of 402 train clips: 2 have no folder, 0 are not whole" in \
        capsys.readouterr().err
    assert [spec.classes[k] for k in before.labels] == [spec.classes[int(name[4:11])] for name in before.names]
    with pytest.raises(DataError, match="2 of 402 train clips have no folder in .*train and .*replacement.*--skip_mis"):
        FrameFolder(spec, kinetics, "train")
    write_frames(root / "train" / "lost________000001_000011", (1,), name="{:02d}.jpg")
    assert FrameFolder(spec, kinetics, "train", skip_missing=True).names == before.names
    assert "1 have no folder, 1 are not whole" in capsys.readouterr().err
    (root / "train" / "-tr_0000000_000000_000010").rename(root / "train" / "elsewhere")
    with pytest.raises(DataError, match="--skip_missing: 1 of 400 classes have no train clip, first .'abseiling'"):
        FrameFolder(spec, kinetics, "train", skip_missing=True)


@pytest.mark.parametrize("file, text, message", [
    ("validate.csv", None, r"no validate.csv in .*nor val.csv"),
    ("train.csv", "label,youtube_id\nzumba,x\n", "must have the columns label, time_end, time_start, youtube_id"),
    ("train.csv", ",".join(COLUMNS) + "\nzumba,x,ten,20,train\n", "train.csv, line 2: .*'ten'.*seconds"),
    ("train.csv", ",".join(COLUMNS) + "\nzumba,x,inf,20,train\n", "train.csv, line 2: .*infinity.*seconds"),
    ("train.csv", ",".join(COLUMNS) + "\nzumba,,10,20,train\n", "train.csv, line 2: a clip has no label or no youtube"),
    ("train.csv", ",".join(COLUMNS) + "\nflying,x,10,20,train\n", "train.csv has the label 'flying' .*of the 400"),
    ("train.csv", ",".join(COLUMNS) + "\nzumba,x,1,2,train\narchery,x,1,2,train\n", "train.csv names 'x_000001_0000"),
])
def test_kinetics_files_that_are_wrong(tmp_path, file, text, message):
    root = tmp_path / "Kinetics"
    (root / "val").mkdir(parents=True)
    for name in ("train.csv", "validate.csv"):
        write_csv(root / name, [("zumba", "x", 1, 2, "train")], COLUMNS)
    (root / file).unlink() if text is None else (root / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read_split(get_spec("Kinetics400"), tmp_path)


@pytest.mark.parametrize("code", CODES)
def test_kinetics_labels_as_others_write_them(kinetics, code):
    """With underscores for blanks, without apostrophes and brackets, as folders are called; as a spreadsheet saves."""
    spec, root = get_spec("Kinetics400", frames=2), kinetics / "Kinetics"
    wanted = rows_of(spec, kinetics)
    for file, folder in (("train.csv", "train"), ("validate.csv", "val")):
        rows = [(re.sub("['()]", "", row[0]).replace(" ", "_"), *row[1:]) for where, row in kinetics_clips()
                if where == folder]
        text = "\n".join(";".join(map(str, row)) for row in [COLUMNS, *rows])
        (root / file).write_bytes(text.encode(code))
    assert rows_of(spec, kinetics) == wanted


def test_kinetics_is_never_flipped():
    for name in ("Kinetics400", "Kinetics400_long", "singleKinetics400", "SSv2"):
        assert not DATASETS[name].flip
    assert DATASETS["UCF101"].flip and DATASETS["HMDB51"].flip


def test_a_large_index_shares_the_names_of_its_frames(kinetics):
    folder = FrameFolder(get_spec("Kinetics400", frames=2), kinetics, "train")
    assert len({id(names) for names in folder.files.names}) <= 4      # as many as orders a directory lists them in


# ---- Something-Something V2 -----------------------------------------------------------------------------------------

def template(label):
    """An official template of a label: first letter upper case, things in brackets."""
    return re.sub(r"\bsomething\b", "[something]", label).capitalize().replace("[something]", "[Something]", 1)


def write_ssv2(path, names=("something-something-v2-train.json", "something-something-v2-validation.json"), item=None):
    root = path / "SSv2"
    (root / "labels").mkdir(parents=True)
    item = item or (lambda k, label: {"template": template(label), "label": "whatever was held"})
    for file, base in zip(names, (0, 1000), strict=True):
        items = [{"id": str(base + k), **item(k, label)} for k, label in enumerate(DATASETS["SSv2"].classes)]
        (root / "labels" / file).write_text(json.dumps(items))
        for k in range(174):
            # as they come out of other programs: named by their number in the video
            write_frames(root / "frame" / str(base + k), (3, 12, 21), name="{:010d}.jpg")
    return path


@pytest.mark.parametrize("names, item", [
    (("something-something-v2-train.json", "something-something-v2-validation.json"), None),
    (("train.json", "validation.json"), None),
    (("annot_train.json", "annot_val.json"), lambda k, label: {"class": k})])
def test_ssv2_templates(tmp_path, names, item):
    write_ssv2(tmp_path, names, item)
    spec = get_spec("SSv2", frames=3)
    assert rows_of(spec, tmp_path) == {str(base + k): (label, split) for k, label in enumerate(spec.classes)
                                       for base, split in ((0, "train"), (1000, "test"))}
    folder = FrameFolder(spec, tmp_path, "test")
    assert [file.name for file in folder.files[0]] == [f"{n:010d}.jpg" for n in (3, 12, 21)]


@pytest.mark.parametrize("code", CODES)
def test_ssv2_lists_in_other_codes(tmp_path, code):
    write_ssv2(tmp_path)
    wanted = rows_of(get_spec("SSv2"), tmp_path)
    for file in (tmp_path / "SSv2" / "labels").iterdir():
        file.write_bytes(file.read_text().encode(code))
    assert rows_of(get_spec("SSv2"), tmp_path) == wanted


def test_ssv2_is_never_flipped_as_its_classes_tell_left_from_right(tmp_path):
    write_ssv2(tmp_path)
    wedge = np.zeros((8, 8, 3), np.uint8)
    wedge[:, :4] = 255
    for number in (3, 12, 21):
        Image.fromarray(wedge).save(tmp_path / "SSv2" / "frame" / "0" / f"{number:010d}.jpg")
    train = get_dataset("SSv2", tmp_path, frames=3, im_size=8).train
    clips = uint8(train, [train.names.index("0")] * 40, torch.Generator().manual_seed(0))
    assert (clips[..., :3] > 200).all() and (clips[..., 5:] < 50).all()


@pytest.mark.parametrize("text, message", [
    ("{", "is not a list of"), ('[{"id": "1"}]', "KeyError: 'template'"), ('{"id": "1"}', "TypeError"),
    *((f'[{{"id": "1", "class": {number}}}]', f"train.json: clip 1 has the class {number}, which is none of 0 to 173")
      for number in (174, -1)),
    *((f'[{{"id": "1", "class": {value}}}]', "train.json is not a list of .*number of the class .TypeError: id '1'")
      for value in ("true", "1.0", '"1"', "null", "[1]")),
    *((f'[{{"id": {value}, "class": 1}}]', "train.json is not a list of .*TypeError: id ")
      for value in ("true", "1.5", "null")),
    ("[" * 100_000, "train.json is not a list of .*RecursionError"),
    ('[{"id": "1", "class": 1}, {"id": 1, "class": 2}]', "train.json names '1' more than once, with other labels"),
    ('[{"id": "1", "template": "Flying [something]"}]', "train.json has the label 'Flying .something.'")])
def test_ssv2_files_that_are_wrong(tmp_path, text, message):
    write_ssv2(tmp_path)
    (tmp_path / "SSv2" / "labels" / "something-something-v2-train.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_split(get_spec("SSv2"), tmp_path)


# ---- own folders ----------------------------------------------------------------------------------------------------

def write_own(folder, below="", size=(24, 18), name="split.csv"):
    """Two classes of five clips; column gradients, so that a crop shows where it was taken."""
    x = np.tile(np.linspace(0, 255, size[0]).astype(np.uint8), (size[1], 1))
    rows = []
    for label in ("jump", "a run"):
        for i in range(5):
            clip = folder / below / f"{label} {i}"
            clip.mkdir(parents=True)
            for number in range(1, 11):
                frame = np.stack([x, np.full_like(x, 20 * number), np.full_like(x, 40 * i)], -1)
                Image.fromarray(frame).save(clip / f"frame{number:06d}.png")
            rows.append((f"{label} {i}", label, "test" if i == 4 else "train"))
    write_csv(folder / name, rows, ("folder_name", "label", "split"))
    return folder


def damage(folder, kind):
    clip = folder / "jump 1"
    if kind == "missing":
        clip.rename(folder.parent / "elsewhere")
    elif kind == "empty":
        for file in clip.iterdir():
            file.unlink()
    elif kind == "gap":
        (clip / "frame000004.png").unlink()
    elif kind == "unreadable":
        whole = (clip / "frame000004.png").read_bytes()
        (clip / "frame000004.png").write_bytes(whole[:-20])


@pytest.mark.parametrize("below, name", [("", "split.csv"), ("frames", "split.csv"), ("jpegs_24", "mine.csv")])
def test_own_folder(tmp_path, below, name):
    data = get_dataset(str(write_own(tmp_path / "mine", below, name=name)), tmp_path / "data", frames=4, im_size=14)
    assert data.spec.classes == ("a run", "jump") and (len(data.train), len(data.test)) == (8, 2)
    assert data.test.names == ["a run 4", "jump 4"] and data.test.labels.tolist() == [0, 1]
    assert uint8(data.test, [0]).shape == (1, 4, 3, 14, 14)
    assert get_spec(str(tmp_path / "mine")).shape == (16, 3, 112, 112)


def test_one_crop_for_all_frames_of_a_clip(tmp_path):
    data = get_dataset(str(write_own(tmp_path / "mine")), tmp_path, frames=4, im_size=14)
    clips = uint8(data.train, range(8), torch.Generator().manual_seed(0))[:, :, 0].int()     # red: the column
    assert (clips - clips[:, :1]).abs().max() <= 1
    columns = np.asarray(Image.fromarray(np.tile(np.linspace(0, 255, 24).astype(np.uint8), (18, 1))).resize((20, 15)))
    centre = uint8(data.test, [0])[0, 0, 0]
    assert abs(centre[0].numpy().astype(int) - columns[0, 3:17]).max() <= 2


@pytest.mark.parametrize("files, message", [
    ({}, "must have a split.csv .*it has none"), ({"a.csv": "", "b.csv": ""}, "it has a.csv, b.csv"),
    ({"split.csv": "x,y\n1,2\n"}, "must have the columns folder_name,label,split"),
    *(({"split.csv": f"folder_name,label,split\na,{one},train\nb,{two},test\n"},
       re.escape(f"label '{two}' in more than one way, also as '{one}': use one"))
      for one, two in (("Up", "up"), ("go up", "go_up"), ("(in) game", "in game"))),
    ({"split.csv": "folder_name,label,split\na,up,train\n"}, "at least two are needed"),
    ({"split.csv": "folder_name,label,split\na,up,train\nb,down,train\n"}, "no test clip"),
])
def test_own_folders_that_are_wrong(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_split(own_spec(tmp_path), tmp_path)


def run_main(script, *args, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), *map(str, args)])
    cli(importlib.import_module(script.removesuffix(".py")).main)
    return json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("RESULT "))


SCORE = ["--num_eval", 1, "--epoch_eval_train", 1, "--device", "cpu"]
TINY = [*SCORE, "--Iteration", 1, "--eval_it", 1, "--batch_real", 2]


def test_scripts_take_an_own_folder_and_write_nothing_into_it(tmp_path, monkeypatch, capsys):
    own = write_own(tmp_path / "some" / "mine")
    damage(own, "missing")
    before = sorted(own.rglob("*"))
    where = ["--dataset", own, "--data_path", tmp_path, "--im_size", 16, "--frames", 4, "--save_path", tmp_path / "out"]
    with pytest.raises(SystemExit):
        run_main("distill_DC.py", *where, *TINY, "--model", "ConvNetD2W32", monkeypatch=monkeypatch, capsys=capsys)
    assert "1 of 8 train clips have no folder" in capsys.readouterr().err
    where.append("--skip_missing")
    run_main("distill_DC.py", *where, *TINY, "--model", "ConvNetD2W32", monkeypatch=monkeypatch, capsys=capsys)
    made = tmp_path / "out" / "DC" / "mine_ConvNetD2W32_ipc1_seed0" / "synset.safetensors"
    run_main("distill_s2d_DM.py", *where, *TINY, "--model", NET, "--spc", 1, "--dpc", 1, "--path_static", made,
             "--no_train_static", monkeypatch=monkeypatch, capsys=capsys)
    result = run_main("evaluate.py", *where, *SCORE, "--synset", made, "--model", NET, monkeypatch=monkeypatch,
                      capsys=capsys)
    assert result["method"] == "static" and result["dataset"] == str(own)
    assert sorted(own.rglob("*")) == before


# ---- sets of images -------------------------------------------------------------------------------------------------

def write_idx(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
                     + array.tobytes())


def write_mnist(path, name="MNIST", n=20):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 28, 28), np.uint8)
    labels = (np.arange(n) % 10).astype(np.uint8)
    for part in ("train", "t10k"):
        write_idx(path / name / "raw" / f"{part}-images-idx3-ubyte", pixels)
        write_idx(path / name / "raw" / f"{part}-labels-idx1-ubyte", labels)
    return pixels, labels


def md5(file):
    import hashlib
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_cifar(path, kind, key, classes, monkeypatch):
    """Pickles in CIFAR's form; torchvision is told their checksums in place of the official ones."""
    pixels = np.random.default_rng(0).integers(0, 256, (classes, 3, 32, 32), np.uint8)
    folder = path / kind.base_folder
    folder.mkdir()
    for name in ("train", "test", "meta"):
        content = {"label_names": [], "fine_label_names": []} if name == "meta" else {
            "data": pixels.reshape(classes, -1), key: list(range(classes))}
        (folder / name).write_bytes(pickle.dumps(content))
    for name in ("train", "test"):
        monkeypatch.setattr(kind, f"{name}_list", [[name, md5(folder / name)]])
    monkeypatch.setattr(kind, "meta", {"filename": "meta", "key": kind.meta["key"], "md5": md5(folder / "meta")})
    return pixels, np.arange(classes)


def write_svhn(path, monkeypatch):
    from scipy.io import savemat
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), np.uint8)
    labels = np.arange(20) % 10
    (path / "SVHN").mkdir()
    stored = {}
    for split in ("train", "test"):
        file = path / "SVHN" / f"{split}_32x32.mat"
        savemat(file, {"X": pixels.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        stored[split] = ["", file.name, md5(file)]
    monkeypatch.setattr(torchvision_sets.SVHN, "split_list", stored)
    return pixels, labels


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "SVHN", "CIFAR10", "CIFAR100"])
def test_image_sets_through_torchvision(tmp_path, monkeypatch, name, capsys):
    pixels, labels = {
        "MNIST": lambda: write_mnist(tmp_path), "FashionMNIST": lambda: write_mnist(tmp_path, name),
        "SVHN": lambda: write_svhn(tmp_path, monkeypatch),
        "CIFAR10": lambda: write_cifar(tmp_path, torchvision_sets.CIFAR10, "labels", 10, monkeypatch),
        "CIFAR100": lambda: write_cifar(tmp_path, torchvision_sets.CIFAR100, "fine_labels", 100, monkeypatch)}[name]()
    data = get_dataset(name, tmp_path)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    for part in (data.train, data.test):
        assert part.labels.tolist() == labels.tolist()
        for draw in (None, torch.Generator().manual_seed(0)):      # never flipped
            assert (uint8(part, range(len(part)), draw).numpy() == pixels).all()
    assert data.train.get([1]).shape == (1, *data.spec.shape) and data.train.get([1]).dtype == torch.float32
    assert "official split has" in capsys.readouterr().err
    assert uint8(get_dataset(name, tmp_path, im_size=16).test, [0]).shape == (1, data.spec.channels, 16, 16)


@pytest.mark.parametrize("name", ["MNIST", "SVHN", "CIFAR10"])
def test_missing_or_other_image_files_say_how_to_get_them(tmp_path, name):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for file in ("data_batch_1", "test_batch", "batches.meta"):       # not the official ones: never unpacked
        (tmp_path / "cifar-10-batches-py" / file).write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(DataError, match=f"torchvision cannot read {name} at .*datasets.{name}\\(.*download=True"):
        get_dataset(name, tmp_path)


@pytest.mark.parametrize("name, tiny", [("TinyImageNet", True), ("ImageNet", False)])
def test_image_sets_in_class_folders(tmp_path, name, tiny):
    spec = get_spec(name)
    root, classes = tmp_path / spec.folder, [f"n{7 * k + 1440764:08d}" for k in range(spec.num_classes)]
    for k, label in enumerate(reversed(classes)):       # the order of the directory says nothing
        folder = root / "train" / label / "images" if tiny else root / "train" / label
        folder.mkdir(parents=True)
        (folder / f"{label}_0.JPEG").write_bytes(GREY if k else jpeg(250))
        if not tiny:
            (root / "val" / label).mkdir(parents=True)
            (root / "val" / label / f"val_{k:05d}.JPEG").write_bytes(GREY)
    if tiny:
        (root / "val" / "images").mkdir(parents=True)
        for k in range(spec.num_classes):
            (root / "val" / "images" / f"val_{k}.JPEG").write_bytes(jpeg(250) if k == 5 else GREY)
        (root / "val" / "val_annotations.txt").write_text("".join(
            f"val_{k}.JPEG\t{label}\t0\t0\t62\t62\n" for k, label in enumerate(classes)))
    data = get_dataset(name, tmp_path, im_size=8)
    assert data.train.labels.tolist() == list(range(spec.num_classes)) and len(data.test) == spec.num_classes
    light = uint8(data.train, range(spec.num_classes))[:, 0].flatten(1).float().mean(1)
    assert light.argmax() == spec.num_classes - 1
    if tiny:
        assert data.test.labels[uint8(data.test, range(200))[:, 0].flatten(1).float().mean(1).argmax()] == 5
    listed = root / "val" / "val_annotations.txt"
    if tiny:
        whole = listed.read_text()
        listed.write_bytes((whole + "\n").encode("utf-16"))
        assert len(get_dataset(name, tmp_path, im_size=8).test) == 200
        for text, message in ((whole + "val_0.JPEG\n", "val_annotations.txt must have the name of an image and its cl"),
                              (whole.replace("val_7.", "val_x."), "1 of 200 images of .*val are not there.*val_x")):
            listed.write_text(text)
            with pytest.raises(DataError, match=message):
                images.read(spec, tmp_path, "test", tmp_path)
    else:
        (root / "val" / classes[3] / "more.png").symlink_to("nowhere")
        (root / "val" / classes[3] / "._more.JPEG").touch()
        with pytest.raises(DataError, match="1 of 1001 images of .*val are not there, or no regular files.*more.png"):
            images.read(spec, tmp_path, "test", tmp_path)
    os.rename(root / "train" / classes[0], root / "train" / "aside")
    with pytest.raises(DataError, match=f"train has {spec.num_classes - 1} class folders .*has {spec.num_classes}"):
        images.read(spec, tmp_path, "train", tmp_path)


def test_the_static_stage_runs_on_mnist(tmp_path, monkeypatch, capsys):
    write_mnist(tmp_path)
    result = run_main("distill_DC.py", "--dataset", "MNIST", "--data_path", tmp_path, "--save_path", tmp_path, *TINY,
                      "--model", "ConvNetD2W32", "--ipc", 1, monkeypatch=monkeypatch, capsys=capsys)
    assert result["dataset"] == "MNIST" and result["storage_bytes"] == 10 * 28 * 28 * 4
