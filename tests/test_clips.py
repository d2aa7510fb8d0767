"""The decoded-once cache, the views of it and the sampler by class: never half a file, nothing random at test."""
import errno
import json
import multiprocessing
import os
import pickle
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import uint8
from distill_utils import clips as module
from distill_utils.clips import ClassSampler, Clips, FrameFile, cached_frames, change_of, decode, normalise
from distill_utils.dataset import DataError, FrameFolder
from test_dataset import CLIPS, ROWS, SPEC, centre_clip, generator, make_tree, write_clip, write_split
from test_files import fork, hang, killed_at


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path)


def load(path, spec=SPEC, split="train", cache="cache", **kwargs):
    folder = FrameFolder(spec, path, split)
    return Clips(folder, cached_frames(folder, path / cache, **kwargs))


def caches(path):
    return sorted(name for name in os.listdir(path / "cache") if not name.endswith(".lock"))


def all_frames(clips):
    return clips.frames[np.arange(len(clips.frames))]


def no_decoding(*args):
    raise AssertionError("decoded again")


def frames_of(samples):
    """(frame numbers, columns, clip numbers) that write_clip wrote into the colours."""
    return samples[..., 0, 0, 0], samples[..., 1, 0, :], samples[..., 2, 0, 0]


# ---- decoding -------------------------------------------------------------------------------------------------------

def test_values_are_those_of_the_files(digits, digit_data):
    folder = FrameFolder(digit_data.spec, digits, "test")
    for clip in (0, 17, 419):
        for frame, file in zip(digit_data.test.frames[12 * clip + np.arange(12)], folder.files[clip], strict=True):
            with Image.open(file) as image:
                assert abs(frame.transpose(1, 2, 0).astype(int) - np.asarray(image)).max() <= 3


@pytest.mark.parametrize("kind, error", [("png", 2), ("jpg", 12)])
@pytest.mark.parametrize("stored, size, resized, corner", [
    ((320, 240), 112, (160, 120), (24, 4)), ((240, 320), 112, (120, 160), (4, 24)), ((64, 64), 32, (32, 32), (0, 0)),
    ((80, 60), 112, (160, 120), (24, 4)), ((32, 32), 32, (32, 32), (0, 0))])
