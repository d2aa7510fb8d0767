"""Ways out and in: what is exported comes back, and is read by others; what is not ours is compared first."""
import contextlib
import csv
import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import export
import utils
from conftest import ROOT
from distill_utils.exchange import WAYS
from distill_utils.storage import save_synset
from distill_utils.synset import SETS, load_synset

FLAGS = ["--dataset", "MotionDigits", "--frames", 4, "--im_size", 16]
SPEC = utils.get_spec("MotionDigits", 4, 16)


@pytest.fixture
def saved(few_digits, tmp_path):
    """saved(kind, label_kind) -> the file of a set of two real clips a class."""
    clips = utils.get_dataset("MotionDigits", few_digits, frames=4, im_size=16).train

    def call(kind="pixels", label_kind="class"):
        arguments = {"pixels": (10, 2, SPEC.shape), "still": (10, 2, SPEC.shape[1:], 4), "keyframes": (
            10, 2, SPEC.shape), "s2d": (10, 1, 2, 1, SPEC.shape)}
        synset = SETS[kind](*arguments[kind], label_kind=label_kind)
        synset.start(clips, 0)
        if label_kind != "class":
            synset.labels.data.normal_()
        path = tmp_path / f"{kind}_{label_kind}.safetensors"
        save_synset(path, synset, SPEC, method="DM", recipe=utils.Recipe(epochs=7)._asdict())
        return path
    return call


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["export.py", *map(str, words)])
    export.main()


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("way", WAYS)
def test_every_set_goes_out_every_way(kind, way, saved, tmp_path, monkeypatch, capsys):
    path = saved(kind)
    run(monkeypatch, path, "--to", way, "--out", tmp_path / "out")
    clips = 20
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: {clips} clips of 10 classes\n"
    assert json.loads((tmp_path / "out" / "about.json").read_text())["method"] == "DM"
    assert not (tmp_path / "out" / "soft_labels.csv").exists()
    if way != "hf":
        run(monkeypatch, "--from", tmp_path / "out", *FLAGS, "--out", tmp_path / "back.safetensors")
        back, header = load_synset(tmp_path / "back.safetensors")
        first, _ = load_synset(path)
        assert header["method"] == "external" and header["recipe"]["epochs"] == 7 and back.num_slots == 2
        clips = first.render(torch.arange(10), torch.zeros(10, dtype=torch.long))[0]
        difference = (back.videos[::2] - clips).abs()
        if way == "npz":
            assert torch.equal(back.videos[::2], clips)
        elif kind != "s2d":      # whose clips reach beyond black and white
            assert difference.max() < 0.02 if way == "frames" else difference.mean() < 0.2


@pytest.mark.parametrize("way", ["frames", "mp4", "npz"])
def test_soft_labels_go_with_the_clips(way, saved, tmp_path, monkeypatch):
    path = saved("pixels", "logits")
    run(monkeypatch, path, "--to", way, "--out", tmp_path / "out")
    run(monkeypatch, "--from", tmp_path / "out", *FLAGS, "--out", tmp_path / "back.safetensors", "--store", "webp:90")
    back, header = load_synset(tmp_path / "back.safetensors")
    assert torch.equal(back.labels, load_synset(path)[0].labels) and back.label_kind == "logits"
    assert header["store"] == "webp:90"


def test_frames_are_a_data_set_of_their_own(saved, few_digits, tmp_path, monkeypatch):
    path = saved()
    run(monkeypatch, path, "--to", "frames", "--out", tmp_path / "out", *FLAGS, "--data_path", few_digits)
    data = utils.get_dataset(str(tmp_path / "out"), tmp_path, frames=4, im_size=16)
    theirs = utils.get_dataset("MotionDigits", few_digits, frames=4, im_size=16)
    assert len(data.train) == 20 and len(data.test) == len(theirs.test) == 20
    mean, std = (torch.tensor(getattr(data.spec, name)).view(-1, 1, 1) for name in ("mean", "std"))
    own_mean, own_std = (torch.tensor(getattr(SPEC, name)).view(-1, 1, 1) for name in ("mean", "std"))
    here = data.train.get(torch.arange(20)) * std + mean
    order = sorted(range(10), key=lambda k: SPEC.classes[k])       # classes of a folder are sorted
    assert data.spec.classes == tuple(SPEC.classes[k] for k in order)
    wanted = load_synset(path)[0].videos * own_std + own_mean
    assert (here - wanted).abs().max() < 0.01       # clips by name, which begins with the class number


