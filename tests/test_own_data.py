"""Data of one's own: nested folders, a split file of another name or place, some classes alone, and tables of it."""
import csv
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import buffer
import distill_DM
import distill_MTT
import evaluate
import summarize
from conftest import NET
from distill_utils import check
from distill_utils.dataset import DATASETS, DataError, get_spec, read_split
from utils import get_dataset

LABELS = ("a", "B", "c")
FAST = ["--model", NET, "--frames", 4, "--im_size", 16, "--num_eval", 1, "--epoch_eval_train", 1, "--device", "cpu"]


def write_clip(folder, light):
    folder.mkdir(parents=True)
    for t in range(6):
        Image.fromarray(np.full((16, 16, 3), light, np.uint8)).save(folder / f"img_{t + 1:05d}.png")


def write_csv(file, rows):
    with open(file, "w", newline="") as stream:
        csv.writer(stream).writerows([("folder_name", "label", "split"), *rows])


def rows_of(name="{label}_{split}{i}"):
    return [(name.format(label=label, split=split, i=i), label, split) for label in LABELS
            for split, n in (("train", 3), ("test", 2)) for i in range(n)]


def light(label, split, i):
    return 20 * LABELS.index(label) + 70 * (split == "test") + 3 * i


LAYOUTS = {     # where a clip lies -> what the split file calls it
    "{label}_{split}{i}": "{label}_{split}{i}", "frames/{label}_{split}{i}": "{label}_{split}{i}",
    "{label}/{label}_{split}{i}": "{label}_{split}{i}", "frames/{label}/{split}{i}": "{label}/{split}{i}",
    "jpegs_112/{label}/{label}_{split}{i}": "{label}/{label}_{split}{i}"}


@pytest.fixture
def mine(tmp_path):
    """Makes a data set in a layout: mine(where, name) -> its folder."""
    def make(where="frames/{label}_{split}{i}", name="{label}_{split}{i}", csv_name="split.csv"):
        root = tmp_path / "deep" / "mine"
        for label in LABELS:
            for split, n in (("train", 3), ("test", 2)):
                for i in range(n):
                    write_clip(root / where.format(label=label, split=split, i=i), light(label, split, i))
        write_csv(root / csv_name, rows_of(name))
        return root
    return make


def lights(clips):
    """{name: brightness of its frames}"""
    frames = clips.frames[clips.first][:, 0, 0, 0]
    return dict(zip(clips.names, map(int, frames), strict=True))


@pytest.mark.parametrize("where", LAYOUTS)
def test_clips_are_found_in_every_layout(where, mine, tmp_path):
    name = LAYOUTS[where]
    data = get_dataset(str(mine(where, name)), tmp_path, frames=4, im_size=16)
    assert data.spec.classes == ("B", "a", "c")     # as Python sorts: upper case first
    for split, clips in (("train", data.train), ("test", data.test)):
        assert lights(clips) == {name.format(label=label, split=split, i=i): light(label, split, i)
                                 for label in LABELS for i in range(3 if split == "train" else 2)}
        assert [data.spec.classes[k] for k in clips.labels.tolist()] == [
            dict((row[0], row[1]) for row in rows_of(name))[clip] for clip in clips.names]


def test_a_class_folder_is_found_whatever_its_case_and_a_clip_of_another_class_is_not(mine, tmp_path):
    root = mine("frames/{label}/{label}_{split}{i}")
    (root / "frames" / "B").rename(root / "frames" / "b")
    assert len(get_dataset(str(root), tmp_path, frames=4, im_size=16).train) == 9
    (root / "frames" / "b" / "B_train0").rename(root / "frames" / "a" / "B_train0")
    with pytest.raises(DataError, match="1 of 9 train clips have no folder .*B_train0"):
        get_dataset(str(root), tmp_path, frames=4, im_size=16)


def test_ucf101_may_be_nested_as_its_archive_is(tmp_path):
    classes = DATASETS["miniUCF101"].classes
    for label in classes:
        for group in (1, 8):
            write_clip(tmp_path / "UCF101" / "jpegs_112" / label / f"v_{label}_g{group:02d}_c01", group)
    data = get_dataset("miniUCF101", tmp_path, frames=4, im_size=16)
    assert (len(data.train), len(data.test)) == (50, 50)
    assert set(lights(data.train).values()) == {8} and set(lights(data.test).values()) == {1}