def test_frames_of_another_size_are_resized_and_cut(tmp_path, kind, error, stored, size, resized, corner):
    width, height = stored
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    image = Image.fromarray((255 * np.stack([x, y, (np.sin(6 * x) * y) ** 2], -1)).astype(np.uint8))
    image.save(tmp_path / f"x.{kind}", quality=95, subsampling=0)
    box = (*corner, corner[0] + size, corner[1] + size)
    wanted = np.asarray(image.resize(resized, Image.Resampling.BILINEAR).crop(box)).transpose(2, 0, 1)
    ours = decode(tmp_path / f"x.{kind}", size)
    assert ours.shape == (3, size, size) and ours.dtype == torch.uint8
    assert abs(ours.numpy().astype(int) - wanted).max() <= error


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("damage", [
    lambda whole: b"", lambda whole: b"not a picture", lambda whole: whole[:len(whole) // 2], lambda whole: whole[:-20],
    lambda whole: whole[:len(whole) // 2] + bytes(len(whole) - len(whole) // 2), lambda whole: bytes(len(whole))],
    ids=["empty", "text", "half", "tail", "half zeros", "zeros"])
def test_a_damaged_frame_is_named_and_leaves_no_cache(tree, kind, damage):
    file = tree / "Set" / "img" / "Down_train_1" / "frame4.png"
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).save(file, kind)
    load(tree, replace(SPEC, stride=1), cache="other")       # the undamaged frame is read
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"cannot read the frame .*Down_train_1/frame4\.png .*extract its clip again"):
        load(tree, replace(SPEC, stride=1))
    assert caches(tree) == []


def test_all_damaged_frames_are_counted_and_the_first_ones_named(tree):
    for name in ("Down_train_1", "Up_train_1"):
        for frame in (1, 2, 3):
            (tree / "Set" / "img" / name / f"frame{frame}.png").write_bytes(b"")
    names = "(?s)^6 of .* frames cannot be read.*Down_train_1/frame1.*Up_train_1/frame2"
    with pytest.raises(DataError, match=names) as bad:
        load(tree, replace(SPEC, stride=1))
    assert str(bad.value).count("cannot read the frame") == 5


# ---- the cache ------------------------------------------------------------------------------------------------------

def test_two_trees_share_a_cache_folder(tmp_path):
    for name in "ab":
        make_tree(tmp_path / name)
    made = {name: load(tmp_path / name, cache="../cache").cache for name in "ab"}
    assert made["a"] != made["b"] and load(tmp_path / "a", cache="../cache").cache == made["a"]
    assert all(os.path.isfile(file) for file in made.values())


def test_decoded_once_and_shared(tree, monkeypatch):
    first = load(tree)
    monkeypatch.setattr(module, "decode", no_decoding)
    for view in ("clip", "single", "static"):
        again = load(tree, replace(SPEC, view=view))
        assert type(again.frames) is FrameFile and (all_frames(again) == all_frames(first)).all()
        assert again.cache == first.cache and all_frames(again).dtype == np.uint8
    preloaded = load(tree, preload=True)
    assert type(preloaded.frames) is np.ndarray and preloaded.frames.dtype == np.uint8
    assert uint8(preloaded, [0, 4], generator()).equal(uint8(first, [0, 4], generator()))
    assert len(caches(tree)) == 1 and first.frames.shape == (6 * 5, 3, 8, 8)
    assert all_frames(first)[:, 2, 0, 0].tolist() == [list(CLIPS).index(name) for name in first.names for _ in range(5)]


def change_bytes(path):
    file = path / "Set" / "img" / "Up_train_0" / "frame4.png"
    content = Image.open(file).convert("RGB")
    file.unlink()
    Image.eval(content, lambda value: 255 - value).save(file)


def change_split(path):
    write_split(path / "Set" / "set.csv", [row for row in ROWS if row[0] != "Up_train_1"])


def change_frames(path):
    for number in (11, 12):
        Image.new("RGB", (8, 8)).save(path / "Set" / "img" / "Up_train_0" / f"frame{number}.png")


def change_order(path):     # a clip takes the name and the frames of another, with the sizes and times of its files
    (path / "Set" / "img" / "Up_train_0").rename(path / "Set" / "img" / "aside")
    (path / "Set" / "img" / "Up_train_1").rename(path / "Set" / "img" / "Up_train_0")
    (path / "Set" / "img" / "aside").rename(path / "Set" / "img" / "Up_train_1")


def change_in_secret(path):     # other pixels, of as many bytes, and the time of change set back
    file = path / "Set" / "img" / "Up_train_0" / "frame4.png"
    before = file.stat()
    change_bytes(path)
    content = file.read_bytes()
    assert len(content) == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [change_bytes, change_split, change_frames, change_order, change_in_secret])
def test_rebuilt_when_the_data_change(tree, change):
    before, test = load(tree), load(tree, split="test")
    old = caches(tree)
    change(tree)
    after = load(tree)
    new = caches(tree)
    assert len(new) == 2 and len(set(new) - set(old)) == 1 and os.path.basename(test.cache) in new
    fresh = load(tree, cache="fresh")
    assert (all_frames(after) == all_frames(fresh)).all()
    assert not np.array_equal(all_frames(after), all_frames(before))      # who holds the old one reads on


@pytest.mark.parametrize("change", [{"size": 6}, {"frames": 3}, {"stride": 1}])
def test_another_size_or_length_has_a_cache_of_its_own(tree, monkeypatch, change):
    load(tree)
    other = load(tree, replace(SPEC, **change))
    assert uint8(other, [0]).shape == (1, *replace(SPEC, **change).shape) and len(caches(tree)) == 2
    monkeypatch.setattr(module, "decode", no_decoding)
    load(tree), load(tree, replace(SPEC, **change))


