"""Held-back training clips: which they are, and that nothing else sees them."""
import json

import numpy as np
import pytest
import torch

import utils
from conftest import NET
from distill_utils.bank import Bank
from distill_utils.holdout import held_back
from distill_utils.splits import DataError
from distill_utils.synset import load_synset
from runs import make_experts


def names_of(classes, groups, clips):
    return [f"v_{label}_g{g:02d}_c{c:02d}" for label in classes for g in groups for c in range(1, clips + 1)]


def test_whole_groups_are_held_back_the_same_for_all_classes():
    classes = ("Archery", "Bowling")
    names = names_of(classes, range(8, 26), 3)
    labels = np.repeat([0, 1], 54)
    held = held_back(names, labels, 0.2, classes)
    groups = [{name[-7:-4] for name in np.array(names)[labels == k][held[labels == k]]} for k in (0, 1)]
    assert held.sum() == 2 * 12 and len(groups[0]) == 4 and groups[0] == groups[1]      # nearest to 0.2 * 18 = 3.6
    assert np.array_equal(held, held_back(names, labels, 0.2, classes))
    shuffled = np.random.default_rng(0).permutation(len(names))
    again = held_back([names[i] for i in shuffled], labels[shuffled], 0.2, classes)
    assert np.array_equal(again, held[shuffled])
    assert held_back(names, labels, 0.5, classes).sum() == 54


@pytest.mark.parametrize("names,together", [
    (["April_09_brush_hair_u_nm_np1_ba_goo_0", "April_09_brush_hair_u_nm_np1_ba_goo_1", "other_h_cm_np2_le_bad_0"], 2),
    (["abcdefghijk_000001_000011", "abcdefghijk_000050_000060", "bbcdefghijk_000001_000011"], 2),
    (["brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0", "brush_hair/April_09_brush_hair_f_cm_np1_fr_med_1", "x"], 2),
    (["12345", "12346", "12347"], 1)])
def test_recordings_by_the_names_of_other_data_sets(names, together):
    for share in (0.3, 0.4, 0.7):
        held = held_back(names, np.zeros(3, int), share, ("a",))
        assert held[0] == held[1] or together == 1
        assert 0 < held.sum() < 3


def test_a_class_of_one_recording_is_named():
    with pytest.raises(DataError, match="--holdout 0.2 would leave Bowling without a training clip: all of its 5"):
        held_back(names_of(("Archery",), (8, 9), 3) + names_of(("Bowling",), (8,), 5), np.repeat([0, 1], [6, 5]), 0.2,
                  ("Archery", "Bowling"))


@pytest.fixture(scope="module")
def halves(few_digits):
    return utils.get_dataset("MotionDigits", few_digits), utils.get_dataset("MotionDigits", few_digits, holdout=0.5)


def test_the_training_clips_are_divided_and_the_test_clips_not_read(halves, few_digits, monkeypatch):
    whole, part = halves
    assert sorted(part.train.names + part.test.names) == sorted(whole.train.names)
    assert {name[-7:-4] for name in part.train.names}.isdisjoint({name[-7:-4] for name in part.test.names})
    where = {name: i for i, name in enumerate(whole.train.names)}
    for clips in (part.train, part.test):
        chosen = [where[name] for name in clips.names]
        assert torch.equal(clips.get(range(len(clips))), whole.train.get(chosen))
        assert torch.equal(clips.labels, whole.train.labels[chosen])
    ids = [clips.identity() for clips in (whole.train, part.train, part.test)]
    assert len({clips["stored"] for clips in ids}) == len({clips["names"] for clips in ids}) == 3
    assert len({clips.content() for clips in (whole.train, part.train, part.test)}) == 3
    assert part.train.cache == whole.train.cache        # one cache for both
    monkeypatch.setattr(utils, "cached_frames", lambda folder, *rest: (
        pytest.fail("the test clips were read") if folder.split == "test" else cached(folder, *rest)))
    utils.get_dataset("MotionDigits", few_digits, holdout=0.5)


cached = utils.cached_frames


def test_a_part_is_the_clips_that_a_data_set_of_these_alone_has(halves, few_digits, tmp_path):
    _, part = halves
    rows = [(name, "train") for name in part.train.names] + [(name, "test") for name in part.test.names]
    file = tmp_path / "split.csv"
    file.write_text("folder_name,label,split\n" + "".join(f"{name},{name[2:-8]},{split}\n" for name, split in rows))
    alone = utils.get_dataset("MotionDigits", few_digits, tmp_path, split_file=str(file))
    for ours, theirs in ((part.train, alone.train), (part.test, alone.test)):
        ours, theirs = (clips.identity() for clips in (ours, theirs))
        assert {key: value for key, value in ours.items() if key != "split"} == {
            key: value for key, value in theirs.items() if key != "split"}


def test_banks_experts_and_runs_with_and_without_are_told_apart(halves, script, few_digits, tmp_path, monkeypatch):
    whole, part = halves
    assert Bank(tmp_path, whole.train, 1).folder != Bank(tmp_path, part.train, 1).folder
    experts = make_experts(few_digits, tmp_path / "buffers", holdout=0.5, num_experts=1)
    assert (experts / "MotionDigits_holdout0.5" / NET / "expert_0000.safetensors").is_file()
    result = json.loads((script("MTT", "held", holdout=0.5, buffer_path=experts) / "result.json").read_text())
    assert result["holdout"] == 0.5
    script("DM", "held", holdout=0.5)
    with pytest.raises(ValueError, match="is of other clips than --dataset has"):
        script("MTT", "mixed", buffer_path=experts / "MotionDigits_holdout0.5" / NET)
    with pytest.raises(ValueError, match="--holdout was 0.5 and is now None"):
        script("DM", "held", "--resume")
    header = load_synset(tmp_path / "DM" / "held" / "synset.safetensors")[1]
    assert header["clips"]["count"] == len(part.train)


def test_networks_are_tested_on_the_held_back_clips(halves, script, monkeypatch):
    seen = []
    original = utils.evaluate
    monkeypatch.setattr(utils, "evaluate", lambda network, clips, *a, **k: (
        seen.append(clips.names), original(network, clips, *a, **k))[1])
    script("DM", "held", holdout=0.5)
    assert seen and all(names == halves[1].test.names for names in seen)


def test_a_set_that_may_have_seen_the_held_back_clips_is_not_scored_on_them(script):
    whole, held = (script("DM", name, **flags) / "synset.safetensors" for name, flags in (
        ("whole", {}), ("held", {"holdout": 0.5})))
    script("score", "fine", synset=held, holdout=0.5)
    with pytest.raises(ValueError, match="was made of other clips than those that --holdout 0.5 leaves for training"):
        script("score", "flattered", synset=whole, holdout=0.5)


def test_a_static_memory_that_may_have_seen_them_is_refused(script):
    for name, flags in (("whole", {}), ("held", {"holdout": 0.5})):
        script("DC", name, **flags)
    folder = script("DC", "whole2").parent
    flags = {"spc": 2, "vpc": 1, "holdout": 0.5}
    script("S2D-DM", "fine", path_static=folder / "held" / "synset.safetensors", **flags)
    with pytest.raises(ValueError, match="was made of other clips than --holdout leaves"):
        script("S2D-DM", "leak", path_static=folder / "whole" / "synset.safetensors", **flags)