# ---- --split_file -------------------------------------------------------------------------------------------------

def test_a_split_file_by_name(mine, tmp_path):
    root = mine()
    fewer = [row for row in rows_of() if not row[0].endswith("train2")]
    write_csv(tmp_path / "fewer.csv", fewer)
    whole, part = (get_dataset(str(root), tmp_path, frames=4, im_size=16, split_file=file)
                   for file in (None, tmp_path / "fewer.csv"))
    assert (len(whole.train), len(part.train), len(part.test)) == (9, 6, 6)
    assert len(get_dataset(str(root), tmp_path, frames=4, im_size=16).train) == 9
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3       # the same test clips, and neither removes the other


def test_a_split_file_stands_in_for_that_of_a_row(few_digits, tmp_path):
    rows = [(name, DATASETS["MotionDigits"].classes[k], {"train": "test", "test": "train"}[split])
            for name, k, split in read_split(get_spec("MotionDigits"), few_digits)]
    write_csv(tmp_path / "turned.csv", rows)
    data = get_dataset("MotionDigits", few_digits, tmp_path / "cache", split_file=str(tmp_path / "turned.csv"))
    assert (len(data.train), len(data.test)) == (20, 40)


@pytest.mark.parametrize("flags,message", [
    ({"split_file": "absent.csv"}, "no --split_file absent.csv: give a csv"),
    ({"split_file": __file__, "fold": 2}, "--split_file says .* and so does --split 2"),
    ({"classes": "Archery,Dancing"}, "--classes 'dancing' is not one of the 101 classes .*--dataset UCF101"),
    ({"classes": "Archery"}, "--classes 'Archery' leaves 1 class: give at least two"),
    ({"classes": " , "}, "leaves 0 class"), ({"classes": ""}, "leaves 0 class"),
    ({"split_file": ""}, "there is no --split_file"), ({"split_file": __file__, "fold": 1}, "so does --split 1")])
def test_what_cannot_be_is_named(flags, message):
    with pytest.raises(ValueError, match=message):
        get_spec("UCF101", **flags)


@pytest.mark.parametrize("flags", [{"classes": "cat,dog"}, {"split_file": __file__}])
def test_of_images_nothing_is_chosen(flags):
    with pytest.raises(ValueError, match="--dataset CIFAR10 has images"):
        get_spec("CIFAR10", **flags)


def test_a_row_without_rule_and_split_file_says_what_to_do(mine, tmp_path, monkeypatch):
    root = mine()
    spec = get_spec(str(root))
    (root / "split.csv").unlink()
    with pytest.raises(DataError, match="no split file split.csv.*--split_file"):
        read_split(spec, tmp_path)


def test_a_split_file_of_other_content_is_other_data_and_its_place_is_not(mine, tmp_path, monkeypatch):
    root, file, moved = mine(), tmp_path / "s.csv", tmp_path / "moved.csv"
    write_csv(file, rows_of())
    write_csv(moved, rows_of())
    flags = ["--dataset", root, "--data_path", tmp_path, "--save_path", tmp_path, "--name", "x", "--batch_real", 2,
             *FAST]
    run(distill_DM, monkeypatch, *flags, "--split_file", file, "--Iteration", 1)
    run(distill_DM, monkeypatch, *flags, "--split_file", moved, "--Iteration", 2, "--resume")
    write_csv(file, [(name, label, {"train": "test", "test": "train"}[split]) for name, label, split in rows_of()])
    with pytest.raises(ValueError, match="--split_file .its content. was '.*give the same"):
        run(distill_DM, monkeypatch, *flags, "--split_file", file, "--Iteration", 3, "--resume")
    with pytest.raises(ValueError, match="--split_file .its content. was '.*and is now None"):
        run(distill_DM, monkeypatch, *flags, "--Iteration", 3, "--resume")
    experts = ["--dataset", root, "--data_path", tmp_path, *FAST[:6], "--device", "cpu", "--max_start_epoch", 1,
               "--buffer_path", tmp_path / "buffers"]
    run(buffer, monkeypatch, *experts, "--train_epochs", 1, "--num_experts", 1, "--split_file", moved)
    with pytest.raises(ValueError, match="holds experts of another run: --split_file was"):
        run(buffer, monkeypatch, *experts, "--train_epochs", 1, "--num_experts", 2, "--split_file", file)
    with pytest.raises(ValueError, match="is of another run: --split_file was"):
        run(distill_MTT, monkeypatch, *experts, *FAST[6:], "--split_file", file)