def test_two_processes_at_once(tree, monkeypatch):
    barrier = multiprocessing.get_context("fork").Barrier(2)

    def counted(file, size, content):
        with open(tree / "log", "a") as log:
            log.write(".")
        return decode(file, size)

    def build(number):
        barrier.wait(30)
        np.save(tree / f"seen{number}.npy", all_frames(load(tree)))

    monkeypatch.setattr(module, "decode", counted)
    builders = [fork(build, number) for number in range(2)]
    for builder in builders:
        builder.join(60)
        assert builder.exitcode == 0
    wanted = all_frames(load(tree, cache="alone"))
    assert all((np.load(tree / f"seen{number}.npy") == wanted).all() for number in range(2))
    assert len(caches(tree)) == 1 and len((tree / "log").read_text()) == 2 * len(wanted)     # by one of them, and alone


def test_a_killed_build_leaves_nothing_that_counts(tree, monkeypatch):
    last = FrameFolder(SPEC, tree, "train").files[-1][-1]

    def slow(file, size, content):
        return hang(tree / "marker") if file == last else decode(file, size)

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode", slow)
        killed_at(tree / "marker", load, tree)
    left = caches(tree)
    assert len(left) == 1 and ".npy.tmp-" in left[0]
    (tree / "Set" / "img" / "Up_train_0" / "frame4.png").touch()     # the next build has another digest
    assert (all_frames(load(tree)) == all_frames(load(tree, cache="alone"))).all()
    assert len(caches(tree)) == 1 and caches(tree)[0].endswith(".npy")


def test_a_full_disk_names_the_file_and_keeps_earlier_caches(tree, monkeypatch):
    load(tree, split="test")
    load(tree)
    earlier = {name: (tree / "cache" / name).read_bytes() for name in caches(tree)}
    change_frames(tree)
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", lambda *args: (_ for _ in ()).throw(full))
        with pytest.raises(OSError, match=r"no space left .*set-train-4x2x8-\w+-\w+\.npy .*--cache_path"):
            load(tree)
    assert {name: (tree / "cache" / name).read_bytes() for name in caches(tree)} == earlier


# ---- damage -------------------------------------------------------------------------------------------------------

