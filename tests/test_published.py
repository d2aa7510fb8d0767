"""Sets of other programs: what is read of their files, what is refused, and that they are scored."""
import json
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import evaluate
from conftest import NET
from distill_utils import published
from distill_utils.args import cli
from distill_utils.dataset import get_spec
from distill_utils.synset import (
    Hallucinator,
    ImageSet,
    StaticDynamicSet,
    VideoSet,
    load_published,
    load_static,
    save_synset,
)

SPEC = get_spec("MotionDigits")
IMAGE, CLIP = SPEC.shape[1:], SPEC.shape
MIXED = torch.arange(10).repeat(2)      # 0 to 9, and again


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


IMAGES, CLIPS = randn(20, *IMAGE), randn(20, *CLIP)


def sort(images):
    return torch.stack([images[i] for k in range(10) for i in (k, k + 10)])


# ---- what is read -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("images", [IMAGES, CLIPS], ids=["images", "clips"])
@pytest.mark.parametrize("content,mixed", [
    (lambda images: images, False),
    (nn.Parameter, False),
    (lambda images: {"image": images}, False),
    (lambda images: {"image": images, "label": MIXED}, True),
    (lambda images: {"data": [[images, MIXED], [images + 1, MIXED]],
                     "accs_all_exps": {"ConvNet": [np.float64(0.5), np.float32(0.5)]}}, True)])
@pytest.mark.parametrize("as_zip", [True, False])
def test_the_forms_of_others_are_read(tmp_path, images, content, mixed, as_zip, capsys):
    file = tmp_path / "images_best.pt"
    torch.save(content(images), file, _use_new_zipfile_serialization=as_zip)
    synset, wanted = load_published(file, SPEC), sort(images) if mixed else images
    assert type(synset) is (ImageSet if images is IMAGES else VideoSet) and synset.num_slots == 2
    assert torch.equal(next(synset.parameters()), wanted) and synset.shape == tuple(images.shape[1:])
    said = capsys.readouterr().err
    assert "does not say" in said and ("sorted by the labels in it" if mixed else "lying class by class") in said
    assert ("2 experiments: the first is read" in said) == ("data" in content(images) if mixed else False)
    if images is IMAGES:
        assert torch.equal(load_static(file, SPEC, 2), wanted)


def test_labels_that_lie_beside_images_are_used(tmp_path, capsys):
    torch.save(IMAGES, tmp_path / "images_5000.pt")
    torch.save(MIXED, tmp_path / "labels_best.pt")
    assert torch.equal(load_published(tmp_path / "images_5000.pt", SPEC).static, IMAGES)
    torch.save(MIXED, tmp_path / "labels_5000.pt")
    assert torch.equal(load_published(tmp_path / "images_5000.pt", SPEC).static, sort(IMAGES))
    assert f"sorted by {tmp_path / 'labels_5000.pt'}" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_other_types_become_float32(tmp_path, dtype):
    torch.save(IMAGES.to(dtype), tmp_path / "x.pt")
    assert torch.equal(load_published(tmp_path / "x.pt", SPEC).static, IMAGES.to(dtype).float())