def test_the_datasets_library_reads_the_folder(saved, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    run(monkeypatch, saved("pixels", "logits"), "--to", "hf", "--out", tmp_path / "out")
    read = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    read = read.cast_column("video", datasets.Video(decode=False))
    assert len(read) == 20 and set(read["label"]) == set(SPEC.classes)
    assert read[0]["video"]["path"].endswith("c000_000.mp4") and len(read[0]["soft_label"]) == 10


def test_clips_of_others(tmp_path, monkeypatch):
    """<class>/<clip>, of another length and size; a folder of frames, and a GIF."""
    for name in SPEC.classes:
        (tmp_path / "theirs" / name / "one").mkdir(parents=True)
        for t in range(9):
            Image.new("RGB", (40, 20), (t * 20, 0, 0)).save(tmp_path / "theirs" / name / "one" / f"{t:03d}.png")
        frames = [Image.new("RGB", (16, 16), (0, t * 30, 0)) for t in range(6)]
        frames[0].save(tmp_path / "theirs" / name / "two.gif", save_all=True, append_images=frames[1:])
    run(monkeypatch, "--from", tmp_path / "theirs", *FLAGS, "--out", tmp_path / "back.safetensors")
    back, _ = load_synset(tmp_path / "back.safetensors")
    red = (back.videos[0, :, 0].mean((1, 2)) * SPEC.std[0] + SPEC.mean[0]) * 255
    assert back.num_slots == 2
    torch.testing.assert_close(red, torch.tensor([0, 3, 5, 8]) * 20.0, atol=0.5, rtol=0)      # evenly


@pytest.mark.parametrize("change,said", [
    (lambda content: content.pop("labels"), "it needs clips and labels"),
    (lambda content: content.update(labels=np.arange(20)), "are not class numbers below 10"),
    (lambda content: content.update(labels=np.array([0] * 11 + [1] * 9)), "has 0 clips of .* and 11 of"),
    (lambda content: content.update(clips=np.zeros((20, 3, 3))), "needed are"),
    (lambda content: content.update(mean=np.array([0.1, 0.2, 0.3])), "another mean than --dataset"),
    (lambda content: content.update(class_names=np.array(["a"] * 10)), "other classes than --dataset"),
    (lambda content: content.update(soft_labels=np.zeros((3, 10))), "the soft_labels of"),
    (lambda content: content.update(label_kind=np.array("logits")), "has no soft labels, and they are said to be"),
    (lambda content: content.update(zzz=np.zeros(9)), "has the arrays .*zzz"),
    (lambda content: content.update(clips=content["clips"].astype(np.int32)), "the clips of .* are int32"),
    (lambda content: content.update(clips=np.zeros((0, 3, 4, 4)), labels=np.zeros(0, int)), "needed are"),
    (lambda content: [content.pop(name) for name in ("mean", "std")] and content.update(
        clips=np.full((20, *SPEC.shape), 0.5)), "do not look normalised: say what they are, with --values"),
    (lambda content: content.update(soft_labels=np.zeros((20, 10))), "they are said to be 'class'"),
    (lambda content: content.update(labels=np.array([object()] * 20)), "the labels of .* are object")])
def test_arrays_that_are_no_set(change, said, saved, tmp_path, monkeypatch):
    run(monkeypatch, saved(), "--to", "npz", "--out", tmp_path / "out")
    (tmp_path / "out" / "about.json").unlink()
    with np.load(tmp_path / "out" / "set.npz") as file:
        content = dict(file)
    change(content)
    np.savez(tmp_path / "other.npz", **content)
    with pytest.raises(ValueError, match=said):
        run(monkeypatch, "--from", tmp_path / "other.npz", *FLAGS, "--out", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_uint8_arrays(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", clips=np.full((10, 4, 16, 16, 3), 255, np.uint8), labels=np.arange(10))
    run(monkeypatch, "--from", tmp_path / "x.npz", *FLAGS, "--out", tmp_path / "x.safetensors")
    assert load_synset(tmp_path / "x.safetensors")[0].videos.data[0, 0, 0, 0, 0] == pytest.approx(
        (1 - SPEC.mean[0]) / SPEC.std[0])


@pytest.mark.parametrize("table,said", [
    ([("file_name", "label"), ("../../secret.mp4", "ZeroUp")], "leads out of"),
    ([("file_name", "label"), ("absent.mp4", "ZeroUp")], "there is no clip"),
    ([("file_name", "label"), ("a.mp4", "Cats")], "clips of the class 'Cats', which is none of --dataset"),
    ([("name", "label"), ("a.mp4", "x")], "must have the columns file_name,label")])
def test_a_table_that_is_not_of_its_folder(table, said, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"x")
    with open(tmp_path / "in" / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    with pytest.raises(ValueError, match=said):
        run(monkeypatch, "--from", tmp_path / "in", *FLAGS, "--out", tmp_path / "x.safetensors")


@pytest.mark.parametrize("way", WAYS)
def test_the_same_set_gives_the_same_bytes_and_an_export_that_stops_leaves_nothing(way, saved, tmp_path, monkeypatch):
    path = saved("pixels", "logits")
    for name in ("a", "b"):
        run(monkeypatch, path, "--to", way, "--out", tmp_path / name)
        monkeypatch.setattr("time.time", lambda: 2e9)
    first, second = ({file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*")
                      if file.is_file()} for name in ("a", "b"))
    assert first == second and len(first) >= 3

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("distill_utils.exchange.write_csv", stop)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, path, "--to", way, "--out", tmp_path / "c")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b", path.name]


def test_nothing_is_replaced(saved, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    with pytest.raises(ValueError, match="is there already, and an export never replaces anything"):
        run(monkeypatch, saved(), "--to", "npz", "--out", tmp_path / "there")
    assert (tmp_path / "there" / "mine").read_text() == "mine"


@pytest.mark.parametrize("words,said", [
    (["x.safetensors", "--out", "y"], "give either SET --to WAY, or --from CLIPS"),
    (["--from", "x", "--out", "y.safetensors"], "--from needs --dataset"),
    (["--from", "x", "--dataset", "MotionDigits", "--out", "y"], "must be a new file that ends in .safetensors")])
def test_flags_that_do_not_belong_together(words, said, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, *words)
    assert said in capsys.readouterr().err


def test_values_beyond_black_and_white_are_told(saved, tmp_path, monkeypatch, capsys):
    path = saved()
    synset, _ = load_synset(path)
    synset.videos.data[0] = 50
    save_synset(path, synset, SPEC, method="DM")
    run(monkeypatch, path, "--to", "frames", "--out", tmp_path / "out")
    assert "note: 5 % of the values are darker than black or brighter" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path):
    """<class>/<clip> of frames, with something changed by a test."""
    for k, name in enumerate(SPEC.classes):
        (tmp_path / "in" / name / "one").mkdir(parents=True)
        for t in range(12):
            Image.new("RGB", (16, 16), (20 * t, 20 * k, 0)).save(tmp_path / "in" / name / "one" / f"{t + 1}.png")
    return tmp_path / "in"


def test_frames_are_in_the_order_of_their_numbers(folder, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--from", folder, *FLAGS, "--out", tmp_path / "x.safetensors")
    red = (load_synset(tmp_path / "x.safetensors")[0].videos.data[0, :, 0, 0, 0] * SPEC.std[0] + SPEC.mean[0]) * 255
    torch.testing.assert_close(red, 20.0 * torch.tensor([0, 4, 7, 11]), atol=0.5, rtol=0)
    assert "note: 10 of 10 clips had another length or size than 4 frames of 16 pixels" in capsys.readouterr().err


def test_soft_labels_belong_to_a_clip_of_a_class(folder, tmp_path, monkeypatch):
    (folder / "about.json").write_text('{"label_kind": "logits"}')
    rows = [[f"{name}/one", *[float(k == j) for j in range(10)]] for k, name in enumerate(SPEC.classes)]
    with open(folder / "soft_labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([["clip", *SPEC.classes], *reversed(rows)])
    run(monkeypatch, "--from", folder, *FLAGS, "--out", tmp_path / "x.safetensors")
    assert torch.equal(load_synset(tmp_path / "x.safetensors")[0].labels.data, torch.eye(10))
    for change, said in ((rows[:-1], "is missing"), ([*rows, rows[0]], "one row of 10 numbers"),
                         ([*rows, ["x", *rows[0][1:]]], "'x' is left over")):
        with open(folder / "soft_labels.csv", "w", newline="") as file:
            csv.writer(file).writerows([["clip", *SPEC.classes], *change])
        with pytest.raises(ValueError, match=said):
            run(monkeypatch, "--from", folder, *FLAGS, "--out", tmp_path / "y.safetensors")
    (folder / "soft_labels.csv").unlink()
    with pytest.raises(ValueError, match="has no soft labels, and they are said to be 'logits'"):
        run(monkeypatch, "--from", folder, *FLAGS, "--out", tmp_path / "y.safetensors")


@pytest.mark.parametrize("about,said", [
    (json.dumps({"recipe": utils.Recipe(loss="mse_gt")._asdict()}), "makes no sense of labels that are class"),
    ('{"recipe": 3}', "about.json|recipe"), ("[]", "holds no JSON object"), ("{", "cannot be read"),
    ('{"syn_lr": "x"}', "makes no set that could be read again"), ('{"teacher": "x"}', "could be read again"),
    ('{"label_kind": ["logits"]}', "label_kind"), ('{"frames": 8}', "give --frames 8"),
    ('{"size": 99}', "give --im_size 99"),
    (json.dumps({"classes": ["a"], "mean": list(SPEC.mean), "std": list(SPEC.std)}), "has other classes"),
    (json.dumps({"classes": list(SPEC.classes), "mean": [0, 0, 0], "std": list(SPEC.std)}), "with the mean")])
def test_what_about_json_says_is_compared(about, said, folder, tmp_path, monkeypatch):
    (folder / "about.json").write_text(about)
    with pytest.raises((ValueError, TypeError), match=said) as raised:
        run(monkeypatch, "--from", folder, *FLAGS, "--out", tmp_path / "x.safetensors")
    assert isinstance(raised.value, ValueError) and not (tmp_path / "x.safetensors").exists()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_clip_is_named(folder, tmp_path, monkeypatch):
    first = folder / SPEC.classes[0]

    def refused(said):
        with pytest.raises(ValueError, match=said):
            run(monkeypatch, "--from", folder, *FLAGS, "--out", tmp_path / "x.safetensors")

    (folder / ".git" / "objects").mkdir(parents=True)       # hidden: not looked at
    (first / "._one.mp4").write_bytes(b"x")
    run(monkeypatch, "--from", folder, *FLAGS, "--out", tmp_path / "good.safetensors")
    (first / "one" / "5.png").rename(tmp_path / "5.png")
    refused("frame 5 is missing between")
    (tmp_path / "5.png").rename(first / "one" / "5.png")
    Image.new("1", (12_000, 12_000)).save(first / "one" / "1.png")
    refused("12000x12000 pixels, more than 50,000,000")
    Image.new("I;16", (16, 16)).save(first / "one" / "1.png")
    refused("a picture of the kind I;16: save it as 8-bit RGB")
    (first / "one" / "1.png").write_bytes(b"no picture")
    refused("one cannot be read .UnidentifiedImageError")
    (first / "one" / "1.png").unlink()
    os.mkfifo(first / "one" / "1.png")
    refused("1.png is no file: take it out")
    (first / "notes.txt").write_text("x")
    refused("has 1 other files .*txt 1.* in its classes")
    (first / "notes.txt").unlink()
    (tmp_path / "elsewhere").mkdir()
    (first / "two").symlink_to(tmp_path / "elsewhere")
    refused("leads out of")


def test_a_video_of_an_odd_size_comes_back(saved, tmp_path, monkeypatch):
    spec = utils.get_spec("MotionDigits", 4, 17)
    synset = SETS["pixels"](10, 1, spec.shape)
    synset.videos.data = (torch.linspace(0, 1, 17).expand(10, *spec.shape) - 0.5) / 0.3
    save_synset(tmp_path / "odd.safetensors", synset, spec, method="DM")
    run(monkeypatch, tmp_path / "odd.safetensors", "--to", "mp4", "--out", tmp_path / "out")
    flags = ["--dataset", "MotionDigits", "--frames", 4, "--im_size", 17]
    run(monkeypatch, "--from", tmp_path / "out", *flags, "--out", tmp_path / "x.safetensors")
    shown = synset.videos.clamp(-SPEC.mean[0] / SPEC.std[0], (1 - SPEC.mean[0]) / SPEC.std[0])
    assert (load_synset(tmp_path / "x.safetensors")[0].videos - shown).abs().mean() < 0.05


def test_each_variant_of_a_clip_goes_out_with_its_labels(tmp_path, monkeypatch):
    synset = SETS["s2d"](10, 1, 2, 2, SPEC.shape, n_hal=2, label_kind="logits")
    for value in (synset.static, synset.dynamic, synset.labels):
        value.data.normal_()
    save_synset(tmp_path / "s2d.safetensors", synset, SPEC, method="MTT")
    run(monkeypatch, tmp_path / "s2d.safetensors", "--to", "npz", "--out", tmp_path / "out")
    run(monkeypatch, "--from", tmp_path / "out", *FLAGS, "--out", tmp_path / "x.safetensors")
    back, _ = load_synset(tmp_path / "x.safetensors")
    assert back.num_slots == 8 and torch.equal(back.labels, synset.labels)
    which = torch.arange(8)
    clips, rows = synset.render(torch.full((8,), 3), torch.zeros(8, dtype=torch.long), variants=which)
    assert torch.allclose(back.videos[24:32], clips, atol=1e-6) and torch.equal(back.labels[24:32], rows)


def test_no_bytes_of_an_archive_end_in_a_traceback(saved, tmp_path, monkeypatch):
    run(monkeypatch, saved(), "--to", "npz", "--out", tmp_path / "out")
    content, draw = (tmp_path / "out" / "set.npz").read_bytes(), np.random.default_rng(0)
    for turn in range(40):
        changed = bytearray(content[:draw.integers(len(content))] if turn % 4 == 0 else content)
        for place in draw.integers(len(changed), size=3) if changed else ():
            changed[place] ^= 1 << draw.integers(8)
        (tmp_path / "x.npz").write_bytes(changed)
        with contextlib.suppress(ValueError):
            run(monkeypatch, "--from", tmp_path / "x.npz", *FLAGS, "--out", tmp_path / f"{turn}.safetensors")


BLOCKS = dict(re.findall(r"```python\n# (\w+)\n(.*?)```", (ROOT / "docs" / "using.md").read_text(), re.DOTALL))


@pytest.mark.parametrize("form", ["safetensors", *WAYS])
def test_a_network_is_trained_in_a_few_lines_of_plain_pytorch(form, saved, tmp_path, monkeypatch):
    """As docs/using.md shows it."""
    assert BLOCKS.keys() == {"safetensors", "train", *WAYS}
    path = saved()
    path.rename(tmp_path / "synset.safetensors")
    monkeypatch.chdir(tmp_path)
    if form == "hf":
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    if form != "safetensors":
        run(monkeypatch, "synset.safetensors", "--to", form, "--out", form)
    scope = {}
    torch.manual_seed(0)
    exec(BLOCKS[form] + BLOCKS["train"].replace("range(300)", "range(40)"), scope)
    assert scope["clips"].shape == (20, *SPEC.shape) and sorted(scope["labels"].tolist()) == sorted([*range(10)] * 2)
    hits = scope["network"](scope["clips"].transpose(1, 2)).argmax(1) == scope["labels"]
    assert hits.float().mean() > 0.3
