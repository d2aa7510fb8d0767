"""Synthetic sets: what is rendered, which slots are drawn, how a set is stored."""
import json
import os
import struct
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from distill_utils.dataset import get_spec
from distill_utils.synset import (
    Hallucinator,
    ImageSet,
    StaticDynamicSet,
    VideoSet,
    all_pairs,
    as_stored,
    check_classes,
    load_static,
    load_synset,
    save_synset,
    storage_bytes,
)
from evaluate import load_fitting

SPEC = get_spec("MotionDigits")
SHAPE = SPEC.shape
IMAGE = SHAPE[1:]


def filled(synset, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for tensor in synset.parameters():
        tensor.data = torch.randn(tensor.shape, generator=generator)
    return synset


def sets():
    return [filled(VideoSet(10, 2, SHAPE)), filled(ImageSet(10, 3, IMAGE)), filled(ImageSet(10, 3, IMAGE, frames=8)),
            filled(StaticDynamicSet(10, 2, 4, 2, SHAPE, n_hal=2)),
            filled(StaticDynamicSet(10, 1, 2, 3, SHAPE, hal_mode="add"))]


def make(seed=0):
    return torch.Generator().manual_seed(seed)


def test_video_set_renders_its_own_pixels_class_by_class():
    synset = filled(VideoSet(10, 3, SHAPE))
    clips, labels = synset.render(torch.tensor([2, 9]), torch.tensor([1, 0]))
    assert torch.equal(clips, synset.videos[[7, 27]]) and labels.tolist() == [2, 9]


def test_an_image_as_a_clip_stands_still():
    synset = filled(ImageSet(10, 2, IMAGE))
    assert synset.render(*all_pairs(synset))[0].shape == (20, *IMAGE)
    synset.frames = 5
    clips, _ = synset.render(torch.tensor([4]), torch.tensor([1]))
    assert clips.shape == (1, 5, *IMAGE) and all(torch.equal(frame, synset.static[9]) for frame in clips[0])


def naive_hallucinator(hallucinator, static, dynamic):
    """One clip, one frame and one output channel at a time, from the definition of a padded convolution."""
    frames, size = dynamic.shape[0], static.shape[-1]
    stack = torch.zeros(hallucinator.conv.in_channels, frames + 2, size + 2, size + 2, dtype=static.dtype)
    for t in range(frames):
        for c in range(3):
            stack[c, t + 1, 1:-1, 1:-1] = static[c] + (dynamic[t, 0] if hallucinator.mode == "add" else 0)
        if hallucinator.mode == "concat":
            stack[3, t + 1, 1:-1, 1:-1] = dynamic[t, 0]
    clip = torch.zeros(frames, 3, size, size, dtype=static.dtype)
    for t in range(frames):
        for c in range(3):
            for y in range(size):
                for x in range(size):
                    patch = stack[:, t:t + 3, y:y + 3, x:x + 3]
                    clip[t, c, y, x] = (patch * hallucinator.conv.weight[c]).sum() + hallucinator.conv.bias[c]
    return clip


@pytest.mark.parametrize("mode", ["concat", "add"])
@pytest.mark.parametrize("init", ["published", "identity"])
def test_hallucinator_equals_the_naive_convolution(mode, init):
    torch.manual_seed(0)
    hallucinator = Hallucinator(3, mode, init).double()
    static, dynamic = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 1, 4, 4).double()
    clips = hallucinator(static, dynamic)
    for i in range(2):
        torch.testing.assert_close(clips[i], naive_hallucinator(hallucinator, static[i], dynamic[i]))
    if init == "identity":
        torch.testing.assert_close(clips, static[:, None] + dynamic)


def test_the_published_hallucinator_has_327_parameters():
    assert sum(p.numel() for p in Hallucinator().parameters()) == 327