def test_split_writes_only_the_own_file_of_a_data_set(few_digits, tmp_path, monkeypatch, capsys):
    write_csv(tmp_path / "s.csv", rows_of())
    before = (tmp_path / "s.csv").read_bytes()
    for flag in (["--split_file", tmp_path / "s.csv"], ["--classes", "OneUp,OneDown"]):
        with pytest.raises(SystemExit):
            run(check, monkeypatch, "split", "MotionDigits", "--data_path", few_digits, *flag)
        assert "leave --split_file and --classes out" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "s.csv").read_bytes() == before


@pytest.mark.parametrize("content,message", [
    ("folder_name,label,split\nc,ä,train\n".encode("latin-1"), "mine.csv cannot be read .*UTF-8"),
    (b"folder_name,label,split\n" + b"x" * 200_000 + b",a,train\n", "mine.csv cannot be read .field larger.*UTF-8")])
def test_a_csv_that_cannot_be_read_is_named(content, message, tmp_path):
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        get_spec(str(tmp_path))


def test_one_folder_is_one_clip(mine, tmp_path):
    root = mine("frames/{label}/{label}_{split}{i}")
    write_csv(root / "split.csv", [*rows_of(), ("a/a_train0", "a", "test")])
    with pytest.raises(DataError, match="a_train0 is both 'a_train0' and 'a/a_train0' in split.csv"):
        get_dataset(str(root), tmp_path, frames=4, im_size=16)


def test_class_folders_that_differ_in_case_are_one(mine, tmp_path):
    root = mine("{label}/{label}_{split}{i}")
    (root / "A").mkdir()
    (root / "a" / "a_train1").rename(root / "A" / "a_train1")
    assert len(get_dataset(str(root), tmp_path, frames=4, im_size=16).train) == 9


@pytest.mark.parametrize("twin", ["A/a_train0", "frames/a_train0"])
def test_a_clip_in_two_places_is_named(mine, tmp_path, twin):
    root = mine("{label}/{label}_{split}{i}" if twin[0] == "A" else "frames/{label}/{label}_{split}{i}")
    write_clip(root / twin, 200)
    with pytest.raises(ValueError, match="a_train0 and .*a_train0 may both be the clip 'a_train0'.*remove one"):
        get_dataset(str(root), tmp_path, frames=4, im_size=16)


@pytest.mark.parametrize("above", [False, True])
def test_one_folder_under_two_names_is_two_clips_and_named(mine, tmp_path, above):
    root = mine("{label}/{label}_{split}{i}", "{label}/{label}_{split}{i}")
    if above:
        shutil.rmtree(root / "c")
        (root / "c").symlink_to(root / "a")
        write_csv(root / "split.csv", [(f"{label}/a_{name}", label, split) for label in "ac"
                                       for name, split in (("train0", "train"), ("test0", "test"))])
    else:
        shutil.rmtree(root / "a" / "a_test0")
        (root / "a" / "a_test0").symlink_to(root / "a" / "a_train0")
    with pytest.raises(ValueError, match="a/a_train0 is both 'a/a_train0' and .*remove the link"):
        get_dataset(str(root), tmp_path, frames=4, im_size=16)


# ---- --classes ----------------------------------------------------------------------------------------------------

def test_some_classes_alone(mine, tmp_path):
    root = mine()
    data = get_dataset(str(root), tmp_path, frames=4, im_size=16, classes="c,\r\n b\r\n")
    assert data.spec.classes == ("B", "c") and data.spec.num_classes == 2
    assert {name[0] for name in data.train.names} == {"B", "c"} and len(data.test) == 4
    assert [data.spec.classes[k] for k in data.train.labels.tolist()] == [name[0] for name in data.train.names]
    assert len(get_dataset(str(root), tmp_path, frames=4, im_size=16).train) == 9
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4


def test_classes_are_chosen_in_any_spelling():
    assert get_spec("HMDB51", classes=" Brush Hair ,wave").classes == ("brush_hair", "wave")
    assert get_spec("Kinetics400", classes="massaging_persons_head,ZUMBA").classes == (
        "massaging person's head", "zumba")


