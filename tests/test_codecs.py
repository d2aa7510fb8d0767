"""Stores that code pixels as pictures and video: what comes back, what is refused, and that nothing is believed."""
import io
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import distill_DM
import utils
from distill_utils import codecs
from distill_utils.storage import as_stored, file_bytes, pack, save_synset, storage_bytes
from distill_utils.synset import SETS, KeyFrameSet, all_pairs, load_synset
from distill_utils.tensors import TensorFile, save_tensors
from evaluate import load_fitting

LOSSY = ("jpeg:90", "webp:90", "h264:18", "h265:18", "av1:20")


def moving(shape, seed=0):
    """Smooth clips that move, uint8 (N, T, C, H, W)."""
    n, t, c, h, w = shape
    y, x, time = np.arange(h)[:, None], np.arange(w), np.arange(t)[:, None, None, None]
    phase = np.random.default_rng(seed).uniform(0, 6, (n, 1, c, 1, 1))
    return (128 + 90 * np.sin(phase + (x + y + 2 * time)[None] / 9)).astype(np.uint8)


@pytest.mark.parametrize("store", ("zip", *LOSSY))
@pytest.mark.parametrize("shape", [(4, 5, 3, 32, 32), (4, 1, 3, 28, 28), (3, 4, 1, 15, 17), (2, 1, 1, 9, 9)])
def test_samples_come_back(shape, store):
    """Odd sizes, one channel and one frame too; the same samples give the same bytes."""
    samples = moving(shape)
    coded, lengths = codecs.encode(samples, 2, store)
    assert len(lengths) in codecs.groupings(shape, 2, picture=True) and lengths.sum() == len(coded)
    again, _ = codecs.encode(samples, 2, store)
    assert np.array_equal(coded, again)
    back = codecs.decode(coded, lengths, shape, 2, store)
    assert back.shape == shape and back.dtype == np.uint8
    difference = np.abs(back.astype(int) - samples).mean()
    assert difference == 0 if store == "zip" else difference < 6


def test_large_clips_of_h265_are_the_same_bytes_whatever_the_memory_held():
    """Of memory that is filled before use, as every malloc of glibc does where it is told so."""
    code = ("import hashlib, numpy, sys; sys.path.insert(0, '.'); from distill_utils import codecs; "
            "blocks = numpy.random.default_rng(1).integers(0, 256, (3, 3, 3, 33, 33)).astype(numpy.uint8); "
            "clips = blocks.repeat(4, 3).repeat(4, 4)[..., :128, :128]; "
            "print(hashlib.sha256(codecs.encode(clips, 3, 'h265:18')[0].tobytes()).hexdigest())")
    sums = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           cwd=Path(codecs.__file__).parent.parent,
                           env={**os.environ, "MALLOC_PERTURB_": fill}).stdout for fill in ("0", "37", "170")}
    assert len(sums) == 1


@pytest.mark.parametrize("channels", (1, 3))
def test_clips_that_are_stored_again_and_again_do_not_grow_darker(channels):
    tints = np.array([1, 0.9, 0.8])[:channels, None, None]        # all colours in between are ones that video has
    clips = back = (moving((2, 4, 1, 32, 32)) * tints).astype(np.uint8)
    for _ in range(6):
        back = codecs.decode(*codecs.encode(back, 2, "h264:0"), clips.shape, 2, "h264:0")
    assert np.abs((back.astype(float) - clips).mean((0, 1, 3, 4))).max() < 1