@pytest.mark.parametrize("vpc,spc,dpc", [(1, 2, 2), (1, 1, 3), (5, 10, 10), (2, 4, 2), (3, 3, 6)])
def test_a_slot_draws_from_its_own_memories_only_and_from_all_of_them(vpc, spc, dpc):
    synset = StaticDynamicSet(4, vpc, spc, dpc, (1, 3, 2, 2), hal_init="identity")
    k, s = torch.meshgrid(torch.arange(4), torch.arange(spc), indexing="ij")
    synset.static.data = (1000.0 * k + 100 * s).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()
    synset.dynamic.data = torch.arange(dpc).float().view(1, -1, 1, 1, 1, 1).expand(4, -1, 1, 1, 2, 2).clone()
    classes, slots = all_pairs(synset)
    seen, generator = {}, make()
    for _ in range(150):
        clips, labels = synset.render(classes, slots, generator)
        for value, label, slot in zip(clips[:, 0, 0, 0, 0].tolist(), labels.tolist(), slots.tolist(), strict=True):
            value = round(value)
            seen.setdefault((label, slot), set()).add((value // 1000, value % 1000 // 100, value % 100))
    for (label, slot), found in seen.items():
        assert found == {(label, i, j) for i in range(slot * spc // vpc, (slot + 1) * spc // vpc)
                         for j in range(slot * dpc // vpc, (slot + 1) * dpc // vpc)}
    assert len(seen) == 4 * vpc


def test_every_hallucinator_is_drawn_and_one_draw_serves_one_clip():
    synset = StaticDynamicSet(10, 1, 1, 1, SHAPE, n_hal=3)
    for i, hallucinator in enumerate(synset.hallucinators):
        hallucinator.conv.weight.data.zero_()
        hallucinator.conv.bias.data.fill_(i)
    clips, _ = synset.render(*all_pairs(synset), make())
    assert set(clips.unique().tolist()) == {0.0, 1.0, 2.0} and all(len(clip.unique()) == 1 for clip in clips)


@pytest.mark.parametrize("synset", sets(), ids=lambda s: type(s).__name__)
def test_rendering_is_one_batch_with_gradients_and_follows_its_generator(synset):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    a, labels = synset.render(*all_pairs(synset), make(3))
    b, _ = synset.render(*all_pairs(synset), make(3))
    assert torch.equal(a, b) and torch.equal(torch.get_rng_state(), state)
    assert labels.tolist() == [k for k in range(10) for _ in range(synset.num_slots)]
    a.square().sum().backward()
    assert all(p.grad is not None for p in synset.parameters())
    synset.zero_grad()


@pytest.mark.parametrize("spc,dpc,name", [(3, 2, "spc"), (2, 3, "dpc"), (1, 2, "spc")])
def test_memories_that_cannot_be_shared_are_named(spc, dpc, name):
    with pytest.raises(ValueError, match=f"--{name} .*multiple of 2"):
        StaticDynamicSet(10, 2, spc, dpc, SHAPE)


def test_the_real_start_renders_the_movement_of_the_real_clips():
    real = torch.randn(4, 2, *SHAPE)
    synset = StaticDynamicSet(4, 2, 2, 2, SHAPE, hal_init="identity")
    synset.static.data = real[:, :, 4].flatten(0, 1).clone()
    synset.encode(real)
    clips, _ = synset.render(*all_pairs(synset))
    torch.testing.assert_close(clips.mean(2), real.flatten(0, 1).mean(2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clips[:, 4], real.flatten(0, 1)[:, 4], rtol=1e-4, atol=1e-5)


def test_hallucinators_follow_from_the_seed_whatever_the_global_state(digit_data):
    weights = []
    for state, seed in ((1, 3), (2, 3), (1, 4)):
        torch.manual_seed(state)
        synset = StaticDynamicSet(10, 1, 2, 2, SHAPE, n_hal=2)
        synset.start(digit_data.train, seed)
        weights.append([hallucinator.conv.weight for hallucinator in synset.hallucinators])
    assert torch.equal(weights[0][0], weights[1][0]) and not torch.equal(weights[0][0], weights[2][0])
    assert not torch.equal(*weights[0])


def test_memories_start_from_the_first_clips_and_images_from_theirs():
    real = torch.randn(4, 4, *SHAPE)
    synset = StaticDynamicSet(4, 1, 4, 2, SHAPE, hal_init="identity")
    synset.encode(real)
    assert torch.equal(synset.static, real[:, :, 4].flatten(0, 1))
    still = real[:, :, 4].mean(2, keepdim=True).mean(1, keepdim=True)       # (4, 1, 1, H, W)
    torch.testing.assert_close(synset.dynamic, real[:, :2].mean(3, keepdim=True) - still[:, :, None])


# ---- storage ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("store", ["float32", "bfloat16", "uint8"])
@pytest.mark.parametrize("synset", sets(), ids=lambda s: type(s).__name__)
def test_saved_sets_come_back_and_train_as_stored(tmp_path, synset, store):
    path = tmp_path / "synset.safetensors"
    save_synset(path, synset, SPEC, store, method="DM", dataset="MotionDigits", seed=3, protocol="standard", lr=0.02)
    loaded, header = load_synset(path)
    assert type(loaded) is type(synset) and loaded.arguments == synset.arguments
    for name, value in as_stored(synset, store, SPEC).state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
        span = float(synset.state_dict()[name].amax() - synset.state_dict()[name].amin())
        error = {"float32": 0, "bfloat16": 0.02, "uint8": max(span, 5) / 255}[store]
        assert (value - synset.state_dict()[name]).abs().max() <= error
    assert {"classes", "mean", "std", "frames", "size", "labels", "lr", "seed", "protocol", "store"} <= set(header)
    size = struct.unpack("<Q", path.read_bytes()[:8])[0] + 8      # the header of the format
    assert path.stat().st_size - size == storage_bytes(synset, store, SPEC)
    first = path.read_bytes()
    save_synset(path, synset, SPEC, store, method="DM", dataset="MotionDigits", seed=3, protocol="standard", lr=0.02)
    assert path.read_bytes() == first


@pytest.mark.parametrize("store", ["float32", "bfloat16", "uint8"])
def test_what_a_set_calls_exact_stays_so(store):
    class Exact(VideoSet):
        exact = ("rows", "index", "mask")

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_buffer("rows", torch.full((10, 10), 1 / 3, dtype=torch.float64))
            self.register_buffer("index", torch.arange(300, dtype=torch.int32))
            self.register_buffer("mask", torch.arange(8) % 2 == 0)

        @property
        def arguments(self):
            return super().arguments

    synset = filled(Exact(10, 1, SHAPE))
    stored = as_stored(synset, store, SPEC)
    for name in Exact.exact:
        before, after = synset.state_dict()[name], stored.state_dict()[name]
        assert torch.equal(before, after) and before.dtype == after.dtype


def test_storage_of_the_published_sizes():
    assert 120.3e6 < 4 * VideoSet(50, 1, (16, 3, 112, 112)).videos.numel() < 120.5e6      # 115 MiB
    s2d = StaticDynamicSet(50, 1, 2, 2, (16, 3, 112, 112))
    assert storage_bytes(s2d) == 4 * 50 * (2 * 3 + 2 * 16) * 112**2 + 4 * 327


def test_real_clips_stored_as_uint8_lose_nothing(digit_data):
    synset = VideoSet(10, 1, SHAPE)
    synset.videos.data = digit_data.train.random_clips(1, make()).flatten(0, 1)
    loaded = as_stored(synset, "uint8", SPEC)
    torch.testing.assert_close(loaded.videos, synset.videos, rtol=0, atol=1e-5)
    assert storage_bytes(synset, "uint8", SPEC) == 10 * 8 * 3 * 32 * 32 + 24


def test_a_set_that_diverged_does_not_replace_a_good_one(tmp_path):
    path, synset = tmp_path / "synset.safetensors", VideoSet(10, 1, SHAPE)
    save_synset(path, synset, SPEC)
    before = path.read_bytes()
    filled(synset).videos.data[3, 2, 1] = torch.nan
    with pytest.raises(ValueError, match="videos .*not finite.*learning rate"):
        save_synset(path, synset, SPEC)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_earlier_set(tmp_path, monkeypatch):
    path, synset = tmp_path / "synset.safetensors", VideoSet(10, 1, SHAPE)
    save_synset(path, synset, SPEC)
    before = path.read_bytes()

    def full(tensors, file, metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("distill_utils.tensors.save_file", full)
    with pytest.raises(OSError, match="no space left to write .*synset.safetensors"):
        save_synset(path, filled(synset), SPEC)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


HEADER = json.dumps({"__metadata__": {"header": "{"}}).encode()


@pytest.mark.parametrize("content", [b"", b"not a set", struct.pack("<Q", 2) + b"{}",
                                     struct.pack("<Q", len(HEADER)) + HEADER])
def test_a_file_that_is_no_set_is_named(tmp_path, content):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="other.safetensors is not a synthetic set"):
        load_synset(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no synthetic set at .*absent"):
        load_synset(tmp_path / "absent")


def changed(tmp_path, synset, change=None, tensors=None, spec=SPEC, **header):
    """The file of a set after its header or its tensors were changed by hand."""
    path = tmp_path / "synset.safetensors"
    save_synset(path, synset, spec, header.pop("saved_as", "float32"), method="DM", dataset="MotionDigits")
    with safe_open(path, framework="pt") as file:
        before = json.loads(file.metadata()["header"])
        content = {name: file.get_tensor(name) for name in file.keys()}      # noqa: SIM118 (no mapping)
    before |= header
    for name in (*(change or ()), "sum", "sums"):       # as one who writes a file for us would leave them out
        del before[name]
    save_file(content | (tensors or {}), path, metadata={"header": json.dumps(before)})
    return path


PIXELS, S2D = filled(VideoSet(10, 1, SHAPE)), filled(StaticDynamicSet(10, 1, 2, 2, SHAPE, n_hal=2))
COUNTS = {"num_classes": 10, "ipc": 1, "shape": list(SHAPE)}
PARTS = {"num_classes": 10, "vpc": 1, "spc": 2, "dpc": 2, "shape": list(SHAPE), "n_hal": 2, "hal_mode": "concat"}


@pytest.mark.parametrize("name", ["kind", "arguments", "classes", "mean", "std", "frames", "size", "labels", "store"])
@pytest.mark.parametrize("value", ["absent", None, True, [None], {"a": [1]}])
def test_a_header_without_an_entry_or_with_nonsense_in_it_is_refused(tmp_path, name, value):
    path = (changed(tmp_path, PIXELS, [name]) if value == "absent" else changed(tmp_path, PIXELS, **{name: value}))
    with pytest.raises(ValueError, match=f"(?s){path} is not a synthetic set .*{name}"):
        load_synset(path)


@pytest.mark.parametrize("header,message", [
    ({"kind": "Sequential"}, "not one of VideoSet"), ({"store": "gif"}, "there is no store"),
    ({"method": "../../x"}, "method of its header is more than letters"), ({"method": "/tmp/x"}, "method"),
    ({"method": "a b"}, "method"), ({"method": ""}, "method"), ({"method": "x" * 200}, "method"),
    ({"method": "DM\n"}, "method"), ({"method": 3}, "method"),
    ({"syn_lr": "high"}, "syn_lr"), ({"syn_lr": float("nan")}, "syn_lr"), ({"syn_lr": -1.0}, "syn_lr"),
    ({"classes": ["a"] * 10}, "10 classes.*a name of its own"), ({"classes": ["a", "b"]}, "lists 2 classes"),
    ({"labels": list(range(9))}, "labels of its header"), ({"labels": list(range(9, -1, -1))}, "labels of its header"),
    ({"frames": 16}, "says 16 frames"), ({"size": 64}, "of 64 pixels"), ({"mean": [0.5]}, "one mean and std"),
    ({"arguments": COUNTS | {"num_classes": 5}}, "its header lists 10 classes, and its tensors are of 5"),
    ({"arguments": COUNTS | {"num_classes": 5, "ipc": 2}}, "lists 10 classes, and its tensors are of 5"),
    *[({"arguments": COUNTS | {name: value}}, f"argument '{name}' of its header is not a count")
      for name in COUNTS for value in (-1, 0, True, 10 ** 30, 1.0, [[1]], {"a": 1})],
    ({"arguments": COUNTS | {"ipc": "1"}}, "build no VideoSet"), ({"arguments": COUNTS | {"shape": None}}, "build no"),
    ({"arguments": COUNTS | {"depth": 1}}, "build no VideoSet"), ({"arguments": {}}, "build no VideoSet")])
def test_a_header_that_its_tensors_contradict_is_refused(tmp_path, header, message):
    with pytest.raises(ValueError, match=f"(?s)is not a synthetic set .*{message}.*give the synset"):
        load_synset(changed(tmp_path, PIXELS, **header))


@pytest.mark.parametrize("arguments,message", [
    ({"n_hal": 10 ** 8}, "not a count"), ({"n_hal": 10 ** 5}, "n_hal 100000, and its tensors are of 2"),
    ({"n_hal": 1}, "n_hal 1, and"), ({"vpc": 2}, "labels of its header are not 2 of each class"),
    ({"vpc": 3}, "build no StaticDynamicSet"), ({"hal_mode": "mul"}, "hallucinators.0.conv.weight"),
    ({"hal_mode": ["a"]}, "hallucinators.0.conv.weight")])
def test_arguments_of_a_static_dynamic_set_agree_with_its_tensors(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_synset(changed(tmp_path, S2D, arguments=PARTS | arguments))


@pytest.mark.parametrize("store,tensors,message", [
    ("float32", {"videos": torch.full((10, *SHAPE), torch.nan)}, "videos holds values that are not finite"),
    ("float32", {"videos": PIXELS.videos.detach() * 1e37}, "videos holds values .*too large to train on"),
    ("float32", {"videos": PIXELS.videos.detach().double()}, "videos is torch.float64"),
    ("float32", {"videos": PIXELS.videos.detach().int()}, "videos is torch.int32"),
    ("float32", {"more": torch.zeros(1)}, "it has a tensor 'more'"),
    ("float32", {"videos.range": torch.zeros(2, 3)}, "'videos.range' is not the range of another"),
    ("bfloat16", {"videos": PIXELS.videos.detach()}, "not in the store that its header names, bfloat16"),
    ("uint8", {"videos": PIXELS.videos.detach()}, "not in the store that its header names, uint8"),
    ("uint8", {"videos.range": torch.zeros(2, 10 ** 5)}, "'videos.range' is not the range of another"),
    ("uint8", {"videos.range": torch.full((2, 3), torch.inf)}, "videos holds values that are not finite"),
    ("uint8", {"x.range": torch.zeros(2, 3)}, "'x.range' is not the range of another")])
def test_tensors_that_are_not_those_of_a_set_are_named(tmp_path, store, tensors, message):
    with pytest.raises(ValueError, match=message):
        load_synset(changed(tmp_path, PIXELS, tensors=tensors, saved_as=store))


@pytest.mark.parametrize("what", ["mean", "std"])
@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_set_of_another_normalisation_is_refused(tmp_path, what, value):
    header = load_synset(changed(tmp_path, PIXELS, **{what: [value] * 3}))[1]
    with pytest.raises(ValueError, match=f"was normalised with the {what} .*give the --dataset"):
        check_classes("x", header, SPEC)


def test_a_header_of_lists_in_lists_is_refused(tmp_path):
    save_file({"videos": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"header": "[" * 10 ** 5})
    with pytest.raises(ValueError, match="its header is not JSON"):
        load_synset(tmp_path / "x.safetensors")
    for text in ("[]", "3", "null"):
        save_file({"videos": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"header": text})
        with pytest.raises(ValueError, match="its header is no JSON object"):
            load_synset(tmp_path / "x.safetensors")


def test_a_path_that_is_no_readable_file_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=f"{tmp_path} is not .*it is a folder"):
        load_synset(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ValueError, match="pipe.safetensors is not .*no such file"):      # and not waited for
        load_synset(tmp_path / "pipe.safetensors")
    path = changed(tmp_path, PIXELS)

    def locked(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="synset.safetensors .*Permission denied"):
        patch.setattr("builtins.open", locked)
        load_synset(path)


def test_the_old_order_of_classes_is_named(tmp_path):
    swapped = replace(SPEC, classes=(SPEC.classes[1], SPEC.classes[0], *SPEC.classes[2:]))
    path = tmp_path / "x.safetensors"
    save_synset(path, ImageSet(10, 2, IMAGE), swapped, method="DC", dataset="MotionDigits")
    message = "x.safetensors has the classes of --dataset in another order .class 0 is ZeroDown, and now ZeroUp"
    with pytest.raises(ValueError, match=message):
        load_static(path, SPEC, 2)
    with pytest.raises(ValueError, match=message):
        load_fitting(path, SPEC)


def test_only_a_set_that_names_its_method_is_scored(tmp_path):
    with pytest.raises(ValueError, match="names no method"):
        load_fitting(changed(tmp_path, PIXELS, ["method"]), SPEC)


# ---- static memory of others ------------------------------------------------------------------------------------

def test_static_memory_is_read_from_our_sets_and_from_pt_files(tmp_path):
    images = torch.randn(20, *IMAGE)
    torch.save({"image": images, "label": torch.arange(10).repeat_interleave(2)}, tmp_path / "static.pt")
    assert torch.equal(load_static(tmp_path / "static.pt", SPEC, 2), images)
    synset = ImageSet(10, 2, IMAGE)
    synset.static.data = images
    save_synset(tmp_path / "static.safetensors", synset, SPEC)
    assert torch.equal(load_static(tmp_path / "static.safetensors", SPEC, 2), images)


class Evil:
    def __reduce__(self):
        return print, ("ran code of the file",)


@pytest.mark.parametrize("content,message", [
    ({"image": torch.zeros(10, *IMAGE)}, r"shape \(10, 3, 32, 32\).*needs \(20, 3, 32, 32\).*--spc"),
    ({"image": torch.zeros(20, 3, 64, 64)}, r"needs \(20, 3, 32, 32\)"),
    ({"images": torch.zeros(20, *IMAGE)}, 'has no images: .*the key "image"'),
    ([torch.zeros(20, *IMAGE)], 'has no images'),
    ({"image": [0.0]}, "is a list where a tensor is needed"),
    ({"image": torch.full((20, *IMAGE), torch.nan)}, "not finite"),
    ({"image": Evil()}, "plain tensors"),
])
def test_a_static_file_that_does_not_fit_is_named(tmp_path, content, message, capsys):
    torch.save(content, tmp_path / "static.pt")
    with pytest.raises(ValueError, match=f"static.pt .*{message}"):
        load_static(tmp_path / "static.pt", SPEC, 2)
    assert "ran code" not in capsys.readouterr().out


def test_a_static_set_of_another_kind_or_other_classes_is_named(tmp_path):
    save_synset(tmp_path / "videos.safetensors", VideoSet(10, 2, SHAPE), SPEC)
    with pytest.raises(ValueError, match="holds a VideoSet"):
        load_static(tmp_path / "videos.safetensors", SPEC, 2)
    save_synset(tmp_path / "static.safetensors", ImageSet(50, 2, (3, 32, 32)), get_spec("miniUCF101", im_size=32))
    with pytest.raises(ValueError, match="other classes"):
        load_static(tmp_path / "static.safetensors", SPEC, 2)
    with pytest.raises(ValueError, match="no static memory at"):
        load_static(tmp_path / "absent.pt", SPEC, 2)


def test_a_static_set_of_another_size_or_with_values_of_others_is_named(tmp_path):
    path = tmp_path / "static.safetensors"
    save_synset(path, ImageSet(10, 2, IMAGE), SPEC)
    with pytest.raises(ValueError, match=r"shape \(20, 3, 32, 32\), but --dataset needs \(30, 3, 32, 32\).*--spc"):
        load_static(path, SPEC, 3)
    with pytest.raises(ValueError, match="--values unit is of .pt files, and --path_static .* says itself"):
        load_static(path, SPEC, 2, "unit")