def damaged(clips, frame):
    """Flips a bit of a frame in the cache of these clips."""
    path, size = clips.cache, clips.frames.frame_bytes
    content = bytearray(path.read_bytes())
    content[clips.frames.offset + frame * size + size // 2] ^= 8
    path.write_bytes(content)


def test_a_damaged_frame_of_the_cache_is_found_when_it_is_read_and_the_cache_made_again(tree):
    whole = load(tree)
    damaged(whole, 7)       # of clip 1
    clips = load(tree)
    assert clips.get([0, 2]).equal(whole.get([0, 2]))       # in frames that nobody reads it does no harm
    with pytest.raises(DataError, match=r"cache.*\.npy was damaged: frame 7 .*removed.*same command"):
        clips.get([0, 1])
    assert caches(tree) == [] and load(tree).get([0, 1]).equal(load(tree, cache="fresh").get([0, 1]))


def test_damage_is_found_when_all_frames_are_loaded_at_once_and_a_frame_is_compared_once(tree, monkeypatch):
    clips, calls, crc32 = load(tree), [], module.zlib.crc32
    monkeypatch.setattr(module.zlib, "crc32", lambda *args: calls.append(1) or crc32(*args))
    for _ in range(2):
        clips.get([0, 1, 2])
    assert len(calls) == 3 * SPEC.frames
    damaged(clips, 29)
    with pytest.raises(DataError, match="frame 29 "):
        load(tree, preload=True)
    assert load(tree, preload=True).get([5]).equal(load(tree, cache="fresh").get([5]))


def test_damage_is_found_when_frames_are_brought_to_a_device(tree):
    damaged(load(tree), 29)
    folder = FrameFolder(SPEC, tree, "train")
    clips = Clips(folder, cached_frames(folder, tree / "cache"), "device")
    with pytest.raises(DataError, match="frame 29 "):       # all are brought there, whichever are asked for
        clips.read(*clips.sample_frames([0]), device="meta")


def test_a_cache_that_is_cut_short_while_it_is_in_use_ends_in_an_error_and_not_in_a_signal(tree):
    clips = load(tree)
    clips.get([0, 1, 2, 3, 4, 5])
    os.truncate(clips.cache, 300)
    with pytest.raises(DataError, match=r"npy was cut short while it was in use.*--resume"):
        clips.get([5])
    assert load(tree).get([5]).shape[0] == 1        # made again


@pytest.mark.parametrize("content", [b"", b"not a cache", "short", "shape", "long", "sums", "head"])
def test_a_cache_that_is_not_whole_is_named_and_made_again(tree, capsys, content):
    clips = load(tree)
    whole = clips.cache.read_bytes()
    other = {"head": whole[:8] + bytes([whole[8] ^ 0x40]) + whole[9:],
             "short": whole[:-5], "long": whole + b"x", "shape": whole.replace(b"(30, 3, 8, 8)", b"(15, 6, 8, 8)"),
             "sums": whole[:-99] + bytes([whole[-99] ^ 1]) + whole[-98:]}
    clips.cache.write_bytes(other.get(content, content))
    assert load(tree).get([0]).equal(load(tree, cache="fresh").get([0])) and clips.cache.read_bytes() == whole
    assert f"{clips.cache} is damaged and is made again" in capsys.readouterr().err


def test_a_cache_is_found_by_another_path(tree, tmp_path_factory, monkeypatch):
    """Where it may lie read-only: the frames are the same files."""
    before = load(tree)
    other = tmp_path_factory.mktemp("mount") / "data"
    other.symlink_to(tree)
    monkeypatch.setattr(module, "locked", None)
    monkeypatch.setattr(Path, "resolve", lambda self: self)     # as another mount has another path
    assert load(other).cache.name == before.cache.name


# ---- identity -----------------------------------------------------------------------------------------------------

def test_clips_are_the_same_wherever_they_lie_and_whatever_decodes_them(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(tree / "Set", elsewhere / "Set")
    for file in (elsewhere / "Set").rglob("*.png"):
        file.touch()
    here, there = load(tree), load(elsewhere)
    assert here.identity() == there.identity() and here.content() == there.content()
    there.sums = there.sums ^ 1       # another decoder gives other pixels
    assert here.identity() == there.identity() and here.content() != there.content()


def exchange_labels(path):
    other = {"Up": "Down", "Down": "Up"}
    write_split(path / "Set" / "set.csv", [(name, other.get(label, label), split) for name, label, split in ROWS])


@pytest.mark.parametrize(("change", "said"), [
    (change_bytes, "the train clips have other frames"), (change_frames, "the train clips have other frames"),
    (change_order, "the train clips have other frames"),
    (change_split, "6 train clips then, 5 now"), (exchange_labels, "other labels (or classes)")])
def test_a_change_of_the_clips_is_told(tree, change, said):
    before = load(tree).identity()
    json.dumps(before)
    change(tree)
    after = load(tree).identity()
    assert change_of(before, before) == "" and said in change_of(before, after)


def test_the_same_frames_cut_into_other_clips_are_others(tree):
    clips = load(tree)
    other = copy(clips)
    other.counts = clips.counts + [1, -1, 0, 0, 0, 0]
    assert "other frames" in change_of(clips.identity(), other.identity())


def test_another_view_of_the_clips_is_another_identity(tree):
    before = load(tree).identity()
    for change in ({"size": 6}, {"frames": 3}, {"view": "single"}, {"flip": not SPEC.flip}, {"mean": (0, 0, 0)}):
        assert "other length, size or view" in change_of(before, load(tree, replace(SPEC, **change)).identity()), change


# ---- views ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Clips of very different lengths: the published 16 frames, 4 apart."""
    path = tmp_path_factory.mktemp("many")
    lengths = [1, 2, 15, 16, 17, 31, 100]
    spec = replace(SPEC, frames=16, stride=4)
    rows = []
    for i, length in enumerate(lengths):
        rows.append((f"clip{i}", SPEC.classes[i % 3], "train"))
        write_clip(path / "Set" / "img" / f"clip{i}", range(length), i)
    for label in SPEC.classes:
        write_clip(path / "Set" / "img" / label, range(16))
    write_split(path / "Set" / "set.csv", [*rows, *((label, label, "test") for label in SPEC.classes)])
    return load(path, spec), lengths


def test_the_test_view_is_the_exact_centre_clip(many):
    clips, lengths = many
    numbers, columns, blue = frames_of(uint8(clips, range(7)))
    assert numbers.tolist() == [centre_clip(length, 16, 4)[0] for length in lengths]
    assert (columns == torch.arange(8)).all() and (blue == torch.arange(7)[:, None]).all()


def load_view(clips, view):
    other = copy(clips)
    other.spec = replace(clips.spec, view=view)
    return other


@pytest.mark.parametrize("view", ["clip", "single", "static"])
def test_nothing_random_at_test_and_nothing_global_in_training(many, view):
    clips = load_view(many[0], view)
    torch.manual_seed(1)
    first, state = clips.get(range(7)), torch.get_rng_state()
    trained = clips.get(range(7), generator(5))
    ClassSampler(clips).sample([0, 1], 3, generator()), clips.random_clips(2, generator())
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(2)
    assert clips.get(range(7)).equal(first) and clips.get(range(7), generator(5)).equal(trained)
    assert not clips.get(range(7), generator(6)).equal(trained)
    assert first.shape == (7, *clips.spec.shape) and first.dtype == torch.float32
    assert clips.labels.dtype == torch.long and clips.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_start_and_flip_are_one_draw_for_all_frames(many):
    random, seen = generator(), set()
    for _ in range(60):
        numbers, columns, blue = frames_of(uint8(many[0], [6, 5, 4], random))
        steps = numbers.long().diff(dim=1)
        assert (steps == torch.tensor([4, 2, 1])[:, None]).all() and (blue == torch.tensor([6, 5, 4])[:, None]).all()
        flipped = columns[:, 0, 0] == 7
        wanted = torch.where(flipped[:, None, None], torch.arange(7, -1, -1), torch.arange(8))
        assert (columns == wanted).all()
        seen |= {(clip, int(numbers[clip, 0]), bool(flipped[clip])) for clip in range(3)}
    starts = [range(3, 40, 4)[:10], [0], [0, 1]]
    assert {(clip, start) for clip, start, _ in seen} == {(c, s) for c in range(3) for s in starts[c]}
    assert {(clip, flip) for clip, _, flip in seen} == {(c, f) for c in range(3) for f in (False, True)}


def test_single_and_static_frames_from_their_segment(many):
    for segment, numbers in (((0, 1), range(3, 100, 4)), ((0, 2), range(3, 48, 4)), ((2, 3), range(67, 100, 4))):
        single, static = (load_view(many[0], view) for view in ("single", "static"))
        drawn = frames_of(uint8(single, [6] * 300, generator(), segment))[0]
        assert set(drawn.tolist()) == set(numbers)
        assert uint8(static, [6] * 300, generator(), segment).equal(
            uint8(single, [6] * 300, generator(), segment)[:, None].expand(-1, 16, -1, -1, -1))
        assert uint8(single, [6], segment=segment).shape == (1, 3, 8, 8)


def test_normalise_against_the_formula(many):
    clip = uint8(many[0], [6])
    floats = normalise(clip, SPEC)
    for channel in range(3):
        wanted = (clip[:, :, channel].double() / 255 - SPEC.mean[channel]) / SPEC.std[channel]
        assert torch.allclose(floats[:, :, channel].double(), wanted, atol=1e-6)


# ---- the sampler by class -------------------------------------------------------------------------------------------

def clip_numbers(samples):
    """The clip that each normalised sample (..., C, H, W) shows."""
    return (255 * (samples[..., 2, 0, 0] * SPEC.std[2] + SPEC.mean[2])).round().long()


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_draws_by_class_without_repeats(tree, n):
    clips = load(tree)
    classes = [2, 0, 1]
    for seed in range(10):
        drawn = ClassSampler(clips).sample(classes, n, generator(seed))
        assert drawn.shape == (3, n, *SPEC.shape)
        numbers = clip_numbers(drawn)
        assert (numbers == numbers[:, :, :1]).all()
        for k, row in zip(classes, numbers[:, :, 0].tolist(), strict=True):
            names = [list(CLIPS)[number] for number in row]
            assert [SPEC.classes[k].lower()] * n == [CLIPS[name][0].lower() for name in names]
            times = [names.count(name) for name in clips.names if CLIPS[name][0].lower() == SPEC.classes[k].lower()]
            assert sum(times) == n and max(times) - min(times) <= 1
    started = clips.random_clips(2, generator())
    assert started.shape == (3, 2, *SPEC.shape)
    for k in range(3):      # two clips a class: both, in the test view
        members = [i for i in range(6) if clips.labels[i] == k]
        assert any(started[k].equal(clips.get(order)) for order in (members, members[::-1]))
    with pytest.raises(ValueError, match="cannot take 3 clips of each class: Up has 2: lower --ipc"):
        clips.random_clips(3, generator())


def test_how_classes_are_cut_into_calls_changes_nothing(tree):
    sampler = ClassSampler(load(tree))
    together, random = sampler.sample([0, 1, 2], 5, generator()), generator()
    assert torch.cat([sampler.sample([0, 1], 5, random), sampler.sample([2], 5, random)]).equal(together)
    assert not sampler.sample([0, 1, 2], 5, random).equal(together)


def test_only_the_drawn_clips_become_floats(digit_data, monkeypatch):
    sizes = []
    monkeypatch.setattr(module, "normalise", lambda clips, spec: sizes.append(clips.numel()) or normalise(clips, spec))
    ClassSampler(digit_data.train).sample([3, 7], 5, generator())
    assert sum(sizes) == 2 * 5 * 8 * 3 * 32 * 32
    assert type(digit_data.train.frames) is FrameFile
    if os.path.exists("/proc/self/maps"):       # what is mapped counts as memory of the process, until all of it does
        assert ".npy" not in Path("/proc/self/maps").read_text()


def test_frames_of_a_cache_come_in_any_order_and_over_the_most_that_one_read_gives(tree, monkeypatch):
    clips = load(tree)
    whole, rows = all_frames(clips), np.array([[3, 4, 5], [29, 0, 0], [7, 6, 8]])
    reads, file = [], clips.frames.file
    monkeypatch.setattr(clips.frames, "file", SimpleNamespace(
        seek=file.seek, readinto=lambda part: reads.append(len(part)) or file.readinto(part[:100])))
    assert (clips.frames[rows] == whole[rows]).all() and (clips.frames[rows[:, :0]] == whole[rows[:, :0]]).all()
    size = clips.frames.frame_bytes
    assert reads[0] == 3 * size and len(reads) > 9 * size // 100        # frames in a row are one read


def test_frames_of_a_cache_are_those_that_it_has_and_another_process_may_read_them(tree):
    frames, rows = load(tree).frames, np.array([2, 0])
    for beyond in (-1, len(frames)):        # behind them lie check sums
        with pytest.raises(IndexError, match=f"{beyond} are asked for, of 30|{beyond} to"):
            frames[np.array([beyond])]
    assert (pickle.loads(pickle.dumps(frames))[rows] == frames[rows]).all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("seen", ["clip", "part", "single", "static"])
def test_what_is_skipped_leaves_the_generator_as_what_is_sampled(seen, flip, tree):
    clips = load(tree, replace(SPEC, flip=flip, view="clip" if seen == "part" else seen))
    sampler = ClassSampler(clips.within_clips(2) if seen == "part" else clips)
    for n in (1, 2, 7, 40):         # more than a class has
        drawn, skipped = generator(), generator()
        sampler.sample([0, 2], n, drawn, segment=(1, 2) if seen in ("part", "single") else (0, 1))
        sampler.skip([0, 2], n, skipped)
        assert torch.rand(3, generator=drawn).equal(torch.rand(3, generator=skipped))