def test_worse_quality_takes_fewer_bytes():
    samples = moving((4, 8, 3, 32, 32)) + np.random.default_rng(0).integers(0, 30, (4, 8, 3, 32, 32), dtype=np.uint8)
    for name, codec in codecs.CODECS.items():
        if codec.worst is not None:
            qualities = np.linspace(codec.worst, codec.best, 4).round().astype(int)
            sizes = [len(codecs.encode(samples, 2, f"{name}:{quality}")[0]) for quality in qualities]
            assert sizes == sorted(sizes) and sizes[0] < sizes[-1] / 2, name


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("store", ("zip", *LOSSY))
def test_every_set_in_every_store(kind, store, few_digits, tmp_path):
    spec = utils.get_spec("MotionDigits", 4, 16)
    clips = utils.get_dataset("MotionDigits", few_digits, frames=4, im_size=16).train
    arguments = {"pixels": (10, 2, spec.shape), "still": (10, 2, spec.shape[1:]), "keyframes": (10, 2, spec.shape),
                 "s2d": (10, 2, 2, 2, spec.shape)}
    synset = SETS[kind](*arguments[kind], label_kind="logits")
    synset.start(clips, 0)
    synset.labels.data.normal_()
    save_synset(tmp_path / "x.safetensors", synset, spec, store)
    loaded, header = load_synset(tmp_path / "x.safetensors")
    assert header["store"] == store
    for name, value in as_stored(synset, store, spec).state_dict().items():     # scores are of what is in the file
        assert torch.equal(value, loaded.state_dict()[name])
        if name.startswith(synset.exact):
            assert torch.equal(value, synset.state_dict()[name])
    exact, coded = (part.render(*all_pairs(part))[0] for part in (synset, loaded))
    assert (exact - coded).abs().mean() < (0.01 if store == "zip" else 0.25)
    assert file_bytes(tmp_path / "x.safetensors") == storage_bytes(synset, store, spec) < storage_bytes(synset) / (
        3.5 if store == "zip" else 6)


def test_key_frames_that_grew_are_coded(tmp_path):
    spec = utils.get_spec("MotionDigits", 8, 16)
    synset = KeyFrameSet(10, 1, spec.shape, num_frames=23)
    synset.places.zero_()[:, [0, -1]] = True
    synset.places[:3, 4] = True
    synset.load_state_dict(synset.state_dict() | {"frames": torch.randn(23, 3, 16, 16)})
    for store in ("zip", "jpeg:90", "h264:18"):
        save_synset(tmp_path / "x.safetensors", synset, spec, store)
        loaded = load_synset(tmp_path / "x.safetensors")[0]
        assert torch.equal(loaded.places, synset.places) and loaded.frames.shape == (23, 3, 16, 16)


# ---- what is refused ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("store,said", [
    ("jpeg", "needs a quality from 1 .smallest. to 95 .best., such as jpeg:48"), ("jpeg:96", "from 1 .smallest. to 95"),
    ("h264:52", "from 51 .smallest. to 0 .best."), ("h264:-1", "needs a quality"), ("av1:x", "needs a quality"),
    ("h264:028", "needs a quality"), ("h264:\u0662", "needs a quality"), ("zip:", "has no quality: give zip"),
    ("zip:9", "the store zip has no quality: give zip"), ("gif", "there is no store 'gif': choose float32, bfloat16")])
def test_a_store_that_is_none_is_refused(store, said, monkeypatch, capsys):
    with pytest.raises(ValueError, match=said):
        codecs.parse_store(store)
    monkeypatch.setattr(sys, "argv", ["distill_DM.py", "--store", store])
    with pytest.raises(SystemExit):
        distill_DM.main()
    assert "argument --store: " in capsys.readouterr().err


def test_an_encoder_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(codecs.CODECS, "h266", codecs.Codec(None, None, 63, 0, "libvvenc_of_nobody"))
    with pytest.raises(ValueError, match="needs libvvenc_of_nobody, which the FFmpeg of the installed PyAV has not; it "
                                         "has h264, h265, av1"):
        codecs.parse_store("h266:30")


def test_without_pyav_video_is_refused_and_pictures_are_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="the store h265 codes video with PyAV, which is not installed"):
        codecs.parse_store("h265:30")
    codecs.parse_store("webp:30")


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="these samples have 2 channels: give float32, bfloat16 or uint8"):
        codecs.encode(np.zeros((2, 1, 2, 8, 8), np.uint8), 2, "jpeg:50")


@pytest.mark.parametrize("store", ("zip", *LOSSY))
def test_a_stream_is_not_believed(store):
    """Cut short, of another size, with more frames than expected, or no such stream at all."""
    shape = (2, 4, 3, 32, 32)
    coded, lengths = codecs.encode(moving(shape), 2, store)
    short = lengths.copy()
    short[-1] = lengths[-1] // 2
    for bytes_, sizes, other in (
            (coded[:short.sum()], short, shape), (np.zeros_like(coded), lengths, shape), *(
                (coded, lengths, (2, *other)) for other in ((4, 3, 48, 48), (3, 3, 32, 32), (5, 3, 32, 32)))):
        with pytest.raises(ValueError, match=rf"its stream \d is no {store} of"):
            codecs.decode(bytes_, sizes, other, 2, store)
    for sizes in (lengths[:-1], -lengths, lengths + 1, np.array([], np.int64)):
        with pytest.raises(ValueError, match="streams of .* bytes are not those of 2 samples"):
            codecs.decode(coded, sizes, shape, 2, store)