@pytest.mark.parametrize("values,white", [("unit", 1), ("bytes", 255)])
def test_pixels_are_normalised_when_told_what_they_are_and_refused_when_not(tmp_path, values, white):
    pixels = torch.randint(256, (20, *IMAGE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    stored = pixels if white == 255 else pixels / 255
    torch.save(stored, tmp_path / "x.pt")
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (SPEC.mean, SPEC.std))
    torch.testing.assert_close(load_published(tmp_path / "x.pt", SPEC, values).static, (pixels / 255 - mean) / std)
    torch.testing.assert_close(load_static(tmp_path / "x.pt", SPEC, 2, values), (pixels / 255 - mean) / std)
    assert torch.equal(load_published(tmp_path / "x.pt", SPEC, "normalised").static, stored.float())
    for read in (lambda: load_published(tmp_path / "x.pt", SPEC), lambda: load_static(tmp_path / "x.pt", SPEC, 2)):
        with pytest.raises(ValueError, match=f"x.pt holds values from 0 to {white}, .*not look normalised.*--values"):
            read()
    torch.save(IMAGES, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=rf"but --values {values} are 0 to {white}"):
        load_published(tmp_path / "x.pt", SPEC, values)


class Conv3DNet(nn.Module):
    """As S2D names it: one convolution, of some name."""
    def __init__(self, channels):
        super().__init__()
        self.encoder = nn.Conv3d(channels, 3, 3, padding=1)


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("mode", ["concat", "add"])
@pytest.mark.parametrize("several", [lambda hals: nn.ModuleList(hals).state_dict(),
                                     lambda hals: [hal.state_dict() for hal in hals]])
def test_sets_of_s2d_are_put_together(tmp_path, flat, mode, several):
    torch.manual_seed(0)
    hals, dynamic = [Conv3DNet(4 if mode == "concat" else 3) for _ in range(2)], randn(10, 4, 8, 1, 32, 32)
    torch.save({"image": IMAGES}, tmp_path / "static.pt")
    torch.save(dynamic.flatten(0, 1) if flat else dynamic, tmp_path / "dynamic_best.pt")
    torch.save(several(hals), tmp_path / "hal_best.pt")
    files = [tmp_path / name for name in ("static.pt", "dynamic_best.pt", "hal_best.pt")]
    synset = load_published(files[0], SPEC, None, files[1], files[2], 2)
    assert isinstance(synset, StaticDynamicSet) and synset.arguments == {
        "num_classes": 10, "vpc": 2, "spc": 2, "dpc": 4, "shape": list(CLIP), "n_hal": 2, "hal_mode": mode}
    assert torch.equal(synset.static, IMAGES) and torch.equal(synset.dynamic, dynamic)
    ours = Hallucinator(3, mode)
    ours.conv.load_state_dict(hals[0].encoder.state_dict())
    clips, _ = synset.render(torch.tensor([3]), torch.tensor([1]))      # the first image, memory and hallucinator
    torch.testing.assert_close(clips, ours(IMAGES[7:8], dynamic[3, 2:3]))


# ---- what is refused ----------------------------------------------------------------------------------------------

def views():
    """Tensors whose numbers are not all in their file: saved in some bytes, and some terabytes as copies."""
    return torch.zeros(1).half().expand(10 ** 9, *IMAGE), torch.zeros(1).expand(20, *IMAGE)


def refused(tmp_path, content, labels=None):
    """The message for a file, as --synset and as --path_static."""
    file = tmp_path / "images_x.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    if labels is not None:
        torch.save(labels, tmp_path / "labels_x.pt")
    messages = []
    for read in (lambda: load_published(file, SPEC), lambda: load_static(file, SPEC, 2)):
        with pytest.raises(ValueError) as error:
            read()
        messages.append(str(error.value))
        assert str(file) in messages[-1] and "weights_only" not in messages[-1] and len(messages[-1]) < 500
    return messages


@pytest.mark.parametrize("content,message", [
    (views()[0], "a view that repeats them"), (views()[1], "a view that repeats them"),
    (IMAGES.to_sparse(), "that is sparse"), (torch.zeros(20, *IMAGE, device="meta"), "without numbers"),
    (IMAGES.to(torch.complex64), "holds torch.complex64 numbers"), (IMAGES.long(), "holds torch.int64 numbers"),
    (IMAGES.to(torch.float8_e5m2), "holds torch.float8_e5m2 numbers"),
    (IMAGES * 1e37, "not finite, or too large"), (IMAGES / 0, "not finite, or too large"),
    (IMAGES[:0], r"shape \(0, 3, 32, 32\)"), (IMAGES[:, 0], r"shape \(20, 32, 32\)"),
    (IMAGES[:15], r"shape \(15, 3, 32, 32\)"), (randn(10, 9, *IMAGE), r"shape \(10, 9, 3, 32, 32\)"),
    (b"", "it is empty"), (b"hello", "not written by torch.save"), (pickle.dumps([1, 2]), "torch.save"),
    ({"images": IMAGES}, "has no images"), ([IMAGES], "has no images"), (3, "has no images"),
    ({"data": []}, 'its "data" is no list of'), ({"data": [IMAGES]}, 'its "data" is no list of'),
    ({"data": [[IMAGES, [0, 1]]]}, "labels of .* is a list where a tensor is needed"),
    ({"data": [["a", MIXED]]}, "is a str where a tensor is needed")])
def test_what_is_no_set_is_named(tmp_path, content, message):
    for said in refused(tmp_path, content):
        assert re.search(message, said), said


@pytest.mark.parametrize("labels,message", [
    (randn(20, 10), "soft labels, torch.float32 (20, 10)"),
    (MIXED[:, None], "have the shape (20, 1), but there are 20"),
    (MIXED[:10], "have the shape (10,), but there are 20"), (MIXED + 1, "not as many of each class from 0 to 9"),
    (MIXED - 1, "not as many of each class"), (MIXED // 2, "not as many of each class"),
    (torch.arange(20), "not as many of each class"),
    ([0] * 20, "is a list where a tensor is needed")])
def test_labels_that_fit_no_images_are_named(tmp_path, labels, message):
    for said in refused(tmp_path, IMAGES, labels):
        assert message in said


def archive(path, pickled, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in (("data.pkl", pickled), ("version", b"3"), ("byteorder", b"little")):
            file.writestr(f"archive/{name}", content)


def test_hostile_files_are_refused(tmp_path):
    nested = b"\x80\x02" + b"]" * 10 ** 5 + b"a" * (10 ** 5 - 1) + b"."
    archive(tmp_path / "images_x.pt", nested)
    assert "has no images" in refused(tmp_path, None)[0]
    archive(tmp_path / "images_x.pt", nested, zipfile.ZIP_DEFLATED)
    assert "it is compressed" in refused(tmp_path, None)[0]
    torch.save(IMAGES, tmp_path / "whole.pt")
    assert "damaged, cut short" in refused(tmp_path, (tmp_path / "whole.pt").read_bytes()[:20_000])[0]
    (tmp_path / "images_x.pt").unlink()
    (tmp_path / "images_x.pt").mkdir()
    assert "it is a folder" in refused(tmp_path, None)[0]


@pytest.mark.parametrize("numpys", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_of_numpy_are_passed_over(tmp_path, numpys):
    """DC's files have them beside the images; a file cannot make numpy do anything."""
    archive(tmp_path / "x.pt", b"\x80\x02c" + numpys.encode() + b"\nscalar\nX\x01\x00\x00\x00xK\x01\x86R.")
    assert type(published.read_pt(tmp_path / "x.pt", "--synset")) is published.Skipped


S2D = {"dynamic": randn(20, 8, 1, 32, 32), "hal": nn.ModuleList([Conv3DNet(4)]).state_dict()}


@pytest.mark.parametrize("changed,vpc,message", [
    ({"dynamic": randn(15, 8, 1, 32, 32)}, 1,
     r"dynamic.pt holds memories of shape \(15, .*needs \(10, dpc, 8, 1, 32, 32\) or \(10 \* dpc, 8, 1, 32, 32\)"),
    ({"dynamic": randn(10, 9, 1, 32, 32)}, 1, "holds memories of shape"),
    ({"dynamic": randn(5, 2, 8, 1, 32, 32)}, 1, "holds memories of shape"),
    ({"dynamic": randn(10, 0, 8, 1, 32, 32)}, 1, "holds memories of shape"),
    ({"dynamic": S2D["dynamic"] / 0}, 1, "dynamic.pt holds values that are not finite"),
    ({"dynamic": S2D["dynamic"].long()}, 1, "dynamic.pt holds torch.int64"),
    ({"dynamic": {"a": 1}}, 1, "dynamic.pt is a dict where a tensor"),
    ({"hal": {}}, 1, "hal.pt is not a state dict of hallucinators"),
    ({"hal": 3}, 1, "hal.pt is not a state dict of hallucinators"),
    ({"hal": nn.Conv3d(5, 3, 3).state_dict()}, 1, r"hal.pt .*\(3, 4, 3, 3, 3\) \(concat\)"),
    ({"hal": [nn.Conv3d(4, 3, 3).state_dict(), nn.Conv3d(3, 3, 3).state_dict()]}, 1, "hal.pt is not a state dict"),
    ({"hal": nn.Conv3d(4, 3, 3, bias=False).state_dict()}, 1, "hal.pt is not a state dict"),
    ({"hal": nn.BatchNorm3d(3).state_dict()}, 1, "hal.pt is not a state dict.*'running_mean'"),
    ({"hal": {"weight": torch.full((3, 4, 3, 3, 3), torch.nan), "bias": torch.zeros(3)}}, 1, "hal.pt.*not finite"),
    ({}, 3, "--vpc 3 clips cannot share the 2 static images")])
def test_parts_of_s2d_that_do_not_fit_are_named(tmp_path, changed, vpc, message):
    torch.save({"image": IMAGES}, tmp_path / "static.pt")
    for name, content in (S2D | changed).items():
        torch.save(content, tmp_path / f"{name}.pt")
    with pytest.raises(ValueError, match=message):
        load_published(tmp_path / "static.pt", SPEC, None, tmp_path / "dynamic.pt", tmp_path / "hal.pt", vpc)


# ---- evaluate.py --------------------------------------------------------------------------------------------------

@pytest.fixture
def score(few_digits, tmp_path, monkeypatch, capsys):
    """score(flags ...) -> (result, stderr) of evaluate.py, or (None, stderr) where it ends with an error."""
    def call(*words):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words), "--data_path", str(few_digits), "--model",
                                          NET, "--num_eval", "1", "--epoch_eval_train", "1", "--device", "cpu"])
        capsys.readouterr()
        try:
            cli(evaluate.main)
        except SystemExit:
            return None, capsys.readouterr().err
        out, err = capsys.readouterr()
        return json.loads(out.splitlines()[-1].removeprefix("RESULT ")), err
    return call


def test_published_sets_are_scored(score, tmp_path):
    torch.save(CLIPS, tmp_path / "images_best.pt")
    torch.save(IMAGES, tmp_path / "static.pt")
    for name, content in S2D.items():
        torch.save(content, tmp_path / f"{name}.pt")
    s2d = ["--dynamic", "dynamic.pt", "--hal", "hal.pt", "--vpc", 1]
    for flags, method, ipc, numbers in ((["images_best.pt"], "published", 2, CLIPS.numel()),
                                        (["static.pt"], "static", 2, IMAGES.numel()),
                                        (["static.pt", *s2d, "--name", "s2d"], "published", 1,
                                         IMAGES.numel() + S2D["dynamic"].numel() + 327)):
        result, _ = score("--synset", *flags)
        assert (result["method"], result["ipc"], result["storage_bytes"]) == (method, ipc, 4 * numbers)
        assert not result["scored_again"]
    assert {path.name for path in (tmp_path / "result" / "score").iterdir()} == {
        f"published_images_best_MotionDigits_{NET}_seed0", "s2d"}
    # the files of a run are those that it goes on with
    torch.save(MIXED, tmp_path / "labels_best.pt")
    assert "another experiment" in score("--synset", "images_best.pt", "--resume")[1]
    torch.save(S2D["dynamic"] + 1, tmp_path / "dynamic.pt")
    assert "dynamic (its content)" in score("--synset", "static.pt", *s2d, "--name", "s2d", "--resume")[1]


@pytest.mark.parametrize("words,message", [
    (["--synset", "x.safetensors", "--store", "uint8"], "--store uint8 is of a set that is made"),
    (["--train_on", "full", "--store", "bfloat16"], "--store bfloat16 is of a set that is made"),
    (["--train_on", "full", "--eval_mode", "M", "--model_eval", NET], "--eval_mode M and --model_eval both"),
    (["--train_on", "full", "--values", "unit"], "--values: only for a published set"),
    (["--synset", "x.safetensors", "--dynamic", "d.pt", "--vpc", 1], "--dynamic, --vpc: only for a published set"),
    (["--synset", "x.pt", "--dynamic", "d.pt", "--hal", "h.pt"], "needs all of --dynamic FILE, --hal FILE and --vpc N"),
    (["--synset", "x.pt", "--vpc", 1], "needs all of --dynamic FILE, --hal FILE and --vpc N"),
    (["--synset", "x.pt", "--dynamic", "d.pt", "--hal", "h.pt", "--vpc", 1, "--dataset", "singleMotionDigits"],
     "--dataset singleMotionDigits gives single frames")])
def test_flags_that_would_change_nothing_are_refused(score, words, message):
    result, said = score(*words)
    assert result is None and message in said


def test_a_rate_that_the_learned_one_replaces_is_refused(score, tmp_path):
    synset = VideoSet(10, 1, CLIP)
    synset.videos.data = CLIPS[:10]
    save_synset(tmp_path / "x.safetensors", synset, SPEC, method="MTT", dataset="MotionDigits", syn_lr=0.02)
    result, said = score("--synset", "x.safetensors", "--protocol", "paper", "--lr_net", 0.1)
    assert result is None and "--lr_net 0.1 changes nothing" in said and "0.02" in said
    assert score("--synset", "x.safetensors", "--protocol", "paper")[0]["scored_again"]


def test_nothing_that_is_read_decides_where_is_written(score, tmp_path):
    synset = VideoSet(10, 1, CLIP)
    synset.videos.data = CLIPS[:10]
    save_synset(tmp_path / "x.safetensors", synset, SPEC, method="../../elsewhere", dataset="MotionDigits")
    assert score("--synset", "x.safetensors")[0] is None
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