@pytest.mark.parametrize("name", ["UCF101", "HMDB51", "Kinetics400", "SSv2"])
def test_classes_of_every_rule(name, tmp_path):
    """A rule gives the clips of all classes, by name or by number: those of other classes are left out."""
    whole = get_spec(name)
    chosen = max(whole.classes, key=lambda label: label.count(",")), whole.classes[3]
    spec = get_spec(name, classes=",".join(f'"{label}"' for label in chosen))
    rows = [(f"{label}{split}", label, split) for label in whole.classes for split in ("train", "test")]
    given = []
    spec = type(spec)(**{**vars(spec), "rule": lambda spec, *rest: given.append(spec.classes) or rows})
    found = read_split(spec, tmp_path, use_file=False)
    assert given == [whole.classes]
    assert sorted((spec.classes[k], split) for _, k, split in found) == sorted(
        (label, split) for label in chosen for split in ("train", "test"))
    with pytest.raises(DataError, match="'Juggling' .*which is not one of the 2 classes"):
        rows.append(("x", "Juggling", "train"))
        read_split(spec, tmp_path, use_file=False)


# ---- scripts ------------------------------------------------------------------------------------------------------

def run(module, monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, flags)])
    module.main()


def test_from_the_check_to_the_table(mine, tmp_path, monkeypatch, capsys):
    root = mine("{label}/{label}_{split}{i}", csv_name="other.csv")
    write_csv(root / "another.csv", rows_of()[:5])
    data = ["--data_path", tmp_path, "--split_file", root / "other.csv", "--classes", "a,c"]
    with pytest.raises(SystemExit):
        run(check, monkeypatch, root)
    assert "just one csv" in capsys.readouterr().out
    run(check, monkeypatch, root, "--frames", 4, "--im_size", 16, *data)
    assert capsys.readouterr().out.splitlines()[-1] == f"READY: {root} has 6 training and 4 test clips of 2 classes."
    monkeypatch.chdir(tmp_path)
    run(distill_DM, monkeypatch, "--dataset", root, *data, "--Iteration", 1, "--batch_real", 2, "--name", "x", *FAST)
    file = tmp_path / "result" / "DM" / "x" / "synset.safetensors"
    run(evaluate, monkeypatch, "--dataset", root, *data, "--synset", file, *FAST)
    assert (tmp_path / "result" / "score" / f"DM_x_mine_{NET}_seed0").is_dir()
    with pytest.raises(ValueError, match="other classes .*the --classes that it was made with"):
        run(evaluate, monkeypatch, "--dataset", root, "--split_file", root / "other.csv", "--synset", file, *FAST)
    capsys.readouterr()
    run(summarize, monkeypatch, tmp_path / "result")
    assert "**mine, classes a,c, split file other.csv, 4 frames, 16 pixels, protocol standard**" in (
        capsys.readouterr().out)
    assert json.loads((file.parent / "result.json").read_text())["dataset"] == str(root)


def test_an_unknown_method_has_a_row_of_its_own(tmp_path, monkeypatch, capsys):
    result = {"method": "New", "dataset": "x", "protocol": "standard", "network": "N", "ipc": 1, "seed": 0, "epochs": 1,
              "top1_mean": 0.25, "top1_std": 0.0, "top1_start_mean": 0.5, "top1_start_std": 0.0, "top5_mean": 0.9,
              "num_networks": 1, "per_class": [0.25], "storage_bytes": 5, "seconds": 1.0, "distill_seconds": 1.0}
    for method in ("New", "Still-DM", "DM", "S2D-k-center"):
        (tmp_path / method).mkdir()
        (tmp_path / method / "result.json").write_text(json.dumps(result | {"method": method}))
    run(summarize, monkeypatch, tmp_path)
    out = capsys.readouterr().out
    titles = [line.split(" | ")[0].removeprefix("| ") for line in out.splitlines() if line.startswith("| ")]
    assert titles == ["method", "---", "pixels (DM)", "New", "s2d (k-center)", "still (DM)"]
    assert out.count("25.0 ± 0.0 (below its start)") == 4
    assert "note: still (DM), 1 clips a class, seed 0, ends below its start: 50.0 -> 25.0 %" in out