def test_lengths_whose_sum_is_right_only_in_64_bits_are_refused():
    coded, lengths = np.zeros(9, np.uint8), np.array([2 ** 62] * 4 + [9, 0])
    assert lengths.sum() == len(coded)
    with pytest.raises(ValueError, match="its 6 streams of 9 bytes are not those of 6 samples"):
        codecs.decode(coded, lengths, (6, 1, 3, 32, 32), 6, "h264:18")


def test_a_stream_without_its_last_bytes_is_not_mended_by_guesses():
    shape = (2, 8, 3, 32, 32)
    coded, lengths = codecs.encode(moving(shape), 2, "h264:18")
    lengths[-1] -= 12
    with pytest.raises(ValueError, match="its stream 1 is no h264:18 .*frame 7 is damaged"):
        codecs.decode(coded[:-12], lengths, shape, 2, "h264:18")


@pytest.mark.parametrize("name", ("jpeg", "webp"))
@pytest.mark.parametrize("channels", (1, 3))
def test_a_picture_ends_where_its_bytes_do(name, channels):
    frames = moving((1, 2, channels, 16, 16))[0].transpose(0, 2, 3, 1)
    codec = codecs.CODECS[name]
    coded = codec.encode(frames, 90)
    codec.decode(coded, frames.shape)
    with pytest.raises(ValueError, match="it does not end where its bytes do"):
        codec.decode(coded + b"more", frames.shape)


def test_a_picture_has_the_colours_that_were_stored():
    file = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(file, "JPEG")
    with pytest.raises(ValueError, match="its pixels are CMYK"):
        codecs.CODECS["jpeg"].decode(file.getvalue(), (1, 8, 8, 3))


def test_a_picture_of_another_kind_is_not_opened():
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "GIF")
    with pytest.raises(ValueError, match="it is no JPEG, or damaged"):
        codecs.CODECS["jpeg"].decode(file.getvalue(), (1, 32, 32, 3))


@pytest.mark.parametrize("name,change", [
    ("videos", lambda value: value[:-9]), ("videos", lambda value: value.float()),
    ("videos.lengths", lambda value: -value), ("videos.lengths", lambda value: value.int()),
    ("videos.range", lambda value: value[:1]), ("videos.range", None), ("videos.lengths", None)])
def test_a_file_that_does_not_hold_together_is_refused(name, change, tmp_path):
    spec = utils.get_spec("MotionDigits", 4, 16)
    synset = SETS["pixels"](10, 1, spec.shape)
    synset.videos.data = torch.randn(10, *spec.shape)
    save_synset(tmp_path / "x.safetensors", synset, spec, "h264:30")
    file = TensorFile(tmp_path / "x.safetensors")
    tensors, header = file.read_all(), {key: value for key, value in file.header.items() if key != "sum"}
    if change:
        tensors[name] = change(tensors[name])
    else:
        del tensors[name]
    save_tensors(tmp_path / "x.safetensors", tensors, **header)
    with pytest.raises(ValueError, match="is not a synthetic set of this program"):
        load_synset(tmp_path / "x.safetensors")


@pytest.mark.parametrize("store", ["h264:30", "jpeg:50", "uint8"])
@pytest.mark.parametrize("extra", [
    {"videos.range": torch.zeros(2, 5)}, {"videos.range": torch.zeros(2, 0)},
    {"videos.range": torch.tensor([[1.0] * 3, [0.0] * 3])}, {"videos.range.range": torch.zeros(2, 3)},
    {"videos.lengths.range": torch.zeros(2, 3)}, {"foo": torch.zeros(3), "foo.range": torch.zeros(2, 3)},
    {"foo": torch.zeros(3), "foo.lengths": torch.zeros(1, dtype=torch.int64)}])
def test_a_forged_file_is_named(store, extra, tmp_path):
    spec = utils.get_spec("MotionDigits", 4, 16)
    save_synset(tmp_path / "x.safetensors", SETS["pixels"](10, 1, spec.shape), spec, store)
    file = TensorFile(tmp_path / "x.safetensors")
    save_tensors(tmp_path / "x.safetensors", file.read_all() | extra, **file.header)
    with pytest.raises(ValueError, match="x.safetensors is not a synthetic set of this program .its tensor '"):
        load_synset(tmp_path / "x.safetensors")


@pytest.mark.parametrize("change,said", [
    ({"size": 32}, "says 4 frames of 32 pixels"), ({"frames": 5}, "says 5 frames"),
    ({"classes": ["a"]}, "lists 1 classes")])
def test_a_header_that_contradicts_itself_is_refused_before_anything_is_decoded(change, said, tmp_path, monkeypatch):
    spec = utils.get_spec("MotionDigits", 4, 16)
    save_synset(tmp_path / "x.safetensors", SETS["pixels"](10, 1, spec.shape), spec, "h264:30")
    file = TensorFile(tmp_path / "x.safetensors")
    save_tensors(tmp_path / "x.safetensors", file.read_all(), **file.header | change)
    monkeypatch.setattr("distill_utils.storage.decode", lambda *args: pytest.fail("something was decoded"))
    with pytest.raises(ValueError, match=said):
        load_synset(tmp_path / "x.safetensors")


def test_a_set_of_another_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    spec = utils.get_spec("MotionDigits", 4, 48)
    save_synset(tmp_path / "x.safetensors", SETS["pixels"](10, 1, spec.shape), spec, "h264:30", method="DM")
    monkeypatch.setattr("distill_utils.storage.decode", lambda *args: pytest.fail("something was decoded"))
    with pytest.raises(ValueError, match="the set holds samples of shape"):
        load_fitting(tmp_path / "x.safetensors", utils.get_spec("MotionDigits", 4, 16))


def test_a_picture_of_several_frames_is_refused():
    frames, file = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (0, 90)], io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="it is 8x8, 2 frames"):
        codecs.CODECS["webp"].decode(file.getvalue(), (1, 8, 8, 3))


def test_what_an_encoder_does_not_take_is_told():
    with pytest.raises(ValueError, match="libx265 does not code frames of 1600x1600 pixels .*: give another --store"):
        codecs.encode(np.zeros((1, 1, 3, 1600, 1600), np.uint8), 1, "h265:50")


def test_a_header_of_many_samples_takes_no_memory(tmp_path):
    spec = utils.get_spec("MotionDigits", 4, 16)
    synset = SETS["pixels"](10, 1, spec.shape)
    path, many = tmp_path / "x.safetensors", 300_000
    save_synset(path, synset, spec, "zip")
    file = TensorFile(path)
    save_tensors(path, file.read_all() | {"videos": torch.zeros(many, dtype=torch.uint8)}, **file.header | {
        "arguments": file.header["arguments"] | {"ipc": many}})
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"the labels of its header are not {many} of each class"):
        load_synset(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6


def test_weights_of_key_frames_that_memory_does_not_hold_are_refused():
    with pytest.raises(ValueError, match="to make clips of 200000 frames of 200000 key frames each takes .* GB of"):
        KeyFrameSet(1, 1, (200_000, 1, 1, 1), n_syn=200_000)


def test_values_that_are_not_finite_are_not_stored(tmp_path):
    spec = utils.get_spec("MotionDigits", 4, 16)
    synset = SETS["pixels"](10, 1, spec.shape)
    synset.videos.data[3] = float("nan")
    with pytest.raises(ValueError, match="was left as it was"):
        save_synset(tmp_path / "x.safetensors", synset, spec, "h264:30")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_class_shares_a_stream_where_that_takes_fewer_bytes():
    still = np.repeat(moving((2, 1, 3, 32, 32)), 8, axis=0)     # 8 times the same clip in each class
    _, lengths = codecs.encode(still, 2, "h264:28")
    assert len(lengths) == 2
    spec = utils.get_spec("MotionDigits", 4, 16)
    synset = SETS["pixels"](10, 2, spec.shape)
    assert pack(synset, "h264:28", spec)["videos.lengths"].numel() in (10, 20)
